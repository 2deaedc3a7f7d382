//! The program of the table `inet nett`: which chains, rules, sets and counters a guard means.
//!
//! It is fixed for each kind of node; the guard fills sets and the marking rules. Marks are only
//! written as `P' = (P & ~MASK) | (C & MASK)`, because other software owns the other bits.

use std::collections::BTreeSet;

use ipnet::IpNet;
use nett_policy::fabric::Family;
use nett_policy::lower::object::{
    ClassNumber, Guard, GuardElement, GuardKind, GuardMark, GuardSet, Layout, Subject,
};
use nett_policy::plan::class_map;

use super::super::netlink::attr::address_bytes;
use super::comment::mark_comment;
use super::expr::{Compare, Direction, Expressions, Meta, Reject, Side, Verdict, interface_key};
use super::{classes, failover, interval, transit};

pub(super) const TABLE: &str = "nett";
/// Counted for the node as a whole.
const PLAIN: [&str; 5] = ["local", "hairpin", "leak", "stray", "refused"];
/// Counted for each outer interface, by a map of this name to the counters.
const BY_INTERFACE: [(&str, &str); 4] = [
    ("arrived", "arrived_by"),
    ("steered", "steered_by"),
    ("intersite", "intersite_by"),
    ("return", "return_by"),
];
const PREROUTING: u32 = 0;
pub(super) const FORWARD: u32 = 2;

pub(super) struct Program {
    pub(super) sets: Vec<Set>,
    pub(super) chains: Vec<Chain>,
}

pub(super) struct Set {
    pub(super) name: &'static str,
    pub(super) key: Key,
    pub(super) form: Form,
    pub(super) elements: Vec<Element>,
}

/// What a set is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Plain,
    Interval,
    /// A map from keys to counters.
    Counters,
    /// Every element counts the packets that are found in it.
    Counted,
    /// A map from VIPs to the chains of their classes; its elements are not in the program.
    Chains,
}

/// Type of a set's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Interface,
    V4,
    V6,
    /// The number of a class, in the shape of a packet mark.
    Number,
    /// Each of these with an interface that the packet comes in or leaves by.
    V4By,
    V6By,
    NumberBy,
    /// Both of its interfaces.
    Passing,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) key: Vec<u8>,
    /// The first key behind an interval.
    pub(super) end: bool,
    /// The counter it is mapped to.
    pub(super) counter: Option<String>,
    pub(super) comment: Option<String>,
}

pub(super) struct Chain {
    pub(super) name: String,
    /// Hook and priority; `None` for chains that are only jumped to.
    pub(super) base: Option<(u32, i32)>,
    pub(super) rules: Vec<Rule>,
}

pub(super) struct Rule {
    pub(super) comment: String,
    pub(super) expressions: Vec<u8>,
}

/// The sets' names and forms, in the order of [`Program::sets`].
pub(super) const SETS: [(&str, Key, Form); 41] = [
    ("outer", Key::Interface, Form::Plain),
    ("ways", Key::Interface, Form::Plain),
    ("site4", Key::V4, Form::Interval),
    ("site6", Key::V6, Form::Interval),
    ("remote4", Key::V4, Form::Interval),
    ("remote6", Key::V6, Form::Interval),
    ("vip4", Key::V4, Form::Interval),
    ("vip6", Key::V6, Form::Interval),
    ("class4", Key::V4, Form::Chains),
    ("class6", Key::V6, Form::Chains),
    ("drained", Key::Number, Form::Plain),
    ("shut_in", Key::Number, Form::Plain),
    ("shut_out", Key::Number, Form::Plain),
    ("apart4", Key::V4, Form::Plain),
    ("apart6", Key::V6, Form::Plain),
    ("drained4", Key::V4, Form::Plain),
    ("drained6", Key::V6, Form::Plain),
    ("shut_in4", Key::V4, Form::Plain),
    ("shut_in6", Key::V6, Form::Plain),
    ("shut_out4", Key::V4, Form::Plain),
    ("shut_out6", Key::V6, Form::Plain),
    ("keep", Key::Number, Form::Plain),
    ("keep4", Key::V4, Form::Plain),
    ("keep6", Key::V6, Form::Plain),
    ("keep_here", Key::Number, Form::Plain),
    ("keep_here4", Key::V4, Form::Plain),
    ("keep_here6", Key::V6, Form::Plain),
    ("counting", Key::Number, Form::Plain),
    ("count_to", Key::Number, Form::Counted),
    ("count_in", Key::Number, Form::Counted),
    ("count_from", Key::Number, Form::Counted),
    ("count_to4", Key::V4, Form::Counted),
    ("count_to6", Key::V6, Form::Counted),
    ("count_in4", Key::V4, Form::Counted),
    ("count_in6", Key::V6, Form::Counted),
    ("count_from4", Key::V4, Form::Counted),
    ("count_from6", Key::V6, Form::Counted),
    ("arrived_by", Key::Interface, Form::Counters),
    ("steered_by", Key::Interface, Form::Counters),
    ("intersite_by", Key::Interface, Form::Counters),
    ("return_by", Key::Interface, Form::Counters),
];

