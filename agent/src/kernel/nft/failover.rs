//! The part of the program that marks failover traffic: there only where the guard has marks.
//!
//! A packet is found by whom it goes to or comes from and by the interface it leaves by. Classes
//! have two chains of their own for it, reached by verdict maps as long as the catalogue that
//! change with it alone: a failover adds an element for each class and link, and no rule. The
//! chains that they have in any case cannot do it, because in the forward hook those count by whom
//! a packet comes from; and one chain for both ends could not tell which end led to it.
//!
//! nft 1.0.6 aborts when it lists a rule that has the value of a map inside a concatenation, so a
//! chain has the number of its class as a constant.
//!
//! It is the last of the table's chains in the forward hook, behind `fwd_guard`: what is dropped
//! there is not marked. The priority that the kernel derives from the DSCP of a packet (ip(7),
//! `IP_TOS`) is set before that hook, so what is set here holds at the queueing discipline.

use nett_policy::fabric::Family;
use nett_policy::failover::WayOut;
use nett_policy::lower::object::{ClassNumber, Guard, GuardSet};

use super::classes::ClassMaps;
use super::comment::failover_comment;
use super::expr::{Expressions, Meta, Side, Verdict, interface_key};
use super::program::{Chain, Element, FORWARD, Form, Key, Rule, counter_name, rule};

/// What is marked is counted under this name.
pub(super) const COUNTED: &str = "marked";
/// The map from interfaces to those counters.
pub(super) const COUNTERS: &str = "marked_by";
/// The chain that marks.
pub(super) const CHAIN: &str = "failover_mark";

/// As [`super::program::SETS`].
pub(super) const SETS: [(&str, Key, Form); 11] = [
    ("to_class4", Key::V4, Form::Chains),
    ("to_class6", Key::V6, Form::Chains),
    ("from_class4", Key::V4, Form::Chains),
    ("from_class6", Key::V6, Form::Chains),
    ("failover_to", Key::NumberBy, Form::Plain),
    ("failover_to4", Key::V4By, Form::Plain),
    ("failover_to6", Key::V6By, Form::Plain),
    ("failover_from", Key::NumberBy, Form::Plain),
    ("failover_from4", Key::V4By, Form::Plain),
    ("failover_from6", Key::V6By, Form::Plain),
    (COUNTERS, Key::Interface, Form::Counters),
];

/// The sets that a guard needs for its marks.
pub(super) fn sets(guard: &Guard) -> &'static [(&'static str, Key, Form)] {
    if guard.failover.is_empty() { &[] } else { &SETS }
}

/// The maps to the chains of classes: by whom a packet goes to, and by whom it comes from.
pub(super) const MAPS: [ClassMaps; 2] = [
    ClassMaps { names: ["to_class4", "to_class6"], prefix: "to_" },
    ClassMaps { names: ["from_class4", "from_class6"], prefix: "from_" },
];

/// The elements of [`COUNTERS`].
pub(super) fn counted(guard: &Guard) -> Vec<Element> {
    let element = |interface: &String| Element {
        key: interface_key(interface.as_bytes()).to_vec(),
        end: false,
        counter: Some(counter_name(COUNTED, interface)),
        comment: None,
    };
    guard.failover.keys().map(element).collect()
}

/// The chains that a guard needs for its marks, beside those of [`of_class`].
pub(super) fn chains(guard: &Guard) -> Vec<Chain> {
    if guard.failover.is_empty() {
        return Vec::new();
    }
    let chain = |name: &str, base, rules| Chain { name: name.to_owned(), base, rules };
    let mut chains = vec![chain(CHAIN, None, marking(guard))];
    chains.extend(guard.chains().into_iter().flat_map(of_class));
    let ends = ends();
    chains.extend(ends.iter().map(|end| chain(end.chain, None, finding(end))));
    chains.push(chain("fwd_mark", Some((FORWARD, -9)), looking(&ends)));
    chains
}

/// The chains of a class, each behind one of [`MAPS`].
pub(super) fn of_class(class: ClassNumber) -> [Chain; 2] {
    ends().map(|End { set, maps, .. }| {
        let leaves = Expressions::new().constant(class.0).leaving_in(4, set.name(None));
        let rules = vec![rule(set.name(None), leaves.verdict(Verdict::Goto(CHAIN)))];
        Chain { name: maps.chain(class), base: None, rules }
    })
}

/// Who is asked about: the one that a packet goes to, or the one that it comes from.
struct End {
    chain: &'static str,
    set: GuardSet,
    side: Side,
    maps: ClassMaps,
}

/// The name of a set does not depend on the way out.
fn ends() -> [End; 2] {
    let (any, [to, from]) = (WayOut::new(""), MAPS);
    [
        End { chain: "mark_to", set: GuardSet::FailoverTo(any), side: Side::Destination, maps: to },
        End {
            chain: "mark_from",
            set: GuardSet::FailoverFrom(any),
            side: Side::Source,
            maps: from,
        },
    ]
}

fn marking(guard: &Guard) -> Vec<Rule> {
    let counted = Expressions::new().count_by(Meta::OutputName, COUNTERS);
    let mut rules = vec![rule("is counted", counted)];
    for (interface, mark) in &guard.failover {
        let leaves = || Expressions::new().leaves_by(interface);
        let comment = |what| format!("{}{what}", failover_comment(interface, *mark));
        if let Some(code) = mark.dscp {
            rules.push(rule(comment("v4"), leaves().set_dscp(false, code)));
            rules.push(rule(comment("v6"), leaves().set_dscp(true, code)));
        }
        if let Some(class) = mark.class {
            rules.push(rule(comment("class"), leaves().set_priority(class.number())));
        }
    }
    // Both of its ends may be VIPs that are away.
    rules.push(rule("marked once", Expressions::new().verdict(Verdict::Accept)));
    rules
}

fn looking(ends: &[End]) -> Vec<Rule> {
    let outer = Expressions::new().interface_in(Meta::OutputName, "outer", true);
    let mut rules = vec![rule("stays in the site", outer.verdict(Verdict::Return))];
    let jump = |end: &End| rule(end.chain, Expressions::new().verdict(Verdict::Jump(end.chain)));
    rules.extend(ends.iter().map(jump));
    rules
}

/// Who is failover traffic: a VIP that stands apart as itself, others as their class.
fn finding(end: &End) -> Vec<Rule> {
    let mut rules = Vec::new();
    for family in Family::BOTH {
        let (six, bytes) = (family == Family::V6, if family == Family::V6 { 16 } else { 4 });
        let address = || Expressions::new().address(end.side, six);
        let (own, apart) = (end.set.name(Some(family)), GuardSet::Apart.name(Some(family)));
        let map = end.maps.name(family);
        let marks = Verdict::Goto(CHAIN);
        rules.push(rule(own, address().leaving_in(bytes, own).verdict(marks)));
        rules.push(rule(apart, address().in_set(apart).verdict(Verdict::Return)));
        rules.push(rule(map, address().verdict_of(map)));
    }
    rules
}
