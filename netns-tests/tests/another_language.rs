//! A program in another language gives commands: the worked example of the protocol, over NATS
//! with TLS, from a host of a site. What it sent is worth nothing the second time, and nothing
//! when it is late, changed or put on another subject; the node's audit trail says why.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use async_nats::{Client, ConnectOptions};
use futures::StreamExt;
use nett_netns_tests::eventually::{eventually, patience};
use nett_netns_tests::files::{self, Node};
use nett_netns_tests::lab::Lab;
use nett_netns_tests::observe::kernel::Kernel;
use nett_netns_tests::services::{API, WEB};
use nett_netns_tests::story::{Operator, Traffic, tell};
use nett_netns_tests::topology::SITES;
use serde_json::Value;

/// Requests that must be refused, signed with the example's own code: one line each, the canonical
/// bytes as they would be sent.
const FORGE: &str = r#"
import argparse, datetime, sys
sys.path.insert(0, sys.argv[1])
import command, nkeys
key = nkeys.from_seed(bytearray(open(sys.argv[2]).read().strip().encode()))
def request(to):
    return command.failover(argparse.Namespace(
        site="osl", name="mira", service="shop/prod/web", to=to, reason="forged", plan_hash=None
    ), key)
late = request("svg")
ago = lambda s: datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=s)
late["issued_at"], late["expires_at"] = command.timestamp(ago(180)), command.timestamp(ago(120))
print(command.canonical(command.sign(late, key)).decode())
changed = command.sign(request("osl"), key)
changed["body"]["to"] = "svg"
print(command.canonical(changed).decode())
print(command.canonical(command.sign(request("svg"), key)).decode())
"#;

/// The Python that `netns-tests/setup/install-deps.sh` prepares below the target directory, or
/// `NETT_PYTHON`.
fn python() -> Result<PathBuf> {
    let named = std::env::var_os("NETT_PYTHON").map(PathBuf::from);
    let me = std::env::current_exe()?;
    let target = me.ancestors().nth(3).context("a test lies in target/PROFILE/deps")?;
    let python = named.unwrap_or_else(|| target.join("python/bin/python3"));
    let has = Command::new(&python).args(["-c", "import nats, nkeys"]).output();
    match has {
        Ok(output) if output.status.success() => Ok(python),
        other => {
            bail!("{} cannot import nats and nkeys: `make deps` ({other:?})", python.display())
        }
    }
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples")
}

/// Logs in to osl's server with a key and a certificate of the lab.
async fn connect(lab: &Lab, name: &str, inbox: &str) -> Result<Client> {
    let seed = std::fs::read_to_string(lab.keys().seed(name))?;
    let tls = |file: &str| lab.layout().tls().join(file);
    let options = ConnectOptions::with_nkey(seed)
        .add_root_certificates(tls("ca.crt"))
        .add_client_certificate(tls(&format!("{name}.crt")), tls(&format!("{name}.key")))
        .require_tls(true)
        .custom_inbox_prefix(inbox);
    Ok(options.connect(files::nats_url(SITES[0])).await?)
}

/// Does something asynchronous inside osl's client host.
fn at_client<T: Send>(lab: &Lab, job: impl AsyncFnOnce() -> Result<T> + Send) -> Result<T> {
    lab.ns("osl-c1")?.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(job())
    })
}

/// Runs the example as it is in the documents, and returns with its output what it sent, as an
/// eavesdropper with a node's key saw it on the bus: subject and bytes.
fn speak_python(lab: &Lab, python: &Path) -> Result<(Output, String, Vec<u8>)> {
    at_client(lab, async || {
        let listener = connect(lab, "osl-b1", "_INBOX.osl").await?;
        let mut heard = listener.subscribe("nett.l.cmd.osl.>").await?;
        listener.flush().await?;
        let tls = |end: &str| lab.layout().tls().join(end);
        let output = Command::new(python)
            .arg(examples().join("command.py"))
            .args(["--nats", &files::nats_url(SITES[0]), "--site", "osl", "--name", "mira"])
            .arg("--key")
            .arg(lab.keys().seed("mira"))
            .args(["--service", API.id, "--to", "svg", "--reason", "øving «1»"])
            .arg("--tls-ca")
            .arg(tls("ca.crt"))
            .arg("--tls-cert")
            .arg(tls("mira.crt"))
            .arg("--tls-key")
            .arg(tls("mira.key"))
            .output()?;
        let message = tokio::time::timeout(patience(), heard.next()).await;
        let message = message.context("nothing was heard")?.context("the bus ended")?;
        Ok((output, message.subject.to_string(), message.payload.to_vec()))
    })
}

/// Sends bytes as mira and returns the answer.
fn send(lab: &Lab, subject: &str, bytes: &[u8]) -> Result<Value> {
    at_client(lab, async || {
        let client = connect(lab, "mira", "_INBOX.op").await?;
        let request = client.request(subject.to_owned(), bytes.to_vec().into());
        let answer = tokio::time::timeout(Duration::from_secs(5), request).await??;
        Ok(serde_json::from_slice(&answer.payload)?)
    })
}

