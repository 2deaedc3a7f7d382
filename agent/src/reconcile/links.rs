//! Which links of this node can carry packets, judged by its interfaces.
//!
//! A nexthop object says nothing about that: the kernel keeps it when the address under it is
//! removed, and drops it in silence when the carrier goes. So a link is usable in a family when its
//! interface is up with carrier and has the address that the fabric names, and the address is not
//! tentative. Where its ends watch each other, it must also be believed that packets arrive. What
//! comes back is doubted for a moment ([`Returns`]), and what comes and goes for longer
//! ([`super::flaps`]).
//!
//! Crash story: a function of the last readback, of the sessions and of what has returned.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use nett_policy::fabric::Family;
use nett_policy::id::{LinkId, SiteId};
use nett_policy::lower::LinksUp;
use nett_policy::trust::flaps::Held;
use tokio::time::{Instant, timeout};

use super::returns::Returns;
use super::{Changes, Memory, Reconciler};
use crate::controller::event::Event;
use crate::kernel::{Count, Interface, Kernel, Readback};
use crate::probe::bfd::packet::State;
use crate::probe::bfd::{PathView, Presence, Views};
use crate::telemetry::Metrics;

/// How long the controller gets to want something else after a link changed, before the old wish
/// is repaired.
const LINK_PAUSE: Duration = Duration::from_millis(50);

/// A link of this node by the interface that carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnLink {
    pub link: LinkId,
    pub interface: String,
    /// The site at its other end.
    pub peer: SiteId,
    /// The addresses of this end, with their prefix lengths.
    pub addresses: Vec<IpNet>,
    /// The addresses of the far end to which packets go, one of a family.
    pub gateways: Vec<IpAddr>,
}

/// What was seen of the links.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) up: LinksUp,
    /// What packets can be sent over, believed or not.
    pub(super) present: Presence,
    /// Why a link, or a family of it, is not usable; one line each, for the operator.
    pub(super) troubles: BTreeSet<String>,
    /// Doubted because their interfaces come and go.
    pub(super) held: BTreeMap<LinkId, Held>,
}

fn see(
    links: &[OwnLink],
    actual: &Readback,
    paths: &Views,
    returns: &mut Returns,
    metrics: &Metrics,
) -> Seen {
    let now = Instant::now();
    let mut seen = Seen::default();
    for own in links {
        let OwnLink { link, interface, peer: _, addresses, gateways: _ } = own;
        let mut trouble = |what: String| {
            seen.troubles.insert(format!("link {link}: {what}"));
        };
        let there = actual.interfaces.get(interface);
        let held = returns.flaps.look(own, there, actual.complete, metrics);
        if let Some(held) = held {
            trouble(held_down(interface, held));
            seen.held.insert(link.clone(), held);
        }
        match there {
            None => trouble(format!("interface {interface} does not exist")),
            Some(there) if !there.up => {
                trouble(format!("interface {interface} is down or has no carrier"));
            }
            Some(there) => {
                for family in Family::BOTH {
                    let own = addresses.iter().filter(|a| Family::of_net(**a) == family);
                    if let Some(what) = unusable(there, own) {
                        trouble(format!("{what} on {interface}"));
                        continue;
                    }
                    let path = (link.clone(), family);
                    let is_new = returns.is_new(&path, there.index, now);
                    match paths.get(&path).filter(|view| view.belief.is_doubt()) {
                        None if is_new || held.is_some() => seen.up.doubt(link.clone(), family),
                        None => seen.up.insert(link.clone(), family),
                        Some(view) => {
                            trouble(doubt(family, view));
                            seen.up.doubt(link.clone(), family);
                        }
                    }
                    seen.present.insert(path, there.index);
                }
            }
        }
    }
    returns.seen(&seen.present);
    seen
}

/// Says no time that passes: it is told once.
fn held_down(interface: &str, held: Held) -> String {
    let Held { losses, time, until: _ } = held;
    let time = time.as_secs();
    format!(
        "held down, flapped {losses} times: {interface} has to stay up for {time} s, and is used \
         meanwhile only where there is no other way"
    )
}

/// Why a path is doubted, and what to do.
fn doubt(family: Family, view: &PathView) -> String {
    let family = family.name();
    if view.state == State::Up {
        return format!("its {family} BFD session is up again and must stay so for a while");
    }
    let reason = view.diagnostic.text();
    let remote = view.remote.map_or("is not heard".to_owned(), |(state, diagnostic)| {
        format!("says {} ({})", state.as_str(), diagnostic.text())
    });
    format!(
        "its {family} BFD session is down ({reason}), the far end {remote}: look at the way \
         between the ends, and whether the far agent runs"
    )
}

/// Counters by class and the site behind the interface instead of the interface itself, which is
/// how people think of them. An interface of no link keeps only its class.
pub(super) fn by_peer(
    links: &[OwnLink],
    counters: BTreeMap<String, Count>,
) -> BTreeMap<String, Count> {
    let mut all: BTreeMap<String, Count> = BTreeMap::new();
    for (name, count) in counters {
        let name = match name.split_once('.') {
            None => name,
            Some((class, interface)) => match links.iter().find(|l| l.interface == interface) {
                Some(link) => format!("{class}.{}", link.peer),
                None => class.to_owned(),
            },
        };
        let sum = all.entry(name).or_default();
        sum.packets += count.packets;
        sum.bytes += count.bytes;
    }
    all
}

/// The first address that is not there, or not yet.
fn unusable<'a>(there: &Interface, mut own: impl Iterator<Item = &'a IpNet>) -> Option<String> {
    own.find_map(|address| {
        if !there.addresses.contains(address) {
            Some(format!("address {address} is missing"))
        } else if there.tentative.contains(address) {
            Some(format!("address {address} is tentative (duplicate address detection)"))
        } else {
            None
        }
    })
}

// === impl Reconciler ===

impl<K: Kernel, C: Changes> Reconciler<K, C> {
    pub(super) fn see(&mut self, actual: &Readback, returns: &mut Returns) -> Seen {
        let paths = self.paths.borrow_and_update().clone();
        let seen = see(&self.links, actual, &paths, returns, &self.metrics);
        self.presence.send_if_modified(|old| {
            let news = *old != seen.present;
            old.clone_from(&seen.present);
            news
        });
        seen
    }

    /// Tells the controller which links can carry packets, if that changed, and gives it a moment
    /// to want something else because of it. False when it is gone.
    pub(super) async fn tell_links(&mut self, memory: &mut Memory) -> bool {
        let Some(actual) = &memory.actual else { return true };
        let seen = self.see(actual, &mut memory.returns);
        memory.news.append(&mut memory.returns.flaps.news);
        let changed = memory.seen.as_ref().is_none_or(|before| before.up != seen.up);
        let up = seen.up.clone();
        memory.seen = Some(seen);
        if !changed {
            return true;
        }
        if self.pulse.during(self.events.send(Event::Links { up })).await.is_err() {
            return false;
        }
        !matches!(timeout(LINK_PAUSE, self.wanted.changed()).await, Ok(Err(_)))
    }

    /// Whether sessions say something else of what can carry packets. They say much beside that,
    /// which is no reason to look at what is wanted.
    pub(super) fn has_other_links(&mut self, memory: &mut Memory) -> bool {
        let Some(actual) = &memory.actual else { return true };
        let seen = self.see(actual, &mut memory.returns);
        memory.news.append(&mut memory.returns.flaps.news);
        let same = |before: &Seen| before.up == seen.up && before.held == seen.held;
        let other = !memory.seen.as_ref().is_some_and(same);
        if !other {
            memory.seen = Some(seen);
        }
        other
    }
}
