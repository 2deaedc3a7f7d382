//! The thread of all sessions of this node.
//!
//! Each turn: orders, what has come, what the time says, what is to be sent, then waiting. What has
//! come is taken before the time is looked at, and what this process was stopped or late does not
//! count as silence of the far end. Waking costs more than all that is done then, so packets that
//! may leave join those that must. It never waits for anybody: views go by a watch, transitions by
//! a bounded channel, and what does not fit into that is missing from log and counters, not from
//! the views.
//!
//! Crash story: see the module above.

use std::collections::BTreeSet;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::mpsc as orders;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nett_policy::trust::{Pace, Trust};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use tokio::sync::{mpsc, watch};

use super::packet::Packet;
use super::session::{Change, Session};
use super::socket::{Received, Sockets, is_full, is_unreachable};
use super::{Path, PathId, PathView, Presence, Transition, Views, What};

/// When sockets that could not be opened, or broke, are tried again.
const RETRY: Duration = Duration::from_millis(100);
/// When a packet is tried again that a full queue dropped.
const RETRY_FULL: Duration = Duration::from_millis(2);
/// The longest wait, against anything that was overlooked.
const LONGEST: Duration = Duration::from_secs(1);
/// A turn that begins later than this found the process stopped, or the machine too busy.
const LATE: Duration = Duration::from_millis(5);
/// Datagrams of one session that are taken before others have their turn.
const BURST: usize = 64;
/// Transitions that may wait to be told.
const WAITING: usize = 256;
/// How often a session that ends says so: the far end must not take it for a failure.
const FAREWELLS: usize = 2;
/// The thread goes before others of this machine, where it may.
const NICENESS: i32 = -15;

enum Order {
    /// These paths from now on. Sessions go on where nothing but their timers changed.
    Paths(Vec<Path>, BTreeSet<PathId>),
    Presence(Presence),
    Stop,
}

/// The handle of the thread. Dropped, it ends the sessions in good order.
#[derive(Debug)]
pub struct Watcher {
    orders: orders::Sender<Order>,
    wake: UnixDatagram,
    views: watch::Receiver<Views>,
    thread: Option<JoinHandle<()>>,
}

struct Runner {
    orders: orders::Receiver<Order>,
    woken: UnixDatagram,
    begun: Instant,
    watched: Vec<Watched>,
    presence: Option<Presence>,
    views: watch::Sender<Views>,
    published: Views,
    told: mpsc::Sender<Transition>,
    randomness: u64,
    /// When this turn should have begun.
    due: Duration,
}

/// A path with everything that belongs to it.
struct Watched {
    path: Path,
    discriminator: u32,
    session: Session,
    trust: Trust,
    sockets: Option<Sockets>,
    /// Something has come, as far as the kernel said.
    readable: bool,
    open_at: Duration,
    trouble: Option<String>,
    /// What a full queue dropped, and when it is tried again. The next packet takes its place.
    dropped: Option<(Packet, Duration)>,
}

// === impl Watcher ===

impl Watcher {
    /// Starts the thread in the network namespace of the caller, without any path.
    ///
    /// # Errors
    /// When the system has no thread or socket left.
    pub fn start() -> io::Result<(Self, mpsc::Receiver<Transition>)> {
        let (sender, receiver) = orders::channel();
        let (wake, woken) = UnixDatagram::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let (publish, views) = watch::channel(Views::default());
        let (tell, told) = mpsc::channel(WAITING);
        let runner = Runner {
            orders: receiver,
            woken,
            begun: Instant::now(),
            watched: Vec::new(),
            presence: None,
            views: publish,
            published: Views::default(),
            told: tell,
            randomness: getrandom::u64().map_err(io::Error::other)? | 1,
            due: Duration::ZERO,
        };
        let thread = std::thread::Builder::new().name("bfd".to_owned());
        let thread = thread.spawn(move || runner.run())?;
        Ok((Self { orders: sender, wake, views, thread: Some(thread) }, told))
    }

