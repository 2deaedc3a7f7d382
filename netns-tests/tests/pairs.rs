//! Two borders and two route nodes at each site: what one of them takes along when it goes, whether
//! both are used, and by which of them answers come back.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use nett_netns_tests::eventually::{eventually, eventually_true, patience};
use nett_netns_tests::lab::Lab;
use nett_netns_tests::netns::Netns;
use nett_netns_tests::observe::dig::dig;
use nett_netns_tests::observe::eyes::Eyes;
use nett_netns_tests::observe::monitor::Monitor;
use nett_netns_tests::services::{API, Service, VAULT, WEB};
use nett_netns_tests::story::{Operator, Traffic, tell_of};
use nett_netns_tests::topology::{SITES, Shape, VIP_RANGES};
use nett_netns_tests::traffic::{Report, now};

/// A dead route node is the matter of BIRD, whose BFD is given a second, so that a busy machine is
/// no dead router.
const DETECTED: Duration = Duration::from_millis(2500);

/// A dead border is Nett's, which notices after three unanswered questions, a tenth of a second
/// apart, and then changes groups: 350 ms. Three times that, for a busy machine.
const NOTICED: Duration = Duration::from_millis(1000);

/// The most until the route nodes have left a border that lost its links: it tells them over the
/// bus. Usually a fifth of it; the number of lost packets is shown.
const LEFT: Duration = Duration::from_secs(1);

/// The most packets that the return of a border's links may cost, beside much other work; none
/// otherwise.
const RETURN: usize = 50;

const FLOWS: usize = 64;

fn towards_vips(from: &str, to: &str) -> String {
    let [v4, _] = VIP_RANGES;
    format!("iifname \"{from}\" oifname \"{to}\" ip daddr {v4}")
}

fn after(report: &Report, moment: u64, delay: Duration) -> Report {
    report.since(moment + u64::try_from(delay.as_nanos()).expect("short"))
}

/// Powers a node off under traffic; what is sent later than detection takes is not lost, neither of
/// the old flows nor of new ones.
///
/// A connected IPv6 socket keeps its way when a gateway of its own host loses carrier (seen with
/// Linux 6.18; IPv4 ones change), so old flows count for `families` only.
fn a_dead_node_is_passed_by(
    lab: &mut Lab,
    node: &str,
    families: usize,
    noticed: Duration,
) -> Result<()> {
    let hosts = ["osl-c1"];
    let traffic = Traffic::start(lab, &hosts, &VAULT.vips(), FLOWS)?;
    traffic.settles_on("svg")?;
    let going = now();
    lab.power_off(node)?;
    let died = now();
    traffic.run_for(noticed.as_millis() as usize)?;
    let fresh = Traffic::start(lab, &hosts, &VAULT.vips(), FLOWS)?;
    fresh.run_for(1500)?;
    let (fresh, each) = (fresh.finish(), traffic.finish_each());
    let old = Report::joined(each.into_iter().take(families));
    let lost = old.between(going, now()).lost();
    let last = Duration::from_nanos(old.last_lost().unwrap_or(died).saturating_sub(died));
    show(&format!("{node} off: {lost} lost of {FLOWS} flows, the last one {last:?} afterwards"));
    assert_eq!(fresh.lost(), 0, "new flows: {}", fresh.summary());
    let later = after(&old, died, noticed);
    assert_eq!(later.lost(), 0, "old flows: {}", later.summary());
    ensure!(later.answers_of("svg") > 500, "the measurement saw nothing");
    Ok(())
}

#[test]
fn a_route_node_of_the_serving_site_dies() -> Result<()> {
    tell_of("a_route_node_of_the_serving_site_dies", Shape::PAIRS, |lab| {
        a_dead_node_is_passed_by(lab, "svg-r1", 2, DETECTED)
    })
}

#[test]
fn a_route_node_of_the_clients_site_dies() -> Result<()> {
    tell_of("a_route_node_of_the_clients_site_dies", Shape::PAIRS, |lab| {
        a_dead_node_is_passed_by(lab, "osl-r1", 1, DETECTED)
    })
}

/// Sets it when it goes, also in a panic.
struct Sets<'a>(&'a AtomicBool);

