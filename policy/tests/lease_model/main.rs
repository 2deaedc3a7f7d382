//! The model check of the quorum lease: every order in which votes, readings, withdrawals, deaths,
//! losses and ticks can happen, in small bounds.
//!
//! Who serves is decided by the very functions the product calls
//! ([`nett_policy::lease::rule::counts`] and [`nett_policy::lease::rule::serves`]), whether a voter
//! may vote by [`nett_policy::lease::rule::may_vote`], and every rule that can be taken away is
//! taken away once and must be missed. `docs/adr/0009-quorum-lease-model.md` has the results.
//!
//! `NETT_MODEL=large` adds the searches that take minutes and gigabytes; `NETT_MODEL=NAME` runs one
//! search by its name. Both print what they saw.

mod change;
mod explore;
mod judge;
mod runs;
mod state;
mod steps;

use std::io::Write;

use explore::{Found, explore};
use runs::{LARGE, MUTANTS, Run, SMALL};

/// What `NETT_MODEL` says.
#[expect(clippy::disallowed_methods, reason = "the bounds of a test, not of the core")]
fn wanted() -> Option<String> {
    std::env::var("NETT_MODEL").ok()
}

#[expect(clippy::disallowed_methods, reason = "the results of a long search, when asked for")]
fn say<T: std::fmt::Debug>(name: &str, found: &Found<T>) {
    let Found { states, complete, served, breach } = found;
    let mut out = std::io::stderr();
    let said = match breach {
        None if *complete => "holds, complete".to_owned(),
        None => "nothing found, not complete".to_owned(),
        Some((breach, trace)) => format!("{breach:?} after {} steps: {trace:?}", trace.len()),
    };
    writeln!(out, "{name}: {states} states, served {served:03b}: {said}").expect("stderr");
}

#[track_caller]
fn holds(run: &Run) {
    holds_as(run.name, run.claims.len(), &explore(run));
}

#[track_caller]
fn holds_as<T: std::fmt::Debug>(name: &str, claims: usize, found: &Found<T>) {
    if wanted().is_some() {
        say(name, found);
    }
    assert!(found.breach.is_none(), "{name}: {:?}", found.breach);
    assert!(found.complete, "{name}: the bound on states ended the search");
    // Progress: a model in which nobody ever serves would hold as well.
    assert_eq!(u32::from(found.served).count_ones() as usize, claims, "{name}");
}

fn small(name: &str) {
    let run = SMALL.iter().find(|r| r.name == name).expect("a search of this name");
    holds(run);
}

macro_rules! searches {
    ($($test:ident $name:literal,)*) => {
        $(#[test] fn $test() { small($name); })*

        #[test]
        fn every_small_search_is_a_test() {
            let tested = [$($name),*];
            assert_eq!(SMALL.iter().map(|r| r.name).collect::<Vec<_>>(), tested);
        }
    };
}

searches! {
    a_slow_clock_does_not_keep_the_old_holder "witness",
    the_same_with_every_reading "witness-every",
    dead_agents_do_not_keep_the_old_holder "witness-crash",
    waits_survive_a_restart_in_one_boot "witness-keep",
    a_longer_lease "wide",
    two_nodes_of_a_site_have_clocks_of_their_own "two-nodes",
    a_third_claim_goes_back "back",
    two_claims_of_one_epoch "equal",
    two_claims_of_one_epoch_beside_a_holder "equal-held",
    three_sites_and_a_dead_agent "third-crash",
    five_voters "five",
    both_nodes_of_a_site_confirm "confirm-two",
    a_confirmed_move_while_a_journal_is_lost "confirm-am",
    a_voter_loses_its_journal "amnesia-two",
    a_voter_forgets_one_of_two_claims_of_one_epoch "amnesia-eq",
    voters_lose_their_journals_one_after_the_other "amnesia-later",
    two_voters_forget_and_nobody_rejoins "amnesia-mutex",
    confirmed_moves_beside_a_voter_that_forgot "confirm-mutex",
    without_a_majority_while_the_others_are_off "alone",
    without_a_majority_in_an_epoch_that_they_had "alone-equal",
    without_a_majority_below_what_they_had "alone-higher",
}

#[test]
fn every_rule_is_missed_when_it_is_taken_away() {
    for broken in MUTANTS {
        let found = explore(&broken.run);
        if wanted().is_some() {
            say(broken.run.name, &found);
        }
        let breach = found.breach.as_ref().map(|(breach, _)| *breach);
        assert_eq!(breach, Some(broken.breach), "{}: {found:?}", broken.run.name);
    }
}

#[test]
fn voters_come_and_go_one_at_a_time() {
    for run in change::HOLD {
        holds_as(run.name, run.claims.len() + 1, &change::explore(run));
    }
}

#[test]
fn every_rule_of_a_change_is_missed_when_it_is_taken_away() {
    for (run, wanted_breach) in change::MUTANTS {
        let found = change::explore(run);
        if wanted().is_some() {
            say(run.name, &found);
        }
        let breach = found.breach.as_ref().map(|(breach, _)| *breach);
        assert_eq!(breach, Some(*wanted_breach), "{}: {found:?}", run.name);
    }
}

#[test]
fn larger_searches_when_asked_for() {
    let wanted = wanted().unwrap_or_default();
    for run in LARGE.iter().filter(|r| wanted == "large" || wanted == r.name) {
        holds(run);
    }
    for run in change::LARGE.iter().filter(|r| wanted == "large" || wanted == r.name) {
        holds_as(run.name, run.claims.len() + 1, &change::explore(run));
    }
}