    /// Watches these paths from now on; `doubted` are those that a process before this one doubted.
    pub fn watch(&self, paths: Vec<Path>, doubted: BTreeSet<PathId>) {
        self.order(Order::Paths(paths, doubted));
    }

    /// Says over which interfaces packets can be sent.
    pub fn present(&self, presence: Presence) {
        self.order(Order::Presence(presence));
    }

    /// How the paths are; always the newest.
    pub fn views(&self) -> watch::Receiver<Views> {
        self.views.clone()
    }

    fn order(&self, order: Order) {
        // A thread that is gone is noticed elsewhere; a full pipe wakes as well as another message.
        if self.orders.send(order).is_ok() {
            let _ = self.wake.send(&[0]);
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.order(Order::Stop);
        if let Some(thread) = self.thread.take() {
            // It has nothing to wait for.
            let _ = thread.join();
        }
    }
}

// === impl Runner ===

impl Runner {
    fn run(mut self) {
        // Without the privilege it shares the machine like everybody else.
        let _ = rustix::process::setpriority_process(None, NICENESS);
        loop {
            let now = self.begun.elapsed();
            let late = now.saturating_sub(self.due);
            if late > LATE {
                self.watched.iter_mut().for_each(|w| w.session.excuse(late, now));
            }
            self.due = now;
            while let Ok(order) = self.orders.try_recv() {
                match order {
                    Order::Paths(paths, doubted) => self.take_paths(paths, &doubted, now),
                    Order::Presence(presence) => self.take_presence(presence, now),
                    Order::Stop => return self.say_farewell(now),
                }
            }
            let mut changed = Vec::new();
            if self.watched.iter().any(|w| w.sockets.is_some() && w.session.is_due(now)) {
                self.watched.iter_mut().for_each(|w| w.session.join(now));
            }
            // The same for all of a turn: those that left together are due together.
            self.randomness = next_random(self.randomness);
            let jitter = (self.randomness >> 32) as u8;
            for watched in &mut self.watched {
                watched.turn(now, jitter, &mut changed);
            }
            self.publish(changed);
            self.wait();
        }
    }

    fn take_paths(&mut self, paths: Vec<Path>, doubted: &BTreeSet<PathId>, now: Duration) {
        let mut before = std::mem::take(&mut self.watched);
        for path in paths {
            let same = |old: &Watched| {
                let Path { id, interface, near, far, settings: _ } = &old.path;
                (id, interface, near, far) == (&path.id, &path.interface, &path.near, &path.far)
            };
            let kept = before.iter().position(same).map(|at| before.remove(at));
            let watched = match kept {
                Some(mut watched) => {
                    watched.session.set(path.settings);
                    Watched { path, ..watched }
                }
                None => self.begin(path, doubted, now),
            };
            self.watched.push(watched);
        }
        before.iter_mut().for_each(|gone| gone.farewell(now));
    }

    fn begin(&mut self, path: Path, doubted: &BTreeSet<PathId>, now: Duration) -> Watched {
        let taken: BTreeSet<u32> = self.watched.iter().map(|w| w.discriminator).collect();
        let discriminator = loop {
            self.randomness = next_random(self.randomness);
            let drawn = NonZeroU32::new((self.randomness >> 32) as u32);
            if let Some(drawn) = drawn.filter(|d| !taken.contains(&d.get())) {
                break drawn;
            }
        };
        let trust = match doubted.contains(&path.id) {
            true => Trust::recalled(usual(&path)),
            false => Trust::default(),
        };
        let mut watched = Watched {
            session: Session::new(discriminator, path.settings),
            discriminator: discriminator.get(),
            path,
            trust,
            sockets: None,
            readable: false,
            open_at: now,
            trouble: None,
            dropped: None,
        };
        if let Some(presence) = &self.presence {
            watched.trust.present(presence.contains_key(&watched.path.id), now);
        }
        watched
    }

