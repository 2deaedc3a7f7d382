//! Somebody with an operator's login sends up to ten thousand messages a second, good and bad (as
//! many as the machine lets it, which is printed), while another operator works: commands are
//! answered in time, the agents' work and memory stay within bounds, their logs stay readable, and
//! status says who it is.

#![allow(clippy::print_stdout, reason = "a story tells what it measured")]

mod streams;

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use async_nats::{Client, ConnectOptions, Subject};
use bytes::Bytes;
use nett_netns_tests::eventually::{eventually, patience};
use nett_netns_tests::files::{self, Node};
use nett_netns_tests::lab::Lab;
use nett_netns_tests::services::WEB;
use nett_netns_tests::signed::{Message, NOW, Signer};
use nett_netns_tests::story::{Traffic, tell};
use nett_netns_tests::topology::SITES;
use serde_json::{Value, json};
use streams::login::{ask, at_client, options};

/// Messages a second, at most.
const RATE: u64 = 10_000;
/// Connections of one login. One alone waits for the server after every few messages.
const SENDERS: u64 = 4;
/// How long each kind of message is sent.
const LONG: Duration = Duration::from_secs(3);
/// Fewer messages than these, sent or turned away by half, show nothing.
const FLOOD: u64 = 400;
/// The longest time until an honest command is answered: usually some hundredths of a second.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);
/// How long until the same is ordered again where a task was still open.
const AGAIN: Duration = Duration::from_millis(50);
/// Of one core, for each agent of the site. A debug build spends most of it on receiving.
const WORK: f64 = 0.9;
/// What an agent may grow by, in kilobytes.
const GROWTH: u64 = 96 * 1024;

/// What is sent, again and again.
struct Kind {
    name: &'static str,
    subject: String,
    bytes: Vec<u8>,
    /// In whose name status shows it.
    from: &'static str,
}

/// A word about WEB at osl, signed just now.
fn signed(by: &Signer, verb: &str) -> Result<Message> {
    by.command(SITES[0].id, &json!({"verb": verb, "services": WEB.id}), NOW)
}

fn kinds(lab: &Lab) -> Result<Vec<Kind>> {
    let (jon, mira) = (Signer::of(lab, "jon")?, Signer::of(lab, "mira")?);
    let spoil = |bytes: &[u8]| {
        String::from_utf8_lossy(bytes).replace("told in a story", "told in a st0ry").into_bytes()
    };
    let Message { subject, bytes: good } = signed(&jon, "release")?;
    let of_mira = signed(&mira, "release")?.bytes;
    let kind =
        |name, subject: &str, bytes, from| Kind { name, subject: subject.to_owned(), bytes, from };
    let question = br#"{"v":1,"request":{"op":"status"}}"#.to_vec();
    Ok(vec![
        kind("bad signature", &subject, spoil(&good), "jon"),
        kind("bad signature in the other's name", &subject, spoil(&of_mira), "mira"),
        kind("unknown subject", "nett.l.cmd.osl.dance.service.x", good.clone(), "jon"),
        kind("deep", &subject, vec![b'['; 4000], "nobody known"),
        kind("oversized", &subject, vec![b'x'; 300 * 1024], "nobody known"),
        kind("a question", "nett.l.rpc.osl.any.status", question, "anybody"),
        // Last: from here on it is known.
        kind("repeated", &subject, good, "jon, the same again"),
    ])
}

/// Sends as jon until told to stop, on several connections as one program may; gives how many.
async fn flood(options: ConnectOptions, kind: &Kind, stop: &AtomicBool) -> Result<u64> {
    let mut senders = Vec::new();
    for _ in 0..SENDERS {
        senders.push(options.clone().client_capacity(16).connect(files::nats_url(SITES[0])).await?);
    }
    // Everything but the sending is done before.
    let subject = Subject::from(kind.subject.as_str());
    let to: Vec<Subject> =
        (0..RATE).map(|nth| Subject::from(format!("_INBOX.op.flood.{nth}"))).collect();
    let bytes = Bytes::from(kind.bytes.clone());
    let (begun, mut sent) = (Instant::now(), 0);
    let mut pace = tokio::time::interval(Duration::from_millis(1));
    while !stop.load(Ordering::Relaxed) {
        pace.tick().await;
        let due = begun.elapsed().as_millis() as u64 * RATE / 1000;
        while sent < due && !stop.load(Ordering::Relaxed) {
            let reply = to[(sent % RATE) as usize].clone();
            let sender = &senders[(sent % SENDERS) as usize];
            sender.publish_with_reply(subject.clone(), reply, bytes.clone()).await?;
            sent += 1;
        }
    }
    for sender in &senders {
        sender.flush().await?;
    }
    Ok(sent)
}

/// Gives commands as mira, one after the other; how long each took.
async fn work(client: &Client, by: &Signer, until: Instant) -> Result<Vec<Duration>> {
    let mut took = Vec::new();
    for verb in ["hold", "release"].iter().cycle() {
        if Instant::now() >= until && took.len() % 2 == 0 {
            return Ok(took);
        }
        let answer = loop {
            let Message { subject, bytes } = signed(by, verb)?;
            let begun = Instant::now();
            let asked = client.request(subject, bytes.into());
            let answer = tokio::time::timeout(Duration::from_secs(10), asked).await;
            let answer = answer.with_context(|| format!("no answer after {}", took.len()))??;
            let answer: Value = serde_json::from_slice(&answer.payload)?;
            // Told at once as well: what was ordered before is still being done.
            if answer["refused_by"] != "task-open" {
                took.push(begun.elapsed());
                break answer;
            }
            ensure!(begun.elapsed() < ANSWERED_WITHIN, "{verb}: after {:?}", begun.elapsed());
            tokio::time::sleep(AGAIN).await;
        };
        // Of what is repeated the first is good: a release, which may come between.
        let done = answer["accepted"] == true || answer["refused_by"] == "no-change";
        ensure!(done, "{verb}: {answer}");
    }
    unreachable!("the words go round")
}

