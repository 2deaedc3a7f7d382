//! The messages: what is written is read back, the same bytes for ever, and nothing else gets in.

mod bus_fixture;

use std::collections::{BTreeMap, BTreeSet};

use bus_fixture::*;
use nett_agent::bus::wire::{
    self, Ack, Blame, Head, MAX_BYTES, OpenError, Report, Sealed, WireError, fact_subject,
    open_entry, open_fact, open_report, open_request, request_subject, seal_entry, seal_fact,
    seal_report, seal_request,
};
use nett_policy::fabric::OperatorRole;
use nett_policy::fact::{Fact, FactKey, Measured};
use nett_policy::id::{ServiceId, WallMs, Weight, sha256_hex};
use nett_policy::log::entry::{
    AdoptFact, Ask, Body, Change, Command, Directive, EffectiveFact, EndFact, Entry, FabricRef,
    Move, Object, Outcome, Ramp, Refused, Request, Slot, StepFact, StepState, Terms, Turn,
    TurnFact, Verb, Wish, WishKind, Write,
};
use nett_policy::traffic::Spread;
use proptest::prelude::*;
use serde_json::{Value, json};

fn ask_variants() -> Vec<(Ask, &'static str)> {
    let weights = BTreeMap::from([
        (id("osl"), Weight::new(70).expect("in range")),
        (id("svg"), Weight::new(256).expect("in range")),
    ]);
    let command = |verb| Ask::Command {
        verb,
        plan_hash: None,
        overrides: BTreeSet::new(),
        terms: Terms::default(),
    };
    let wish = |kind| Ask::Wish { task: entry_id("svg", 9), kind };
    let api = "service.shop~prod~api";
    let at = Object::ServiceAt(id("shop/prod/api"), id("svg"));
    let task = "task.svg-01jd3m5w7r8v3qyb2s9t000009";
    let all = vec![
        (
            command(Verb::Failover { services: id("shop/prod/api"), to: id("svg") }),
            format!("failover.{api}"),
        ),
        (command(Verb::Failback { services: id("shop/*") }), "failback.service.many".into()),
        (command(Verb::Steer { services: id("*"), to: weights }), "steer.service.many".into()),
        (command(Verb::Drain { object: Object::Site(id("osl")) }), "drain.site.osl".into()),
        (
            command(Verb::Drain { object: Object::Cluster(id("osl/k1")) }),
            "drain.cluster.osl~k1".into(),
        ),
        (command(Verb::Undrain { object: at }), format!("undrain.{api}")),
        (command(Verb::Revert { task: entry_id("svg", 9) }), format!("revert.{task}")),
        (
            command(Verb::Evacuate { site: id("osl"), to: Some(id("svg")) }),
            "evacuate.site.osl".into(),
        ),
        (command(Verb::Evacuate { site: id("osl"), to: None }), "evacuate.site.osl".into()),
        (command(Verb::Hold { services: id("shop/*") }), "hold.service.many".into()),
        (command(Verb::Release { services: id("shop/prod/api") }), format!("release.{api}")),
        (
            command(Verb::Resolve { subject: id("shop/prod/api"), to: Some(id("osl")) }),
            format!("resolve.{api}"),
        ),
        (
            command(Verb::Resolve { subject: id("drained:osl"), to: None }),
            "resolve.site.osl".into(),
        ),
        (
            command(Verb::Resolve { subject: id("drained:shop/prod/api@osl"), to: None }),
            format!("resolve.{api}"),
        ),
        (command(Verb::Revoke { person: "jon".to_owned() }), "revoke.key.many".into()),
        (
            Ask::Command {
                verb: Verb::Failback { services: id("*") },
                plan_hash: None,
                overrides: BTreeSet::new(),
                terms: Terms {
                    supersede: true,
                    asserted: BTreeSet::from([id("osl-b1")]),
                    without: BTreeSet::new(),
                    confirm_within: Some(std::time::Duration::from_secs(300)),
                    ramp: Some(Ramp {
                        steps: vec![10, 100],
                        dwell: std::time::Duration::from_secs(30),
                        only_while: Some("error-rate <= 1%".into()),
                    }),
                    until: Some(WallMs(NOW.0 + 3_600_000)),
                    soft: true,
                },
            },
            "failback.service.many".into(),
        ),
        (wish(WishKind::Cancel), format!("cancel.{task}")),
        (wish(WishKind::Pause), format!("pause.{task}")),
        (wish(WishKind::Resume), format!("resume.{task}")),
        (wish(WishKind::Confirm), format!("confirm.{task}")),
        (wish(WishKind::Gate { name: "data-ready".into() }), format!("gate.{task}")),
        (
            wish(WishKind::Adopt { asserted: BTreeSet::from([id("osl-b1")]) }),
            format!("adopt.{task}"),
        ),
        (wish(WishKind::Approve { plan_hash: "ab".into() }), format!("approve.{task}")),
        (wish(WishKind::Reject), format!("reject.{task}")),
    ];
    all.into_iter().map(|(ask, tail)| (ask, &*tail.leak())).collect()
}

