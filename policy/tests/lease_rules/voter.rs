//! What a voter may promise, and how it comes back without its journal.

use std::collections::BTreeMap;

use nett_policy::id::{Epoch, ServiceId};
use nett_policy::lease::knowledge::Knowledge;
use nett_policy::lease::rule::{Bound, NoVote, may_vote};
use nett_policy::lease::vote::{Incarnation, Nonce};
use nett_policy::lease::voter::Voter;

use crate::bench::{Bench, claim, electorates, rules, s, seal, service, site};

#[test]
fn a_voter_votes_once_in_an_epoch_and_never_lower() {
    use NoVote::{Floor, NotHigher, Rejoining};
    let bound = |newest, floor, decided| Bound {
        rejoining: false,
        newest: Epoch(newest),
        floor: Epoch(floor),
        decided,
    };
    for (bound, epoch, verdict) in [
        (bound(0, 0, false), 0, Err(NotHigher(Epoch(0)))),
        (bound(0, 0, false), 1, Ok(())),
        (bound(4, 0, false), 5, Ok(())),
        (bound(4, 0, true), 4, Err(NotHigher(Epoch(4)))),
        (bound(4, 0, true), 3, Err(NotHigher(Epoch(4)))),
        (bound(0, 4, false), 5, Ok(())),
        (bound(0, 4, false), 4, Err(Floor(Epoch(4)))),
        (bound(0, 4, true), 4, Ok(())),
        (bound(0, 4, true), 3, Err(Floor(Epoch(4)))),
        (bound(4, 4, true), 4, Err(NotHigher(Epoch(4)))),
        (Bound { rejoining: true, ..bound(0, 0, true) }, 9, Err(Rejoining)),
    ] {
        assert_eq!(may_vote(bound, Epoch(epoch)), verdict, "{bound:?} epoch {epoch}");
    }
}

#[test]
fn a_class_is_voted_for_without_the_services_that_are_taken() {
    let mut bench = Bench::new();
    bench.vote("osl", &claim(3, "osl")).expect("a vote");
    let free: ServiceId = "shop/prod/queue".parse().expect("a service");
    let mut class = claim(2, "svg");
    class.services.insert(free.clone(), Epoch(1));
    let ballot = bench.voter("osl").ballot(&Knowledge::new(electorates()), &class);
    assert_eq!(ballot.services, BTreeMap::from([(free, Epoch(1))]));
    assert_eq!(ballot.left_out, BTreeMap::from([(service(), NoVote::NotHigher(Epoch(3)))]));
    assert_eq!(ballot.number, 2);
}

#[test]
fn a_vote_that_does_not_follow_says_that_the_journal_is_not_whole() {
    let mut bench = Bench::new();
    let first = bench.vote("osl", &claim(1, "osl")).expect("a vote");
    let ballot = bench.voter("osl").ballot(&Knowledge::new(electorates()), &claim(2, "svg"));
    let second = seal(&ballot);
    let fresh = || Voter::founded(site("osl"), Incarnation(1), electorates());
    assert!(fresh().made(second.clone()).is_err(), "the first is missing");
    let mut replayed = fresh();
    replayed.made(first.clone()).expect("it follows");
    assert!(replayed.made(first).is_err(), "twice");
    let mut other = second.clone();
    other.incarnation = Incarnation(2);
    assert!(replayed.made(other).is_err(), "another incarnation");
    replayed.made(second).expect("it follows");
}

#[test]
fn an_answer_says_how_many_votes_there_are_and_brings_what_is_missing() {
    let mut bench = Bench::new();
    for epoch in 1..=3 {
        bench.vote("osl", &claim(epoch, "osl")).expect("a vote");
    }
    let mut ask = bench.ask("osl", s(0));
    ask.known = BTreeMap::from([(Incarnation(1), 2), (Incarnation(7), 9)]);
    let answer = bench.voter("osl").answer(&ask, s(0)).expect("it answers");
    assert_eq!((answer.stated, answer.nonce), (3, ask.nonce));
    assert_eq!(answer.new.iter().map(|v| v.number).collect::<Vec<_>>(), [3]);
    assert_eq!(bench.voter("svg").answer(&ask, s(0)), None, "not asked");
}

