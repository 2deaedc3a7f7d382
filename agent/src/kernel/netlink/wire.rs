//! The sockets beneath a connection, as a seam: the kernel's, and in tests those that lose answers.
//!
//! A wire moves datagrams and knows nothing of what is in them. It has no deadline and repeats
//! nothing; both belong to the connection above it.
//!
//! Crash story: a socket ends with the process, and nothing of Nett's in the kernel with it, apart
//! from the ownership of an nft table.

use std::io::{self, ErrorKind};
use std::task::{Context, Poll, ready};

use netlink_sys::{AsyncSocket, SocketAddr, TokioSocket};
use nix::sys::socket::{setsockopt, sockopt};

/// The kernel fills at most 32 KiB per dump answer; acknowledgements are capped.
const RECEIVE: usize = 64 * 1024;
/// Room for a batch of 100 000 set elements (about 5 MB) in one send.
const SEND_BUFFER: usize = 64 * 1024 * 1024;
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;

/// One netlink socket, connected to the kernel.
pub trait Wire: Send + Sync {
    /// Sends one datagram; the kernel has looked at it when this is done.
    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<()>>;

    /// Puts the next datagram of the kernel in the place of what `buffer` holds. An error means
    /// that an answer may be gone.
    fn poll_receive(&mut self, cx: &mut Context<'_>, buffer: &mut Vec<u8>) -> Poll<io::Result<()>>;
}

/// Where sockets come from.
pub trait Wires: Send + Sync {
    /// A new socket of the netlink family `protocol` (linux/netlink.h), and its port. Must be
    /// called inside a tokio runtime.
    ///
    /// # Errors
    /// When the system gives none.
    fn open(&self, protocol: isize) -> io::Result<(Box<dyn Wire>, u32)>;
}

/// The kernel's own, in the network namespace of the calling thread.
#[derive(Debug, Clone, Copy, Default)]
pub struct KernelWires;

struct KernelWire(TokioSocket);

// === impl KernelWires ===

impl Wires for KernelWires {
    fn open(&self, protocol: isize) -> io::Result<(Box<dyn Wire>, u32)> {
        let mut socket = TokioSocket::new(protocol)?;
        let raw = socket.socket_mut();
        let port = raw.bind_auto()?.port_number();
        raw.connect(&SocketAddr::new(0, 0))?;
        raw.set_ext_ack(true)?;
        raw.set_cap_ack(true)?;
        if protocol == netlink_sys::protocols::NETLINK_ROUTE {
            raw.set_netlink_get_strict_chk(true)?;
        }
        // Without the privilege for more, the system's default sizes stay: enough for single
        // objects.
        let _ = setsockopt(raw, sockopt::SndBufForce, &SEND_BUFFER);
        let _ = setsockopt(raw, sockopt::RcvBufForce, &RECEIVE_BUFFER);
        Ok((Box::new(KernelWire(socket)), port))
    }
}

// === impl KernelWire ===

impl Wire for KernelWire {
    /// The reactor is only asked when the socket is full.
    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<()>> {
        match self.0.socket_ref().send(bytes, 0) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.0.poll_send(cx, bytes).map_ok(drop)
            }
            sent => Poll::Ready(sent.map(drop)),
        }
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>, buffer: &mut Vec<u8>) -> Poll<io::Result<()>> {
        poll_receive(&self.0, cx, buffer)
    }
}

/// Reads one datagram of the kernel into `buffer`.
pub(crate) async fn receive(socket: &TokioSocket, buffer: &mut Vec<u8>) -> io::Result<()> {
    std::future::poll_fn(|cx| poll_receive(socket, cx, buffer)).await
}

/// The answer is normally there at once, and the reactor is only asked when it is not.
fn poll_receive(
    socket: &TokioSocket,
    cx: &mut Context<'_>,
    buffer: &mut Vec<u8>,
) -> Poll<io::Result<()>> {
    loop {
        buffer.clear();
        buffer.reserve(RECEIVE);
        let received = match socket.socket_ref().recv_from(buffer, 0) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                ready!(socket.poll_recv_from(cx, buffer))
            }
            received => received.map(|(_, from)| from),
        };
        match received {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Port 0 is the kernel; anybody with the privilege could send from another one.
            Ok(from) if from.port_number() == 0 => return Poll::Ready(Ok(())),
            Ok(_) => {}
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
}