    fn take_presence(&mut self, presence: Presence, now: Duration) {
        let before = self.presence.replace(presence.clone()).unwrap_or_default();
        for watched in &mut self.watched {
            let (old, new) = (before.get(&watched.path.id), presence.get(&watched.path.id));
            watched.trust.present(new.is_some(), now);
            if new.is_some() && old != new {
                // Another interface may have taken the name, or the address is back.
                (watched.sockets, watched.open_at) = (None, now);
            }
        }
    }

    fn say_farewell(&mut self, now: Duration) {
        for watched in &mut self.watched {
            watched.farewell(now);
        }
    }

    fn publish(&mut self, changed: Vec<Transition>) {
        let as_before = |w: &Watched| self.published.get(&w.path.id) == Some(&w.view());
        let same = self.watched.len() == self.published.len();
        // Whoever reads may be interrupted with the lock in hand: it is taken only for news.
        if !same || !self.watched.iter().all(as_before) {
            let views = self.watched.iter().map(|w| (w.path.id.clone(), w.view()));
            self.published = Arc::new(views.collect());
            self.views.send_replace(self.published.clone());
        }
        for transition in changed {
            let _ = self.told.try_send(transition);
        }
    }

    fn wait(&mut self) {
        let deadlines = self.watched.iter().filter_map(Watched::deadline);
        let now = self.begun.elapsed();
        let busy = now.saturating_sub(self.due);
        let until = deadlines.min().map_or(LONGEST, |at| at.saturating_sub(now).min(LONGEST));
        let sockets = self.watched.iter().filter_map(|w| w.sockets.as_ref()).map(AsFd::as_fd);
        let all = sockets.chain([self.woken.as_fd()]);
        let mut waiting: Vec<PollFd<'_>> =
            all.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let _ = ppoll(&mut waiting, Some(TimeSpec::from_duration(until)), None);
        let has_news = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        let mut news: Vec<bool> = waiting.iter().map(has_news).collect();
        if news.pop() == Some(true) {
            let mut byte = [0; 1];
            while self.woken.recv(&mut byte).is_ok() {}
        }
        let open = self.watched.iter_mut().filter(|w| w.sockets.is_some());
        open.zip(news).for_each(|(watched, readable)| watched.readable = readable);
        // A turn that took long is as bad as one that began late.
        let woken = self.begun.elapsed().min(now + until);
        self.due = woken.saturating_sub(if busy > LATE { busy } else { Duration::ZERO });
    }
}

/// The pace of a session over this path when it is up, where both ends have the same settings.
fn usual(path: &Path) -> Pace {
    let (interval, packets) = (path.settings.rx, path.settings.multiplier);
    Pace { interval, detection: interval * u32::from(packets) }
}

/// Xorshift (Marsaglia 2003): good enough for jitter and numbers that only must differ.
fn next_random(mut x: u64) -> u64 {
    x ^= x << 13;
    x ^= x >> 7;
    x ^ (x << 17)
}

// === impl Watched ===

impl Watched {
    fn turn(&mut self, now: Duration, jitter: u8, changed: &mut Vec<Transition>) {
        let before = self.trust.belief();
        if self.sockets.is_none() && now >= self.open_at {
            self.open(now);
        }
        // It may have come after the kernel was asked.
        if self.readable || self.session.is_expired(now) {
            self.hear(now, changed);
        }
        if let Some(change) = self.session.check(now) {
            self.take(change, now, changed);
        }
        if self.session.remote().is_none() {
            self.trust.unheard();
        }
        self.trust.tick(usual(&self.path), now);
        // Without sockets nothing counts as sent, above all not the first packet.
        while self.sockets.is_some() {
            let Some(packet) = self.session.packet(now, jitter) else { break };
            // Without a carrier the kernel would ask for the neighbour in vain, and go on waiting
            // for its answer when the carrier is back. The session counts it as sent: the link
            // would have lost it.
            if self.trust.is_present() {
                self.send(&packet, now);
            }
        }
        if let Some((packet, _)) = self.dropped.take_if(|(_, at)| now >= *at) {
            self.send(&packet, now);
        }
        let after = self.trust.belief();
        if before != after {
            let what = What::Belief { from: before, to: after };
            changed.push(Transition { path: self.path.id.clone(), what });
        }
    }

