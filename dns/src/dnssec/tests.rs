//! A zone that was changed step by step is signed as one that was made at once.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::Name;
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use nett_policy::id::{Epoch, ServiceId};
use nett_policy::lower::answers::{Answers, ServiceAnswers};
use nett_policy::service::Ttl;
use proptest::prelude::*;

use super::key::{Keys, ZoneKey};
use super::stats::SigningStats;
use crate::records::Record;
use crate::serial::Serial;
use crate::zone::{Zone, ZoneSource};
use crate::{Ask, Changes, sample};

const NOW: u64 = 1_800_000_000;

fn keys(stats: &Arc<SigningStats>) -> Arc<Keys> {
    let key = Arc::new(ZoneKey::generate());
    let validity = Duration::from_secs(14 * 86_400);
    let keys = Keys::new(sample::ZONE, (key, None), Vec::new(), validity, Arc::clone(stats));
    Arc::new(keys.expect("it signs"))
}

fn build(services: &Answers, keys: &Arc<Keys>) -> Zone {
    let fabric = sample::fabric();
    let home = sample::site("osl");
    let source = ZoneSource {
        zone: &fabric.zone,
        fabric: &fabric,
        home: Some(&home),
        serial: Serial(1),
        services,
    };
    Zone::build(source).expect("valid names").with_keys(Arc::clone(keys), NOW)
}

/// All records of a copy but signatures, whose bytes are random, and SOA, which has the serial.
fn content(zone: &Zone) -> Vec<Record> {
    let signed = zone.signed().expect("it is");
    let site = zone.topology().index(&sample::site("osl"));
    let mut records = Vec::new();
    signed.fixed_records(zone, &mut records);
    for key in signed.service_keys() {
        signed.service_records(zone, &key, site, &mut records);
    }
    for key in signed.link_keys() {
        signed.link_records(zone, &key, site, &mut records);
    }
    const RRSIG: u16 = 46;
    records.retain(|r| r.kind != RRSIG);
    records.sort();
    records
}

/// What may be done to a service.
#[derive(Debug, Clone, Copy)]
enum Step {
    Place(&'static str),
    Drain,
    OneFamily,
    Nowhere,
    Remove,
    CatchUp,
}

fn steps() -> impl Strategy<Value = Vec<(u8, Step)>> {
    let step = prop_oneof![
        4 => prop::sample::select(vec!["osl", "sto", "fra"]).prop_map(Step::Place),
        1 => Just(Step::Drain),
        1 => Just(Step::OneFamily),
        1 => Just(Step::Nowhere),
        2 => Just(Step::Remove),
        3 => Just(Step::CatchUp),
    ];
    prop::collection::vec((0_u8..6, step), 1..40)
}

fn name(n: u8) -> String {
    // Neighbours in the chain that are not neighbours in the alphabet.
    format!("{}/{}/s{n}", ["a", "ab", "shop"][usize::from(n % 3)], ["x", "y"][usize::from(n % 2)])
}

fn answers(n: u8, step: Step, epoch: u64) -> Option<ServiceAnswers> {
    let at = |site| sample::answers(&name(n), sample::weighted(&[(site, 1)]));
    let mut answers = match step {
        Step::Place(site) => at(site),
        Step::Drain => {
            let mut drained = at("sto");
            sample::standing(&mut drained).drained.insert(sample::site("osl"));
            drained
        }
        Step::OneFamily => {
            let mut one = at("fra");
            sample::fixed(&mut one).sites[2].addresses.retain(IpAddr::is_ipv4);
            one
        }
        Step::Nowhere => sample::answers(&name(n), nett_policy::traffic::Spread::Nowhere),
        Step::Remove | Step::CatchUp => return None,
    };
    answers.epoch = Epoch(epoch);
    Some(answers)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn steps_lead_where_one_step_leads(steps in steps()) {
        let keys = keys(&Arc::default());
        let mut services = Answers::new();
        let mut zone = build(&services, &keys).caught_up(Serial(2), usize::MAX, NOW);
        for (at, (n, step)) in (1..).zip(steps) {
            let serial = zone.serial().next();
            if let Step::CatchUp = step {
                zone = zone.caught_up(serial, 2, NOW);
                continue;
            }
            let id: ServiceId = name(n).parse().expect("an id");
            let answers = answers(n, step, at);
            zone = zone.with(&Changes::from([(&id, answers.as_ref())]), serial);
            match answers {
                Some(answers) => drop(services.insert(id, answers)),
                None => drop(services.remove(&id)),
            }
        }
        let zone = zone.caught_up(zone.serial().next(), usize::MAX, NOW);
        let whole = build(&services, &keys).caught_up(Serial(2), usize::MAX, NOW);
        prop_assert_eq!(content(&zone), content(&whole));
    }
}

#[test]
fn a_move_signs_nothing_and_what_follows_only_what_changed() {
    let stats = Arc::default();
    let keys = keys(&stats);
    let services = sample::usual();
    let zone = build(&services, &keys).caught_up(Serial(2), usize::MAX, NOW);
    let all = stats.signatures();
    let mut zone = zone;
    for (n, site) in (0..8).zip(["sto", "fra", "osl"].into_iter().cycle()) {
        let mut moved = sample::answers("shop/prod/api", sample::weighted(&[(site, 1)]));
        moved.epoch = Epoch(100 + n);
        let changes = Changes::from([(&moved.fixed.service, Some(&moved))]);
        zone = zone.with(&changes, zone.serial().next());
    }
    assert_eq!(stats.signatures(), all, "eight moves");
    zone = zone.caught_up(zone.serial().next(), usize::MAX, NOW);
    // Five texts: of the service, three sites, and all of them. And SOA records to come.
    assert_eq!(stats.signatures(), all + 5 + 9);
    assert!(!zone.is_behind());
}

/// A question for A records as another implementation writes it.
fn question(name: &str, signatures: bool) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    let name = Name::from_ascii(format!("{name}.steer.example.")).expect("a name");
    message.add_query(Query::query(name, hickory_proto::rr::RecordType::A));
    let mut edns = Edns::new();
    edns.set_max_payload(1232).set_dnssec_ok(signatures);
    message.set_edns(edns);
    message.to_vec().expect("small")
}

