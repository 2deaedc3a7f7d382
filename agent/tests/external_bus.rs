//! What somebody outside is asked, as bytes and over real nats-servers, with somebody who answers.

#![allow(clippy::print_stderr, reason = "a test says what it measured or left out")]

mod bus_fixture;
mod bus_server;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bus_fixture::*;
use bus_server::{Lab, PATIENCE};
use data_encoding::BASE64URL_NOPAD;
use futures::StreamExt;
use nett_agent::bus::nats::{NatsBus, NatsConfig};
use nett_agent::bus::wire::{OutsideRequest, open_entry, open_fact, seal_fact, seal_outside};
use nett_agent::bus::{Bus, BusEvent, Sealed};
use nett_policy::fabric::{Fabric, Operator, OperatorRole};
use nett_policy::fact::{Fact, FactKey};
use nett_policy::id::{SiteId, WallMs};
use nett_policy::log::entry::{Act, Asked, Body, Command, FabricRef, Slot, Step, StepKind, Way};
use nett_policy::service::When;
use nett_policy::task::external::{DONE, request_id};
use nkeys::KeyPair;
use serde_json::Value;
use tokio::time::timeout;

const LB: u8 = 31;
const FW: u8 = 32;

fn with_parties() -> Fabric {
    let mut fabric = fabric();
    for (name, number) in [("lb", LB), ("fw", FW)] {
        fabric.operators.push(Operator {
            name: name.to_owned(),
            key: key(number).public_key(),
            roles: vec![OperatorRole::Gate],
            services: Vec::new(),
        });
    }
    fabric
}

fn request() -> OutsideRequest {
    let way = Way { from: [id("osl")].into(), to: [id("svg")].into() };
    OutsideRequest {
        site: id("osl"),
        node: id("osl-b1"),
        fabric: FabricRef { generation: nett_policy::id::Generation(12), hash: "9f3c".to_owned() },
        at: WallMs(NOW.0 + 1_000),
        expires_at: WallMs(NOW.0 + 31_000),
        slot: Slot { task: entry_id("osl", 1), term: 0, index: 1 },
        step: 1,
        asked: Asked {
            party: "lb".to_owned(),
            act: Act::Do,
            when: When::BeforeActivate,
            undo: true,
            services: BTreeMap::from([(id("shop/prod/api"), way)]),
            takes_back: None,
        },
    }
}