/// Those of every table, and those that this one has beside them.
fn every_set(guard: &Guard) -> impl Iterator<Item = (&'static str, Key, Form)> {
    let more = failover::sets(guard).iter().chain(transit::sets(guard));
    SETS.into_iter().chain(more.copied())
}

/// # Errors
/// The name of a set whose nested prefixes do not fit into the comment of the outermost.
pub(super) fn program(guard: &Guard) -> Result<Program, &'static str> {
    let mut sets = Vec::with_capacity(SETS.len());
    for (name, key, form) in every_set(guard) {
        let elements = elements(guard, name).ok_or(name)?;
        sets.push(Set { name, key, form, elements });
    }
    let forward = match guard.kind {
        GuardKind::Border => border_forward(guard),
        GuardKind::Route => route_forward(guard),
    };
    let chain = |name: &str, base, rules| Chain { name: name.to_owned(), base, rules };
    let mut chains = vec![
        // What it lacks is to be told first: others are made of what its comments say.
        chain("pre_mark", Some((PREROUTING, -151)), marking(guard)),
        chain("out_mark", None, sent(guard)),
        chain("stay", None, stay(guard)),
        chain("stay_here", None, stay_here(guard)),
        chain("refuse", None, refuse()),
        chain("apart", None, apart(guard)),
        chain("no_way", None, no_way()),
    ];
    chains.extend(transit::chains(guard));
    let through = !guard.transit.is_empty();
    chains.extend(guard.chains().into_iter().map(|class| classes::chain(class, through)));
    chains.extend([
        chain("pre_drain", Some((PREROUTING, -149)), draining()),
        chain("fwd_count", Some((FORWARD, -11)), answering()),
        chain("fwd_guard", Some((FORWARD, -10)), forward),
    ]);
    chains.extend(failover::chains(guard));
    Ok(Program { sets, chains })
}

fn elements(guard: &Guard, set: &str) -> Option<Vec<Element>> {
    let plain = |key: Vec<u8>| Element { key, end: false, counter: None, comment: None };
    if let Some((class, _)) = BY_INTERFACE.iter().find(|(_, map)| *map == set) {
        let mapped = |interface: &String| {
            let counter = Some(counter_name(class, interface));
            Element { counter, ..plain(interface_key(interface.as_bytes()).to_vec()) }
        };
        return Some(guard.outer.iter().map(mapped).collect());
    }
    match set {
        failover::COUNTERS => return Some(failover::counted(guard)),
        transit::COUNTERS => return Some(transit::counted(guard)),
        transit::PAIRS => return Some(transit::pairs(guard)),
        _ => {}
    }
    let six = set.ends_with('6');
    let of_family = |nets: &std::collections::BTreeSet<IpNet>| {
        let nets = nets.iter().copied();
        interval::elements(nets.filter(|n| n.addr().is_ipv6() == six))
    };
    let interfaces = |names: &BTreeSet<String>| {
        let key = |name: &String| plain(interface_key(name.as_bytes()).to_vec());
        Some(names.iter().map(key).collect())
    };
    match set.trim_end_matches(['4', '6']) {
        "outer" => interfaces(&guard.outer),
        "ways" => interfaces(&guard.ways),
        "site" => of_family(&guard.site),
        "remote" => of_family(&guard.remote),
        "vip" => of_family(&guard.vips),
        "class" | "to_class" | "from_class" => Some(Vec::new()),
        _ => {
            let in_set = guard.refused.iter().filter(|element| element.set_name() == set);
            Some(in_set.map(|element| plain(element_key(element))).collect())
        }
    }
}

