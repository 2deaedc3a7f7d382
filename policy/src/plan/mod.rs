//! The difference between two states of a node, as a value: ordered, printable, comparable.
//!
//! A plan is made over the union of the keys of both sides. Its order is safe to stop at any
//! point: nexthops, groups, floors, routes, guard, rules; removal runs the other way round. Groups
//! that change do so between the routes that leave them and those that come to them.

mod diff;
mod guard;
pub mod preview;
mod remarks;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use diff::answer_ops;
pub use diff::{plan, plan_kernel};

use crate::fabric::Family;
use crate::id::ServiceId;
use crate::lower::answers::ServiceAnswers;
use crate::lower::object::{
    ClassNumber, Guard, GuardElement, Nexthop, NexthopId, RouteKey, RouteTarget, Rule,
};

/// Operations on one node, in the order in which they are carried out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub ops: Vec<Op>,
}

#[expect(clippy::large_enum_variant, reason = "a plan has few that load the table, if any")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    AddNexthop(NexthopId, Nexthop),
    ReplaceNexthop {
        id: NexthopId,
        from: Nexthop,
        to: Nexthop,
    },
    DeleteNexthop(NexthopId, Nexthop),
    AddRoute(RouteKey, RouteTarget),
    ReplaceRoute {
        key: RouteKey,
        from: RouteTarget,
        to: RouteTarget,
    },
    DeleteRoute(RouteKey, RouteTarget),
    AddRule(Rule),
    DeleteRule(Rule),
    /// The whole nft table in one transaction; `from` is what it takes the place of.
    LoadGuard {
        from: Option<Guard>,
        to: Guard,
    },
    DeleteGuard(Guard),
    /// Who is in the sets that refuse, in one transaction.
    Elements {
        add: BTreeSet<GuardElement>,
        delete: BTreeSet<GuardElement>,
    },
    /// The class of each VIP, with the chains of classes that come and go, in one transaction.
    Classes {
        from: Classes,
        to: Classes,
    },
    /// The zone's answers for one service; all services of a plan change in one swap.
    Answers {
        service: ServiceId,
        from: Option<ServiceAnswers>,
        to: Option<ServiceAnswers>,
    },
}

/// The class of each VIP, as in [`Guard::classes`].
pub type Classes = Arc<BTreeMap<IpAddr, ClassNumber>>;

/// What a kernel operation is about, whatever is there now: the unit of retries and repairs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Object {
    Nexthop(NexthopId),
    Route(RouteKey),
    Rule(Rule),
    /// The nft table with everything in it.
    Guard,
}

// === impl Plan ===

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ops.iter().try_for_each(|op| writeln!(f, "{op}"))
    }
}

// === impl Op ===

impl Op {
    /// The kernel object it changes; `None` for the zone's answers.
    pub fn object(&self) -> Option<Object> {
        match self {
            Self::AddNexthop(id, _)
            | Self::ReplaceNexthop { id, from: _, to: _ }
            | Self::DeleteNexthop(id, _) => Some(Object::Nexthop(*id)),
            Self::AddRoute(key, _)
            | Self::ReplaceRoute { key, from: _, to: _ }
            | Self::DeleteRoute(key, _) => Some(Object::Route(*key)),
            Self::AddRule(rule) | Self::DeleteRule(rule) => Some(Object::Rule(rule.clone())),
            Self::LoadGuard { .. }
            | Self::DeleteGuard(_)
            | Self::Elements { .. }
            | Self::Classes { .. } => Some(Object::Guard),
            Self::Answers { .. } => None,
        }
    }

    /// True when it takes an object away and puts nothing in its place.
    pub fn deletes(&self) -> bool {
        match self {
            Self::DeleteNexthop(..)
            | Self::DeleteRoute(..)
            | Self::DeleteRule(_)
            | Self::DeleteGuard(_) => true,
            Self::AddNexthop(..)
            | Self::ReplaceNexthop { .. }
            | Self::AddRoute(..)
            | Self::ReplaceRoute { .. }
            | Self::AddRule(_)
            | Self::LoadGuard { .. }
            | Self::Elements { .. }
            | Self::Classes { .. }
            | Self::Answers { .. } => false,
        }
    }
}

impl fmt::Display for Object {
    /// In iproute2's and nft's words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nexthop(id) => write!(f, "nexthop id {id}"),
            Self::Route(key) => write!(f, "route {key}"),
            Self::Rule(rule) => write!(f, "rule {rule}"),
            Self::Guard => f.write_str("nft table inet nett"),
        }
    }
}

