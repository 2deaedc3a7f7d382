//! The lab before Nett: wires, addresses, echo servers, counters and the tools that read them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use nett_netns_tests::eventually::{eventually_true, patience};
use nett_netns_tests::lab::Lab;
use nett_netns_tests::observe::{kernel::Kernel, monitor::Monitor};
use nett_netns_tests::services::{self, API, PORT};
use nett_netns_tests::state::{self, existing_namespaces};
use nett_netns_tests::story::Traffic;
use nett_netns_tests::topology::{NET_SERVICE, SITES, Shape};
use nett_netns_tests::traffic::{Report, Running, Target, tcp};
use nett_netns_tests::{bus, netns::Netns};

/// Sends `packets` at 1000/s and tells what became of them.
fn probe(ns: &Netns, address: &str, packets: usize) -> Result<Report> {
    let running = Running::start(ns, Target::new(address.parse()?, 1000))?;
    eventually_true(patience(), "the packets are sent", || Ok(running.sent() >= packets))?;
    Ok(running.finish())
}

#[test]
fn local_traffic_stays_inside_its_site() -> Result<()> {
    let Some(lab) = Lab::for_test("local_traffic_stays_inside_its_site", Shape::TWO)? else {
        return Ok(());
    };
    let crossed = lab.crossings()?;
    for site in SITES {
        let client = lab.ns(&site.client())?;
        for address in site.public(API.number) {
            let report = probe(&client, &address, 200)?;
            assert_eq!(report.lost(), 0, "{address}: {}", report.summary());
            assert_eq!(report.duplicates(), 0, "{}", report.summary());
            assert_eq!(report.answers_of(site.id), report.sent(), "{}", report.summary());
        }
        let [service, _] = site.addresses(NET_SERVICE, 2);
        client.output("ping", &["-c", "1", "-W", "2", &service])?;
    }
    // Link-local chatter of IPv6 (multicast reports) may cross; probes would be hundreds.
    let crossings = lab.crossings()? - crossed;
    assert!(crossings < 50, "{crossings} packets crossed the links");
    assert_eq!(lab.leaks()?.total(), 0, "{:?}", lab.leaks()?);
    Ok(())
}

#[test]
fn the_outside_client_reaches_both_sites_over_their_own_uplinks() -> Result<()> {
    let story = "the_outside_client_reaches_both_sites_over_their_own_uplinks";
    let Some(lab) = Lab::for_test(story, Shape::TWO)? else {
        return Ok(());
    };
    let outside = lab.ns("outside")?;
    for site in SITES {
        for address in site.public(API.number) {
            let report = probe(&outside, &address, 100)?;
            assert_eq!(report.lost(), 0, "{address}: {}", report.summary());
            let ip: IpAddr = address.parse()?;
            let attempt = tcp::connect(&outside, SocketAddr::new(ip, PORT), patience())?;
            assert_eq!(attempt.server, Ok(site.id.to_owned()));
        }
    }
    Ok(())
}

#[test]
fn without_nett_the_way_to_the_other_site_leaks_and_is_counted() -> Result<()> {
    let story = "without_nett_the_way_to_the_other_site_leaks_and_is_counted";
    let Some(lab) = Lab::for_test(story, Shape::TWO)? else {
        return Ok(());
    };
    let client = lab.ns("osl-c1")?;
    let [osl, svg] = SITES;
    let before = lab.leaks()?;
    let [v4, v6] = svg.addresses(NET_SERVICE, 2);
    for address in [v4, v6] {
        let report = probe(&client, &address, 20)?;
        assert_eq!(report.received(), 0, "{}", report.summary());
    }
    for address in API.vips() {
        assert_eq!(probe(&client, &address, 20)?.received(), 0);
    }
    let leaked = lab.leaks()?.since(&before).0;
    assert!(leaked[&format!("private_{}", osl.id)] >= 40, "{leaked:?}");
    assert!(leaked[&format!("vip_{}", osl.id)] >= 40, "{leaked:?}");
    assert_eq!(leaked.len(), 2, "{leaked:?}");
    Ok(())
}

