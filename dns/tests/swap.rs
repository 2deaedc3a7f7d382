//! The zone changes while it is asked: every answer is of one snapshot, and time only goes on.

mod sample;
mod serve;

use std::sync::atomic::{AtomicBool, Ordering};

use hickory_proto::op::Message;
use hickory_proto::rr::{RData, RecordType};
use nett_dns::{Changes, Limits, Serial, Zone, publish};
use nett_policy::id::Epoch;

use serve::{Running, query};

const SNAPSHOTS: u32 = 3000;

/// Snapshot N answers three addresses 10.N.N.1 to 3 (N in two bytes), at every site.
fn snapshot(n: u32) -> nett_policy::lower::answers::ServiceAnswers {
    let mut answers = sample::answers("shop/prod/api", sample::nearest(&["osl", "sto", "fra"]));
    let [_, _, high, low] = n.to_be_bytes();
    for site in &mut sample::fixed(&mut answers).sites {
        let address = |last| sample::ip(&format!("10.{high}.{low}.{last}"));
        site.addresses = (1..=3).map(address).collect();
    }
    answers.epoch = Epoch(u64::from(n));
    answers
}

/// The snapshot with these answers behind `current`.
fn next(current: &Zone, n: u32, serial: Serial) -> Zone {
    let answers = snapshot(n);
    current.with(&Changes::from([(&answers.fixed.service, Some(&answers))]), serial)
}

/// Which snapshot an answer of addresses is from; panics when it is from several.
fn version(message: &Message) -> u32 {
    let of = |record: &hickory_proto::rr::Record| match &record.data {
        RData::A(a) => {
            let [_, high, low, _] = a.0.octets();
            u32::from_be_bytes([0, 0, high, low])
        }
        other => panic!("no address: {other:?}"),
    };
    assert_eq!(message.answers.len(), 3);
    let versions: Vec<u32> = message.answers.iter().map(of).collect();
    assert!(versions.iter().all(|v| *v == versions[0]), "{versions:?}");
    versions[0]
}

fn serial(message: &Message) -> u32 {
    match &message.answers[0].data {
        RData::SOA(soa) => soa.serial,
        other => panic!("no SOA: {other:?}"),
    }
}

#[test]
fn answers_never_mix_snapshots_and_serials_only_go_up() {
    let server = Running::with_limits(Limits { udp_threads: 2, ..Limits::default() });
    // Near the top, so that the serial wraps on the way.
    let first = u32::MAX - SNAPSHOTS / 2;
    let start = next(&server.zone.load_full(), 0, Serial(first));
    server.zone.store(start.into());
    let done = AtomicBool::new(false);
    let ask_all = |over_tcp: bool| {
        let mut stream = server.connect();
        let socket = server.udp();
        let mut ask = |kind, name: &str| {
            let packet = query(name, kind, None);
            let answer = if over_tcp {
                serve::send(&mut stream, &packet);
                serve::receive(&mut stream)
            } else {
                socket.send(&packet).expect("sent");
                let mut buffer = vec![0; 1500];
                let length = socket.recv(&mut buffer).expect("an answer");
                buffer.truncate(length);
                buffer
            };
            Message::from_vec(&answer).expect("a message")
        };
        let mut seen = std::collections::BTreeSet::new();
        let (mut last_version, mut last_serial) = (0, Serial(first));
        while !done.load(Ordering::Relaxed) || last_version < SNAPSHOTS {
            let version = version(&ask(RecordType::A, "api.prod.shop.steer.example"));
            assert!(version >= last_version, "{version} after {last_version}");
            let serial = Serial(serial(&ask(RecordType::SOA, "steer.example")));
            assert!(serial >= last_serial, "{serial} after {last_serial}");
            // The SOA was asked later, so it cannot be of an older snapshot.
            assert!(serial >= Serial(first.wrapping_add(version)));
            (last_version, last_serial) = (version, serial);
            seen.insert(version);
        }
        seen.len()
    };
    std::thread::scope(|threads| {
        let readers = [false, false, true].map(|tcp| threads.spawn(move || ask_all(tcp)));
        for n in 1..=SNAPSHOTS {
            let serial = Serial(first.wrapping_add(n));
            let next = next(&server.zone.load(), n, serial);
            publish(&server.zone, next).expect("newer");
            std::thread::yield_now();
        }
        done.store(true, Ordering::Relaxed);
        for reader in readers {
            let seen = reader.join().expect("no reader failed");
            assert!(seen > 10, "the zone hardly changed under the questions: {seen}");
        }
    });
    assert!(publish(&server.zone, serve::zone(first)).is_err());
}

#[test]
fn a_change_is_visible_to_the_next_question() {
    let server = Running::usual();
    for n in 1..200 {
        let next = next(&server.zone.load(), n, Serial(100 + n));
        publish(&server.zone, next).expect("newer");
        let answer = server.ask_udp(&query("api.prod.shop.steer.example", RecordType::A, None));
        assert_eq!(version(&Message::from_vec(&answer).expect("a message")), n);
    }
}
