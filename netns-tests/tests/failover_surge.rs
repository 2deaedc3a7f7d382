//! A narrow link, classes on it (`docs/examples/htb.sh`), and a failover that fills it: without
//! marks the bus and replication stand in the same queue, and with them they keep their share.

use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nett_netns_tests::eventually::{eventually, eventually_true};
use nett_netns_tests::lab::Lab;
use nett_netns_tests::observe::counters;
use nett_netns_tests::services::{API, EDGE, VAULT, WEB};
use nett_netns_tests::story::{Operator, TASK, Traffic, tell_from_wires};
use nett_netns_tests::topology::Site;
use nett_netns_tests::traffic::{Report, Running, Target};

const MARKED: &str = "failover = { dscp = \"AF11\", class = \"1:20\" }\n";
const ENDS: [&str; 2] = ["osl-b1", "svg-b1"];
/// What the link carries, in kilobits per second: half of the surge.
const KBIT: &str = "600";
/// Packets of replication per second.
const REPLICATION: u32 = 50;
/// How many packets of the surge each probe sends while replication is looked at.
const SURGE: usize = 8000;
/// What a round trip of replication may take beside a surge: a full packet of the bus takes 20 ms
/// in each direction, several may stand before it, and HTB takes what the bus hands over at once
/// for one packet.
const SOON: Duration = Duration::from_secs(1);

/// Counts what arrives at a border by its DSCP, in a table of somebody else. What the other border
/// sends itself does not count: it asks the service before it sends others there, without a mark,
/// and the kernel resets such a connection with the DSCP of the answer.
const WATCH: &str = "table inet watch {
    counter web { }
    counter web_other { }
    counter vault { }
    counter vault_af11 { }
    counter answers { }
    counter rest_af11 { }
    chain arrives { type filter hook prerouting priority -400
        iifname != \"wan0\" return
        ip saddr 172.31.0.0/16 return
        ip6 saddr fd00:f0::/32 return
        ip daddr 10.99.0.30 ip dscp af11 counter name web return
        ip6 daddr fd00:99::30 ip6 dscp af11 counter name web return
        ip daddr 10.99.0.30 counter name web_other return
        ip6 daddr fd00:99::30 counter name web_other return
        ip daddr 10.99.0.50 ip dscp af11 counter name vault_af11 return
        ip daddr 10.99.0.50 counter name vault return
        ip saddr 10.99.0.30 ip dscp af11 counter name answers return
        ip6 saddr fd00:99::30 ip6 dscp af11 counter name answers return
        ip dscp af11 counter name rest_af11
        ip6 dscp af11 counter name rest_af11
    }
}";

/// What came of a surge.
struct Surge {
    replication: Report,
    surge: Report,
    /// How long the other site took to know of a command, while it went on.
    told: Option<Duration>,
}

/// Only one link is left, and both ends of it have classes.
fn narrow(lab: &Lab) -> Result<()> {
    lab.cut("osl-svg-2")?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples/htb.sh");
    for end in ENDS {
        lab.ns(end)?.output("sh", &[script, "wan0", KBIT])?;
        lab.ns(end)?.nft(WATCH)?;
    }
    Ok(())
}

/// Sends what site osl has of a service that is at svg over the link, and looks at replication
/// beside it.
fn surge(lab: &Lab, asks: bool) -> Result<Surge> {
    let svg = Site::named("svg").context("a site")?;
    let replica: IpAddr = API.answers(svg)[0].parse()?;
    let traffic = Traffic::start(lab, &["osl-c1"], &WEB.vips(), 16)?;
    // The queue is full before anybody looks.
    traffic.run_for(1000)?;
    let target = Target::new(replica, REPLICATION);
    let replication = Running::start(&lab.ns("osl-c1")?, target)?;
    let told = match asks {
        false => None,
        true => {
            let mira = |node| Operator { lab, node, name: "mira" };
            let begun = Instant::now();
            let task = mira("osl-b1").complete(&["hold", EDGE.id])?;
            eventually(TASK, "the other site knows", || {
                let state = mira("svg-b1").state_of(&task)?;
                ensure!(state == "done", "{state}");
                Ok(())
            })?;
            Some(begun.elapsed())
        }
    };
    traffic.run_for(SURGE)?;
    Ok(Surge { replication: replication.finish(), surge: traffic.finish(), told })
}