/// Lets `name` ask `other` and read what it says. The process of `name` began after its loss.
fn reads(bench: &mut Bench, knowledge: &mut Knowledge, name: &str, other: &str, nonce: u128) {
    let ask = knowledge.ask(&rules(), &site(other), Nonce(nonce), s(0));
    let answer = bench.voter(other).answer(&ask, s(0)).expect("it answers");
    knowledge.take(&answer, s(0)).expect("its own ask");
    bench.voter(name).heard(&answer);
    bench.voter(name).rejoin(knowledge);
}

fn loses(bench: &mut Bench, name: &str, incarnation: u128) -> Knowledge {
    let incarnation = Incarnation(incarnation);
    *bench.voter(name) = Voter::lost(site(name), incarnation, electorates(), s(0));
    Knowledge::lost(electorates())
}

#[test]
fn without_its_journal_a_voter_reads_all_others_first() {
    let mut bench = Bench::new();
    let second = claim(2, "svg");
    bench.vote("osl", &second).expect("a vote");
    bench.vote("svg", &second).expect("a vote");
    let mut knowledge = loses(&mut bench, "osl", 50);
    let ask = bench.ask("osl", s(0));
    assert_eq!(bench.voter("osl").answer(&ask, s(0)), None);
    assert_eq!(bench.vote("osl", &claim(9, "osl")), None);
    reads(&mut bench, &mut knowledge, "osl", "trd", 1);
    assert_eq!(bench.voter("osl").pending().len(), 1);
    // It knows that svg has one vote, and has not read it.
    let ask = knowledge.ask(&rules(), &site("svg"), Nonce(2), s(0));
    let mut answer = bench.voter("svg").answer(&ask, s(0)).expect("it answers");
    let votes = std::mem::take(&mut answer.new);
    knowledge.take(&answer, s(0)).expect("its own ask");
    bench.voter("osl").heard(&answer);
    assert!(bench.voter("osl").rejoin(&knowledge).is_empty());
    for vote in &votes {
        knowledge.read_vote(vote, s(0));
    }
    assert_eq!(bench.voter("osl").rejoin(&knowledge), [site("svg")]);
    assert_eq!(bench.voter("osl").floor()[&service()], Epoch(2));
    assert_eq!(bench.vote("osl", &claim(1, "osl")), None, "an older claim");
    assert_eq!(bench.vote("osl", &claim(2, "osl")), None, "it may have voted otherwise");
    assert!(bench.voter("osl").ballot(&knowledge, &second).services.is_empty(), "one other");
    knowledge.read_vote(&bench.vote("trd", &second).expect("a vote"), s(0));
    let ballot = bench.voter("osl").ballot(&knowledge, &second);
    assert_eq!(ballot.services.len(), 1, "decided without it");
    bench.vote("osl", &claim(3, "osl")).expect("a newer claim");
}

/// What the model found: osl and svg moved the service, and each of them forgets, but never both at
/// once. Only the floor of the one tells the other.
#[test]
fn floors_are_told_to_the_next_voter_that_forgets() {
    let mut bench = Bench::new();
    let second = claim(2, "svg");
    bench.vote("osl", &second).expect("a vote");
    bench.vote("svg", &second).expect("a vote");
    for (n, (name, others)) in
        [("osl", ["svg", "trd"]), ("svg", ["osl", "trd"])].into_iter().enumerate()
    {
        let base = u128::try_from(n * 10).expect("small");
        let mut knowledge = loses(&mut bench, name, 50 + base);
        for (m, other) in (1..).zip(others) {
            reads(&mut bench, &mut knowledge, name, other, base + m);
        }
        assert!(bench.voter(name).pending().is_empty());
    }
    assert_eq!(bench.vote("svg", &claim(1, "osl")), None, "2/svg has served");
}

#[test]
fn an_operator_may_leave_a_site_out_and_nothing_else_does() {
    let mut bench = Bench::new();
    let mut knowledge = loses(&mut bench, "osl", 50);
    reads(&mut bench, &mut knowledge, "osl", "trd", 1);
    assert!(bench.voter("osl").rejoin(&knowledge).is_empty(), "svg said nothing");
    assert!(!bench.voter("osl").rejoin_without(&site("trd")), "already read");
    assert!(bench.voter("osl").rejoin_without(&site("svg")));
    bench.vote("osl", &claim(1, "osl")).expect("it votes again");
}
