//! A wire on which packets come late, tremble, overtake each other and come twice (`wire/relay.py`
//! passes its frames): as long as the gaps stay below the detection time the link is up, and no
//! round trip is told that is shorter than the wire.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nett_netns_tests::eventually::{eventually, eventually_true, patience};
use nett_netns_tests::lab::Lab;
use nett_netns_tests::netns::Netns;
use nett_netns_tests::observe::http::metric;
use nett_netns_tests::process::Spec;
use nett_netns_tests::story::{TASK, tell_from_wires};
use nett_netns_tests::topology::{LINKS, OUTSIDE};

const ENDS: [&str; 2] = ["osl-b1", "svg-b1"];
const WAN: &str = "wan0";
const LINK: &str = "osl-svg-1";
/// For how long each kind of trouble lasts: twenty BFD packets of each session and more.
const LASTS: Duration = Duration::from_secs(8);
/// The wire in each direction, before anything is wrong with it.
const WIRE: Duration = Duration::from_millis(100);

fn up(ns: &Netns) -> Result<bool> {
    Ok(metric(ns, &format!("nett_link_up{{link=\"{LINK}\"}} "))? == Some(1.0))
}

fn downs(lab: &Lab) -> Result<f64> {
    let name = format!("nett_bfd_transitions_total{{link=\"{LINK}\",to=\"down\"}} ");
    let of = |end| -> Result<f64> { Ok(metric(&lab.ns(end)?, &name)?.unwrap_or(0.0)) };
    Ok(of(ENDS[0])? + of(ENDS[1])?)
}

/// What both ends tell of the round trip, where they have told anything.
fn round_trips(lab: &Lab) -> Result<Vec<f64>> {
    let name = format!("nett_link_rtt_seconds{{link=\"{LINK}\"}} ");
    let told = ENDS.map(|end| metric(&lab.ns(end)?, &name));
    told.into_iter().filter_map(Result::transpose).collect()
}

/// Whether the sessions of this link are up and believed at both ends.
fn proven(lab: &Lab) -> Result<()> {
    for end in ENDS {
        let told = lab.nettctl(end, "mira", &["-o", "json", "link", "list"])?.must_be(0)?.json()?;
        let links = told["ok"]["links"].as_array().context("links")?;
        let link = links.iter().find(|l| l["id"] == LINK).context("the link")?;
        let own = ["a", "b"].map(|side| &link[side]).into_iter().find(|side| side["node"] == end);
        let sessions = own.context("this end")?["bfd"].as_array().cloned().unwrap_or_default();
        let good = sessions.iter().filter(|s| s["belief"] == "proven").count();
        ensure!(good == 2, "{end}: {sessions:?}");
    }
    Ok(())
}

/// A wire in the middle of the link, with a handle on what it does to packets.
struct Wire {
    control: PathBuf,
}

impl Wire {
    /// Takes the link apart and puts it together by way of somebody who passes its frames on.
    fn lay(lab: &mut Lab) -> Result<Self> {
        let middle = lab.ns(OUTSIDE)?;
        lab.ns(ENDS[0])?.ip(&format!("link del {WAN}"))?;
        for (nth, (end, (_, addresses))) in ENDS.iter().zip(LINKS[0].ends).enumerate() {
            let border = lab.ns(end)?;
            let far = middle.name();
            border.ip(&format!("link add {WAN} type veth peer name r{nth} netns {far}"))?;
            // Nobody but the ends speaks on it.
            middle.ip(&format!("link set r{nth} addrgenmode none"))?;
            middle.ip(&format!("link set r{nth} up"))?;
            border.ip(&format!("link set {WAN} up"))?;
            for address in addresses {
                border.ip(&format!("address add {address} dev {WAN}"))?;
            }
        }
        let control = lab.layout().host(OUTSIDE).join("wire");
        fs::create_dir_all(control.parent().context("a directory")?)?;
        let wire = Self { control };
        wire.set(WIRE, Duration::ZERO, 0)?;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wire/relay.py");
        let control = wire.control.display().to_string();
        let spec = Spec {
            name: "wire".to_owned(),
            program: "python3".into(),
            args: [script, &control, "r0", "r1"].map(str::to_owned).to_vec(),
            env: Vec::new(),
            log: lab.layout().log("wire"),
        };
        lab.start_process(OUTSIDE, spec)?;
        Ok(wire)
    }

