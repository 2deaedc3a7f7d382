//! Asks single questions and looks at the address in the answer, by bytes and without Nett's code.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::data::{ZONE, name};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    /// The A record of name number N.
    A(u32),
}

pub(crate) struct Probe {
    socket: UdpSocket,
}

impl Probe {
    pub(crate) fn new(server: SocketAddr, patience: Duration) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind((server.ip(), 0))?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(patience))?;
        Ok(Self { socket })
    }

    /// The one address of the answer.
    pub(crate) fn ask(&self, question: Question) -> anyhow::Result<Ipv4Addr> {
        let Question::A(n) = question;
        let mut packet = vec![0x12, 0x34, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        packet.extend(wire_name(&format!("{}.{ZONE}", name(n))));
        packet.extend([0, 1, 0, 1]);
        let answer = self.exchange(&packet)?;
        ensure!(answer.get(3).is_some_and(|b| b & 0x0f == 0), "an error: {answer:?}");
        let tail = answer.last_chunk::<4>().context("a short answer")?;
        // Without EDNS, and with one record and nothing behind it, the address comes last; servers
        // that add name servers are asked to find it behind the owner, type, class, TTL, length.
        let at = packet.len() + 12;
        let first = answer.get(at..at + 4).map_or(*tail, |b| [b[0], b[1], b[2], b[3]]);
        Ok(Ipv4Addr::from(first))
    }

    /// Sends a message of any kind and gives what comes back.
    pub(crate) fn exchange(&self, packet: &[u8]) -> anyhow::Result<Vec<u8>> {
        let mut buffer = [0; 4096];
        self.socket.send(packet)?;
        let length = self.socket.recv(&mut buffer)?;
        Ok(buffer[..length].to_vec())
    }
}

/// A name in wire form.
pub(crate) fn wire_name(name: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in name.trim_end_matches('.').split('.') {
        wire.push(u8::try_from(label.len()).expect("short labels"));
        wire.extend(label.as_bytes());
    }
    wire.push(0);
    wire
}
