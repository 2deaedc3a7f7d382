//! Senders of forged questions, and clients that measure what they get meanwhile.

use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;
use nix::errno::Errno;
use nix::libc;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};
use nix::unistd::Pid;

use super::serve::query;

/// Clients, each in a network of its own.
const CLIENTS: u8 = 50;
/// One question of all clients together in so long.
const PACE: Duration = Duration::from_millis(1);
/// A client gives up after this.
const PATIENCE: Duration = Duration::from_secs(1);

/// Source and question of some forged packets.
pub(crate) struct Forged {
    source: Ipv4Addr,
    name: Option<u64>,
}

fn mix(n: u64) -> u64 {
    let z = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// From anywhere, for names of services.
pub(crate) fn forged(n: u64) -> Forged {
    let bits = (mix(n) >> 32) as u32;
    // 1.0.0.0 to 126.255.255.255: neither this host nor a multicast group.
    Forged { source: Ipv4Addr::from((bits % 0x7e00_0000) + 0x0100_0000), name: None }
}

/// From one /24, for names of services.
pub(crate) fn of_one_network(n: u64) -> Forged {
    Forged { source: Ipv4Addr::new(198, 18, 77, (mix(n) >> 56) as u8), name: None }
}

/// By the first of the clients, for names that do not exist.
pub(crate) fn random_names(n: u64) -> Forged {
    Forged { source: client_ip(0), name: Some(mix(n)) }
}

fn client_ip(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, n, 7)
}

/// Resident memory of this process.
pub(crate) fn resident_kib() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Puts threads whose name begins so on one processor, as if senders and server were two machines.
/// Threads a thread starts stay where it is. With one processor nothing is done.
pub(crate) fn pin(threads: &str, processor: usize) {
    for task in std::fs::read_dir("/proc/self/task").expect("procfs") {
        let path = task.expect("an entry").path();
        let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
        let id = path.file_name().and_then(|id| id.to_str()?.parse().ok()).expect("a number");
        let mut set = CpuSet::new();
        if name.starts_with(threads) && set.set(processor).is_ok() {
            let _ = sched_setaffinity(Pid::from_raw(id), &set);
        }
    }
}

// === flood ===

/// Packets that one system call sends, of one source: the kernel cuts them from one buffer, and
/// each costs its sender a part of a packet that is sent alone.
const BURST: usize = 8;
/// How much nicer than the clients the sender is, see nice(2).
const BEHIND: i32 = 10;
/// How often the sender looks whether more is due.
const GAP: Duration = Duration::from_micros(100);
/// A sender that was without processor for longer than this sends less, not all at once.
const MOST_LATE: Duration = Duration::from_millis(2);

pub(crate) struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    started: Instant,
    thread: JoinHandle<()>,
}

impl Flood {
    /// Sends `per_second` packets, or as many as it can, until it is stopped.
    pub(crate) fn start(to: SocketAddr, per_second: Option<f64>, kind: fn(u64) -> Forged) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (told, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let started = Instant::now();
        let thread = std::thread::spawn(move || {
            // It shares a processor with the clients, who are not to wait for it.
            let _ = rustix::process::nice(BEHIND);
            let mut sender = Forger::new(to);
            let apart = per_second.map(|rate| Duration::from_secs_f64(BURST as f64 / rate));
            let (mut bursts, mut due) = (0u64, started);
            while !told.load(Ordering::Relaxed) {
                let now = Instant::now();
                if apart.is_some() && due > now {
                    std::thread::sleep(GAP);
                    continue;
                }
                // What it was late with by much does not come at once.
                due = due.max(now.checked_sub(MOST_LATE).unwrap_or(started));
                due += apart.unwrap_or_default();
                sender.send(bursts, kind);
                bursts += 1;
                count.store(bursts * BURST as u64, Ordering::Relaxed);
            }
        });
        Self { stop, sent, started, thread }
    }

    /// Packets a second while it lasted.
    pub(crate) fn stop(self) -> f64 {
        self.stop.store(true, Ordering::Relaxed);
        let rate = self.sent.load(Ordering::Relaxed) as f64 / self.started.elapsed().as_secs_f64();
        self.thread.join().expect("the sender");
        rate
    }
}

/// Sends questions from addresses that are all local in this namespace.
struct Forger {
    /// Several, so that ports differ too. What comes back finds no room.
    sockets: Vec<UdpSocket>,
    to: SockaddrIn,
    plain: Vec<u8>,
    random: Vec<u8>,
}

impl Forger {
    fn new(to: SocketAddr) -> Self {
        let SocketAddr::V4(to) = to else { unreachable!("the test is of IPv4") };
        let socket = |_| {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a free port");
            socket2::SockRef::from(&socket).set_recv_buffer_size(0).expect("the least there is");
            socket
        };
        let question = |name: &str| query(name, RecordType::A, Some(1232)).repeat(BURST);
        Self {
            sockets: (0..64).map(socket).collect(),
            to: to.into(),
            plain: question("api.prod.shop.steer.example"),
            random: question("x0000000000000000.steer.example"),
        }
    }

