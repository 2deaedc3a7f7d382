//! Valid files: what they mean, in TOML and JSON alike, and that no input stops the reader.

use std::time::Duration;

use nett_policy::document::{
    Code, Diagnostic, SourceFile, compile, compile_fabric, compile_with_notes,
};
use nett_policy::fabric::{Fabric, Lease, Role, UnknownClient};
use nett_policy::id::{Generation, ServiceId};
use nett_policy::lease::electorate::{Electorate, Step};
use nett_policy::service::{AllDown, Catalog, Handover, Mode, Prefer, Readmit, Trigger, Ttl};
use proptest::prelude::*;

fn file(name: &str) -> SourceFile {
    let text = nett_fixtures::fabric_file("two-sites", name).expect("the fixture is readable");
    SourceFile::new(text.name, text.text)
}

fn edited(name: &str, find: &str, put: &str) -> SourceFile {
    let file = file(name);
    assert!(file.text.contains(find), "{find}");
    SourceFile::new(file.name, file.text.replacen(find, put, 1))
}

fn json(file: &SourceFile) -> SourceFile {
    let value: toml::Value = toml::from_str(&file.text).expect("the fixture is TOML");
    let text = serde_json::to_string_pretty(&value).expect("it has no times");
    SourceFile::new(file.name.replace(".toml", ".json"), text)
}

fn two_sites() -> (Fabric, Catalog) {
    compile(&file("fabric.toml"), &file("services.toml")).expect("the two-site fabric is valid")
}

fn id(text: &str) -> ServiceId {
    text.parse().expect("a valid id")
}

#[test]
fn the_two_site_fabric_means_what_it_says() {
    let (fabric, catalog) = two_sites();
    assert_eq!(fabric.name, "nordic");
    assert_eq!(fabric.unknown_client, UnknownClient::Primary);
    let ranks: Vec<u32> = fabric.sites.iter().map(|s| s.rank).collect();
    assert_eq!(ranks, [1, 2]);
    let roles: Vec<Role> = fabric.nodes.iter().map(|n| n.role).collect();
    assert_eq!(roles, [Role::Border, Role::Route, Role::Border, Role::Route]);
    assert_eq!(fabric.links[0].capacity_bps, Some(10_000_000_000));
    let pay = catalog.get(&id("shop/prod/pay")).expect("pay");
    assert_eq!(pay.handover, Handover::BreakBeforeMake);
    assert_eq!(pay.approvals, 1);
    assert_eq!(pay.gates["failback"], ["reverse-replicated"]);
    let web = catalog.get(&id("shop/prod/web")).expect("web");
    let osl = "osl".parse().expect("a valid id");
    assert!(matches!(&web.mode, Mode::ActiveActive { active, readmit: Readmit::Manual }
        if active.len() == 2 && active[0] == osl));
    let weights: Vec<u16> = web.backends[&osl].iter().map(|b| b.weight.get()).collect();
    assert_eq!(weights, [2, 1, 1]);
}

#[test]
fn every_ttl_lies_within_those_of_the_zone() {
    let seconds = Duration::from_secs;
    let two =
        edited("services.toml", "ttl = \"30s\"", "ttl = { ceiling = \"10min\", floor = \"1s\" }");
    // What pay says, and what a service has that says nothing.
    for (bounds, pay, web) in [
        ("", (600, 1), 30),
        ("ttl = { floor = \"5s\" }", (600, 5), 30),
        ("ttl = { ceiling = \"20s\" }", (20, 1), 20),
        ("ttl = { floor = \"5s\", ceiling = \"20s\" }", (20, 5), 20),
        ("ttl = { floor = \"60s\", ceiling = \"60s\" }", (60, 60), 60),
    ] {
        let fabric = edited(
            "fabric.toml",
            "hostmaster = \"dns.example.\"\n",
            &format!("hostmaster = \"dns.example.\"\n{bounds}\n"),
        );
        let (fabric, catalog) = compile(&fabric, &two).expect("valid");
        let changed = catalog.iter().find(|s| s.ttl != Ttl::fixed(seconds(web)));
        if let Some(changed) = changed {
            let ttl = Ttl { ceiling: seconds(pay.0), floor: seconds(pay.1) };
            assert_eq!(changed.ttl, ttl, "{bounds}");
        }
        assert_eq!(changed.is_none(), pay == (web, web), "{bounds}");
        // A zone without bounds has the hash that it had before there were any.
        assert_eq!(fabric.hash == two_sites().0.hash, bounds.is_empty(), "{bounds}");
    }
}