    fn open(&mut self, now: Duration) {
        match Sockets::open(&self.path) {
            Ok(sockets) => (self.sockets, self.trouble) = (Some(sockets), None),
            Err(error) => {
                let Path { near, interface, .. } = &self.path;
                self.trouble = Some(format!("no socket for {near} on {interface}: {error}"));
                self.open_at = now + RETRY;
            }
        }
    }

    fn hear(&mut self, now: Duration, changed: &mut Vec<Transition>) {
        let mut buffer = Sockets::buffer();
        for _ in 0..BURST {
            let Some(sockets) = &self.sockets else { return };
            let length = match sockets.receive(&mut buffer) {
                Ok(Received::Datagram(length)) => length,
                Ok(Received::Stranger) => continue,
                Ok(Received::Nothing) => return,
                Err(error) => return self.broken(&error, now),
            };
            let Ok(packet) = Packet::read(&buffer[..length]) else { continue };
            let Ok(change) = self.session.receive(&packet, now) else { continue };
            if let Some(change) = change {
                self.take(change, now, changed);
            }
            if self.session.state() != super::State::Up {
                self.trust.heard(packet.state == super::State::AdminDown, now);
            }
        }
    }

    fn send(&mut self, packet: &Packet, now: Duration) {
        let Some(sockets) = &self.sockets else { return };
        self.dropped = None;
        match sockets.send(&packet.write(), packet.state == super::State::Up) {
            Ok(()) => self.trouble = None,
            Err(error) if is_full(&error) => self.dropped = Some((*packet, now + RETRY_FULL)),
            // A filter: the next one may pass.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let interface = &self.path.interface;
                self.trouble = Some(format!("a packet filter stops packets over {interface}"));
            }
            // A neighbour that does not answer, or a router's word: the next one may arrive.
            Err(error) if is_unreachable(&error) => {
                self.trouble = Some(format!("cannot send over {}: {error}", self.path.interface));
            }
            Err(error) => self.broken(&error, now),
        }
    }

    /// The interface or the address went, for instance.
    fn broken(&mut self, error: &io::Error, now: Duration) {
        (self.sockets, self.dropped) = (None, None);
        self.open_at = now + RETRY;
        self.trouble = Some(format!("cannot send over {}: {error}", self.path.interface));
    }

    fn take(&mut self, change: Change, now: Duration, changed: &mut Vec<Transition>) {
        let Change { from, to, fall, pace } = change;
        match fall {
            Some(fall) => self.trust.down(fall, pace, now),
            None if to == super::State::Up => self.trust.up(now),
            None => {}
        }
        let remote = self.session.remote().map(|r| (r.state, r.diagnostic));
        let diagnostic = self.session.diagnostic();
        let what = What::Session { from, to, fall, diagnostic, remote };
        changed.push(Transition { path: self.path.id.clone(), what });
    }

    /// Tells the far end that this end stops, and that nothing failed.
    fn farewell(&mut self, now: Duration) {
        self.session.stop();
        let Some(packet) = self.session.packet(now, 0) else { return };
        for _ in 0..FAREWELLS {
            self.send(&packet, now);
        }
    }

    fn deadline(&self) -> Option<Duration> {
        let session = match self.sockets {
            Some(_) => self.session.deadline(),
            // Nothing is sent; what was heard may still run out.
            None => Some(self.open_at),
        };
        let dropped = self.dropped.as_ref().map(|(_, at)| *at);
        [session, dropped, self.trust.deadline()].into_iter().flatten().min()
    }

    fn view(&self) -> PathView {
        PathView {
            belief: self.trust.belief(),
            state: self.session.state(),
            diagnostic: self.session.diagnostic(),
            remote: self.session.remote().map(|r| (r.state, r.diagnostic)),
            interval: self.session.interval(),
            detection: self.session.pace().detection,
            trouble: self.trouble.clone(),
        }
    }
}
