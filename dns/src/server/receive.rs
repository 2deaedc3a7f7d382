//! Receives questions over UDP, and tells of some how long they have lain in the kernel's queue.
//!
//! The age of a question is what overload is told by. Telling it costs a longer system call, so it
//! is asked for only while a thread never has to wait, and the kernel is told to note arrivals when
//! it is asked for the first time.

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
    /// How long it lay in the queue, if that was asked for and is known.
    pub(super) age: Option<Duration>,
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
    pub(super) fn receive(&mut self, buffer: &mut [u8], with_age: bool) -> io::Result<Received> {
        if with_age {
            return self.receive_with_age(buffer);
        }
        let (length, sender) = recvfrom::<SockaddrStorage>(self.socket.as_raw_fd(), buffer)?;
        Ok(Received { length, from: address(sender)?, age: None })
    }

    fn receive_with_age(&mut self, buffer: &mut [u8]) -> io::Result<Received> {
        if self.control.is_empty() {
            setsockopt(self.socket, sockopt::ReceiveTimestampns, &true)?;
            self.control = nix::cmsg_space!(nix::sys::time::TimeSpec);
        }
        let mut parts = [IoSliceMut::new(buffer)];
        let control = Some(&mut self.control[..]);
        let message = recvmsg::<SockaddrStorage>(
            self.socket.as_raw_fd(),
            &mut parts,
            control,
            MsgFlags::empty(),
        )?;
        let arrived = message.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::ScmTimestampns(time) => Some(Duration::from(time)),
            _ => None,
        });
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let age = arrived.map(|arrived| now.saturating_sub(arrived));
        Ok(Received { length: message.bytes, from: address(message.address)?, age })
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
        assert_eq!(receiver.receive(&mut buffer, false).expect("received").age, None);
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
            match received.age {
                Some(age) if age >= late => break age,
                _ => assert!(started.elapsed() < Duration::from_secs(10), "arrivals are not noted"),
            }
        };
        assert!(age < Duration::from_secs(10), "{age:?}");
    }
}