#[test]
fn what_is_left_out_has_its_default() {
    let (_, catalog) = two_sites();
    let web = catalog.get(&id("shop/prod/web")).expect("web");
    assert_eq!(web.handover, Handover::MakeBeforeBreak, "category C");
    assert_eq!((web.trigger, web.approvals), (Trigger::Approve, 0));
    assert_eq!(web.ramp, [100]);
    assert_eq!(web.ramp_dwell, Duration::from_secs(30));
    assert_eq!(web.sticky, Duration::from_secs(300));
    assert_eq!(web.ttl, Ttl::fixed(Duration::from_secs(30)));
    assert_eq!(web.hold_down, Duration::from_secs(600));
    assert_eq!(web.drain, None, "nobody waits for what was not asked for");
    assert_eq!((web.prefer, web.all_down), (Prefer::Nearest, AllDown::LastOrder));
    let services =
        edited("services.toml", "category = \"C\"\nprimary", "category = \"A\"\nprimary");
    let text = services.text.replacen("handover = \"make-before-break\"\n", "", 1);
    let services = SourceFile::new("services.toml", text);
    let (_, catalog) = compile(&file("fabric.toml"), &services).expect("valid");
    let api = catalog.get(&id("shop/prod/api")).expect("api");
    assert_eq!(api.handover, Handover::BreakBeforeMake, "category A");
}

#[test]
fn json_means_the_same() {
    let (fabric, services) = (json(&file("fabric.toml")), json(&file("services.toml")));
    assert_eq!(compile(&fabric, &services), Ok(two_sites()));
    assert_eq!(compile_fabric(&fabric), Ok(two_sites().0));
}

#[test]
fn the_hash_is_of_the_meaning() {
    let hash = |file: &SourceFile| compile_fabric(file).expect("valid").hash;
    let plain = hash(&file("fabric.toml"));
    assert_eq!(plain.len(), 64);
    let comment = edited("fabric.toml", "[fabric]", "# about the fabric\n[fabric]");
    assert_eq!(hash(&comment), plain);
    let spelling = edited("fabric.toml", "\"fd00:99::/48\"", "\"fd00:0099:0::/48\"");
    assert_eq!(hash(&spelling), plain);
    let default = edited("fabric.toml", "unknown_client = \"primary\"\n", "");
    assert_eq!(hash(&default), plain);
    let number =
        edited("fabric.toml", "generation = 1", "generation = 1\nfailover = { dscp = 10 }");
    let name = number.text.replace("dscp = 10", "dscp = \"AF11\"");
    assert_eq!(hash(&SourceFile::new("fabric.toml", name)), hash(&number));
    let changes = [
        ("generation = 1", "generation = 2"),
        ("cost = 20", "cost = 21"),
        ("owner = \"netops\"", "owner = \"noc\""),
        ("risk = [\"duct-9\"]", "risk = [\"duct-9\"]\nbfd = { tx = \"300ms\" }"),
        ("generation = 1", "generation = 1\nfailover = { dscp = 10 }"),
        ("cost = 20", "cost = 20\nfailover = { class = \"1:20\" }"),
    ];
    for (find, put) in changes {
        assert_ne!(hash(&edited("fabric.toml", find, put)), plain, "{put}");
    }
}