/// Packets sent and dropped by a class, as tc says.
fn class(lab: &Lab, node: &str, name: &str) -> Result<[u64; 2]> {
    let text = lab.ns(node)?.output("tc", &["-s", "class", "show", "dev", "wan0"])?;
    // `class htb 1:20 parent ...`, then `Sent 7 bytes 1 pkt (dropped 0, overlimits ...`
    let rest = text.split_once(&format!("class htb {name} ")).context("no such class")?.1;
    let words: Vec<&str> = rest.split_whitespace().skip_while(|word| *word != "Sent").collect();
    let number = |at: usize| -> Result<u64> {
        let word = words.get(at).with_context(|| format!("no statistics: {text}"))?;
        Ok(word.trim_end_matches(',').parse()?)
    };
    Ok([number(3)?, number(6)?])
}

#[expect(clippy::print_stderr, reason = "a story tells what it measured")]
fn show(what: &str, lab: &Lab, surge: &Surge) -> Result<()> {
    let Surge { replication, surge, told } = surge;
    let [half, most] = [0.5, 0.99].map(|share| replication.round_trip(share));
    eprintln!(
        "{what}: replication {} of {} lost, p50 {half:?}, p99 {most:?}; surge {} of {} lost; \
         bus {told:?}; osl-b1 1:10 {:?}, 1:20 {:?} (sent, dropped)",
        replication.lost(),
        replication.sent(),
        surge.lost(),
        surge.sent(),
        class(lab, "osl-b1", "1:10")?,
        class(lab, "osl-b1", "1:20")?,
    );
    Ok(())
}

/// The name of both labs; one is gone before the other comes.
const STORY: &str = "a_surge_starves_replication_without_marks_and_leaves_it_its_share_with_them";

#[test]
fn a_surge_starves_replication_without_marks_and_leaves_it_its_share_with_them() -> Result<()> {
    tell_from_wires(STORY, |lab| {
        lab.start_nett()?;
        without_marks(lab)
    })?;
    tell_from_wires(STORY, |lab| {
        let path = lab.layout().fabric();
        let text = fs::read_to_string(&path)?;
        let line = "generation = 1\n";
        ensure!(text.contains(line), "{text}");
        fs::write(&path, text.replacen(line, &format!("{line}{MARKED}"), 1))?;
        lab.start_nett()?;
        with_marks(lab)
    })
}

fn without_marks(lab: &Lab) -> Result<()> {
    narrow(lab)?;
    let mira = Operator { lab, node: "osl-b1", name: "mira" };
    mira.complete(&["failover", WEB.id, "--to", "svg"])?;
    let measured = surge(lab, false)?;
    show("without marks", lab, &measured)?;
    let Surge { replication, .. } = measured;
    ensure!(replication.lost() * 10 > replication.sent(), "{}", replication.summary());
    ensure!(class(lab, "osl-b1", "1:20")? == [0, 0], "nothing is marked");
    let arrived = counters::named(&lab.ns("svg-b1")?, "watch")?;
    ensure!(arrived["web"] == 0 && arrived["web_other"] > 1000, "{arrived:?}");
    Ok(())
}

