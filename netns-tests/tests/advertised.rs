//! Table 250: what a border announces, imported by BIRD and told to a neighbour by BGP, follows the
//! service; so it does by FRR; and segments fit a narrower link.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nett_netns_tests::eventually::{eventually, eventually_true, patience};
use nett_netns_tests::lab::{Lab, agent_name};
use nett_netns_tests::observe::eyes::Eyes;
use nett_netns_tests::process::Spec;
use nett_netns_tests::services::{API, PORT, Service, VAULT};
use nett_netns_tests::story::{Operator, Traffic, tell, tell_from_wires};
use nett_netns_tests::topology::{SITES, Site, UPLINK_BORDER, UPLINK_INET};
use nett_netns_tests::traffic::tcp;
use nix::sys::signal::Signal;

/// A border's BIRD: learns table 250 and tells `inet` of it, as OPERATING.md has it.
fn speaker(site: Site, asn: u32) -> String {
    let own = site.uplink(1, UPLINK_BORDER);
    let [id, _] = &own;
    let mut text = format!("router id {id};\nprotocol device {{ scan time 1; }}\n");
    for (family, (own, peer)) in own.iter().zip(site.uplink(1, UPLINK_INET)).enumerate() {
        let n = [4, 6][family];
        text += &format!(
            "protocol kernel nett{n} {{ kernel table 250; learn;\n \
             ipv{n} {{ import all; export none; }}; }}\n\
             protocol bgp up{n} {{ local {own} as {asn}; neighbor {peer} as 65000; direct;\n \
             hold time 30; connect retry time 1; connect delay time 1; ipv{n} {{ next hop self;\n \
             import none; export where proto = \"nett{n}\"; }}; }}\n"
        );
    }
    text
}

/// The provider's BIRD: forwards by what it hears from borders with these numbers.
fn provider(borders: &[(Site, u32)], hold: u32) -> String {
    let mut text = "router id 198.18.0.1;\nprotocol device { scan time 1; }\n".to_owned();
    for n in [4, 6] {
        text += &format!("protocol kernel {{ ipv{n} {{ import none; export all; }}; }}\n");
    }
    for (site, asn) in borders {
        let ends = site.uplink(1, UPLINK_INET).into_iter().zip(site.uplink(1, UPLINK_BORDER));
        for (n, (own, peer)) in [4, 6].into_iter().zip(ends) {
            text += &format!(
                "protocol bgp {}{n} {{ local {own} as 65000; neighbor {peer} as {asn}; direct;\n \
                 passive; hold time {hold}; ipv{n} {{ import all; export none; }}; }}\n",
                site.id
            );
        }
    }
    text
}

fn start_bird(lab: &mut Lab, host: &str, config: &str) -> Result<()> {
    let dir = lab.layout().host(host).join("speaker");
    fs::create_dir_all(&dir)?;
    let at = |name: &str| dir.join(name).display().to_string();
    fs::write(dir.join("conf"), config)?;
    let name = format!("speaker-{host}");
    let args = ["-f", "-c", &at("conf"), "-s", &at("ctl"), "-P", &at("pid")];
    let spec = Spec {
        name: name.clone(),
        program: PathBuf::from("bird"),
        args: args.map(str::to_owned).to_vec(),
        env: Vec::new(),
        log: lab.layout().log(&name),
    };
    lab.start_process(host, spec)
}