fn kernels(lab: &Lab) -> Result<BTreeMap<String, Kernel>> {
    let nodes = Node::all().into_iter();
    nodes.map(|n| Ok((n.name.clone(), Kernel::of(&lab.ns(&n.name)?)?))).collect()
}

/// The lines of the audit trails of osl's nodes.
fn audit(lab: &Lab) -> Result<Vec<Value>> {
    let mut lines = Vec::new();
    for node in Node::of_site(SITES[0]) {
        let told = lab.nettctl(&node.name, "mira", &["-o", "json", "audit"])?.must_be(0)?;
        let entries = told.json()?["ok"]["entries"].as_array().cloned();
        lines.extend(entries.context("an audit has entries")?);
    }
    Ok(lines)
}

fn tasks(lab: &Lab) -> Result<Value> {
    let told = lab.nettctl("osl-b1", "mira", &["-o", "json", "task", "list"])?.must_be(0)?;
    Ok(told.json()?["ok"]["tasks"].clone())
}

#[test]
fn a_command_signed_in_python_moves_a_service_once() -> Result<()> {
    tell("a_command_signed_in_python_moves_a_service_once", |lab| {
        let python = python()?;
        let (output, subject, bytes) = speak_python(lab, &python)?;
        let said = String::from_utf8_lossy(&output.stdout);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{said}{complaint}");
        let answer: Value = serde_json::from_str(&said)?;
        assert_eq!(answer["accepted"], true, "{answer}");
        let task = answer["task"].as_str().context("a task")?;
        let mira = Operator { lab, node: "osl-b1", name: "mira" };
        mira.wait_for(task, "done")?;
        let traffic = Traffic::to_vips(lab, &["osl-c1"], API)?;
        traffic.settles_on("svg")?;
        let accepted = audit(lab)?.into_iter().find(|l| l["kind"] == "command");
        let accepted = accepted.context("the command is in the audit trail")?;
        assert_eq!((&accepted["reason"], &accepted["id"]), (&"øving «1»".into(), &task.into()));

        mira.complete(&["failback", API.id])?;
        let back = traffic.settles_on("osl")?;
        let (before, known) = (kernels(lab)?, tasks(lab)?);
        // Several times, so that each agent of the site's queue group is asked.
        for _ in 0..8 {
            let again = send(lab, &subject, &bytes)?;
            for field in ["accepted", "task", "refused_by"] {
                assert_eq!(again[field], answer[field], "{field}: {again}");
            }
        }
        traffic.run_for(500)?;
        let report = traffic.finish().since(back);
        assert_eq!(report.answers_of("svg"), 0, "{}", report.summary());
        assert_eq!(tasks(lab)?, known);
        for (node, kernel) in kernels(lab)? {
            assert_eq!(before[&node].changes(&kernel), Vec::<String>::new(), "{node}");
        }
        Ok(())
    })
}

#[test]
fn late_changed_and_misdirected_commands_are_refused_by_name() -> Result<()> {
    tell("late_changed_and_misdirected_commands_are_refused_by_name", |lab| {
        let python = python()?;
        let forged = Command::new(python)
            .args(["-c", FORGE])
            .arg(examples())
            .arg(lab.keys().seed("mira"))
            .output()?;
        ensure!(forged.status.success(), "{}", String::from_utf8_lossy(&forged.stderr));
        let forged = String::from_utf8(forged.stdout)?;
        let [late, changed, misdirected] = forged.lines().collect::<Vec<_>>()[..] else {
            bail!("three requests: {forged}");
        };
        let own = "nett.l.cmd.osl.failover.service.shop~prod~web";
        let other = "nett.l.cmd.osl.failover.service.shop~prod~edge";
        let before = kernels(lab)?;
        for (request, subject, why, kind) in [
            (late, own, "expired", "refused"),
            (changed, own, "signature", "unauthentic"),
            (misdirected, other, "subject", "unauthentic"),
        ] {
            let id = serde_json::from_str::<Value>(request)?["id"].clone();
            // Of refusals without a proven author a node writes one line a second, so a busy
            // second may need another try.
            eventually(patience(), &format!("the audit trail names {why}"), || {
                let answer = send(lab, subject, request.as_bytes())?;
                assert_eq!(answer["accepted"], false, "{answer}");
                assert_eq!(answer["refused_by"], why, "{answer}");
                let lines = audit(lab)?;
                let named = |l: &&Value| match kind {
                    "refused" => l["id"] == id,
                    _ => l["reason"] == why,
                };
                let line = lines.iter().filter(|l| l["kind"] == kind).find(named);
                let line = line.with_context(|| format!("not among {lines:#?}"))?;
                let text = line["text"].as_str().unwrap_or_default();
                ensure!(text.contains(why), "{line}");
                Ok(())
            })?;
        }
        assert_eq!(tasks(lab)?, Value::Array(Vec::new()), "a forged command opened a task");
        for (node, kernel) in kernels(lab)? {
            assert_eq!(before[&node].changes(&kernel), Vec::<String>::new(), "{node}");
        }
        let traffic = Traffic::to_vips(lab, &["osl-c1"], WEB)?;
        traffic.run_for(300)?;
        let report = traffic.finish();
        assert_eq!(report.answers_of("osl"), report.sent(), "{}", report.summary());
        Ok(())
    })
}
