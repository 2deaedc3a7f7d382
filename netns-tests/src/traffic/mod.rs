//! Real packets, sent and answered by code that shares nothing with Nett.
//!
//! A probe packet carries a number; the answer repeats it and adds who answered and when. All
//! times are nanoseconds of the machine's one wall clock since the Unix epoch, which every
//! namespace shares, so the times of a client and of two servers can be compared.

mod packet;
mod report;
pub mod server;
pub mod tcp;
mod udp;

use std::net::UdpSocket;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt};

pub use report::{IcmpError, Report, Served};
pub use udp::{Running, Target};

/// Nanoseconds since the Unix epoch.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock stands after 1970");
    u64::try_from(since.as_nanos()).expect("64 bits of nanoseconds last until 2554")
}

/// Room for what comes while a busy machine leaves the reader waiting: seconds of probes, where the
/// default holds a few hundred packets. Larger than `net.core.rmem_max`, which takes CAP_NET_ADMIN.
fn keep_bursts(socket: &UdpSocket) -> Result<()> {
    const BYTES: usize = 8 << 20;
    setsockopt(socket, sockopt::RcvBufForce, &BYTES).context("cannot enlarge a receive buffer")
}
