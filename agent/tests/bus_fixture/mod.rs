//! Two sites with two nodes each, two operators, and their keys.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use nett_agent::bus::wire::{self, Draft, Sealed};
use nett_policy::fabric::{
    BusKeys, Fabric, Node, Operator, OperatorRole, Role, Site, Transfer, UnknownClient, Zone,
};
use nett_policy::id::{Epoch, Generation, WallMs};
use nett_policy::log::entry::{
    Ask, Body, Change, Command, Directive, Effect, FabricRef, Move, Person, Request, Step,
    StepKind, Terms, Verb, Write,
};
use nett_policy::service::Handover;
use nett_policy::traffic::{Spread, Traffic};
use nkeys::{KeyPair, KeyPairType};

/// 2026-11-21T09:30:00.000Z
pub(crate) const NOW: WallMs = WallMs(1_795_253_400_000);

pub(crate) fn key(number: u8) -> KeyPair {
    KeyPair::new_from_raw(KeyPairType::User, [number; 32]).expect("32 bytes")
}

pub(crate) const ADMIN: u8 = 1;
pub(crate) const SYSTEM: u8 = 2;
pub(crate) const MIRA: u8 = 3;
pub(crate) const JON: u8 = 4;
pub(crate) const OSL_B1: u8 = 11;
pub(crate) const OSL_R1: u8 = 12;
pub(crate) const SVG_B1: u8 = 21;
pub(crate) const SVG_R1: u8 = 22;

pub(crate) fn id<T: FromStr<Err = nett_policy::id::IdError>>(text: &str) -> T {
    text.parse().expect("a valid id")
}

pub(crate) fn seed(number: u8) -> String {
    key(number).seed().expect("made from a seed")
}

fn site(name: &str, rank: u32) -> Site {
    Site {
        id: id(name),
        region: None,
        rank,
        capacity: 100,
        prefixes: Vec::new(),
        nats: Vec::new(),
        leaf: vec![format!("tls://nats.{name}.example:7422")],
        leaf_key: Some(key(100 + rank as u8).public_key()),
    }
}

fn node(name: &str, site: &str, number: u8) -> Node {
    Node {
        id: id(name),
        site: id(site),
        role: Role::Border,
        addresses: Vec::new(),
        core: "core".to_owned(),
        outer: None,
        key: key(number).public_key(),
        voter: number % 10 == 1,
    }
}

fn operator(name: &str, number: u8, roles: &[OperatorRole]) -> Operator {
    Operator {
        name: name.to_owned(),
        key: key(number).public_key(),
        roles: roles.to_vec(),
        services: Vec::new(),
    }
}

pub(crate) fn fabric() -> Fabric {
    Fabric {
        transits: Vec::new(),
        name: "nordic".to_owned(),
        generation: Generation(12),
        hash: "9f3c".to_owned(),
        vip_ranges: Vec::new(),
        anchors: Vec::new(),
        unknown_client: UnknownClient::Primary,
        lease: nett_policy::fabric::Lease::default(),
        voter_step: nett_policy::fabric::VoterStep {
            generation: nett_policy::id::Generation(1),
            change: nett_policy::fabric::VoterChange::First,
            lease: nett_policy::fabric::Lease::default(),
        },
        failover: None,
        zone: Zone {
            name: "steer.example.".to_owned(),
            hostmaster: "dns.example.".to_owned(),
            ns: Vec::new(),
            transfer: Transfer::default(),
            dnssec: None,
            ttl: nett_policy::fabric::TtlBounds::default(),
        },
        sites: vec![site("osl", 1), site("svg", 2)],
        nodes: vec![
            node("osl-b1", "osl", OSL_B1),
            node("osl-r1", "osl", OSL_R1),
            node("svg-b1", "svg", SVG_B1),
            node("svg-r1", "svg", SVG_R1),
        ],
        clusters: Vec::new(),
        clients: Vec::new(),
        links: Vec::new(),
        operators: vec![
            operator("mira", MIRA, &[OperatorRole::Operator, OperatorRole::Approver]),
            operator("jon", JON, &[OperatorRole::Viewer]),
        ],
        bus: BusKeys {
            admin: Some(key(ADMIN).public_key()),
            system: Some(key(SYSTEM).public_key()),
            ca: None,
        },
        safety: Vec::new(),
        freezes: Vec::new(),
    }
}

