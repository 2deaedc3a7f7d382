//! Which packets a border marks as failover traffic: by the service, and the link they leave by.

use std::collections::{BTreeMap, BTreeSet};

use super::Place;
use super::object::GuardSet;
use super::transit;
use crate::fabric::{LinkView, Role};
use crate::failover::{FailoverMark, WayOut, home, is_failover, mark_of};
use crate::service::Service;
use crate::traffic::Traffic;

/// The links of a border whose failover traffic is marked.
fn marked(place: Place<'_>) -> impl Iterator<Item = (LinkView<'_>, FailoverMark)> {
    let Place { world, node, .. } = place;
    let border = (node.role == Role::Border).then_some(&node.id);
    let links = border.into_iter().flat_map(move |id| world.fabric.links_of(id));
    links.filter_map(move |view| Some((view, mark_of(world.fabric, view.link)?)))
}

/// The marks of a node, by the interface to the other site.
pub(super) fn marks(place: Place<'_>) -> BTreeMap<String, FailoverMark> {
    marked(place).map(|(view, mark)| (view.near.interface.clone(), mark)).collect()
}

/// The sets that services in this state are in, on this node.
pub(super) fn sets(place: Place<'_>, service: &Service, now: &Traffic) -> BTreeSet<GuardSet> {
    let (fabric, own) = (place.world.fabric, &place.node.site);
    let mut sets = BTreeSet::new();
    let mut marked = marked(place).peekable();
    if marked.peek().is_none() {
        return sets;
    }
    let states = [&home(service), now];
    for (view, _) in marked {
        let out = WayOut::new(&view.near.interface);
        let ends = transit::ends_over(fabric, own, view.far_site);
        let goes = ends.iter().any(|[from, to]| is_failover(fabric, states, [from, to]));
        let comes = ends.iter().any(|[from, to]| is_failover(fabric, states, [to, from]));
        sets.extend(goes.then_some(GuardSet::FailoverTo(out)));
        sets.extend(comes.then_some(GuardSet::FailoverFrom(out)));
    }
    sets
}
