//! Every parser of the name server against changed inputs; `make fuzz` runs it long.

mod sample;
mod serve;

use std::hash::{DefaultHasher, Hash, Hasher};

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use nett_dns::client::read_subnet;
use nett_dns::{Ask, Outcome, Profile, Transport, answer, answer_from_prepared, answer_in_full};
use nett_fixtures::fuzz::fuzz;

use serve::query;

fn number(what: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

/// Questions of every kind, with every option.
fn questions() -> Vec<Vec<u8>> {
    let names = [
        "near.prod.shop.steer.example",
        "wide.prod.shop.steer.example",
        "refuse.prod.shop.steer.example",
        "all.site.ramp.prod.shop.steer.example",
        "reflect.steer.example",
        "steer.example",
        "nothing.steer.example",
        "version.bind",
        "example.org",
    ];
    let kinds = [RecordType::A, RecordType::TXT, RecordType::ANY, RecordType::IXFR];
    let mut all = Vec::new();
    for name in names {
        for kind in kinds {
            all.push(query(name, kind, None));
            let mut packet = query(name, kind, None);
            packet[11] = 1;
            let options: [&[u8]; 5] = [
                &[0, 8, 0, 7, 0, 1, 24, 0, 10, 2, 0],
                &[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8],
                &[0, 3, 0, 0],
                &[0, 11, 0, 0],
                &[0, 12, 0, 2, 0, 0],
            ];
            let data = options.concat();
            packet.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, data.len() as u8]);
            packet.extend_from_slice(&data);
            all.push(packet);
        }
    }
    all
}

#[test]
fn messages() {
    let zone = serve::zone(1);
    let strict = Profile { cookies_required: true, ..serve::profile() };
    let profiles = [serve::profile(), strict, Profile::default()];
    let transports = [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Https];
    fuzz("dns-message", &questions(), |packet| {
        let mut seen = Vec::new();
        let profile = &profiles[packet.len() % 3];
        for transport in transports {
            let source = sample::ip("10.1.2.3");
            let ask = Ask { packet, source, transport, now: 1, profile };
            let (mut out, mut quick) = (Vec::new(), Vec::new());
            let outcome = answer_in_full(&zone, &ask, &mut out);
            assert_eq!(answer(&zone, &ask, &mut quick), outcome);
            if let Some(prepared) = answer_from_prepared(&zone, &ask, &mut quick) {
                assert_eq!((prepared, &quick), (outcome, &out));
            }
            let Outcome::Reply { rcode, truncated, steered, sender } = outcome else {
                assert!(packet.len() < 12 || packet[2] & 0x80 != 0);
                continue;
            };
            assert!(transport != Transport::Udp || out.len() <= 1232);
            let message = Message::from_vec(&out).expect("another decoder reads it");
            assert_eq!(message.metadata.truncation, truncated);
            assert_eq!(out[..2], packet[..2]);
            let sections = (message.answers.len(), message.authorities.len());
            let options = message.edns.map(|e| e.options().as_ref().len());
            let steered = steered.map(|s| (s.client.is_some(), s.target.is_some()));
            seen.push((u16::from(rcode), truncated, steered, sender as u8, sections, options));
        }
        number(seen)
    });
}

#[test]
fn client_subnets() {
    let seeds = [
        vec![0, 1, 24, 0, 192, 0, 2],
        vec![0, 2, 56, 0, 0x20, 1, 0x0d, 0xb8, 0, 2, 0],
        vec![0, 0, 0, 0],
    ];
    fuzz("dns-subnet", &seeds, |data| match read_subnet(data) {
        Ok(network) => {
            // What is read is written back as it came.
            if let Some(network) = network {
                assert_eq!(network.prefix_len(), data[2]);
                assert_eq!(network.trunc(), network);
            }
            number((true, network.map(|n| n.prefix_len())))
        }
        Err(error) => number((false, error as u8)),
    });
}

#[test]
fn names_as_text() {
    let zone = serve::zone(1);
    let names = ["api.prod.shop.steer.example.", "osl.site.near.prod.shop", "reflect", "..", ""];
    let seeds: Vec<Vec<u8>> = names.iter().map(|name| name.as_bytes().to_vec()).collect();
    fuzz("dns-name", &seeds, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let told = zone.explain(&text, Some(sample::ip("10.1.2.3")), None);
        number((told.service.is_some(), told.target.is_some(), told.addresses.len()))
    });
}