/// The key of an element in its set.
pub(super) fn element_key(element: &GuardElement) -> Vec<u8> {
    let mut key = subject_key(element.subject);
    if let GuardSet::FailoverTo(by) | GuardSet::FailoverFrom(by) | GuardSet::Carried(by) =
        element.set
    {
        key.extend(interface_key(by.name()));
    }
    key
}

/// The key of a VIP or class in a set.
fn subject_key(subject: Subject) -> Vec<u8> {
    match subject {
        Subject::Class(ClassNumber(number)) => number.to_ne_bytes().into(),
        Subject::Vip(vip) => address_bytes(vip),
    }
}

/// Every named counter of the program.
pub(super) fn counters(guard: &Guard) -> BTreeSet<String> {
    let plain = PLAIN.iter().map(|class| (*class).to_owned());
    let each = |interface: &String| BY_INTERFACE.map(|(class, _)| counter_name(class, interface));
    let marked = guard.failover.keys().map(|interface| counter_name(failover::COUNTED, interface));
    let plain = plain.chain(transit::counters(guard));
    plain.chain(guard.outer.iter().flat_map(each)).chain(marked).collect()
}

/// `steered.wan0`
pub(super) fn counter_name(class: &str, interface: &str) -> String {
    format!("{class}.{interface}")
}

pub(super) fn rule(comment: impl Into<String>, expressions: Expressions) -> Rule {
    Rule { comment: comment.into(), expressions: expressions.into_bytes() }
}

fn marking(guard: &Guard) -> Vec<Rule> {
    let mask = guard.mark_mask;
    let mut rules = Vec::new();
    if guard.marks.iter().any(|mark| mark.source.is_some()) {
        // Of a flow that another route node sent out this one may have seen the answers alone: to
        // it they are the flow. What goes to a service is steered, whatever came first.
        let towards = |six, set| {
            let reply = Expressions::new().direction(Direction::Reply);
            reply.destination_in(six, set).verdict(Verdict::Return)
        };
        rules.push(rule("to a service v4", towards(false, "vip4")));
        rules.push(rule("to a service v6", towards(true, "vip6")));
    }
    for mark in &guard.marks {
        let GuardMark { interface, index, source } = mark;
        let value = Layout::MARK_CAME | u32::from(*index);
        let comment = |what| format!("{}{what}", mark_comment(mark));
        let from = || {
            let from = Expressions::new().interface_is(interface);
            match source {
                Some(mac) => from.sent_by(*mac),
                None => from,
            }
        };
        let came = || from().direction(Direction::Original);
        rules.push(rule(
            comment("connection"),
            came().ct_mark(mask, Compare::NotEqual, value).set_ct_mark(mask, value),
        ));
        rules.push(rule(
            comment("packet"),
            came().set_meta_mark(mask, value).verdict(Verdict::Return),
        ));
        rules.push(rule(
            comment("reply"),
            Expressions::new()
                .direction(Direction::Reply)
                .ct_mark(mask, Compare::Equal, value)
                .set_meta_mark(mask, value)
                .verdict(Verdict::Return),
        ));
    }
    // Whatever came over a link has returned by now.
    rules.push(rule(
        "no longer from outside",
        Expressions::new()
            .direction(Direction::Original)
            .ct_mark(Layout::MARK_CLASS, Compare::Equal, Layout::MARK_CAME)
            .set_ct_mark(mask, 0),
    ));
    rules.push(rule(
        "reply to a flow of this site",
        Expressions::new()
            .direction(Direction::Reply)
            .ct_mark(Layout::MARK_SENT, Compare::Equal, Layout::MARK_SENT)
            .set_meta_mark(mask, Layout::MARK_SENT),
    ));
    rules
}

