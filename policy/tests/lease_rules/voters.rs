//! The set of voters and its generations.

use std::collections::{BTreeMap, BTreeSet};

use nett_policy::id::{Epoch, Generation, NodeId, SiteId};
use nett_policy::lease::knowledge::{Read, Unheard};
use nett_policy::lease::vote::{Electorate, Incarnation};
use nett_policy::lease::voter::Voter;
use nett_policy::lease::voters::{
    BadVoters, Newest, NoRise, Voters, agrees, has_settled, may_rise,
};

use crate::bench::{Bench, NAMES, claim, electorate, s, service, site};

/// Voters by their nodes, each of the site before the dash.
fn voters(generation: u64, nodes: &[&str]) -> Voters {
    let of = |node: &&str| -> (SiteId, NodeId) {
        let (at, _) = node.split_once('-').expect("a site's node");
        (site(at), node.parse().expect("a node"))
    };
    Voters { generation: Generation(generation), nodes: nodes.iter().map(of).collect() }
}

const THREE: [&str; 3] = ["osl-1", "svg-1", "trd-1"];

#[test]
fn one_voter_changes_in_each_generation() {
    let now = voters(2, &THREE);
    let next = |generation, nodes: &[&str]| now.check(&voters(generation, nodes));
    assert_eq!(next(2, &THREE), Ok(()));
    assert_eq!(next(3, &["osl-1", "svg-1", "trd-1", "ber-1"]), Ok(()), "added");
    assert_eq!(next(3, &["osl-1", "svg-1"]), Ok(()), "removed");
    assert_eq!(next(3, &THREE), Ok(()), "a number that nobody needed");
    let (running, file) = (Generation(2), Generation(1));
    assert_eq!(next(1, &THREE), Err(BadVoters::Lower { running, file }));
    let changed = next(2, &["osl-1", "svg-1", "trd-1", "ber-1"]).expect_err("the same number");
    assert_eq!(
        changed.to_string(),
        "the fabric file has other voters (+ber-1) in the generation 2 that this node runs: write \
         voters_gen = 3 into [fabric] when the set of voters changes"
    );
    let two = [
        &["osl-1", "svg-1", "ber-1"][..],
        &["osl-1", "svg-1", "trd-1", "ber-1", "ham-1"],
        &["osl-1"],
        // Two machines would vote for one site.
        &["osl-2", "svg-1", "trd-1"],
    ];
    for nodes in two {
        assert!(matches!(next(3, nodes), Err(BadVoters::TwoAtOnce { .. })), "{nodes:?}");
    }
    // Nobody knows here what was in between.
    assert_eq!(next(4, &["ham-1", "ber-1", "cph-1"]), Ok(()));
}

#[test]
fn a_majority_runs_a_generation_for_the_wait_before_it_has_settled() {
    let settled = |since: &[Option<u64>], now| {
        has_settled(s(90), &since.iter().map(|at| at.map(s)).collect::<Vec<_>>(), s(now))
    };
    assert!(!settled(&[], 1000), "nobody is no majority of nobody");
    assert!(!settled(&[Some(0), Some(10), None], 99));
    assert!(settled(&[Some(0), Some(10), None], 100));
    assert!(!settled(&[Some(0), Some(10), None, None], 1000), "two of four are none");
    assert!(settled(&[Some(0), Some(10), Some(20), None], 110));
}

#[test]
fn no_generation_begins_before_the_one_before_has_settled() {
    let [two, three, four] = [2, 3, 4].map(Generation);
    assert_eq!(may_rise(two, three, false, false), Err(NoRise::Unsettled(two)));
    assert_eq!(may_rise(two, three, true, false), Ok(()));
    assert_eq!(may_rise(two, four, true, false), Err(NoRise::Skipped(two)));
    assert_eq!(may_rise(two, four, false, true), Ok(()), "somebody has looked at all that");
}

