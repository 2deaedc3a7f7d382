//! Where the kernel threw packets away, from its own tracepoint `skb:kfree_skb`.
//!
//! What a failed story lost is seldom in a counter; the tracepoint has the function and the
//! reason (`include/net/dropreason-core.h`) of each packet. It is a help for whoever reads the
//! failure; where the kernel has no tracefs, the text says so.
//!
//! One kind of loss is Linux's own: whoever replaces a nexthop group takes the cached IPv6 routes
//! of its members away (`fib6_nh_release_dsts`, net/ipv6/route.c), and a packet that another
//! processor has just found such a route for is discarded (docs/PERFORMANCE.md). The prober sets
//! each packet of its own that was lost in that moment against one such drop ([`claim`]).

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use tempfile::TempDir;

/// How many of the last drops are listed one by one.
const LISTED: usize = 25;

/// A trace instance of its own, from creation until it is dropped, of the whole machine.
#[derive(Debug)]
pub struct Drops {
    instance: PathBuf,
    /// Where tracefs is mounted.
    root: TempDir,
}

/// The trace of the story that is told.
static LISTENING: Mutex<Option<(Drops, Vec<u64>)>> = Mutex::new(None);

/// How long after it was sent a packet of the lab may be discarded, in nanoseconds.
const UNDER_WAY: u64 = 50_000_000;

/// One packet thrown away.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Dropped<'a> {
    /// Seconds since the Unix epoch, with six decimals.
    at: &'a str,
    /// The number of the protocol, as in Ethernet frames.
    protocol: &'a str,
    /// As the kernel writes it: `ip6_mc_input+0x1a/0x2c0`.
    location: &'a str,
    reason: &'a str,
}

// === impl Drops ===

impl Drops {
    /// Begins to listen. Needs root and a kernel with tracefs.
    pub fn start() -> Result<Self> {
        let root = tempfile::Builder::new().prefix("nett-drops-").tempdir()?;
        mount(Some("tracefs"), root.path(), Some("tracefs"), MsFlags::empty(), None::<&str>)
            .context("cannot mount tracefs")?;
        let name = root.path().file_name().context("a directory has a name")?;
        let drops = Self { instance: root.path().join("instances").join(name), root };
        fs::create_dir(&drops.instance).context("cannot make a trace instance")?;
        // 2 MB for each processor hold some ten thousand drops; older ones make room. The clock is
        // the machine's wall clock as long as nobody told the kernel of leap seconds.
        drops.set("buffer_size_kb", "2048")?;
        drops.set("trace_clock", "tai")?;
        drops.set("events/skb/kfree_skb/filter", "protocol == 0x0800 || protocol == 0x86dd")?;
        drops.set("events/skb/kfree_skb/enable", "1")?;
        Ok(drops)
    }

    fn set(&self, file: &str, value: &str) -> Result<()> {
        let path = self.instance.join(file);
        fs::write(&path, value).with_context(|| format!("cannot write {}", path.display()))
    }

    /// How many packets were thrown away where and why, and the last of them.
    pub fn told(&self) -> Result<String> {
        Ok(tell(&fs::read_to_string(self.instance.join("trace"))?))
    }
}

impl Drop for Drops {
    fn drop(&mut self) {
        // A mount that stays is lazily taken away with what is left of it.
        let _ = fs::remove_dir(&self.instance);
        let _ = nix::mount::umount2(self.root.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Drops that belong to every connection's ordinary life are left out.
fn tell(trace: &str) -> String {
    let drops: Vec<Dropped<'_>> = trace.lines().filter_map(parse).collect();
    let is_loss = |one: &&Dropped<'_>| {
        !one.location.starts_with("tcp_")
            && !["QUEUE_PURGE", "NO_SOCKET", "TCP_OLD_DATA"].contains(&one.reason)
            && !one.location.starts_with("ip6_mc_input")
    };
    let losses: Vec<_> = drops.iter().filter(is_loss).collect();
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for one in &losses {
        let function = one.location.split('+').next().unwrap_or_default();
        *counts.entry((function, one.reason)).or_default() += 1;
    }
    let mut text = format!("{} packets thrown away by the kernel\n", losses.len());
    for ((function, reason), count) in counts {
        text += &format!("{count:>6} {function} {reason}\n");
    }
    for one in losses.iter().rev().take(LISTED).rev() {
        text += &format!("{} {} {}\n", one.at, one.location, one.reason);
    }
    text
}

/// `PROGRAM-PID [CPU] FLAGS TIME: kfree_skb: skbaddr=... location=WHERE reason: WHY`.
fn parse(line: &str) -> Option<Dropped<'_>> {
    let (head, rest) = line.split_once(": kfree_skb: ")?;
    let (_, rest) = rest.split_once("protocol=")?;
    let (protocol, place) = rest.split_once(" location=")?;
    let (location, reason) = place.split_once(" reason: ")?;
    Some(Dropped { at: head.rsplit(' ').next()?, protocol, location, reason })
}

/// When IPv6 packets were discarded with their cached route, in nanoseconds since the Unix epoch.
fn discarded(trace: &str) -> Vec<u64> {
    let all = trace.lines().filter_map(parse);
    // A route whose cache is gone leads nowhere, to a device without neighbours, or to one that
    // forwards nothing.
    let ends = ["dst_discard", "blackhole_neigh_output"];
    let is_of_route = |one: &Dropped<'_>| {
        let of_device = one.location.starts_with("ip6_forward") && one.reason == "IP_INADDRERRORS";
        of_device || ends.iter().any(|end| one.location.starts_with(end))
    };
    let of_route = all.filter(|one| one.protocol == "34525" && is_of_route(one));
    let at = of_route.filter_map(|one| one.at.replace('.', "").parse::<u64>().ok());
    at.map(|micros| micros * 1000).collect()
}

