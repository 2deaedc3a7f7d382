//! Links that lose packets and keep their carrier: noticed at both ends, gone around, taken again
//! when they work; and what looks like one and is none. How often something is sent over a link is
//! counted by its interface.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nett_netns_tests::eventually::{eventually, eventually_true, patience};
use nett_netns_tests::lab::{Lab, agent_name};
use nett_netns_tests::netns::Netns;
use nett_netns_tests::observe::http::metric;
use nett_netns_tests::observe::monitor::Monitor;
use nett_netns_tests::process::Spec;
use nett_netns_tests::services::VAULT;
use nett_netns_tests::story::{TASK, Traffic, tell, tell_from_wires, tell_of};
use nett_netns_tests::topology::{LINKS, Link, Shape};
use nett_netns_tests::traffic::now;

const ENDS: [&str; 2] = ["osl-b1", "svg-b1"];
/// The first link and its interface at both ends.
const LINK: &str = "osl-svg-1";
const WAN: &str = "wan0";
/// From the loss to the last packet that is lost: 900 ms of detection, then the new way. Three
/// times the time that it takes, for a busy machine.
const LEFT: Duration = Duration::from_millis(3000);

/// Everything that comes in over the link's interface is lost, as far as `what` matches.
fn lose(ns: &Netns, what: &str) -> Result<()> {
    lose_on(ns, WAN, what)
}

fn lose_on(ns: &Netns, interface: &str, what: &str) -> Result<()> {
    ns.nft(&format!(
        "add table netdev silent\n\
         add chain netdev silent in {{ type filter hook ingress device {interface} priority 0; }}\n\
         add rule netdev silent in {what} drop\n"
    ))
}

fn mend(ns: &Netns) -> Result<()> {
    ns.nft("delete table netdev silent")
}

fn up(ns: &Netns, link: &str) -> Result<bool> {
    Ok(metric(ns, &format!("nett_link_up{{link=\"{link}\"}} "))? == Some(1.0))
}

/// Sessions of the link that came to a state, so far.
fn came_to(ns: &Netns, state: &str) -> Result<f64> {
    link_came_to(ns, LINK, state)
}

fn link_came_to(ns: &Netns, link: &str, state: &str) -> Result<f64> {
    let name = format!("nett_bfd_transitions_total{{link=\"{link}\",to=\"{state}\"}} ");
    Ok(metric(ns, &name)?.unwrap_or(0.0))
}

/// Until both sessions of every link are up at both ends.
fn watched(lab: &Lab) -> Result<()> {
    for end in ENDS {
        let told = || {
            let told = lab.nettctl(end, "mira", &["-o", "json", "link", "list"])?.must_be(0)?;
            let links = told.json()?;
            let links = links["ok"]["links"].as_array().context("links")?.clone();
            for link in links {
                for side in ["a", "b"] {
                    let end_of = &link[side];
                    if end_of["node"] != end {
                        continue;
                    }
                    let sessions = end_of["bfd"].as_array().cloned().unwrap_or_default();
                    let good = sessions.iter().filter(|s| s["belief"] == "proven").count();
                    ensure!(good == 2, "{end} {}: {sessions:?}", link["id"]);
                }
            }
            Ok(())
        };
        eventually(patience() * 2, "the sessions are up", told)?;
    }
    Ok(())
}

/// Packets that have left over the interface.
fn sent(ns: &Netns) -> Result<u64> {
    let text = ns.ip(&format!("-j -s link show dev {WAN}"))?;
    let json: serde_json::Value = serde_json::from_str(&text)?;
    json[0]["stats64"]["tx"]["packets"].as_u64().context("a count of packets")
}

/// Whether traffic takes the link, by what leaves over it while a thousand packets are sent.
fn carries(ns: &Netns, traffic: &Traffic) -> Result<bool> {
    let before = sent(ns)?;
    traffic.run_for(500)?;
    // Of a thousand packets of two families half would take this link of two.
    Ok(sent(ns)? - before > 200)
}

