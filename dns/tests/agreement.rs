//! What is answered from prepared bytes equals what is written in full: to the byte, and in what is
//! counted. And it is most of what resolvers ask.

mod sample;
mod serve;

use std::time::Duration;

use nett_dns::{
    Ask, Profile, Serial, Transport, Zone, ZoneSource, answer_from_prepared, answer_in_full,
};
use nett_policy::id::Epoch;
use nett_policy::lower::answers::{Answers, ServiceAnswers};
use nett_policy::service::{AllDown, Port, Prefer, Ttl};
use nett_policy::traffic::Spread;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use sample::{ip, nearest, weighted};

const NAMES: [&str; 25] = [
    "a.prod.shop",
    "b.prod.shop",
    "a.test.shop",
    "c.test.other",
    "nope.prod.shop",
    "nope.nope.nope",
    "prod.shop",
    "shop",
    "nope",
    "",
    "site.a.prod.shop",
    "osl.site.a.prod.shop",
    "all.site.a.prod.shop",
    "x.all.site.a.prod.shop",
    "x.a.prod.shop",
    "x.y.a.prod.shop",
    "_https._tcp.a.prod.shop",
    "_https.a.prod.shop",
    "_tcp.a.prod.shop",
    "ns1",
    "dc",
    "ns2.dc",
    "x.ns2.dc",
    "reflect",
    "a-label-that-is-exactly-sixty-three-bytes-long-and-no-byte-more-.b.c",
];
const OTHER_KINDS: [u16; 18] =
    [2, 5, 6, 12, 15, 33, 35, 41, 43, 46, 48, 64, 65, 99, 251, 252, 255, 257];
const SERVICES: [&str; 4] = ["shop/prod/a", "shop/prod/b", "shop/test/a", "other/test/c"];
const CLIENTS: [&str; 8] = [
    "10.1.2.3",
    "10.4.0.1",
    "198.51.100.200",
    "127.0.0.1",
    "8.8.8.8",
    "2001:db8:1::5",
    "2001:db8:2::5",
    "::ffff:10.2.0.1",
];

fn spread() -> impl Strategy<Value = Spread> {
    const SITES: [&str; 4] = ["osl", "sto", "fra", "lon"];
    let share = (select(&SITES[..]), 1u32..=256);
    prop_oneof![
        1 => Just(Spread::Nowhere),
        4 => prop::collection::vec(share, 1..4).prop_map(|shares| weighted(&shares)),
        4 => subsequence(&SITES[..], 1..=4).prop_map(|sites| nearest(&sites)),
    ]
}

fn service(id: &'static str) -> impl Strategy<Value = ServiceAnswers> {
    let all_down = select(vec![
        AllDown::LastOrder,
        AllDown::Refuse,
        AllDown::Fallback(ip("203.0.113.9")),
        AllDown::Fallback(ip("2001:db8::9")),
    ]);
    let prefer = select(vec![Prefer::Nearest, Prefer::Local, Prefer::Primary]);
    let ttl = select(vec![1u64, 30, 86_400, u64::from(u32::MAX)]);
    let addresses = prop::collection::vec((0u8..=5, 0u8..=2), 3);
    (spread(), all_down, prefer, ttl, addresses, any::<u64>(), 0usize..4).prop_map(
        move |(spread, all_down, prefer, ttl, addresses, epoch, drained)| {
            let mut answers = sample::answers(id, spread);
            if epoch % 2 == 0 {
                sample::fixed(&mut answers).ports =
                    vec![Port { name: "https".to_owned(), port: 443 }];
            }
            sample::standing(&mut answers).lowered = epoch % 3 == 0;
            answers.epoch = Epoch(epoch);
            let fixed = sample::fixed(&mut answers);
            fixed.all_down = all_down;
            fixed.prefer = prefer;
            let ceiling = Duration::from_secs(ttl);
            fixed.ttl = Ttl { ceiling, floor: ceiling.min(Duration::from_secs(5)) };
            for (site, (four, six)) in fixed.sites.iter_mut().zip(addresses) {
                let v4 = (0..four).map(|n| ip(&format!("192.0.2.{}", n % 4)));
                let v6 = (0..six * 20).map(|n| ip(&format!("2001:db8::{n:x}")));
                site.addresses = v6.chain(v4).collect();
            }
            let drained = fixed.sites.get(drained).map(|s| s.site.clone());
            sample::standing(&mut answers).drained.extend(drained);
            answers
        },
    )
}

