//! `[[link]]` as written.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::code::Code;
use super::diagnostic::Span;
use super::failover_file::failover;
use super::form;
use super::read::{At, Reader, Section};
use super::tree::Value;
use crate::fabric::Bfd;
use crate::failover::FailoverMark;
use crate::id::{LinkId, NodeId};

#[derive(Debug)]
pub(super) struct LinkDoc {
    pub(super) id: At<LinkId>,
    pub(super) cost: u32,
    pub(super) capacity_bps: Option<u64>,
    pub(super) risk: Vec<String>,
    pub(super) bfd: Option<(Bfd, Span)>,
    pub(super) failover: Option<FailoverMark>,
    pub(super) a: EndDoc,
    pub(super) b: EndDoc,
}

#[derive(Debug)]
pub(super) struct EndDoc {
    pub(super) node: At<NodeId>,
    pub(super) interface: Option<At<String>>,
    pub(super) addresses: Vec<At<IpNet>>,
    pub(super) gateway: Vec<At<IpAddr>>,
}

/// The cost of a link that does not state one.
const COST: u32 = 10;

pub(super) fn link(r: &Reader<'_>, s: &Section<'_, '_>) -> Option<LinkDoc> {
    let id = s.required("id").and_then(|v| r.parse_text(v, form::id));
    let cost = s.optional("cost").and_then(|v| r.integer(v, 1..=65_535));
    let capacity = s.optional("capacity").and_then(|v| r.parse_text(v, form::capacity));
    let risk =
        s.optional("risk").map(|v| r.items(v, |v| r.parse_text(v, form::name))).unwrap_or_default();
    let end = |key| {
        let found = s.required(key);
        found.and_then(|v| r.section(v, "a link end", |s| end_of(r, s)))
    };
    let (a, b) = (end("a"), end("b"));
    let bfd = s.optional("bfd").and_then(|v| r.section(v, "bfd", |s| Some(bfd(r, s))));
    let failover = failover(r, s);
    Some(LinkDoc {
        id: id?,
        cost: cost.map_or(COST, |c| c.value),
        capacity_bps: capacity.map(|c| c.value),
        risk: risk.into_iter().map(|r| r.value).collect(),
        bfd: bfd.map(|bfd| (bfd, s.span_of("bfd"))),
        failover,
        a: a?,
        b: b?,
    })
}

fn end_of(r: &Reader<'_>, s: &Section<'_, '_>) -> Option<EndDoc> {
    let node = s.required("node").and_then(|v| r.parse_text(v, form::id));
    let interface = s.required("interface").and_then(|v| r.parse_text(v, form::interface));
    let addresses = s
        .required("addresses")
        .map(|v| r.items(v, |v| r.parse_text(v, form::interface_address)))
        .unwrap_or_default();
    let gateway = s
        .optional("gateway")
        .map(|v| r.one_or_many(v, |v| r.parse_text(v, form::address)))
        .unwrap_or_default();
    Some(EndDoc { node: node?, interface, addresses, gateway })
}

/// The timers of a session that does not state them: found after 0.9 s.
const BFD: Bfd =
    Bfd { tx: Duration::from_millis(300), rx: Duration::from_millis(300), multiplier: 3 };
/// What a timer may be. Below it a busy machine is taken for a dead link.
const BFD_INTERVALS: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(3)..=Duration::from_secs(60);

/// RFC 5880 section 4.1: the detection multiplier is a non-zero octet, intervals are times
/// above zero.
fn bfd(r: &Reader<'_>, s: &Section<'_, '_>) -> Bfd {
    let time = |key| s.optional(key).and_then(|v| interval(r, v));
    let (tx, rx) = (time("tx"), time("rx"));
    let multiplier = s.optional("multiplier").and_then(|v| r.integer(v, 1..=255_u8));
    Bfd {
        tx: tx.unwrap_or(BFD.tx),
        rx: rx.unwrap_or(BFD.rx),
        multiplier: multiplier.map_or(BFD.multiplier, |m| m.value),
    }
}

fn interval(r: &Reader<'_>, v: &Value) -> Option<Duration> {
    let time = r.parse_text(v, form::some_time)?;
    if !BFD_INTERVALS.contains(&time.value) {
        let message = format!("an interval of {} ms is out of range", time.value.as_millis());
        let hint = "3ms to 60s; 300ms with a multiplier of 3 finds a dead link in 0.9 s";
        r.report(r.mistake(Code::OutOfRange, time.span, message).hint(hint));
    }
    Some(time.value)
}
