//! The sockets of one session (RFC 5881 sections 4 and 5): packets go to port 3784 from a port of
//! 49152 to 65535 with hop limit 255, and only packets that come with hop limit 255, over the
//! session's interface and from its far end are taken.
//!
//! They leave before everything else that waits for the same interface ([`go_ahead`]), and where a
//! full queue dropped one all the same it is told and tried again: a link that is full is not down.
//! Bound to interface and address, they share port 3784 with other daemons that do the same.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::cmsg_space;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};

use super::super::ahead::go_ahead;
use super::Path;

/// RFC 5881 section 4.
pub(super) const PORT: u16 = 3784;
const FIRST_SOURCE: u16 = 49_152;
const SOURCES: u32 = 65_535 - 49_152 + 1;
/// How many source ports are tried that others may have.
const TRIES: usize = 16;
/// RFC 5881 section 5: nothing that was forwarded has it.
const HOPS: u32 = 255;
/// Longer datagrams are cut; a packet's length field then does not fit.
const LONGEST: usize = 256;

#[derive(Debug)]
pub(super) struct Sockets {
    receiving: Socket,
    sending: Socket,
    far: IpAddr,
}

/// What came.
#[derive(Debug)]
pub(super) enum Received {
    /// So many octets, of the far end itself.
    Datagram(usize),
    /// Something that anybody may have sent.
    Stranger,
    Nothing,
}

// === impl Sockets ===

impl Sockets {
    /// # Errors
    /// Among others while the interface or the address is away.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let receiving = socket(path)?;
        receiving.set_reuse_address(true)?;
        match path.near {
            IpAddr::V4(_) => setsockopt(&receiving, sockopt::Ipv4RecvTtl, &true)?,
            IpAddr::V6(_) => setsockopt(&receiving, sockopt::Ipv6RecvHopLimit, &true)?,
        }
        receiving.bind(&SocketAddr::new(path.near, PORT).into())?;
        let sending = socket(path)?;
        match path.near {
            IpAddr::V4(_) => {
                setsockopt(&sending, sockopt::Ipv4RecvErr, &true)?;
                sending.set_ttl_v4(HOPS)?;
            }
            IpAddr::V6(_) => {
                setsockopt(&sending, sockopt::Ipv6RecvErr, &true)?;
                sending.set_unicast_hops_v6(HOPS)?;
            }
        }
        go_ahead(&sending, path.near.is_ipv4())?;
        bind_source(&sending, path.near)?;
        Ok(Self { receiving, sending, far: path.far })
    }

    /// With `confirmed` the kernel is told that the far end answers at the link address it has: a
    /// full link would lose its questions for that, and with them the neighbour (`MSG_CONFIRM` in
    /// sendto(2)).
    ///
    /// # Errors
    /// [`is_full`] when the interface's queue has dropped it.
    pub(super) fn send(&self, bytes: &[u8], confirmed: bool) -> io::Result<()> {
        let to = SocketAddr::new(self.far, PORT).into();
        let flags = if confirmed { nix::libc::MSG_CONFIRM } else { 0 };
        match self.sending.send_to_with_flags(bytes, &to, flags) {
            // What an earlier one came to at the far end (ICMP) is told with this one, once.
            Err(error) if !is_full(&error) && error.kind() != io::ErrorKind::PermissionDenied => {
                self.sending.send_to_with_flags(bytes, &to, flags).map(drop)
            }
            sent => sent.map(drop),
        }
    }

    pub(super) fn receive(&self, buffer: &mut [u8; LONGEST]) -> io::Result<Received> {
        let mut space = cmsg_space!(i32);
        let mut slices = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let socket = self.receiving.as_raw_fd();
        let message = loop {
            match recvmsg::<SockaddrStorage>(socket, &mut slices, Some(&mut space), flags) {
                Ok(message) => break message,
                Err(nix::Error::EAGAIN) => return Ok(Received::Nothing),
                Err(nix::Error::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        };
        let mut hops = None;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::Ipv4Ttl(n) | ControlMessageOwned::Ipv6HopLimit(n) = control
            {
                hops = Some(n);
            }
        }
        let address = message.address.and_then(|from| {
            let v4 = from.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            v4.or_else(|| from.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
        });
        let near = hops == i32::try_from(HOPS).ok() && address == Some(self.far);
        Ok(if near { Received::Datagram(message.bytes) } else { Received::Stranger })
    }

    /// A place for one datagram.
    pub(super) fn buffer() -> [u8; LONGEST] {
        [0; LONGEST]
    }
}

impl AsFd for Sockets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.receiving.as_fd()
    }
}

/// True when a queue on the way out had no place. The kernel tells only sockets that want to know
/// (`IP_RECVERR` in ip(7)).
pub(super) fn is_full(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::libc::ENOBUFS) || error.kind() == io::ErrorKind::WouldBlock
}

/// True when there is no way now, and nothing is wrong with the socket.
pub(super) fn is_unreachable(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable)
}

/// Of the path's family and on its interface.
fn socket(path: &Path) -> io::Result<Socket> {
    let domain = if path.near.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.bind_device(Some(path.interface.as_bytes()))?;
    if path.near.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// At any free port of those that packets may come from.
fn bind_source(socket: &Socket, near: IpAddr) -> io::Result<()> {
    let mut tries = 0;
    loop {
        let random = getrandom::u32().map_err(io::Error::other)?;
        let offset = u16::try_from(random % SOURCES).expect("below 16384");
        match socket.bind(&SocketAddr::new(near, FIRST_SOURCE + offset).into()) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries < TRIES => tries += 1,
            bound => return bound,
        }
    }
}
