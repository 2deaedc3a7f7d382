//! Both agents of a site are killed and stay dead: its kernels go on as they are, its leases end in
//! them, the others' name servers go on listing it; and a start finds nothing to do.
//!
//! Dead for a quarter of a minute in `make test`; `make dead MINUTES=10` for longer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use nett_netns_tests::eventually::{eventually, patience};
use nett_netns_tests::files::Node;
use nett_netns_tests::lab::{Lab, agent_name};
use nett_netns_tests::netns::Netns;
use nett_netns_tests::observe::dig::dig;
use nett_netns_tests::observe::kernel::Kernel;
use nett_netns_tests::observe::monitor::Monitor;
use nett_netns_tests::services::{API, LEDGER, Service, VAULT, WEB};
use nett_netns_tests::story::{TASK, tell_of};
use nett_netns_tests::topology::{SITES, Shape};
use nett_netns_tests::traffic::{Report, Running, Target, now};

/// Packets per second of each probe: minutes of them are to cost little.
const RATE: u32 = 100;
/// The labs' lease, and what its round and the kernel's timer take.
const LEASE: Duration = Duration::from_secs(6 + 1);

fn dead_for() -> Duration {
    let seconds = std::env::var("NETT_DEAD_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(15))
}

/// One flow per family from each host.
fn probes(lab: &Lab, hosts: &[&str], service: Service) -> Result<Vec<Running>> {
    let mut probes = Vec::new();
    for host in hosts {
        for address in service.vips() {
            let target = Target::new(address.parse::<IpAddr>()?, RATE);
            probes.push(Running::start(&lab.ns(host)?, target)?);
        }
    }
    Ok(probes)
}

fn so_far(probes: &[Running]) -> Report {
    Report::joined(probes.iter().map(Running::report))
}

/// What a name server of another site says of services whose primary is dead.
fn lists_it(lab: &Lab) -> Result<()> {
    let [osl, svg] = SITES;
    let server: IpAddr = svg.border_core(1)[0].parse()?;
    let ns = lab.ns(&svg.client())?;
    let answer = dig(&ns, server, &API.dns_name(), "A")?;
    ensure!(answer.data == [API.answers(osl)[0].clone()], "{answer:?}");
    let text = dig(&ns, server, &WEB.dns_name(), "TXT")?.data.join(" ");
    let of_osl = text.split("site=").find(|part| part.starts_with("osl "));
    ensure!(of_osl.is_some_and(|part| part.contains("state=active")), "{text}");
    Ok(())
}

/// Waits until the holder serves what it has a lease of.
fn serves(leased: &[Running]) -> Result<()> {
    let (_, took) = eventually(TASK * 2, "the lease is held", || {
        let from = now() - Duration::from_millis(500).as_nanos() as u64;
        let to = now() - Duration::from_millis(50).as_nanos() as u64;
        let seen = so_far(leased).between(from, to);
        ensure!(seen.sent() > 20 && seen.answers_of("osl") == seen.sent(), "{}", seen.summary());
        Ok(())
    })?;
    show(&format!("the lease is held after {took:?}"));
    Ok(())
}

#[test]
fn a_site_whose_agents_are_dead_goes_on_and_its_leases_do_not() -> Result<()> {
    let name = "a_site_whose_agents_are_dead_goes_on_and_its_leases_do_not";
    tell_of(name, Shape::THREE, |lab| {
        let hosts = ["osl-c1", "svg-c1", "outside"];
        let home = probes(lab, &hosts, WEB)?;
        let away = probes(lab, &["osl-c1"], VAULT)?;
        let leased = probes(lab, &["osl-c1", "svg-c1"], LEDGER)?;
        serves(&leased)?;
        let leaks = lab.leaks()?;
        let nodes: Vec<String> = Node::of_site(SITES[0]).into_iter().map(|n| n.name).collect();
        let mut watched = Vec::new();
        for node in &nodes {
            let ns = lab.ns(node)?;
            let log = lab.layout().log(&format!("changes-{node}"));
            watched.push((node, Kernel::of(&ns)?, Nexthops::of(&ns)?, Monitor::start(&ns, log)?));
        }

        let killed = now();
        for node in &nodes {
            lab.take_process(&agent_name(node))?.kill();
        }
        let long = dead_for();
        let goal = home[0].sent() + long.as_secs() as usize * RATE as usize;
        eventually(long * 2 + patience(), "it is dead for so long", || {
            ensure!(home[0].sent() >= goal);
            Ok(())
        })?;
        lists_it(lab)?;
        let kept: u64 = killed + LEASE.as_nanos() as u64;
        let late = so_far(&leased).since(kept);
        ensure!(late.sent() > 0 && late.received() == 0, "a lease lasts: {}", late.summary());
        for (node, whole, ..) in &watched {
            // The gate's slots end by themselves.
            let mut changes = whole.changes(&Kernel::of(&lab.ns(node)?)?);
            changes.retain(|line| !line.contains("nett_lease"));
            assert_eq!(changes, Vec::<String>::new(), "{node}");
        }

        for node in &nodes {
            lab.start_agent(node)?;
        }
        for node in &nodes {
            lab.wait_for_agent(node)?;
        }
        serves(&leased)?;
        lists_it(lab)?;
        for (node, whole, nexthops, monitor) in watched {
            let mut changes = whole.changes(&Kernel::of(&lab.ns(node)?)?);
            changes.retain(|line| !line.contains("nett_lease"));
            assert_eq!(changes, Vec::<String>::new(), "{node}");
            let events = nexthops.of_others(monitor.finish()?);
            assert_eq!(events, Vec::<String>::new(), "{node}");
        }
        for (what, probes) in [("at the site", home), ("at another one", away)] {
            let report = Report::joined(probes.into_iter().map(Running::finish));
            show(&format!("dead for {long:?}, what is served {what}: {}", report.summary()));
            assert_eq!(report.lost(), 0, "{}", report.summary());
        }
        let report = Report::joined(leased.into_iter().map(Running::finish)).since(killed);
        let (sent, received) = (report.sent(), report.received());
        show(&format!("of {sent} packets to what is leased {received} were answered"));
        ensure!(report.answers_of("osl") == report.received(), "{}", report.summary());
        assert_eq!(lab.leaks()?.since(&leaks).total(), 0);
        Ok(())
    })
}

/// The nexthops of a node that routes of ours are on, by what the routes are for.
struct Nexthops {
    /// What the routes to the leased service are on and no other route is.
    leased: BTreeSet<String>,
    /// What any other route is on.
    others: BTreeSet<String>,
}

impl Nexthops {
    fn of(ns: &Netns) -> Result<Self> {
        let mut members = BTreeMap::new();
        for line in ns.ip("nexthop show")?.lines() {
            members.insert(word_after(line, "id").unwrap_or_default(), members_of(line));
        }
        let mut sets = [BTreeSet::new(), BTreeSet::new()];
        let routes = ["-4 route show table all", "-6 route show table all"];
        for line in routes.map(|look| ns.ip(look)).into_iter().collect::<Result<String>>()?.lines()
        {
            let Some(id) = word_after(line, "nhid") else { continue };
            let set = &mut sets[usize::from(!is_to_the_leased(line))];
            set.extend(members.get(&id).into_iter().flatten().cloned());
            set.insert(id);
        }
        let [leased, others] = sets;
        ensure!(!others.is_empty(), "routes are on nexthops");
        Ok(Self { leased: leased.difference(&others).cloned().collect(), others })
    }

    /// The events of something else than the lease: an agent that hears the voters late begins
    /// without it, so its routes and what they alone are on may change.
    fn of_others(&self, events: Vec<String>) -> Vec<String> {
        let mut leased = self.leased.clone();
        for line in events.iter().filter(|line| is_to_the_leased(line)) {
            leased.extend(word_after(line, "nhid"));
        }
        for line in &events {
            if word_after(line, "id").is_some_and(|id| leased.contains(&id)) {
                leased.extend(members_of(line));
            }
        }
        leased.retain(|id| !self.others.contains(id));
        let is_of_it = |line: &String| match word_after(line, "id") {
            Some(id) => leased.contains(&id),
            None => is_to_the_leased(line),
        };
        events.into_iter().filter(|line| !is_of_it(line)).collect()
    }
}

fn is_to_the_leased(line: &str) -> bool {
    line.split_whitespace().any(|word| LEDGER.vips().iter().any(|vip| word == vip))
}

fn word_after(line: &str, name: &str) -> Option<String> {
    line.split_whitespace().skip_while(|word| *word != name).nth(1).map(str::to_owned)
}

/// The ids in `id 9 group 1,3/2`.
fn members_of(line: &str) -> Vec<String> {
    let members = word_after(line, "group").unwrap_or_default();
    let id = |member: &str| member.split(',').next().unwrap_or_default().to_owned();
    members.split('/').filter(|member| !member.is_empty()).map(id).collect()
}

#[expect(clippy::print_stderr, reason = "a story tells what it measured")]
fn show(line: &str) {
    eprintln!("{line}");
}
