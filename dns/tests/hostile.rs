//! What strangers send: malformed questions, slow and greedy connections, and any bytes at all.

mod sample;
mod serve;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use nett_dns::{Ask, Limits, Outcome, Transport, answer};
use proptest::prelude::*;

use serve::{Running, query};

/// The longest a test waits for an answer that should come.
const PATIENCE: Duration = Duration::from_secs(10);

/// Changes to a good question, and the response code they get.
#[test]
fn malformed_questions_get_the_right_code() {
    let server = Running::usual();
    let good = query("api.prod.shop.steer.example", RecordType::A, None);
    let end = good.len();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = good.clone();
        change(&mut packet);
        packet
    };
    let opt = |data: &[u8]| {
        let mut packet = good.clone();
        packet[11] += 1;
        packet.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0]);
        packet.push(data.len() as u8);
        packet.extend_from_slice(data);
        packet
    };
    let two_opts = {
        let mut packet = opt(&[]);
        packet[11] = 2;
        packet.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
        packet
    };
    use ResponseCode::{BADVERS, FormErr, NoError, NotImp, Refused};
    for (what, packet, expected) in [
        ("good", good.clone(), NoError),
        ("no question", with(&|p| p[5] = 0), FormErr),
        ("two questions", with(&|p| p[5] = 2), FormErr),
        ("65535 questions", with(&|p| p[4..6].fill(255)), FormErr),
        ("header only", good[..12].to_vec(), FormErr),
        ("half a name", good[..20].to_vec(), FormErr),
        ("no type", good[..end - 4].to_vec(), FormErr),
        ("pointer to itself", with(&|p| p[12..14].copy_from_slice(&[0xc0, 12])), FormErr),
        ("pointer onward", with(&|p| p[12..14].copy_from_slice(&[0xc0, 20])), FormErr),
        ("label type 0x40", with(&|p| p[12] = 0x43), FormErr),
        ("class CH", with(&|p| p[end - 1] = 3), Refused),
        ("class ANY", with(&|p| p[end - 1] = 255), Refused),
        ("qtype OPT", with(&|p| p[end - 3] = 41), FormErr),
        ("AXFR", with(&|p| p[end - 3] = 252), Refused),
        ("IXFR", with(&|p| p[end - 3] = 251), Refused),
        ("opcode 15", with(&|p| p[2] |= 0x78), NotImp),
        ("opcode UPDATE", with(&|p| p[2] |= 0x28), NotImp),
        ("trailing garbage", with(&|p| p.extend_from_slice(b"xyz")), FormErr),
        ("a record that is not there", with(&|p| p[11] = 1), FormErr),
        (
            "a record that is half a pointer",
            with(&|p| {
                p[11] = 1;
                p.push(0xc0);
            }),
            FormErr,
        ),
        ("65535 records", with(&|p| p[6..12].fill(255)), FormErr),
        ("empty OPT", opt(&[]), NoError),
        ("two OPTs", two_opts, FormErr),
        (
            "OPT as answer",
            {
                let mut p = opt(&[]);
                p[11] = 0;
                p[7] = 1;
                p
            },
            FormErr,
        ),
        (
            "OPT with an owner",
            {
                let mut p = opt(&[]);
                p.splice(end..=end, [1, b'a', 0]);
                p
            },
            FormErr,
        ),
        ("OPT option cut", opt(&[0, 10, 0, 8, 1]), FormErr),
        (
            "OPT data too long",
            {
                let mut p = opt(&[]);
                p[end + 10] = 9;
                p
            },
            FormErr,
        ),
        ("bad subnet", opt(&[0, 8, 0, 7, 0, 1, 24, 0, 192, 0, 2]), NoError),
        ("subnet with scope", opt(&[0, 8, 0, 7, 0, 1, 24, 24, 192, 0, 2]), FormErr),
        ("subnet family 9", opt(&[0, 8, 0, 5, 0, 9, 8, 0, 1]), FormErr),
        (
            "EDNS version 1",
            {
                let mut p = opt(&[0, 8, 0]);
                p[end + 6] = 1;
                p
            },
            BADVERS,
        ),
    ] {
        let answer = server.ask_udp(&packet);
        assert_eq!(answer[..2], packet[..2], "{what}: id");
        assert_eq!(answer[2] & 0x80, 0x80, "{what}: QR");
        let message = Message::from_vec(&answer).expect(what);
        // 16 is BADVERS or BADSIG, by the company it is in.
        let code = u16::from(message.metadata.response_code);
        assert_eq!(code, u16::from(expected), "{what}");
        // The same over TCP, where the connection also survives it.
        let mut stream = server.connect();
        serve::send(&mut stream, &packet);
        assert_eq!(serve::receive(&mut stream), answer, "{what} over TCP");
        serve::send(&mut stream, &good);
        assert!(!serve::receive(&mut stream).is_empty(), "{what}: connection lost");
    }
}

