//! The floor of a drain: replacements of groups as bytes on a socket, one by one, each with its
//! answer, and nothing of the agent's code.

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nett_policy::lower::object::NexthopId;

pub(crate) struct Bare {
    socket: Socket,
    sequence: u32,
}

impl Bare {
    /// In the network namespace of the calling thread.
    pub(crate) fn open() -> Self {
        let mut socket = Socket::new(NETLINK_ROUTE).expect("a socket");
        socket.bind_auto().expect("a port");
        socket.connect(&SocketAddr::new(0, 0)).expect("the kernel");
        Self { socket, sequence: 0 }
    }

    /// Replaces a group by one with this only member.
    pub(crate) fn group(&mut self, id: NexthopId, member: NexthopId) {
        const RTM_NEWNEXTHOP: u16 = 104;
        const REQUEST_ACK_REPLACE: u16 = 0x0001 | 0x0004 | 0x0100;
        const PROTOCOL: u8 = 217;
        self.sequence += 1;
        let mut body = vec![0, 0, PROTOCOL, 0, 0, 0, 0, 0];
        let mut attribute = |kind: u16, value: &[u8]| {
            let length = u16::try_from(value.len() + 4).expect("short");
            body.extend(length.to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(value);
        };
        attribute(1, &id.0.to_ne_bytes());
        let mut members = member.0.to_ne_bytes().to_vec();
        members.extend([0; 4]);
        attribute(2, &members);
        let length = u32::try_from(body.len() + 16).expect("short");
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(RTM_NEWNEXTHOP.to_ne_bytes());
        message.extend(REQUEST_ACK_REPLACE.to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(0u32.to_ne_bytes());
        message.extend(body);
        self.socket.send(&message, 0).expect("sent");
        let mut answer = Vec::with_capacity(4096);
        self.socket.recv(&mut answer, 0).expect("answered");
        assert_eq!(answer[16..20], [0; 4], "refused: {answer:?}");
    }
}