#[test]
fn what_is_announced_follows_the_service_and_loses_nothing() -> Result<()> {
    tell_from_wires("what_is_announced_follows_the_service_and_loses_nothing", |lab| {
        for site in SITES {
            let config = lab.layout().agent_config(&site.border());
            let mut file = fs::File::options().append(true).open(config)?;
            writeln!(file, "\n[kernel]\nadvertise = true")?;
        }
        lab.start_nett()?;
        let table = |lab: &Lab, node: &str| -> Result<String> {
            let ns = lab.ns(node)?;
            Ok(ns.ip("route show table 250")? + &ns.ip("-6 route show table 250")?)
        };
        let announced = |lab: &Lab, node: &str, service: Service| -> Result<usize> {
            let table = table(lab, node)?;
            let there = |vip: &&String| table.contains(&format!("unreachable {vip} "));
            Ok(service.vips().iter().filter(there).count())
        };
        ensure!(announced(lab, "osl-b1", API)? == 2, "{}", table(lab, "osl-b1")?);
        ensure!(announced(lab, "svg-b1", API)? == 0, "{}", table(lab, "svg-b1")?);

        let [osl, svg] = SITES;
        start_bird(lab, "inet", &provider(&[(osl, 65001), (svg, 65002)], 30))?;
        start_bird(lab, "osl-b1", &speaker(osl, 65001))?;
        start_bird(lab, "svg-b1", &speaker(svg, 65002))?;
        let inet = lab.ns("inet")?;
        let way = |site: Site| {
            for (vip, via) in API.vips().iter().zip(site.uplink(1, UPLINK_BORDER)) {
                let family = if vip.contains(':') { "-6" } else { "-4" };
                let route = inet.ip(&format!("{family} route show {vip}"))?;
                ensure!(route.contains(&format!("via {via} ")), "the provider has: {route}");
            }
            Ok(())
        };
        eventually(patience() * 4, "the provider hears of osl", || way(osl))?;

        let traffic = Traffic::to_vips(lab, &["outside"], API)?;
        // The withdrawal reaches the provider only after the whole move: until then its packets
        // come to osl, which sends them on.
        let speaker = lab.process("speaker-osl-b1")?;
        speaker.signal(Signal::SIGSTOP)?;
        let mira = Operator { lab, node: "osl-b1", name: "mira" };
        mira.complete(&["failover", API.id, "--to", "svg"])?;
        traffic.settles_on("svg")?;
        way(osl).context("the provider has heard of nothing yet")?;
        lab.process("speaker-osl-b1")?.signal(Signal::SIGCONT)?;
        let mira = Operator { lab, node: "osl-b1", name: "mira" };
        eventually(patience() * 2, "the provider hears of svg", || way(svg))?;
        ensure!(announced(lab, "osl-b1", API)? == 0, "osl still announces");
        traffic.settles_on("svg")?;
        mira.complete(&["failback", API.id])?;
        eventually(patience() * 2, "the provider hears of osl again", || way(osl))?;
        traffic.settles_on("osl")?;
        // So it is with a drain.
        mira.complete(&["drain", "service", API.id, "--at", "osl"])?;
        eventually(patience() * 2, "the provider hears of svg", || way(svg))?;
        traffic.settles_on("svg")?;
        let report = traffic.finish();
        assert_eq!(report.lost(), 0, "{}", report.summary());

        // Drained at its only site, nobody announces it; the range of the provider's own is left.
        ensure!(announced(lab, "svg-b1", VAULT)? == 2, "svg serves it");
        mira.complete(&["drain", "service", VAULT.id, "--at", "svg"])?;
        let both = [announced(lab, "svg-b1", VAULT)?, announced(lab, "osl-b1", VAULT)?];
        ensure!(both == [0, 2], "it follows a drain: {both:?}");

        // Switched off, nothing is left, and nobody else's route is in the way of the start.
        lab.ns("osl-b1")?.ip("route add unreachable 203.0.113.0/24 table 250 proto static")?;
        lab.take_process(&agent_name("osl-b1"))?.stop(patience())?;
        let config = lab.layout().agent_config("osl-b1");
        let text = fs::read_to_string(&config)?.replace("advertise = true", "advertise = false");
        fs::write(config, text)?;
        lab.start_agent("osl-b1")?;
        lab.wait_for_agent("osl-b1")?;
        eventually(patience(), "table 250 is left to others", || {
            let left = table(lab, "osl-b1")?;
            ensure!(left.lines().count() == 1 && left.contains("203.0.113.0/24"), "{left}");
            Ok(())
        })?;
        Ok(())
    })
}

const BGPD: &str = "router bgp 65001
 bgp router-id 198.18.1.2
 no bgp ebgp-requires-policy
 neighbor 198.18.1.1 remote-as 65000
 neighbor 198.18.1.1 timers connect 1
 address-family ipv4 unicast
  redistribute table 250
";

/// A border's zebra and bgpd: learn table 250 and tell `inet` of it. Their directory is one that
/// FRR's own user can get into, unlike the lab's.
fn start_frr(lab: &mut Lab, host: &str, dir: &Path) -> Result<()> {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777))?;
    let at = |name: &str| dir.join(name).display().to_string();
    for (daemon, text) in [("zebra", "ip import-table 250\n"), ("bgpd", BGPD)] {
        fs::write(dir.join(daemon), text)?;
        let files = [("-f", daemon), ("-z", "socket"), ("-i", &format!("{daemon}.pid"))];
        let files = files.into_iter().flat_map(|(flag, name)| [flag.to_owned(), at(name)]);
        // As whoever tells the story, who may have no other user.
        let rest =
            ["-u", "root", "-g", "frrvty", "-P", "0", "--vty_socket", &dir.display().to_string()]
                .map(str::to_owned);
        let name = format!("{daemon}-{host}");
        let spec = Spec {
            name: name.clone(),
            program: Path::new("/usr/lib/frr").join(daemon),
            args: files.chain(rest).collect(),
            env: Vec::new(),
            log: lab.layout().log(&name),
        };
        lab.start_process(host, spec)?;
        let socket = dir.join("socket");
        eventually_true(patience(), "zebra listens", || Ok(socket.exists()))?;
    }
    Ok(())
}