#[test]
fn the_request_on_the_bus_stays_as_it_is() {
    let bytes = seal_outside(&request(), &key(OSL_B1)).expect("signs");
    let value: Value = serde_json::from_slice(&bytes).expect("JSON");
    let text = serde_json::to_string_pretty(&value).expect("JSON") + "\n";
    let path = format!("{}/tests/golden/bus_external.json", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("NETT_UPDATE").is_some() {
        std::fs::write(&path, &text).expect("the golden file can be written");
    }
    let expected = std::fs::read_to_string(&path).expect("run with NETT_UPDATE=1 to make it");
    assert_eq!(text, expected, "{path} differs; NETT_UPDATE=1 accepts the change");
}

#[test]
fn an_entry_keeps_whom_its_steps_ask() {
    let mut effect = effect();
    let undo = Asked {
        act: Act::Undo,
        when: When::AfterWithdraw,
        takes_back: Some("ext-00".to_owned()),
        ..request().asked
    };
    effect.steps.push(Step {
        number: 2,
        kind: StepKind::External,
        asked: Some(undo),
        required: BTreeSet::new(),
        ..effect.steps[0].clone()
    });
    let (Body::Command(command), verbatim) = command_body("osl", 1) else {
        panic!("it is a command");
    };
    let body = Body::Command(Command { effect: Some(effect.into()), ..command });
    let draft = draft("osl", "osl-b1", 1, body.clone(), Some(verbatim));
    let sealed = Sealed::seal(draft, &key(OSL_B1)).expect("the node's key signs");
    let opened = open_entry(&sealed.bytes, &sealed.subject(), &fabric()).expect("believed");
    assert_eq!(opened.body, body);
}

async fn client(lab: &Lab, site: &str, number: u8) -> async_nats::Client {
    let tls = lab.authority.issue("client");
    let options = async_nats::ConnectOptions::with_nkey(seed(number))
        .require_tls(true)
        .add_root_certificates(tls.ca)
        .add_client_certificate(tls.cert, tls.key)
        .custom_inbox_prefix("_INBOX.op");
    let urls = lab.fabric.site(&id(site)).expect("known").nats.clone();
    options.connect(urls).await.expect("the key connects")
}

/// Takes a request apart as somebody else's program does: the signature is over the canonical form
/// of the rest, which for such text is what a sorted map prints.
fn believed(bytes: &[u8], node: &KeyPair) -> BTreeMap<String, Value> {
    let mut message: BTreeMap<String, Value> = serde_json::from_slice(bytes).expect("JSON");
    let sig = message.remove("sig").expect("it is signed");
    assert_eq!(sig[0]["key"], node.public_key().as_str());
    let value = sig[0]["value"].as_str().expect("text");
    let signature = BASE64URL_NOPAD.decode(value.as_bytes()).expect("base64url");
    let signed = serde_json::to_vec(&message).expect("JSON");
    node.verify(&signed, &signature).expect("the node's own signature");
    message
}

/// The answer of a load balancer that has done what it was asked.
fn done(message: &BTreeMap<String, Value>) -> (String, Vec<u8>) {
    let text = |name: &str| message[name].as_str().expect("text").to_owned();
    let about: FactKey = (None, text("id"));
    let fact = Fact {
        id: entry_id("osl", 77),
        value: DONE,
        unit: String::new(),
        measured_at: WallMs(NOW.0 + 2_000),
        expires_at: WallMs(NOW.0 + 60_000),
        person: "lb".to_owned(),
    };
    let site: SiteId = id(&text("site"));
    (text("answer"), seal_fact(&site, &about, &fact, &key(LB)).expect("signs"))
}

#[tokio::test]
async fn the_one_who_is_asked_hears_it_and_answers_and_nobody_else_does() {
    let lab = Lab::start(with_parties()).await;
    for site in ["osl", "svg"] {
        lab.init(&id(site)).await;
    }
    let node = lab.fabric.node(&id("osl-b1")).expect("known");
    let config = NatsConfig {
        site: node.site.clone(),
        node: node.id.clone(),
        urls: lab.fabric.site(&node.site).expect("known").nats.clone(),
        seed: seed(OSL_B1),
        tls: Some(lab.authority.issue("osl-b1")),
        start: BTreeMap::new(),
        capacity: 64,
        rosters: Arc::new((&lab.fabric).into()),
        intake: Arc::default(),
    };
    let (bus, mut events) =
        NatsBus::start(config, Arc::new(lab.fabric.clone())).await.expect("starts");
    let ready = async {
        let (mut connected, mut hears) = (false, false);
        while !(connected && hears) {
            match events.recv().await.expect("the bus runs") {
                BusEvent::Connected => connected = true,
                BusEvent::Hearing { result } => hears = result.is_ok(),
                _ => {}
            }
        }
    };
    timeout(PATIENCE, ready).await.expect("the agent is connected and hears others");

    // The other one with the role, and the same key at the other site, are told nothing.
    let lb = client(&lab, "osl", LB).await;
    let mut asked = lb.subscribe("nett.l.ext.osl.lb").await.expect("subscribes");
    let fw = client(&lab, "osl", FW).await;
    let mut of_another = fw.subscribe("nett.l.ext.osl.lb").await.expect("subscribes");
    let far = client(&lab, "svg", LB).await;
    let mut at_svg = far.subscribe("nett.l.ext.svg.lb").await.expect("subscribes");
    for client in [&lb, &fw, &far] {
        client.flush().await.expect("the server has read the subscription");
    }
    let request = request();
    let bytes = seal_outside(&request, &key(OSL_B1)).expect("signs");
    // Only an agent asks.
    fw.publish("nett.l.ext.osl.lb", "forged".into()).await.expect("sent");
    fw.flush().await.expect("the server has read it");
    for _ in 0..2 {
        bus.ask_outside("lb".to_owned(), bytes.clone()).await.expect("sent");
    }
    for _ in 0..2 {
        let heard = timeout(PATIENCE, asked.next()).await.expect("asked").expect("subscribed");
        assert_eq!(*heard.payload, *bytes, "as it was sent, and nothing forged before it");
        let message = believed(&heard.payload, &key(OSL_B1));
        assert_eq!(message["subject"], heard.subject.as_str());
        assert_eq!((&message["verb"], &message["step"]), (&"do".into(), &1.into()));
        let (subject, answer) = done(&message);
        lb.publish(subject, answer.into()).await.expect("sent");
    }
    let answers = async {
        loop {
            if let BusEvent::Fact { bytes, subject } = events.recv().await.expect("runs") {
                break (bytes, subject);
            }
        }
    };
    let (bytes, subject) = timeout(PATIENCE, answers).await.expect("the agent hears the answer");
    let (about, fact) =
        open_fact(&bytes, &subject, &id("osl"), &lab.fabric).expect("it is believed");
    assert_eq!(about, (None, request_id(&request.slot, &request.asked)));
    assert_eq!((fact.person.as_str(), fact.value), ("lb", DONE));
    // What was to reach them would have been there before the answer was.
    for (who, heard) in [("fw", &mut of_another), ("lb at svg", &mut at_svg)] {
        let nothing = timeout(Duration::from_millis(1), heard.next()).await;
        assert!(!matches!(nothing, Ok(Some(_))), "{who} heard it: {nothing:?}");
    }
}
