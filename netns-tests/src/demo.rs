//! The story behind `make demo`: steer, failover with approval, partition, rejoin, failback, under
//! steady traffic; every printed claim is a measurement, and one that does not hold fails the run.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::eventually::eventually_true;
use crate::lab::Lab;
use crate::observe::dig::dig;
use crate::services::{API, PAY, Service, WEB};
use crate::story::{Operator, TASK, Traffic, logs};
use crate::topology::{LINKS, OUTSIDE, SITES, Shape};
use crate::traffic::now;

/// The first client of the story, and the one behind the internet.
const CLIENTS: [&str; 2] = ["osl-c1", OUTSIDE];

struct Teller<'a> {
    lab: &'a Lab,
    out: &'a mut dyn Write,
    claims: u32,
    broken: u32,
}

/// Builds the lab in `dir`, tells the story, removes the lab. An error when a claim did not hold.
pub fn run(prefix: &str, dir: &Path, out: &mut dyn Write) -> Result<()> {
    let begun = Instant::now();
    let mut lab = Lab::create(Shape::TWO, prefix, dir)?;
    writeln!(out, "Two sites, {} links, {:.1?} to wire.", LINKS.len(), begun.elapsed())?;
    if let Err(problem) = lab.start_nett() {
        return Err(problem.context(logs(&lab)));
    }
    let mut teller = Teller { lab: &lab, out, claims: 0, broken: 0 };
    let told = teller.story();
    let (claims, broken) = (teller.claims, teller.broken);
    if let Err(problem) = told {
        return Err(problem.context(logs(&lab)));
    }
    drop(lab);
    if broken > 0 {
        bail!("{broken} of {claims} claims did not hold");
    }
    writeln!(out, "All {claims} claims held. {:.0?} in all.", begun.elapsed())?;
    Ok(())
}

// === impl Teller ===