#[test]
fn every_request_survives_the_way_and_names_its_subject() {
    for (ask, tail) in ask_variants() {
        let request = Request { ask, ..request("osl", 1) };
        let subject = request_subject(&request);
        assert_eq!(subject, format!("nett.l.cmd.osl.{tail}"));
        let bytes = seal_request(&request, &subject, &key(MIRA)).expect("signs");
        assert_eq!(open_request(&bytes, &subject, &fabric()).expect(tail), request);
        // An orchestrator's JSON need not be canonical.
        let value: Value = serde_json::from_slice(&bytes).expect("JSON");
        let pretty = serde_json::to_vec_pretty(&value).expect("JSON");
        assert_eq!(open_request(&pretty, &subject, &fabric()).expect(tail), request);
        // Another site's agents may be asked over a subject of class c.
        let crossing = format!("nett.x.cmd.osl.svg.{tail}");
        let bytes = seal_request(&request, &crossing, &key(MIRA)).expect("signs");
        assert!(open_request(&bytes, &crossing, &fabric()).is_ok());
    }
}

/// A reader that passed over these sites would vote or serve against the claim: it must stop there.
#[test]
fn a_failover_without_a_quorum_is_for_newer_readers_and_nothing_else_is() {
    let versions = |bytes: &[u8]| {
        let value: Value = serde_json::from_slice(bytes).expect("JSON");
        [&value["v"], &value["min_reader"]].map(|number| number.as_u64().expect("a number"))
    };
    let terms = Terms { without: BTreeSet::from([id("svg")]), ..Terms::default() };
    let verb = Verb::Failover { services: id("shop/prod/api"), to: id("osl") };
    let alone = Ask::Command { verb, plan_hash: None, overrides: BTreeSet::new(), terms };
    let others = ask_variants().into_iter().map(|(ask, _)| (ask, [1, 1]));
    for (ask, wanted) in others.chain([(alone, [2, 2])]) {
        let request = Request { ask, ..request("osl", 1) };
        let bytes = sealed_request(&request);
        assert_eq!(versions(&bytes), wanted, "{request:?}");
        let opened = open_request(&bytes, &request_subject(&request), &fabric());
        assert_eq!(opened.expect("opens"), request);
        let (refused_by, message) = ("a rule".into(), "not so".into());
        let body = Body::Refused(Refused { request, refused_by, message });
        let draft = draft("osl", "osl-b1", 4, body, Some(bytes));
        let (stored, _) = seal_entry(draft, &key(OSL_B1)).expect("signs");
        assert_eq!(versions(&stored), wanted);
        Sealed::open_stored(&stored, &fabric()).expect("opens");
    }
}

fn measured() -> Measured {
    Measured {
        id: entry_id("osl", 44),
        service: id("shop/prod/api"),
        name: "data-lag".into(),
        value: "0.25".parse().expect("a number"),
        unit: "s".into(),
        measured_at: WallMs(1_795_253_399_000),
    }
}