/// Every key of a later release, in one file each: the form passes and each key is named.
#[test]
fn keys_of_later_releases_are_accepted_and_named() {
    let fabric = edited(
        "fabric.toml",
        "unknown_client = \"primary\"",
        "lease = { duration = \"60s\", wait = \"90s\" }\nanchors = [\"203.0.113.1\"]",
    );
    let fabric = fabric.text.replacen(
        "cost = 10",
        "bfd = { tx = \"300ms\", rx = \"300ms\", multiplier = 3 }\ncost = 10",
        1,
    ) + r#"
[[freeze]]
from = "2026-12-20T00:00:00Z"
to = 2027-01-03T00:00:00Z
services = ["shop/*"]
except = ["evacuate"]
[notify]
exec = ["/usr/local/bin/page"]
on = ["proposal", "waiting", "redundancy"]
"#;
    let services = edited(
        "services.toml",
        "approvals = 1",
        "surge_limit = \"20000/s\"\nbreaker = { moves = 2, per = \"1h\" }\napprovals = 1",
    );
    let fabric = SourceFile::new("fabric.toml", fabric);
    let compiled = compile_with_notes(&fabric, &services).expect("valid");
    let keys: Vec<&str> = compiled
        .notes
        .iter()
        .map(|n| {
            assert_eq!(n.code, Code::NoFunctionYet);
            n.message.split('`').nth(1).expect("a key")
        })
        .collect();
    let expected = ["anchors", "notify", "surge_limit", "breaker"];
    assert_eq!(keys, expected);
    assert_eq!(compiled.fabric.anchors.len(), 1);
}

/// Who copies the zone and what signs it; the hash sees every part of it.
#[test]
fn a_zone_may_be_copied_and_signed() {
    let with = |keys: &str| {
        let plain = edited("fabric.toml", "hostmaster", &format!("{keys}\nhostmaster"));
        compile_fabric(&plain).expect(keys)
    };
    let plain = with("");
    assert_eq!((plain.zone.transfer.to.len(), plain.zone.dnssec), (0, None));
    let copied = with(
        "transfer_from = \"osl-b1\"\ntransfer_site = \"svg\"\ntransfer = [\
         { to = \"192.0.2.99\", tsig = \"far\" }, { tsig = \"far.\" }, \
         { to = \"[2001:db8::9]:5353\" }]",
    );
    let transfer = &copied.zone.transfer;
    assert_eq!(transfer.from.as_ref().map(|n| n.as_str()), Some("osl-b1"));
    let to: Vec<_> =
        transfer.to.iter().map(|s| (s.address.map(|a| a.to_string()), s.tsig.as_deref())).collect();
    let address = |text: &str| Some(text.to_owned());
    assert_eq!(
        to,
        [
            (address("192.0.2.99:53"), Some("far.")),
            (None, Some("far.")),
            (address("[2001:db8::9]:5353"), None)
        ]
    );
    let signed = with("dnssec = { csk = \"Ksteer.example.+013+1\" }");
    let later = with("dnssec = { csk = \"Ksteer.example.+013+1\", validity = \"15d\" }");
    let split = with("dnssec = { ksk = \"Ka.+013+1\", zsk = \"Ka.+013+2\", publish = [\"Kb\"] }");
    assert_eq!(signed.zone.dnssec.as_ref().map(|d| d.validity.as_secs()), Some(14 * 86_400));
    let hashes: std::collections::BTreeSet<_> =
        [&plain.hash, &copied.hash, &signed.hash, &later.hash, &split.hash].into();
    assert_eq!(hashes.len(), 5);
}

#[test]
fn a_third_site_may_be_a_witness() {
    let witness = r#"
[[site]]
id = "ber"
rank = 3
[[node]]
id = "ber-w1"
site = "ber"
role = "witness"
key = "UB7UOW6F76U4AQOB4ATT3554UOILP4CUJ4JO2VEHJEXI57SPQSNL7RND"
voter = true
"#;
    let text = file("fabric.toml").text + witness;
    let fabric = compile_fabric(&SourceFile::new("fabric.toml", text)).expect("valid");
    assert_eq!(fabric.sites.len(), 3);
    assert!(fabric.sites[2].prefixes.is_empty());
}

/// Any text, or what the two formats are made of.
const PUT: &str = "\\PC{0,12}|[\\[\\]{}=\"',#\n0-9]{0,6}";

