//! Somebody with an operator's login, at a server that lets 64 MB through, sends up to ten thousand
//! messages a second (as many as the machine lets it, which is printed): forged, misdirected,
//! expired, repeated, deep, and as large as they may be. Nothing of it is done. Another operator
//! works meanwhile: commands are answered in time, the agents' work and memory stay within bounds,
//! their logs stay readable, and status says who it is.
//!
//! `NETT_FLOOD_SECONDS=n`: each kind is sent for so long.

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
use nett_netns_tests::signed::{Message, NOW, Signer, Span};
use nett_netns_tests::story::{Traffic, tell_of_wires};
use nett_netns_tests::topology::{SITES, Shape};
use serde_json::{Value, json};
use streams::login::{ask, at_client, options};

/// Messages a second, at most.
const RATE: u64 = 10_000;
/// Connections of one login. One alone waits for the server after every few messages.
const SENDERS: u64 = 4;
/// Bytes a second, at most: somewhat more than a gigabit.
const BYTES: u64 = 200_000_000;
/// How long each kind of message is sent.
const LONG: Duration = Duration::from_millis(700);
/// Fewer messages than these, sent or turned away by half, show nothing.
const FLOOD: u64 = 400;
/// Honest commands while each kind is sent, at least, and in the calm before each.
const HONEST: usize = 8;
/// In how long ninety-nine of a hundred honest commands are answered, in calm as in a flood, on a
/// machine that answers them in some hundredths of a second in calm.
const ANSWERED_WITHIN: Duration = Duration::from_millis(250);
/// On a slower machine: so many times what it takes in calm.
const SLOWER: u32 = 8;
/// The longest time until any honest command is answered, or so many times the longest in calm.
const AT_MOST: Duration = Duration::from_secs(1);
/// How long until the same is ordered again where a task was still open.
const AGAIN: Duration = Duration::from_millis(20);
/// Of one core, for each agent of the site. Half a core is the goal of a release build with a
/// machine of its own; this is for a build for tests beside other work.
const WORK: f64 = 0.8;
/// What an agent may have grown by when a flood is over, in kilobytes. The goal is 10 MB; what the
/// allocator keeps for the next large message counts, a little for each thread that had one: 0 to
/// 11 MB were seen.
const GROWTH: u64 = 16 * 1024;
/// The same while it lasts: pages that were given back count until the kernel has taken them.
const PEAK: u64 = 20 * 1024;

/// What is sent, again and again.
struct Kind {
    name: &'static str,
    subject: String,
    /// One after the other.
    bytes: Vec<Bytes>,
    /// In whose name status shows it.
    from: &'static str,
}

/// A word about WEB at a site, signed just now.
fn signed_for(by: &Signer, site: &str, verb: &str, span: Span) -> Result<Message> {
    by.command(site, &json!({"verb": verb, "services": WEB.id}), span)
}

/// The same at osl.
fn signed(by: &Signer, verb: &str) -> Result<Message> {
    signed_for(by, SITES[0].id, verb, NOW)
}

/// Signed long ago, each another.
const LATE: Span = Span { from: -300_000, to: -250_000 };
/// So many different ones: more than one person's requests that may wait.
const DIFFERENT: usize = 400;

fn kinds(lab: &Lab) -> Result<Vec<Kind>> {
    let (jon, mira) = (Signer::of(lab, "jon")?, Signer::of(lab, "mira")?);
    let spoil = |bytes: &[u8]| {
        String::from_utf8_lossy(bytes).replace("told in a story", "told in a st0ry").into_bytes()
    };
    let Message { subject, bytes: good } = signed(&jon, "release")?;
    let of_mira = signed(&mira, "release")?.bytes;
    let elsewhere = signed_for(&jon, SITES[1].id, "release", NOW)?.bytes;
    let late =
        (0..DIFFERENT).map(|_| Ok(signed_for(&jon, SITES[0].id, "hold", LATE)?.bytes.into()));
    let late = late.collect::<Result<Vec<Bytes>>>()?;
    let kind = |name, subject: &str, bytes: Vec<u8>, from| Kind {
        name,
        subject: subject.to_owned(),
        bytes: vec![bytes.into()],
        from,
    };
    let question = br#"{"v":1,"request":{"op":"status"}}"#.to_vec();
    let of_hold = subject.replace(".release.", ".hold.");
    let large = |mib: usize| vec![b'x'; mib * 1024 * 1024];
    Ok(vec![
        kind("bad signature", &subject, spoil(&good), "jon"),
        kind("bad signature in the other's name", &subject, spoil(&of_mira), "mira"),
        kind("another subject", &of_hold, good.clone(), "jon"),
        kind("unknown subject", "nett.l.cmd.osl.dance.service.x", good.clone(), "jon"),
        kind("another site's", &subject, elsewhere, "jon"),
        Kind { name: "expired", subject: of_hold, bytes: late, from: "jon, the same again" },
        kind("deep", &subject, vec![b'['; 4000], "nobody known"),
        kind("as large as allowed", &subject, as_large_as_allowed(&good), "jon"),
        kind("300 kB", &subject, vec![b'x'; 300 * 1024], "nobody known"),
        kind("8 MB", &subject, large(8), "nobody known"),
        kind("60 MB", &subject, large(60), "nobody known"),
        kind("a question", "nett.l.rpc.osl.any.status", question, "anybody"),
        // Last: from here on it is known.
        kind("repeated", &subject, good, "jon, the same again"),
    ])
}

