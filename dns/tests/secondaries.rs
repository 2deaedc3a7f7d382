//! Copies of the zone, as BIND, Knot DNS and their tools take them.
#![expect(clippy::print_stdout, reason = "the run shows how long secondaries take")]

mod peers;
mod sample;
mod serve;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, RecordType};
use nett_dns::tsig::Algorithm;
use nett_dns::{Keyring, Limits, Serial, Transfers, TsigKey, Zone, ZoneSource, publish};
use nett_policy::fabric::{Secondary, Transfer};
use nett_policy::id::Epoch;
use nett_policy::lower::answers::{Answers, ServiceAnswers};

use peers::{Peer, Primary, dig_at, own_address, path, place, place_for_bind, run, write};
use serve::{Running, query, receive, send};

const NAME: &str = "osl-to-far.";
const SECRET: &str = "c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IDEyMzQ=";
const OTHER: &str = "YW5vdGhlciBzZWNyZXQgYW5vdGhlciBzZWNyZXQgMTI=";

fn key() -> TsigKey {
    TsigKey::new(NAME, Algorithm::HmacSha256, b"secret secret secret secret 1234").expect("a key")
}

fn zone(services: &Answers, secondaries: &[(Option<SocketAddr>, Option<&str>)]) -> Zone {
    let fabric = sample::fabric();
    let zone = Zone::build(ZoneSource {
        zone: &fabric.zone,
        fabric: &fabric,
        home: Some(&sample::site("osl")),
        serial: Serial(100),
        services,
    });
    let to = secondaries
        .iter()
        .map(|(address, tsig)| Secondary { address: *address, tsig: tsig.map(str::to_owned) });
    let transfer = Transfer { from: None, site: None, to: to.collect() };
    let transfers = Transfers::new(&transfer, Keyring::new([key()]), true);
    zone.expect("valid names").with_transfers(Arc::new(transfers))
}

fn start(secondaries: &[(Option<SocketAddr>, Option<&str>)]) -> Running {
    let mut services = sample::usual();
    // BIND takes no more than a hundred records of one name and type.
    let wide = services.get_mut(&"shop/prod/wide".parse().expect("an id")).expect("usual");
    sample::fixed(wide).sites[0].addresses.truncate(90);
    over(zone(&services, secondaries), Limits::default())
}

fn over(zone: Zone, limits: Limits) -> Running {
    Running::over(zone, SocketAddr::new(own_address(), 0), limits)
}

/// Moves a service to another site, in the next snapshot.
fn move_to(server: &Running, service: &str, site: &str) {
    let moved = sample::answers(service, sample::weighted(&[(site, 1)]));
    change(server, moved);
}

fn change(server: &Running, answers: ServiceAnswers) {
    let current = server.zone.load_full();
    let changes = nett_dns::Changes::from([(&answers.fixed.service, Some(&answers))]);
    let next = current.with(&changes, current.serial().next());
    publish(&server.zone, next).expect("newer");
}

const API: &[&str] = &["api.prod.shop.steer.example", "A"];
const SOA: &[&str] = &["steer.example", "SOA"];

fn serial(n: u32) -> String {
    format!("ns1.steer.example. dns.example. {n} 60 15 1209600 10")
}

