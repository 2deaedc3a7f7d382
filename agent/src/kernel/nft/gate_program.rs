//! The program of the table `inet nett_lease`, as messages: sets, chains, rules, and their changes.
//!
//! `meta mark & 0` and `meta mark & 0 ^ N` are the constants 0 and N, which nft has no other word
//! for in a lookup; the mark is never written. Numbers are those of linux/netfilter/nf_tables.h.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use nett_policy::fabric::Family;

use super::super::Count;
use super::super::netlink::attr::{Message, NESTED, address_bytes};
use super::super::netlink::socket::{NLM_F_CREATE, NLM_F_EXCL};
use super::expr::{Expressions, Reject, Side, Verdict};
use super::message::{self, DELSETELEM, NEWSET, NEWSETELEM};
use crate::lease::gate::Slot;

pub(super) const TABLE: &str = "nett_lease";
/// Changes when the meaning of the program does: a table of another version is made anew, shut.
pub(super) const COMMENT: &str = "Nett lease 1";

const PREROUTING: u32 = 0;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;
/// Before connection tracking, and so before any rule for established flows (GATE: C3, C4).
const FIRST: i32 = -310;
const LAST: i32 = 310;
const SET_MAP: u32 = 8;
const SET_TIMEOUT: u32 = 0x10;
const DATA_VERDICT: u32 = 0xffff_ff00;
const JUMP: i32 = -3;
/// Elements of one message stay below the 64 KiB of an attribute.
const BYTES: usize = 60_000;
/// The one element of `live_k`.
const ALIVE: u32 = 0;

pub(super) struct Set {
    pub(super) name: &'static str,
    kind: Kind,
    flags: u32,
}

#[derive(Clone, Copy)]
enum Kind {
    Mark,
    V4,
    V6,
}

const fn set(name: &'static str, kind: Kind, flags: u32) -> Set {
    Set { name, kind, flags }
}

pub(super) const SETS: [Set; 10] = [
    set("all4", Kind::V4, 0),
    set("all6", Kind::V6, 0),
    set("vip4", Kind::V4, 0),
    set("vip6", Kind::V6, 0),
    set("grp4", Kind::V4, SET_MAP),
    set("grp6", Kind::V6, SET_MAP),
    set("open_0", Kind::Mark, 0),
    set("open_1", Kind::Mark, 0),
    set("live_0", Kind::Mark, SET_TIMEOUT),
    set("live_1", Kind::Mark, SET_TIMEOUT),
];

impl Set {
    pub(super) fn is_live(&self) -> bool {
        self.flags & SET_TIMEOUT != 0
    }
}

pub(super) fn group_chain(group: u32) -> String {
    format!("g_{group}")
}

/// `vip` becomes `vip4` or `vip6`.
pub(super) fn of_family(stem: &str, family: Family) -> String {
    match family {
        Family::V4 => format!("{stem}4"),
        Family::V6 => format!("{stem}6"),
    }
}

/// `live` becomes `live_0` or `live_1`.
pub(super) fn slot_set(stem: &str, slot: Slot) -> String {
    format!("{stem}_{}", slot.index())
}

// === the fixed part ===

pub(super) fn sets() -> Vec<Message> {
    let make = |(set, id): (&Set, u32)| {
        // Types of nft (datatype.h): ipv4_addr, ipv6_addr, mark; byte order of the key last.
        let (key_type, length, order) = match set.kind {
            Kind::V4 => (7, 4, 2u32),
            Kind::V6 => (8, 16, 2),
            Kind::Mark => (19, 4, 1),
        };
        let mut m = message::about(TABLE, NEWSET, NLM_F_CREATE | NLM_F_EXCL);
        m.put_text(2, set.name);
        m.put_be32(3, set.flags);
        m.put_be32(4, key_type);
        m.put_be32(5, length);
        if set.flags & SET_MAP != 0 {
            m.put_be32(6, DATA_VERDICT);
        }
        m.put_be32(10, id);
        m.put(13, &message::key_order(order));
        m
    };
    SETS.iter().zip(1..).map(make).collect()
}