#[test]
fn what_is_no_question_gets_silence() {
    let server = Running::usual();
    let good = query("api.prod.shop.steer.example", RecordType::A, None);
    let mut response = good.clone();
    response[2] |= 0x80;
    let socket = server.udp();
    for packet in [&[][..], &good[..1], &good[..11], &response] {
        socket.send(packet).expect("sent");
    }
    // Questions to one socket are answered in order, so the first answer is to the last question.
    let mut last = good;
    last[..2].copy_from_slice(&[0xab, 0xcd]);
    socket.send(&last).expect("sent");
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).expect("an answer");
    assert!(length > 12);
    assert_eq!(buffer[..2], [0xab, 0xcd]);
    let dropped: Vec<_> = server.stats.dropped().filter(|d| d.1 > 0).collect();
    assert_eq!(dropped, [("short", 3), ("response", 1)]);
}

#[test]
fn tcp_answers_many_questions_in_order() {
    let server = Running::usual();
    let mut stream = server.connect();
    let mut all = Vec::new();
    for id in 0..500u16 {
        let mut packet = query("api.prod.shop.steer.example", RecordType::A, None);
        packet[..2].copy_from_slice(&id.to_be_bytes());
        all.extend_from_slice(&(packet.len() as u16).to_be_bytes());
        all.extend_from_slice(&packet);
    }
    // Cut at an odd place, so that a length arrives in two pieces.
    let (first, second) = all.split_at(all.len() / 2 + 1);
    stream.write_all(first).expect("sent");
    stream.write_all(second).expect("sent");
    for id in 0..500u16 {
        assert_eq!(serve::receive(&mut stream)[..2], id.to_be_bytes());
    }
}

#[test]
fn broken_tcp_connections_are_closed() {
    let server = Running::usual();
    let good = query("api.prod.shop.steer.example", RecordType::A, None);
    // A length that promises more than comes, then the end of the stream.
    let mut stream = server.connect();
    stream.write_all(&[0xff, 0xff, 1, 2, 3]).expect("sent");
    stream.shutdown(std::net::Shutdown::Write).expect("closed");
    assert_eq!(stream.read(&mut [0; 16]).expect("the end"), 0);
    // Half a length.
    let mut stream = server.connect();
    stream.write_all(&[0]).expect("sent");
    stream.shutdown(std::net::Shutdown::Write).expect("closed");
    assert_eq!(stream.read(&mut [0; 16]).expect("the end"), 0);
    // Messages that are no questions.
    for packet in [&[][..], &good[..11]] {
        let mut stream = server.connect();
        serve::send(&mut stream, packet);
        assert_eq!(stream.read(&mut [0; 16]).expect("the end"), 0);
    }
    let mut stream = server.connect();
    serve::send(&mut stream, &good);
    assert!(!serve::receive(&mut stream).is_empty());
}

#[test]
fn a_slow_tcp_client_is_cut_off_and_hurts_nobody() {
    let idle = Duration::from_millis(300);
    let server = Running::with_limits(Limits { tcp_idle: idle, ..Limits::default() });
    let mut slow = server.connect();
    let good = query("api.prod.shop.steer.example", RecordType::A, None);
    let started = Instant::now();
    // A byte at a time never finishes a message in time, however alive the client looks.
    slow.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
    let mut message = (good.len() as u16).to_be_bytes().to_vec();
    message.extend_from_slice(&good);
    let mut bytes = message.iter().cycle();
    let cut_off = loop {
        let byte = bytes.next().expect("endless");
        let sent = match started.elapsed() < idle / 2 {
            true => slow.write_all(&[*byte]),
            false => Ok(()),
        };
        match (sent, slow.read(&mut [0; 64])) {
            (Err(_), _) | (_, Ok(0)) => break started.elapsed(),
            (_, Err(e)) if e.kind() == std::io::ErrorKind::ConnectionReset => {
                break started.elapsed();
            }
            (_, Ok(_)) => panic!("an answer to a message that was never whole"),
            (Ok(()), Err(_)) => assert!(started.elapsed() < PATIENCE, "never cut off"),
        }
        let mut other = server.connect();
        serve::send(&mut other, &good);
        assert!(!serve::receive(&mut other).is_empty());
    };
    assert!(cut_off >= idle, "{cut_off:?}");
}