/// IPv4 alone: zebra 8.4 imports no table of IPv6.
///
/// FRR installs what it has imported as `unreachable` in the main table, which no packet to a VIP
/// comes to: Nett's rules are asked before.
#[test]
fn frr_tells_of_table_250_and_its_own_copy_takes_no_packet() -> Result<()> {
    tell_from_wires("frr_tells_of_table_250_and_its_own_copy_takes_no_packet", |lab| {
        let mut file =
            fs::File::options().append(true).open(lab.layout().agent_config("osl-b1"))?;
        writeln!(file, "\n[kernel]\nadvertise = true")?;
        lab.start_nett()?;
        let frr = tempfile::tempdir()?;
        start_bird(lab, "inet", &provider(&[(SITES[0], 65001)], 6))?;
        start_frr(lab, "osl-b1", frr.path())?;
        let [provider, border] = [lab.ns("inet")?, lab.ns("osl-b1")?];
        let vip = &API.vips()[0];
        let heard = |is: bool| {
            let route = provider.ip(&format!("route show {vip}"))?;
            let copy = border.ip(&format!("route show table main {vip}"))?;
            ensure!(route.contains("via 198.18.1.2 ") == is, "the provider has: {route}");
            ensure!(copy.contains("unreachable") == is, "FRR has: {copy}");
            Ok(())
        };
        eventually(patience() * 4, "the provider hears of osl", || heard(true))?;
        let outside = lab.ns("outside")?;
        let to = SocketAddr::new(vip.parse()?, PORT);
        let served = |by: &str| {
            let attempt = tcp::connect(&outside, to, patience())?;
            let server = attempt.server.map_err(|e| anyhow::anyhow!("{e:?}"))?;
            ensure!(server == by, "{server} answers");
            Ok(())
        };
        served("osl")?;
        let mira = Operator { lab, node: "osl-b1", name: "mira" };
        mira.complete(&["failover", API.id, "--to", "svg"])?;
        eventually(patience() * 2, "it is withdrawn", || heard(false))?;
        mira.complete(&["failback", API.id])?;
        eventually(patience() * 2, "it is announced again", || heard(true))?;
        served("osl")
    })
}

#[test]
fn segments_fit_a_narrower_link() -> Result<()> {
    tell("segments_fit_a_narrower_link", |lab| {
        for border in ["osl-b1", "svg-b1"] {
            for interface in ["wan0", "wan1"] {
                lab.ns(border)?.ip(&format!("link set dev {interface} mtu 1400"))?;
            }
        }
        // 1400 less the headers: 40 bytes of IPv4 and TCP, 60 of IPv6 and TCP.
        let lines = |flags: &str| {
            let has = format!("tcp flags & (syn | ack) == {flags} tcp option maxseg size");
            [
                ("narrow4", format!("ip version 4 {has} 1360")),
                ("narrow6", format!("ip6 version 6 {has} 1340")),
                ("wide", format!("{has} > 1360")),
            ]
        };
        // Both ends tell each other how long segments may be, each on its own way.
        let asked = Eyes::open(&lab.ns("svg-r1")?, &lines("syn"), None)?;
        let answered = Eyes::open(&lab.ns("osl-r1")?, &lines("(syn | ack)"), None)?;
        let client = lab.ns("osl-c1")?;
        for vip in VAULT.vips() {
            let to = SocketAddr::new(vip.parse()?, PORT);
            let attempt = tcp::connect(&client, to, patience())?;
            let server = attempt.server.map_err(|e| anyhow::anyhow!("{e:?}"));
            assert_eq!(server.context("it opens")?, "svg");
        }
        for (what, eyes) in [("SYN", asked), ("SYN and ACK", answered)] {
            let counts = [eyes.count("narrow4")?, eyes.count("narrow6")?, eyes.count("wide")?];
            assert_eq!(counts, [1, 1, 0], "{what}");
        }
        Ok(())
    })
}