impl Teller<'_> {
    fn story(&mut self) -> Result<()> {
        let leaks = self.lab.leaks()?;
        self.local()?;
        self.steer()?;
        self.move_and_back()?;
        self.failover_with_approval()?;
        self.partition_and_rejoin()?;
        self.failback()?;
        let leaked = self.lab.leaks()?.since(&leaks);
        let told = format!("leaked out of the borders in all: {} packets", leaked.total());
        self.claim(leaked.total() == 0, &told)
    }

    fn title(&mut self, text: &str) -> Result<()> {
        writeln!(self.out, "\n{text}")?;
        Ok(self.out.flush()?)
    }

    fn claim(&mut self, holds: bool, text: &str) -> Result<()> {
        self.claims += 1;
        self.broken += u32::from(!holds);
        let mark = if holds { "ok    " } else { "BROKEN" };
        writeln!(self.out, "  {mark} {text}")?;
        Ok(self.out.flush()?)
    }

    fn operator(&self, name: &'static str, node: &'static str) -> Operator<'_> {
        Operator { lab: self.lab, node, name }
    }

    fn mira(&self) -> Operator<'_> {
        self.operator("mira", "osl-b1")
    }

    fn jon(&self) -> Operator<'_> {
        self.operator("jon", "svg-b1")
    }

    /// What osl's border answers for a service's A record.
    fn dns(&self, service: Service) -> Result<Vec<String>> {
        let client = self.lab.ns("osl-c1")?;
        let server = "10.1.1.2".parse()?;
        Ok(dig(&client, server, &service.dns_name(), "A")?.data)
    }

    fn local(&mut self) -> Result<()> {
        self.title("Local traffic stays local (2 clients, 1000 packets/s each for IPv4 and IPv6)")?;
        let before = self.lab.crossings()?;
        let begun = Instant::now();
        let traffic = Traffic::to_vips(self.lab, &CLIENTS, API)?;
        traffic.run_for(2000)?;
        let report = traffic.finish();
        self.claim(report.lost() == 0, &report.summary())?;
        // Agents talk over the links all the time: beacons, link probes, the bus.
        let crossed = self.lab.crossings()? - before;
        let rate = crossed as f64 / begun.elapsed().as_secs_f64();
        let told = format!("{rate:.0} packets/s cross the links, all of them the agents' own");
        self.claim(rate < 400.0, &told)
    }

    fn steer(&mut self) -> Result<()> {
        self.title("Steer shop/prod/web to 50:50 and back, 64 flows per family")?;
        let traffic = Traffic::start(self.lab, &["osl-c1"], &WEB.vips(), 64)?;
        self.mira().complete(&["steer", WEB.id, "--to", "osl=50,svg=50"])?;
        let from = now();
        traffic.run_for(1000)?;
        let split = traffic.so_far().between(from, now());
        self.mira().complete(&["steer", WEB.id, "--to", "osl=100"])?;
        traffic.settles_on("osl")?;
        let share = split.answers_of("svg") * 100 / split.received().max(1);
        self.claim((25..=75).contains(&share), &format!("svg answered {share} %"))?;
        let report = traffic.finish();
        self.claim(report.lost() == 0, &report.summary())
    }

    fn move_and_back(&mut self) -> Result<()> {
        self.title("Move shop/prod/api to svg, make before break")?;
        let traffic = Traffic::to_vips(self.lab, &CLIENTS, API)?;
        let begun = now();
        self.mira().complete(&["failover", API.id, "--to", "svg"])?;
        traffic.settles_on("svg")?;
        let dns = self.dns(API)?;
        let report = traffic.finish();
        self.claim(report.lost() == 0, &report.summary())?;
        let first = report.served().get("svg").map_or(begun, |s| s.first);
        let took = Duration::from_nanos(first.saturating_sub(begun));
        let told = format!("the first packet reached svg {took:.0?} after the command");
        self.claim(took < Duration::from_secs(5), &told)?;
        let expected = SITES[1].public(API.number)[0].clone();
        self.claim(dns == [expected], &format!("DNS answers {}", dns.join(" ")))
    }

    fn failover_with_approval(&mut self) -> Result<()> {
        self.title("Fail shop/prod/pay over to svg: needs an approval, break before make")?;
        let traffic = Traffic::to_vips(self.lab, &CLIENTS, PAY)?;
        let task = self.mira().propose(&["failover", PAY.id, "--to", "svg"])?;
        traffic.run_for(300)?;
        let moved = traffic.so_far().answers_of("svg");
        self.claim(moved == 0, "nothing moves before the approval")?;
        self.jon().approve(&task)?;
        self.mira().wait_for(&task, "done")?;
        traffic.settles_on("svg")?;
        let report = traffic.finish();
        let overlap = report.overlap("osl", "svg");
        self.claim(overlap.is_zero(), "at no instant did both sites serve")?;
        let away = report.longest_outage();
        let told = format!("away for {away:.0?} between the two: {}", report.summary());
        self.claim(away < Duration::from_secs(5), &told)
    }

    fn partition_and_rejoin(&mut self) -> Result<()> {
        self.title("Cut both links: what is here goes on, what is there fails with errors")?;
        let leaks = self.lab.leaks()?;
        let here = Traffic::to_vips(self.lab, &CLIENTS, WEB)?;
        let there = Traffic::to_vips(self.lab, &["osl-c1"], PAY)?;
        let cut = now();
        self.lab.cut_all()?;
        there.run_for(2000)?;
        let away = there.so_far().between(cut + 200_000_000, now());
        let told = format!(
            "pay at svg, from osl: {} answered, {} errors told to the client",
            away.received(),
            away.errors().count()
        );
        self.claim(away.received() == 0 && away.errors().count() > 0, &told)?;
        let leaked = self.lab.leaks()?.since(&leaks).total();
        self.claim(leaked == 0, &format!("{leaked} packets leaked"))?;
        let dns = self.dns(WEB)?;
        self.claim(dns == [WEB.vips()[0].clone()], "DNS goes on answering")?;
        self.title("Rejoin")?;
        let healed = now();
        self.lab.restore_all()?;
        let back = Duration::from_nanos(there.settles_on("svg")?.saturating_sub(healed));
        self.claim(back < Duration::from_secs(5), &format!("pay answers again after {back:.0?}"))?;
        drop(there.finish());
        let report = here.finish();
        self.claim(report.lost() == 0, &format!("web all the while: {}", report.summary()))
    }

    fn failback(&mut self) -> Result<()> {
        self.title("Fail shop/prod/pay back to osl, approved again")?;
        let traffic = Traffic::to_vips(self.lab, &CLIENTS, PAY)?;
        let mut task = String::new();
        // Right after a partition the other site's view may still be old, which is a refusal.
        eventually_true(TASK, "the failback is accepted", || {
            task = self.mira().propose(&["failback", PAY.id])?;
            Ok(true)
        })?;
        self.jon().approve(&task)?;
        self.mira().wait_for(&task, "done")?;
        traffic.settles_on("osl")?;
        let report = traffic.finish();
        let both = report.overlap("osl", "svg");
        self.claim(both.is_zero(), &format!("one site at a time: {}", report.summary()))
    }
}
