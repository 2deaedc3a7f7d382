//! `[fabric] voters` as written: which generation of voters the file is of, and the one step that
//! it is away from the generation before. And what must hold between it and the nodes.
//!
//! Pure. The step is what the set before follows from: nodes count answers of both generations
//! while voters go from the one to the other, so a file must know both (adr/0062).

use std::collections::BTreeMap;
use std::time::Duration;

use super::code::Code;
use super::diagnostic::{Severity, Span};
use super::fabric_file::{FabricDoc, NodeDoc, lease, least_wait};
use super::form;
use super::nearest::nearest;
use super::read::{At, Reader, Section};
use crate::fabric::{Lease, VoterChange, VoterStep};
use crate::id::{Generation, NodeId, SiteId};

#[derive(Debug)]
pub(super) struct VotersDoc {
    generation: Generation,
    change: VoterChange,
    /// Where the change stands.
    span: Span,
}

pub(super) fn voters(r: &Reader<'_>, s: &Section<'_, '_>) -> Option<VotersDoc> {
    let generation = s.required("generation").and_then(|v| r.integer(v, 1..=u64::MAX >> 1));
    let node = |key| {
        let node: Option<At<NodeId>> = s.optional(key).and_then(|v| r.parse_text(v, form::id));
        node.map(|node| node.value)
    };
    let (added, removed) = (node("added"), node("removed"));
    let before = s.optional("lease_before");
    let before = before.and_then(|v| r.section(v, "lease_before", |s| lease(r, s)));
    let given = ["added", "removed", "lease_before"];
    let given: Vec<&str> = given.into_iter().filter(|key| s.optional(key).is_some()).collect();
    let generation = generation?;
    let span = given.first().map_or(s.span, |key| s.span_of(key));
    let message = match (generation.value, given.as_slice()) {
        (1, []) | (2.., [_]) => None,
        (1, [key, ..]) => Some(format!("`{key}` in generation 1, before which there is none")),
        (number, []) => Some(format!("generation {number} does not say what it changes")),
        (_, [key, other, ..]) => Some(format!("`{key}` and `{other}` in one generation")),
        (0, _) => None,
    };
    if let Some(message) = message {
        r.report(r.mistake(Code::VotersGeneration, span, message).hint(
            "from generation 2 on exactly one of `added`, `removed` and `lease_before`: one voter \
             or the lease at a time",
        ));
        return None;
    }
    let change = match (added, removed, before) {
        (Some(node), ..) => VoterChange::Added(node),
        (_, Some(node), _) => VoterChange::Removed(node),
        (.., Some(before)) => VoterChange::Lease(before),
        // The key was there, and could not be read.
        (None, None, None) if !given.is_empty() => return None,
        (None, None, None) => VoterChange::First,
    };
    Some(VotersDoc { generation: Generation(generation.value), change, span })
}

pub(super) fn check(r: &Reader<'_>, doc: &FabricDoc) {
    let mut sites: BTreeMap<&SiteId, Span> = BTreeMap::new();
    let mut all: Vec<Span> = Vec::new();
    for node in &doc.nodes {
        let Some(span) = node.voter else { continue };
        all.push(span);
        if let Some(first) = sites.insert(&node.site.value, span) {
            let message = format!("site `{}` has more than one voter", node.site.value);
            r.report(
                r.mistake(Code::VotersShareSite, span, message)
                    .related(r.place(first), "the first voter of the site")
                    .hint("one node per site votes: votes that fail together are one vote"),
            );
        }
    }
    let change = doc.head.voters.as_ref().map(|voters| &voters.change);
    let is_between = matches!(change, Some(VoterChange::Added(_) | VoterChange::Removed(_)));
    if let (0, Some(last)) = (all.len() % 2, all.last()) {
        let message = format!("an even number of voters ({})", all.len());
        let mut mistake = r.mistake(Code::EvenVoters, *last, message).hint(
            "take or add one, for instance a witness: an even number tolerates no more failures",
        );
        if is_between {
            mistake.severity = Severity::Note;
        }
        r.report(mistake);
    }
    if let Some(voters) = &doc.head.voters {
        step(r, doc, voters, all.len());
    }
}