fn bodies() -> Vec<(Body, Option<Vec<u8>>)> {
    let slot = Slot { task: entry_id("osl", 1), term: 1, index: 3 };
    let (command, verbatim) = command_body("osl", 1);
    let waiting = Body::Command(Command {
        request: request("osl", 1),
        plan_hash: "ab12".into(),
        approvals_needed: 2,
        supersedes: vec![entry_id("svg", 5)],
        bad_since: Some(WallMs(1_795_253_300_000)),
        effect: None,
    });
    let refused = Body::Refused(Refused {
        request: request("osl", 1),
        refused_by: "expired".into(),
        message: "12 s late".into(),
    });
    let approve = Request {
        ask: Ask::Wish {
            task: entry_id("svg", 2),
            kind: WishKind::Approve { plan_hash: "cd".into() },
        },
        ..request("osl", 2)
    };
    let approve_verbatim = sealed_request(&approve);
    let mut effect = effect();
    effect.writes.push(Write {
        epoch: nett_policy::id::Epoch(1),
        prev: None,
        settles: BTreeSet::from([entry_id("osl", 6)]),
        change: Change::Drained(Object::Site(id("osl")), true),
        before: Change::Service(id("shop/prod/api"), Directive::Nominal),
    });
    effect.moves[0].to.spread = Spread::Nearest(BTreeSet::from([id("svg"), id("osl")]));
    effect.moves[0].to.answers = Spread::Nowhere;
    let effective = EffectiveFact {
        slot: slot.clone(),
        approvals: vec![entry_id("svg", 3), entry_id("osl", 4)],
        effect: effect.into(),
    };
    let states = [
        StepState::Started { gates: Vec::new(), facts: Vec::new() },
        StepState::Started { gates: vec![entry_id("svg", 8)], facts: vec![measured()] },
        StepState::Done { evidence: vec!["12 routes".into()] },
        StepState::Failed { reason: "no answer from svg".into() },
    ];
    let steps =
        states.map(|state| (Body::Step(StepFact { slot: slot.clone(), step: 2, state }), None));
    let turns = [Turn::Paused, Turn::Resumed].map(|turn| {
        let (slot, wish) = (slot.clone(), entry_id("osl", 7));
        (Body::Turn(TurnFact { slot, turn, wish }), None)
    });
    let adopt = WishKind::Adopt { asserted: BTreeSet::from([id("svg-b1")]) };
    let adopt =
        Request { ask: Ask::Wish { task: slot.task.clone(), kind: adopt }, ..request("osl", 3) };
    let adopt_verbatim = sealed_request(&adopt);
    let adopt = Body::Adopt(AdoptFact { request: adopt, slot: slot.clone(), rank: 2 });
    let outcomes = [
        Outcome::Done,
        Outcome::Failed,
        Outcome::Rejected,
        Outcome::Expired,
        Outcome::Cancelled,
        Outcome::Superseded,
        Outcome::Reverted,
    ];
    let ends = outcomes.map(|outcome| {
        (Body::End(EndFact { slot: slot.clone(), outcome, reason: String::new() }), None)
    });
    let mut all = vec![
        (command, Some(verbatim.clone())),
        (waiting, Some(verbatim.clone())),
        (refused, Some(verbatim)),
        (Body::Wish(Wish { request: approve }), Some(approve_verbatim)),
        (Body::Effective(effective), None),
        (adopt, Some(adopt_verbatim)),
    ];
    all.extend(turns);
    all.extend(steps);
    all.extend(ends);
    all
}

#[test]
fn every_entry_survives_the_way_with_its_bytes_and_hash() {
    for (body, verbatim) in bodies() {
        let draft = draft("osl", "osl-b1", 4, body.clone(), verbatim.clone());
        let (bytes, entry) = seal_entry(draft, &key(OSL_B1)).expect("signs");
        assert_eq!(entry.body, body);
        let subject = nett_agent::bus::subject::entry(&entry.site, &entry.body);
        let opened = open_entry(&bytes, &subject, &fabric()).expect("opens");
        assert_eq!(opened, entry);
        let stored = Sealed::open_stored(&bytes, &fabric()).expect("opens");
        assert_eq!((stored.entry, &*stored.bytes), (entry.clone(), &*bytes));

        // The hash is that of the canonical form without the signature.
        let mut value: Value = serde_json::from_slice(&bytes).expect("JSON");
        value.as_object_mut().expect("an object").remove("sig");
        let unsigned = serde_json_canonicalizer::to_vec(&value).expect("canonical");
        assert_eq!(entry.position.hash, sha256_hex(&unsigned));
        // The operator's request is inside as it was signed.
        let inside = value.get("request").map(|r| serde_json_canonicalizer::to_vec(r).expect("c"));
        assert_eq!(inside, verbatim);
    }
}