#[test]
fn signed_addresses_take_the_short_way_and_denials_the_long_one() {
    let zone = build(&sample::usual(), &keys(&Arc::default()));
    let zone = zone.caught_up(Serial(2), usize::MAX, NOW);
    let (source, profile) = (sample::ip("10.1.2.3"), crate::Profile::default());
    for (name, short) in [
        ("api.prod.shop", true),
        ("near.prod.shop", true),
        ("fallback.prod.shop", true),
        ("refuse.prod.shop", false),
        ("nothing.prod.shop", false),
        ("prod.shop", false),
    ] {
        let packet = question(name, true);
        let transport = crate::Transport::Udp;
        let ask = Ask { packet: &packet, source, transport, now: 1, profile: &profile };
        let (mut quick, mut full) = (Vec::new(), Vec::new());
        let prepared = crate::answer_from_prepared(&zone, &ask, &mut quick);
        assert_eq!(prepared.is_some(), short, "{name}");
        let outcome = crate::answer_in_full(&zone, &ask, &mut full);
        assert!(!short || (prepared, quick) == (Some(outcome), full), "{name}");
    }
}

/// Status, extended error, and whether there are signatures.
fn ask(zone: &Zone, name: &str, signatures: bool) -> (ResponseCode, Option<u16>, bool) {
    use hickory_proto::rr::RecordType as Kind;
    let packet = question(name, signatures);
    let (source, profile) = (sample::ip("10.1.2.3"), crate::Profile::default());
    let transport = crate::Transport::Udp;
    let ask = Ask { packet: &packet, source, transport, now: 1, profile: &profile };
    let mut out = Vec::new();
    crate::answer(zone, &ask, &mut out);
    let answer = Message::from_vec(&out).expect("valid");
    let error = answer.edns.as_ref().and_then(|e| e.option(EdnsCode::Unknown(15)).cloned());
    let error = error.map(|option| match option {
        EdnsOption::Unknown(_, data) => u16::from_be_bytes([data[0], data[1]]),
        other => panic!("{other:?}"),
    });
    let signed = answer.answers.iter().any(|r| r.record_type() == Kind::RRSIG);
    let rcode = answer.metadata.response_code;
    assert_eq!(answer.metadata.authoritative, rcode != ResponseCode::ServFail);
    (rcode, error, signed)
}

#[test]
fn while_the_first_signatures_are_made_nothing_is_denied_and_all_else_is_answered() {
    use ResponseCode::{NXDomain, NoError, ServFail};
    let at_osl =
        |n: &str| sample::answers(&format!("shop/prod/{n}"), sample::weighted(&[("osl", 1)]));
    let zone = build(&sample::services(["a", "b", "c"].map(at_osl)), &keys(&Arc::default()));
    let mut zone = zone.caught_up(Serial(2), 1, NOW);
    let name = |n: &str| format!("{n}.prod.shop");
    let signed = |zone: &Zone| {
        let ready = |n: &&&str| ask(zone, &name(n), true) == (NoError, None, true);
        ["a", "b", "c"].iter().filter(ready).count()
    };
    assert_eq!(signed(&zone), 1);
    for n in ["a", "b", "c"] {
        let told = ask(&zone, &name(n), false);
        assert_eq!(told, (NoError, None, false), "who does not ask for signatures");
    }
    assert_eq!(ask(&zone, "nothing", false), (NXDomain, None, false));
    assert_eq!(ask(&zone, "nothing", true), (ServFail, Some(14), false));
    assert_eq!(ask(&zone, "site.a.prod.shop", true), (ServFail, Some(14), false));
    assert!(!zone.can_be_copied());
    zone = zone.caught_up(Serial(3), 1, NOW);
    assert_eq!(signed(&zone), 2);
    zone = zone.caught_up(Serial(4), 1, NOW);
    assert_eq!(signed(&zone), 3);
    assert_eq!(ask(&zone, "nothing", true), (NXDomain, None, false));
    assert!(zone.can_be_copied());
    // A service that comes later holds up nobody.
    let new = at_osl("d");
    let changes = Changes::from([(&new.fixed.service, Some(&new))]);
    zone = zone.with(&changes, Serial(5));
    assert_eq!(ask(&zone, "nothing", true), (NXDomain, None, false));
}