pub(super) fn counters() -> Vec<Message> {
    ["shut", "late"].map(|name| message::counter_of(TABLE, name, Count::default())).to_vec()
}

/// All chains but those of groups, with their rules. `inner` is the interface towards backends.
pub(super) fn chains(inner: &str) -> Vec<Message> {
    let to = |six| Expressions::new().address(Side::Destination, six);
    let from = |six| Expressions::new().address(Side::Source, six);
    let entry = || {
        vec![
            to(false).verdict_of("grp4"),
            to(true).verdict_of("grp6"),
            to(false).in_set("vip4").verdict(Verdict::Goto("refuse")),
            to(true).in_set("vip6").verdict(Verdict::Goto("refuse")),
        ]
    };
    let sent = |six, set| {
        let expressions = Expressions::new().interface_is(inner).address(Side::Source, six);
        expressions.in_set(set).verdict(Verdict::Goto("late_reply"))
    };
    let leaving = vec![
        from(false).verdict_of("grp4"),
        from(true).verdict_of("grp6"),
        from(false).in_set("vip4").verdict(Verdict::Goto("late_reply")),
        from(true).in_set("vip6").verdict(Verdict::Goto("late_reply")),
        sent(false, "all4"),
        sent(true, "all6"),
    ];
    let all = [
        ("refuse", None, refuse()),
        ("late_reply", None, late_reply()),
        ("pre", Some((PREROUTING, FIRST)), entry()),
        ("out", Some((OUTPUT, FIRST)), entry()),
        ("post", Some((POSTROUTING, LAST)), leaving),
    ];
    let mut messages: Vec<Message> =
        all.iter().map(|(name, base, _)| message::chain_of(TABLE, name, *base)).collect();
    for (name, _, rules) in all {
        messages.extend(rules.into_iter().map(|rule| message::rule_of(TABLE, name, rule)));
    }
    messages
}

/// The gate's own reset to a client on this node must pass, or it waits for its timeout.
fn refuse() -> Vec<Expressions> {
    vec![
        Expressions::new().resets().verdict(Verdict::Accept),
        Expressions::new().count("shut"),
        Expressions::new().tcp().reject(Reject::TcpReset),
        Expressions::new().reject(Reject::Prohibited),
    ]
}

/// Nothing can be refused on the way out; resets, errors and neighbour discovery pass (RFC 792,
/// RFC 4443, RFC 4861).
fn late_reply() -> Vec<Expressions> {
    let v4 = [3u8, 11].map(|kind| Expressions::new().icmp(false, kind).verdict(Verdict::Accept));
    let v6 = [1u8, 2, 3, 135, 136]
        .map(|kind| Expressions::new().icmp(true, kind).verdict(Verdict::Accept));
    let mut rules = vec![Expressions::new().resets().verdict(Verdict::Accept)];
    rules.extend(v4);
    rules.extend(v6);
    rules.push(Expressions::new().count("late").verdict(Verdict::Drop));
    rules
}

// === what changes ===

/// A group's chain: accept while it is open in a slot that lives.
pub(super) fn group(group: u32) -> Vec<Message> {
    let name = group_chain(group);
    let mut messages = vec![message::chain_of(TABLE, &name, None)];
    for slot in [Slot::Even, Slot::Odd] {
        let rule = Expressions::new()
            .constant(ALIVE)
            .in_set(&slot_set("live", slot))
            .constant(group)
            .in_set(&slot_set("open", slot))
            .verdict(Verdict::Accept);
        messages.push(message::rule_of(TABLE, &name, rule));
    }
    messages
}

pub(super) fn flush(set: &str) -> Message {
    let mut m = message::about(TABLE, DELSETELEM, 0);
    m.put_text(2, set);
    m
}

