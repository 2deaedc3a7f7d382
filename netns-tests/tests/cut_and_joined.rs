//! Two sites cut apart while people go on deciding at both, with each line of nats-server: every
//! entry arrives once and in order, everybody reads the same, and split decisions have names.

#![allow(clippy::print_stdout, reason = "a story tells how long things took")]

mod streams;

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nett_netns_tests::bus::{self, Server};
use nett_netns_tests::eventually::eventually;
use nett_netns_tests::lab::Lab;
use nett_netns_tests::observe::http::metric;
use nett_netns_tests::services::{API, EDGE, VAULT, WEB};
use nett_netns_tests::story::{Operator, reading, tell, tell_with};
use nett_netns_tests::topology::{SITES, Site};
use serde_json::Value;

/// From the first word of the other site to the same reading everywhere.
const CONVERGED_WITHIN: Duration = Duration::from_secs(5);
/// Servers dial again at longer and longer intervals.
const CONTACT_WITHIN: Duration = Duration::from_secs(60);
/// Mirrors wait up to two minutes before they look again; agents do not wait for them.
const MIRRORED_WITHIN: Duration = Duration::from_secs(150);

/// How long the sites are apart: `NETT_CUT_SECONDS`, or 15 s.
fn apart() -> Duration {
    let seconds = std::env::var("NETT_CUT_SECONDS").ok();
    Duration::from_secs(seconds.and_then(|s| s.parse().ok()).unwrap_or(15))
}

/// Gives commands one after the other until `until`; returns the tasks that were accepted.
fn keep_deciding(by: Operator<'_>, service: &str, until: Instant) -> Result<Vec<String>> {
    let mut tasks = Vec::new();
    for verb in ["hold", "release"].iter().cycle() {
        if Instant::now() >= until {
            break;
        }
        tasks.push(by.complete(&[verb, service])?);
    }
    Ok(tasks)
}

fn agree(lab: &Lab) -> Result<[Vec<Value>; 3]> {
    let nodes = lab.nodes();
    let first = reading(lab, &nodes[0].name)?;
    for node in &nodes[1..] {
        let other = reading(lab, &node.name)?;
        for (a, b) in first.iter().zip(&other) {
            let differs = a.iter().zip(b).find(|(a, b)| a != b);
            ensure!(a.len() == b.len(), "{} knows {}, {} of them", nodes[0].name, a.len(), b.len());
            ensure!(differs.is_none(), "{} and {} read {differs:?}", nodes[0].name, node.name);
        }
    }
    Ok(first)
}

/// Waits until every agent hears of the other site, then until all read the same.
fn heal(lab: &Lab) -> Result<()> {
    let (_, contact) = eventually(CONTACT_WITHIN, "the sites hear of each other", || {
        for node in lab.nodes() {
            let heard = metric(&lab.ns(&node.name)?, "nett_sites_connected")?;
            ensure!(heard == Some(1.0), "{} hears {heard:?}", node.name);
        }
        Ok(())
    })?;
    let (_, took) = eventually(CONVERGED_WITHIN, "all nodes read the same", || agree(lab))?;
    println!("contact after {contact:?}, the same reading after {took:?} more");
    Ok(())
}

/// Every server has each log whole: no entry twice, each author's in its order.
fn logs_are_whole(lab: &Lab, author: Site) -> Result<usize> {
    let [own, mirrored] = SITES.map(|reader| streams::entries(lab, reader, author));
    let (own, mirrored) = (own?, mirrored?);
    ensure!(own == mirrored, "{} of {} entries are mirrored", mirrored.len(), own.len());
    assert_eq!(ids(&own).len(), own.len(), "an entry is stored twice");
    for (place, entry) in own.iter().enumerate() {
        assert_eq!(entry["seq"].as_u64(), Some(place as u64 + 1), "{entry}");
    }
    Ok(own.len())
}