/// Listens from now on, in the place of an earlier listener.
pub fn listen() -> Result<()> {
    let drops = Drops::start()?;
    *LISTENING.lock().unwrap_or_else(PoisonError::into_inner) = Some((drops, Vec::new()));
    Ok(())
}

/// What the listener has heard; ends it.
pub fn heard() -> Result<String> {
    let listening = LISTENING.lock().unwrap_or_else(PoisonError::into_inner).take();
    let (drops, _) = listening.context("nobody listens")?;
    drops.told()
}

/// Which of the packets sent at these times, in nanoseconds since the Unix epoch, were discarded
/// with their cached route. Each such drop is given out once.
pub(crate) fn claim(sent: &[u64]) -> Vec<bool> {
    let mut listening = LISTENING.lock().unwrap_or_else(PoisonError::into_inner);
    let trace = |drops: &Drops| fs::read_to_string(drops.instance.join("trace")).ok();
    let Some((drops, claimed)) = listening.as_mut().filter(|_| !sent.is_empty()) else {
        return vec![false; sent.len()];
    };
    let mut free = discarded(&trace(drops).unwrap_or_default());
    free.retain(|drop| !claimed.contains(drop));
    let mut claims = |at: &u64| {
        // The trace has microseconds.
        let under_way = at / 1000 * 1000..at + UNDER_WAY;
        let place = free.iter().position(|drop| under_way.contains(drop));
        claimed.extend(place.map(|place| free.remove(place)));
        place.is_some()
    };
    sent.iter().map(&mut claims).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "# tracer: nop\n\
        \x20 opt 5x9-12221 [000] ..s1. 1795374276.168184: kfree_skb: skbaddr=00000000 \
        rx_sk=0000000053cfecd0 protocol=2048 location=tcp_rcv_established+0x2fe/0xc40 \
        reason: TCP_OLD_DATA\n\
        \x20 <idle>-0 [001] ..s2. 1795374277.000001: kfree_skb: skbaddr=00000000 rx_sk=00000000 \
        protocol=34525 location=dst_discard_out+0x12/0x20 reason: NOT_SPECIFIED\n";

    #[test]
    fn losses_are_counted_and_listed_and_ordinary_ends_of_connections_are_not() {
        assert_eq!(
            tell(TRACE),
            "1 packets thrown away by the kernel\n     1 dst_discard_out NOT_SPECIFIED\n\
             1795374277.000001 dst_discard_out+0x12/0x20 NOT_SPECIFIED\n"
        );
    }

    #[test]
    fn a_route_that_was_taken_away_is_told_with_its_moment() {
        assert_eq!(discarded(TRACE), [1_795_374_277_000_001_000]);
    }

    #[test]
    fn the_kernel_tells_of_a_datagram_that_nobody_reads() -> Result<()> {
        if !crate::lab::may_run("the_kernel_tells_of_a_datagram_that_nobody_reads")? {
            return Ok(());
        }
        let drops = match Drops::start() {
            Ok(drops) => drops,
            // In a user namespace, and without CONFIG_TRACING: no story depends on it.
            Err(error) => {
                crate::lab::skipped("the drops of the kernel", &format!("{error:#}"));
                return Ok(());
            }
        };
        // To a socket with room for a few: the rest is thrown away for want of room.
        let reader = std::net::UdpSocket::bind("127.0.0.1:0")?;
        nix::sys::socket::setsockopt(&reader, nix::sys::socket::sockopt::RcvBuf, &1)?;
        let writer = std::net::UdpSocket::bind("127.0.0.1:0")?;
        for _ in 0..100 {
            writer.send_to(&[0; 1000], reader.local_addr()?)?;
        }
        let told = drops.told()?;
        assert!(told.contains("SOCKET_RCVBUFF"), "{told}");
        Ok(())
    }
}
