//! `docs/PROTOCOL.md` says what the code does, and its worked example works.

#![allow(clippy::print_stderr, reason = "a test says what it measured or left out")]

mod bus_fixture;
mod bus_server;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use bus_fixture::*;
use bus_server::Lab;
use nett_agent::bus::BusEvent;
use nett_agent::bus::nats::{NatsBus, NatsConfig};
use nett_agent::bus::subject;
use nett_agent::bus::wire::{MAX_BYTES, MAX_ENTRY_BYTES, open_request};
use nett_policy::log::entry::{Ask, Verb};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("in the workspace").to_owned()
}

fn protocol() -> String {
    std::fs::read_to_string(root().join("docs/PROTOCOL.md")).expect("docs/PROTOCOL.md")
}

#[test]
fn the_examples_in_the_document_are_the_golden_files() {
    for name in ["bus_request", "bus_entry", "bus_report", "bus_fact", "bus_external"] {
        let path = root().join(format!("agent/tests/golden/{name}.json"));
        let golden = std::fs::read_to_string(path).expect("a golden file");
        assert!(protocol().contains(&golden), "docs/PROTOCOL.md does not show {name}.json");
    }
}

#[test]
fn the_document_names_every_header_subject_and_limit() {
    let (osl, node) = (id("osl"), id("osl-b1"));
    let command = sealed_command("osl", 1);
    let place =
        |text: String| text.replace("osl-b1", "NODE").replace("osl", "SITE").replace("OSL", "SITE");
    let mut names = vec![
        place(subject::commands(&osl)),
        place(subject::rpc_of(&osl, &node)),
        place(subject::report(&osl, &node)),
        place(subject::facts(&osl)),
        place(subject::outside(&osl, "PARTY")),
        place(subject::command_stream(&osl)),
        place(subject::observation_stream(&osl)),
        place(subject::inbox(&osl)),
        subject::OPERATOR_INBOX.to_owned(),
        subject::local_bucket_stream(),
        command.subject(),
        format!("{MAX_BYTES} bytes"),
        format!("at most {MAX_ENTRY_BYTES}"),
    ];
    for what in subject::Replicated::ALL {
        names.extend([place(what.stream(&osl)), place(what.subjects(&osl))]);
    }
    let headers = [
        subject::HEADER_SITE,
        subject::HEADER_KIND,
        subject::HEADER_EPOCH,
        subject::HEADER_EXPIRES,
        subject::HEADER_MIN_READER,
    ];
    names.extend(headers.map(str::to_owned));
    let text = protocol();
    let missing: Vec<&String> = names.iter().filter(|name| !text.contains(*name)).collect();
    assert!(missing.is_empty(), "not in docs/PROTOCOL.md: {missing:?}");
}

/// A Python that has the example's packages: `NETT_PYTHON`, which then must have them, or
/// `python3` if it happens to.
fn python() -> Option<PathBuf> {
    let named = std::env::var_os("NETT_PYTHON").map(PathBuf::from);
    let program = named.clone().unwrap_or_else(|| "python3".into());
    let mut import = Command::new(&program);
    import.args(["-c", "import nats, nkeys"]).stderr(Stdio::null());
    let has = import.status().is_ok_and(|status| status.success());
    let hint = "pip install -r docs/examples/requirements.txt";
    assert!(has || named.is_none(), "{} cannot import nats and nkeys: {hint}", program.display());
    has.then_some(program)
}

#[tokio::test]
async fn the_worked_example_is_understood() {
    let Some(python) = python() else {
        eprintln!("SKIPPED the_worked_example_is_understood: set NETT_PYTHON to require it");
        return;
    };
    let lab = Lab::start(fabric()).await;
    let config = NatsConfig {
        site: id("osl"),
        node: id("osl-b1"),
        urls: lab.fabric.sites[0].nats.clone(),
        seed: seed(OSL_B1),
        tls: Some(lab.authority.issue("osl-b1")),
        start: Default::default(),
        capacity: 64,
        rosters: Arc::new((&lab.fabric).into()),
        intake: Arc::default(),
    };
    let fabric = Arc::new(lab.fabric.clone());
    let (_bus, mut events) = NatsBus::start(config, Arc::clone(&fabric)).await.expect("starts");
    let tls = lab.authority.issue("mira");
    let seed_file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(seed_file.path(), seed(MIRA)).expect("writable");

    let mut script = tokio::process::Command::new(python);
    script.arg(root().join("docs/examples/command.py"));
    script.args(["--nats", &lab.servers[&id("osl")].url(), "--site", "osl", "--name", "mira"]);
    script.arg("--key").arg(seed_file.path());
    script.args(["--service", "shop/prod/api", "--to", "svg", "--reason", "øving «1»"]);
    script.arg("--tls-ca").arg(tls.ca).arg("--tls-cert").arg(tls.cert);
    script.arg("--tls-key").arg(tls.key).kill_on_drop(true);
    let connected = async {
        while let Some(event) = events.recv().await {
            if matches!(event, BusEvent::StreamMissing { .. }) {
                // A server that answers about streams has taken the subscriptions before.
                break;
            }
        }
    };
    let patience = bus_server::PATIENCE;
    tokio::time::timeout(patience, connected).await.expect("connects");
    let answered = async {
        loop {
            let event = events.recv().await.expect("the bus runs");
            let BusEvent::Request { bytes, subject, reply } = event else { continue };
            let request = open_request(&bytes, &subject, &fabric).map_err(|e| e.message());
            let request = request.expect("the example signs as it should");
            let answer = serde_json::json!({
                "accepted": true, "task": request.id.as_str(), "refused_by": null, "message": "",
            });
            reply.answer(answer.to_string().into_bytes()).await;
            break request;
        }
    };
    let mut script = Box::pin(async { script.output().await.expect("python runs") });
    let answered = async {
        tokio::select! {
            request = answered => request,
            output = &mut script => {
                panic!("not asked: {}", String::from_utf8_lossy(&output.stderr))
            }
        }
    };
    let request = tokio::time::timeout(patience, answered).await.expect("the example asks");
    let output = tokio::time::timeout(patience, script).await.expect("the example ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(answer["task"], request.id.as_str());
    assert_eq!(request.reason, "øving «1»");
    let expected = Verb::Failover { services: id("shop/prod/api"), to: id("svg") };
    assert!(matches!(request.ask, Ask::Command { verb, .. } if verb == expected));
}
