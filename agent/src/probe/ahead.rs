//! Packets that go before everything else that waits for the same interface: class selector 6, and
//! the highest priority of the queueing disciplines. What says whether a way works must not wait
//! behind what is sent over it.

use std::io;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::Socket;

/// Class selector 6, "network control" (RFC 4594 section 3.1), as a whole octet.
const CLASS: u32 = 0xc0;
/// `TC_PRIO_CONTROL` of linux/pkt_sched.h.
const PRIORITY: i32 = 7;

/// For a socket of one family.
///
/// # Errors
/// Without CAP_NET_ADMIN, which a priority above 6 needs.
pub(super) fn go_ahead(socket: &Socket, is_v4: bool) -> io::Result<()> {
    if is_v4 {
        socket.set_tos_v4(CLASS)?;
    } else {
        socket.set_tclass_v6(CLASS)?;
    }
    // After the class, which sets a lower one.
    Ok(setsockopt(socket, sockopt::Priority, &PRIORITY)?)
}