/// Row 19 of the faults: one direction of a link is dead.
#[test]
fn a_link_that_is_dead_in_one_direction_is_left_by_both_ends() -> Result<()> {
    tell("a_link_that_is_dead_in_one_direction_is_left_by_both_ends", |lab| {
        watched(lab)?;
        let borders = [lab.ns(ENDS[0])?, lab.ns(ENDS[1])?];
        let traffic = Traffic::start(lab, &["osl-c1"], &VAULT.vips(), 16)?;
        assert!(carries(&borders[0], &traffic)?, "both links are used");
        let leaks = lab.leaks()?;
        for deaf in &borders {
            let cut = now();
            lose(deaf, "counter")?;
            for border in &borders {
                let left = || Ok(!up(border, LINK)?);
                eventually_true(patience(), "both ends know it", left)?;
            }
            let settled = Duration::from_nanos(traffic.settles_on("svg")?.saturating_sub(cut));
            assert!(settled < LEFT, "lost packets for {settled:?}");
            assert!(!carries(&borders[0], &traffic)?, "the dead link is not used");
            assert!(!carries(&borders[1], &traffic)?, "nor the other way round");
            mend(deaf)?;
            for border in &borders {
                eventually_true(TASK * 2, "both ends take it again", || up(border, LINK))?;
            }
            traffic.settles_on("svg")?;
            assert!(carries(&borders[0], &traffic)?, "both links are used again");
        }
        assert_eq!(lab.leaks()?.since(&leaks).total(), 0);
        drop(traffic.finish());
        Ok(())
    })
}

/// A disk that holds every line of the audit trail up for seconds, as one that others keep busy
/// does: the way around a dead link does not wait for it.
#[test]
fn a_slow_disk_holds_no_detour_up() -> Result<()> {
    tell("a_slow_disk_holds_no_detour_up", |lab| {
        watched(lab)?;
        let border = lab.ns(ENDS[0])?;
        let traffic = Traffic::start(lab, &["osl-c1"], &VAULT.vips(), 16)?;
        assert!(carries(&border, &traffic)?, "both links are used");
        let pid = lab.process(&agent_name(ENDS[0]))?.record().pid.to_string();
        let trail = lab.layout().state(ENDS[0]).join("audit.jsonl").display().to_string();
        let (name, log) = ("slow-disk".to_owned(), lab.layout().log("slow-disk"));
        let trace = lab.layout().root.join("slow").display().to_string();
        let slow = "inject=write:delay_enter=4000000";
        let args = ["-f", "-o", &trace, "-P", &trail, "-e", "trace=write", "-e", slow, "-p", &pid];
        let args = args.map(str::to_owned).to_vec();
        let spec = Spec { name, program: "strace".into(), args, env: Vec::new(), log: log.clone() };
        lab.start_process(ENDS[0], spec)?;
        let attached = || Ok(std::fs::read_to_string(&log)?.contains("attached"));
        eventually_true(patience(), "strace attaches", attached)?;
        let cut = now();
        lose(&border, "counter")?;
        let settled = Duration::from_nanos(traffic.settles_on("svg")?.saturating_sub(cut));
        assert!(settled < LEFT, "lost packets for {settled:?}");
        let told = || Ok(std::fs::read_to_string(&trace)?.contains("DELAYED"));
        eventually_true(TASK, "the trail is written, slowly", told)?;
        mend(&border)?;
        drop(traffic.finish());
        Ok(())
    })
}

