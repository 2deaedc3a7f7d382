//! With both links cut, whoever asks for a service of the other site is told so at once: a client
//! of the site and one on the internet, over TCP and UDP, in both families. Nobody waits for a
//! timeout, and nothing looks for a way over the internet.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nett_netns_tests::eventually::{eventually, eventually_true, patience};
use nett_netns_tests::lab::Lab;
use nett_netns_tests::observe::counters;
use nett_netns_tests::services::{PORT, VAULT};
use nett_netns_tests::story::{Operator, tell};
use nett_netns_tests::topology::OUTSIDE;
use nett_netns_tests::traffic::tcp::{Attempt, Session, connect};
use nett_netns_tests::traffic::{Running, Target};

/// The longest wait for the error of a TCP connection, but for one of a busy machine.
const LIMIT: Duration = Duration::from_millis(200);

/// No connection waits so long: after a second TCP asks again (RFC 6298 section 2).
const RETRY: Duration = Duration::from_millis(900);

/// Connections of each client to each family.
const ROUNDS: usize = 3;

/// Connections of a burst: more than the kernel sends ICMP errors for (icmp(7), `icmp_ratelimit`).
const BURST: usize = 50;

/// Cuts both links and waits until osl's border has no way any more, which is until its kernel has
/// noticed that the carrier is gone (what leaves before that is lost on the wire) and resets new
/// connections.
fn cut(lab: &Lab) -> Result<()> {
    lab.cut_all()?;
    let border = lab.ns("osl-b1")?;
    let noticed = eventually_true(patience(), "the border has no way", || {
        let mut refused = 0;
        for address in VAULT.vips() {
            let asked = border.try_output("ip", &["route", "get", &address])?;
            refused += usize::from(!asked.status.success());
        }
        let list = |what, name| border.output("nft", &["list", what, "inet", "nett", name]);
        let shut = list("set", "shut_out")?;
        for (map, address) in ["class4", "class6"].iter().zip(VAULT.vips()) {
            let listed = list("map", map)?;
            let chain = listed.split_once(&format!("{address} : jump class_"));
            let (_, number) = chain.with_context(|| format!("{address} has no class: {listed}"))?;
            let number = number.split([',', ' ', '\n']).next().unwrap_or_default();
            refused +=
                usize::from(shut.contains(&format!("{:#010x}", u32::from_str_radix(number, 16)?)));
        }
        Ok(refused == 4)
    })?;
    show(&format!("the border has no way {noticed:?} after the cut"));
    Ok(())
}

fn attempt(lab: &Lab, host: &str, address: &str) -> Result<Attempt> {
    connect(&lab.ns(host)?, SocketAddr::new(address.parse::<IpAddr>()?, PORT), patience())
}

#[expect(clippy::print_stderr, reason = "the numbers of the story, shown by --nocapture")]
fn show(text: &str) {
    eprintln!("{text}");
}

#[test]
fn with_both_links_cut_every_client_gets_an_error_in_time() -> Result<()> {
    tell("with_both_links_cut_every_client_gets_an_error_in_time", |lab| {
        let hosts = ["osl-c1", OUTSIDE];
        for host in hosts {
            for address in VAULT.vips() {
                let attempt = attempt(lab, host, &address)?;
                assert_eq!(attempt.server, Ok("svg".to_owned()), "{host} {address}");
            }
        }
        let leaks = lab.leaks()?;
        cut(lab)?;
        let (mut longest, mut slow) = (BTreeMap::new(), 0);
        for _ in 0..ROUNDS {
            for host in hosts {
                for address in VAULT.vips() {
                    let attempt = attempt(lab, host, &address)?;
                    assert!(attempt.server.is_err(), "{host} {address}: {attempt:?}");
                    assert!(attempt.took < RETRY, "{host} {address}: {attempt:?}");
                    slow += usize::from(attempt.took >= LIMIT);
                    let longest = longest.entry((host, address)).or_insert(attempt.took);
                    *longest = attempt.took.max(*longest);
                }
            }
        }
        assert!(slow < 2, "{longest:?}");
        for ((host, address), longest) in longest {
            show(&format!("tcp {host} to {address}: an error within {longest:?}"));
        }
        for host in hosts {
            for address in VAULT.vips() {
                answered_by_errors(lab, host, &address)?;
            }
        }
        assert_eq!(lab.leaks()?.since(&leaks).total(), 0, "{:?}", lab.leaks()?);
        Ok(())
    })
}

