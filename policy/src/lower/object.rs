//! Kernel objects in Nett's own types: what a node should have, and what a readback found.
//!
//! Ordered and comparable, so that desired and actual are plain sets. Identifier layout and fixed
//! metrics: see [`Layout`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::answers::Answers;
pub use super::mac::{Mac, NoMac};
pub use super::resilient::Buckets;
use crate::fabric::{Family, Transit};
use crate::failover::{FailoverMark, WayOut};
use crate::id::Weight;

/// Id of a nexthop object (`nhmsg`, linux/nexthop.h). Ours lie in [`Layout::NEXTHOP_IDS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NexthopId(pub u32);

/// Number of a routing table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Table(pub u32);

/// The numbers Nett owns on a node; all but the nexthop id range are configurable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Route, rule and nexthop protocol.
    pub protocol: u8,
    /// `nett-svc`, the first of the four service tables: VIP routes.
    pub table_svc: Table,
    /// `nett-in`: what may be delivered when it comes from outside the node's part of the site.
    pub table_in: Table,
    /// `nett-guard`: `unreachable` for own-site aggregates.
    pub table_guard: Table,
    /// `nett-xs`: remote-site prefixes.
    pub table_xs: Table,
    /// `nett-core`: VIPs whose split a route node of the site has already decided.
    pub table_core: Table,
    /// `nett-adv`: VIPs that a routing daemon may announce from here; at most 252, so that FRR can
    /// import it. No rule looks into it.
    pub table_adv: Table,
    /// Whether `nett-adv` is filled: it costs a route for each VIP that moves.
    pub advertise: bool,
    /// `nett-ret-N` is this plus N, N in 1 to 127.
    pub table_return_base: u32,
    /// `nett-via-N` is this plus N, N in 1 to [`Transit::MOST`]: what a border lets through to
    /// other sites, of what comes from the site with the number N among those that go through here.
    pub table_via_base: u32,
    /// Rules use this priority and the 99 above it.
    pub rule_base: u32,
    /// The bits of packet and connection mark that are ours.
    pub mark_mask: u32,
    /// `return = "strict"`: a reply never falls through to another exit.
    pub strict_return: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nexthop {
    /// Always sent with `onlink` and an explicit device.
    Single { gateway: IpAddr, interface: String },
    /// A multipath group, resilient where it has buckets. Members are singles of the same family.
    Group { family: Family, members: BTreeMap<NexthopId, Weight>, buckets: Option<Buckets> },
    /// Ends the lookup, and the packet without a word: the guard refuses it before. Needs no
    /// device, and the kernel takes it into a group as the only member.
    Blackhole { family: Family },
}

/// What identifies a route: the kernel's IPv4 key is prefix, tos and metric (tos is always 0 here).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteKey {
    pub table: Table,
    pub destination: IpNet,
    pub metric: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteTarget {
    Nexthop(NexthopId),
    Unreachable,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    pub priority: u32,
    pub family: Family,
    pub iif: Option<String>,
    /// Value and mask.
    pub fwmark: Option<(u32, u32)>,
    pub from: Option<IpNet>,
    pub to: Option<IpNet>,
    pub action: RuleAction,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RuleAction {
    Lookup { table: Table, suppress_prefixlength: Option<u32> },
    Unreachable,
}

/// The inputs of the nft table `inet nett`. The program around them is fixed per [`GuardKind`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Guard {
    pub kind: GuardKind,
    pub mark_mask: u32,
    /// Outer interfaces with the link index (border) or the border's place (route node) that
    /// flows from there are marked with.
    pub marks: BTreeSet<GuardMark>,
    pub outer: BTreeSet<String>,
    /// Interfaces by which packets to VIPs may leave: the outer ones, and the one into the site.
    pub ways: BTreeSet<String>,
    pub site: BTreeSet<IpNet>,
    pub remote: BTreeSet<IpNet>,
    /// VIP ranges.
    pub vips: BTreeSet<IpNet>,
    /// The steering class of each VIP: a verdict map leads from the one to the chain of the other.
    /// Shared between states, because it changes with the catalogue alone.
    pub classes: Arc<BTreeMap<IpAddr, ClassNumber>>,
    /// What failover traffic is marked with, by the interface to another site.
    pub failover: BTreeMap<String, FailoverMark>,
    /// Interfaces to other sites: by which packets may come in, and then leave. Everything else
    /// that came from outside stays in the site.
    pub transit: BTreeSet<[String; 2]>,
    /// What is refused now, and to whom; what is counted, and what is failover traffic.
    pub refused: BTreeSet<GuardElement>,
}

