//! The connection on which others are heard, on a real nats-server: what is said of it when it is
//! gone, when the server refuses a part of it, and what may be answered over it.

mod bus_fixture;
mod bus_server;

use std::sync::Arc;
use std::time::Duration;

use bus_fixture::*;
use bus_server::{Lab, PATIENCE};
use nett_agent::api::codec::{decode_answer, encode_answer_within};
use nett_agent::api::types::{
    ApiResponse, ErrorCode, Outcome, Payload, Stamp, TaskLine, TaskStateDoc,
};
use nett_agent::bus::nats::{NatsBus, NatsConfig};
use nett_agent::bus::{BusEvent, BusEvents};
use nett_policy::id::SiteId;
use tokio::time::timeout;

async fn agent(lab: &Lab) -> (NatsBus, BusEvents) {
    let config = NatsConfig {
        site: id("osl"),
        node: id("osl-b1"),
        urls: lab.fabric.site(&id("osl")).expect("known").nats.clone(),
        seed: seed(OSL_B1),
        tls: Some(lab.authority.issue("osl-b1")),
        start: [].into(),
        capacity: 64,
        rosters: Arc::new((&lab.fabric).into()),
        intake: Arc::default(),
    };
    NatsBus::start(config, Arc::new(lab.fabric.clone())).await.expect("starts")
}

/// The next word on whether others are heard.
async fn heard(events: &mut BusEvents) -> Result<(), String> {
    let search = async {
        loop {
            if let BusEvent::Hearing { result } = events.recv().await.expect("the bus runs") {
                break result;
            }
        }
    };
    timeout(PATIENCE, search).await.expect("it is told")
}

/// The first word that is good, or bad.
async fn first(events: &mut BusEvents, good: bool) -> Result<(), String> {
    loop {
        let word = heard(events).await;
        if word.is_ok() == good {
            return word;
        }
    }
}

#[tokio::test]
async fn a_connection_that_is_gone_is_told_and_its_return_too() {
    let mut lab = Lab::start(fabric()).await;
    let site: SiteId = id("osl");
    let (_bus, mut events) = agent(&lab).await;
    assert_eq!(heard(&mut events).await, Ok(()));
    lab.servers.get_mut(&site).expect("started").kill();
    let why = heard(&mut events).await.expect_err("the server is gone");
    assert!(why.contains("nats-server"), "{why}");
    lab.servers.get_mut(&site).expect("started").restart().await;
    first(&mut events, true).await.expect("it is back");
}

/// The word that says that commands are refused: what a server says of several subscriptions may
/// come bit by bit.
async fn commands_refused(events: &mut BusEvents) -> String {
    loop {
        let why = first(events, false).await.expect_err("not good");
        if why.contains("nett.l.cmd.osl.") {
            return why;
        }
    }
}

#[tokio::test]
async fn a_subscription_that_is_refused_is_none() {
    let lab = Lab::start(fabric()).await;
    let site: SiteId = id("osl");
    let (_bus, mut events) = agent(&lab).await;
    assert_eq!(heard(&mut events).await, Ok(()));
    let whole = "allow: [ \"nett.l.>\", \"_INBOX.osl.>\"";
    let part = "allow: [ \"nett.l.rpc.>\", \"_INBOX.osl.>\"";
    let before = lab.change(&site, |text| text.replace(whole, part));
    // Of those that are connected, and of those who come.
    let why = commands_refused(&mut events).await;
    let (_new, mut of_new) = agent(&lab).await;
    let of_new = commands_refused(&mut of_new).await;
    for why in [why, of_new] {
        for word in ["refuses", "nett.l.cmd.osl.", "nettctl bus render"] {
            assert!(why.contains(word), "{word}: {why}");
        }
        assert!(!why.contains("nett.l.rpc."), "questions are heard: {why}");
    }
    lab.change(&site, |_| before);
    first(&mut events, true).await.expect("it is asked for again");
}

#[tokio::test]
async fn an_answer_that_the_server_does_not_take_ends_nothing() {
    let mut lab = Lab::start(fabric()).await;
    let site: SiteId = id("osl");
    lab.change(&site, |text| text.replacen("max_payload: 4MB", "max_payload: 3000", 1));
    // What it takes is said to whoever connects.
    let server = lab.servers.get_mut(&site).expect("started");
    server.kill();
    server.restart().await;
    let (_bus, mut events) = agent(&lab).await;
    assert_eq!(first(&mut events, true).await, Ok(()));
    let served = tokio::spawn(async move {
        loop {
            match events.recv().await.expect("the bus runs") {
                BusEvent::Rpc { bytes, reply, .. } if bytes[..] == *b"room" => {
                    let room = reply.room().to_string();
                    reply.answer(room.into_bytes()).await;
                }
                BusEvent::Rpc { bytes, reply, .. } if bytes[..] == *b"whole" => {
                    reply.answer(vec![b'x'; 5000]).await;
                }
                BusEvent::Rpc { reply, .. } => {
                    let bytes = encode_answer_within(&long(), reply.room());
                    reply.answer(bytes).await;
                }
                BusEvent::Hearing { result } => panic!("{result:?}"),
                _ => {}
            }
        }
    });
    let mira = operator(&lab, &site).await;
    let ask = async |text: &'static str| {
        let answer = mira.request("nett.l.rpc.osl.osl-b1.status", text.into());
        let answer = timeout(Duration::from_secs(3), answer).await;
        answer.ok().and_then(Result::ok).map(|answer| answer.payload)
    };
    assert_eq!(ask("room").await.as_deref(), Some(b"3000".as_slice()));
    assert_eq!(ask("whole").await, None, "nobody sends what ends the connection");
    let answer = ask("long").await.expect("an answer");
    let read = decode_answer(&answer).expect("of the API");
    let Outcome::Error(error) = read.outcome else { panic!("it has {} bytes", answer.len()) };
    assert_eq!(error.code, ErrorCode::TooLarge);
    assert!(error.message.contains("the bus carries 3000"), "{error:?}");
    assert!(!served.is_finished(), "the connection stands");
    served.abort();
}

/// A connection of mira's, as `nettctl` has it.
async fn operator(lab: &Lab, site: &SiteId) -> async_nats::Client {
    let tls = lab.authority.issue("mira");
    let options = async_nats::ConnectOptions::with_nkey(seed(MIRA))
        .require_tls(true)
        .add_root_certificates(tls.ca)
        .add_client_certificate(tls.cert, tls.key)
        .custom_inbox_prefix("_INBOX.op");
    let urls = lab.fabric.site(site).expect("known").nats.clone();
    options.connect(urls).await.expect("the key connects")
}

/// An answer of many lines.
fn long() -> ApiResponse {
    let line = TaskLine {
        id: "osl.01jd3m5w7r8v3qyb2s9t4k6e1h".to_owned(),
        verb: "drain".to_owned(),
        subject: "site svg".to_owned(),
        person: "mira".to_owned(),
        state: TaskStateDoc::Running,
        progress: "1/3".to_owned(),
        opened_at: Stamp::from_ms(0),
    };
    let payload = Payload::Tasks { tasks: vec![line; 100] };
    ApiResponse::new("osl", "osl-b1", Stamp::from_ms(0), payload.into())
}