/// Empties a slot and lets it live, in one transaction.
pub(super) fn arm(slot: Slot, lease: Duration) -> Vec<Message> {
    let live = slot_set("live", slot);
    let millis = u64::try_from(lease.as_millis()).expect("the form has a bound");
    let alive = move |m: &mut Message| {
        key(m, &ALIVE.to_ne_bytes());
        m.put_be64(4, millis);
    };
    vec![
        flush(&slot_set("open", slot)),
        flush(&live),
        elements(NEWSETELEM, &live, vec![Box::new(alive)]).remove(0),
    ]
}

pub(super) fn open(slot: Slot, groups: &BTreeSet<u32>) -> Vec<Message> {
    let element = |group: &u32| -> Fill {
        let group = *group;
        Box::new(move |m: &mut Message| key(m, &group.to_ne_bytes()))
    };
    elements(NEWSETELEM, &slot_set("open", slot), groups.iter().map(element).collect())
}

pub(super) fn add_addresses(stem: &str, addresses: &BTreeSet<IpAddr>) -> Vec<Message> {
    by_family(NEWSETELEM, stem, addresses.iter().map(|a| (*a, None)))
}

pub(super) fn delete_addresses(stem: &str, addresses: &BTreeSet<IpAddr>) -> Vec<Message> {
    by_family(DELSETELEM, stem, addresses.iter().map(|a| (*a, None)))
}

pub(super) fn add_members(members: &BTreeMap<IpAddr, u32>) -> Vec<Message> {
    by_family(NEWSETELEM, "grp", members.iter().map(|(vip, group)| (*vip, Some(*group))))
}

pub(super) fn delete_members(members: &BTreeMap<IpAddr, u32>) -> Vec<Message> {
    by_family(DELSETELEM, "grp", members.iter().map(|(vip, group)| (*vip, Some(*group))))
}

/// Writes the attributes of one element.
type Fill = Box<dyn Fn(&mut Message)>;

fn key(m: &mut Message, bytes: &[u8]) {
    m.nest(1, |m| m.put(1, bytes));
}

fn by_family(
    what: u16,
    stem: &str,
    all: impl Iterator<Item = (IpAddr, Option<u32>)>,
) -> Vec<Message> {
    let mut of: BTreeMap<Family, Vec<Fill>> = BTreeMap::new();
    for (address, group) in all {
        let fill = move |m: &mut Message| {
            key(m, &address_bytes(address));
            if let Some(group) = group {
                m.nest(2, |m| {
                    m.nest(2, |m| {
                        m.put_be32(1, JUMP.cast_unsigned());
                        m.put_text(2, &group_chain(group));
                    });
                });
            }
        };
        of.entry(Family::of(address)).or_default().push(Box::new(fill));
    }
    let one = |(family, list)| elements(what, &of_family(stem, family), list);
    of.into_iter().flat_map(one).collect()
}

fn elements(what: u16, set: &str, all: Vec<Fill>) -> Vec<Message> {
    let mut messages = Vec::new();
    let mut list = Message::fragment();
    let mut rest = all.into_iter().peekable();
    while let Some(fill) = rest.next() {
        list.nest(1, |m| fill(m));
        if list.len() < BYTES && rest.peek().is_some() {
            continue;
        }
        let flags = if what == NEWSETELEM { NLM_F_CREATE } else { 0 };
        let mut m = message::about(TABLE, what, flags);
        m.put_text(2, set);
        let full = std::mem::replace(&mut list, Message::fragment());
        m.put(3 | NESTED, &full.into_bytes());
        messages.push(m);
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_elements_are_split_and_none_is_lost() {
        let all: BTreeSet<IpAddr> =
            (0..20_000u32).map(|n| IpAddr::from((0x0a63_0000 + n).to_be_bytes())).collect();
        let messages = add_addresses("vip", &all);
        assert!(messages.len() > 1);
        assert!(messages.iter().all(|m| m.len() < 64 * 1024));
        assert!(delete_addresses("vip", &BTreeSet::new()).is_empty());
    }

    #[test]
    fn a_slot_is_emptied_before_it_lives() {
        assert_eq!(arm(Slot::Odd, Duration::from_secs(60)).len(), 3);
    }
}