    fn send(&mut self, burst: u64, kind: fn(u64) -> Forged) {
        let Forged { source, name } = kind(burst);
        let packets = match name {
            None => &mut self.plain,
            Some(label) => {
                const FIRST_LETTER: usize = 12 + 2;
                let long = self.random.len() / BURST;
                for (n, packet) in (0..).zip(self.random.chunks_mut(long)) {
                    let label = mix(label.wrapping_add(n));
                    for (at, letter) in packet[FIRST_LETTER..].iter_mut().take(16).enumerate() {
                        *letter = b'a' + (label >> (4 * at) & 15) as u8;
                    }
                }
                &mut self.random
            }
        };
        let length = u16::try_from(packets.len() / BURST).expect("a question is short");
        let from = libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(source.octets()) },
            ipi_addr: libc::in_addr { s_addr: 0 },
        };
        let how = [ControlMessage::UdpGsoSegments(&length), ControlMessage::Ipv4PacketInfo(&from)];
        let socket = &self.sockets[(mix(burst) % 64) as usize];
        let parts = [IoSlice::new(packets)];
        // A full queue on the way loses it, as in life.
        let sent = sendmsg(socket.as_raw_fd(), &parts, &how, MsgFlags::empty(), Some(&self.to));
        assert!(matches!(sent, Ok(_) | Err(Errno::ENOBUFS)), "{source}: {sent:?}");
    }
}

// === clients ===

/// What became of the questions of all clients in some time.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) asked: usize,
    pub(crate) answered: usize,
    times: Vec<Duration>,
}

impl Seen {
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.times.clone();
        sorted.sort();
        let last = sorted.len().saturating_sub(1);
        sorted.get(last * percent / 100).copied().unwrap_or(PATIENCE)
    }
}

pub(crate) struct Clients {
    wanted: Sender<Duration>,
    seen: Receiver<Seen>,
}

impl Clients {
    /// Clients that ask all the time, at a steady pace, whether or not anybody counts.
    pub(crate) fn start(server: SocketAddr) -> Self {
        let (wanted, wishes) = channel();
        let (told, seen) = channel();
        std::thread::spawn(move || run(server, &wishes, &told));
        Self { wanted, seen }
    }

    /// What they see in the time to come.
    pub(crate) fn collect(&self, time: Duration) -> Seen {
        self.wanted.send(time).expect("the clients run");
        self.seen.recv().expect("the clients run")
    }
}

fn run(server: SocketAddr, wishes: &Receiver<Duration>, told: &Sender<Seen>) {
    let sockets: Vec<UdpSocket> = (0..CLIENTS)
        .map(|n| {
            let socket = UdpSocket::bind(SocketAddr::new(client_ip(n).into(), 0)).expect("local");
            socket.connect(server).expect("connected");
            socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            socket
        })
        .collect();
    let mut packet = query("v4.prod.shop.steer.example", RecordType::A, Some(1232));
    let mut n = 0u16;
    while let Ok(time) = wishes.recv() {
        let (started, mut seen) = (Instant::now(), Seen::default());
        // One thread for all of them: threads would measure each other.
        let mut waiting: Vec<(u16, Instant)> = Vec::new();
        let mut next = Instant::now();
        sockets.iter().for_each(|s| s.set_nonblocking(true).expect("an option"));
        while started.elapsed() < time || !waiting.is_empty() {
            let now = Instant::now();
            if now >= next && started.elapsed() < time {
                next += PACE;
                n = n.wrapping_add(1);
                packet[..2].copy_from_slice(&n.to_be_bytes());
                let at = usize::from(n) % sockets.len();
                if sockets[at].send(&packet).is_ok() {
                    seen.asked += 1;
                    waiting.push((n, Instant::now()));
                }
            }
            // Whoever waits for nothing is not looked at: the clients are to cost little.
            for at in waiting.iter().map(|w| usize::from(w.0) % sockets.len()).collect::<Vec<_>>() {
                let mut answer = [0; 512];
                while let Ok(2..) = sockets[at].recv(&mut answer) {
                    let id = u16::from_be_bytes([answer[0], answer[1]]);
                    if let Some(at) = waiting.iter().position(|w| w.0 == id) {
                        seen.answered += 1;
                        seen.times.push(waiting.swap_remove(at).1.elapsed());
                    }
                }
            }
            waiting.retain(|(_, sent)| sent.elapsed() < PATIENCE);
            std::thread::sleep(Duration::from_micros(50));
        }
        if told.send(seen).is_err() {
            return;
        }
    }
}
