//! One TCP connection and how it ended: with a server's name, or with an error after some time.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::netns::Netns;

/// The end of a connection attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub took: Duration,
    /// The server that greeted, or why none did.
    pub server: Result<String, ErrorKind>,
}

/// An established connection to an echo server.
#[derive(Debug)]
pub struct Session {
    stream: BufReader<TcpStream>,
    server: String,
}

/// Connects from inside `ns` and reads the server's greeting; gives up after `patience`.
pub fn connect(ns: &Netns, to: SocketAddr, patience: Duration) -> Result<Attempt> {
    ns.run(|| {
        let begun = Instant::now();
        let server = greet(to, patience).map(|s| s.server).map_err(|e| e.kind());
        Ok(Attempt { took: begun.elapsed(), server })
    })
}

impl Session {
    /// Connects from inside `ns`; every later read waits at most `patience`.
    pub fn open(ns: &Netns, to: SocketAddr, patience: Duration) -> Result<Self> {
        ns.run(|| Ok(greet(to, patience)?))
    }

    pub fn server(&self) -> &str {
        &self.server
    }

    /// Sends a line and waits for its echo.
    pub fn ping(&mut self) -> std::io::Result<()> {
        self.say()?;
        self.hear()
    }

    /// Sends a line.
    pub fn say(&mut self) -> std::io::Result<()> {
        self.stream.get_mut().write_all(b"ping\n")
    }

    /// Waits for the echo of one line.
    pub fn hear(&mut self) -> std::io::Result<()> {
        match line(&mut self.stream)?.as_str() {
            "ping" => Ok(()),
            _ => Err(ErrorKind::InvalidData.into()),
        }
    }
}

fn greet(to: SocketAddr, patience: Duration) -> std::io::Result<Session> {
    let stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let server = line(&mut stream)?;
    Ok(Session { stream, server })
}

fn line(stream: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let mut text = String::new();
    if stream.read_line(&mut text)? == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(text.trim_end().to_owned())
}
