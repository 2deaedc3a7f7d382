//! Receives questions over UDP, and tells of some how the kernel's queue was doing: how long the
//! question has lain there, and how many were lost because it was full.
//!
//! Overload is told by these. Telling them costs a longer system call, so they are asked for only
//! while a thread never has to wait, and the kernel is told to note arrivals when it is asked for
//! the first time.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, SystemTime};

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvfrom, recvmsg, setsockopt, sockopt,
};

/// Longer questions are cut off by the kernel and then refused as malformed.
pub(super) const LONGEST_QUESTION: usize = 4096;

pub(super) struct Receiver<'a> {
    socket: &'a UdpSocket,
    /// Room for the time of arrival; empty as long as nobody asked for it.
    control: Vec<u8>,
}

pub(super) struct Received {
    pub(super) length: usize,
    pub(super) from: SocketAddr,
    /// How the queue was doing, if that was asked for and is known.
    pub(super) queue: Option<Queue>,
}

/// The kernel's queue as one question saw it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Queue {
    /// How long the question lay in it.
    pub(super) age: Duration,
    /// How many questions were lost since the socket was made, modulo 2^32.
    pub(super) lost: u32,
}

// === impl Receiver ===

impl<'a> Receiver<'a> {
    pub(super) fn new(socket: &'a UdpSocket) -> Self {
        Self { socket, control: Vec::new() }
    }

    /// Receives one datagram.
    ///
    /// The standard library's `recv_from` panics when the kernel tells no sender, which is what it
    /// does when the socket was shut down to wake its reader.
    pub(super) fn receive(&mut self, buffer: &mut [u8], look: bool) -> io::Result<Received> {
        if look {
            return self.receive_and_look(buffer);
        }
        let (length, sender) = recvfrom::<SockaddrStorage>(self.socket.as_raw_fd(), buffer)?;
        Ok(Received { length, from: address(sender)?, queue: None })
    }

    fn receive_and_look(&mut self, buffer: &mut [u8]) -> io::Result<Received> {
        if self.control.is_empty() {
            setsockopt(self.socket, sockopt::ReceiveTimestampns, &true)?;
            setsockopt(self.socket, sockopt::RxqOvfl, &1)?;
            self.control = nix::cmsg_space!(nix::sys::time::TimeSpec, u32);
        }
        let mut parts = [IoSliceMut::new(buffer)];
        let control = Some(&mut self.control[..]);
        let message = recvmsg::<SockaddrStorage>(
            self.socket.as_raw_fd(),
            &mut parts,
            control,
            MsgFlags::empty(),
        )?;
        // The kernel says nothing of losses as long as there are none.
        let (mut arrived, mut lost) = (None, 0);
        for message in message.cmsgs()? {
            match message {
                ControlMessageOwned::ScmTimestampns(time) => arrived = Some(Duration::from(time)),
                ControlMessageOwned::RxqOvfl(count) => lost = count,
                _ => {}
            }
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let queue = arrived.map(|arrived| Queue { age: now.saturating_sub(arrived), lost });
        Ok(Received { length: message.bytes, from: address(message.address)?, queue })
    }
}

fn address(sender: Option<SockaddrStorage>) -> io::Result<SocketAddr> {
    let address = sender.and_then(|sender| {
        let four = sender.as_sockaddr_in().map(|a| SocketAddr::V4((*a).into()));
        four.or_else(|| sender.as_sockaddr_in6().map(|a| SocketAddr::V6((*a).into())))
    });
    address.ok_or_else(|| io::ErrorKind::NotConnected.into())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_question_tells_how_long_it_has_waited() {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let client = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        client.connect(socket.local_addr().expect("bound")).expect("connected");
        let mut receiver = Receiver::new(&socket);
        let mut buffer = [0; LONGEST_QUESTION];
        client.send(b"one").expect("sent");
        assert!(receiver.receive(&mut buffer, false).expect("received").queue.is_none());
        // The kernel begins to note arrivals some time after it was told to.
        let (started, late) = (Instant::now(), Duration::from_millis(20));
        let age = loop {
            client.send(b"two").expect("sent");
            let sent = Instant::now();
            while sent.elapsed() < late {
                std::thread::yield_now();
            }
            let received = receiver.receive(&mut buffer, true).expect("received");
            assert_eq!(received.from, client.local_addr().expect("bound"));
            assert_eq!(&buffer[..received.length], b"two");
            match received.queue {
                Some(Queue { age, lost: 0 }) if age >= late => break age,
                _ => assert!(started.elapsed() < Duration::from_secs(10), "arrivals are not noted"),
            }
        };
        assert!(age < Duration::from_secs(10), "{age:?}");
    }

    #[test]
    fn a_full_queue_tells_what_was_lost() {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let client = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        client.connect(socket.local_addr().expect("bound")).expect("connected");
        socket2::SockRef::from(&socket).set_recv_buffer_size(4096).expect("an option");
        let mut receiver = Receiver::new(&socket);
        let mut buffer = [0; LONGEST_QUESTION];
        client.send(b"first").expect("sent");
        assert_eq!(lost(receiver.receive(&mut buffer, true)), 0);
        (0..100).for_each(|_| assert!(client.send(&[0; 100]).is_ok()));
        socket.set_nonblocking(true).expect("an option");
        let mut came = 0;
        while receiver.receive(&mut buffer, true).is_ok() {
            came += 1;
        }
        client.send(b"last").expect("sent");
        assert_eq!(lost(receiver.receive(&mut buffer, true)), 100 - came);
    }

    fn lost(received: io::Result<Received>) -> u32 {
        received.expect("received").queue.map_or(0, |queue| queue.lost)
    }
}
