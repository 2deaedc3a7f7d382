//! The part of the program that lets packets through from one other site to another: there only
//! where the guard names pairs of interfaces for it.
//!
//! Before the route is looked up, services that this site does not deliver would be refused. Those
//! that go on are found by whom they go to and the interface that they come in by, and go past the
//! rules that refuse and count what comes for this site.
//!
//! In the forward hook they must have more than [`Layout::TRANSIT_HOPS`] hops left, which the
//! kernel has counted down by then (`ip_forward`, net/ipv4/ip_forward.c; `ip6_forward`,
//! net/ipv6/ip6_output.c), and leave with so many. Therefore nothing goes through two sites,
//! whatever the tables of their borders say. Everything that is not let through is dropped by the
//! next rule, as in a table without this part.

use std::collections::BTreeSet;

use nett_policy::fabric::Family;
use nett_policy::failover::WayOut;
use nett_policy::lower::object::{ClassNumber, Guard, GuardSet, Layout};

use super::expr::{Compare, Expressions, IFNAME, Meta, Reject, Verdict, interface_key};
use super::program::{Chain, Element, Form, Key, Rule, counter_name, rule};

/// What is let through is counted under this name, by the interface that it leaves by.
const COUNTED: &str = "transit";
/// The map from interfaces to those counters.
pub(super) const COUNTERS: &str = "transit_by";
/// What has too few hops left is counted under this name.
const SPENT: &str = "spent";
/// Pairs of interfaces.
pub(super) const PAIRS: &str = "through";

/// As [`super::program::SETS`].
pub(super) const SETS: [(&str, Key, Form); 5] = [
    (PAIRS, Key::Passing, Form::Plain),
    ("carried", Key::NumberBy, Form::Plain),
    ("carried4", Key::V4By, Form::Plain),
    ("carried6", Key::V6By, Form::Plain),
    (COUNTERS, Key::Interface, Form::Counters),
];

/// The sets that a guard needs for what goes through.
pub(super) fn sets(guard: &Guard) -> &'static [(&'static str, Key, Form)] {
    if guard.transit.is_empty() { &[] } else { &SETS }
}

/// The elements of [`COUNTERS`].
pub(super) fn counted(guard: &Guard) -> Vec<Element> {
    let element = |interface: &String| Element {
        counter: Some(counter_name(COUNTED, interface)),
        ..plain(interface_key(interface.as_bytes()).to_vec())
    };
    outwards(guard).into_iter().map(element).collect()
}

/// The elements of [`PAIRS`].
pub(super) fn pairs(guard: &Guard) -> Vec<Element> {
    let key = |pair: &[String; 2]| pair.each_ref().map(|name| interface_key(name.as_bytes()));
    guard.transit.iter().map(|pair| plain(key(pair).concat())).collect()
}

/// The pair of interfaces in an element of [`PAIRS`].
pub(super) fn pair_of(key: &[u8]) -> Option<[String; 2]> {
    let (one, other) = key.split_at_checked(IFNAME)?;
    Some([one, other].map(super::super::netlink::attr::read_text))
}

fn plain(key: Vec<u8>) -> Element {
    Element { key, end: false, counter: None, comment: None }
}

fn outwards(guard: &Guard) -> BTreeSet<&String> {
    guard.transit.iter().map(|[_, out]| out).collect()
}

/// The named counters.
pub(super) fn counters(guard: &Guard) -> BTreeSet<String> {
    let by = outwards(guard).into_iter().map(|interface| counter_name(COUNTED, interface));
    by.chain((!guard.transit.is_empty()).then(|| SPENT.to_owned())).collect()
}

/// What a chain of a class, or that of single VIPs, begins with.
pub(super) fn passes_by(class: ClassNumber) -> Rule {
    let found = Expressions::new().constant(class.0).arriving_in(4, carried(None));
    rule("goes on to another site", found.verdict(Verdict::Return))
}

/// As [`passes_by`], for single VIPs.
pub(super) fn apart_passes_by(guard: &Guard) -> Vec<Rule> {
    if guard.transit.is_empty() {
        return Vec::new();
    }
    let of_family = |family| {
        let (six, bytes) = (family == Family::V6, if family == Family::V6 { 16 } else { 4 });
        let to = Expressions::new().address(super::expr::Side::Destination, six);
        let found = to.arriving_in(bytes, carried(Some(family)));
        rule(format!("goes on to another site {}", version(six)), found.verdict(Verdict::Return))
    };
    Family::BOTH.map(of_family).into()
}

fn version(six: bool) -> &'static str {
    if six { "v6" } else { "v4" }
}

/// The name of a set does not depend on the way in.
fn carried(of: Option<Family>) -> &'static str {
    GuardSet::Carried(WayOut::new("")).name(of)
}

/// What the chain that forwards asks before it drops what came from outside and leaves again.
pub(super) fn asks(guard: &Guard) -> Option<Rule> {
    let came = Expressions::new().interface_in(Meta::InputName, "outer", false);
    let asks = rule("between two other sites", came.verdict(Verdict::Jump("transit")));
    (!guard.transit.is_empty()).then_some(asks)
}

/// The chains that a guard needs for what goes through.
pub(super) fn chains(guard: &Guard) -> Vec<Chain> {
    if guard.transit.is_empty() {
        return Vec::new();
    }
    let chain = |name: &str, rules| Chain { name: name.to_owned(), base: None, rules };
    vec![chain("carry", carrying()), chain("transit", judging(guard))]
}

fn judging(guard: &Guard) -> Vec<Rule> {
    let mask = guard.mark_mask;
    let mut rules = vec![rule(
        "not from this one to that one",
        Expressions::new().passing_not_in(PAIRS).verdict(Verdict::Return),
    )];
    let carry = |found: Expressions| found.verdict(Verdict::Goto("carry"));
    for (set, comment) in [("remote", "other site"), ("vip", "service")] {
        for (six, digit) in [(false, '4'), (true, '6')] {
            let to = Expressions::new().destination_in(six, &format!("{set}{digit}"));
            rules.push(rule(format!("{comment} {}", version(six)), carry(to)));
        }
    }
    // To clients outside of all sites.
    for mark in &guard.marks {
        let came = Layout::MARK_CAME | u32::from(mark.index);
        let back = Expressions::new().leaves_by(&mark.interface);
        let back = back.meta_mark(mask, Compare::Equal, came);
        rules.push(rule(format!("back by {}", mark.interface), carry(back)));
    }
    rules
}

fn carrying() -> Vec<Rule> {
    let hops = Layout::TRANSIT_HOPS;
    let mut rules = Vec::new();
    for six in [false, true] {
        let few = Expressions::new().hops_at_most(six, hops).count(SPENT);
        let comment = format!("too few hops left {}", version(six));
        rules.push(rule(comment, few.reject(Reject::Prohibited)));
    }
    for six in [false, true] {
        let few = Expressions::new().set_hops(six, hops);
        rules.push(rule(format!("for one site only {}", version(six)), few));
    }
    rules.push(rule("goes on", Expressions::new().count_by(Meta::OutputName, COUNTERS)));
    rules.push(rule("is let through", Expressions::new().verdict(Verdict::Accept)));
    rules
}