/// Row 18 of the faults: the address under a gateway goes. The kernel keeps nexthops and routes as
/// if nothing had happened; the agent does not.
#[test]
fn a_link_without_its_address_is_left_until_it_is_back() -> Result<()> {
    tell("a_link_without_its_address_is_left_until_it_is_back", |lab| {
        watched(lab)?;
        let borders = [lab.ns(ENDS[0])?, lab.ns(ENDS[1])?];
        let near = &borders[0];
        let traffic = Traffic::start(lab, &["osl-c1"], &VAULT.vips(), 16)?;
        ensure!(carries(near, &traffic)?, "both links are used");
        let leaks = lab.leaks()?;
        let own = LINKS[0].ends[0].1;
        for address in own {
            near.ip(&format!("address del {address} dev {WAN}"))?;
        }
        eventually_true(patience(), "it is unusable here", || Ok(!up(near, LINK)?))?;
        // Its carrier is there, and with it every object that the kernel would take away.
        ensure!(near.ip(&format!("link show dev {WAN}"))?.contains("LOWER_UP"), "its carrier");
        eventually_true(patience(), "the far end knows it", || Ok(!up(&borders[1], LINK)?))?;
        traffic.settles_on("svg")?;
        ensure!(!carries(near, &traffic)?, "the link without an address is not used");
        ensure!(!carries(&borders[1], &traffic)?, "nor the other way round");
        for address in own {
            near.ip(&format!("address add {address} dev {WAN} nodad"))?;
        }
        for border in &borders {
            eventually_true(TASK * 2, "both ends take it again", || up(border, LINK))?;
        }
        eventually_true(TASK, "the link is used again", || carries(near, &traffic))?;
        traffic.settles_on("svg")?;
        assert_eq!(lab.leaks()?.since(&leaks).total(), 0);
        drop(traffic.finish());
        Ok(())
    })
}

/// An agent that is asked to stop says so: nobody doubts a link, and no route changes. One that
/// dies looks like a dead link from here: its links work, and nothing is lost.
#[test]
fn a_stopped_agent_is_not_missed_and_a_dead_one_takes_no_working_link_away() -> Result<()> {
    tell("a_stopped_agent_is_not_missed_and_a_dead_one_takes_no_working_link_away", |lab| {
        watched(lab)?;
        let near = lab.ns(ENDS[0])?;
        let traffic = Traffic::start(lab, &["osl-c1"], &VAULT.vips(), 16)?;
        traffic.settles_on("svg")?;
        let begun = now();
        let monitor = Monitor::start(&near, lab.layout().log("near-changes"))?;
        lab.take_process(&agent_name(ENDS[1]))?.stop(TASK)?;
        traffic.run_for(2000)?;
        assert!(up(&near, LINK)?, "a far agent that has stopped says nothing of the link");
        lab.start_agent(ENDS[1])?;
        lab.wait_for_agent(ENDS[1])?;
        watched(lab)?;
        let changes = monitor.finish()?;
        let ours: Vec<&String> = changes.iter().filter(|l| l.contains("proto 217")).collect();
        assert!(ours.is_empty(), "{ours:#?}");

        lab.take_process(&agent_name(ENDS[1]))?.kill();
        eventually_true(patience(), "it is missed", || Ok(!up(&near, LINK)?))?;
        traffic.run_for(2000)?;
        assert!(carries(&near, &traffic)?, "the links are all there is, and are used");
        lab.start_agent(ENDS[1])?;
        lab.wait_for_agent(ENDS[1])?;
        eventually_true(TASK * 2, "it is believed again", || up(&near, LINK))?;
        watched(lab)?;
        let report = traffic.finish().since(begun);
        assert_eq!(report.lost(), 0, "{}", report.summary());
        Ok(())
    })
}

/// With other borders to turn to, traffic goes around the one whose agent is dead, and loses
/// nothing on the way there and back.
#[test]
fn in_pairs_traffic_goes_around_a_dead_agent_without_loss() -> Result<()> {
    tell_of("in_pairs_traffic_goes_around_a_dead_agent_without_loss", Shape::PAIRS, |lab| {
        watched(lab)?;
        let near = lab.ns(ENDS[0])?;
        let traffic = Traffic::start(lab, &["osl-c1"], &VAULT.vips(), 16)?;
        traffic.settles_on("svg")?;
        let begun = now();
        lab.take_process(&agent_name(ENDS[1]))?.kill();
        eventually_true(patience(), "it is missed", || Ok(!up(&near, LINK)?))?;
        let quiet = || Ok(!carries(&near, &traffic)?);
        eventually_true(patience(), "the other border is used", quiet)?;
        lab.start_agent(ENDS[1])?;
        lab.wait_for_agent(ENDS[1])?;
        eventually_true(TASK * 2, "it is believed again", || up(&near, LINK))?;
        traffic.run_for(500)?;
        let report = traffic.finish().since(begun);
        assert_eq!(report.lost(), 0, "{}", report.summary());
        Ok(())
    })
}

