//! The process runs out of file descriptors. Alone in its crate, because the limit is the
//! process's and other tests would feel it.

mod sample;
mod serve;

use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;
use nett_dns::Limits;
use socket2::{Domain, Socket, Type};

use serve::{Running, query};

const PATIENCE: Duration = Duration::from_secs(10);

/// Lets this process open `more` descriptors, through the tool an operator would use.
fn allow(more: usize) {
    let open = std::fs::read_dir("/proc/self/fd").expect("procfs").count();
    let done = Command::new("prlimit")
        .arg(format!("--pid={}", std::process::id()))
        .arg(format!("--nofile={}:", open + more))
        .status()
        .expect("prlimit is installed (package util-linux)");
    assert!(done.success());
}

#[test]
fn without_descriptors_udp_goes_on_and_tcp_makes_room() {
    let server = Running::with_limits(Limits {
        tcp_per_source: 500,
        tcp_idle: Duration::from_secs(60),
        ..Limits::default()
    });
    let good = query("api.prod.shop.steer.example", RecordType::A, None);
    let udp = server.udp();
    let clients: Vec<Socket> = (0..60)
        .map(|_| Socket::new(Domain::IPV4, Type::STREAM, None).expect("a descriptor"))
        .collect();
    let late = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a descriptor");
    allow(10);
    for client in &clients {
        client.connect(&server.address.into()).expect("the kernel takes it");
    }
    let ask_udp = || {
        let mut buffer = [0; 512];
        udp.send(&good).expect("sent");
        assert!(udp.recv(&mut buffer).expect("an answer") > good.len());
    };
    let started = Instant::now();
    while server.stats.accept_errors() == 0 {
        assert!(started.elapsed() < PATIENCE, "the limit was never reached");
        ask_udp();
    }
    // Each error is followed by a pause of 5 ms or more: a loop without one would count thousands.
    let (before, started) = (server.stats.accept_errors(), Instant::now());
    while started.elapsed() < Duration::from_millis(300) {
        ask_udp();
    }
    let errors = server.stats.accept_errors() - before;
    assert!(errors <= 60 + 5, "{errors} errors in 300 ms");

    // Those who came first ask nothing, and one after the other makes room for who does.
    late.connect(&server.address.into()).expect("the kernel takes it");
    let mut late = TcpStream::from(late);
    late.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    serve::send(&mut late, &good);
    assert!(!serve::receive(&mut late).is_empty());
    let evicted: u64 = server.stats.dropped().filter(|d| d.0 == "evicted").map(|d| d.1).sum();
    assert!(evicted > 0);
    drop(clients);
}
