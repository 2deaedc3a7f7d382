//! Runs probes: one ICMP echo per target, and a TCP connection where the service names a port.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nett_policy::lower::object::Layout;
use nett_policy::task::acks::ProbeTarget;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::mpsc;

use super::echo::Echo;
use super::{Probe, Verdict};

/// Probes over the links of this node; needs CAP_NET_RAW and CAP_NET_ADMIN (SO_MARK).
#[derive(Debug, Clone, Copy, Default)]
pub struct LinkProbe;

/// How long one try waits for its answer. Tries are repeated until the step's deadline.
const TRY: Duration = Duration::from_millis(250);
/// How many targets are probed at the same time.
const PARALLEL: usize = 16;
/// The most targets of one step that are probed; the others are like some of these.
const SAMPLE: usize = 256;

/// What a thread of its own is started for.
type Job = Box<dyn FnOnce() + Send>;

impl Probe for LinkProbe {
    async fn run(&self, targets: Vec<ProbeTarget>, timeout: Duration) -> Verdict {
        let thread = |job| {
            let started = std::thread::Builder::new().name("probe".to_owned()).spawn(job);
            started.map(drop)
        };
        run_on(thread, one, targets, timeout).await
    }
}

/// Probes with up to [`PARALLEL`] threads. With fewer than that it takes longer; without any, every
/// probe has failed.
async fn run_on(
    mut thread: impl FnMut(Job) -> io::Result<()>,
    probe: fn(&ProbeTarget, Instant) -> (bool, String),
    targets: Vec<ProbeTarget>,
    timeout: Duration,
) -> Verdict {
    let deadline = Instant::now() + timeout;
    let total = targets.len();
    let waiting = sampled(targets);
    let probed = waiting.len();
    let waiting = Arc::new(Mutex::new(waiting.into_iter()));
    let (tell, mut told) = mpsc::unbounded_channel();
    let mut refused = None;
    for _ in 0..PARALLEL.min(probed) {
        let (waiting, tell) = (Arc::clone(&waiting), tell.clone());
        let job = move || {
            while let Some(target) = next(&waiting)
                && tell.send(probe(&target, deadline)).is_ok()
            {}
        };
        if let Err(error) = thread(Box::new(job)) {
            tracing::warn!(%error, "Cannot start a thread for probes.");
            refused = Some(error);
            break;
        }
    }
    drop(tell);
    let (mut answered, mut failed) = (Vec::new(), Vec::new());
    while let Some((ok, line)) = told.recv().await {
        if ok { answered.push(line) } else { failed.push(line) }
    }
    while let Some(target) = next(&waiting) {
        let why = refused.as_ref().map_or("its thread stopped".to_owned(), |error| {
            format!("cannot start a thread: {error}")
        });
        failed.push(format!("{}: not probed: {why}", name_of(&target)));
    }
    let stopped = probed - answered.len() - failed.len();
    failed.extend((0..stopped).map(|_| "a probe stopped without a verdict".to_owned()));
    let ok = failed.is_empty();
    // Among hundreds of lines those that say what is wrong are what is looked for.
    let mut evidence = if ok { answered } else { failed };
    evidence.sort();
    if !ok {
        let failed = evidence.len();
        evidence.insert(0, format!("{failed} of {probed} probes had no answer"));
    }
    if probed < total {
        evidence.insert(0, format!("probed {probed} of {total} paths"));
    }
    Verdict { ok, evidence }
}

fn next(waiting: &Mutex<std::vec::IntoIter<ProbeTarget>>) -> Option<ProbeTarget> {
    waiting.lock().expect("no code panics while it holds the targets").next()
}