#[test]
fn a_client_that_does_not_read_is_cut_off() {
    let server =
        Running::with_limits(Limits { tcp_idle: Duration::from_millis(300), ..Limits::default() });
    let mut stream = server.connect();
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    let wide = query("wide.prod.shop.steer.example", RecordType::A, None);
    let mut framed = (wide.len() as u16).to_be_bytes().to_vec();
    framed.extend_from_slice(&wide);
    // Fills the buffers of both ends; then the server gives up and resets.
    let failed = loop {
        if let Err(error) = stream.write_all(&framed) {
            break error;
        }
    };
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
    assert!(matches!(failed.kind(), BrokenPipe | ConnectionReset), "{failed}");
}

#[test]
fn connections_have_limits_by_source_and_in_all() {
    let server =
        Running::with_limits(Limits { tcp_connections: 4, tcp_per_source: 2, ..Limits::default() });
    let good = query("api.prod.shop.steer.example", RecordType::A, None);
    let works = |stream: &mut TcpStream| {
        serve::send(stream, &good);
        let mut length = [0; 2];
        match stream.read_exact(&mut length) {
            Ok(()) => {
                let mut rest = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut rest).is_ok()
            }
            Err(_) => false,
        }
    };
    let from = |n: u8| server.connect_from(IpAddr::V4(Ipv4Addr::new(127, 0, 1, n)));
    let dropped = |reason: &str| -> u64 {
        server.stats.dropped().filter(|d| d.0 == reason).map(|d| d.1).sum()
    };
    let mut open = Vec::new();
    for (n, expected) in [(1, true), (1, true), (1, false), (2, true), (2, true)] {
        let mut stream = from(n);
        assert_eq!(works(&mut stream), expected, "source {n}");
        if expected {
            open.push(stream);
        }
    }
    assert_eq!((dropped("connection_limit"), dropped("evicted")), (1, 0));
    // All places are taken, and nobody is being answered: who has waited longest makes room.
    assert!(works(&mut open[0]));
    let mut third = from(3);
    assert!(works(&mut third));
    assert_eq!((dropped("connection_limit"), dropped("evicted")), (1, 1));
    assert_eq!(open[1].read(&mut [0; 1]).expect("closed in order"), 0);
    for at in [0, 2, 3] {
        assert!(works(&mut open[at]), "connection {at} was asked for more lately");
    }
    // A place is given back when its connection ends.
    open.clear();
    let started = Instant::now();
    while !works(&mut from(1)) {
        assert!(started.elapsed() < PATIENCE, "the place never came back");
    }
}

/// Who never asks does not keep others out.
#[test]
fn a_table_full_of_silent_connections_lets_everybody_in() {
    let limits = Limits { tcp_connections: 16, tcp_per_source: 16, ..Limits::default() };
    let server = Running::with_limits(Limits { tcp_idle: Duration::from_secs(60), ..limits });
    let from = |n: u8| server.connect_from(IpAddr::V4(Ipv4Addr::new(127, 0, 2, n)));
    let silent: Vec<TcpStream> = (0..16).map(|_| from(1)).collect();
    let good = query("api.prod.shop.steer.example", RecordType::A, None);
    let mut kept = Vec::new();
    for n in 2..12 {
        let mut stream = from(n);
        serve::send(&mut stream, &good);
        assert!(!serve::receive(&mut stream).is_empty(), "source {n}");
        kept.push(stream);
    }
    // Those that were let in have not pushed each other out.
    for stream in &mut kept {
        serve::send(stream, &good);
        assert!(!serve::receive(stream).is_empty());
    }
    drop(silent);
}

/// Connections that are reset before they are taken make accept(2) fail on some kernels.
#[test]
fn reset_connections_do_not_end_the_listener() {
    let server = Running::usual();
    let good = query("api.prod.shop.steer.example", RecordType::A, None);
    for _ in 0..300 {
        let stream = socket2::Socket::from(server.connect());
        stream.set_linger(Some(Duration::ZERO)).expect("an option");
    }
    let started = Instant::now();
    loop {
        let mut stream = server.connect();
        serve::send(&mut stream, &good);
        // The server may still hold places of connections it has not seen end.
        if stream.read(&mut [0; 2]).is_ok_and(|n| n > 0) {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "the listener is gone");
    }
}