impl Drop for Sets<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Asks name servers of the other borders until `over`, each from a host of its site; how often.
fn asked(servers: &[(Netns, IpAddr)], over: &AtomicBool) -> Result<usize> {
    let mut count = 0;
    while !over.load(Ordering::Relaxed) {
        for (from, server) in servers {
            let answer = dig(from, *server, &API.dns_name(), "A")?;
            ensure!(answer.status == "NOERROR", "{server}: {answer:?}");
            ensure!(answer.data == [API.answers(SITES[0])[0].clone()], "{server}: {answer:?}");
            count += 1;
        }
    }
    Ok(count)
}

/// The others' name servers go on saying what they said: the site serves.
#[test]
fn a_border_dies() -> Result<()> {
    tell_of("a_border_dies", Shape::PAIRS, |lab| {
        let [osl, svg] = SITES;
        let mut servers = Vec::new();
        for (site, border) in [(osl, 2), (svg, 1), (svg, 2)] {
            servers.push((lab.ns(&site.client())?, site.border_core(border)[0].parse()?));
        }
        let over = AtomicBool::new(false);
        let asked = std::thread::scope(|scope| {
            let asking = scope.spawn(|| asked(&servers, &over));
            let ends = Sets(&over);
            a_dead_node_is_passed_by(lab, "osl-b1", 2, NOTICED)?;
            drop(ends);
            asking.join().expect("no panic")
        })?;
        // A round before it and two after it, on a slow machine.
        ensure!(asked >= 9, "name servers were asked {asked} times only");
        let shown = lab.nettctl("osl-r2", "mira", &["node", "show", "osl-r2"])?.must_be(0)?.out;
        assert!(shown.contains("neighbour osl-b1 does not answer"), "{shown}");
        Ok(())
    })
}

/// What the other site's name server says of the sites of a service.
fn states_of(lab: &Lab, service: Service) -> Result<String> {
    let server = SITES[1].border_core(1)[0].parse()?;
    Ok(dig(&lab.ns("svg-c1")?, server, &service.dns_name(), "TXT")?.data.join(" "))
}

/// At a border of the other site the route that hosts' packets take is changed twice for each VIP:
/// there is no way any more, and, by the command, the way into the own site.
fn withdrawn_once(events: &[(u64, String)]) {
    for vip in WEB.vips() {
        let of = |line: &&String| line.contains(&format!("{vip} ")) && line.contains("table 7000 ");
        let seen: Vec<&String> = events.iter().map(|(_, line)| line).filter(of).collect();
        let away: Vec<bool> = seen.iter().map(|line| line.starts_with("blackhole ")).collect();
        assert_eq!(away, [true, false], "{vip}: {seen:#?}");
    }
}

/// The site is alive inside: it goes on for itself, sends nothing astray, and the other one takes
/// its service by an operator's word for the nodes that do not answer.
#[test]
fn a_site_without_borders_serves_itself_and_the_other_takes_over() -> Result<()> {
    tell_of("a_site_without_borders_serves_itself_and_the_other_takes_over", Shape::PAIRS, |lab| {
        let leaks = lab.leaks()?;
        let inside = Traffic::start(lab, &["osl-c1"], &WEB.vips(), 8)?;
        let outside = Traffic::start(lab, &["svg-c1"], &WEB.vips(), 8)?;
        inside.settles_on("osl")?;
        outside.settles_on("osl")?;
        let log = lab.layout().log("withdrawals");
        let seen = Monitor::timed(&lab.ns("svg-b1")?, log)?;
        for border in ["osl-b1", "osl-b2"] {
            lab.power_off(border)?;
        }
        let died = now();
        let astray = Traffic::start(lab, &["osl-c1"], &VAULT.vips(), 8)?;
        astray.run_for(500)?;
        assert_eq!(astray.finish().received(), 0, "there is no way to svg");
        ensure!(!states_of(lab, WEB)?.contains("site=svg state=active"), "nobody moved it");
        let mira = Operator { lab, node: "svg-b1", name: "mira" };
        // Nobody is taken to be off because of a second of silence: the operator names them.
        let command = ["failover", WEB.id, "--to", "svg", "--fencing", "asserted"];
        let told = mira.order(&command)?.must_be(2)?;
        ensure!(told.err.contains("--off NODE"), "{}", told.err);
        let off = ["--off", "osl-b1", "--off", "osl-b2", "--off", "osl-r1", "--off", "osl-r2"];
        mira.complete(&[&command[..], &off[..]].concat())?;
        outside.settles_on("svg")?;
        withdrawn_once(&seen.finish_timed()?);
        let text = states_of(lab, WEB)?;
        ensure!(text.contains("site=svg state=active"), "{text}");
        ensure!(!text.contains("site=osl state=active"), "{text}");
        inside.run_for(300)?;
        let inside = inside.finish().since(died);
        assert_eq!((inside.lost(), inside.answers_of("svg")), (0, 0), "{}", inside.summary());
        assert_eq!(lab.leaks()?.since(&leaks).total(), 0);
        Ok(())
    })
}