/// What is good, with so much in it that is not, that it is just not too large.
fn as_large_as_allowed(good: &[u8]) -> Vec<u8> {
    let good = String::from_utf8_lossy(good);
    let more = "[1,2,3],".repeat((256 * 1024 - good.len() - 32) / 8);
    good.replacen("{\"body\":{", &format!("{{\"body\":{{\"a\":[{more}1],"), 1).into_bytes()
}

impl Kind {
    fn size(&self) -> u64 {
        self.bytes[0].len() as u64
    }

    /// Messages a second.
    fn rate(&self) -> u64 {
        RATE.min(BYTES / self.size()).max(1)
    }

    /// How many of it are a flood.
    fn enough(&self) -> u64 {
        FLOOD.min(self.rate() / 4).max(2)
    }
}

/// Sends as jon until told to stop, on several connections as one program may; gives how many.
async fn flood(options: ConnectOptions, kind: &Kind, stop: &AtomicBool) -> Result<u64> {
    // Of what is large the client itself would hold a lot.
    let (count, capacity) = if kind.size() > 1024 * 1024 { (1, 1) } else { (SENDERS, 16) };
    let mut senders = Vec::new();
    for _ in 0..count {
        let options = options.clone().client_capacity(capacity);
        senders.push(options.connect(files::nats_url(SITES[0])).await?);
    }
    // Everything but the sending is done before.
    let subject = Subject::from(kind.subject.as_str());
    let to: Vec<Subject> =
        (0..RATE).map(|nth| Subject::from(format!("_INBOX.op.flood.{nth}"))).collect();
    let (begun, mut sent) = (Instant::now(), 0);
    let mut pace = tokio::time::interval(Duration::from_millis(1));
    while !stop.load(Ordering::Relaxed) {
        pace.tick().await;
        let due = 1 + begun.elapsed().as_millis() as u64 * kind.rate() / 1000;
        while sent < due && !stop.load(Ordering::Relaxed) {
            let reply = to[(sent % RATE) as usize].clone();
            let sender = &senders[(sent % count) as usize];
            let bytes = kind.bytes[sent as usize % kind.bytes.len()].clone();
            sender.publish_with_reply(subject.clone(), reply, bytes).await?;
            sent += 1;
        }
    }
    for sender in &senders {
        sender.flush().await?;
    }
    Ok(sent)
}