fn report() -> Report {
    let head = Head { boot: "5f0c".into(), seq: 412, hash: "aa".into() };
    Report {
        site: id("svg"),
        node: id("svg-r1"),
        at: NOW,
        fabric: FabricRef { generation: fabric().generation, hash: fabric().hash },
        heads: BTreeMap::from([(id("osl"), head)]),
        acks: vec![Ack {
            slot: Slot { task: entry_id("osl", 1), term: 0, index: 2 },
            ok: true,
            evidence: vec!["table 7000 read back".into()],
        }],
        measuring: [(
            Slot { task: entry_id("osl", 1), term: 0, index: 4 },
            vec!["12/s to it, 0/s from it, quiet for 0 s of 10 s".into()],
        )]
        .into(),
        links: BTreeMap::from([(id("osl-svg-1"), true), (id("osl-svg-2"), false)]),
        doubted: [id("osl-svg-2")].into(),
        rtts: [(id("osl-svg-1"), std::time::Duration::from_micros(1_204))].into(),
        dns_serial: Some(u32::MAX),
        drift: vec!["route 10.99.0.10/32 missing".into()],
        degraded: vec!["journal".into()],
        counters: [("steered.svg".to_owned(), 12)].into(),
        bytes: [("steered.svg".to_owned(), 18_000)].into(),
    }
}

#[test]
fn a_report_survives_the_way_and_speaks_for_its_node_alone() {
    let subject = "nett.r.state.svg.svg-r1";
    let bytes = seal_report(&report(), &key(SVG_R1)).expect("signs");
    assert_eq!(open_report(&bytes, subject, &fabric()).expect("opens"), report());
    let neighbour = seal_report(&report(), &key(SVG_B1)).expect("signs");
    let refused = open_report(&neighbour, subject, &fabric());
    assert!(matches!(refused, Err(OpenError::NodeKey { .. })));
    let moved = open_report(&bytes, "nett.r.state.svg.svg-b1", &fabric());
    assert!(matches!(moved, Err(OpenError::Subject { .. })));
}

/// Compares with a golden file; `NETT_UPDATE=1` writes it.
fn golden(name: &str, bytes: &[u8]) {
    let value: Value = serde_json::from_slice(bytes).expect("JSON");
    let text = serde_json::to_string_pretty(&value).expect("JSON") + "\n";
    let path = format!("{}/tests/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("NETT_UPDATE").is_some() {
        std::fs::write(&path, &text).expect("the golden file can be written");
    }
    let expected = std::fs::read_to_string(&path).expect("run with NETT_UPDATE=1 to make it");
    assert_eq!(text, expected, "{path} differs; NETT_UPDATE=1 accepts the change");
}

#[test]
fn the_json_on_the_bus_stays_as_it_is() {
    golden("bus_request", &sealed_request(&request("osl", 1)));
    golden("bus_entry", &sealed_command("osl", 4).bytes);
    golden("bus_report", &seal_report(&report(), &key(SVG_R1)).expect("signs"));
    golden("bus_fact", &sealed_fact());
}

/// The data of one service is a quarter of a second behind.
fn lag() -> (FactKey, Fact) {
    let fact = Fact {
        id: entry_id("osl", 44),
        value: "0.25".parse().expect("a number"),
        unit: "s".into(),
        measured_at: WallMs(NOW.0 - 1_000),
        expires_at: WallMs(NOW.0 + 29_000),
        person: "mira".into(),
    };
    ((Some(id("shop/prod/api")), "data-lag".into()), fact)
}

fn sealed_fact() -> Vec<u8> {
    let (about, fact) = lag();
    seal_fact(&id("osl"), &about, &fact, &key(MIRA)).expect("signs")
}

/// What moves ten thousand services is little more than their names.
#[test]
fn an_effect_on_many_services_fits_into_an_entry() {
    let mut all = effect();
    let one = all.moves[0].clone();
    let step = all.steps[0].clone();
    (all.moves, all.steps) = (Vec::new(), vec![step.clone(), step]);
    all.steps[1].number = 2;
    for n in 0..10_000 {
        let service: ServiceId = id(&format!("shop/prod/service-{n:05}"));
        let mut moved = Move { service: service.clone(), ..one.clone() };
        moved.epoch.0 += u64::from(n % 3 == 0);
        for step in &mut all.steps {
            let state = if n % 2 == 0 { moved.to.clone() } else { moved.from.clone() };
            step.states.insert(service.clone(), state);
        }
        all.moves.push(moved);
    }
    for step in &mut all.steps {
        step.states.retain(|service, _| service.as_str().contains("service-"));
    }
    let slot = Slot { task: entry_id("osl", 1), term: 0, index: 0 };
    let body = Body::Effective(EffectiveFact { slot, approvals: Vec::new(), effect: all.into() });
    let (bytes, entry) =
        seal_entry(draft("osl", "osl-b1", 1, body.clone(), None), &key(OSL_B1)).expect("it fits");
    assert_eq!(entry.body, body);
    let opened = wire::open_stored_entry(&bytes, &fabric()).expect("believed");
    assert_eq!(opened.body, body, "nothing is lost, and nothing is out of order");
    assert!(bytes.len() < 25 * 10_000, "{} bytes", bytes.len());
}