#[test]
fn route_nodes_and_borders_share_the_load() -> Result<()> {
    tell_of("route_nodes_and_borders_share_the_load", Shape::PAIRS, |lab| {
        let mut eyes = Vec::new();
        for node in ["osl-b1", "osl-b2"] {
            let seen = ("out", format!("iifname \"core\" ip daddr {}", VIP_RANGES[0]));
            eyes.push(Eyes::open(&lab.ns(node)?, &[seen], None)?);
        }
        for node in ["svg-r1", "svg-r2"] {
            let seen = ("out", towards_vips("up", "lan"));
            eyes.push(Eyes::open(&lab.ns(node)?, &[seen], None)?);
        }
        let traffic = Traffic::start(lab, &["osl-c1"], &VAULT.vips()[..1], FLOWS)?;
        traffic.run_for(1000)?;
        let report = traffic.finish();
        assert_eq!(report.lost(), 0, "{}", report.summary());
        let counts = eyes.iter().map(|e| e.count("out")).collect::<Result<Vec<u64>>>()?;
        show(&format!("packets by osl-b1, osl-b2, svg-r1, svg-r2: {counts:?}"));
        for pair in counts.chunks(2) {
            let share = pair[0] * 100 / (pair[0] + pair[1]).max(1);
            assert!((20..=80).contains(&share), "{counts:?}");
        }
        Ok(())
    })
}

/// A border that loses its links says so, and the route nodes leave it; until they have, it answers
/// with an error and never hands a packet to the other border. When the links are back it is used
/// again, which costs nothing where both ends can work in time.
#[test]
fn a_border_without_links_is_left_and_never_passes_on() -> Result<()> {
    tell_of("a_border_without_links_is_left_and_never_passes_on", Shape::PAIRS, |lab| {
        let between = [("back", towards_vips("core", "core"))];
        let eyes = [
            Eyes::open(&lab.ns("osl-b1")?, &between, None)?,
            Eyes::open(&lab.ns("osl-b2")?, &between, None)?,
        ];
        let leaks = lab.leaks()?;
        let traffic = Traffic::start(lab, &["osl-c1"], &VAULT.vips(), FLOWS)?;
        traffic.settles_on("svg")?;
        lab.cut("osl-svg-1")?;
        lab.cut("osl-svg-3")?;
        let cut = now();
        traffic.run_for(2000)?;
        let restored = now();
        let border = lab.ns("osl-b1")?;
        let group = border.ip("route show 10.99.0.50 table 7000")?;
        assert!(group.contains("blackhole"), "{group}");

        lab.restore("osl-svg-1")?;
        lab.restore("osl-svg-3")?;
        let route_node = lab.ns("osl-r1")?;
        eventually_true(patience(), "osl-b1 is used again", || {
            let target = route_node.ip("-d route show 10.99.0.50 table 7000")?;
            let id = target.split_whitespace().skip_while(|w| *w != "nhid").nth(1);
            let Some(id) = id else { return Ok(false) };
            Ok(route_node.ip(&format!("nexthop show id {id}"))?.contains('/'))
        })?;
        let back = traffic.settles_on("svg")?;
        traffic.run_for(500)?;
        let whole = traffic.finish();
        let returning = whole.between(restored, back);
        show(&format!("b1 with links again: {} lost until it was in use", returning.lost()));
        assert!(returning.lost() <= RETURN, "{}", returning.summary());
        let later = whole.since(back);
        assert_eq!(later.lost(), 0, "{}", later.summary());
        let without = whole.between(cut, restored);
        show(&format!("b1 without links: {} lost until it was left", without.lost()));
        let later = after(&without, cut, LEFT);
        assert_eq!(later.lost(), 0, "{}", later.summary());
        for eye in &eyes {
            assert_eq!(eye.count("back")?, 0, "a border sent to the other one");
        }
        assert_eq!(lab.leaks()?.since(&leaks).total(), 0);
        Ok(())
    })
}