    fn set(&self, delay: Duration, jitter: Duration, doubled_percent: u32) -> Result<()> {
        let [delay, jitter] = [delay, jitter].map(|time| time.as_millis());
        let new = self.control.with_extension("next");
        fs::write(&new, format!("{delay} {jitter} {doubled_percent}\n"))?;
        Ok(fs::rename(new, &self.control)?)
    }

    /// BFD packets that were passed on, that were overtaken, and that came twice.
    fn told(&self) -> Result<[u64; 3]> {
        let text = fs::read_to_string(self.control.with_extension("told"))?;
        let numbers: Vec<u64> = text.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        numbers.try_into().ok().with_context(|| format!("three numbers in {text}"))
    }
}

/// For a while the link is up at both ends, nothing was down in between, and no round trip is told
/// that is shorter than the wire was at any time.
fn stays(lab: &Lab, what: &str) -> Result<()> {
    let before = downs(lab)?;
    let until = Instant::now() + LASTS;
    while Instant::now() < until {
        for end in ENDS {
            ensure!(up(&lab.ns(end)?)?, "{what}: {end} has left the link");
        }
        let told = round_trips(lab)?;
        ensure!(told.iter().all(|rtt| *rtt >= 2.0 * WIRE.as_secs_f64()), "{what}: {told:?}");
        // The relay needs a processor too: a pace, not a wait for anything.
        std::thread::sleep(Duration::from_millis(50));
    }
    let after = downs(lab)?;
    ensure!(after == before, "{what}: {} sessions went down", after - before);
    eventually(patience(), "both are proven", || proven(lab)).map(drop)
}

#[expect(clippy::print_stderr, reason = "a story tells what it measured")]
fn show(what: &str, [passed, turned, doubled]: [u64; 3]) {
    eprintln!("{what}: {passed} BFD packets passed, {turned} overtaken, {doubled} doubled");
}

/// Row 21 of the faults.
#[test]
fn late_trembling_turned_and_doubled_packets_take_no_link_down() -> Result<()> {
    tell_from_wires("late_trembling_turned_and_doubled_packets_take_no_link_down", |lab| {
        // Before anybody measures: a round trip is told anew once a minute at most.
        let wire = Wire::lay(lab)?;
        lab.start_nett()?;
        let lab = &*lab;
        eventually(patience() * 3, "the sessions are up over the wire", || proven(lab))?;
        let told = || Ok(round_trips(lab)?.len() == 2);
        eventually_true(TASK * 4, "both ends tell a round trip", told)?;
        let first = round_trips(lab)?;
        let most = 2.0 * WIRE.as_secs_f64() + 0.1;
        ensure!(first.iter().all(|rtt| *rtt < most), "{first:?}");
        stays(lab, "calm")?;

        let ms = Duration::from_millis;
        // A packet each 300 ms and 900 ms until the link is given up: what comes up to 500 ms
        // later than the one before it is in time, and the relay may be a little late itself.
        wire.set(WIRE + ms(300), Duration::ZERO, 0)?;
        stays(lab, "300 ms later at once")?;
        wire.set(WIRE, Duration::ZERO, 0)?;
        stays(lab, "and back, which turns packets around")?;
        wire.set(WIRE, ms(350), 0)?;
        stays(lab, "trembling")?;
        let before = wire.told()?;
        wire.set(WIRE, ms(350), 50)?;
        stays(lab, "trembling, half of it twice")?;
        let after = wire.told()?;
        show("the wire", after);
        ensure!(after[1] > 5, "nothing was turned around: {after:?}");
        ensure!(after[2] > before[2] + 20, "nothing came twice: {after:?}");

        // The instrument can do harm: what is later than the limit is a link that is dead so long.
        let before = downs(lab)?;
        wire.set(ms(2000), Duration::ZERO, 0)?;
        eventually_true(TASK, "a longer gap is noticed", || Ok(downs(lab)? > before))?;
        wire.set(WIRE, Duration::ZERO, 0)?;
        eventually(TASK * 2, "and is over", || proven(lab))?;
        Ok(())
    })
}