/// At most [`SAMPLE`] of the targets, from the whole of the list: neighbours in it are alike, and
/// so may be every second one, so the place within each stretch changes from one to the next.
fn sampled(targets: Vec<ProbeTarget>) -> Vec<ProbeTarget> {
    let total = targets.len();
    if total <= SAMPLE {
        return targets;
    }
    let start = |n: usize| n * total / SAMPLE;
    let one = |n: usize| start(n) + n * 31 % (start(n + 1) - start(n));
    let mut chosen = (0..SAMPLE).map(one).peekable();
    let targets = targets.into_iter().enumerate();
    targets.filter_map(|(n, target)| chosen.next_if_eq(&n).map(|_| target)).collect()
}

/// Probes one target until it answers or the deadline passes.
fn one(target: &ProbeTarget, deadline: Instant) -> (bool, String) {
    let name = name_of(target);
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

fn name_of(target: &ProbeTarget) -> String {
    let ProbeTarget { service, site, vip, interface, .. } = target;
    format!("{service} at {site}: {vip} over {interface}")
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

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(count: usize) -> Vec<ProbeTarget> {
        let target = |n: usize| ProbeTarget {
            service: format!("bulk/prod/s{n}").parse().expect("an id"),
            site: "osl".parse().expect("an id"),
            vip: IpAddr::from([10, 0, 0, 1]),
            link: u8::try_from(n % 2).expect("a bit"),
            source: IpAddr::from([10, 0, 0, 2]),
            interface: "wan0".into(),
            port: None,
        };
        (0..count).map(target).collect()
    }

    #[test]
    fn a_sample_is_from_the_whole_list_and_over_both_of_two_links() {
        for count in [SAMPLE + 1, 2 * SAMPLE, 1000, 68_000] {
            let all = targets(count);
            let sample = sampled(all.clone());
            assert_eq!(sample.len(), SAMPLE);
            let place = |t: &ProbeTarget| all.iter().position(|one| one == t).expect("of the list");
            let places: Vec<usize> = sample.iter().map(place).collect();
            assert!(places.is_sorted() && places[0] < count / SAMPLE + 1);
            assert!(places[SAMPLE - 1] + count / SAMPLE + 1 >= count, "{count}");
            let odd = sample.iter().filter(|t| t.link == 1).count();
            assert!((SAMPLE / 4..=SAMPLE * 3 / 4).contains(&odd), "{count}: {odd}");
        }
        assert_eq!(sampled(targets(SAMPLE)), targets(SAMPLE));
    }

    fn yes(target: &ProbeTarget, _deadline: Instant) -> (bool, String) {
        (true, name_of(target))
    }

    #[tokio::test]
    async fn probes_without_a_thread_have_failed_and_say_why() {
        let none = |_job| Err(io::Error::from_raw_os_error(11));
        let verdict = run_on(none, yes, targets(3), Duration::from_secs(1)).await;
        assert!(!verdict.ok);
        assert_eq!(verdict.evidence[0], "3 of 3 probes had no answer");
        let line = "bulk/prod/s0 at osl: 10.0.0.1 over wan0: not probed: cannot start a thread: ";
        assert!(verdict.evidence[1].starts_with(line), "{verdict:?}");
    }

    #[tokio::test]
    async fn one_thread_probes_what_sixteen_would_have() {
        let mut left = 1;
        let one = |job| {
            if left == 0 {
                return Err(io::Error::from_raw_os_error(11));
            }
            left -= 1;
            std::thread::Builder::new().spawn(job).map(drop)
        };
        let verdict = run_on(one, yes, targets(40), Duration::from_secs(1)).await;
        assert_eq!((verdict.ok, verdict.evidence.len()), (true, 40));
    }

    #[tokio::test]
    async fn a_probe_that_panics_has_failed() {
        fn stumbles(target: &ProbeTarget, _deadline: Instant) -> (bool, String) {
            panic!("at {}", target.site)
        }
        let thread = |job| std::thread::Builder::new().spawn(job).map(drop);
        let verdict = run_on(thread, stumbles, targets(2), Duration::from_secs(1)).await;
        let stopped = "a probe stopped without a verdict";
        assert_eq!(verdict.evidence, ["2 of 2 probes had no answer", stopped, stopped]);
    }
}