/// A steering class in one family, as the nft table numbers it: its group in `nett-svc` is the
/// nexthop of this number above [`NexthopId::class`] of class 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassNumber(pub u32);

/// The sets of the nft table that say what is refused or counted. Packets are refused in
/// prerouting, before the route is looked up, which ends at a blackhole or is `unreachable`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum GuardSet {
    /// Single VIPs that are not treated as their class is, but as they are themselves.
    Apart,
    /// Nobody serves it: TCP is reset, established connections too. Who is in here is in the two
    /// others as well.
    Drained,
    /// What comes from outside is not delivered here. New TCP connections are reset; others get an
    /// error and are left alone, because the way may come back before they end.
    ShutIn,
    /// What comes from inside has no way from here now. Answered as with `ShutIn`.
    ShutOut,
    /// Established connections go on where they went before, whatever the routes say of new ones.
    Keep,
    /// As `Keep`, where the site accepts: also those that this node has noted no way for.
    KeepHere,
    /// Holds one element while anything is counted: [`GuardElement::COUNTING`].
    Counting,
    /// Counted is what comes for it from outside.
    CountTo,
    /// Counted is what comes for it from inside, and is delivered or refused here.
    CountIn,
    /// Counted is what its backends at this site answer.
    CountFrom,
    /// What goes to it by this interface is failover traffic.
    FailoverTo(WayOut),
    /// What comes from it and leaves by this interface is an answer to failover traffic.
    FailoverFrom(WayOut),
    /// What comes for it by this interface from one other site goes on to another one.
    Carried(WayOut),
}

/// Who is in a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    Class(ClassNumber),
    Vip(IpAddr),
}

/// Somebody in a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct GuardElement {
    pub set: GuardSet,
    pub subject: Subject,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum GuardKind {
    Border,
    Route,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GuardMark {
    pub interface: String,
    /// The link, or the place of the border.
    pub index: u8,
    /// Only frames of this sender: where a route node has several borders on one interface.
    pub source: Option<Mac>,
}

/// Everything one node should have, or has. `guard` is `None` when the table is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeState {
    pub nexthops: BTreeMap<NexthopId, Nexthop>,
    pub routes: BTreeMap<RouteKey, RouteTarget>,
    pub rules: BTreeSet<Rule>,
    pub guard: Option<Guard>,
    pub answers: Answers,
}

// === impl NodeState ===

impl NodeState {
    /// The families and tables in which it has routes or looks them up. Skips from table to table,
    /// so it is cheap however many routes there are.
    pub fn tables(&self) -> BTreeSet<(Family, Table)> {
        let mut tables = BTreeSet::new();
        let mut next = self.routes.keys().next();
        while let Some(key) = next {
            let family = Family::of_net(key.destination);
            tables.insert((family, key.table));
            let last =
                RouteKey { table: key.table, destination: last_of(family), metric: u32::MAX };
            let rest = (std::ops::Bound::Excluded(last), std::ops::Bound::Unbounded);
            next = self.routes.range(rest).next().map(|(key, _)| key);
        }
        tables.extend(self.rules.iter().filter_map(|rule| match rule.action {
            RuleAction::Lookup { table, .. } => Some((rule.family, table)),
            RuleAction::Unreachable => None,
        }));
        tables
    }
}

impl NodeState {
    /// The routes of one family and table, in order.
    pub fn routes_in(&self, family: Family, table: Table) -> impl Iterator<Item = &RouteKey> {
        let first = RouteKey { table, destination: family.default_route(), metric: 0 };
        let last = RouteKey { table, destination: last_of(family), metric: u32::MAX };
        self.routes.range(first..=last).map(|(key, _)| key)
    }
}

/// The greatest destination of a family in the order of [`RouteKey`].
fn last_of(family: Family) -> IpNet {
    let text = match family {
        Family::V4 => "255.255.255.255/32",
        Family::V6 => "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128",
    };
    text.parse().expect("a valid prefix")
}

// === impl Layout ===