/// What the change says of the nodes and of the lease.
fn step(r: &Reader<'_>, doc: &FabricDoc, voters: &VotersDoc, count: usize) {
    let wrong = |message: String, hint: &str| {
        r.report(r.mistake(Code::VotersChange, voters.span, message).hint(hint));
    };
    let before = match &voters.change {
        VoterChange::First => return,
        VoterChange::Added(_) => count.saturating_sub(1),
        VoterChange::Removed(_) => count + 1,
        VoterChange::Lease(_) => count,
    };
    match &voters.change {
        VoterChange::First => {}
        VoterChange::Added(id) => match known(r, doc, voters, id) {
            Some(node) if node.voter.is_none() => wrong(
                format!("`{id}` is added to the voters and is none"),
                "give that node `voter = true`",
            ),
            _ => {}
        },
        VoterChange::Removed(id) => {
            let Some(node) = known(r, doc, voters, id) else { return };
            let site = &node.site.value;
            let other = doc.nodes.iter().find(|n| n.site.value == *site && n.voter.is_some());
            match other {
                Some(other) if other.id.value == *id => wrong(
                    format!("`{id}` is removed from the voters and is one"),
                    "take `voter = true` from that node, and leave the node in the file",
                ),
                Some(other) => wrong(
                    format!(
                        "`{id}` is removed from the voters, and `{}` of its site is one",
                        other.id.value
                    ),
                    "one generation removes the site's voter, the next adds the other one; at \
                     least three must vote in between",
                ),
                None => {}
            }
        }
        VoterChange::Lease(before) => {
            let lease = doc.head.lease.unwrap_or_default();
            let covers = |wait: Lease, other: Lease| wait.wait >= least_wait(other.duration);
            let (wait, duration) = match (covers(lease, *before), covers(*before, lease)) {
                (false, _) => (lease.wait, before.duration),
                (true, false) => (before.wait, lease.duration),
                (true, true) => (Duration::ZERO, Duration::ZERO),
            };
            if !duration.is_zero() {
                wrong(
                    format!(
                        "a wait of {} ms does not cover the lease of {} ms beside it",
                        wait.as_millis(),
                        duration.as_millis()
                    ),
                    "some nodes go by each while voters change: first shorten the duration, or \
                     lengthen the wait, in a generation of its own",
                );
            }
        }
    }
    if doc.whole && count.min(before) < LEAST {
        let message = format!("a change between {before} and {count} voters");
        r.report(r.mistake(Code::TooFewVoters, voters.span, message).hint(
            "at least three vote before and after it; with fewer nothing is leased, and they \
             change without a generation",
        ));
    }
}

/// The fewest voters of any generation that has a neighbour: one may be removed and another one
/// lose its journal, and one is left of any majority.
const LEAST: usize = 3;

fn known<'a>(
    r: &Reader<'_>,
    doc: &'a FabricDoc,
    voters: &VotersDoc,
    id: &NodeId,
) -> Option<&'a NodeDoc> {
    let node = doc.nodes.iter().find(|n| n.id.value == *id);
    if node.is_none() && doc.whole {
        let mistake = r.mistake(Code::UnknownNode, voters.span, format!("there is no node `{id}`"));
        let names = doc.nodes.iter().map(|n| n.id.value.as_str());
        r.report(match nearest(id.as_str(), names) {
            Some(name) => mistake.hint(format!("did you mean `{name}`?")),
            None => mistake.hint("a node of this file; one that is removed stays in it for now"),
        });
    }
    node
}

/// The lease as it is used, and the step with the lease as written.
pub(super) fn build(voters: Option<VotersDoc>, lease: Lease) -> (Lease, VoterStep) {
    let voters = voters.map(|VotersDoc { generation, change, span: _ }| (generation, change));
    let (generation, change) = voters.unwrap_or((Generation(1), VoterChange::First));
    let used = match &change {
        VoterChange::Lease(before) => Lease {
            duration: lease.duration.min(before.duration),
            wait: lease.wait.max(before.wait),
        },
        _ => lease,
    };
    (used, VoterStep { generation, change, lease })
}