/// The set of this name, and whether it holds classes.
pub(super) fn guard_set(name: &str) -> Option<(GuardSet, bool)> {
    let names = |set: GuardSet| [None, Some(Family::V4), Some(Family::V6)].map(|of| set.name(of));
    let other = [GuardSet::Apart, GuardSet::Keep, GuardSet::KeepHere, GuardSet::Counting];
    let all = other.into_iter().chain(GuardSet::REFUSING).chain(GuardSet::COUNTED);
    all.into_iter().find_map(|set| {
        let place = names(set).iter().position(|known| *known == name)?;
        Some((set, place == 0))
    })
}

/// In prerouting, because the forward hook is never reached once a route ends: at a blackhole, or
/// `unreachable`.
fn draining() -> Vec<Rule> {
    let apart =
        |six, set| Expressions::new().destination_in(six, set).verdict(Verdict::Goto("apart"));
    let class = |six, map| Expressions::new().address(Side::Destination, six).verdict_of(map);
    vec![
        rule("not as its class v4", apart(false, "apart4")),
        rule("not as its class v6", apart(true, "apart6")),
        rule("as its class v4", class(false, "class4")),
        rule("as its class v6", class(true, "class6")),
    ]
}

/// What services answer, in the forward hook: a packet that is refused in prerouting has no answer.
/// It leaves at once where nothing is counted.
fn answering() -> Vec<Rule> {
    let number = match GuardElement::COUNTING.subject {
        Subject::Class(ClassNumber(number)) => number,
        Subject::Vip(_) => unreachable!("the element of all is no VIP"),
    };
    let idle = Expressions::new().constant(number).not_in_set("counting");
    let mut rules = vec![
        rule("nothing is counted", idle.verdict(Verdict::Return)),
        rule(
            "from outside",
            Expressions::new()
                .interface_in(Meta::InputName, "outer", false)
                .verdict(Verdict::Return),
        ),
    ];
    for six in [false, true] {
        let family = if six { Family::V6 } else { Family::V4 };
        let by = || Expressions::new().address(Side::Source, six);
        let counts = GuardSet::CountFrom.name(Some(family));
        rules.push(rule(counts, by().in_set(counts)));
        let apart = GuardSet::Apart.name(Some(family));
        rules.push(rule(apart, by().in_set(apart).verdict(Verdict::Return)));
        let map = class_map(family);
        rules.push(rule(map, by().verdict_of(map)));
    }
    rules
}

/// Counts what comes for a service and is not sent on to another site; `in_set` looks it up. The
/// look is what counts, so it is the last that a rule does.
///
/// Established connections that stay where they went are marked before, and not refused: of those
/// the ones that stay in this site are what still comes for it.
pub(super) fn coming(in_set: impl Fn(Expressions, GuardSet) -> Expressions) -> [Rule; 6] {
    let from = |outside: bool| Expressions::new().interface_in(Meta::InputName, "outer", !outside);
    let kept = |mask| Expressions::new().meta_mark(mask, Compare::Equal, Layout::MARK_KEPT);
    let stays = |set, chain| in_set(from(false), set).verdict(Verdict::Jump(chain));
    [
        rule("stays where it went", stays(GuardSet::Keep, "stay")),
        rule("stays in a site that accepts", stays(GuardSet::KeepHere, "stay_here")),
        rule("comes from outside", in_set(from(true), GuardSet::CountTo)),
        rule("comes from inside", in_set(from(false), GuardSet::CountIn)),
        rule("stays in the site", in_set(kept(Layout::MARK_BITS), GuardSet::CountTo)),
        rule("what stays is not refused", kept(Layout::MARK_CLASS).verdict(Verdict::Return)),
    ]
}

/// Marks what belongs to a connection that was there before new ones were sent elsewhere: by the
/// way that this node noted for it.
fn stay(guard: &Guard) -> Vec<Rule> {
    let mask = guard.mark_mask;
    let mut rules = opening();
    for (interface, index) in noted(guard) {
        let went = Layout::MARK_SENT | u32::from(index);
        let kept = Layout::MARK_KEPT | u32::from(index);
        let found = Expressions::new().ct_mark(mask, Compare::Equal, went);
        let comment = format!("went by {interface}");
        rules.push(rule(comment, found.set_meta_mark(mask, kept).verdict(Verdict::Return)));
    }
    rules
}