#[test]
fn errors_are_booked_on_the_packets_they_answer() -> Result<()> {
    let Some(lab) = Lab::for_test("errors_are_booked_on_the_packets_they_answer", Shape::TWO)?
    else {
        return Ok(());
    };
    let router = lab.ns("osl-r1")?;
    for (address, family) in API.vips().iter().zip(["-4", "-6"]) {
        router.ip(&format!("{family} route add unreachable {address}"))?;
        let client = lab.ns("osl-c1")?;
        // TCP first: afterwards the router has spent the ICMP errors it may send per second.
        let to = SocketAddr::new(address.parse()?, PORT);
        let attempt = tcp::connect(&client, to, patience())?;
        assert!(attempt.server.is_err() && attempt.took < patience(), "{attempt:?}");
        let report = probe(&client, address, 100)?;
        assert_eq!(report.received(), 0, "{}", report.summary());
        let error = report.errors().next().context("an ICMP error comes back")?;
        assert!(error.from.is_some(), "{error:?}");
    }
    Ok(())
}

#[test]
fn a_cut_link_has_no_carrier_at_the_far_end_and_comes_back() -> Result<()> {
    let story = "a_cut_link_has_no_carrier_at_the_far_end_and_comes_back";
    let Some(lab) = Lab::for_test(story, Shape::TWO)? else {
        return Ok(());
    };
    let border = lab.ns("osl-b1")?;
    let ping = |address: &str| {
        let sent = border.try_output("ping", &["-c", "1", "-W", "1", address])?;
        Ok::<bool, anyhow::Error>(sent.status.success())
    };
    assert!(ping("172.31.0.2")? && ping("fd00:f0::2")?);
    lab.cut("osl-svg-1")?;
    assert!(border.ip("link show dev wan0")?.contains("NO-CARRIER"));
    assert!(!ping("172.31.0.2")?);
    assert!(ping("172.31.0.6")?, "the other link is not touched");
    lab.restore("osl-svg-1")?;
    for address in ["172.31.0.2", "fd00:f0::2"] {
        eventually_true(patience(), "the link carries again", || ping(address))?;
    }
    Ok(())
}

#[test]
fn the_kernel_picture_shows_a_change_and_the_monitor_hears_it() -> Result<()> {
    let story = "the_kernel_picture_shows_a_change_and_the_monitor_hears_it";
    let Some(lab) = Lab::for_test(story, Shape::TWO)? else {
        return Ok(());
    };
    let node = lab.ns("osl-r1")?;
    let before = Kernel::of(&node)?;
    let quiet = Monitor::start(&node, lab.layout().log("quiet"))?;
    assert_eq!(quiet.finish()?, Vec::<String>::new());
    assert_eq!(before.changes(&Kernel::of(&node)?), Vec::<String>::new());
    let monitor = Monitor::start(&node, lab.layout().log("monitor"))?;
    node.ip("rule add pref 4444 lookup 7003")?;
    node.ip("route add unreachable 10.99.0.0/16 table 7000 proto 217")?;
    node.nft("add table inet o\nadd chain inet o c\nadd rule inet o c counter")?;
    let heard = monitor.finish()?.join("\n");
    assert!(heard.contains("4444:") && heard.contains("10.99.0.0/16"), "{heard}");
    let changes = before.changes(&Kernel::of(&node)?);
    assert!(changes.iter().all(|c| c.starts_with('+')), "{changes:#?}");
    assert_eq!(changes.len(), 5, "{changes:#?}");
    Ok(())
}

#[test]
fn nats_servers_start_in_their_namespaces() -> Result<()> {
    let Some(mut lab) = Lab::for_test("nats_servers_start_in_their_namespaces", Shape::TWO)? else {
        return Ok(());
    };
    for site in SITES {
        let config = lab.layout().host(&site.bus_host()).with_extension("conf");
        std::fs::write(&config, bus::plain_config())?;
        bus::start(&mut lab, site, &config)?;
        let [v4, _] = site.addresses(nett_netns_tests::topology::NET_BUS, 2);
        let to = SocketAddr::new(v4.parse()?, nett_netns_tests::files::NATS_PORT);
        let attempt = tcp::connect(&lab.ns(&site.border())?, to, patience())?;
        let greeting = attempt.server.map_err(|e| anyhow::anyhow!("{e}"))?;
        assert!(greeting.starts_with("INFO {"), "{greeting}");
    }
    Ok(())
}

