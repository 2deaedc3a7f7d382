//! Binds the sockets of one listen address.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::ServerError;

/// Room for bursts, in bytes; the kernel may grant less.
const RECEIVE_BUFFER: usize = 1 << 20;
const BACKLOG: i32 = 1024;
/// How often another free port is tried when one is free for UDP only.
const PORT_TRIES: usize = 32;
/// How long a reader may miss that it was stopped, should the wake-up be lost.
pub(super) const READ_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(1);

/// All sockets of one address and port.
pub(super) struct Bound {
    pub(super) address: SocketAddr,
    pub(super) udp: Vec<Socket>,
    pub(super) tcp: TcpListener,
}

impl Bound {
    pub(super) fn new(address: SocketAddr, udp_sockets: usize) -> Result<Self, ServerError> {
        let mut tries = if address.port() == 0 { PORT_TRIES } else { 1 };
        loop {
            tries -= 1;
            match Self::once(address, udp_sockets) {
                Err(ServerError::Bind { source, .. })
                    if source.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
                result => return result,
            }
        }
    }

    fn once(wanted: SocketAddr, udp_sockets: usize) -> Result<Self, ServerError> {
        let failed =
            |address, transport| move |source| ServerError::Bind { address, transport, source };
        // TCP first: it does not share its port, so a second server on this address is found out
        // here and does not take half of the other's questions.
        let tcp = bind_tcp(wanted).map_err(failed(wanted, "tcp"))?;
        let address = tcp.local_addr().map_err(failed(wanted, "tcp"))?;
        let udp = (0..udp_sockets)
            .map(|_| bind_udp(address))
            .collect::<io::Result<Vec<_>>>()
            .map_err(failed(address, "udp"))?;
        Ok(Self { address, udp, tcp })
    }
}

fn bind_udp(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    prepare(&socket, address)?;
    socket.set_read_timeout(Some(READ_TIMEOUT))?;
    if let Err(error) = socket.set_recv_buffer_size(RECEIVE_BUFFER) {
        tracing::warn!(%error, "Cannot enlarge the receive buffer of a name server socket.");
    }
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}

/// A listener alone, for transports inside TLS.
pub(super) fn listener(address: SocketAddr) -> Result<TcpListener, ServerError> {
    bind_tcp(address).map_err(|source| ServerError::Bind { address, transport: "tcp", source })
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for old connections to fade.
    socket.set_reuse_address(true)?;
    prepare(&socket, address)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Service addresses may come up after the agent does, so binding does not ask for them.
fn prepare(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    match address {
        SocketAddr::V4(_) => socket.set_freebind_v4(true),
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)
        }
    }
}
