//! The echo server of a site's service host: UDP and TCP on every address it is given.
//!
//! One socket per address, so that an answer always leaves from the address that was asked.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::packet;

/// Serves for ever. `ready` is created once every socket is bound.
pub fn serve(name: &str, addresses: &[IpAddr], port: u16, ready: &Path) -> Result<()> {
    let mut datagrams = Vec::new();
    let mut listeners = Vec::new();
    for address in addresses {
        let to = (*address, port);
        let bound = || format!("cannot bind {address} port {port}");
        let socket = UdpSocket::bind(to).with_context(bound)?;
        socket.set_nonblocking(true)?;
        super::keep_bursts(&socket)?;
        datagrams.push(socket);
        let listener = TcpListener::bind(to).with_context(bound)?;
        listener.set_nonblocking(true)?;
        listeners.push(listener);
    }
    std::fs::write(ready, name).with_context(|| format!("cannot write {}", ready.display()))?;
    loop {
        let udp = datagrams.iter().map(AsFd::as_fd);
        let all: Vec<BorrowedFd<'_>> = udp.chain(listeners.iter().map(AsFd::as_fd)).collect();
        let mut waiting: Vec<PollFd<'_>> =
            all.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
        poll(&mut waiting, PollTimeout::NONE).context("cannot wait for packets")?;
        let is_ready: Vec<bool> = waiting.iter().map(|w| w.any().unwrap_or(true)).collect();
        let (udp_ready, tcp_ready) = is_ready.split_at(datagrams.len());
        for (socket, _) in datagrams.iter().zip(udp_ready).filter(|(_, r)| **r) {
            answer_all(socket, name);
        }
        for (listener, _) in listeners.iter().zip(tcp_ready).filter(|(_, r)| **r) {
            accept_all(listener, name);
        }
    }
}

fn answer_all(socket: &UdpSocket, name: &str) {
    let mut buffer = [0; packet::MAX];
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => {
                if let Some(answer) = packet::answer(&buffer[..length], super::now(), name) {
                    // An answer that cannot leave is a lost packet, which the prober counts.
                    let _ = socket.send_to(&answer, from);
                }
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => return,
            Err(_) => {}
        }
    }
}

fn accept_all(listener: &TcpListener, name: &str) {
    while let Ok((stream, _)) = listener.accept() {
        let name = name.to_owned();
        std::thread::spawn(move || converse(stream, &name));
    }
}

/// Greets with the name, then echoes until the client ends or the connection breaks.
fn converse(mut stream: TcpStream, name: &str) -> Option<()> {
    stream.set_nonblocking(false).ok()?;
    stream.set_nodelay(true).ok()?;
    stream.write_all(format!("{name}\n").as_bytes()).ok()?;
    let mut buffer = [0; packet::MAX];
    loop {
        let length = stream.read(&mut buffer).ok().filter(|n| *n > 0)?;
        stream.write_all(&buffer[..length]).ok()?;
    }
}
