//! Measures how long a packet takes over each link of this node and back: two ICMP echoes twice a
//! second to the far end's address, bound to the link's interface, whatever today's routes are. One
//! goes before what waits for the link and tells how far the site is; the other waits in turn.
//! Beside them is counted what the interface moves.
//!
//! What answers is the far end's kernel, so nothing has to run there. The kernel stamps an answer
//! when it arrives, and answers are looked for with the next question: neither a busy processor nor
//! a stopped process makes a link longer. What becomes of the times is for [`Gauge`] to say, and
//! for [`Judge`] whether the link is full; here nothing is decided, and silence is not held against
//! a link.
//!
//! Crash story: made anew with the process; nothing is told before a window of answers is there.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::{Duration, SystemTime};

use nett_policy::fabric::{Fabric, Family, LinkEnd};
use nett_policy::id::{LinkId, NodeId};
use nett_policy::nearness::{Gauge, LONGEST};
use nett_policy::saturation::{self, Judge, Saturated};
use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use super::ahead::go_ahead;
use super::bfd::Presence;
use super::echo::Echo;
use crate::controller::event::Event;
use crate::kernel::InterfaceCounters;

/// A link that is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    pub link: LinkId,
    pub interface: String,
    pub near: IpAddr,
    pub far: IpAddr,
    pub capacity_bps: Option<u64>,
}

/// The mean time between two questions.
const EVERY: Duration = Duration::from_millis(500);
/// Packets that are looked at between two questions; what floods the socket is left in it.
const AT_ONCE: usize = 64;

/// A link with all that is known of it.
struct Line {
    measured: Measured,
    ahead: Asked,
    in_turn: Asked,
    gauge: Gauge,
    judge: Judge,
}

/// Questions of one kind over one link.
struct Asked {
    measured: Measured,
    kind: saturation::Asked,
    identifier: u16,
    socket: Option<Socket>,
    /// The log has said why there is no socket.
    has_failed: bool,
    sequence: u16,
    /// Questions without an answer yet, with the time by the clock that the kernel stamps with.
    open: VecDeque<(u16, SystemTime)>,
}

/// The links of a node, each by its first family that both ends have.
pub fn links(fabric: &Fabric, node: &NodeId) -> Vec<Measured> {
    let of = |end: &LinkEnd, family| {
        let mut addresses = end.addresses.iter().map(|net| net.addr());
        addresses.find(|address| Family::of(*address) == family)
    };
    let links = fabric.links_of(node).filter_map(|view| {
        let both = |family| Some((of(view.near, family)?, of(view.far, family)?));
        let (near, far) = Family::BOTH.into_iter().find_map(both)?;
        let (link, interface) = (view.link.id.clone(), view.near.interface.clone());
        let capacity_bps = view.link.capacity_bps;
        Some(Measured { link, interface, near, far, capacity_bps })
    });
    links.collect()
}

/// Measures until the controller is gone; nothing is sent over what is not `present`.
pub async fn measure(
    links: Vec<Measured>,
    mut counters: InterfaceCounters,
    present: watch::Receiver<Presence>,
    events: mpsc::Sender<Event>,
) {
    let mut lines: Vec<Line> = links.into_iter().map(Line::new).collect();
    let since = Instant::now();
    loop {
        let (mut farther, mut fuller) = (false, false);
        for line in &mut lines {
            let path = (line.measured.link.clone(), Family::of(line.measured.far));
            let index = present.borrow().get(&path).copied();
            let (moved, told) = line.turn(index, &mut counters, since.elapsed()).await;
            farther |= moved;
            fuller |= told;
        }
        if farther {
            let told = lines.iter();
            let told = told.filter_map(|one| Some((one.measured.link.clone(), one.gauge.told()?)));
            let told: BTreeMap<LinkId, Duration> = told.collect();
            if events.send(Event::RoundTrips { told }).await.is_err() {
                return;
            }
        }
        if fuller {
            let told = lines.iter();
            let told =
                told.filter_map(|one| Some((one.measured.link.clone(), one.judge.told()?.clone())));
            let links: BTreeMap<LinkId, Saturated> = told.collect();
            if events.send(Event::Saturation { links }).await.is_err() {
                return;
            }
        }
        sleep(jittered(EVERY)).await;
    }
}

/// A quarter more or less, so that nodes do not ask in step. Without randomness they may.
fn jittered(mean: Duration) -> Duration {
    let percent = getrandom::u32().map_or(100, |random| 75 + random % 51);
    mean * percent / 100
}

// === impl Line ===

impl Line {
    fn new(measured: Measured) -> Self {
        let asked = |kind| Asked::new(measured.clone(), kind);
        Self {
            ahead: asked(saturation::Asked::Ahead),
            in_turn: asked(saturation::Asked::InTurn),
            gauge: Gauge::default(),
            judge: Judge::new(measured.capacity_bps),
            measured,
        }
    }

    /// Hears, asks and counts, over the interface of this number. Says whether what is told of the
    /// time changed, and what is told of the load. What cannot be asked is as good as unanswered:
    /// its time is forgotten.
    async fn turn(
        &mut self,
        index: Option<u32>,
        counters: &mut InterfaceCounters,
        now: Duration,
    ) -> (bool, bool) {
        let mut farther = self.hear(now);
        let Some(index) = index else {
            farther |= self.gauge.take(None, now);
            return (farther, self.judge.away());
        };
        match counters.of(index).await {
            Ok(Some(moved)) => self.judge.counted(moved.sent, moved.received, now),
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "Cannot see what a link carries."),
        }
        self.in_turn.ask();
        self.ahead.ask();
        (farther, self.judge.judge(now))
    }

    /// Takes in what has come since the last question; true when the time that is told changed.
    fn hear(&mut self, now: Duration) -> bool {
        let Self { measured: _, ahead, in_turn, gauge, judge } = self;
        for answer in in_turn.hear() {
            judge.answered(in_turn.kind, answer, now);
        }
        let mut changed = false;
        for answer in ahead.hear() {
            judge.answered(ahead.kind, answer, now);
            changed |= gauge.take(answer, now);
        }
        changed
    }
}