/// Gives commands as mira, one after the other; how long each took until it was accepted.
async fn work(client: &Client, by: &Signer, until: Instant) -> Result<Vec<Duration>> {
    let mut took = Vec::new();
    for verb in ["hold", "release"].iter().cycle() {
        if Instant::now() >= until && took.len() >= HONEST && took.len() % 2 == 0 {
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

/// How long each kind lasts.
fn long() -> Result<Duration> {
    let seconds = std::env::var("NETT_FLOOD_SECONDS").ok();
    let given = seconds.map(|n| n.parse().map(Duration::from_secs)).transpose();
    Ok(given.context("NETT_FLOOD_SECONDS is a number")?.unwrap_or(LONG))
}

/// What ninety-nine of a hundred did not exceed, in order of size.
fn p99(took: &[Duration]) -> Duration {
    took[(took.len() * 99).div_ceil(100) - 1]
}

/// Commands while nothing else comes; how long each took.
fn calm(lab: &Lab) -> Result<Vec<Duration>> {
    let (mira, by) = (options(lab, "mira")?, Signer::of(lab, "mira")?);
    at_client(lab, SITES[0], async || {
        let client = mira.connect(files::nats_url(SITES[0])).await?;
        work(&client, &by, Instant::now()).await
    })
}

/// How long commands took, in order.
fn told(name: &str, took: &mut [Duration]) -> (Duration, Duration) {
    took.sort();
    let (p99, worst) = (p99(took), took[took.len() - 1]);
    let middle = took[took.len() / 2];
    println!("{name}: {} commands, {middle:?}, p99 {p99:?}, worst {worst:?}", took.len());
    (p99, worst)
}

/// Floods with one kind while mira works; gives how long her commands took. What should not have
/// been seen goes to `wrong`.
fn one_kind(lab: &mut Lab, kind: &Kind, wrong: &mut Vec<String>) -> Result<Vec<Duration>> {
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
    let (site, by, until) = (SITES[0], Signer::of(lab, "mira")?, begun + long()?);
    let (sent, took) = std::thread::scope(|scope| {
        let flooding = scope.spawn(|| at_client(lab, site, async || flood(jon, kind, &stop).await));
        let took = at_client(lab, site, async || {
            let client = mira.connect(files::nats_url(site)).await?;
            work(&client, &by, until).await
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
    let mut hold = |well: bool, text: String| {
        if !well {
            wrong.push(format!("{}: {text}", kind.name));
        }
    };
    for (at, (node, pid)) in nodes.iter().zip(&pids).enumerate() {
        let (work, held) = used(*pid)?;
        let (work, grown) = ((work - before[at].0) / lasted, held.saturating_sub(before[at].1));
        println!("  {node}: {work:.2} of a core, {held} kB, {grown} kB more");
        hold(work < WORK, format!("{node} used {work:.2} of a core"));
        hold(grown < PEAK, format!("{node} grew by {grown} kB"));
        // A line a second, and what a dozen commands leave behind them.
        let said = lines(lab, node)? - said[at];
        let most = lasted as usize + 5 + 20 * took.len();
        hold(said < most, format!("{node} said {said} lines in {lasted:.1} s"));
    }
    for (at, (node, pid)) in nodes.iter().zip(&pids).enumerate() {
        eventually(patience(), "memory is given back", || {
            let grown = used(*pid)?.1.saturating_sub(before[at].1);
            ensure!(grown < GROWTH, "{}: {node} has grown by {grown} kB", kind.name);
            Ok(())
        })?;
    }
    hold(sent >= kind.enough(), format!("{sent} messages are no flood"));
    eventually(patience(), "status names the sender and counts", || {
        let more = turned_away_of(lab, &nodes, kind)?.saturating_sub(turned_away);
        ensure!(more >= kind.enough() / 2, "{more} of {sent} from {}", kind.from);
        Ok(())
    })?;
    Ok(took)
}

/// No task of jon's but what is good of him: one release, repeated.
fn nothing_was_done(lab: &Lab) -> Result<()> {
    let told = lab.nettctl("osl-b1", "mira", &["-o", "json", "task", "list"])?.must_be(0)?;
    let tasks = told.json()?["ok"]["tasks"].as_array().cloned().context("a list")?;
    ensure!(tasks.iter().any(|task| task["person"] == "mira"), "{tasks:?}");
    let of_jon: Vec<_> = tasks.iter().filter(|task| task["person"] == "jon").collect();
    ensure!(of_jon.len() <= 1, "{of_jon:?}");
    ensure!(of_jon.iter().all(|task| task["verb"] == "release"), "{of_jon:?}");
    Ok(())
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
    let shape = Shape::TWO;
    tell_of_wires("a_flood_of_one_login_stops_nobody_else", shape, |lab| {
        lab.set_payload("64MB");
        lab.start_nett()?;
        let traffic = Traffic::to_vips(lab, &["osl-c1"], WEB)?;
        let from = traffic.settles_on("osl")?;
        // Calm and flood by turns: what else the machine does meanwhile is in both.
        let (mut in_calm, mut took, mut wrong) = (calm(lab)?, Vec::new(), Vec::new());
        for at in 0..kinds(lab)?.len() {
            in_calm.extend(calm(lab)?);
            // Signed just before: a request is good for less than a minute.
            let kind = kinds(lab)?.swap_remove(at);
            took.extend(one_kind(lab, &kind, &mut wrong)?);
        }
        let (calm, longest) = told("calm", &mut in_calm);
        let (p99, worst) = told("flood", &mut took);
        ensure!(wrong.is_empty(), "{wrong:#?}");
        ensure!(took.len() >= 100, "{} commands are too few", took.len());
        ensure!(p99 < ANSWERED_WITHIN.max(calm * SLOWER), "p99 {p99:?}, in calm {calm:?}");
        ensure!(worst < AT_MOST.max(longest * SLOWER), "worst {worst:?}, in calm {longest:?}");
        nothing_was_done(lab)?;
        let report = traffic.finish().since(from);
        assert_eq!(report.answers_of("svg"), 0, "{}", report.summary());
        // The same person is heard again.
        let again = signed(&Signer::of(lab, "jon")?, "hold")?;
        let answer = ask(lab, SITES[0], "jon", &again)?;
        assert!(answer["refused_by"] != "too-many", "{answer}");
        Ok(())
    })
}