fn services() -> impl Strategy<Value = Answers> {
    SERVICES.map(service).prop_map(sample::services)
}

/// A message: mostly a plain question, sometimes with something unusual about it.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let zone = prop_oneof![
        20 => Just("steer.example"),
        1 => Just("xsteer.example"),
        1 => Just("example"),
        1 => Just(""),
    ];
    let kind = prop_oneof![
        6 => select(vec![1u16, 28]),
        2 => Just(16),
        3 => select(&OTHER_KINDS[..]),
    ];
    let class = prop_oneof![20 => Just(1u16), 1 => select(vec![3u16, 254, 255])];
    let flags = (prop_oneof![3 => Just(0u8), 1 => any::<u8>().prop_map(|b| b & 0x7f)], any::<u8>());
    let name = (select(&NAMES[..]), zone, any::<u64>());
    let tail = prop_oneof![12 => Just(vec![]), 1 => prop::collection::vec(any::<u8>(), 1..12)];
    (any::<[u8; 2]>(), flags, name, kind, class, edns(), tail).prop_map(
        |(id, flags, (name, zone, cases), kind, class, edns, tail)| {
            let mut packet = vec![id[0], id[1], flags.0, flags.1, 0, 1, 0, 0, 0, 0, 0];
            packet.push(u8::from(edns.is_some()));
            let labels = name.split('.').chain(zone.split('.')).filter(|l| !l.is_empty());
            for label in labels {
                packet.push(u8::try_from(label.len()).expect("short labels"));
                packet.extend(label.bytes().enumerate().map(|(at, b)| {
                    if cases >> (at % 64) & 1 == 1 { b.to_ascii_uppercase() } else { b }
                }));
            }
            packet.push(0);
            packet.extend(kind.to_be_bytes());
            packet.extend(class.to_be_bytes());
            packet.extend(edns.unwrap_or_default());
            packet.extend(tail);
            packet
        },
    )
}

fn edns() -> impl Strategy<Value = Option<Vec<u8>>> {
    let subnets = select(vec![
        &[0u8, 1, 24, 0, 10, 2, 0][..],
        &[0, 1, 25, 0, 198, 51, 100, 128],
        &[0, 1, 12, 0, 10, 16],
        &[0, 2, 56, 0, 0x20, 1, 0x0d, 0xb8, 0, 2, 0],
        &[0, 1, 0, 0],
        &[0, 0, 0, 0],
        &[0, 1, 24, 8, 10, 2, 0],
        &[0, 1, 24, 0, 10, 2],
        &[0, 3, 0, 0],
        &[],
    ]);
    let option = prop_oneof![
        3 => subnets.prop_map(|data| (8u16, data.to_vec())),
        2 => select(vec![8usize, 24, 7, 40]).prop_map(|length| (10u16, vec![1; length])),
        1 => select(vec![3u16, 11, 12]).prop_map(|code| (code, vec![])),
        1 => (any::<u16>(), prop::collection::vec(any::<u8>(), 0..10)),
    ];
    let options = prop_oneof![
        4 => Just(vec![]),
        3 => option.clone().prop_map(|o| vec![o]),
        1 => prop::collection::vec(option, 2..4),
    ];
    let payload = select(vec![0u16, 511, 512, 600, 1231, 1232, 4096, 65535]);
    let version = prop_oneof![20 => Just(0u8), 1 => Just(1u8)];
    let odd = (any::<u8>(), version, select(vec![0u8, 0x80, 0x7f]), any::<u8>());
    let wrong_length = prop_oneof![20 => Just(0u8), 1 => any::<u8>()];
    let record = (payload, odd, options, wrong_length).prop_map(
        |(payload, (high, version, flags, more), options, wrong)| {
            let mut data = Vec::new();
            for (code, bytes) in options {
                data.extend(code.to_be_bytes());
                data.extend(u16::try_from(bytes.len()).expect("short").to_be_bytes());
                data.extend(bytes);
            }
            let [p0, p1] = payload.to_be_bytes();
            let length = u16::try_from(data.len()).expect("short").wrapping_add(wrong.into());
            let [l0, l1] = length.to_be_bytes();
            let mut record = vec![0, 0, 41, p0, p1, high, version, flags, more, l0, l1];
            record.extend(data);
            record
        },
    );
    prop::option::weighted(0.6, record)
}