#[test]
fn a_fact_is_believed_of_a_gate_at_its_site_and_under_its_subject() {
    let mut fabric = fabric();
    fabric.operators[0].roles.push(OperatorRole::Gate);
    let (about, fact) = lag();
    let subject = fact_subject(&id("osl"), &about);
    assert_eq!(subject, "nett.l.fact.osl.shop~prod~api.data-lag");
    let open = |bytes: &[u8], subject: &str| open_fact(bytes, subject, &id("osl"), &fabric);
    let bytes = sealed_fact();
    assert_eq!(open(&bytes, &subject).expect("believed"), (about, fact));
    assert!(matches!(
        open(&bytes, "nett.l.fact.osl.shop~prod~pay.data-lag"),
        Err(OpenError::Subject { .. })
    ));
    let elsewhere = open_fact(&bytes, &subject, &id("svg"), &fabric);
    assert!(matches!(elsewhere, Err(OpenError::Site { .. })), "{elsewhere:?}");
    let plain = open_fact(&bytes, &subject, &id("osl"), &bus_fixture::fabric());
    assert!(matches!(plain, Err(OpenError::Value { field: "operator", .. })), "{plain:?}");
    let changed: [(&str, Value); 4] = [
        ("value", json!("0.0001")),
        ("value", json!(1)),
        ("name", json!("data.lag")),
        ("service", json!("shop/prod/pay")),
    ];
    for (field, value) in changed {
        let forged = forge(&bytes, "operator", MIRA, |fact| fact[field] = value.clone());
        assert!(open(&forged, &subject).is_err(), "{field} = {value}");
    }
    let stolen = forge(&bytes, "operator", JON, |_| {});
    assert!(matches!(open(&stolen, &subject), Err(OpenError::OperatorName { .. })));
    let mut torn: Value = serde_json::from_slice(&bytes).expect("JSON");
    torn["value"] = json!("0.5");
    let torn = serde_json::to_vec(&torn).expect("JSON");
    assert!(matches!(open(&torn, &subject), Err(OpenError::Signature { .. })));
}

/// Changes a message's JSON and signs it again as `signer`, so that only the change is wrong.
fn forge(bytes: &[u8], by: &str, signer: u8, change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut value: Value = serde_json::from_slice(bytes).expect("JSON");
    change(&mut value);
    let map = value.as_object_mut().expect("an object");
    map.remove("sig");
    let canonical = serde_json_canonicalizer::to_vec(map).expect("canonical");
    let signature = key(signer).sign(&canonical).expect("has the seed");
    let value = data_encoding::BASE64URL_NOPAD.encode(&signature);
    let sig = json!([{"by": by, "key": key(signer).public_key(), "value": value}]);
    map.insert("sig".into(), sig);
    serde_json_canonicalizer::to_vec(map).expect("canonical")
}

fn open_changed(change: impl FnOnce(&mut Value)) -> Result<Request, OpenError> {
    let request = request("osl", 1);
    let bytes = forge(&sealed_request(&request), "operator", MIRA, change);
    open_request(&bytes, &request_subject(&request), &fabric())
}

