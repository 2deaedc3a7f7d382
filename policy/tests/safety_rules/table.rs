//! One row for each rule: what makes it bite, and whom.

use nett_policy::fabric::{Family, Freeze, Limit, Link, Node, Transit};
use nett_policy::fact::{Fact, Thousandths};
use nett_policy::id::WallMs;
use nett_policy::log::entry::{Body, Object, Outcome, Verb};
use nett_policy::safety::BUILT_IN;
use nett_policy::task::decide::Proposal;

use super::bench::{Bench, NOW, id, verbs};
use super::loads::{busy, weights};

struct Row {
    rule: &'static str,
    /// Makes the rule bite, after the verb's own beginning.
    setup: fn(&mut Bench),
    refused: &'static [&'static str],
    /// Verbs that make no sense once the rule bites.
    without: &'static [&'static str],
}

const LEAVE: &[&str] = &["failover", "drain site", "drain service", "evacuate"];

fn row(rule: &'static str, refused: &'static [&'static str], setup: fn(&mut Bench)) -> Row {
    Row { rule, setup, refused, without: &[] }
}

fn rows() -> Vec<Row> {
    vec![
        row("keep-sites", &["drain site", "evacuate"], |bench| {
            let of = ["osl", "svg", "ber"].map(id).to_vec();
            bench.rule("keep-sites", Limit::AtLeast { least: 3, of });
        }),
        row("keep-borders", &["drain node"], |bench| {
            let of = ["node:osl-b1", "node:osl-b2"].map(id).to_vec();
            bench.rule("keep-borders", Limit::AtLeast { least: 2, of });
        }),
        row("keep-links", &["drain node", "drain link"], |bench| {
            let of = ["link:osl-svg-1", "link:osl-svg-2"].map(id).to_vec();
            bench.rule("keep-links", Limit::AtLeast { least: 2, of });
        }),
        row("few-drained", &["drain site", "evacuate"], |bench| {
            bench.rule("few-drained", Limit::DrainedShare { percent: 30, of: Vec::new() });
        }),
        row(
            "one-at-once",
            &[
                "failover",
                "failback",
                "steer",
                "drain site",
                "undrain site",
                "drain service",
                "drain node",
                "drain link",
                "drain cluster",
                "evacuate",
                "revert",
            ],
            |bench| {
                let verb = Verb::Drain { object: Object::Link(id("osl-svg-4")) };
                bench.accept(&verb, &[], false);
                let services = Vec::new();
                bench.rule("one-at-once", Limit::TasksAtOnce { most: 1, services });
            },
        ),
        row("links-not-full", LEAVE, |bench| {
            busy(bench, "osl", "osl", 60);
            bench.rule("links-not-full", Limit::LinkLoad { percent: 80, local_share: 100 });
        }),
        row("room-at-svg", LEAVE, |bench| {
            weights(bench);
            bench.rule("room-at-svg", Limit::SiteLoad { percent: 60, of: vec![id("svg")] });
        }),
        row("site-capacity", LEAVE, |bench| {
            weights(bench);
            bench.fabric.sites[1].capacity = 60;
        }),
        row("two-ducts", &["drain node", "drain link"], |bench| {
            for link in &mut bench.fabric.links {
                let first = link.id.as_str() == "osl-svg-1";
                link.risk = vec![if first { "duct-7" } else { "duct-9" }.to_owned()];
            }
            bench.rule("two-ducts", Limit::RiskGroups { least: 2, of: vec![id("osl")] });
        }),
        row("freeze", NOT_FAILBACK, |bench| {
            bench.fabric.freezes.push(Freeze {
                from: WallMs(0),
                to: WallMs(NOW.0 + 3_600_000),
                services: Vec::new(),
                except: vec!["failback".to_owned()],
                owner: Some("netops".to_owned()),
            });
        }),
        row("window", NOT_EVACUATE, |bench| {
            let (services, except) = (Vec::new(), vec!["evacuate".to_owned()]);
            let fact = "changes-allowed".to_owned();
            bench.rule("window", Limit::Switch { fact, services, except });
        }),
        row("last-border", &["drain node"], |bench| {
            bench.sight.away.insert(id("osl-b2"));
        }),
        row("last-cluster", &["drain cluster"], |bench| {
            bench.accept(&Verb::Drain { object: Object::Cluster(id("osl/k2")) }, &[], true);
        }),
        row("last-link", &["drain node", "drain link"], |bench| {
            bench.sight.down = ["osl-svg-2", "osl-svg-3", "osl-svg-4"].map(id).into();
        }),
        Row {
            rule: "last-eligible-site",
            setup: |bench| {
                for site in ["svg", "ber"] {
                    let object = Object::ServiceAt(id("shop/prod/api"), id(site));
                    bench.accept(&Verb::Drain { object }, &[], true);
                }
            },
            refused: &["drain site", "drain service", "evacuate"],
            without: &["failover", "failback", "steer", "undrain site", "revert", "release"],
        },
    ]
}

const NOT_FAILBACK: &[&str] = &[
    "failover",
    "steer",
    "drain site",
    "undrain site",
    "drain service",
    "drain node",
    "drain link",
    "drain cluster",
    "evacuate",
    "release",
    "revert",
];

const NOT_EVACUATE: &[&str] = &[
    "failover",
    "failback",
    "steer",
    "drain site",
    "undrain site",
    "drain service",
    "drain node",
    "drain link",
    "drain cluster",
    "release",
    "revert",
];

/// A bench on which the verb is possible, and the verb.
fn ready(begin: fn(&mut Bench) -> Verb) -> (Bench, Verb) {
    let mut bench = Bench::new();
    let verb = begin(&mut bench);
    (bench, verb)
}

#[test]
fn every_rule_refuses_what_it_is_about_and_nothing_else() {
    for Row { rule, setup, refused, without } in rows() {
        for (name, begin) in verbs().into_iter().filter(|(name, _)| !without.contains(name)) {
            let (mut bench, verb) = ready(begin);
            setup(&mut bench);
            let by = bench.propose(&verb, &[]).err();
            let found = by.as_ref().map(|refusal| refusal.refused_by.as_str());
            let expected = refused.contains(&name).then_some(rule);
            assert_eq!(found, expected, "{rule} and {name}: {by:?}");
            let Some(refusal) = by else { continue };
            assert!(refusal.message.contains("view is 3 s old"), "{rule}: {refusal:?}");
            let hint = refusal.hint.expect("what to do");
            assert!(hint.contains(&format!("--override {rule}")), "{rule}: {hint}");
            let ours = !BUILT_IN.contains(&rule) || rule == "freeze";
            assert_eq!(hint.contains("owner: netops"), ours, "{rule}: {hint}");
            let passed = passed_over(&bench, &verb, rule);
            assert!(passed.approvals_needed >= 1, "{rule} and {name}: somebody else agrees");
        }
    }
}

/// The plan once the rule is passed over by its name; what else is in the way is named then, and
/// never the same again.
fn passed_over(bench: &Bench, verb: &Verb, rule: &str) -> Proposal {
    let mut overrides = vec![rule.to_owned()];
    loop {
        let names: Vec<&str> = overrides.iter().map(String::as_str).collect();
        match bench.propose(verb, &names) {
            Ok(proposal) => return proposal,
            Err(next) => {
                assert!(!overrides.contains(&next.refused_by), "{overrides:?}: {next:?}");
                overrides.push(next.refused_by);
            }
        }
    }
}

/// The state may change between the acceptance and the approval.
#[test]
fn every_rule_is_asked_again_when_a_task_takes_effect() {
    for Row { rule, setup, refused, .. } in rows() {
        for (name, begin) in verbs().into_iter().filter(|(name, _)| refused.contains(name)) {
            let (mut bench, verb) = ready(begin);
            let calm = bench.propose(&verb, &[]).expect("nothing is against it yet");
            setup(&mut bench);
            let Body::End(end) = bench.effect_of(&verb, &calm) else {
                panic!("{rule} and {name}: it takes effect");
            };
            assert_eq!(end.outcome, Outcome::Failed, "{rule} and {name}");
            let by = format!("refused by {rule} when it was to take effect");
            assert!(end.reason.contains(&by), "{rule} and {name}: {}", end.reason);
        }
    }
}

/// An override of another rule, or of all rules but one, is none.
#[test]
fn an_override_is_of_one_rule_by_its_name() {
    for Row { rule, setup, refused, .. } in rows() {
        let (_, begin) = verbs().into_iter().find(|(name, _)| *name == refused[0]).expect("known");
        let (mut bench, verb) = ready(begin);
        setup(&mut bench);
        let others: Vec<&str> = BUILT_IN.into_iter().filter(|name| *name != rule).collect();
        let refusal = bench.propose(&verb, &others).expect_err("it still bites");
        assert_eq!(refusal.refused_by, rule);
    }
}

#[test]
fn nothing_passes_over_residency() {
    let mut bench = Bench::new();
    bench.service("shop/prod/api").residency = vec!["no".to_owned()];
    let services: nett_policy::id::Selector = id("shop/prod/api");
    let weight = nett_policy::id::Weight::ONE;
    let abroad = [
        Verb::Failover { services: services.clone(), to: id("ber") },
        Verb::Steer { services, to: [(id("osl"), weight), (id("ber"), weight)].into() },
    ];
    for verb in abroad {
        let refusal = bench.propose(&verb, &BUILT_IN).expect_err("refused");
        assert_eq!(refusal.refused_by, "residency", "{verb:?}");
        let hint = refusal.hint.unwrap_or_default();
        assert!(hint.contains("cannot be overridden"), "{hint}");
        let refusal = bench.propose(&verb, &["residency"]).expect_err("no such override");
        assert_eq!(refusal.refused_by, "unknown-rule");
    }
    // Where nothing else is left it goes nowhere, and only by somebody's word for that.
    for object in ["osl", "svg"].map(|site| Object::Site(id(site))) {
        let verb = Verb::Drain { object };
        let overrides = &BUILT_IN;
        let Ok(proposal) = bench.propose(&verb, overrides) else { panic!("{verb:?}") };
        let api = |m: &&nett_policy::log::entry::Move| m.service.as_str() == "shop/prod/api";
        for one in proposal.effect.moves.iter().filter(api) {
            assert!(!one.to.spread.has(&id("ber")), "{one:?}");
        }
        bench.accept(&verb, overrides, true);
    }
}

/// A way through a third site is a way while it works, for services that may take it.
#[test]
fn the_last_link_may_be_drained_where_traffic_goes_through_another_site() {
    let bench = |change: fn(&mut Bench)| {
        let mut bench = Bench::new();
        bench.sight.down = ["osl-svg-2", "osl-svg-3", "osl-svg-4"].map(id).into();
        bench.fabric.transits = vec![Transit { via: id("ber"), between: ["osl", "svg"].map(id) }];
        change(&mut bench);
        let verb = Verb::Drain { object: Object::Link(id("osl-svg-1")) };
        bench.propose(&verb, &[]).err().map(|refusal| refusal.refused_by)
    };
    assert_eq!(bench(|_| {}), None);
    for change in [
        (|bench| bench.fabric.transits.clear()) as fn(&mut Bench),
        |bench| bench.sight.down.extend([id("osl-ber-1")]),
        |bench| bench.sight.away.extend([id("svg-b2")]),
        |bench| bench.service("shop/prod/api").residency = vec!["no".to_owned()],
    ] {
        let by = bench(change);
        // Without its link to ber the last group of osl goes too, and is the first to be named.
        assert!(matches!(by.as_deref(), Some("last-link" | "last-risk-group")), "{by:?}");
    }
}

/// A drain at a site in between takes the way through it, though each two sites keep a link.
#[test]
fn the_only_way_through_another_site_is_kept_like_a_link() {
    let refusal = |down: &[&str], change: fn(&mut Bench)| {
        let mut bench = Bench::new();
        bench.fabric.transits = vec![Transit { via: id("ber"), between: ["osl", "svg"].map(id) }];
        // Its other border has no link to svg.
        let first = bench.fabric.node(&id("ber-b1")).expect("a border").clone();
        bench.fabric.nodes.push(Node { id: id("ber-b2"), ..first });
        let link = bench.fabric.links.iter().find(|l| l.id.as_str() == "osl-ber-1");
        let mut link = link.expect("a link").clone();
        link.id = id("osl-ber-2");
        link.b.node = id("ber-b2");
        bench.fabric.links.push(link);
        bench.sight.down = down.iter().map(|link| id(link)).collect();
        change(&mut bench);
        let verb = Verb::Drain { object: Object::Link(id("osl-ber-1")) };
        bench.propose(&verb, &[]).err().map(|refusal| (refusal.refused_by, refusal.message))
    };
    let cut = ["osl-svg-1", "osl-svg-2", "osl-svg-3", "osl-svg-4"];
    let (rule, message) = refusal(&cut, |_| {}).expect("it is the only way");
    assert_eq!(rule, "last-link");
    assert!(message.contains("between osl and svg in service: osl-svg-1 is down"), "{message}");
    assert!(message.contains("osl-ber-1 would be drained"), "{message}");
    assert_eq!(refusal(&cut[1..], |_| {}), None, "a direct link is left");
    assert_eq!(refusal(&cut, |bench| bench.fabric.transits.clear()), None, "there was none");
    // Of the other family there is one.
    let only_v4 = |bench: &mut Bench| {
        for link in bench.fabric.links.iter_mut().filter(|l| l.id.as_str() == "osl-svg-1") {
            keep(link, Family::V4);
        }
    };
    let (_, message) = refusal(&cut[1..], only_v4).expect("IPv6 has no other way");
    assert!(message.contains("no link (IPv6) between osl and svg in service"), "{message}");
}

fn keep(link: &mut Link, family: Family) {
    for end in [&mut link.a, &mut link.b] {
        end.addresses.retain(|net| Family::of_net(*net) == family);
    }
}

/// A packet needs its own family on both halves.
#[test]
fn two_halves_of_different_families_are_no_way_through() {
    let by = |families: [&[Family]; 2]| {
        let mut bench = Bench::new();
        bench.sight.down = ["osl-svg-2", "osl-svg-3", "osl-svg-4"].map(id).into();
        bench.fabric.transits = vec![Transit { via: id("ber"), between: ["osl", "svg"].map(id) }];
        for (name, families) in ["osl-ber-1", "svg-ber-1"].into_iter().zip(families) {
            let link = bench.fabric.links.iter_mut().find(|l| l.id.as_str() == name);
            let link = link.expect("the bench has it");
            families.iter().for_each(|family| keep(link, *family));
        }
        let verb = Verb::Drain { object: Object::Link(id("osl-svg-1")) };
        bench.propose(&verb, &[]).err().map(|refusal| refusal.refused_by)
    };
    assert_eq!(by([&[], &[]]), None);
    assert_eq!(by([&[Family::V4], &[Family::V6]]).as_deref(), Some("last-link"));
    assert_eq!(by([&[Family::V4], &[]]).as_deref(), Some("last-link"), "IPv6 has no way");
}

/// A site that is joined to one other has the rule of the last link; of several, the groups.
#[test]
fn the_last_group_of_links_of_a_site_stays() {
    let mut bench = Bench::new();
    bench.sight.down =
        ["osl-svg-2", "osl-svg-3", "osl-svg-4", "osl-ber-1"].map(id).into_iter().collect();
    let verb = Verb::Drain { object: Object::Link(id("osl-svg-1")) };
    let refusal = bench.propose(&verb, &["last-link"]).expect_err("the last group");
    assert_eq!(refusal.refused_by, "last-risk-group");
    bench.propose(&verb, &["last-link", "last-risk-group"]).expect("both are passed over");
    // The other way to the third site is enough.
    bench.sight.down.remove(&id("osl-ber-1"));
    bench.propose(&verb, &["last-link"]).expect("one group is left");
}

/// A dead site is out of service, although nobody drained it.
#[test]
fn a_silent_site_does_not_count_as_one_that_is_kept() {
    let mut bench = Bench::new();
    let of = ["osl", "svg"].map(id).to_vec();
    bench.rule("keep-one", Limit::AtLeast { least: 1, of });
    let verb = Verb::Drain { object: Object::Site(id("osl")) };
    bench.propose(&verb, &[]).expect("svg is left");
    bench.sight.silent.insert(id("svg"));
    let refusal = bench.propose(&verb, &[]).expect_err("nobody is left");
    assert_eq!(refusal.refused_by, "keep-one");
}

/// A switch that nobody reports is off, and so is one whose report has expired.
#[test]
fn a_switch_lets_changes_through_while_it_is_reported_to_be_on() {
    let mut bench = Bench::new();
    let (services, except) = (vec![id("shop/*")], Vec::new());
    let fact = "changes-allowed".to_owned();
    bench.rule("window", Limit::Switch { fact: fact.clone(), services, except });
    let verb = Verb::Drain { object: Object::Site(id("osl")) };
    let by = |bench: &Bench| bench.propose(&verb, &[]).err().map(|refusal| refusal.refused_by);
    assert_eq!(by(&bench).as_deref(), Some("window"));
    let report = Fact {
        id: id("osl.01jd3m5w7r8v3qyb2s9t4k6e1h"),
        value: Thousandths(1000),
        unit: String::new(),
        measured_at: NOW,
        expires_at: WallMs(NOW.0 + 30_000),
        person: "desk".to_owned(),
    };
    bench.sight.facts.take((None, fact), report);
    assert_eq!(by(&bench), None);
    bench.sight.now = WallMs(NOW.0 + 30_000);
    assert_eq!(by(&bench).as_deref(), Some("window"), "nobody has said so lately");
}
