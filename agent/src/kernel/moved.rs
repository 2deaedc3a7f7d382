//! What interfaces have sent and received, one interface at a time: read, never written.
//!
//! Crash story: nothing is kept.

use super::error::KernelError;
use super::netlink::socket::{Connection, Failure, OwnPorts};
use super::netlink::stats;
use nix::errno::Errno;

/// Bytes since the interface was made, with Ethernet headers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    pub sent: u64,
    pub received: u64,
}

/// A socket of its own: nobody waits for the writer of the kernel.
pub struct InterfaceCounters {
    connection: Connection,
}

/// The protocol number of rtnetlink (NETLINK_ROUTE, linux/netlink.h).
const ROUTE: isize = 0;
const WHAT: &str = "the counters of an interface";

impl InterfaceCounters {
    /// In the network namespace of the calling thread.
    ///
    /// # Errors
    /// When no socket is to be had.
    pub fn open() -> Result<Self, KernelError> {
        let connection = Connection::open(ROUTE, OwnPorts::default());
        Ok(Self { connection: connection.map_err(|e| KernelError::of(WHAT, e))? })
    }

    /// Of the interface with this number; none when there is no such interface any more.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn of(&mut self, index: u32) -> Result<Option<Moved>, KernelError> {
        match self.connection.get(stats::get(index), stats::decode).await {
            Err(Failure::Refused { errno: Errno::ENODEV, .. }) => Ok(None),
            other => other.map_err(|e| KernelError::of(WHAT, e)),
        }
    }
}