#[test]
fn a_forged_request_is_refused() {
    let request = request("osl", 1);
    let (bytes, subject) = (sealed_request(&request), request_subject(&request));
    let open = |bytes: &[u8]| open_request(bytes, &subject, &fabric());
    assert!(open(&bytes).is_ok());

    let text = String::from_utf8(bytes.clone()).expect("JSON is UTF-8");
    let changed = text.replace("\"to\":\"svg\"", "\"to\":\"osl\"");
    assert!(matches!(open(changed.as_bytes()), Err(OpenError::Signature { .. })));
    let replayed = open_request(&bytes, "nett.l.cmd.svg.failover.service.many", &fabric());
    assert!(matches!(replayed, Err(OpenError::Subject { .. })));

    // Signed by somebody the fabric does not know, by another operator, by a node.
    let stranger = forge(&bytes, "operator", 77, |_| {});
    assert!(matches!(open(&stranger), Err(OpenError::UnknownOperator { .. })));
    let other = forge(&bytes, "operator", JON, |_| {});
    assert!(matches!(open(&other), Err(OpenError::OperatorName { .. })));
    let renamed = forge(&bytes, "operator", JON, |v| v["operator"]["name"] = json!("jon"));
    assert!(matches!(open(&renamed), Err(OpenError::OperatorName { .. })));
    let node = forge(&bytes, "operator", OSL_B1, |_| {});
    assert!(matches!(open(&node), Err(OpenError::UnknownOperator { .. })));
    let role = forge(&bytes, "agent", MIRA, |_| {});
    assert!(matches!(open(&role), Err(OpenError::SignatureForm)));
    // Mira's key named, another's signature.
    let mixed = forge(&bytes, "operator", JON, |_| {});
    let mixed = String::from_utf8(mixed).expect("UTF-8");
    let mixed = mixed.replace(&key(JON).public_key(), &key(MIRA).public_key());
    assert!(matches!(open(mixed.as_bytes()), Err(OpenError::Signature { .. })));
}

#[test]
fn a_signed_request_must_agree_with_itself() {
    assert!(open_changed(|_| {}).is_ok());
    let site = open_changed(|v| v["site"] = json!("svg"));
    assert!(matches!(site, Err(OpenError::Site { .. })), "{site:?}");
    let id_site = open_changed(|v| v["id"] = json!("svg.01jd3m5w7r8v3qyb2s9t000001"));
    assert!(matches!(id_site, Err(OpenError::Site { .. })));
    let verb = open_changed(|v| v["body"] = json!({"verb": "failback", "services": "*"}));
    assert!(matches!(verb, Err(OpenError::Subject { .. })));
    let time = open_changed(|v| v["expires_at"] = json!("2026-11-21T10:30:00.000+01:00"));
    assert!(matches!(time, Err(OpenError::Value { field: "expires_at", .. })));
    let newer = open_changed(|v| (v["v"], v["min_reader"]) = (json!(3), json!(3)));
    assert!(matches!(newer, Err(OpenError::NeedsUpgrade { .. })));
    assert_eq!(newer.expect_err("refused").blame(), Blame::Upgrade);
    for change in [
        (|v| v["extra"] = json!(1)) as fn(&mut Value),
        |v| v["body"]["extra"] = json!(1),
        |v| v["operator"]["extra"] = json!(1),
        |v| v["operator"]["reason"] = json!(null),
        |v| v["body"]["to"] = json!("Not A Site"),
        |v| v["body"]["verb"] = json!("destroy"),
        |v| drop(v.as_object_mut().expect("an object").remove("expires_at")),
    ] {
        let error = open_changed(change).expect_err("refused");
        assert_eq!(error.blame(), Blame::Sender, "{error}");
    }
}

#[test]
fn only_one_reading_of_the_json_is_possible() {
    let subject = request_subject(&request("osl", 1));
    let text = String::from_utf8(sealed_request(&request("osl", 1))).expect("UTF-8");
    let twice = text.replacen('{', "{\"site\":\"osl\",", 1);
    let exponent = text.replace("\"v\":1", "\"v\":1e0");
    let huge = text.replace("\"v\":1", "\"v\":9007199254740993");
    let negative = text.replace("\"v\":1", "\"v\":-1");
    let trailing = format!("{text}{{}}");
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let deep_member = text.replacen('{', &format!("{{\"x\":{},", "[".repeat(17)), 1);
    for bad in [twice, exponent, huge, negative, trailing, deep, deep_member, "[]".into()] {
        let error = open_request(bad.as_bytes(), &subject, &fabric()).expect_err("refused");
        assert!(matches!(error, OpenError::Json(_)), "{error:?}");
    }
    let large = format!("{text}{}", " ".repeat(MAX_BYTES));
    let refused = open_request(large.as_bytes(), &subject, &fabric());
    assert!(matches!(refused, Err(OpenError::TooLarge { .. })));
}

fn open_changed_entry(signer: u8, change: impl FnOnce(&mut Value)) -> Result<Entry, OpenError> {
    let sealed = sealed_command("osl", 4);
    let bytes = forge(&sealed.bytes, "agent", signer, change);
    open_entry(&bytes, &sealed.subject(), &fabric())
}

