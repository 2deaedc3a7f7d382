//! With both links cut, whoever asks for a service of the other site is told so at once: a client
//! of the site and one on the internet, over TCP and UDP, in both families. Nobody waits for a
//! timeout, and nothing looks for a way over the internet.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use nett_netns_tests::eventually::{eventually, eventually_true, patience};
use nett_netns_tests::lab::Lab;
use nett_netns_tests::services::{PORT, VAULT};
use nett_netns_tests::story::tell;
use nett_netns_tests::topology::OUTSIDE;
use nett_netns_tests::traffic::tcp::{Attempt, connect};
use nett_netns_tests::traffic::{Running, Target};

/// The longest wait for the error of a TCP connection. An IPv6 client believes the ICMP error only
/// after its first SYN was repeated, one second later (Linux `tcp_v6_err`), a reset at once.
const LIMITS: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(1500)];

/// Connections of each client to each family.
const ROUNDS: usize = 3;

/// Connections at once.
const BURST: usize = 12;

/// Cuts both links and waits until osl's border has no way any more, which is until its kernel has
/// noticed that the carrier is gone: what leaves before that is lost on the wire.
fn cut(lab: &Lab) -> Result<()> {
    lab.cut_all()?;
    let border = lab.ns("osl-b1")?;
    let noticed = eventually_true(patience(), "the border has no way", || {
        let mut refused = 0;
        for address in VAULT.vips() {
            let asked = border.try_output("ip", &["route", "get", &address])?;
            refused += usize::from(!asked.status.success());
        }
        Ok(refused == 2)
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
        // In turn, so that a client asks each family once in a second: see the next story.
        let mut longest = BTreeMap::new();
        for _ in 0..ROUNDS {
            for host in hosts {
                for (address, limit) in VAULT.vips().into_iter().zip(LIMITS) {
                    let attempt = attempt(lab, host, &address)?;
                    assert!(attempt.server.is_err(), "{host} {address}: {attempt:?}");
                    assert!(attempt.took < limit, "{host} {address}: {attempt:?}");
                    let longest = longest.entry((host, address)).or_insert(attempt.took);
                    *longest = attempt.took.max(*longest);
                }
            }
        }
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

/// FIXME: without links the error is the router's `unreachable`, which the kernel sends to one
/// client a few times at once and then once in two seconds (`icmp_ratelimit`, icmp(7), charged
/// twice:
/// `ip_error` and `icmp_send`). Of a burst of connections the later ones learn nothing and wait. A
/// reset, as in `drained4`, has no limit.
#[test]
fn of_a_burst_of_connections_the_first_get_an_error_and_none_leaks() -> Result<()> {
    tell("of_a_burst_of_connections_the_first_get_an_error_and_none_leaks", |lab| {
        let leaks = lab.leaks()?;
        cut(lab)?;
        let client = lab.ns("osl-c1")?;
        let to = SocketAddr::new(VAULT.vips()[0].parse::<IpAddr>()?, PORT);
        let burst = (0..BURST).map(|_| connect(&client, to, LIMITS[0]));
        let burst: Vec<Attempt> = burst.collect::<Result<_>>()?;
        let told = burst.iter().filter(|a| a.server != Err(ErrorKind::TimedOut)).count();
        show(&format!("a burst of {BURST}: {told} errors within {:?}", LIMITS[0]));
        assert!(burst.iter().all(|a| a.server.is_err()), "{burst:?}");
        assert!(burst[0].took < LIMITS[0] && told > 0, "{burst:?}");
        assert_eq!(lab.leaks()?.since(&leaks).total(), 0, "{:?}", lab.leaks()?);
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
