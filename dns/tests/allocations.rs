//! Answering takes no memory: whatever is asked most, in either path, nothing is allocated.

mod sample;
mod serve;

use hickory_proto::rr::RecordType;
use nett_dns::{Ask, Outcome, Transport, answer, answer_from_prepared, answer_in_full};

use serve::query;

#[test]
fn no_answer_of_the_usual_kinds_allocates() {
    let zone = serve::zone(1);
    let mut out = Vec::with_capacity(1 << 16);
    let profile = &serve::profile();
    let full = [
        ("api.prod.shop", RecordType::A),
        ("api.prod.shop", RecordType::AAAA),
        ("ramp.prod.shop", RecordType::A),
        ("near.prod.shop", RecordType::A),
        ("refuse.prod.shop", RecordType::A),
        ("fallback.prod.shop", RecordType::A),
        ("api.prod.shop", RecordType::MX),
        ("nope.prod.shop", RecordType::A),
        ("prod.shop", RecordType::A),
    ];
    for (name, kind) in full {
        for payload in [None, Some(1232)] {
            let packet = query(&format!("{name}.steer.example"), kind, payload);
            let source = sample::ip("10.1.0.1");
            let ask = Ask { packet: &packet, source, transport: Transport::Udp, now: 1, profile };
            let mut count = |answer: &dyn Fn(&mut Vec<u8>) -> Option<Outcome>| {
                let mut answered = None;
                let used = allocation_counter::measure(|| answered = answer(&mut out));
                let replied = matches!(answered, Some(Outcome::Reply { truncated: false, .. }));
                assert!(replied, "{name} {kind}: {answered:?}");
                used.count_total
            };
            let prepared = count(&|out| answer_from_prepared(&zone, &ask, out));
            let either = count(&|out| Some(answer(&zone, &ask, out)));
            let full = count(&|out| Some(answer_in_full(&zone, &ask, out)));
            assert_eq!((prepared, either, full), (0, 0, 0), "{name} {kind} {payload:?}");
        }
    }
    // What is not prepared takes no memory either.
    let unprepared = [
        ("api.prod.shop.", RecordType::TXT),
        ("api.prod.shop.", RecordType::ANY),
        ("all.site.api.prod.shop.", RecordType::A),
        ("osl.site.api.prod.shop.", RecordType::TXT),
        ("reflect.", RecordType::TXT),
        ("ns1.", RecordType::A),
        ("", RecordType::SOA),
    ];
    let source = sample::ip("10.1.0.1");
    for (name, kind) in unprepared {
        let packet = query(&format!("{name}steer.example"), kind, Some(1232));
        let ask = Ask { packet: &packet, source, transport: Transport::Udp, now: 1, profile };
        assert_eq!(answer_from_prepared(&zone, &ask, &mut out), None, "{name} {kind}");
        let used = allocation_counter::measure(|| {
            answer(&zone, &ask, &mut out);
        });
        assert_eq!(used.count_total, 0, "{name} {kind}");
    }
    // The counter counts: a message that must be copied is seen.
    let packet = vec![0; 12];
    assert_eq!(allocation_counter::measure(|| drop(packet.clone())).count_total, 1);
}
