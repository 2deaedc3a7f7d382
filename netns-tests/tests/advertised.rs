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
use nett_netns_tests::services::{API, PORT, VAULT};
use nett_netns_tests::story::{Operator, Traffic, tell, tell_from_wires};
use nett_netns_tests::topology::SITES;
use nett_netns_tests::traffic::tcp;
use nix::sys::signal::Signal;

/// A border's BIRD: learns table 250 and tells `inet` of it.
fn speaker(own: [&str; 2], asn: u32) -> String {
    let [own, peer] = own;
    format!(
        "router id {own};\nprotocol device {{ scan time 1; }}\n\
         protocol kernel adv4 {{ kernel table 250; learn; ipv4 {{ import all; export none; }}; }}\n\
         protocol bgp up {{ local {own} as {asn}; neighbor {peer} as 65000; direct;\n \
         hold time 30; connect retry time 1; connect delay time 1; ipv4 {{ next hop self;\n \
         import none; export where proto = \"adv4\"; }}; }}\n"
    )
}

/// The provider's BIRD: forwards by what it hears.
const PROVIDER: &str = "router id 198.18.0.1;
protocol device { scan time 1; }
protocol kernel { ipv4 { import none; export all; }; }
protocol bgp osl { local 198.18.1.1 as 65000; neighbor 198.18.1.2 as 65001; direct; passive;
 hold time 30; ipv4 { import all; export none; }; }
protocol bgp svg { local 198.18.2.1 as 65000; neighbor 198.18.2.2 as 65002; direct; passive;
 hold time 30; ipv4 { import all; export none; }; }
";

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
        let table = |lab: &Lab, node: &str| lab.ns(node)?.ip("route show table 250");
        let vip = format!("unreachable {}", API.vips()[0]);
        ensure!(table(lab, "osl-b1")?.contains(&vip), "{}", table(lab, "osl-b1")?);
        ensure!(!table(lab, "svg-b1")?.contains(&vip), "{}", table(lab, "svg-b1")?);

        start_bird(lab, "inet", PROVIDER)?;
        start_bird(lab, "osl-b1", &speaker(["198.18.1.2", "198.18.1.1"], 65001))?;
        start_bird(lab, "svg-b1", &speaker(["198.18.2.2", "198.18.2.1"], 65002))?;
        let provider = lab.ns("inet")?;
        let way = |via: &str| {
            let route = provider.ip(&format!("route show {}", API.vips()[0]))?;
            ensure!(route.contains(&format!("via {via} ")), "the provider has: {route}");
            Ok(())
        };
        eventually(patience() * 4, "the provider hears of osl", || way("198.18.1.2"))?;

        let traffic = Traffic::start(lab, &["outside"], &API.vips()[..1], 1)?;
        // The withdrawal reaches the provider only after the whole move: until then its packets
        // come to osl, which sends them on.
        let speaker = lab.process("speaker-osl-b1")?;
        speaker.signal(Signal::SIGSTOP)?;
        let mira = Operator { lab, node: "osl-b1", name: "mira" };
        mira.complete(&["failover", API.id, "--to", "svg"])?;
        traffic.settles_on("svg")?;
        way("198.18.1.2").context("the provider has heard of nothing yet")?;
        lab.process("speaker-osl-b1")?.signal(Signal::SIGCONT)?;
        let mira = Operator { lab, node: "osl-b1", name: "mira" };
        eventually(patience() * 2, "the provider hears of svg", || way("198.18.2.2"))?;
        ensure!(!table(lab, "osl-b1")?.contains(&vip), "osl still announces");
        traffic.settles_on("svg")?;
        mira.complete(&["failback", API.id])?;
        eventually(patience() * 2, "the provider hears of osl again", || way("198.18.1.2"))?;
        traffic.settles_on("osl")?;
        // So it is with a drain.
        mira.complete(&["drain", "service", API.id, "--at", "osl"])?;
        eventually(patience() * 2, "the provider hears of svg", || way("198.18.2.2"))?;
        traffic.settles_on("svg")?;
        let report = traffic.finish();
        assert_eq!(report.lost(), 0, "{}", report.summary());

        // Drained at its only site, nobody announces it; the range of the provider's own is left.
        let announced = |node: &str, service: &str| -> Result<bool> {
            Ok(table(lab, node)?.contains(&format!("unreachable {service} ")))
        };
        let vault = &VAULT.vips()[0];
        ensure!(announced("svg-b1", vault)?, "svg serves it");
        mira.complete(&["drain", "service", VAULT.id, "--at", "svg"])?;
        ensure!(!announced("svg-b1", vault)? && announced("osl-b1", vault)?, "it follows a drain");

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

/// The provider's BIRD where osl alone speaks.
const PROVIDER_OF_ONE: &str = "router id 198.18.0.1;
protocol device { scan time 1; }
protocol kernel { ipv4 { import none; export all; }; }
protocol bgp osl { local 198.18.1.1 as 65000; neighbor 198.18.1.2 as 65001; direct; passive;
 hold time 6; ipv4 { import all; export none; }; }
";

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
        start_bird(lab, "inet", PROVIDER_OF_ONE)?;
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
        let opens = "tcp flags & (syn | ack) == syn tcp option maxseg size";
        // 1400 less the headers: 40 bytes of IPv4 and TCP, 60 of IPv6 and TCP.
        let lines = [
            ("narrow4", format!("ip version 4 {opens} 1360")),
            ("narrow6", format!("ip6 version 6 {opens} 1340")),
            ("wide", format!("{opens} > 1360")),
        ];
        let eyes = Eyes::open(&lab.ns("svg-r1")?, &lines, None)?;
        let client = lab.ns("osl-c1")?;
        for vip in VAULT.vips() {
            let to = SocketAddr::new(vip.parse()?, PORT);
            let attempt = tcp::connect(&client, to, patience())?;
            let server = attempt.server.map_err(|e| anyhow::anyhow!("{e:?}"));
            assert_eq!(server.context("it opens")?, "svg");
        }
        let counts = [eyes.count("narrow4")?, eyes.count("narrow6")?, eyes.count("wide")?];
        assert_eq!(counts, [1, 1, 0]);
        Ok(())
    })
}
