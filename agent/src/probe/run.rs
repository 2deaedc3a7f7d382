//! Runs probes: one ICMP echo per target, and a TCP connection where the service names a port.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use nett_policy::lower::object::Layout;
use nett_policy::task::acks::ProbeTarget;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::task::JoinSet;

use super::echo::Echo;
use super::{Probe, Verdict};

/// Probes over the links of this node; needs CAP_NET_RAW and CAP_NET_ADMIN (SO_MARK).
#[derive(Debug, Clone, Copy, Default)]
pub struct LinkProbe;

/// How long one try waits for its answer. Tries are repeated until the step's deadline.
const TRY: Duration = Duration::from_millis(250);
/// How many targets are probed at the same time.
const PARALLEL: usize = 16;
/// How many targets of one step are probed; the others share their path.
const SAMPLE: usize = 256;

impl Probe for LinkProbe {
    async fn run(&self, targets: Vec<ProbeTarget>, timeout: Duration) -> Verdict {
        let deadline = Instant::now() + timeout;
        let mut verdict = Verdict { ok: true, evidence: Vec::new() };
        if targets.len() > SAMPLE {
            let total = targets.len();
            verdict.evidence.push(format!("probing {SAMPLE} of {total} paths"));
        }
        let mut waiting = targets.into_iter().take(SAMPLE);
        let mut running: JoinSet<(bool, String)> = JoinSet::new();
        loop {
            while running.len() < PARALLEL {
                let Some(target) = waiting.next() else { break };
                running.spawn_blocking(move || one(&target, deadline));
            }
            match running.join_next().await {
                None => break,
                Some(Ok((ok, line))) => {
                    verdict.ok &= ok;
                    verdict.evidence.push(line);
                }
                Some(Err(error)) => {
                    verdict.ok = false;
                    verdict.evidence.push(format!("a probe stopped: {error}"));
                }
            }
        }
        verdict.evidence.sort();
        verdict
    }
}

/// Probes one target until it answers or the deadline passes.
fn one(target: &ProbeTarget, deadline: Instant) -> (bool, String) {
    let ProbeTarget { service, site, vip, interface, .. } = target;
    let name = format!("{service} at {site}: {vip} over {interface}");
    let took = match retry(deadline, |sequence| echo(target, sequence)) {
        Ok(took) => took,
        Err(error) => return (false, format!("{name}: no echo reply: {error}")),
    };
    let echoed = format!("{name}: echo reply in {} us", took.as_micros());
    let Some(port) = target.port else { return (true, echoed) };
    match retry(deadline, |_| connect(target, port)) {
        Ok(took) => (true, format!("{echoed}, tcp {port} open in {} us", took.as_micros())),
        Err(error) => (false, format!("{echoed}, tcp {port}: {error}")),
    }
}

fn retry(
    deadline: Instant,
    try_once: impl Fn(u16) -> io::Result<Duration>,
) -> io::Result<Duration> {
    let mut sequence = 0;
    loop {
        sequence += 1;
        let begun = Instant::now();
        match try_once(sequence) {
            Ok(took) => return Ok(took),
            Err(error) if Instant::now() >= deadline => return Err(error),
            // An error that comes at once (unreachable) is not asked for in a tight loop.
            Err(_) => std::thread::sleep(TRY.saturating_sub(begun.elapsed())),
        }
    }
}

fn echo(target: &ProbeTarget, sequence: u16) -> io::Result<Duration> {
    let (domain, protocol) = match target.vip {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = pinned(Socket::new(domain, Type::RAW, Some(protocol))?, target)?;
    let mut identifier = [0u8; 2];
    getrandom::fill(&mut identifier).map_err(io::Error::other)?;
    let echo = Echo { identifier: u16::from_ne_bytes(identifier), sequence };
    // Connected, the socket delivers packets from the VIP only.
    socket.connect(&SocketAddr::new(target.vip, 0).into())?;
    let begun = Instant::now();
    socket.send(&echo.request(target.vip))?;
    let mut buffer = [0u8; 256];
    loop {
        let left = TRY.checked_sub(begun.elapsed()).filter(|left| !left.is_zero());
        let left = left.ok_or_else(|| io::Error::from(io::ErrorKind::TimedOut))?;
        socket.set_read_timeout(Some(left))?;
        let length = (&socket).read(&mut buffer).map_err(timed_out)?;
        if echo.is_answered_by(&buffer[..length], target.vip) {
            return Ok(begun.elapsed());
        }
    }
}

fn connect(target: &ProbeTarget, port: u16) -> io::Result<Duration> {
    let domain = if target.vip.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = pinned(Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?, target)?;
    let begun = Instant::now();
    socket.connect_timeout(&SocketAddr::new(target.vip, port).into(), TRY * 4)?;
    Ok(begun.elapsed())
}

/// Marks the socket as a reply over the target's link and gives it that link's address.
fn pinned(socket: Socket, target: &ProbeTarget) -> io::Result<Socket> {
    socket.set_mark(Layout::MARK_CAME + u32::from(target.link))?;
    socket.bind(&SocketAddr::new(target.source, 0).into())?;
    Ok(socket)
}

/// A receive timeout reads as "would block".
fn timed_out(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::from(io::ErrorKind::TimedOut),
        _ => error,
    }
}
