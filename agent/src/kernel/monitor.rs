//! Says that something in the kernel changed, so that the driver reads again.
//!
//! Own sockets, own tasks. A notification is never taken as the truth: the kernel drops nexthops
//! and routes in silence when a carrier goes, so every event only means "look". What must never be
//! lost is that *something* happened: pending changes are kept until the channel takes them, and
//! a socket that overran is replaced (the kernel goes on dropping on the old one until it is
//! empty) and reported as [`KernelEvent::Overrun`].
//!
//! ```text
//! rtnetlink groups ── task ─┐
//! nf_tables group  ── task ─┴─ bounded channel ─> driver
//! ```

use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{AsyncSocket, TokioSocket};
use nett_policy::lower::object::Layout;
use nett_policy::plan::Object;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::error::KernelError;
use super::netlink::socket::{Failure, OwnPorts, errno_of, messages};
use super::netlink::wire::receive;
use super::netlink::{link, nexthop, route, rule};
use super::nft;
use super::writers::{self, Writers};

/// Notifications wait here while the driver reads: about 60 000 routes.
const RECEIVE_BUFFER: usize = 16 * 1024 * 1024;
/// Coalesced events between monitor and driver; each kind is pending at most once per task.
const CHANNEL: usize = 4;
/// How long to wait before a socket is opened again that could not be opened.
const REOPEN: std::time::Duration = std::time::Duration::from_millis(100);

/// RTNLGRP_* of linux/rtnetlink.h: link, v4 and v6 address, route and rule, nexthop.
const ROUTE_GROUPS: [u32; 8] = [1, 5, 7, 8, 9, 11, 19, 32];
/// NFNLGRP_NFTABLES of linux/netfilter/nfnetlink.h.
const NFT_GROUPS: [u32; 1] = [7];

/// Something changed; equal events that were not yet taken are one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelEvent {
    /// An interface or an address. Nexthops and routes may have gone with it.
    Interfaces,
    /// A route, rule, nexthop or nft object in our place.
    Objects(Origin),
    /// Notifications were lost: anything may have changed.
    Overrun,
}

/// Who made a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Our own command sockets, and nobody else.
    Own,
    /// The kernel itself, for instance because an interface went; perhaps we too.
    Kernel,
    /// Another program; perhaps the kernel or we too.
    Other,
}

/// The subscription. Ends when it is dropped.
#[derive(Debug)]
pub struct Monitor {
    events: mpsc::Receiver<KernelEvent>,
    tasks: [JoinHandle<()>; 2],
    writers: Writers,
}

#[derive(Debug, Default)]
struct Pending {
    overrun: bool,
    interfaces: bool,
    other: bool,
    kernel: bool,
    own: bool,
}

/// A notification about an object in our place.
struct Touched {
    /// Not for what Nett does not know.
    object: Option<Object>,
    protocol: Option<u8>,
}

struct Watch {
    protocol: isize,
    groups: &'static [u32],
    buffer_bytes: usize,
    layout: Layout,
    ports: OwnPorts,
    writers: Writers,
}

// === impl Monitor ===

impl Monitor {
    /// Subscribes in the network namespace of the calling thread; changes from now on are
    /// reported. Must be called inside a tokio runtime. `ports` are those of the kernel whose
    /// changes count as [`Origin::Own`].
    ///
    /// # Errors
    /// When a socket cannot be opened.
    pub fn open(layout: &Layout, ports: &OwnPorts) -> Result<Self, KernelError> {
        Self::with_buffer(layout, ports, RECEIVE_BUFFER)
    }

    /// As [`Self::open`], with another size of the receive buffers in bytes.
    ///
    /// # Errors
    /// When a socket cannot be opened.
    pub fn with_buffer(
        layout: &Layout,
        ports: &OwnPorts,
        buffer_bytes: usize,
    ) -> Result<Self, KernelError> {
        let (sender, events) = mpsc::channel(CHANNEL);
        let writers = Writers::default();
        let start = |protocol, groups| {
            let watch = Watch {
                protocol,
                groups,
                buffer_bytes,
                layout: layout.clone(),
                ports: ports.clone(),
                writers: writers.clone(),
            };
            let socket = watch.subscribe();
            let socket = socket.map_err(|e| KernelError::of("the monitor socket", e))?;
            Ok(tokio::spawn(watch.run(socket, sender.clone())))
        };
        let tasks =
            [start(NETLINK_ROUTE, &ROUTE_GROUPS[..])?, start(NETLINK_NETFILTER, &NFT_GROUPS[..])?];
        Ok(Self { events, tasks, writers })
    }

    /// Who else wrote to our objects.
    pub fn writers(&self) -> Writers {
        self.writers.clone()
    }