#[test]
fn two_labs_live_side_by_side_and_end_without_a_trace() -> Result<()> {
    let story = "two_labs_live_side_by_side_and_end_without_a_trace";
    let Some(one) = Lab::for_test(story, Shape::TWO)? else {
        return Ok(());
    };
    let other = Lab::for_test(story, Shape::TWO)?.context("the first one could be made")?;
    let (prefix, kept) = (one.prefix().to_owned(), other.prefix().to_owned());
    let address = SITES[0].public(services::PAY.number);
    assert_eq!(probe(&one.ns("osl-c1")?, &address[0], 50)?.lost(), 0);
    let ours = |prefix: &str| {
        let prefix = format!("{prefix}-");
        existing_namespaces().iter().filter(|n| n.starts_with(&prefix)).count()
    };
    drop(one);
    assert_eq!((ours(&prefix), ours(&kept)), (0, 12));
    assert_eq!(probe(&other.ns("osl-c1")?, &address[0], 50)?.lost(), 0);

    // As after a crash: nobody drops the lab, the state file is all that is left.
    let dir = other.layout().root.clone();
    other.keep();
    assert_eq!(ours(&kept), 12);
    let removed = state::down(&dir)?;
    assert_eq!((removed.processes, removed.namespaces), (2, 12));
    assert_eq!(ours(&kept), 0);
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

#[test]
fn a_probe_at_a_thousand_a_second_keeps_its_schedule() -> Result<()> {
    let Some(lab) = Lab::for_test("a_probe_at_a_thousand_a_second_keeps_its_schedule", Shape::TWO)?
    else {
        return Ok(());
    };
    let address = SITES[0].public(API.number)[0].parse()?;
    let target = Target::new(address, 1000).with_flows(16);
    let begun = std::time::Instant::now();
    let running = Running::start(&lab.ns("osl-c1")?, target)?;
    eventually_true(patience(), "a thousand packets", || Ok(running.sent() >= 1000))?;
    let took = begun.elapsed();
    let report = running.finish();
    assert!(took >= Duration::from_millis(950), "sent too fast: {took:?}");
    assert_eq!(report.lost(), 0, "{}", report.summary());
    assert!(report.round_trip(0.5).is_some_and(|t| t < Duration::from_millis(50)));
    Ok(())
}

#[test]
fn the_lab_s_certificates_and_keys_let_a_client_in_and_nobody_else() -> Result<()> {
    let story = "the_lab_s_certificates_and_keys_let_a_client_in_and_nobody_else";
    let Some(mut lab) = Lab::for_test(story, Shape::TWO)? else {
        return Ok(());
    };
    let [osl, _] = SITES;
    let tls = lab.layout().tls();
    let text = format!(
        "listen: \"0.0.0.0:{}\"\ntls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, \
         verify: true }}\nauthorization {{ users: [ {{ nkey: {} }} ] }}\n",
        nett_netns_tests::files::NATS_PORT,
        tls.join("osl-n1.crt"),
        tls.join("osl-n1.key"),
        tls.join("ca.crt"),
        lab.keys().public("osl-b1")?,
    );
    let config = lab.layout().host("osl-n1").with_extension("conf");
    std::fs::write(&config, text)?;
    bus::start(&mut lab, osl, &config)?;
    let connect = |node: &str, certificate: bool| {
        let seed = std::fs::read_to_string(lab.keys().seed(node))?;
        let mut options = async_nats::ConnectOptions::with_nkey(seed)
            .add_root_certificates(tls.join("ca.crt"))
            .require_tls(true);
        if certificate {
            let file = |end: &str| tls.join(format!("{node}.{end}"));
            options = options.add_client_certificate(file("crt"), file("key"));
        }
        let url = nett_netns_tests::files::nats_url(osl);
        lab.ns("osl-b1")?.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async { Ok(options.connect(url).await?.flush().await?) })
        })
    };
    connect("osl-b1", true)?;
    assert!(connect("osl-r1", true).is_err(), "a key the server does not know");
    assert!(connect("osl-b1", false).is_err(), "no client certificate");
    Ok(())
}

#[test]
fn traffic_settles_on_the_server_the_router_points_at() -> Result<()> {
    let Some(lab) =
        Lab::for_test("traffic_settles_on_the_server_the_router_points_at", Shape::TWO)?
    else {
        return Ok(());
    };
    let router = lab.ns("osl-r1")?;
    for (vip, via) in API.vips().iter().zip(SITES[0].addresses(NET_SERVICE, 2)) {
        router.ip(&format!("route add {vip} via {via} dev lan"))?;
    }
    let traffic = Traffic::to_vips(&lab, &["osl-c1"], API)?;
    traffic.settles_on("osl")?;
    let report = traffic.finish();
    assert_eq!((report.lost(), report.duplicates()), (0, 0), "{}", report.summary());
    assert_eq!(report.answers_of("osl"), report.sent());
    Ok(())
}