/// The router's `unreachable` alone would not do: the kernel sends it to one client a few times at
/// once and then once in two seconds, and the later connections of a burst would wait.
#[test]
fn every_connection_of_a_burst_is_reset_and_none_leaks() -> Result<()> {
    tell("every_connection_of_a_burst_is_reset_and_none_leaks", |lab| {
        let leaks = lab.leaks()?;
        cut(lab)?;
        for host in ["osl-c1", OUTSIDE] {
            for address in VAULT.vips() {
                let (mut longest, mut slow) = (Duration::ZERO, 0);
                for nth in 0..BURST {
                    let attempt = attempt(lab, host, &address)?;
                    let reset = attempt.server == Err(ErrorKind::ConnectionRefused);
                    assert!(reset && attempt.took < RETRY, "{host} {address} {nth}: {attempt:?}");
                    slow += usize::from(attempt.took >= LIMIT);
                    longest = longest.max(attempt.took);
                }
                assert!(slow < 2, "{host} {address}: {slow} of {BURST} took {LIMIT:?} or more");
                show(&format!("{host} to {address}: {BURST} resets within {longest:?}"));
            }
        }
        refusals_are_told(lab)?;
        assert_eq!(lab.leaks()?.since(&leaks).total(), 0, "{:?}", lab.leaks()?);
        Ok(())
    })
}

/// What the border refused is counted by nft, and told by the agents as nothing that must not be.
fn refusals_are_told(lab: &Lab) -> Result<()> {
    let border = lab.ns("osl-b1")?;
    let counted = counters::named(&border, "nett")?["refused"];
    // Two clients, two addresses.
    ensure!(counted >= 4 * BURST as u64, "{counted} refused");
    let mira = Operator { lab, node: "osl-r1", name: "mira" };
    eventually(patience() * 3, "it is told", || {
        let told = mira.run(&["-o", "json", "prove", "separation"])?.json()?;
        let rows = told["ok"]["rows"].as_array().context("rows")?.clone();
        let row = rows.iter().find(|row| row["class"] == "refused" && row["node"] == "osl-b1");
        let row = row.context("a row of the border")?;
        ensure!(row["packets"].as_u64() >= Some(counted), "{row}");
        ensure!(row["expected_zero"] == false, "{row}");
        ensure!(row["rule"].as_str().is_some_and(|r| r.starts_with("pre_drain: ")), "{row}");
        Ok(())
    })?;
    let told = mira.run(&["prove", "separation"])?.out;
    let line = told.lines().find(|l| l.contains("osl-b1") && l.contains(" refused "));
    let line = line.with_context(|| told.clone())?;
    ensure!(line.contains("pre_drain: "), "{line}");
    Ok(())
}

/// A link that is down for a moment costs an established connection a moment, not its life.
#[test]
fn an_established_connection_outlives_a_cut_of_both_links() -> Result<()> {
    tell("an_established_connection_outlives_a_cut_of_both_links", |lab| {
        let client = lab.ns("osl-c1")?;
        let address = VAULT.vips()[0].parse::<IpAddr>()?;
        let mut talk = Session::open(&client, SocketAddr::new(address, PORT), patience())?;
        assert_eq!(talk.server(), "svg");
        cut(lab)?;
        assert!(attempt(lab, "osl-c1", &VAULT.vips()[0])?.server.is_err());
        talk.say()?;
        lab.restore_all()?;
        talk.hear()?;
        Ok(())
    })
}

/// Of packets to nowhere, as many get an error of a router as the kernel's limit allows.
fn answered_by_errors(lab: &Lab, host: &str, address: &str) -> Result<()> {
    let target = Target::new(address.parse()?, 10);
    let running = Running::start(&lab.ns(host)?, target)?;
    let (count, _) = eventually(patience(), "a packet gets an error", || {
        let report = running.report();
        let told = report.errors().filter(|e| e.from.is_some()).count();
        ensure!(told >= 1, "{host} {address}: {}", report.summary());
        Ok(told)
    })?;
    let report = running.finish();
    assert_eq!(report.received(), 0, "{host} {address}: {}", report.summary());
    show(&format!("udp {host} to {address}: {count} errors, {}", report.summary()));
    Ok(())
}