    /// The next change. Cancel safe. `None` never comes while the runtime lives.
    pub async fn next(&mut self) -> Option<KernelEvent> {
        self.events.recv().await
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

// === impl Watch ===

impl Watch {
    /// Bound before it joins: an unbound socket receives nothing.
    fn subscribe(&self) -> Result<TokioSocket, Failure> {
        let failure = |error: std::io::Error| Failure::Socket(errno_of(&error));
        let mut socket = TokioSocket::new(self.protocol).map_err(failure)?;
        let raw = socket.socket_mut();
        raw.bind_auto().map_err(failure)?;
        // Without the privilege the default size stays; overruns are then more likely, not lost.
        let _ = setsockopt(raw, sockopt::RcvBufForce, &self.buffer_bytes);
        for group in self.groups {
            raw.add_membership(*group).map_err(failure)?;
        }
        Ok(socket)
    }

    async fn run(self, mut socket: TokioSocket, events: mpsc::Sender<KernelEvent>) {
        let mut pending = Pending::default();
        let mut buffer = Vec::new();
        loop {
            let received = tokio::select! {
                received = receive(&socket, &mut buffer) => received,
                permit = events.reserve(), if pending.next().is_some() => {
                    let Ok(permit) = permit else { return };
                    permit.send(pending.take());
                    continue;
                }
            };
            let whole = received.is_ok()
                && messages(&buffer).all(|message| {
                    message.is_ok_and(|(head, payload)| {
                        self.note(&mut pending, head.kind, head.port, payload);
                        true
                    })
                });
            if !whole {
                pending.overrun = true;
                socket = self.again().await;
            }
        }
    }

    async fn again(&self) -> TokioSocket {
        loop {
            match self.subscribe() {
                Ok(socket) => return socket,
                Err(error) => {
                    tracing::warn!(%error, "Cannot open the monitor socket again.");
                    tokio::time::sleep(REOPEN).await;
                }
            }
        }
    }

    fn note(&self, pending: &mut Pending, kind: u16, port: u32, payload: &[u8]) {
        let touched = if self.protocol == NETLINK_NETFILTER {
            // The table counts, whatever it is in it; who it was comes with the new generation.
            if let Some(name) = nft::generation_by(kind, payload)
                && !self.ports.contains(port)
            {
                self.writers.note(Object::Guard, writers::clean(&name));
            }
            nft::is_about_table(kind, payload).then_some(Touched { object: None, protocol: None })
        } else {
            match kind {
                link::RTM_NEWLINK | link::RTM_DELLINK | link::RTM_NEWADDR | link::RTM_DELADDR => {
                    pending.interfaces = true;
                    None
                }
                _ => self.in_our_place(kind, payload),
            }
        };
        let Some(Touched { object, protocol }) = touched else { return };
        if self.ports.contains(port) {
            pending.own = true;
        } else if port == 0 {
            pending.kernel = true;
        } else {
            pending.other = true;
            if let Some(object) = object {
                self.writers.note(object, writers::name(port, protocol));
            }
        }
    }

    /// Objects elsewhere change all the time on a router; they are nothing to read again for.
    /// What cannot be decoded counts as ours.
    fn in_our_place(&self, kind: u16, payload: &[u8]) -> Option<Touched> {
        let ours = self.layout.protocol;
        // A bucket of a resilient group follows its weights: no object changes.
        if kind == nexthop::RTM_NEWNEXTHOPBUCKET {
            return None;
        }
        if let Ok(Some(row)) = route::decode(kind, payload) {
            let concerns = row.protocol == ours || self.layout.fills_table(row.key.table);
            let object = Some(Object::Route(row.key));
            return concerns.then_some(Touched { object, protocol: Some(row.protocol) });
        }
        if let Ok(Some(row)) = rule::decode(kind, payload) {
            let concerns = row.protocol == ours || self.layout.owns_priority(row.priority);
            let object = row.rule.map(Object::Rule);
            return concerns.then_some(Touched { object, protocol: Some(row.protocol) });
        }
        if let Ok(Some(row)) = nexthop::decode(kind, payload) {
            let concerns = row.protocol == ours || Layout::NEXTHOP_IDS.contains(&row.id.0);
            let object = Some(Object::Nexthop(row.id));
            return concerns.then_some(Touched { object, protocol: Some(row.protocol) });
        }
        Some(Touched { object: None, protocol: None })
    }
}

// === impl Pending ===

impl Pending {
    fn next(&self) -> Option<KernelEvent> {
        let Self { overrun, interfaces, other, kernel, own } = *self;
        match (overrun, interfaces, other, kernel, own) {
            (true, ..) => Some(KernelEvent::Overrun),
            (_, true, ..) => Some(KernelEvent::Interfaces),
            (_, _, true, ..) => Some(KernelEvent::Objects(Origin::Other)),
            (_, _, _, true, _) => Some(KernelEvent::Objects(Origin::Kernel)),
            (.., true) => Some(KernelEvent::Objects(Origin::Own)),
            (false, false, false, false, false) => None,
        }
    }

    fn take(&mut self) -> KernelEvent {
        let event = self.next().expect("asked for a permit only with an event pending");
        match event {
            KernelEvent::Overrun => self.overrun = false,
            KernelEvent::Interfaces => self.interfaces = false,
            KernelEvent::Objects(_) => {
                (self.other, self.kernel, self.own) = (false, false, false);
            }
        }
        event
    }
}
