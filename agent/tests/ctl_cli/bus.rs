//! Over NATS: a real nats-server between `nettctl` and an agent's side made here.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures::StreamExt;
use nett_agent::api::codec;
use nkeys::KeyPair;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Ran, TASK, canned, nettctl, response};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A nats-server that lets an operator do what the rendered configuration does (BUS section 3),
/// on a port of its own choice. Killed on drop.
struct Server {
    child: Child,
    dir: TempDir,
    url: String,
    agent: KeyPair,
}

impl Server {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (operator, agent) = (KeyPair::new_user(), KeyPair::new_user());
        let seed = operator.seed().expect("a seed of a new pair");
        std::fs::write(dir.path().join("mira.nk"), seed).expect("written");
        let config = format!(
            r#"
listen: "127.0.0.1:-1"
authorization {{ users: [
  {{ nkey: {}, permissions: {{
      publish: {{ allow: [ "nett.l.cmd.osl.>", "nett.l.rpc.osl.>", "nett.l.rpc.ber.>" ] }},
      subscribe: {{ allow: [ "_INBOX.op.>" ] }} }} }}
  {{ nkey: {} }}
] }}
"#,
            operator.public_key(),
            agent.public_key()
        );
        let path = dir.path().join("server.conf");
        std::fs::write(&path, config).expect("written");
        let child = Command::new("nats-server")
            .arg("--config")
            .arg(&path)
            .arg("--ports_file_dir")
            .arg(dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nats-server is installed (Debian package nats-server)");
        let url = wait_for_ports(&dir, child.id());
        Self { child, dir, url, agent }
    }

    fn key(&self) -> PathBuf {
        self.dir.path().join("mira.nk")
    }

    fn run(&self, site: &str, line: &[&str]) -> Ran {
        let mut command = nettctl();
        command.env("NETT_NATS", &self.url);
        command.args(["--site", site, "--key"]).arg(self.key());
        command.args(line);
        Ran::of(command)
    }

    /// Answers calls and one command as agents of osl do, on a thread of its own.
    fn agent(&self) -> std::thread::JoinHandle<(String, Value)> {
        let (url, seed) = (self.url.clone(), self.agent.seed().expect("a seed"));
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(answer(url, seed, ready))
        });
        is_ready.recv_timeout(PATIENCE).expect("subscribed");
        thread
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The client URL, as the server wrote it into its ports file.
fn wait_for_ports(dir: &TempDir, pid: u32) -> String {
    let path = dir.path().join(format!("nats-server_{pid}.ports"));
    let start = Instant::now();
    loop {
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        if let Ok(ports) = serde_json::from_str::<Value>(&found)
            && let Some(url) = ports["nats"][0].as_str()
        {
            return url.to_owned();
        }
        assert!(start.elapsed() < PATIENCE, "nats-server does not start");
        std::thread::yield_now();
    }
}

async fn answer(url: String, seed: String, ready: std::sync::mpsc::Sender<()>) -> (String, Value) {
    let client = async_nats::ConnectOptions::with_nkey(seed).connect(url).await.expect("connected");
    let subscribe = |subject: &'static str| client.queue_subscribe(subject, "nett".to_owned());
    let mut calls = subscribe("nett.l.rpc.osl.any.api").await.expect("subscribed");
    let mut commands = subscribe("nett.l.cmd.osl.>").await.expect("subscribed");
    client.flush().await.expect("flushed");
    ready.send(()).expect("somebody waits");
    loop {
        let (reply, bytes, end) = tokio::select! {
            call = calls.next() => {
                let call = call.expect("connected");
                assert!(call.reply.as_ref().is_some_and(|r| r.starts_with("_INBOX.op.")));
                let request = codec::decode_call(&call.payload).expect("a call");
                let value = serde_json::to_value(&request).expect("JSON");
                let answer = response(canned(value["op"].as_str().expect("a tag")));
                (call.reply, codec::encode_answer(&answer), None)
            }
            command = commands.next() => {
                let command = command.expect("connected");
                let envelope: Value = serde_json::from_slice(&command.payload).expect("JSON");
                let reply = json!({"accepted": true, "task": TASK, "state": "running"});
                let end = Some((command.subject.to_string(), envelope));
                (command.reply, reply.to_string().into_bytes(), end)
            }
        };
        let reply = reply.expect("a request");
        client.publish(reply, bytes.into()).await.expect("published");
        client.flush().await.expect("flushed");
        if let Some(end) = end {
            return end;
        }
    }
}

#[test]
fn questions_and_commands_reach_an_agent_of_the_site() {
    let server = Server::start();
    let agent = server.agent();
    let over_nats = server.run("osl", &["service", "list"]);
    over_nats.exits(0);
    crate::harness::golden("service_list.txt", &over_nats.out);
    let line = ["drain", "site", "osl", "--yes", "--reason", "drill"];
    let ran = server.run("osl", &line);
    ran.exits(0);
    assert_eq!(ran.out, format!("{TASK} running\n"));
    let (subject, envelope) = agent.join().expect("the agent's side ended well");
    assert_eq!(subject, "nett.l.cmd.osl.drain.site.osl");
    assert_eq!(envelope["subject"], subject);
    assert_eq!(envelope["body"]["object"], json!({"site": "osl"}));
}

#[test]
fn a_site_without_agents_or_a_server_out_of_reach_is_3() {
    let server = Server::start();
    server.run("ber", &["status"]).exits(3).says("no agent of site ber answers");
    // A key the server does not know.
    let stranger = KeyPair::new_user().seed().expect("a seed");
    std::fs::write(server.key(), stranger).expect("written");
    server.run("osl", &["status"]).exits(3).says("does not know this key");
    // Nobody there: the port was the server's.
    let (url, key) = (server.url.clone(), server.key());
    let ask = |line: &[&str]| {
        let mut command = nettctl();
        command.arg("--nats").arg(&url).arg("--key").arg(&key).args(line);
        Ran::of(command)
    };
    ask(&["status"]).exits(2).says("--site");
    let mut server = server;
    server.child.kill().expect("killed");
    server.child.wait().expect("gone");
    ask(&["status", "--site", "osl"]).exits(3).says("nobody answers there");
}
