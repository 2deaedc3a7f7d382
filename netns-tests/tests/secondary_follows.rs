//! Name servers of other makers copy the zone of one agent and follow it through a failover, and
//! go on alone when nothing reaches them any more.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use nett_netns_tests::eventually::{eventually, patience};
use nett_netns_tests::files::ZONE;
use nett_netns_tests::lab::Lab;
use nett_netns_tests::observe::dig::dig;
use nett_netns_tests::process::Spec;
use nett_netns_tests::services::API;
use nett_netns_tests::story::{Operator, tell_from_wires};
use nett_netns_tests::topology::{NET_CLIENT, NET_CORE, SITES, Site};

/// A secondary stands on the client host of a site.
fn address(site: Site) -> String {
    let [v4, _] = site.addresses(NET_CLIENT, 2);
    v4
}

fn primary() -> String {
    let [v4, _] = SITES[0].addresses(NET_CORE, 2);
    v4
}

/// The fabric names who copies from osl-b1; all agents read it so.
fn let_copy(lab: &Lab) -> Result<()> {
    let path = lab.layout().fabric();
    let text = std::fs::read_to_string(&path)?;
    let to = SITES.map(|site| format!("{{ to = \"{}\" }}", address(site)));
    let zone = format!(
        "[zone]\ntransfer_from = \"{}\"\ntransfer = [{}]\n",
        SITES[0].border(),
        to.join(", ")
    );
    ensure!(text.contains("[zone]\n"), "no zone in {text}");
    Ok(std::fs::write(path, text.replacen("[zone]\n", &zone, 1))?)
}

fn start(lab: &mut Lab, site: Site, program: &str, files: (&str, String)) -> Result<()> {
    let host = site.client();
    let directory = lab.layout().host(&host);
    std::fs::create_dir_all(directory.join("db"))?;
    let (name, text) = files;
    let config = directory.join(name);
    std::fs::write(&config, text)?;
    let config = config.display().to_string();
    let args: &[&str] = match program {
        "knotd" => &["-c", &config],
        _ => &["-g", "-n", "1", "-c", &config],
    };
    let spec = Spec {
        name: format!("{program}-{host}"),
        program: PathBuf::from(format!("/usr/sbin/{program}")),
        args: args.iter().map(|a| (*a).to_owned()).collect(),
        env: Vec::new(),
        log: lab.layout().log(program),
    };
    lab.start_process(&host, spec)
}

fn knot(lab: &mut Lab, site: Site) -> Result<()> {
    let (at, own, from) = (lab.layout().host(&site.client()), address(site), primary());
    let (at, zone) = (at.display(), ZONE.trim_end_matches('.'));
    let text = format!(
        "server:\n    rundir: {at}\n    listen: {own}@53\n    udp-workers: 1\n    \
         tcp-workers: 1\n    background-workers: 1\n\
         database:\n    storage: {at}/db\nlog:\n  - target: stderr\n    any: info\n\
         remote:\n  - id: primary\n    address: {from}@53\n    via: {own}\n\
         acl:\n  - id: told\n    address: {from}\n    action: notify\n\
         zone:\n  - domain: {zone}\n    storage: {at}\n    file: zone.db\n    \
         master: primary\n    acl: [told]\n"
    );
    start(lab, site, "knotd", ("knot.conf", text))
}

fn bind(lab: &mut Lab, site: Site) -> Result<()> {
    let (at, own, from) = (lab.layout().host(&site.client()), address(site), primary());
    let (at, zone) = (at.display(), ZONE.trim_end_matches('.'));
    let text = format!(
        "options {{ directory \"{at}\"; listen-on {{ {own}; }}; listen-on-v6 {{ none; }}; \
         pid-file none; lock-file none; session-keyfile none; recursion no; notify no; \
         dnssec-validation no; }};\ncontrols {{ }};\n\
         zone \"{zone}\" {{ type secondary; file \"zone.db\"; masterfile-format text; \
         transfer-source {own}; primaries {{ {from}; }}; }};\n"
    );
    start(lab, site, "named", ("named.conf", text))
}

/// The serial that a server tells clients of a site.
fn serial(lab: &Lab, site: Site, server: &str) -> Result<u32> {
    let soa = dig(&lab.ns(&site.client())?, server.parse()?, ZONE, "SOA")?;
    let data = soa.data.first().with_context(|| format!("{server}: {soa:?}"))?;
    Ok(data.split(' ').nth(2).unwrap_or_default().parse()?)
}

/// Both secondaries have the serial of the primary, and answer with the address of `at`.
fn agree(lab: &Lab, at: Site) -> Result<u32> {
    let wanted = serial(lab, SITES[0], &primary())?;
    for site in SITES {
        let found = serial(lab, site, &address(site))?;
        ensure!(found == wanted, "{}: {found} instead of {wanted}", site.id);
        let server = address(site).parse()?;
        for (kind, expected) in ["A", "AAAA"].iter().zip(API.answers(at)) {
            let answer = dig(&lab.ns(&site.client())?, server, &API.dns_name(), kind)?;
            ensure!(answer.data == [expected], "{}: {answer:?}", site.id);
        }
    }
    Ok(wanted)
}

#[test]
fn bind_and_knot_follow_a_failover_by_serial_and_answer() -> Result<()> {
    tell_from_wires("bind_and_knot_follow_a_failover_by_serial_and_answer", |lab| {
        let [osl, svg] = SITES;
        let_copy(lab)?;
        lab.start_nett()?;
        knot(lab, osl)?;
        bind(lab, svg)?;
        let (first, _) = eventually(patience() * 4, "both have copied", || agree(lab, osl))?;
        let mira = Operator { lab, node: "osl-b1", name: "mira" };
        mira.complete(&["failover", API.id, "--to", "svg"])?;
        let (moved, took) = eventually(patience(), "both follow", || agree(lab, svg))?;
        ensure!(moved > first, "the serial went from {first} to {moved}");
        ensure!(took.as_secs() < 15, "{took:?}: they were not told, but asked by themselves");
        // The far one goes on with what it has when nothing reaches it any more.
        lab.cut_all()?;
        let answer = dig(&lab.ns(&svg.client())?, address(svg).parse()?, &API.dns_name(), "A")?;
        ensure!(answer.data == [API.answers(svg)[0].clone()], "{answer:?}");
        lab.restore_all()?;
        let mira = Operator { lab, node: "osl-b1", name: "mira" };
        eventually(patience() * 4, "the sites hear of each other", || {
            mira.complete(&["failover", API.id, "--to", "osl"])
        })?;
        let (back, _) = eventually(patience() * 2, "both follow back", || agree(lab, osl))?;
        ensure!(back > moved, "the serial went from {moved} to {back}");
        Ok(())
    })
}