fn sites_apart(name: &str, server: Server) -> Result<()> {
    tell_with(name, server, |lab| {
        let [osl, svg] = SITES;
        let by = |node, name| Operator { lab, node, name };
        lab.cut_all()?;
        let until = Instant::now() + apart();
        let (at_osl, at_svg) = std::thread::scope(|scope| {
            let osl = scope.spawn(|| keep_deciding(by("osl-b1", "mira"), WEB.id, until));
            let svg = scope.spawn(|| keep_deciding(by("svg-r1", "jon"), VAULT.id, until));
            (osl.join().expect("no panic"), svg.join().expect("no panic"))
        });
        let (at_osl, at_svg) = (at_osl?, at_svg?);
        assert!(at_osl.len() > 5 && at_svg.len() > 5, "{} and {}", at_osl.len(), at_svg.len());
        // The same service to different places, each knowing nothing of the other.
        let mine = by("osl-r1", "mira").order(&["steer", API.id, "--to", "osl=1,svg=3"])?;
        let yours = by("svg-b1", "jon").order(&["failover", API.id, "--to", "svg"])?;
        let (mine, yours) = (task(mine.must_be(0)?.json()?)?, task(yours.must_be(0)?.json()?)?);

        lab.restore_all()?;
        heal(lab)?;
        for task in [&mine, &yours] {
            let ended = |state: &str| state != "running";
            eventually(CONTACT_WITHIN, "both tasks end", || {
                match by("osl-b1", "mira").state_of(task)? {
                    state if ended(&state) => Ok(state),
                    state => bail!("{task} is {state}"),
                }
            })?;
        }
        let (said, _) = eventually(CONVERGED_WITHIN, "all nodes read the same", || agree(lab))?;
        let [conflict] = said[1].as_slice() else { bail!("one conflict, not {:?}", said[1]) };
        let people = [&conflict["winner"]["person"], &conflict["losers"][0]["person"]];
        assert_eq!(people, ["mira", "jon"], "both people, and the site of better rank wins");
        assert_eq!(conflict["subject"], API.id);
        let known = ids(&said[0]);
        let all = at_osl.iter().chain(&at_svg).chain([&mine, &yours]);
        assert!(all.clone().all(|t| known.contains(t.as_str())), "a task is missing");
        assert_eq!(known.len(), all.count(), "no task is there twice");

        by("svg-r1", "mira").complete(&["resolve", API.id])?;
        let (said, _) = eventually(CONVERGED_WITHIN, "all nodes read the same", || agree(lab))?;
        assert!(said[1].is_empty(), "resolved everywhere: {:?}", said[1]);
        for author in [osl, svg] {
            let (count, took) =
                eventually(MIRRORED_WITHIN, "logs are mirrored", || logs_are_whole(lab, author))?;
            println!("{count} entries of {}, mirrored after {took:?}", author.id);
        }
        Ok(())
    })
}

fn task(reply: Value) -> Result<String> {
    Ok(reply["task"].as_str().with_context(|| format!("no task in {reply}"))?.to_owned())
}

fn ids(list: &[Value]) -> BTreeSet<&str> {
    list.iter().filter_map(|one| one["id"].as_str()).collect()
}

#[test]
fn people_decide_at_both_sides_of_a_cut() -> Result<()> {
    sites_apart("people_decide_at_both_sides_of_a_cut", Server::Debian)
}

#[test]
fn people_decide_at_both_sides_of_a_cut_with_a_newer_server() -> Result<()> {
    sites_apart("people_decide_at_both_sides_of_a_cut_with_a_newer_server", Server::Newer)
}

/// A site's server comes back with empty disks: the site's log is filled again from the journals of
/// its nodes, and the other site's log from there.
#[test]
fn a_server_that_lost_its_streams_gets_them_back() -> Result<()> {
    tell("a_server_that_lost_its_streams_gets_them_back", |lab| {
        let [_, svg] = SITES;
        let mira = Operator { lab, node: "svg-b1", name: "mira" };
        for site in ["svg", "osl"] {
            mira.complete(&["failover", API.id, "--to", site])?;
        }
        mira.complete(&["drain", "service", EDGE.id, "--at", "osl"])?;
        let before = streams::entries(lab, svg, svg)?;
        let (said, _) = eventually(CONVERGED_WITHIN, "all nodes read the same", || agree(lab))?;

        let name = bus::process_name(svg);
        lab.take_process(&name)?.stop(CONTACT_WITHIN)?;
        let host = lab.layout().host(&svg.bus_host());
        fs::remove_dir_all(host.join("streams"))?;
        bus::start(lab, svg, &host.join("nats.conf"))?;
        bus::init(lab, svg)?;
        let patience = CONTACT_WITHIN;
        let (after, took) = eventually(patience, "the log is filled again", || {
            let after = streams::entries(lab, svg, svg)?;
            ensure!(after.len() >= before.len(), "{} of {}", after.len(), before.len());
            Ok(after)
        })?;
        println!("{} entries are back after {took:?}", after.len());
        assert_eq!(after[..before.len()], before[..], "the same entries in the same order");
        heal(lab)?;
        let mira = Operator { lab, node: "svg-b1", name: "mira" };
        let back = mira.complete(&["undrain", "service", EDGE.id, "--at", "osl"])?;
        let (again, _) = eventually(CONVERGED_WITHIN, "all nodes read the same", || agree(lab))?;
        let old = ids(&said[0]);
        let new = ids(&again[0]);
        let more: Vec<_> = new.difference(&old).copied().collect();
        assert_eq!(more, [back.as_str()], "nothing is lost or doubled");
        Ok(())
    })
}
