//! What sites and links carry after a move.

use nett_policy::fabric::Limit;
use nett_policy::id::Weight;
use nett_policy::log::entry::{Object, Verb};
use nett_policy::safety::Flow;

use super::bench::{Bench, id};

const GIGA: u64 = 1_000_000_000;

/// Every pair is counted; from one site to one other, or inside one, so many Gbit/s.
pub(crate) fn busy(bench: &mut Bench, from: &str, to: &str, gigabits: u64) {
    for a in ["osl", "svg", "ber"] {
        for b in ["osl", "svg", "ber"] {
            bench.sight.flows.entry((id(a), id(b))).or_default();
        }
    }
    let flow = Flow { steered: gigabits * GIGA, ..Flow::default() };
    bench.sight.flows.insert((id(from), id(to)), flow);
}

/// Most of the load is that of one service.
pub(crate) fn weights(bench: &mut Bench) {
    for (service, load) in [("shop/prod/api", 70), ("shop/prod/pay", 10), ("shop/prod/web", 9)] {
        bench.service(service).load = load;
    }
}

fn api_to(site: &str) -> Verb {
    Verb::Failover { services: id("shop/prod/api"), to: id(site) }
}

fn link_rule(bench: &mut Bench, percent: u32, local_share: u8) {
    bench.rule("links-not-full", Limit::LinkLoad { percent, local_share });
}

/// 60 Gbit/s inside osl are those of three services: each brings up to 20 to the two links of
/// 10 Gbit/s.
#[test]
fn what_was_delivered_inside_counts_by_the_share_that_is_for_services() {
    let mut bench = Bench::new();
    busy(&mut bench, "osl", "osl", 60);
    link_rule(&mut bench, 80, 100);
    let refusal = bench.propose(&api_to("svg"), &[]).expect_err("20 of 20");
    assert!(refusal.message.contains("from osl to svg"), "{refusal:?}");
    assert!(refusal.message.contains("20.0 Gbit/s of 20.0 Gbit/s"), "{refusal:?}");
    bench.fabric.safety.clear();
    link_rule(&mut bench, 80, 50);
    bench.propose(&api_to("svg"), &[]).expect("10 of 20");
    bench.fabric.safety.clear();
    link_rule(&mut bench, 100, 100);
    bench.propose(&api_to("svg"), &[]).expect("not more than all");
}

/// What svg sends to osl for api goes to ber then, over one link of 10 Gbit/s.
#[test]
fn what_crosses_already_goes_where_the_service_goes() {
    let mut bench = Bench::new();
    busy(&mut bench, "svg", "osl", 18);
    link_rule(&mut bench, 80, 100);
    // api and pay share the way: 9 each.
    let refusal = bench.propose(&api_to("ber"), &[]).expect_err("9 of 10");
    assert!(refusal.message.contains("from svg to ber"), "{refusal:?}");
    bench.propose(&api_to("svg"), &[]).expect("then nothing of it crosses");
}

#[test]
fn a_drained_link_leaves_the_others_with_its_load() {
    let mut bench = Bench::new();
    busy(&mut bench, "svg", "osl", 9);
    link_rule(&mut bench, 80, 100);
    let verb = Verb::Drain { object: Object::Link(id("osl-svg-1")) };
    let refusal = bench.propose(&verb, &[]).expect_err("9 of 10 instead of 20");
    assert!(refusal.message.contains("9.0 Gbit/s of 10.0 Gbit/s"), "{refusal:?}");
    // What was too much before is nobody's fault now.
    busy(&mut bench, "svg", "osl", 50);
    let other = Verb::Drain { object: Object::Link(id("osl-ber-1")) };
    bench.propose(&other, &["last-link"]).expect("it makes nothing worse");
}

#[test]
fn what_is_not_counted_is_not_judged() {
    let mut bench = Bench::new();
    link_rule(&mut bench, 1, 100);
    bench.propose(&api_to("svg"), &[]).expect("nothing was counted");
    busy(&mut bench, "osl", "osl", 60);
    bench.sight.flows.remove(&(id("osl"), id("svg")));
    bench.sight.flows.remove(&(id("svg"), id("osl")));
    bench.propose(&api_to("svg"), &[]).expect("nor was this pair");
    busy(&mut bench, "osl", "osl", 60);
    bench.fabric.links[0].capacity_bps = None;
    bench.propose(&api_to("svg"), &[]).expect("a link does not say what it carries");
}

#[test]
fn a_share_of_the_traffic_is_a_share_of_the_load() {
    let mut bench = Bench::new();
    weights(&mut bench);
    bench.rule("room", Limit::SiteLoad { percent: 40, of: vec![id("svg")] });
    let steer = |svg: u32| {
        let weight = |w| Weight::new(w).expect("valid");
        let to = [(id("osl"), weight(100 - svg)), (id("svg"), weight(svg))].into();
        Verb::Steer { services: id("shop/prod/api"), to }
    };
    // A third of web's 9 is there already.
    bench.propose(&steer(52), &[]).expect("36.4 and 3");
    let refusal = bench.propose(&steer(53), &[]).expect_err("37.1 and 3");
    assert!(refusal.message.contains("svg would carry 41 of its capacity of 100"), "{refusal:?}");
}

/// A site that is too full may still be emptied, and another one filled.
#[test]
fn a_full_site_refuses_what_comes_and_not_what_goes() {
    let mut bench = Bench::new();
    weights(&mut bench);
    bench.fabric.sites[0].capacity = 1;
    bench.propose(&api_to("ber"), &[]).expect("it leaves the full one");
    bench.accept(&api_to("svg"), &[], true);
    let back = Verb::Failback { services: id("shop/prod/api") };
    let refusal = bench.propose(&back, &[]).expect_err("there is no room");
    assert_eq!(refusal.refused_by, "site-capacity");
}
