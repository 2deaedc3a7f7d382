//! What borders tell of round trips comes to every name server, and stays as long as it should.

mod fleet;

use std::collections::BTreeMap;
use std::time::Duration;

use fleet::{Fleet, id};
use nett_agent::controller::event::Event;
use nett_policy::nearness::{FORGET, RoundTrips};

const MOMENT: Duration = Duration::from_secs(5);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// The border tells these times of its links.
fn tell(fleet: &mut Fleet, node: &str, told: &[(&str, u64)]) {
    let told = told.iter().map(|(link, time)| (id(link), ms(*time))).collect();
    fleet.step(&id(node), Event::RoundTrips { told });
    fleet.pass(MOMENT);
}

/// What every zone knows; all must know the same.
fn known(fleet: &Fleet) -> RoundTrips {
    let mut all: Vec<&RoundTrips> = fleet.agents.values().map(|agent| &agent.near).collect();
    all.dedup();
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].clone()
}

/// From osl to svg and from svg to osl.
fn times(there: u64, back: u64) -> RoundTrips {
    [((id("osl"), id("svg")), ms(there)), ((id("svg"), id("osl")), ms(back))].into()
}

fn entries(fleet: &Fleet) -> usize {
    ["osl", "svg"].iter().map(|site| fleet.log(site).len()).sum()
}

#[test]
fn all_nodes_know_what_the_borders_tell_in_whatever_order_they_heard_it() {
    let mut fleet = Fleet::start();
    let before = entries(&fleet);
    assert_eq!(known(&fleet), RoundTrips::new());
    // One end is enough for both directions, and its own word counts more than the far end's.
    tell(&mut fleet, "osl-b1", &[("osl-svg-1", 12)]);
    assert_eq!(known(&fleet), times(12, 12));
    tell(&mut fleet, "svg-b1", &[("osl-svg-1", 13)]);
    assert_eq!(known(&fleet), times(12, 13));
    let mut other = Fleet::start();
    tell(&mut other, "svg-b1", &[("osl-svg-1", 13)]);
    tell(&mut other, "osl-b1", &[("osl-svg-1", 12)]);
    assert_eq!(known(&other), known(&fleet));
    assert_eq!(entries(&fleet), before, "nothing of it is in the log");
}

#[test]
fn a_border_that_starts_anew_takes_nothing_away_and_one_that_is_gone_is_forgotten() {
    let mut fleet = Fleet::start();
    tell(&mut fleet, "osl-b1", &[("osl-svg-1", 12)]);
    fleet.restart("osl-b1");
    fleet.pass(MOMENT);
    for node in ["osl-r1", "svg-b1", "svg-r1"] {
        assert_eq!(fleet.agents[&id(node)].near, times(12, 12), "{node}");
    }
    tell(&mut fleet, "osl-b1", &[("osl-svg-1", 12)]);
    fleet.silent.insert(id("osl-b1"));
    fleet.pass(FORGET - MOMENT);
    assert_eq!(fleet.agents[&id("svg-b1")].near, times(12, 12));
    fleet.pass(MOMENT * 6);
    for node in ["osl-r1", "svg-b1", "svg-r1"] {
        assert_eq!(fleet.agents[&id(node)].near, RoundTrips::new(), "{node}");
    }
}

#[test]
fn a_site_that_is_cut_off_goes_on_with_what_it_knows() {
    let mut fleet = Fleet::start();
    tell(&mut fleet, "osl-b1", &[("osl-svg-1", 12)]);
    fleet.cut();
    fleet.pass(FORGET * 3);
    assert_eq!(known(&fleet), times(12, 12));
    fleet.heal();
    fleet.pass(MOMENT);
    assert_eq!(known(&fleet), times(12, 12));
}

#[test]
fn links_that_do_not_end_at_a_node_are_none_of_its_business() {
    let mut fleet = Fleet::start();
    let told: BTreeMap<_, _> = [(id("osl-svg-1"), ms(1)), (id("nowhere"), ms(1))].into();
    fleet.step(&id("osl-r1"), Event::RoundTrips { told });
    fleet.pass(MOMENT);
    assert_eq!(fleet.agents[&id("svg-b1")].near, RoundTrips::new());
}