/// What was known of a link is known to the next process too.
#[test]
fn an_agent_that_begins_anew_does_not_send_into_a_dead_link() -> Result<()> {
    tell("an_agent_that_begins_anew_does_not_send_into_a_dead_link", |lab| {
        watched(lab)?;
        let borders = [lab.ns(ENDS[0])?, lab.ns(ENDS[1])?];
        let traffic = Traffic::start(lab, &["osl-c1"], &VAULT.vips(), 16)?;
        for border in &borders {
            lose(border, "counter")?;
        }
        for border in &borders {
            eventually_true(patience(), "both ends know it", || Ok(!up(border, LINK)?))?;
        }
        let settled = traffic.settles_on("svg")?;
        lab.take_process(&agent_name(ENDS[0]))?.kill();
        lab.start_agent(ENDS[0])?;
        lab.wait_for_agent(ENDS[0])?;
        traffic.run_for(2000)?;
        assert!(!up(&borders[0], LINK)?);
        for border in &borders {
            mend(border)?;
        }
        eventually_true(TASK * 2, "the link is taken again", || up(&borders[0], LINK))?;
        let report = traffic.finish().since(settled);
        assert_eq!(report.lost(), 0, "{}", report.summary());
        Ok(())
    })
}

/// The interface is deleted and made again: the session comes back on the new one.
#[test]
fn a_session_survives_its_interface() -> Result<()> {
    tell("a_session_survives_its_interface", |lab| {
        watched(lab)?;
        let borders = [lab.ns(ENDS[0])?, lab.ns(ENDS[1])?];
        let ups = [came_to(&borders[0], "up")?, came_to(&borders[1], "up")?];
        let downs = came_to(&borders[0], "down")?;
        borders[0].ip(&format!("link del {WAN}"))?;
        eventually_true(patience(), "it is gone", || Ok(!up(&borders[0], LINK)?))?;
        let lost = || Ok(came_to(&borders[0], "down")? >= downs + 2.0);
        eventually_true(patience(), "both sessions are lost", lost)?;
        let far = borders[1].name();
        borders[0].ip(&format!("link add {WAN} type veth peer name {WAN} netns {far}"))?;
        let addresses = [["172.31.0.1/30", "fd00:f0::1/64"], ["172.31.0.2/30", "fd00:f0::2/64"]];
        for (border, addresses) in borders.iter().zip(addresses) {
            border.ip(&format!("link set {WAN} up"))?;
            for address in addresses {
                border.ip(&format!("address add {address} dev {WAN}"))?;
            }
        }
        for (border, before) in borders.iter().zip(ups) {
            let again = || Ok(up(border, LINK)? && came_to(border, "up")? >= before + 2.0);
            eventually_true(TASK, "both sessions are up again", again)?;
        }
        watched(lab)
    })
}

/// Row 20: a share of all packets is lost at random. One link bears seven in a row, as happens once
/// in hours at 20 %; the other does not bear three, as happens every second at 40 %.
#[test]
fn loss_makes_a_link_unusable_only_if_it_is_much() -> Result<()> {
    tell_from_wires("loss_makes_a_link_unusable_only_if_it_is_much", |lab| {
        let path = lab.layout().fabric();
        let mut text = std::fs::read_to_string(&path)?;
        let timers = "tx = \"300ms\", rx = \"300ms\", multiplier = 3";
        for multiplier in [8, 3] {
            ensure!(text.contains(timers), "the lab has other timers");
            let other = format!("tx = \"100ms\", rx = \"100ms\", multiplier = {multiplier}");
            text = text.replacen(timers, &other, 1);
        }
        std::fs::write(&path, text)?;
        lab.start_nett()?;
        watched(lab)?;
        let borders = [lab.ns(ENDS[0])?, lab.ns(ENDS[1])?];
        let downs =
            || -> Result<f64> { Ok(came_to(&borders[0], "down")? + came_to(&borders[1], "down")?) };
        let traffic = Traffic::start(lab, &["osl-c1"], &VAULT.vips(), 16)?;
        let before = downs()?;
        let [patient, strict] = LINKS;
        let lossy = |link: Link, share: u32| {
            lose_on(&borders[1], link.interface, &format!("numgen random mod 100 < {share}"))
        };
        for share in [5, 20] {
            lossy(patient, share)?;
            traffic.run_for(5000)?;
            assert_eq!(downs()?, before, "at {share} %");
            ensure!(up(&borders[0], LINK)? && up(&borders[1], LINK)?, "at {share} %");
            mend(&borders[1])?;
        }
        for (link, share) in [(strict, 40), (patient, 90)] {
            lossy(link, share)?;
            let left = || Ok(!up(&borders[0], link.id)? && !up(&borders[1], link.id)?);
            let what = format!("at {share} % both ends leave {}", link.id);
            let took = eventually_true(TASK * 3, &what, left)?;
            show(&format!("{what}: after {took:?}"));
            mend(&borders[1])?;
        }
        drop(traffic.finish());
        Ok(())
    })
}

