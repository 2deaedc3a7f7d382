//! The kernel's neighbour table, as far as one address at a time: read, never written.
//!
//! Crash story: nothing is kept.

use std::net::IpAddr;

use nett_policy::lower::object::Mac;

use super::error::KernelError;
use super::netlink::neighbour;
use super::netlink::socket::{Connection, Failure, OwnPorts};
use nix::errno::Errno;

/// A socket of its own: nobody waits for the writer of the kernel.
pub struct NeighbourTable {
    connection: Connection,
}

/// The protocol number of rtnetlink (NETLINK_ROUTE, linux/netlink.h).
const ROUTE: isize = 0;

impl NeighbourTable {
    /// In the network namespace of the calling thread.
    ///
    /// # Errors
    /// When no socket is to be had.
    pub fn open() -> Result<Self, KernelError> {
        let connection = Connection::open(ROUTE, OwnPorts::default());
        let connection = connection.map_err(|e| KernelError::of("the neighbour table", e))?;
        Ok(Self { connection })
    }

    /// The Ethernet address behind `address` on the interface with this name, if the kernel knows
    /// one now.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn mac(
        &mut self,
        address: IpAddr,
        interface: &str,
    ) -> Result<Option<Mac>, KernelError> {
        let Ok(index) = nix::net::if_::if_nametoindex(interface) else { return Ok(None) };
        let asked = self.connection.get(neighbour::get(address, index), neighbour::decode);
        match asked.await {
            Err(Failure::Refused { errno: Errno::ENOENT, .. }) => Ok(None),
            other => other.map_err(|e| KernelError::of("the neighbour table", e)),
        }
    }
}