// === any bytes ===

/// What must hold of the answer to any bytes.
fn check(packet: &[u8], transport: Transport) {
    thread_local! {
        static ZONE: nett_dns::Zone = serve::zone(1);
    }
    let profile = serve::profile();
    let ask = Ask { packet, source: sample::ip("10.1.2.3"), transport, now: 1, profile: &profile };
    let mut out = vec![0xee; 7];
    let outcome = ZONE.with(|zone| answer(zone, &ask, &mut out));
    match outcome {
        Outcome::Dropped(_) => assert!(packet.len() < 12 || packet[2] & 0x80 != 0),
        Outcome::Reply { rcode, truncated, .. } => {
            assert_eq!(out[..2], packet[..2], "the id");
            assert_eq!(out[2] & 0xf8, 0x80 | (packet[2] & 0x78), "QR and opcode");
            let most = if transport == Transport::Udp { 1232 } else { 65535 };
            assert!(out.len() <= most);
            let message = Message::from_vec(&out).expect("another decoder reads it");
            assert_eq!(u16::from(message.metadata.response_code), u16::from(rcode));
            assert_eq!(message.metadata.truncation, truncated);
            let echoed = message.queries.len();
            assert!(echoed <= 1);
            if echoed == 0 && packet[4..6] == [0, 1] {
                assert!(message.edns.is_none(), "an answer to what was read has its question");
            }
            if echoed == 1 {
                assert_eq!(
                    message.queries[0],
                    Message::from_vec(&first_question(packet)).expect("read").queries[0]
                );
            }
        }
    }
}

/// The packet cut down to its header and question.
fn first_question(packet: &[u8]) -> Vec<u8> {
    let mut at = 12;
    while packet[at] != 0 {
        at += 1 + usize::from(packet[at]);
    }
    let mut cut = packet[..at + 5].to_vec();
    cut[6..12].fill(0);
    cut
}

fn transports() -> impl Strategy<Value = Transport> {
    prop_oneof![Just(Transport::Udp), Just(Transport::Tcp)]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4096,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_bytes_are_answered_or_dropped(
        packet in proptest::collection::vec(any::<u8>(), 0..300),
        transport in transports(),
    ) {
        check(&packet, transport);
    }

    /// Bytes that begin like a question reach further in.
    #[test]
    fn damaged_questions_are_answered_or_dropped(
        name in prop_oneof![
            Just("near.prod.shop.steer.example"),
            Just("wide.prod.shop.steer.example"),
            Just("all.site.ramp.prod.shop.steer.example"),
            Just("reflect.steer.example"),
            Just("steer.example"),
            Just("example.org"),
        ],
        kind in any::<u16>(),
        tail in proptest::collection::vec(any::<u8>(), 0..40),
        additionals in 0u8..3,
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        transport in transports(),
    ) {
        let mut packet = query(name, kind.into(), Some(1232));
        packet[11] = packet[11].wrapping_add(additionals);
        packet.extend_from_slice(&tail);
        for (at, byte) in damage {
            let at = at.index(packet.len());
            packet[at] = byte;
        }
        check(&packet, transport);
    }

    /// Well-formed questions with any option in their OPT record.
    #[test]
    fn any_edns_option_is_answered(
        kind in prop_oneof![Just(1u16), Just(28), Just(16), Just(255), Just(6), any::<u16>()],
        code in prop_oneof![Just(8u16), any::<u16>()],
        data in proptest::collection::vec(any::<u8>(), 0..24),
        version in prop_oneof![Just(0u8), any::<u8>()],
        payload in any::<u16>(),
    ) {
        let mut packet = query("near.prod.shop.steer.example", kind.into(), None);
        packet[11] = 1;
        packet.extend_from_slice(&[0, 0, 41]);
        packet.extend_from_slice(&payload.to_be_bytes());
        packet.extend_from_slice(&[0, version, 0, 0, 0, data.len() as u8 + 4]);
        packet.extend_from_slice(&code.to_be_bytes());
        packet.extend_from_slice(&[0, data.len() as u8]);
        packet.extend_from_slice(&data);
        check(&packet, Transport::Udp);
    }
}