/// Row 22: a narrow place at the way out, and more traffic than it can take. On the first link what
/// waits, waits behind BFD; on the second nobody looks at the class of packets, and one that the
/// queue dropped is sent again.
#[test]
fn full_links_are_not_down_with_priorities_or_without() -> Result<()> {
    tell("full_links_are_not_down_with_priorities_or_without", |lab| {
        watched(lab)?;
        let ends = [lab.ns(ENDS[0])?, lab.ns(ENDS[1])?];
        let downs = || -> Result<f64> {
            let each = LINKS.iter().flat_map(|link| ends.each_ref().map(|end| (end, link.id)));
            each.map(|(end, link)| link_came_to(end, link, "down")).sum()
        };
        let before = downs()?;
        let near = &ends[0];
        let tc = |line: String| near.output("tc", &line.split_whitespace().collect::<Vec<_>>());
        for (link, latency) in LINKS.iter().zip(["400ms", "60ms"]) {
            let dev = link.interface;
            let shaper = format!("tbf rate 200kbit burst 4kb latency {latency}");
            tc(format!("qdisc add dev {dev} root handle 1: {shaper}"))?;
        }
        tc(format!("qdisc replace dev {WAN} parent 1:1 handle 10: pfifo_fast"))?;
        let traffic = Traffic::start(lab, &["osl-c1"], &VAULT.vips(), 16)?;
        // Longer than neighbours are believed without being asked.
        traffic.run_for(20_000)?;
        for link in LINKS {
            let text = near.output("tc", &["-s", "-j", "qdisc", "show", "dev", link.interface])?;
            let all: serde_json::Value = serde_json::from_str(&text)?;
            let dropped = all.as_array().context("a list")?.iter().map(|q| q["drops"].as_u64());
            let dropped: u64 = dropped.flatten().sum();
            ensure!(dropped > 1000, "{} was not full: {text}", link.id);
            for end in &ends {
                ensure!(up(end, link.id)?, "{} is taken for a dead one: {text}", link.id);
            }
        }
        ensure!(downs()? == before, "a full link is taken for a dead one");
        drop(traffic.finish());
        Ok(())
    })
}

/// An end that speaks BFD and is not Nett.
enum Peer {
    Bird,
    Frr,
}

