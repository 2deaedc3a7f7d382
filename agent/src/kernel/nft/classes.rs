//! The verdict maps that lead from a VIP to the chain of its steering class.
//!
//! They are as long as the catalogue and change with it alone, so they are written and read apart
//! from the other sets. What is refused to a class is not in its chain but in sets that the chain
//! looks into: the kernel looks at every element of a verdict map when a rule of the table changes
//! (`nft_table_validate`, net/netfilter/nf_tables_api.c), and at none when an element of a plain
//! set does. Where failover traffic is marked there are maps to other chains of the classes beside
//! them, with the same VIPs.
//!
//! Crash story: as for the whole table, a transaction is there or not.

use std::collections::BTreeMap;
use std::net::IpAddr;

use nett_policy::fabric::Family;
use nett_policy::lower::object::{ClassNumber, GuardSet};
use nett_policy::plan::class_map;

use super::super::netlink::attr::{
    Attributes, Malformed, Message, NESTED, address_bytes, read_address,
};
use super::super::netlink::socket::NLM_F_CREATE;
use super::expr::{Expressions, Verdict};
use super::failover;
use super::message::{self, DELSETELEM, ELEMENT_BYTES, Fields, NEWSETELEM};
use super::program::{Chain, TABLE, coming, refusing, rule};
use super::transit;

/// `NFT_JUMP` (linux/netfilter/nf_tables.h).
const JUMP: i32 = -3;

/// The chain of a class: one rule for each set that the class may be in. It is looked up by whom a
/// packet goes to, in prerouting; and by whom it comes from, in the forward hook, for counting.
///
/// `through`: where packets go through this site from one other to another.
pub(super) fn chain(class: ClassNumber, through: bool) -> Chain {
    let in_set = |found: Expressions, set: GuardSet| found.constant(class.0).in_set(set.name(None));
    let leaves = || Expressions::new().leaves();
    let mut rules = vec![
        rule("what it answers", in_set(leaves(), GuardSet::CountFrom)),
        rule("answers are not refused", leaves().verdict(Verdict::Return)),
    ];
    rules.extend(through.then(|| transit::passes_by(class)));
    rules.extend(coming(in_set));
    rules.extend(GuardSet::REFUSING.map(|set| {
        let comment = match set {
            GuardSet::Drained => "nobody serves it",
            GuardSet::ShutIn => "not delivered here",
            _ => "no way from here",
        };
        rule(comment, refusing(set, in_set(Expressions::new(), set)))
    }));
    Chain { name: class.chain(), base: None, rules }
}

/// A map of each family, in the order of [`Family::BOTH`], from VIPs to chains of their classes.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClassMaps {
    pub(super) names: [&'static str; 2],
    /// What the names of the chains begin with, before that of the class.
    pub(super) prefix: &'static str,
}

/// Those that every table has.
pub(super) const STEERING: ClassMaps =
    ClassMaps { names: [class_map(Family::V4), class_map(Family::V6)], prefix: "" };

/// Those of a table, which has more where it marks failover traffic.
pub(super) fn maps(marks: bool) -> impl Iterator<Item = ClassMaps> {
    let more = if marks { &failover::MAPS[..] } else { &[] };
    [STEERING].into_iter().chain(more.iter().copied())
}

/// The chains of a class in such a table.
pub(super) fn chains(class: ClassNumber, marks: bool, through: bool) -> Vec<Chain> {
    let mut chains = vec![chain(class, through)];
    if marks {
        chains.extend(failover::of_class(class));
    }
    chains
}

impl ClassMaps {
    pub(super) fn name(self, family: Family) -> &'static str {
        let [v4, v6] = self.names;
        if family == Family::V6 { v6 } else { v4 }
    }

    pub(super) fn chain(self, class: ClassNumber) -> String {
        format!("{}{}", self.prefix, class.chain())
    }

    /// Puts VIPs into the maps; their chains are there.
    pub(super) fn add<'a>(
        self,
        table: &str,
        all: impl Iterator<Item = (&'a IpAddr, &'a ClassNumber)>,
    ) -> Vec<Message> {
        self.elements(table, (NEWSETELEM, NLM_F_CREATE), all, |m, class| {
            m.nest(2, |m| {
                m.nest(2, |m| {
                    m.put_be32(1, JUMP.cast_unsigned());
                    m.put_text(2, &self.chain(class));
                });
            });
        })
    }

    /// Takes VIPs out of the maps.
    pub(super) fn delete<'a>(
        self,
        all: impl Iterator<Item = (&'a IpAddr, &'a ClassNumber)>,
    ) -> Vec<Message> {
        self.elements(TABLE, (DELSETELEM, 0), all, |_, _| {})
    }

    fn elements<'a>(
        self,
        table: &str,
        (what, flags): (u16, u16),
        all: impl Iterator<Item = (&'a IpAddr, &'a ClassNumber)>,
        fill: impl Fn(&mut Message, ClassNumber),
    ) -> Vec<Message> {
        let mut lists: BTreeMap<Family, Message> = BTreeMap::new();
        let mut messages = Vec::new();
        let finished = |family: Family, list: Message| {
            let mut message = message::about(table, what, flags);
            message.put_text(2, self.name(family));
            message.put(3 | NESTED, &list.into_bytes());
            message
        };
        for (vip, class) in all {
            let family = Family::of(*vip);
            let list = lists.entry(family).or_insert_with(Message::fragment);
            list.nest(1, |m| {
                m.nest(1, |m| m.put(1, &address_bytes(*vip)));
                fill(m, *class);
            });
            if list.len() >= ELEMENT_BYTES {
                messages.extend(lists.remove(&family).map(|list| finished(family, list)));
            }
        }
        messages.extend(lists.into_iter().map(|(family, list)| finished(family, list)));
        messages
    }

    /// VIPs with their classes, of one message of a dump of a map.
    pub(super) fn decode(self, payload: &[u8]) -> Result<Option<Vec<Row>>, Malformed> {
        let fields = Fields::of_message(payload)?;
        let mut rows = Vec::new();
        for item in Attributes::of(fields.get(3).unwrap_or(&[])) {
            rows.push(self.row(item?.1)?);
        }
        Ok(Some(rows))
    }

    fn row(self, element: &[u8]) -> Result<Row, Malformed> {
        let mut found = (None, None);
        for attribute in Attributes::of(element) {
            match attribute? {
                (1, key) => {
                    let key = Fields::of(key)?;
                    found.0 = key.get(1).map(read_address).transpose()?;
                }
                (2, data) => {
                    let verdict = Fields::of(data)?;
                    let verdict = Fields::of(verdict.get(2).unwrap_or(&[]))?;
                    let jumps = verdict.be32(1) == Some(JUMP.cast_unsigned());
                    let chain = verdict.text(2).filter(|_| jumps);
                    found.1 = chain
                        .and_then(|name| ClassNumber::of_chain(name.strip_prefix(self.prefix)?));
                }
                _ => {}
            }
        }
        Ok(found.0.zip(found.1))
    }
}

/// A VIP with its class; `None` for an element that is not ours.
pub(super) type Row = Option<(IpAddr, ClassNumber)>;