#[test]
fn a_forged_entry_is_refused() {
    assert!(open_changed_entry(OSL_B1, |_| {}).is_ok());
    // By an operator, by a node of another site, by a neighbour, by nobody.
    for signer in [MIRA, SVG_B1, OSL_R1, 77] {
        let refused = open_changed_entry(signer, |_| {});
        assert!(matches!(refused, Err(OpenError::NodeKey { .. })), "{signer}");
    }
    // A node of another site in its own name.
    let foreign = open_changed_entry(SVG_B1, |v| v["node"] = json!("svg-b1"));
    assert!(matches!(foreign, Err(OpenError::Site { .. })));
    let unknown = open_changed_entry(OSL_B1, |v| v["node"] = json!("osl-b9"));
    assert!(matches!(unknown, Err(OpenError::UnknownNode { .. })));
    let subject = open_changed_entry(OSL_B1, |v| v["subject"] = json!("nett.r.log.osl.end.x"));
    assert!(matches!(subject, Err(OpenError::Subject { .. })));
    let lane = open_changed_entry(OSL_B1, |v| v["lane"] = json!("svg"));
    assert!(matches!(lane, Err(OpenError::Site { .. })));
    // The agent rewrites what the operator asked for.
    let rewritten = open_changed_entry(OSL_B1, |v| v["request"]["body"]["to"] = json!("osl"));
    assert!(matches!(rewritten, Err(OpenError::Signature { .. })));
    let renamed = open_changed_entry(OSL_B1, |v| v["operator"]["name"] = json!("jon"));
    assert!(matches!(renamed, Err(OpenError::Value { field: "operator", .. })));
    let without = open_changed_entry(OSL_B1, |v| {
        let map = v.as_object_mut().expect("an object");
        map.remove("request");
        map.remove("operator");
    });
    assert!(matches!(without, Err(OpenError::Value { field: "kind", .. })));
    let extra = open_changed_entry(OSL_B1, |v| v["body"]["effect"]["extra"] = json!(1));
    assert!(matches!(extra, Err(OpenError::Json(_))));
    let unit = open_changed_entry(OSL_B1, |v| v["body"]["approvals_needed"] = json!(1));
    assert!(matches!(unit, Err(OpenError::Value { .. })));
    // Unknown fields of a newer version do not hide that an upgrade is needed.
    let newer = open_changed_entry(OSL_B1, |v| {
        (v["v"], v["min_reader"], v["new"]) = (json!(3), json!(3), json!(true));
    });
    assert!(matches!(newer, Err(OpenError::NeedsUpgrade { .. })));
    let sealed = sealed_command("osl", 4);
    let value: Value = serde_json::from_slice(&sealed.bytes).expect("JSON");
    let pretty = serde_json::to_vec_pretty(&value).expect("JSON");
    let refused = open_entry(&pretty, &sealed.subject(), &fabric());
    assert!(matches!(refused, Err(OpenError::NotCanonical)));
}

#[test]
fn nobody_signs_for_another() {
    let request = request("osl", 1);
    let refused = seal_request(&request, &request_subject(&request), &key(JON));
    assert!(matches!(refused, Err(WireError::WrongKey { .. })));
    let public = nkeys::KeyPair::from_public_key(&key(MIRA).public_key()).expect("a key");
    let refused = seal_request(&request, &request_subject(&request), &public);
    assert!(matches!(refused, Err(WireError::Key(_))));
    let (body, _) = command_body("osl", 1);
    let (_, other) = command_body("osl", 2);
    for verbatim in [None, Some(other)] {
        let draft = draft("osl", "osl-b1", 1, body.clone(), verbatim);
        assert!(matches!(seal_entry(draft, &key(OSL_B1)), Err(WireError::Verbatim)));
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_fall_over(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let fabric = fabric();
        prop_assert!(open_request(&bytes, "nett.l.cmd.osl.x", &fabric).is_err());
        prop_assert!(wire::open_stored_entry(&bytes, &fabric).is_err());
    }

    #[test]
    fn a_flipped_bit_is_always_noticed(place in any::<prop::sample::Index>(), bit in 0u8..8) {
        let sealed = sealed_command("osl", 4);
        let mut bytes = sealed.bytes.to_vec();
        let place = place.index(bytes.len());
        bytes[place] ^= 1 << bit;
        prop_assert!(open_entry(&bytes, &sealed.subject(), &fabric()).is_err());
    }
}