proptest! {
    /// Cuts, inserts and swaps anywhere: an answer always comes, and a refusal names a reason.
    #[test]
    fn no_input_stops_the_reader(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..40), 0..4),
        puts in prop::collection::vec((any::<prop::sample::Index>(), PUT), 0..4),
        as_json in any::<bool>(),
    ) {
        let mutate = |file: SourceFile| {
            let mut text: Vec<char> = file.text.chars().collect();
            for (at, length) in &cuts {
                let at = at.index(text.len().max(1));
                let end = (at + length).min(text.len());
                text.drain(at.min(end)..end);
            }
            for (at, put) in &puts {
                let at = at.index(text.len() + 1);
                text.splice(at..at, put.chars());
            }
            SourceFile::new(file.name, text.into_iter().collect::<String>())
        };
        let files = ["fabric.toml", "services.toml"].map(file);
        let [fabric, services] = files.map(|f| mutate(if as_json { json(&f) } else { f }));
        if let Err(found) = compile(&fabric, &services) {
            prop_assert!(!found.is_empty());
            for diagnostic in found {
                prop_assert!(diagnostic.line() >= 1);
                prop_assert!(diagnostic.to_string().starts_with("error["));
            }
        }
    }

    #[test]
    fn no_text_at_all_stops_the_reader(text in "\\PC*", other in "[\\[\\]{}:,\" a-z0-9\n]*") {
        for name in ["f.toml", "f.json"] {
            for text in [&text, &other] {
                let file = SourceFile::new(name, text);
                drop(compile(&file, &file));
            }
        }
    }
}

/// Groups belong to classes of services, so their ids are no limit for services.
#[test]
fn there_may_be_more_services_than_nexthop_ids() {
    let services = |count: usize| {
        let one = |n: usize| {
            format!(
                "[[service]]\nid = \"a/b/s{n}\"\ncategory = \"C\"\nprimary = \"osl\"\n\
                 vips = [\"10.99.{}.{}\"]\nbackends.osl = [\"10.1.20.2\"]\n",
                n / 250,
                n % 250 + 1
            )
        };
        SourceFile::new("services.toml", (0..count).map(one).collect::<String>())
    };
    let (_, catalog) = compile(&file("fabric.toml"), &services(5000)).expect("valid");
    assert_eq!(catalog.len(), 5000);
}

/// The two-site fabric with a witness at a third site, and three voters.
fn with_voters() -> (SourceFile, SourceFile) {
    let fabric = file("fabric.toml");
    let voter = |text: String, key: &str| {
        let line = format!("key = \"{key}\"");
        text.replacen(&line, &format!("{line}\nvoter = true"), 1)
    };
    let keys = [
        "UC4HCKVSHC45DHSNX2TACAUT7L3VQRQUUK5XCVIRBUXSP7UV3BOZFTNS",
        "UAUB5AZW4QBOYTAXMSUVF4SVHA4TC6HEAFGQIU4HBISPBGZHEIL6MEOL",
    ];
    let text = keys.into_iter().fold(fabric.text, voter);
    let witness = r#"
[[site]]
id = "ber"
region = "de"
rank = 3
[[node]]
id = "ber-w1"
site = "ber"
role = "witness"
key = "UB7UOW6F76U4AQOB4ATT3554UOILP4CUJ4JO2VEHJEXI57SPQSNL7RND"
voter = true
"#;
    let services =
        edited("services.toml", "handover = \"make-before-break\"", "isolation = \"lease\"");
    (SourceFile::new("fabric.toml", text + witness), services)
}

#[test]
fn a_lease_needs_three_voters_and_is_handed_over_one_at_a_time() {
    let (fabric, services) = with_voters();
    let usual = compile(&fabric, &services).expect("three voters are enough");
    let api = usual.1.get(&"shop/prod/api".parse().expect("an id")).expect("it is there").clone();
    assert!(api.is_leased());
    assert_eq!(api.handover, Handover::BreakBeforeMake);
    assert_eq!(usual.0.lease, Lease::default());
    assert_eq!(usual.0.voters().count(), 3);

    let head = "unknown_client = \"primary\"";
    let times = format!("lease = {{ duration = \"10s\", wait = \"12s\" }}\n{head}");
    let text = fabric.text.replacen(head, &times, 1);
    let short = compile(&SourceFile::new("fabric.toml", text), &services).expect("valid");
    assert_eq!(short.0.lease.duration, Duration::from_secs(10));
    assert_ne!(short.0.hash, usual.0.hash, "nodes with other times must not work together");
    let text = fabric.text.replacen(head, &times.replace("10s", "4s"), 1);
    let refused = compile(&SourceFile::new("fabric.toml", text), &services).expect_err("too short");
    assert!(refused.iter().any(|d| d.code == Code::OutOfRange));
}