/// Outside clients come in over one border's uplink, whichever, and their answers leave by it.
#[test]
fn answers_leave_by_the_border_that_delivered_the_flow() -> Result<()> {
    tell_of("answers_leave_by_the_border_that_delivered_the_flow", Shape::PAIRS, |lab| {
        let mut eyes = Vec::new();
        let answers = [("answers", format!("oifname \"up0\" ip saddr {}", VIP_RANGES[0]))];
        for node in ["osl-b1", "osl-b2", "svg-b1", "svg-b2"] {
            eyes.push(Eyes::open(&lab.ns(node)?, &answers, None)?);
        }
        let counts = || eyes.iter().map(|e| e.count("answers")).collect::<Result<Vec<u64>>>();
        for border in [1u8, 2] {
            lab.route_vips_over_border(SITES[0], border)?;
            for service in [WEB, VAULT] {
                let before = counts()?;
                let traffic = Traffic::start(lab, &["outside"], &service.vips(), FLOWS)?;
                traffic.run_for(500)?;
                let report = traffic.finish();
                assert_eq!(report.lost(), 0, "{}: {}", service.id, report.summary());
                let (came, _) = eventually(patience(), "answers are counted", || {
                    let now = counts()?;
                    let came = now.iter().zip(&before).map(|(n, b)| n - b).collect::<Vec<u64>>();
                    ensure!(came.iter().sum::<u64>() >= 500, "{came:?}");
                    Ok(came)
                })?;
                show(&format!("over osl-b{border} to {}: answers by border {came:?}", service.id));
                let own = usize::from(border - 1);
                assert_eq!(came[own], came.iter().sum::<u64>(), "{came:?}");
            }
        }
        Ok(())
    })
}

/// A drain of a border, a link or a route node, and its end, under traffic of the other site's
/// service in both directions. Everything is answered, and what was drained carries nothing more.
fn drained_without_loss(lab: &Lab, object: [&str; 2], watch: (&str, &str)) -> Result<()> {
    let mira = Operator { lab, node: "osl-b2", name: "mira" };
    let [kind, id] = object;
    let (node, interface) = watch;
    let both = format!("iifname \"{interface}\" ip daddr {}", VIP_RANGES[0]);
    let out = format!("oifname \"{interface}\" ip daddr {}", VIP_RANGES[0]);
    let eyes = Eyes::open(&lab.ns(node)?, &[("in", both), ("out", out)], None)?;
    // What hosts send out by a route node is theirs to move; what comes in for them is Nett's.
    let from_hosts = interface == "up";
    let carried = || -> Result<u64> {
        Ok(eyes.count("in")? + if from_hosts { 0 } else { eyes.count("out")? })
    };
    let traffic = [
        Traffic::start(lab, &["osl-c1"], &VAULT.vips(), FLOWS)?,
        Traffic::start(lab, &["svg-c1"], &WEB.vips(), FLOWS)?,
    ];
    let send = |packets| traffic.iter().try_for_each(|t| t.run_for(packets));
    send(300)?;
    ensure!(carried()? > 50, "{node} carries nothing before the drain: the instrument is blind");
    mira.complete(&["drain", kind, id])?;
    send(200)?;
    let drained = carried()?;
    send(500)?;
    let after = carried()? - drained;
    mira.complete(&["undrain", kind, id])?;
    send(200)?;
    let back = carried()?;
    send(500)?;
    let returned = carried()? - back;
    show(&format!("drain {kind} {id}: {after} packets over {node} {interface} while drained"));
    for (each, server) in traffic.into_iter().zip(["svg", "osl"]) {
        let report = each.finish();
        assert_eq!(report.lost(), 0, "{kind} {id}: {}", report.summary());
        assert_eq!(report.answers_of(server), report.sent(), "{}", report.summary());
    }
    assert_eq!(after, 0, "what is drained still carries");
    ensure!(returned > 50, "it is not used again: {returned}");
    Ok(())
}