// === impl Asked ===

impl Asked {
    fn new(measured: Measured, kind: saturation::Asked) -> Self {
        // Without randomness two agents on one host could take each other's answers, no more.
        let identifier = getrandom::u32().unwrap_or_default().to_ne_bytes();
        Self {
            measured,
            kind,
            identifier: u16::from_ne_bytes([identifier[0], identifier[1]]),
            socket: None,
            has_failed: false,
            sequence: 0,
            open: VecDeque::new(),
        }
    }

    /// What has come since the last question, and, without a time, what will not come any more.
    fn hear(&mut self) -> Vec<Option<Duration>> {
        let mut heard = Vec::new();
        for _ in 0..AT_ONCE {
            let Some(packet) = self.next_packet() else { break };
            if let Some((sequence, rtt)) = packet {
                self.open.retain(|(open, _)| *open != sequence);
                heard.push(Some(rtt));
            }
        }
        let clock = SystemTime::now();
        while let Some((_, sent)) = self.open.front() {
            // A clock that was set back has made the question useless.
            if clock.duration_since(*sent).is_ok_and(|age| age <= LONGEST) {
                break;
            }
            self.open.pop_front();
            heard.push(None);
        }
        heard
    }

    /// The next packet, if there is one: which open question it answers, and how soon. The socket
    /// gets whatever else of ICMP comes to this node.
    fn next_packet(&mut self) -> Option<Option<(u16, Duration)>> {
        let socket = self.socket.as_ref()?;
        let mut buffer = [0; 256];
        let Ok(received) = receive(socket, &mut buffer) else {
            self.socket = None;
            return None;
        };
        let (length, at) = received?;
        let packet = &buffer[..length];
        let answers = |(sequence, _): &&(u16, SystemTime)| {
            let echo = Echo { identifier: self.identifier, sequence: *sequence };
            echo.is_answered_by(packet, self.measured.far)
        };
        let found = self.open.iter().find(answers);
        // A clock that was set back in between has no time for it.
        Some(found.and_then(|(sequence, sent)| Some((*sequence, at.duration_since(*sent).ok()?))))
    }

    fn ask(&mut self) {
        if self.socket.is_none() {
            let opened = open(&self.measured, self.kind);
            if let (Err(error), false) = (&opened, self.has_failed) {
                let Measured { link, interface, .. } = &self.measured;
                tracing::warn!(%link, interface, %error, "The link's round trip is not measured.");
            }
            self.has_failed = opened.is_err();
            self.socket = opened.ok();
        }
        self.sequence = self.sequence.wrapping_add(1);
        let echo = Echo { identifier: self.identifier, sequence: self.sequence };
        let request = echo.request(self.measured.far);
        self.open.push_back((self.sequence, SystemTime::now()));
        // A socket on an interface that is gone is opened anew, on the one that took its name.
        if self.socket.as_ref().is_some_and(|socket| socket.send(&request).is_err()) {
            self.socket = None;
        }
    }
}

/// A packet with the time at which it arrived.
fn receive(socket: &Socket, buffer: &mut [u8; 256]) -> io::Result<Option<(usize, SystemTime)>> {
    let mut space = cmsg_space!(TimeSpec);
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = loop {
        match recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), flags) {
            Ok(message) => break message,
            Err(nix::Error::EAGAIN) => return Ok(None),
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    let stamp = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::ScmTimestampns(stamp) => Some(Duration::from(stamp)),
        _ => None,
    });
    let at = stamp.map_or_else(SystemTime::now, |stamp| SystemTime::UNIX_EPOCH + stamp);
    Ok(Some((message.bytes, at)))
}

/// Bound to the interface: whatever route is taken, it leads over the link.
fn open(measured: &Measured, kind: saturation::Asked) -> io::Result<Socket> {
    let (domain, protocol) = match measured.far {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.set_nonblocking(true)?;
    socket.bind_device(Some(measured.interface.as_bytes()))?;
    if kind == saturation::Asked::Ahead {
        go_ahead(&socket, measured.far.is_ipv4())?;
    }
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
    socket.bind(&SocketAddr::new(measured.near, 0).into())?;
    socket.connect(&SocketAddr::new(measured.far, 0).into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_away_is_forgotten_like_what_does_not_answer() {
        let address = IpAddr::from([192, 0, 2, 1]);
        let link = "osl-svg-1".parse().expect("an id");
        let interface = "wan0".to_owned();
        let (near, far, capacity_bps) = (address, address, None);
        let mut line = Line::new(Measured { link, interface, near, far, capacity_bps });
        let mut counters = InterfaceCounters::open().expect("a socket");
        let mut now = Duration::ZERO;
        while line.gauge.told().is_none() {
            line.gauge.take(Some(Duration::from_millis(5)), now);
            now += EVERY;
        }
        let last = now;
        while line.turn(None, &mut counters, now).await != (true, false) {
            now += EVERY;
            assert!(now < last + Duration::from_secs(3600), "it is told for ever");
        }
        assert_eq!(line.gauge.told(), None);
        assert!(now >= last + Duration::from_secs(60), "a short absence takes nothing away");
    }
}