#[test]
fn a_vote_contradicts_what_is_newer_or_another_claims() {
    let newest = |claim, epoch| Newest { claim, epoch: Epoch(epoch) };
    let (own, none) = (newest("a", 5), None::<&Newest<&str>>);
    assert!(agrees(none, &newest("b", 9)));
    assert!(agrees(Some(&own), &newest("b", 4)));
    assert!(agrees(Some(&own), &newest("a", 5)));
    assert!(!agrees(Some(&own), &newest("b", 5)));
    assert!(!agrees(Some(&own), &newest("a", 6)));
}

/// Served by three voters for a long time; another electorate with a fourth one.
fn served() -> (Bench, Electorate) {
    let mut bench = Bench::new();
    let first = claim(1, "osl");
    for name in NAMES {
        bench.vote(name, &first).expect("a vote");
    }
    bench.hear_all(s(0));
    bench.hear_all(s(100));
    assert!(bench.serves(&first, s(100)));
    let mut four = electorate();
    four.generation = Generation(2);
    four.voters.insert(site("ber"));
    (bench, four)
}

#[test]
fn answers_count_for_the_generation_that_they_are_of() {
    let (mut bench, four) = served();
    let first = claim(1, "osl");
    for name in ["osl", "svg"] {
        bench.voter(name).elect(Generation(2));
        assert_eq!(bench.hear(name, s(120)), Err(Unheard::Generation));
    }
    assert_eq!(bench.node.runs(&site("osl")), Some(Generation(2)));
    assert_eq!(bench.node.runs(&site("trd")), Some(Generation(1)));
    assert!(bench.serves(&first, s(159)), "by the answers from before");
    assert!(!bench.serves(&first, s(160)), "which have ended");
    bench.rules.quorum = 3;
    bench.node.elect(four);
    assert!(!bench.serves(&first, s(160)), "two of four");
    bench.voter("trd").elect(Generation(2));
    bench.hear("trd", s(160)).expect("it counts");
    assert!(bench.serves(&first, s(160)), "what was heard before the own change counts after it");
    bench.voter("osl").elect(Generation(1));
    assert_eq!(bench.voter("osl").generation(), Generation(2), "never back");
}

#[test]
fn a_voter_of_the_next_generation_is_read_before_it_counts() {
    let (mut bench, _) = served();
    let mut new = Voter::founded(site("ber"), Incarnation(9), Generation(2));
    let ballot = new.ballot(&bench.rules, &claim(1, "osl"), &BTreeMap::new());
    let vote = crate::bench::seal(&ballot);
    assert_eq!(bench.node.read_vote(&vote, s(120)), Read::Stranger);
    bench.node.await_voters(BTreeSet::from([site("ber")]));
    assert_eq!(bench.node.read_vote(&vote, s(120)), Read::Next(1));
    new.made(vote).expect("it follows");
    bench.voters.insert(site("ber"), new);
    assert_eq!(bench.hear("ber", s(121)), Err(Unheard::Generation));
    assert_eq!(bench.node.runs_since(&site("ber"), Generation(1)), Some(s(121)));
    let backers = bench.node.backers(&service());
    assert_eq!(backers.values().sum::<usize>(), 3, "it is none of the voters here");
}

/// Of one in a later generation it would learn what it may not use, one that is two behind may be
/// counted by nodes that nobody may meet.
#[test]
fn who_lost_a_journal_believes_neighbouring_generations_alone() {
    for (theirs, heard) in [(1, false), (2, true), (3, true), (4, false)] {
        let (mut bench, _) = served();
        let three = Electorate { generation: Generation(3), ..electorate() };
        let mut lost = Voter::lost(site("trd"), Incarnation(7), &three);
        for name in ["osl", "svg"] {
            bench.voter(name).elect(Generation(theirs));
            let answer = bench.answer(name, s(120));
            let _ = bench.node.take(&answer, s(120));
            lost.heard(&answer);
        }
        lost.rejoin(&bench.node);
        assert_eq!(lost.pending().is_empty(), heard, "generation {theirs}");
    }
}