#[test]
fn borders_links_and_route_nodes_are_drained_without_loss() -> Result<()> {
    tell_of("borders_links_and_route_nodes_are_drained_without_loss", Shape::PAIRS, |lab| {
        let leaks = lab.leaks()?;
        drained_without_loss(lab, ["node", "osl-b1"], ("osl-b1", "core"))?;
        drained_without_loss(lab, ["link", "osl-svg-1"], ("svg-b1", "wan0"))?;
        drained_without_loss(lab, ["node", "svg-r1"], ("svg-r1", "up"))?;
        assert_eq!(lab.leaks()?.since(&leaks).total(), 0);
        Ok(())
    })
}

/// The rule that keeps one in service, its hint as said, and what it takes to pass over it.
#[test]
fn the_last_of_a_kind_is_not_drained() -> Result<()> {
    tell_of("the_last_of_a_kind_is_not_drained", Shape::PAIRS, |lab| {
        let mira = Operator { lab, node: "osl-b1", name: "mira" };
        mira.complete(&["drain", "node", "osl-b1"])?;
        mira.complete(&["drain", "node", "svg-r2"])?;
        let refused = |object: [&str; 2], rule: &str| -> Result<()> {
            let told = mira.order(&[&["drain"], &object[..]].concat())?.must_be(4)?;
            let text = format!("{}{}", told.out, told.err);
            ensure!(text.contains(&format!("--override {rule}")), "{text}");
            Ok(())
        };
        refused(["node", "osl-b2"], "last-border")?;
        refused(["node", "svg-r1"], "last-route-node")?;
        mira.complete(&["drain", "link", "osl-svg-2"])?;
        refused(["link", "osl-svg-4"], "last-link")?;
        // What is passed over by name waits for somebody else, and is still no wall.
        let traffic = Traffic::start(lab, &["osl-c1"], &VAULT.vips(), FLOWS)?;
        let jon = Operator { name: "jon", ..mira };
        let task = mira.propose(&["drain", "link", "osl-svg-4", "--override", "last-link"])?;
        jon.approve(&task)?;
        mira.wait_for(&task, "done")?;
        traffic.run_for(500)?;
        let report = traffic.finish();
        assert_eq!(report.lost(), 0, "{}", report.summary());
        // A border that is away counts as none.
        mira.complete(&["undrain", "node", "osl-b1"])?;
        lab.power_off("osl-b2")?;
        let mira = Operator { lab, node: "osl-r1", name: "mira" };
        eventually(patience() * 3, "the rule knows that osl-b2 is away", || {
            let told = mira.order(&["plan", "drain", "node", "osl-b1"])?.must_be(4)?;
            let text = format!("{}{}", told.out, told.err);
            ensure!(text.contains("osl-b2 has not been heard"), "{text}");
            Ok(())
        })?;
        Ok(())
    })
}

/// Flows to a route node that stays are untouched when the other is drained; when that returns, it
/// takes about half of them.
#[test]
fn flows_of_the_one_that_stays_do_not_move() -> Result<()> {
    tell_of("flows_of_the_one_that_stays_do_not_move", Shape::PAIRS, |lab| {
        let mira = Operator { lab, node: "svg-b1", name: "mira" };
        let eyes = [
            Eyes::open(&lab.ns("svg-r1")?, &[], Some("up"))?,
            Eyes::open(&lab.ns("svg-r2")?, &[], Some("up"))?,
        ];
        let traffic = Traffic::start(lab, &["osl-c1"], &VAULT.vips()[..1], 256)?;
        let seen = || -> Result<[std::collections::BTreeSet<u64>; 2]> {
            for eye in &eyes {
                eye.forget()?;
            }
            traffic.run_for(1000)?;
            Ok([eyes[0].flows()?, eyes[1].flows()?])
        };
        let [one, two] = seen()?;
        assert_eq!(one.len() + two.len(), 256, "each flow has one way");
        mira.complete(&["drain", "node", "svg-r1"])?;
        traffic.run_for(100)?;
        let [none, all] = seen()?;
        assert!(none.is_empty(), "{} flows are left on the drained one", none.len());
        let moved = two.difference(&all).count();
        show(&format!("of 256 flows {} stayed, {moved} of them moved", two.len()));
        assert_eq!((moved, all.len()), (0, 256));
        let report = traffic.finish();
        assert_eq!(report.lost(), 0, "{}", report.summary());
        Ok(())
    })
}

#[expect(clippy::print_stderr, reason = "a story tells what it measured")]
fn show(line: &str) {
    eprintln!("{line}");
}
