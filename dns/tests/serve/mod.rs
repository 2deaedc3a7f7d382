//! A server on a free port, and the means to ask it.

#![allow(dead_code, reason = "every test crate uses a part of it")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use nett_dns::{
    Cookies, Limits, Profile, Secret, Serial, Server, ServerError, ServerHandle, Setup, Stats,
    Zone, ZoneSource,
};

use super::sample;

const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Running {
    handle: Option<ServerHandle>,
    pub(crate) zone: Arc<ArcSwap<Zone>>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) profile: Arc<Profile>,
    pub(crate) address: SocketAddr,
    pub(crate) tls: Vec<SocketAddr>,
    pub(crate) https: Vec<SocketAddr>,
}

/// The sample zone with its usual services.
pub(crate) fn zone(serial: u32) -> Zone {
    let fabric = sample::fabric();
    Zone::build(ZoneSource {
        zone: &fabric.zone,
        fabric: &fabric,
        home: None,
        serial: Serial(serial),
        services: &sample::usual(),
    })
    .expect("valid names")
}

/// Everything a server may say about itself, with secrets that never change.
pub(crate) fn profile() -> Profile {
    let cookies = Cookies::new(Secret::new(*b"0123456789abcdef"), None);
    Profile {
        nsid: Some((*b"osl-b1").into()),
        version: Some("Nett in a test".to_owned()),
        hostname: Some("osl-b1".to_owned()),
        cookies: Some(Arc::new(cookies)),
        tcp_idle: Limits::default().tcp_idle,
        ..Profile::default()
    }
}

pub(crate) fn setup(listen: &[SocketAddr], limits: Limits) -> Setup {
    Setup {
        listen: listen.to_vec(),
        encrypted: None,
        zone: Arc::new(ArcSwap::from_pointee(zone(100))),
        limits,
        profile: Arc::new(profile()),
        stats: Arc::default(),
    }
}

pub(crate) fn try_start(listen: &[SocketAddr]) -> Result<ServerHandle, ServerError> {
    Server::start(setup(listen, Limits::default()))
}

impl Running {
    pub(crate) fn usual() -> Self {
        Self::with_limits(Limits::default())
    }

    pub(crate) fn with_limits(limits: Limits) -> Self {
        Self::on("127.0.0.1:0".parse().expect("an address"), limits)
    }

    pub(crate) fn on(listen: SocketAddr, limits: Limits) -> Self {
        Self::of(setup(&[listen], limits))
    }

    pub(crate) fn with_profile(profile: Profile) -> Self {
        let listen = "127.0.0.1:0".parse().expect("an address");
        Self::of(Setup { profile: Arc::new(profile), ..setup(&[listen], Limits::default()) })
    }

    pub(crate) fn over(zone: Zone, listen: SocketAddr, limits: Limits) -> Self {
        let zone = Arc::new(ArcSwap::from_pointee(zone));
        Self::of(Setup { zone, ..setup(&[listen], limits) })
    }

    pub(crate) fn of(setup: Setup) -> Self {
        let (zone, stats) = (Arc::clone(&setup.zone), Arc::clone(&setup.stats));
        let profile = Arc::clone(&setup.profile);
        let handle = Server::start(setup).expect("a free port");
        let address = handle.addresses()[0];
        assert_ne!(address.port(), 0);
        let (tls, https) = (handle.tls_addresses().to_vec(), handle.https_addresses().to_vec());
        Self { handle: Some(handle), zone, stats, profile, address, tls, https }
    }

    pub(crate) fn stop(&mut self) {
        self.handle.take().expect("still running").stop();
    }

    pub(crate) fn udp(&self) -> UdpSocket {
        let any = SocketAddr::new(self.address.ip(), 0);
        let socket = UdpSocket::bind(any).expect("a free port");
        // A connected socket only takes answers from the address that was asked.
        socket.connect(self.address).expect("connected");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket
    }

    pub(crate) fn ask_udp(&self, packet: &[u8]) -> Vec<u8> {
        let socket = self.udp();
        socket.send(packet).expect("sent");
        let mut buffer = vec![0; 65536];
        let length = socket.recv(&mut buffer).expect("an answer");
        buffer.truncate(length);
        buffer
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream
    }

    pub(crate) fn connect_from(&self, source: IpAddr) -> TcpStream {
        let domain = socket2::Domain::for_address(self.address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::new(source, 0).into()).expect("a loopback address");
        socket.connect(&self.address.into()).expect("connected");
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream
    }
}

/// A question as another implementation writes it.
pub(crate) fn query(name: &str, kind: RecordType, payload: Option<u16>) -> Vec<u8> {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    let mut name = Name::from_ascii(name).expect("a name");
    name.set_fqdn(true);
    message.add_query(Query::query(name, kind));
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        message.set_edns(edns);
    }
    message.to_vec().expect("a small message")
}

pub(crate) fn send(stream: &mut TcpStream, packet: &[u8]) {
    let mut framed = (packet.len() as u16).to_be_bytes().to_vec();
    framed.extend_from_slice(packet);
    // The server may have closed already; reading tells.
    let _ = stream.write_all(&framed);
}

pub(crate) fn receive(stream: &mut TcpStream) -> Vec<u8> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).expect("a length");
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).expect("a message");
    message
}

/// What `dig` understood.
#[derive(Debug, Default)]
pub(crate) struct Dug {
    pub(crate) status: String,
    pub(crate) flags: Vec<String>,
    pub(crate) answer: Vec<String>,
    pub(crate) authority: Vec<String>,
    pub(crate) additional: Vec<String>,
    pub(crate) text: String,
}

pub(crate) fn dig(server: &Running, arguments: &[&str]) -> Dug {
    dig_at(server.address, arguments)
}

pub(crate) fn dig_at(server: SocketAddr, arguments: &[&str]) -> Dug {
    let output = Command::new("dig")
        .args(["-r", "+tries=1", "+time=10", "+nocookie", "+norec", "-p"])
        .arg(server.port().to_string())
        .arg(format!("@{}", server.ip()))
        .args(arguments)
        .output()
        .expect("dig is installed (package bind9-dnsutils)");
    let text = String::from_utf8(output.stdout).expect("dig writes text");
    assert!(output.status.success(), "{arguments:?}: {text}");
    // Two are about what the question asked for.
    let own_fault = ["recursion requested", "EDNS query returned status FORMERR"];
    let warnings = text.lines().filter(|l| l.contains("WARNING"));
    let surprises = warnings.filter(|l| !own_fault.iter().any(|known| l.contains(known)));
    assert_eq!(surprises.count(), 0, "{arguments:?}: {text}");
    let mut dug = Dug::default();
    let mut section = "";
    for line in text.lines() {
        if let Some((_, rest)) = line.split_once("status: ") {
            dug.status = rest.split(',').next().expect("a status").to_owned();
        }
        if let Some(rest) = line.strip_prefix(";; flags: ") {
            let flags = rest.split(';').next().expect("flags");
            dug.flags = flags.split_whitespace().map(str::to_owned).collect();
        }
        if let Some(name) = line.strip_suffix(" SECTION:") {
            section = name;
        } else if line.is_empty() {
            section = "";
        } else if !line.starts_with(';') {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let row = fields.join(" ");
            match section {
                ";; ANSWER" => dug.answer.push(row),
                ";; AUTHORITY" => dug.authority.push(row),
                ";; ADDITIONAL" => dug.additional.push(row),
                _ => {}
            }
        }
    }
    dug.text = text;
    dug
}