impl fmt::Display for Op {
    /// `+` adds, `~` replaces, `-` deletes; objects in iproute2's and nft's words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddNexthop(id, nexthop) => write!(f, "+ nexthop id {id} {nexthop}"),
            Self::ReplaceNexthop { id, from, to } => {
                write!(f, "~ nexthop id {id} {to}  (was {from})")
            }
            Self::DeleteNexthop(id, nexthop) => write!(f, "- nexthop id {id} {nexthop}"),
            Self::AddRoute(key, target) => write!(f, "+ route {key} {target}"),
            Self::ReplaceRoute { key, from, to } => write!(f, "~ route {key} {to}  (was {from})"),
            Self::DeleteRoute(key, target) => write!(f, "- route {key} {target}"),
            Self::AddRule(rule) => write!(f, "+ rule {rule}"),
            Self::DeleteRule(rule) => write!(f, "- rule {rule}"),
            Self::LoadGuard { from: None, .. } => f.write_str("+ nft table inet nett"),
            Self::LoadGuard { from: Some(_), .. } => f.write_str("~ nft table inet nett"),
            Self::DeleteGuard(_) => f.write_str("- nft table inet nett"),
            Self::Elements { add, delete } => elements(f, add, delete),
            Self::Classes { from, to } => classes(f, from, to),
            Self::Answers { service, from, to } => answers(f, service, from.as_ref(), to.as_ref()),
        }
    }
}

fn elements(
    f: &mut fmt::Formatter<'_>,
    add: &BTreeSet<GuardElement>,
    delete: &BTreeSet<GuardElement>,
) -> fmt::Result {
    let lines = add.iter().map(|e| ('+', e)).chain(delete.iter().map(|e| ('-', e)));
    let line = |(sign, element): (char, &GuardElement)| {
        let (set, key) = (element.set_name(), element.key());
        format!("{sign} nft element inet nett {set} {{ {key} }}")
    };
    f.write_str(&lines.map(line).collect::<Vec<_>>().join("\n"))
}

/// A line for each VIP that has another class now.
fn classes(f: &mut fmt::Formatter<'_>, from: &Classes, to: &Classes) -> fmt::Result {
    let mut lines = Vec::new();
    let mut line = |sign: char, vip: &IpAddr, class: &ClassNumber| {
        let (map, chain) = (class_map(Family::of(*vip)), class.chain());
        lines.push(format!("{sign} nft element inet nett {map} {{ {vip} : jump {chain} }}"));
    };
    for (vip, class) in from.iter().filter(|(vip, class)| to.get(vip) != Some(class)) {
        line('-', vip, class);
    }
    for (vip, class) in to.iter().filter(|(vip, class)| from.get(vip) != Some(class)) {
        line('+', vip, class);
    }
    f.write_str(&lines.join("\n"))
}

/// The name of the verdict map of one family in the nft table.
pub const fn class_map(family: Family) -> &'static str {
    match family {
        Family::V4 => "class4",
        Family::V6 => "class6",
    }
}

fn answers(
    f: &mut fmt::Formatter<'_>,
    service: &ServiceId,
    from: Option<&ServiceAnswers>,
    to: Option<&ServiceAnswers>,
) -> fmt::Result {
    let name = service.dns_name();
    let (from, to) = (from.map(said), to.map(said));
    match (from, to) {
        (Some(from), Some(to)) => write!(f, "~ dns {name} {to}  (was {from})"),
        (None, Some(to)) => write!(f, "+ dns {name} {to}"),
        (Some(from), None) => write!(f, "- dns {name} {from}"),
        (None, None) => Ok(()),
    }
}

/// Who is answered with which addresses: those of every site that gets clients.
fn said(answers: &ServiceAnswers) -> String {
    let active = answers.standing.spread.sites();
    let sites = answers.fixed.sites.iter().filter(|s| active.contains(&s.site));
    let addresses: Vec<String> =
        sites.flat_map(|s| &s.addresses).map(ToString::to_string).collect();
    let ttl = match answers.standing.lowered {
        true => format!(" ttl {} s", answers.fixed.ttl.floor.as_secs()),
        false => String::new(),
    };
    format!("{} [{}] epoch {}{ttl}", answers.standing.spread, addresses.join(" "), answers.epoch)
}