impl Layout {
    pub const NEXTHOP_IDS: std::ops::RangeInclusive<u32> = 0x4E65_0000..=0x4E65_FFFF;
    /// Class bits of the mark: 1 = we sent this flow out (and note by which way),
    /// 2 = it came from outside, 3 = it stays where it went.
    pub const MARK_CLASS: u32 = 0x3000;
    /// Class and index.
    pub const MARK_BITS: u32 = 0x307f;
    pub const MARK_SENT: u32 = 0x1000;
    pub const MARK_CAME: u32 = 0x2000;
    /// Of packets only: goes on where its connection went before, over the link of this index, or
    /// into the site where that is 0.
    pub const MARK_KEPT: u32 = 0x3000;
    /// Of connections only: we sent it out, and deliver it in the site since.
    pub const MARK_STAYED: u32 = 0x3000;
    pub const METRIC_ACTIVE: u32 = 100;
    pub const METRIC_FLOOR: u32 = u32::MAX;
    /// How many hops (IPv4 time to live, IPv6 hop limit) a packet has left at most when it has gone
    /// through a site, and more than it must have left to go through one: so it goes through one
    /// site only. Systems begin with 64 and more, and ways through the internet rarely have 30.
    pub const TRANSIT_HOPS: u8 = 32;
    /// Of what is announced: it goes before anything else changes.
    pub const METRIC_ADVERTISED: u32 = 101;

    /// All tables that are ours; `nett-adv` also while nothing is announced, or what was before
    /// would stay.
    pub fn owns_table(&self, table: Table) -> bool {
        let Self { table_svc, table_in, table_guard, table_xs, table_core, table_adv, .. } = self;
        let fixed = [table_svc, table_in, table_guard, table_xs, table_core, table_adv];
        let above = |base: u32, many: u32| (base + 1..=base + many).contains(&table.0);
        fixed.contains(&&table)
            || above(self.table_return_base, 127)
            || above(self.table_via_base, u32::from(Transit::MOST))
    }

    /// True for a table in which only Nett may have routes: all of ours, but for `nett-adv` while
    /// nothing is announced.
    pub fn fills_table(&self, table: Table) -> bool {
        self.owns_table(table) && (self.advertise || table != self.table_adv)
    }

    pub fn owns_priority(&self, priority: u32) -> bool {
        (self.rule_base..self.rule_base + 100).contains(&priority)
    }

    pub fn table_return(&self, index: u8) -> Table {
        Table(self.table_return_base + u32::from(index))
    }

    /// `number` is 1 to [`Transit::MOST`].
    pub fn table_via(&self, number: u8) -> Table {
        Table(self.table_via_base + u32::from(number))
    }
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            protocol: 217,
            table_svc: Table(7000),
            table_in: Table(7001),
            table_guard: Table(7002),
            table_xs: Table(7003),
            table_core: Table(7004),
            table_adv: Table(250),
            advertise: false,
            table_return_base: 7100,
            table_via_base: 7050,
            rule_base: 4400,
            mark_mask: 0x0000_307f,
            strict_return: true,
        }
    }
}

// === impl Guard ===

impl Guard {
    /// Whether packets to a VIP are refused because of a set: one that the VIP itself is in where
    /// it stands apart, else one that its class is in.
    pub fn refuses(&self, vip: IpAddr, set: GuardSet) -> bool {
        let refused = |subject| self.refused.contains(&GuardElement { set, subject });
        self.subject(vip).is_some_and(refused)
    }

    /// As whom a VIP is treated: as its class, or as itself where it stands apart.
    pub fn subject(&self, vip: IpAddr) -> Option<Subject> {
        let apart = GuardElement { set: GuardSet::Apart, subject: Subject::Vip(vip) };
        match self.classes.get(&vip) {
            _ if self.refused.contains(&apart) => Some(Subject::Vip(vip)),
            Some(class) => Some(Subject::Class(*class)),
            None => None,
        }
    }

    /// Whether established connections of anything are kept.
    pub fn keeps(&self) -> bool {
        self.refused.iter().any(|element| element.set == GuardSet::Keep)
    }

    /// The elements that count packets.
    pub fn counted(&self) -> impl Iterator<Item = &GuardElement> {
        self.refused.iter().filter(|element| GuardSet::COUNTED.contains(&element.set))
    }

    /// The classes that have a chain.
    pub fn chains(&self) -> BTreeSet<ClassNumber> {
        self.classes.values().copied().collect()
    }
}

// === impl ClassNumber ===

impl ClassNumber {
    pub fn new(slot: u32, family: Family) -> Self {
        Self(8 * slot + NexthopId::v6(family))
    }

    /// The name of its chain.
    pub fn chain(self) -> String {
        format!("class_{:x}", self.0)
    }

    /// The class whose chain has this name.
    pub fn of_chain(name: &str) -> Option<Self> {
        let number = Self(u32::from_str_radix(name.strip_prefix("class_")?, 16).ok()?);
        (number.chain() == name).then_some(number)
    }
}

// === impl NexthopId ===