#[test]
fn lowering_the_ttl_signs_nothing_and_neither_does_the_move_behind_it() {
    let stats = Arc::default();
    let keys = keys(&stats);
    let at = |site, lowered, epoch| {
        let mut answers = sample::answers("shop/prod/api", sample::weighted(&[(site, 1)]));
        sample::fixed(&mut answers).ttl =
            Ttl { ceiling: Duration::from_secs(300), floor: Duration::from_secs(5) };
        (sample::standing(&mut answers).lowered, answers.epoch) = (lowered, Epoch(epoch));
        answers
    };
    let mut zone = build(&sample::services([at("osl", false, 1)]), &keys);
    zone = zone.caught_up(Serial(2), usize::MAX, NOW);
    let all = stats.signatures();
    let step = |zone: &Zone, answers: ServiceAnswers| {
        let changes = Changes::from([(&answers.fixed.service, Some(&answers))]);
        zone.with(&changes, zone.serial().next())
    };
    let ttls = |zone: &Zone| -> BTreeSet<u32> {
        let records = content(zone).into_iter();
        let a = u16::from(hickory_proto::rr::RecordType::A);
        let own = |r: &Record| r.kind == a && *r.owner == *b"\x03api\x04prod\x04shop";
        records.filter(own).map(|r| r.ttl).collect()
    };
    assert_eq!(ttls(&zone), BTreeSet::from([300]));
    zone = step(&zone, at("osl", true, 1));
    assert_eq!(ttls(&zone), BTreeSet::from([5]));
    zone = step(&zone, at("sto", true, 1));
    zone = step(&zone, at("sto", false, 1));
    assert_eq!(ttls(&zone), BTreeSet::from([300]));
    assert_eq!(stats.signatures(), all, "lowered, moved, restored");
}

#[test]
fn keys_that_cannot_be_used_say_why() {
    use super::key::ZoneKeyMistake as M;
    let read = |text: &str| ZoneKey::read("steer.example.", text, None).expect_err(text);
    let key = "A".repeat(86) + "==";
    assert_eq!(read("; nothing"), M::NoRecord);
    assert_eq!(read("steer.example. IN DNSKEY 257"), M::NoRecord);
    assert_eq!(read(&format!("other. IN DNSKEY 257 3 13 {key}")), M::OtherZone("other.".into()));
    let rsa = M::Algorithm("8".into());
    assert_eq!(read(&format!("steer.example. 60 IN DNSKEY 257 3 8 {key}")), rsa);
    // 384 is 256 with the bit that revokes.
    assert_eq!(read(&format!("steer.example. IN DNSKEY 384 3 13 {key}")), M::Flags(384));
    assert_eq!(read("steer.example. IN DNSKEY 257 3 13 AAAA"), M::Public);
    let text = format!("steer.example. IN DNSKEY 257 3 13 {key}");
    let with = |private: &str| ZoneKey::read("steer.example.", &text, Some(private)).err();
    assert_eq!(with("Private-key-format: v1.3"), Some(M::Private));
    let secret = format!("PrivateKey: {}=", "A".repeat(43));
    assert_eq!(with(&secret), Some(M::Pair));
}

/// One key of 256 that `dnssec-keygen` makes has a private half of 31 bytes.
#[test]
fn a_private_key_without_its_leading_zero_is_read() {
    let public = "steer.example. IN DNSKEY 257 3 13 tBrfbXIwXS5Xicu04itOkjnhTtzei3ILTGvT5hUiP/\
                  CsOgOnoEd4W2LsoKJjIAfo0D4E9TFXlXHJvcy5oa0xZg==";
    let private = "PrivateKey: FDsbNoovHhqVxVtM7R5q2cgD8NNX0dyaOACczRuIKQ==";
    ZoneKey::read("steer.example.", public, Some(private)).expect("a pair");
}