/// As [`stay`], of those that this node has noted no way for: into the site. Only where the site
/// accepts: a node that has begun anew knows no way of anything.
fn stay_here(guard: &Guard) -> Vec<Rule> {
    let local = Expressions::new()
        .ct_mark(Layout::MARK_CLASS, Compare::NotEqual, Layout::MARK_SENT)
        .ct_mark(Layout::MARK_CLASS, Compare::NotEqual, Layout::MARK_CAME);
    let local = local.set_meta_mark(guard.mark_mask, Layout::MARK_KEPT);
    let mut rules = opening();
    rules.push(rule("went into the site", local));
    rules
}

/// What does not stay: what opens a connection is new, and so is a datagram that nobody has
/// answered.
fn opening() -> Vec<Rule> {
    let new = Expressions::new().opens_connection().verdict(Verdict::Return);
    let unanswered = Expressions::new().unanswered_datagram().verdict(Verdict::Return);
    let answers = Expressions::new().direction(Direction::Reply).verdict(Verdict::Return);
    vec![
        rule("a new connection", new),
        rule("nobody has answered yet", unanswered),
        rule("an answer", answers),
    ]
}

/// The interfaces by which a node notes that it has sent a connection, and what it notes: the link,
/// or at a route node its border, where it has a single one.
fn noted(guard: &Guard) -> impl Iterator<Item = (&str, u8)> {
    let marks = guard.marks.iter().filter(|mark| mark.source.is_none());
    marks.map(|mark| (mark.interface.as_str(), mark.index))
}

/// As the chain of a class, for single VIPs.
fn apart(guard: &Guard) -> Vec<Rule> {
    let mut rules = transit::apart_passes_by(guard);
    for family in Family::BOTH {
        let in_set = |found: Expressions, set: GuardSet| {
            found.destination_in(family == Family::V6, set.name(Some(family)))
        };
        rules.extend(coming(in_set));
    }
    for set in GuardSet::REFUSING {
        for family in Family::BOTH {
            let name = set.name(Some(family));
            let to = Expressions::new().destination_in(family == Family::V6, name);
            rules.push(rule(name, refusing(set, to)));
        }
    }
    rules
}

/// What a set refuses of the packets that were found to belong to it. The rules of the node look
/// up replies to flows of this site, and flows that came over a link and go back, elsewhere.
pub(super) fn refusing(set: GuardSet, found: Expressions) -> Expressions {
    let comes = |found: Expressions, inside: bool, but: u32| {
        let found = found.interface_in(Meta::InputName, "outer", inside);
        let found = found.meta_mark(Layout::MARK_CLASS, Compare::NotEqual, but);
        found.verdict(Verdict::Goto("refuse"))
    };
    match set {
        // What is not TCP goes on to the other sets.
        GuardSet::Drained => found.tcp().count("refused").reject(Reject::TcpReset),
        GuardSet::ShutIn => comes(found, false, Layout::MARK_SENT),
        _ => comes(found, true, Layout::MARK_CAME),
    }
}

fn refuse() -> Vec<Rule> {
    vec![
        rule(
            "a new connection",
            Expressions::new().opens_connection().count("refused").reject(Reject::TcpReset),
        ),
        rule("anything else", Expressions::new().count("refused").reject(Reject::Unreachable)),
    ]
}

/// A packet to a VIP on a way that no route of ours takes: somebody took our rules away, and it
/// followed the main table.
fn no_way() -> Vec<Rule> {
    let held = |six, set| {
        Expressions::new().destination_in(six, set).count("leak").reject(Reject::Prohibited)
    };
    vec![rule("service v4", held(false, "vip4")), rule("service v6", held(true, "vip6"))]
}

