//! `[[link]]` as written.

use std::net::IpAddr;

use ipnet::IpNet;

use super::form;
use super::read::{At, Reader, Section};
use crate::id::{LinkId, NodeId};

#[derive(Debug)]
pub(super) struct LinkDoc {
    pub(super) id: At<LinkId>,
    pub(super) cost: u32,
    pub(super) capacity_bps: Option<u64>,
    pub(super) risk: Vec<String>,
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
    s.later("bfd", |v| {
        r.section(v, "bfd", |s| bfd(r, s));
    });
    Some(LinkDoc {
        id: id?,
        cost: cost.map_or(COST, |c| c.value),
        capacity_bps: capacity.map(|c| c.value),
        risk: risk.into_iter().map(|r| r.value).collect(),
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

/// RFC 5880 section 4.1: the detection multiplier is a non-zero octet, intervals are times
/// above zero.
fn bfd(r: &Reader<'_>, s: &Section<'_, '_>) -> Option<()> {
    for key in ["tx", "rx"] {
        if let Some(v) = s.optional(key) {
            r.parse_text(v, form::some_time);
        }
    }
    if let Some(v) = s.optional("multiplier") {
        r.integer(v, 1..=255_u8);
    }
    Some(())
}