impl Peer {
    fn start(&self, lab: &mut Lab, dir: &std::path::Path) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o777))?;
        let mut run = |name: &str, program: &str, args: &[&str]| {
            let at = |arg: &&str| arg.replace("DIR", &dir.display().to_string());
            let spec = nett_netns_tests::process::Spec {
                name: name.to_owned(),
                program: program.into(),
                args: args.iter().map(at).collect(),
                env: Vec::new(),
                log: lab.layout().log(name),
            };
            lab.start_process(ENDS[1], spec)
        };
        match self {
            Self::Bird => {
                let text = "router id 10.2.1.2;\nlog stderr all;\n\
                     protocol device { scan time 1; }\n\
                     protocol bfd { accept direct; interface \"wan0\" { interval 100 ms; \
                     multiplier 3; };\n\
                     neighbor 172.31.0.1 dev \"wan0\" local 172.31.0.2;\n\
                     neighbor fd00:f0::1 dev \"wan0\" local fd00:f0::2; }\n";
                std::fs::write(dir.join("conf"), text)?;
                let args = ["-f", "-c", "DIR/conf", "-s", "DIR/s", "-P", "DIR/pid"];
                run("bird", "bird", &args)
            }
            Self::Frr => {
                std::fs::write(dir.join("zebra.conf"), "hostname zebra\n")?;
                let peer = |far: &str, near: &str| {
                    format!(
                        " peer {far} local-address {near} interface wan0\n  \
                         transmit-interval 100\n  receive-interval 100\n  \
                         detect-multiplier 3\n  no shutdown\n exit\n"
                    )
                };
                let text = format!(
                    "bfd\n{}{}exit\n",
                    peer("172.31.0.1", "172.31.0.2"),
                    peer("fd00:f0::1", "fd00:f0::2")
                );
                std::fs::write(dir.join("bfdd.conf"), text)?;
                let common = ["-z", "DIR/z", "-P", "0", "--vty_socket", "DIR"];
                let own = ["-f", "DIR/zebra.conf", "-i", "DIR/zebra.pid"];
                run("zebra", "/usr/lib/frr/zebra", &[&common[..], &own].concat())?;
                let socket = dir.join("z");
                eventually_true(patience(), "zebra listens", || Ok(socket.exists()))?;
                let own = ["-f", "DIR/bfdd.conf", "-i", "DIR/bfdd.pid"];
                let control = ["--bfdctl", "DIR/bfdd.sock"];
                run("bfdd", "/usr/lib/frr/bfdd", &[&common[..], &own, &control].concat())
            }
        }
    }

    /// How many of its two sessions it calls up.
    fn up(&self, ns: &Netns, dir: &std::path::Path) -> Result<usize> {
        let dir = dir.display().to_string();
        match self {
            Self::Bird => {
                let socket = format!("{dir}/s");
                let text = ns.output("birdc", &["-s", &socket, "show", "bfd", "sessions"])?;
                Ok(text.lines().filter(|l| l.contains(WAN) && l.contains(" Up ")).count())
            }
            Self::Frr => {
                let ask = ["--vty_socket", &dir, "-d", "bfdd", "-c", "show bfd peers json"];
                let text = ns.output("vtysh", &ask)?;
                let peers: serde_json::Value = serde_json::from_str(&text)?;
                let peers = peers.as_array().context("a list of peers")?;
                Ok(peers.iter().filter(|p| p["status"] == "up").count())
            }
        }
    }
}

fn speaks_with(story: &str, peer: &Peer) -> Result<()> {
    tell(story, |lab| {
        watched(lab)?;
        let (near, far) = (lab.ns(ENDS[0])?, lab.ns(ENDS[1])?);
        lab.take_process(&agent_name(ENDS[1]))?.stop(TASK)?;
        let dir = tempfile::tempdir()?;
        let before = came_to(&near, "up")?;
        peer.start(lab, dir.path())?;
        let both_up = || match peer.up(&far, dir.path())? {
            2 => Ok(()),
            n => bail!("{n} of two sessions are up at the peer"),
        };
        eventually(TASK, "the peer calls both sessions up", both_up)?;
        let ours = || Ok(came_to(&near, "up")? >= before + 2.0);
        eventually_true(patience(), "and so do we", ours)?;
        for deaf in [&near, &far] {
            lose(deaf, "counter")?;
            eventually_true(patience(), "we know it", || Ok(!up(&near, LINK)?))?;
            let none = || Ok(peer.up(&far, dir.path())? == 0);
            eventually_true(patience(), "the peer knows it", none)?;
            mend(deaf)?;
            eventually(TASK, "the peer calls both sessions up again", both_up)?;
            eventually_true(TASK * 2, "the link is taken again", || up(&near, LINK))?;
        }
        Ok(())
    })
}

#[test]
fn bird_is_a_good_peer() -> Result<()> {
    speaks_with("bird_is_a_good_peer", &Peer::Bird)
}

#[test]
fn frr_is_a_good_peer() -> Result<()> {
    speaks_with("frr_is_a_good_peer", &Peer::Frr)
}

#[expect(clippy::print_stderr, reason = "a story tells what it measured")]
fn show(line: &str) {
    eprintln!("{line}");
}