/// What an agent has used so far: seconds of work, and kilobytes that it holds.
fn used(pid: i32) -> Result<(f64, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(')').context("a name in brackets")?.1;
    let ticks = |at: usize| -> Result<f64> {
        Ok(fields.split_whitespace().nth(at).context("a field")?.parse()?)
    };
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let held = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let held = held.and_then(|text| text.split_whitespace().next()).context("a size")?;
    // USER_HZ is 100 on every Linux (`man 5 proc`); fields 14 and 15 are the 12th and 13th here.
    Ok(((ticks(11)? + ticks(12)?) / 100.0, held.parse()?))
}

fn lines(lab: &Lab, node: &str) -> Result<usize> {
    let text = fs::read_to_string(lab.layout().logs().join(format!("agent-{node}.log")))?;
    Ok(text.lines().count())
}

fn one_kind(lab: &mut Lab, kind: &Kind) -> Result<()> {
    let nodes: Vec<String> = Node::of_site(SITES[0]).into_iter().map(|n| n.name).collect();
    let mut pids = Vec::new();
    for node in &nodes {
        pids.push(lab.process(&format!("agent-{node}"))?.record().pid);
    }
    let lab = &*lab;
    let before: Vec<_> = pids.iter().map(|pid| used(*pid)).collect::<Result<_>>()?;
    let said: Vec<_> = nodes.iter().map(|node| lines(lab, node)).collect::<Result<_>>()?;
    let turned_away = turned_away_of(lab, &nodes, kind)?;
    let (stop, begun) = (AtomicBool::new(false), Instant::now());
    let (jon, mira) = (options(lab, "jon")?, options(lab, "mira")?);
    let (site, by) = (SITES[0], Signer::of(lab, "mira")?);
    let (sent, took) = std::thread::scope(|scope| {
        let flooding = scope.spawn(|| at_client(lab, site, async || flood(jon, kind, &stop).await));
        let took = at_client(lab, site, async || {
            let client = mira.connect(files::nats_url(site)).await?;
            work(&client, &by, begun + LONG).await
        });
        stop.store(true, Ordering::Relaxed);
        (flooding.join().expect("no panic"), took)
    });
    let lasted = begun.elapsed().as_secs_f64();
    let (sent, mut took) = (sent?, took.with_context(|| kind.name)?);
    took.sort();
    let (middle, worst) = (took[took.len() / 2], took[took.len() - 1]);
    let rate = sent as f64 / lasted;
    println!("{}: {rate:.0}/s; {} commands, {middle:?}, worst {worst:?}", kind.name, took.len());
    ensure!(worst < ANSWERED_WITHIN, "{}: a command took {worst:?}", kind.name);
    for (at, (node, pid)) in nodes.iter().zip(&pids).enumerate() {
        let (work, held) = used(*pid)?;
        let (work, grown) = ((work - before[at].0) / lasted, held.saturating_sub(before[at].1));
        println!("  {node}: {work:.2} of a core, {held} kB, {grown} kB more");
        ensure!(work < WORK, "{node} used {work:.2} of a core");
        ensure!(grown < GROWTH, "{node} grew by {grown} kB");
        // A line a second, and what a dozen commands leave behind them.
        let said = lines(lab, node)? - said[at];
        let most = lasted as usize + 5 + 20 * took.len();
        ensure!(said < most, "{node} said {said} lines in {lasted:.1} s");
    }
    ensure!(sent > FLOOD, "{}: {sent} messages are no flood", kind.name);
    eventually(patience(), "status names the sender and counts", || {
        let more = turned_away_of(lab, &nodes, kind)?.saturating_sub(turned_away);
        ensure!(more > FLOOD / 2, "{more} of {sent} from {}", kind.from);
        Ok(())
    })
    .map(drop)
}

/// How many messages of this sender the agents say they have turned away.
fn turned_away_of(lab: &Lab, nodes: &[String], kind: &Kind) -> Result<u64> {
    let mut sum = 0;
    for node in nodes {
        let told = lab.nettctl(node, "mira", &["-o", "json", "status"])?.must_be(0)?;
        let floods = told.json()?["ok"]["floods"].as_array().cloned().unwrap_or_default();
        for flood in floods.iter().filter(|flood| flood["from"] == kind.from) {
            sum += flood["refused"].as_u64().unwrap_or(0) + flood["dropped"].as_u64().unwrap_or(0);
        }
    }
    Ok(sum)
}

#[test]
fn a_flood_of_one_login_stops_nobody_else() -> Result<()> {
    tell("a_flood_of_one_login_stops_nobody_else", |lab| {
        let traffic = Traffic::to_vips(lab, &["osl-c1"], WEB)?;
        let from = traffic.settles_on("osl")?;
        for at in 0..kinds(lab)?.len() {
            // Signed just before: a request is good for less than a minute.
            let kind = kinds(lab)?.swap_remove(at);
            one_kind(lab, &kind)?;
        }
        let report = traffic.finish().since(from);
        assert_eq!(report.answers_of("svg"), 0, "{}", report.summary());
        // The same person is heard again.
        let again = signed(&Signer::of(lab, "jon")?, "hold")?;
        let answer = ask(lab, SITES[0], "jon", &again)?;
        assert!(answer["refused_by"] != "too-many", "{answer}");
        Ok(())
    })
}