fn zone(services: &Answers, serial: u32) -> Zone {
    let fabric = sample::fabric();
    let serial = Serial(serial);
    let zone = &fabric.zone;
    Zone::build(ZoneSource { zone, fabric: &fabric, home: None, serial, services }).expect("names")
}

/// Servers that say everything, and one that says nothing.
fn profiles() -> [Profile; 3] {
    let isolated = serve::profile();
    isolated.set_isolated(Some(1));
    let strict = Profile { cookies_required: true, ..serve::profile() };
    [isolated, strict, Profile::default()]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn prepared_and_full_answers_are_the_same_bytes(
        first in services(),
        second in services(),
        messages in prop::collection::vec(message(), 40),
        source in select(&CLIENTS[..]),
        transport in 0usize..4,
        serial: u32,
    ) {
        let profiles = profiles();
        let transports = [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Https];
        let transport = transports[transport];
        let built = zone(&first, serial);
        // The same again, reached by changes, with a service less.
        let gone = "shop/test/a".parse().expect("an id");
        let put = second.iter().map(|(id, a)| (id, Some(a)));
        let changes: nett_dns::Changes<'_> = put.chain([(&gone, None)]).collect();
        let changed = built.with(&changes, Serial(serial).next());
        for zone in [&built, &changed] {
            for packet in &messages {
                let (source, profile) = (ip(source), &profiles[packet.len() % 3]);
                let ask = Ask { packet, source, transport, now: 7, profile };
                // What was in the buffer before must not matter.
                let (mut quick, mut full) = (vec![0xee; 70], Vec::new());
                if let Some(outcome) = answer_from_prepared(zone, &ask, &mut quick) {
                    let expected = answer_in_full(zone, &ask, &mut full);
                    prop_assert_eq!(outcome, expected, "{:?}", packet);
                    prop_assert_eq!(&quick, &full, "{:?}", packet);
                }
            }
        }
    }
}

#[test]
fn what_resolvers_ask_is_answered_from_prepared_bytes() {
    let zone = zone(&sample::usual(), 1);
    let profiles = profiles();
    let with_edns = |mut packet: Vec<u8>, record: &[u8]| {
        packet[11] = 1;
        packet.extend(record);
        packet
    };
    for (name, kind) in [
        ("\x03api\x04prod\x04shop", 1u8),
        ("\x03aPI\x04prod\x04shop", 28),
        ("\x03api\x04prod\x04shop", 15),
        ("\x04ramp\x04prod\x04shop", 1),
        ("\x04near\x04prod\x04shop", 1),
        ("\x04last\x04prod\x04shop", 1),
        ("\x06refuse\x04prod\x04shop", 1),
        ("\x08fallback\x04prod\x04shop", 1),
        ("\x08fallback\x04prod\x04shop", 28),
        ("\x04nope\x04prod\x04shop", 1),
        ("\x04prod\x04shop", 1),
    ] {
        let mut packet = vec![1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        packet.extend(name.bytes());
        packet.extend(b"\x05steer\x07example\0\0");
        packet.extend([kind, 0, 1]);
        let plain = [0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0];
        let subnet = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 11, 0, 8, 0, 7, 0, 1, 24, 0, 10, 2, 0];
        let cookie = [&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 12, 0, 10, 0, 8][..], &[7; 8]].concat();
        for packet in [
            packet.clone(),
            with_edns(packet.clone(), &plain),
            with_edns(packet.clone(), &subnet),
            with_edns(packet, &cookie),
        ] {
            let (packet, source, transport) = (&packet, ip("10.1.0.1"), Transport::Udp);
            let ask = Ask { packet, source, transport, now: 7, profile: &profiles[0] };
            let mut out = Vec::new();
            assert!(answer_from_prepared(&zone, &ask, &mut out).is_some(), "{name:?} {kind}");
        }
    }
}