impl NexthopId {
    /// How many steering classes, and states that services have departed to, have ids.
    pub const MOST_CLASSES: usize = 4096;
    /// How many backend addresses a site may have.
    pub const MOST_BACKENDS: usize = 4096;
    /// The numbers for backends: more than there can be, so that few hash to the same.
    pub const BACKEND_SLOTS: usize = 0x3000;
    const BASE: u32 = *Layout::NEXTHOP_IDS.start();

    pub(super) fn of(offset: u32) -> Self {
        let id = Self::BASE + offset;
        assert!(
            Layout::NEXTHOP_IDS.contains(&id),
            "nexthop offsets are bounded by the fabric check"
        );
        Self(id)
    }

    pub(super) fn v6(family: Family) -> u32 {
        u32::from(family == Family::V6)
    }

    /// The way over link `index` (1 to 127).
    pub fn link(index: u8, family: Family) -> Self {
        Self::of(0x1000 + 16 * u32::from(index) + Self::v6(family))
    }

    /// The blackhole of a family.
    pub fn blackhole(family: Family) -> Self {
        Self::of(0x0100 + Self::v6(family))
    }

    /// Another node of the site, by its place in the fabric file.
    pub fn node(place: u8, family: Family) -> Self {
        Self::of(0x2000 + 2 * u32::from(place) + Self::v6(family))
    }

    /// A backend, by its number below [`Self::BACKEND_SLOTS`].
    pub fn backend(slot: u32) -> Self {
        Self::of(0x3000 + slot)
    }

    /// The group that `nett-svc` uses for a steering class, by its number below
    /// [`Self::MOST_CLASSES`].
    pub fn class(slot: u32, family: Family) -> Self {
        Self::of(0x8000 + 8 * slot + Self::v6(family))
    }

    /// The group that `nett-in` uses for a steering class: local delivery, or a blackhole while the
    /// site does not accept it.
    pub fn class_in(slot: u32, family: Family) -> Self {
        Self::of(0x8000 + 8 * slot + 2 + Self::v6(family))
    }

    /// The way into the site for services that depart from their steering class to it.
    pub fn class_local(slot: u32, family: Family) -> Self {
        Self::of(0x8000 + 8 * slot + 6 + Self::v6(family))
    }

    /// The inter-site group towards the site at `index` of the fabric file.
    pub fn site(index: u32, family: Family) -> Self {
        Self::of(0x6000 + 2 * index + Self::v6(family))
    }

    /// The links that lead to the site at `index` of the fabric file without another site between:
    /// for what another site sends through here. A blackhole where there is none.
    pub fn direct(index: u32, family: Family) -> Self {
        Self::of(0x6800 + 2 * index + Self::v6(family))
    }

    /// The group that `nett-core` uses for a split steering class: the remote shares.
    pub fn class_core(slot: u32, family: Family) -> Self {
        Self::of(0x8000 + 8 * slot + 4 + Self::v6(family))
    }
}

impl fmt::Display for NexthopId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl Nexthop ===

impl fmt::Display for Nexthop {
    /// In iproute2's words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Single { gateway, interface } => {
                write!(f, "via {gateway} dev {interface} onlink")
            }
            Self::Group { members, buckets, .. } => {
                let parts: Vec<String> =
                    members.iter().map(|(id, weight)| format!("{id},{weight}")).collect();
                write!(f, "group {}", parts.join("/"))?;
                buckets.map_or(Ok(()), |buckets| write!(f, " {buckets}"))
            }
            Self::Blackhole { .. } => f.write_str("blackhole"),
        }
    }
}

impl fmt::Display for RouteTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nexthop(id) => write!(f, "nhid {id}"),
            Self::Unreachable => f.write_str("unreachable"),
        }
    }
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} table {} metric {}", self.destination, self.table, self.metric)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.family == Family::V4 { "" } else { "-6 " };
        write!(f, "{family}pref {}", self.priority)?;
        if let Some(from) = self.from {
            write!(f, " from {from}")?;
        }
        if let Some(to) = self.to {
            write!(f, " to {to}")?;
        }
        if let Some((value, mask)) = self.fwmark {
            write!(f, " fwmark {value:#x}/{mask:#x}")?;
        }
        if let Some(iif) = &self.iif {
            write!(f, " iif {iif}")?;
        }
        match self.action {
            RuleAction::Unreachable => f.write_str(" unreachable"),
            RuleAction::Lookup { table, suppress_prefixlength } => {
                write!(f, " lookup {table}")?;
                match suppress_prefixlength {
                    Some(length) => write!(f, " suppress_prefixlength {length}"),
                    None => Ok(()),
                }
            }
        }
    }
}
