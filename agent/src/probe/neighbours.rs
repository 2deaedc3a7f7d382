//! Asks the other nodes of the site, ten times a second, whether they are there: an ICMP echo over
//! the interface that traffic to them takes.
//!
//! What answers is the other node's kernel, and that is what forwards: an agent that is stopped
//! takes nothing away. Nothing is decided here; the verdict is [`Liveness`], and what follows from
//! it the controller's. Answers are looked for at the next question, so a process that was stopped
//! for a while finds them waiting and blames nobody.
//!
//! Crash story: made anew with the process; the first word to the controller comes after the first
//! answers, or two unanswered questions.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nett_policy::id::NodeId;
use nett_policy::liveness::Liveness;
use nett_policy::lower::object::Mac;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::ahead::go_ahead;
use super::echo::Echo;
use crate::controller::event::{Event, Pulse};
use crate::kernel::NeighbourTable;
use crate::telemetry::Metrics;
use crate::telemetry::event::NeighbourChanged;

/// A node that is asked.
#[derive(Debug, Clone)]
pub struct Watched {
    pub node: NodeId,
    pub address: IpAddr,
    /// Where it is, as seen from here.
    pub interface: String,
}

/// The time between two questions.
const EVERY: Duration = Duration::from_millis(100);
/// The Ethernet address is looked up once in so many questions.
const LOOKUP: u32 = 10;
/// Questions after which the first word is said, whatever came back.
const FIRST: u32 = 2;

struct Asked {
    watched: Watched,
    identifier: u16,
    socket: Option<Socket>,
    sequence: u16,
    liveness: Liveness,
    mac: Option<Mac>,
}

/// Asks until the controller is gone.
pub async fn watch(
    nodes: Vec<Watched>,
    mut table: NeighbourTable,
    events: mpsc::Sender<Event>,
    metrics: Metrics,
) {
    let mut asked: Vec<Asked> = nodes.into_iter().map(Asked::new).collect();
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told: Option<BTreeMap<NodeId, Pulse>> = None;
    let mut rounds: u32 = 0;
    loop {
        ticks.tick().await;
        for one in &mut asked {
            if rounds > 0 && one.hear() {
                let (node, silent) = (&one.watched.node, one.liveness.is_silent());
                metrics.emit(NeighbourChanged { node, silent });
            }
            if one.mac.is_none() || rounds.is_multiple_of(LOOKUP) {
                let Watched { address, interface, .. } = &one.watched;
                // An entry that is gone for the moment says nothing about the address.
                match table.mac(*address, interface).await {
                    Ok(found) => one.mac = found.or(one.mac),
                    Err(error) => tracing::debug!(%error, "Cannot look a neighbour up."),
                }
            }
            one.ask();
        }
        rounds = rounds.wrapping_add(1).max(1);
        let known = asked.iter().all(|one| one.liveness.is_known() && one.mac.is_some());
        if told.is_none() && !known && rounds <= FIRST {
            continue;
        }
        let pulses = asked.iter().map(|one| (one.watched.node.clone(), one.pulse()));
        let pulses: BTreeMap<NodeId, Pulse> = pulses.collect();
        if told.as_ref() != Some(&pulses) {
            told = Some(pulses.clone());
            if events.send(Event::Neighbours { pulses }).await.is_err() {
                return;
            }
        }
    }
}

// === impl Asked ===

impl Asked {
    fn new(watched: Watched) -> Self {
        let mut identifier = [0; 2];
        // Without randomness two agents on one host could take each other's answers, no more.
        let _ = getrandom::fill(&mut identifier);
        Self {
            watched,
            identifier: u16::from_ne_bytes(identifier),
            socket: None,
            sequence: 0,
            liveness: Liveness::default(),
            mac: None,
        }
    }

    fn pulse(&self) -> Pulse {
        Pulse { silent: self.liveness.is_silent(), mac: self.mac }
    }

    /// Takes in what has come since the last question; true when the verdict changed.
    fn hear(&mut self) -> bool {
        let echo = Echo { identifier: self.identifier, sequence: self.sequence };
        let address = self.watched.address;
        let mut answered = false;
        let mut buffer = [0; 256];
        while let Some(mut socket) = self.socket.as_ref() {
            match socket.read(&mut buffer) {
                Ok(length) => answered |= echo.is_answered_by(&buffer[..length], address),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // An error of an earlier question, for example an unreachable one.
                Err(_) => self.socket = None,
            }
        }
        self.liveness.hear(answered)
    }

    /// Sends the next question. One that cannot be sent has no answer, which is what counts.
    fn ask(&mut self) {
        self.sequence = self.sequence.wrapping_add(1);
        let echo = Echo { identifier: self.identifier, sequence: self.sequence };
        let request = echo.request(self.watched.address);
        if self.socket.is_none() {
            self.socket = open(&self.watched).ok();
        }
        // A socket on an interface that is gone is opened anew, on the one that took its name.
        if self.socket.as_ref().is_some_and(|socket| socket.send(&request).is_err()) {
            self.socket = None;
        }
    }
}

/// Bound to the interface: policy routing has no part in it.
fn open(watched: &Watched) -> io::Result<Socket> {
    let (domain, protocol) = match watched.address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.set_nonblocking(true)?;
    socket.bind_device(Some(watched.interface.as_bytes()))?;
    go_ahead(&socket, watched.address.is_ipv4())?;
    socket.connect(&SocketAddr::new(watched.address, 0).into())?;
    Ok(socket)
}