fn with_marks(lab: &Lab) -> Result<()> {
    narrow(lab)?;
    let mira = Operator { lab, node: "osl-b1", name: "mira" };
    at_home(lab)?;
    mira.complete(&["failover", WEB.id, "--to", "svg"])?;
    let measured = surge(lab, true)?;
    show("with marks", lab, &measured)?;
    let Surge { replication, surge, told } = measured;
    ensure!(surge.lost() * 10 > surge.sent(), "the link was not full: {}", surge.summary());
    ensure!(surge.received() > 0, "a class of its own is a share of its own");
    // None, but for a machine that stands still and then sends all of it at once.
    ensure!(replication.lost() * 50 <= replication.sent(), "{}", replication.summary());
    let slowest = replication.round_trip(0.99).context("answers")?;
    ensure!(slowest < SOON, "{slowest:?}");
    ensure!(told.is_some_and(|told| told < TASK), "{told:?}");
    who_was_marked(lab, mira)?;

    // Home again, nothing is marked any more.
    mira.complete(&["failback", WEB.id])?;
    let listed = lab.ns("osl-b1")?.output("nft", &["list", "ruleset"])?;
    let sets: Vec<&str> = listed.split("set failover_").skip(1).collect();
    ensure!(sets.len() == 6, "{listed}");
    for set in sets {
        let set = set.split('}').next().unwrap_or_default();
        ensure!(!set.contains("elements"), "{set}");
    }
    Ok(())
}

/// What crosses although everything is at home is not marked, and has no class of its own.
fn at_home(lab: &Lab) -> Result<()> {
    let vip: IpAddr = VAULT.vips()[0].parse()?;
    let crossing = Running::start(&lab.ns("osl-c1")?, Target::new(vip, REPLICATION))?;
    // One of the links was just cut, and the flow may have gone there.
    eventually_true(TASK, "packets cross", || Ok(crossing.report().answers_of("svg") > 50))?;
    crossing.finish();
    let arrived = counters::named(&lab.ns("svg-b1")?, "watch")?;
    ensure!(arrived["vault"] > 50 && arrived["vault_af11"] == 0, "{arrived:?}");
    ensure!(class(lab, "osl-b1", "1:20")? == [0, 0], "nothing has failed over");
    Ok(())
}

/// In the words of nft at both ends, of tc and of Nett.
fn who_was_marked(lab: &Lab, mira: Operator<'_>) -> Result<()> {
    let [near, far] = [lab.ns("osl-b1")?, lab.ns("svg-b1")?];
    // The queue may have to empty before all of them say the same.
    let (counted, _) = eventually(TASK, "they agree", || {
        let [sent, dropped] = class(lab, "osl-b1", "1:20")?;
        let there = counters::named(&far, "watch")?;
        ensure!(sent == there["web"] && dropped > 1000, "{sent} sent, {there:?}");
        let counted = counters::named(&near, "nett")?["marked.wan0"];
        ensure!(counted == sent + dropped, "{counted} marked, {sent} sent, {dropped} dropped");
        Ok(counted)
    })?;
    let (there, back) = (counters::named(&far, "watch")?, counters::named(&near, "watch")?);
    ensure!(there["web"] > 1000 && there["web_other"] == 0, "{there:?}");
    ensure!(back["answers"] > 1000 && back["web"] == 0, "{back:?}");
    for all in [&there, &back] {
        ensure!(all["vault_af11"] == 0 && all["rest_af11"] == 0, "{all:?}");
    }
    let [sent, dropped] = class(lab, "osl-b1", "1:10")?;
    ensure!(dropped * 50 <= sent, "of the rest {dropped} were dropped, {sent} sent");
    eventually(TASK, "the proof of separation has it", || {
        let proof = mira.run(&["-o", "json", "prove", "separation"])?.must_be(0)?.json()?;
        let rows = proof["ok"]["rows"].as_array().context("rows")?.clone();
        let of = |r: &&serde_json::Value| r["node"] == "osl-b1" && r["class"] == "marked";
        let row = rows.iter().find(of).context("a row")?;
        ensure!(row["peer"] == "svg" && row["packets"] == counted, "{row}");
        Ok(())
    })?;
    let text = mira.run(&["explain", "path", "10.1.40.2", "10.99.0.30"])?.must_be(0)?.out;
    ensure!(text.contains("as failover traffic: dscp 10 class 1:20"), "{text}");
    Ok(())
}