fn local_and_hairpin(guard: &Guard) -> Vec<Rule> {
    let mask = guard.mark_mask;
    let stays = || Expressions::new().interface_in(Meta::OutputName, "outer", true);
    let mut rules = vec![
        rule(
            "segments fit the way out",
            Expressions::new().interface_in(Meta::OutputName, "outer", false).clamp_segments(),
        ),
        // A reply to a flow that a VIP began goes where main says, with our rules too.
        rule(
            "a service goes by our ways only",
            Expressions::new()
                .interface_in(Meta::OutputName, "ways", true)
                .meta_mark(Layout::MARK_CLASS, Compare::NotEqual, Layout::MARK_SENT)
                .verdict(Verdict::Jump("no_way")),
        ),
        // A note of the way that it took once would send it there again in a soft drain. That it
        // was sent stays known: answers to what is under way come over links.
        rule(
            "no longer sent on",
            stays()
                .direction(Direction::Original)
                .ct_mark(Layout::MARK_CLASS, Compare::Equal, Layout::MARK_SENT)
                .set_ct_mark(mask, Layout::MARK_STAYED),
        ),
        rule(
            "arrives in the site",
            stays().count_by(Meta::InputName, "arrived_by").verdict(Verdict::Accept),
        ),
        rule("stays in the site", stays().count("local").verdict(Verdict::Accept)),
    ];
    rules.extend(transit::asks(guard));
    let back = Expressions::new().interface_in(Meta::InputName, "outer", false);
    let dropped = back.count("hairpin").verdict(Verdict::Drop);
    rules.push(rule("came from outside, must not go back", dropped));
    rules
}

fn steered() -> [Rule; 2] {
    let steered = |six, set| {
        Expressions::new()
            .destination_in(six, set)
            .count_by(Meta::OutputName, "steered_by")
            .verdict(Verdict::Goto("out_mark"))
    };
    [rule("service v4", steered(false, "vip4")), rule("service v6", steered(true, "vip6"))]
}

fn border_forward(guard: &Guard) -> Vec<Rule> {
    let leak = |six, set| {
        Expressions::new().destination_in(six, set).count("leak").reject(Reject::Prohibited)
    };
    let remote = |six, set| {
        Expressions::new()
            .destination_in(six, set)
            .count_by(Meta::OutputName, "intersite_by")
            .verdict(Verdict::Goto("out_mark"))
    };
    let mut rules = local_and_hairpin(guard);
    rules.push(rule("own site v4 leaves the site", leak(false, "site4")));
    rules.push(rule("own site v6 leaves the site", leak(true, "site6")));
    rules.push(rule(
        "reply to the other site",
        Expressions::new()
            .meta_mark(Layout::MARK_CLASS, Compare::Equal, Layout::MARK_CAME)
            .count_by(Meta::OutputName, "return_by")
            .verdict(Verdict::Accept),
    ));
    rules.extend(steered());
    rules.push(rule("other site v4", remote(false, "remote4")));
    rules.push(rule("other site v6", remote(true, "remote6")));
    rules.push(rule(
        "no reason to leave the site",
        Expressions::new().count("stray").reject(Reject::Prohibited),
    ));
    rules
}

fn route_forward(guard: &Guard) -> Vec<Rule> {
    let mut rules = local_and_hairpin(guard);
    rules.extend(steered());
    rules.push(rule(
        "the border judges the rest",
        Expressions::new().count_by(Meta::OutputName, "intersite_by").verdict(Verdict::Accept),
    ));
    rules
}

/// Of what it sends a node notes the way, which is where the connection may have to stay.
fn sent(guard: &Guard) -> Vec<Rule> {
    let mask = guard.mark_mask;
    let original = || Expressions::new().direction(Direction::Original);
    let mut rules = Vec::new();
    for (interface, index) in noted(guard) {
        let value = Layout::MARK_SENT | u32::from(index);
        let own = original().leaves_by(interface);
        let own = own.ct_mark(Layout::MARK_CLASS, Compare::NotEqual, Layout::MARK_CAME);
        let other = own.ct_mark(mask, Compare::NotEqual, value);
        rules.push(rule(format!("sent by {interface}"), other.set_ct_mark(mask, value)));
    }
    let unmarked = original()
        .ct_mark(Layout::MARK_CLASS, Compare::NotEqual, Layout::MARK_SENT)
        .ct_mark(Layout::MARK_CLASS, Compare::NotEqual, Layout::MARK_CAME);
    rules.push(rule("flow of this site", unmarked.set_ct_mark(mask, Layout::MARK_SENT)));
    rules
}