/// First the whole zone, then the difference, as soon as there is one.
fn follows(make: impl Fn(&Primary<'_>) -> Peer, own: SocketAddr, key: Option<&'static str>) {
    let server = start(&[(Some(own), key)]);
    let key = key.map(|name| (name.trim_end_matches('.'), SECRET));
    let peer = make(&Primary { address: server.address, own, key });
    peer.until(SOA, &serial(100));
    assert_eq!(peer.dig(API).trim(), "192.0.2.1");
    for (n, (site, address)) in (101..).zip([("sto", "192.0.2.2"), ("fra", "192.0.2.3")]) {
        move_to(&server, "shop/prod/api", site);
        let took = peer.until(API, address);
        println!("a move was at the secondary after {} ms", took.as_millis());
        assert!(took < Duration::from_secs(5), "{took:?}: longer than NOTIFY and IXFR take");
        peer.until(SOA, &serial(n));
    }
    let counts: BTreeMap<_, _> = server.stats.transfers.transfers().collect();
    assert_eq!((counts["whole"], counts["difference"]), (1, 2), "{counts:?}{}", peer.log());
    // What the secondary has is what the primary has.
    let copied = axfr(peer.address, &[]);
    assert!(copied.len() > 100, "{copied:?}");
    let from = own.ip().to_string();
    let signed = format!("hmac-sha256:{NAME}:{SECRET}");
    let with_key: &[&str] = if key.is_some() { &["-y", &signed] } else { &[] };
    assert_eq!(copied, axfr(server.address, &[&["-b", &from], with_key].concat()));
}

/// The records that `dig` gets by AXFR, sorted, without layout.
fn axfr(at: SocketAddr, more: &[&str]) -> Vec<String> {
    let arguments = [&["steer.example", "AXFR", "+nocmd", "+nostats"], more].concat();
    let text = dig_at(at, &arguments);
    let plain = |l: &&str| !l.is_empty() && !l.starts_with(';') && !l.contains("TSIG");
    let spaced = |l: &str| l.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut lines: Vec<String> = text.lines().filter(plain).map(spaced).collect();
    lines.sort();
    lines
}

#[test]
fn bind_follows_with_a_key() {
    follows(Peer::bind, place_for_bind(), Some(NAME));
}

#[test]
fn knot_follows_with_a_key() {
    follows(Peer::knot, place(), Some(NAME));
}

#[test]
fn bind_follows_by_address() {
    follows(Peer::bind, place_for_bind(), None);
}

#[test]
fn knot_follows_by_address() {
    follows(Peer::knot, place(), None);
}

/// What `dig` says about a transfer with these arguments.
fn dig_axfr(server: &Running, more: &[&str]) -> String {
    let arguments = [&["steer.example", "AXFR"], more].concat();
    dig_at(server.address, &arguments)
}

#[test]
fn a_copy_needs_all_that_is_configured() {
    let server = start(&[(None, Some(NAME))]);
    let y = |name: &str, secret: &str| format!("hmac-sha256:{name}:{secret}");
    let good = dig_axfr(&server, &["-y", &y(NAME, SECRET)]);
    assert!(good.contains("api.prod.shop.steer.example."), "{good}");
    let wrong_secret = dig_axfr(&server, &["-y", &y(NAME, OTHER)]);
    assert!(wrong_secret.contains("BADSIG"), "{wrong_secret}");
    let wrong_name = dig_axfr(&server, &["-y", &y("nobody.", SECRET)]);
    assert!(wrong_name.contains("BADKEY"), "{wrong_name}");
    let wrong_algorithm = dig_axfr(&server, &["-y", &format!("hmac-sha512:{NAME}:{SECRET}")]);
    assert!(wrong_algorithm.contains("BADKEY"), "{wrong_algorithm}");
    for failed in [&wrong_secret, &wrong_name, &wrong_algorithm, &dig_axfr(&server, &[])] {
        assert!(failed.contains("Transfer failed"), "{failed}");
        assert!(!failed.contains("api.prod.shop"), "{failed}");
    }
    assert_eq!(server.stats.transfers.bad_signatures(), 3);

    // Address and key: both must fit.
    let server = start(&[(Some("192.0.2.99:53".parse().expect("an address")), Some(NAME))]);
    let elsewhere = dig_axfr(&server, &["-y", &y(NAME, SECRET)]);
    assert!(elsewhere.contains("Transfer failed"), "{elsewhere}");
    // No secondaries: nobody.
    let server = Running::usual();
    assert!(dig_axfr(&server, &[]).contains("Transfer failed"));
}

#[test]
fn any_question_may_be_signed() {
    let server = start(&[(None, Some(NAME))]);
    for transport in ["+notcp", "+tcp"] {
        let y = format!("hmac-sha256:{NAME}:{SECRET}");
        let text = dig_at(server.address, &["-y", &y, transport, API[0]]);
        assert!(text.contains("192.0.2.1") && text.contains("TSIG PSEUDOSECTION"), "{text}");
        assert!(!text.contains("Couldn't verify signature"), "{text}");
        // The answer that just fits without a signature is cut where it carries one.
        let wide = dig_at(
            server.address,
            &["-y", &y, transport, "+ignore", "wide.prod.shop.steer.example"],
        );
        assert_eq!(wide.contains("flags: qr aa tc"), transport == "+notcp", "{wide}");
        assert!(!wide.contains("Couldn't verify signature"), "{wide}");
    }
}

fn kdig(server: &Running, arguments: &[&str]) -> String {
    let address = format!("@{}", server.address.ip());
    let port = server.address.port().to_string();
    let all = [&[address.as_str(), "-p", &port, "steer.example"], arguments].concat();
    run("kdig", &all)
}

/// Records of an incremental answer, in their order.
fn records(text: &str) -> Vec<String> {
    let plain = |l: &&str| !l.is_empty() && !l.starts_with(";;") && !l.starts_with("; ");
    let spaced = |l: &str| l.split_whitespace().collect::<Vec<_>>().join(" ");
    text.lines().filter(plain).map(spaced).collect()
}

#[test]
fn differences_are_given_from_what_is_remembered() {
    let here = own_address();
    let server = start(&[(Some(SocketAddr::new(here, 53)), None)]);
    let from = here.to_string();
    let ixfr = |serial: u32, how: &str| {
        records(&kdig(&server, &["-b", &from, "-t", &format!("ixfr={serial}"), how]))
    };
    for site in ["sto", "fra", "osl"] {
        move_to(&server, "shop/prod/api", site);
    }
    let soa = |n| format!("steer.example. 60 IN SOA {}", serial(n));
    // From the second snapshot: two steps in one, and what came back is not mentioned.
    let from_101 = ixfr(101, "+tcp");
    assert_eq!(from_101[0], soa(103));
    assert_eq!(from_101[1], soa(101));
    assert_eq!(from_101.last(), Some(&soa(103)));
    let at = from_101.iter().skip(1).position(|l| *l == soa(103)).expect("the middle") + 1;
    let (gone, new) = (&from_101[2..at], &from_101[at + 1..from_101.len() - 1]);
    let address = |n| format!("api.prod.shop.steer.example. 30 IN A 192.0.2.{n}");
    assert!(gone.contains(&address(2)) && new.contains(&address(1)), "{from_101:#?}");
    assert!(gone.iter().all(|l| l.contains("api.prod.shop") && !new.contains(l)));
    // From the first one the addresses are the same again, so nothing changed but the serial.
    let same = ixfr(100, "+tcp");
    assert_eq!(same, [soa(103), soa(100), soa(103), soa(103)]);
    // Up to date, or ahead.
    assert_eq!(ixfr(103, "+tcp"), [soa(103)]);
    assert_eq!(ixfr(104, "+tcp"), [soa(103)]);
    // Forgotten: the whole zone.
    let whole = ixfr(7, "+tcp");
    assert!(whole.len() > 100 && whole[0] == soa(103) && whole[1] != soa(7), "{whole:#?}");
    // Over UDP what fits, else the SOA record alone.
    assert_eq!(ixfr(100, "+notcp"), same);
    assert_eq!(ixfr(103, "+notcp"), [soa(103)]);
    assert_eq!(ixfr(7, "+notcp"), [soa(103)]);
}

#[test]
fn the_history_is_bounded() {
    let server = start(&[(None, Some(NAME))]);
    for n in 0..100 {
        move_to(&server, "shop/prod/api", ["sto", "fra"][n % 2]);
    }
    assert_eq!(server.zone.load().depth(), 64);
    // Without secondaries nothing is kept.
    let server = Running::usual();
    move_to(&server, "shop/prod/api", "sto");
    assert_eq!(server.zone.load().depth(), 0);
}

/// A zone of many services, each with five names: the service, three sites, and all.
fn many(services: u32) -> Answers {
    let one = |n| sample::answers(&format!("p{}/e{}/s{n}", n % 100, n % 7), spread(n));
    sample::services((0..services).map(one))
}

fn spread(n: u32) -> nett_policy::traffic::Spread {
    match n % 3 {
        0 => sample::weighted(&[("osl", 1)]),
        1 => sample::weighted(&[("osl", 1), ("sto", 2)]),
        _ => sample::nearest(&["osl", "fra"]),
    }
}

#[test]
fn a_hundred_thousand_names_arrive_whole() {
    let own = place();
    let server = over(zone(&many(20_000), &[(Some(own), None)]), Limits::default());
    let peer = Peer::knot(&Primary { address: server.address, own, key: None });
    peer.until(SOA, &serial(100));
    let from = own.ip().to_string();
    let ours = axfr(server.address, &["-b", &from]);
    let names: std::collections::BTreeSet<&str> =
        ours.iter().filter_map(|l| l.split(' ').next()).collect();
    assert!(names.len() > 100_000, "{}", names.len());
    assert_eq!(ours, axfr(peer.address, &[]));
    // Checkers of other makers find nothing.
    let text = ours.join("\n") + "\n";
    let file = write(peer.dir.path(), "copy.zone", &text);
    let mut unique = ours.clone();
    unique.dedup();
    let once = write(peer.dir.path(), "once.zone", &(unique.join("\n") + "\n"));
    let checked =
        run("named-checkzone", &["-i", "local", "-k", "fail", "steer.example", path(&file)]);
    assert!(checked.contains("OK") && !checked.contains("warning"), "{checked}");
    let checked = run("kzonecheck", &["-o", "steer.example", path(&once)]);
    assert_eq!(checked.trim(), "", "{checked}");
}

/// The transfer question as another implementation writes it.
fn axfr_question() -> Vec<u8> {
    query("steer.example", RecordType::AXFR, None)
}

#[test]
fn a_copy_is_of_one_snapshot() {
    let here = own_address();
    let large = zone(&many(5_000), &[(Some(SocketAddr::new(here, 53)), None)]);
    let server = over(large, Limits::default());
    let mut stream = server.connect_from(here);
    send(&mut stream, &axfr_question());
    let first = Message::from_vec(&receive(&mut stream)).expect("valid");
    let soa = |m: &Message, last: bool| {
        let record = if last { m.answers.last() } else { m.answers.first() };
        match record.map(|r| &r.data) {
            Some(RData::SOA(soa)) => Some(soa.serial),
            _ => None,
        }
    };
    assert_eq!(soa(&first, false), Some(100));
    for n in 0..20 {
        let service = format!("p{n}/e{}/s{n}", n % 7);
        let mut moved = sample::answers(&service, sample::weighted(&[("fra", 1)]));
        moved.epoch = Epoch(9);
        change(&server, moved);
    }
    let mut records = first.answers.len();
    let mut ended = false;
    let mut of_later = 0;
    while !ended {
        let message = Message::from_vec(&receive(&mut stream)).expect("valid");
        assert_eq!(message.metadata.response_code, ResponseCode::NoError);
        records += message.answers.len();
        let texts = message.answers.iter().filter_map(|r| match &r.data {
            RData::TXT(text) => Some(text.to_string()),
            _ => None,
        });
        of_later += texts.filter(|t| t.contains("epoch=9")).count();
        ended = soa(&message, true) == Some(100);
    }
    assert_eq!(of_later, 0, "a record of a later snapshot");
    assert!(records > 5_000 * 10, "{records}");
    // The connection goes on, with the present zone.
    send(&mut stream, &query("steer.example", RecordType::SOA, None));
    let answer = Message::from_vec(&receive(&mut stream)).expect("valid");
    assert_eq!(soa(&answer, false), Some(120));
}

/// RFC 7766 section 6.2.1.1: what takes long does not hold up what does not.
#[test]
fn a_question_behind_a_copy_is_answered_before_the_copy_ends() {
    let here = own_address();
    let large = zone(&many(20_000), &[(Some(SocketAddr::new(here, 53)), None)]);
    let server = over(large, Limits::default());
    let mut stream = server.connect_from(here);
    let mut soon = query("api.p0.shop.steer.example", RecordType::A, None);
    soon[..2].copy_from_slice(&[0x77, 0x77]);
    send(&mut stream, &axfr_question());
    send(&mut stream, &soon);
    // The client asks no more, and still gets everything.
    stream.shutdown(std::net::Shutdown::Write).expect("connected");
    let (mut messages, mut answered_after, mut soas) = (0, None, 0);
    while soas < 2 {
        let message = receive(&mut stream);
        if message[..2] == [0x77, 0x77] {
            answered_after = Some(messages);
            continue;
        }
        messages += 1;
        let message = Message::from_vec(&message).expect("valid");
        soas += message.answers.iter().filter(|r| r.record_type() == RecordType::SOA).count();
    }
    let after = answered_after.expect("the question has its answer");
    assert!(messages > 100 && after < messages / 2, "after {after} of {messages} messages");
}

#[test]
fn copies_under_way_are_limited_and_come_to_an_end() {
    let here = own_address();
    let large = zone(&many(20_000), &[(Some(SocketAddr::new(here, 53)), None)]);
    let limits = Limits {
        transfers: 1,
        tcp_idle: Duration::from_secs(2),
        transfer_time: Duration::from_secs(2),
        ..Limits::default()
    };
    let server = over(large, limits);
    // This one reads nothing, so its copy stands still until its time is over.
    let mut idle = server.connect_from(here);
    send(&mut idle, &axfr_question());
    let mut other = server.connect_from(here);
    let mut busy = false;
    let begun = Instant::now();
    loop {
        send(&mut other, &axfr_question());
        let answer = receive(&mut other);
        let code = answer[3] & 0x0f;
        if code == 2 {
            busy = true;
            // Questions are answered all the while.
            assert!(dig_at(server.address, SOA).contains(&serial(100)));
            continue;
        }
        assert_eq!(code, 0);
        if busy {
            break;
        }
        // The other connection came first by accident; it must not be read on.
        other = server.connect_from(here);
        assert!(begun.elapsed() < Duration::from_secs(20), "never busy");
    }
    idle.flush().expect("nothing is buffered");
    let counts: BTreeMap<_, _> = server.stats.transfers.transfers().collect();
    assert!(counts["busy"] > 0 && counts["broken"] > 0, "{counts:?}");
}

/// Every record of a copy is what a client of that site is told.
#[test]
fn a_copy_says_what_is_answered() {
    let here = own_address();
    let server = start(&[(Some(SocketAddr::new(here, 53)), None)]);
    let mut stream = server.connect_from(here);
    send(&mut stream, &axfr_question());
    let copy = Message::from_vec(&receive(&mut stream)).expect("one message is enough");
    // 127.0.0.0/8 belongs to osl, the home site.
    let mut asked = 0;
    for record in &copy.answers {
        let name = record.name.to_string();
        if record.record_type() == RecordType::SOA || name.starts_with("ramp.") {
            continue;
        }
        let mut stream = server.connect();
        send(&mut stream, &query(&name, record.record_type(), Some(1232)));
        let answer = Message::from_vec(&receive(&mut stream)).expect("valid");
        let same = |r: &hickory_proto::rr::Record| r.data == record.data && r.ttl == record.ttl;
        assert!(answer.answers.iter().any(same), "{record} is not in {answer:?}");
        let of_kind = |r: &&hickory_proto::rr::Record| {
            r.name == record.name && r.record_type() == record.record_type()
        };
        assert_eq!(copy.answers.iter().filter(of_kind).count(), answer.answers.len(), "{record}");
        asked += 1;
    }
    assert!(asked > 100, "{asked}");
    // Where weights decide, the copy has the heaviest site.
    let ramp = copy.answers.iter().find(|r| {
        r.name.to_string() == "ramp.prod.shop.steer.example." && r.record_type() == RecordType::A
    });
    assert_eq!(ramp.map(|r| r.data.to_string()).as_deref(), Some("192.0.2.1"));
}

/// A secondary that hears NOTIFY only at the second time, and many snapshots in a row.
#[test]
fn notifications_are_repeated_and_put_together() {
    let socket = UdpSocket::bind((own_address(), 0)).expect("a free port");
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    let address = socket.local_addr().expect("bound");
    let server = start(&[(Some(address), None)]);
    let mut buffer = [0; 512];
    let mut hear = |answered: bool| {
        let (length, from) = socket.recv_from(&mut buffer).expect("a notification");
        assert_eq!(from.ip(), server.address.ip());
        let message = Message::from_vec(&buffer[..length]).expect("valid");
        assert_eq!(message.metadata.op_code, hickory_proto::op::OpCode::Notify);
        assert_eq!(message.queries[0].query_type(), RecordType::SOA);
        let serial = match &message.answers[0].data {
            RData::SOA(soa) => soa.serial,
            other => panic!("{other:?} is no SOA record"),
        };
        if answered {
            let mut answer = buffer[..length].to_vec();
            answer[2] |= 0x80;
            socket.send_to(&answer, from).expect("sent");
        }
        serial
    };
    assert_eq!(hear(false), 100);
    assert_eq!(hear(true), 100);
    for n in 0..50 {
        move_to(&server, "shop/prod/api", ["sto", "fra"][n % 2]);
    }
    let mut told = vec![hear(true)];
    while told.last() != Some(&150) {
        told.push(hear(true));
    }
    assert!(told.len() <= 3, "{told:?}: fifty snapshots in a row are told together");
}

/// Nobody tells a primary anything, least of all to forward it.
#[test]
fn incoming_notifications_are_not_implemented() {
    let server = start(&[(None, Some(NAME))]);
    let mut packet = query("steer.example", RecordType::SOA, None);
    packet[2] = 4 << 3;
    let answer = server.ask_udp(&packet);
    assert_eq!(answer[3] & 0x0f, 4);
}
