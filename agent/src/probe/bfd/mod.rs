//! Bidirectional forwarding detection (RFC 5880, RFC 5881): each end of a link tells the other many
//! times a second that it is there and hears it, so that a link that fails in silence, or in one
//! direction, is noticed by both.
//!
//! There is one session for each family of each link that has `bfd` in the fabric. [`packet`] is
//! the wire, [`session`] the protocol, [`nett_policy::trust`] what follows for the link; none of
//! them does IO. [`thread`] is where they meet [`socket`]s and time, on a thread of its own, which
//! waits for nothing else: no disk, bus, zone or kernel read holds a packet up. What it finds goes
//! to the reconciler, by which a link is usable or not, and in [`tell`] to log, metrics and audit
//! trail.
//!
//! ```text
//!  presence ─> thread (sessions, sockets) ─ watch ─> reconciler: doubted links
//!                        └─ transitions ─> tell: log line, counter, controller (audit, views)
//! ```
//! Nothing here reads what Nett wants of the kernel, and no mark is set: a session must find the
//! way to its neighbour whatever has become of Nett's own tables.
//!
//! Crash story: a thread that ends takes the agent with it. Sessions are made anew with the
//! process, after having said so ([`session`]); links that were doubted are read from [`memory`].

pub mod memory;
pub mod packet;
pub mod session;
mod socket;
mod tell;
mod thread;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use nett_policy::fabric::{Bfd, Fabric, Family};
use nett_policy::id::{LinkId, NodeId};
use nett_policy::trust::{Belief, Fall};

use packet::{Diagnostic, State};

pub use tell::tell;
pub use thread::Watcher;

/// One family of one link.
pub type PathId = (LinkId, Family);

/// What a session is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    pub id: PathId,
    pub interface: String,
    pub near: IpAddr,
    pub far: IpAddr,
    pub settings: Bfd,
}

/// A path as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathView {
    pub belief: Belief,
    pub state: State,
    /// Why it last went down.
    pub diagnostic: Diagnostic,
    /// The far end's state and diagnostic; none while it is not heard.
    pub remote: Option<(State, Diagnostic)>,
    /// Time between two packets of this end.
    pub interval: Duration,
    /// Silence of the far end after which it is down.
    pub detection: Duration,
    /// Why packets cannot be sent, where that is so.
    pub trouble: Option<String>,
}

pub type Views = Arc<BTreeMap<PathId, PathView>>;

/// Something that goes on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    pub path: PathId,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    Session {
        from: State,
        to: State,
        fall: Option<Fall>,
        diagnostic: Diagnostic,
        remote: Option<(State, Diagnostic)>,
    },
    Belief {
        from: Belief,
        to: Belief,
    },
}

/// Interfaces over which packets can be sent, with their numbers: one that was deleted and made
/// again has another.
pub type Presence = BTreeMap<PathId, u32>;

/// The paths that a node watches.
pub fn paths(fabric: &Fabric, node: &NodeId) -> Vec<Path> {
    let links = fabric.links_of(node).filter_map(|view| Some((view, view.link.bfd?)));
    let paths = links.flat_map(|(view, settings)| {
        Family::BOTH.into_iter().filter_map(move |family| {
            let of = |end: &nett_policy::fabric::LinkEnd| {
                let addresses = end.addresses.iter().map(|net| net.addr());
                addresses.into_iter().find(|address| Family::of(*address) == family)
            };
            Some(Path {
                id: (view.link.id.clone(), family),
                interface: view.near.interface.clone(),
                near: of(view.near)?,
                far: of(view.far)?,
                settings,
            })
        })
    });
    paths.collect()
}