pub(crate) fn entry_id(site: &str, number: u32) -> nett_policy::id::EntryId {
    id(&format!("{site}.01jd3m5w7r8v3qyb2s9t{number:06}"))
}

/// Mira's failover of one service, for `site` to accept.
pub(crate) fn request(site: &str, number: u32) -> Request {
    Request {
        id: entry_id(site, number),
        site: id(site),
        person: Person { name: "mira".to_owned(), key: key(MIRA).public_key() },
        reason: "maintenance in Oslo — «æøå»".to_owned(),
        issued_at: NOW,
        expires_at: WallMs(NOW.0 + 60_000),
        ask: Ask::Command {
            verb: Verb::Failover { services: id("shop/prod/api"), to: id("svg") },
            plan_hash: Some("ab12".to_owned()),
            overrides: BTreeSet::from(["keep-one".to_owned()]),
            terms: Terms::default(),
        },
    }
}

pub(crate) fn sealed_request(request: &Request) -> Vec<u8> {
    let subject = wire::request_subject(request);
    wire::seal_request(request, &subject, &key(MIRA)).expect("mira's key signs")
}

pub(crate) fn effect() -> Effect {
    let (osl, svg) = (id("osl"), id("svg"));
    let shares = BTreeMap::from([
        (id("osl"), nett_policy::id::Weight::new(70).expect("in range")),
        (id("svg"), nett_policy::id::Weight::new(30).expect("in range")),
    ]);
    let (from, to) = (Traffic::settled(Spread::one(osl)), Traffic::settled(Spread::one(svg)));
    Effect {
        rank: 1,
        steps: vec![Step {
            number: 1,
            wave: 0,
            kind: StepKind::Shift,
            states: BTreeMap::from([(id("shop/prod/api"), to.clone())]),
            delay: Duration::ZERO,
            timeout: Duration::from_secs(30),
            gates: BTreeSet::new(),
            asked: None,
            required: BTreeSet::from([id("osl-b1"), id("svg-b1")]),
            owed: BTreeSet::new(),
        }],
        writes: vec![Write {
            epoch: Epoch(8),
            prev: Some(entry_id("svg", 7)),
            settles: BTreeSet::new(),
            change: Change::Service(id("shop/prod/api"), Directive::Failover(id("svg"))),
            before: Change::Service(id("shop/prod/api"), Directive::Steer(shares)),
        }],
        moves: vec![Move {
            service: id("shop/prod/api"),
            epoch: Epoch(8),
            prev_epoch: Epoch(7),
            prev: Some(entry_id("svg", 7)),
            from,
            to,
            handover: Handover::MakeBeforeBreak,
            kept: BTreeSet::new(),
        }],
    }
}

pub(crate) fn draft(
    site: &str,
    node: &str,
    seq: u64,
    body: Body,
    verbatim: Option<Vec<u8>>,
) -> Draft {
    Draft {
        id: entry_id(site, 1000 + seq as u32),
        site: id(site),
        node: id(node),
        fabric: FabricRef { generation: Generation(12), hash: "9f3c".to_owned() },
        at: WallMs(NOW.0 + 1_000),
        boot: "5f0c".to_owned(),
        seq,
        prev_hash: if seq == 1 { String::new() } else { "77".to_owned() },
        body,
        request_verbatim: verbatim,
    }
}

pub(crate) fn command_body(site: &str, number: u32) -> (Body, Vec<u8>) {
    let request = request(site, number);
    let verbatim = sealed_request(&request);
    let command = Command {
        request,
        plan_hash: "ab12".to_owned(),
        approvals_needed: 0,
        supersedes: Vec::new(),
        bad_since: None,
        effect: Some(effect().into()),
    };
    (Body::Command(command), verbatim)
}

/// A command accepted at `osl` (by osl-b1) or `svg` (by svg-b1), as entry number `seq`.
pub(crate) fn sealed_command(site: &str, seq: u64) -> Sealed {
    let (body, verbatim) = command_body(site, seq as u32);
    let (node, number) = if site == "osl" { ("osl-b1", OSL_B1) } else { ("svg-b1", SVG_B1) };
    let draft = draft(site, node, seq, body, Some(verbatim));
    Sealed::seal(draft, &key(number)).expect("the node's key signs")
}

pub(crate) fn shared() -> Arc<Fabric> {
    Arc::new(fabric())
}
