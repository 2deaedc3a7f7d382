//! A name server whose address is somebody else's: it says so, and listens when it can.

use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use nett_agent::config::Dns;
use nett_agent::name_server::NameServer;
use nett_dns::{Serial, Stats, Zone, ZoneSource};
use nett_policy::document::{SourceFile, compile};
use nett_policy::lower::answers::Answers;
use tokio::time::{Instant, sleep_until};

const FABRIC: &str = include_str!("../../fixtures/fabrics/two-sites/fabric.toml");
const SERVICES: &str = include_str!("../../fixtures/fabrics/two-sites/services.toml");

fn zone() -> Arc<ArcSwap<Zone>> {
    let file = |name: &str, text: &str| SourceFile::new(name.to_owned(), text.to_owned());
    let (fabric, _) = compile(&file("fabric.toml", FABRIC), &file("services.toml", SERVICES))
        .expect("the fixture is valid");
    let (serial, services) = (Serial::of_snapshot(1), Answers::default());
    let source =
        ZoneSource { zone: &fabric.zone, fabric: &fabric, home: None, serial, services: &services };
    Arc::new(ArcSwap::from_pointee(Zone::build(source).expect("a zone")))
}

fn name_server(listen: &[&str]) -> NameServer {
    let listen = listen.iter().map(|text| text.parse().expect("an address")).collect();
    let dns = Dns { listen, ..Dns::default() };
    NameServer::new(&dns, Arc::default(), Arc::new(Stats::default())).expect("no certificate")
}

#[tokio::test(start_paused = true)]
async fn a_taken_port_is_told_once_and_tried_until_it_is_free() {
    let zone = zone();
    let other = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = other.local_addr().expect("bound").to_string();
    // None of its addresses is served while it lacks one.
    let mut server = name_server(&["127.0.0.1:0", &taken]);
    assert_eq!((server.is_listening(), server.again()), (Some(false), None));
    let said = server.start(&zone).expect("news").expect("it cannot listen");
    assert!(said.starts_with(&format!("cannot listen on {taken}/tcp: ")), "{said}");
    assert!(said.contains("os error 98"), "the system's own word: {said}");
    assert!(!server.is_well() && server.addresses().is_empty());

    let mut pauses = Vec::new();
    for _ in 0..8 {
        let again = server.again().expect("it is tried again");
        pauses.push((again - Instant::now()).as_millis());
        sleep_until(again - Duration::from_millis(1)).await;
        assert_eq!(server.start(&zone), None);
        assert_eq!(server.again(), Some(again), "not before its time");
        sleep_until(again).await;
        assert_eq!(server.start(&zone), None, "nothing new to tell");
    }
    assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 15_000, 15_000, 15_000]);

    drop(other);
    sleep_until(server.again().expect("it is tried again")).await;
    assert_eq!(server.start(&zone), Some(None), "nothing is wrong any more");
    assert_eq!((server.is_listening(), server.again()), (Some(true), None));
    assert_eq!(server.addresses()[1].to_string(), taken);
    assert_eq!(server.start(&zone), None);

    // And it answers: the start of authority of the zone.
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    let mut question = vec![0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["steer", "example"] {
        question.push(u8::try_from(label.len()).expect("short"));
        question.extend_from_slice(label.as_bytes());
    }
    question.extend_from_slice(&[0, 0, 6, 0, 1]);
    socket.send_to(&question, &taken).expect("sent");
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).expect("an answer");
    assert!(length > question.len() && answer[3] & 0x0f == 0 && answer[7] == 1, "{answer:?}");
}

#[tokio::test]
async fn where_nothing_is_to_listen_nothing_is_wrong() {
    let mut server = name_server(&[]);
    assert_eq!(server.start(&zone()), None);
    assert_eq!((server.is_listening(), server.is_well(), server.again()), (None, true, None));
}