/// The same with another line under `[fabric]`, and more at the end.
fn voters_as(line: &str, more: &str) -> Result<Fabric, Vec<Diagnostic>> {
    let (fabric, services) = with_voters();
    let head = "unknown_client = \"primary\"";
    let text = fabric.text.replacen(head, &format!("{line}\n{head}"), 1) + more;
    compile(&SourceFile::new("fabric.toml", text), &services).map(|(fabric, _)| fabric)
}

const FOURTH: &str = r#"
[[site]]
id = "trd"
rank = 4
[[node]]
id = "trd-w1"
site = "trd"
role = "witness"
key = "UCER5Y3MTXWJULR6RUNJEVICL7ZCCYFJRFNJO35YTWR423QY4YDTWBIZ"
"#;

#[test]
fn the_voters_before_follow_from_the_file() {
    let names = |electorate: &Electorate| {
        let sites = electorate.voters.iter().map(|site| site.to_string());
        (electorate.generation.0, sites.collect::<Vec<_>>())
    };
    let plain = voters_as("", "").expect("valid");
    assert_eq!(plain.voter_step.generation, Generation(1));
    assert_eq!(plain.electorates().former, None);
    let same = voters_as("voters = { generation = 1 }", "").expect("valid");
    assert_eq!(same.hash, plain.hash, "it says nothing new");

    let added = voters_as(
        "voters = { generation = 2, added = \"trd-w1\" }",
        &format!("{FOURTH}voter = true\n"),
    );
    let added = added.expect("an even number in between");
    let electorates = added.electorates();
    assert_eq!(names(&electorates.present), (2, texts(&["ber", "osl", "svg", "trd"])));
    let former = electorates.former.as_ref().expect("the one before");
    assert_eq!(names(former), (1, texts(&["ber", "osl", "svg"])));
    assert_eq!(electorates.added().map(|site| site.as_str()), Some("trd"));
    assert_eq!(electorates.against(&plain.electorates().terms()), Ok(Step::Next));

    let removed = voters_as("voters = { generation = 3, removed = \"trd-w1\" }", FOURTH);
    let removed = removed.expect("it stays in the file").electorates();
    assert_eq!(names(&removed.present), (3, texts(&["ber", "osl", "svg"])));
    assert_eq!(
        removed.node_of(&"trd".parse().expect("a site")).map(|n| n.as_str()),
        Some("trd-w1")
    );
    assert_eq!(removed.against(&electorates.terms()), Ok(Step::Next));
    assert!(removed.against(&plain.electorates().terms()).is_ok(), "two generations before");
}

fn texts(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn while_the_lease_changes_the_shorter_one_and_the_longer_wait_are_used() {
    let before = "lease_before = { duration = \"60s\", wait = \"90s\" }";
    let lease = |duration: u64, wait: u64| Lease {
        duration: Duration::from_secs(duration),
        wait: Duration::from_secs(wait),
    };
    for ((duration, wait), used) in
        [((30, 90), (30, 90)), ((60, 100), (60, 100)), ((30, 62), (30, 90))]
    {
        let line = format!(
            "lease = {{ duration = \"{duration}s\", wait = \"{wait}s\" }}\n\
             voters = {{ generation = 2, {before} }}"
        );
        let fabric = voters_as(&line, "").expect("each wait covers both leases");
        assert_eq!(fabric.lease, lease(used.0, used.1));
        assert_eq!(fabric.voter_step.lease, lease(duration, wait), "as written");
        assert_eq!(fabric.electorates().terms().lease, lease(duration, wait));
        let former = fabric.electorates().terms_before().expect("the one before");
        assert_eq!(former.lease, lease(60, 90));
    }
    // It may stay as it is: that ends an earlier change of it.
    let same = voters_as(&format!("voters = {{ generation = 3, {before} }}"), "").expect("valid");
    assert_eq!(same.lease, Lease::default());
    let (plain, _) = with_voters();
    let plain = compile_fabric(&plain).expect("valid");
    assert_ne!(same.hash, plain.hash);
}
