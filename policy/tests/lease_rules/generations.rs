//! Voters come and go, one at a time, and nobody notices.

use nett_policy::fabric::{Lease, VoterChange};
use nett_policy::id::Generation;
use nett_policy::lease::electorate::{Step, TermsRefused};
use nett_policy::lease::generation::{Behind, Lacking, Mark, NotYet, covers};
use nett_policy::lease::rule::Verdict;

use crate::alone::Seat;
use crate::bench::{rules, s, site};
use crate::fleet::{Fleet, claim, first, pay, step};

const THREE: &[&str] = &["osl", "svg", "trd"];
const FOUR: &[&str] = &["ber", "osl", "svg", "trd"];

/// osl serves by all three voters of generation 1, for long.
fn held() -> (Fleet, nett_policy::lease::vote::Claim) {
    let mut fleet = Fleet::new(THREE, &first(THREE));
    let held = claim(5, "osl");
    THREE.iter().for_each(|voter| assert!(fleet.vote(voter, &held)));
    fleet.round();
    fleet.pass(100);
    fleet.assert_serves(&held);
    (fleet, held)
}

/// And ber has been added, works, and nobody else has the file.
fn added() -> (Fleet, nett_policy::lease::vote::Claim) {
    let (mut fleet, held) = held();
    let file = step(2, THREE, FOUR);
    fleet.begin("ber", &file);
    fleet.pass(20);
    assert!(fleet.rise("ber").expect("it may enter").is_some());
    assert!(fleet.vote("ber", &held), "decided without it");
    fleet.pass(100);
    (fleet, held)
}

/// All four run generation 2.
fn four() -> (Fleet, nett_policy::lease::vote::Claim) {
    let (mut fleet, held) = added();
    let file = step(2, THREE, FOUR);
    fleet.node.elect(file.clone());
    for voter in THREE {
        fleet.file(voter, &file);
        fleet.pass(100);
        assert!(fleet.rise(voter).expect("it may rise").is_some(), "{voter}");
        fleet.pass(10);
        fleet.assert_serves(&held);
    }
    (fleet, held)
}

#[test]
fn a_voter_is_added_and_another_one_removed_without_a_gap() {
    let (mut fleet, held) = four();
    assert_eq!(fleet.node.electorate().generation, Generation(2));
    let file = step(3, FOUR, &FOUR[1..]);
    for voter in &FOUR[1..] {
        fleet.file(voter, &file);
        fleet.pass(100);
        fleet.rise(voter).expect("it may rise");
        fleet.pass(10);
        fleet.assert_serves(&held);
        if *voter == "svg" {
            // In the middle of it the node gets the file.
            fleet.node.elect(file.clone());
            fleet.assert_serves(&held);
        }
    }
    fleet.die("ber");
    fleet.pass(100);
    fleet.assert_serves(&held);
    assert_eq!(fleet.node.electorate().voters.len(), 3);
}

#[test]
fn nobody_goes_to_where_the_added_voter_does_not_work() {
    let (mut fleet, held) = held();
    let file = step(2, THREE, FOUR);
    fleet.file("osl", &file);
    let lacking = |fleet: &mut Fleet| match fleet.rise("osl").expect_err("not yet") {
        NotYet::Added { voter, why } if voter == site("ber") => why,
        other => panic!("{other}"),
    };
    fleet.pass(80);
    assert_eq!(fleet.rise("osl"), Err(NotYet::Told { left: s(10) }));
    fleet.pass(10);
    assert_eq!(lacking(&mut fleet), Lacking::Silent);
    fleet.begin("ber", &file);
    fleet.pass(20);
    assert_eq!(lacking(&mut fleet), Lacking::Rejoining);
    fleet.rise("ber").expect("it may enter");
    fleet.pass(60);
    assert_eq!(lacking(&mut fleet), Lacking::Young);
    fleet.pass(20);
    assert!(fleet.vote("ber", &held));
    fleet.pass(10);
    assert_eq!(lacking(&mut fleet), Lacking::Vote(pay()), "as a node sees it, for less than W");
    fleet.pass(90);
    fleet.rise("osl").expect("it works");
    assert_eq!(fleet.running("osl"), (2, true));
}

#[test]
fn a_majority_of_the_generation_before_has_run_it_for_the_wait() {
    let (mut fleet, _) = added();
    let (second, third) = (step(2, THREE, FOUR), step(3, FOUR, &FOUR[1..]));
    for voter in ["osl", "svg"] {
        fleet.file(voter, &second);
        fleet.pass(100);
        fleet.rise(voter).expect("it may rise");
    }
    // Three of the four run generation 2, ber and osl for long.
    fleet.file("osl", &third);
    fleet.pass(80);
    let short = NotYet::Steady { have: 2, need: 3, before: Generation(2) };
    assert_eq!(fleet.rise("osl"), Err(short), "svg has not");
    fleet.pass(10);
    assert!(fleet.rise("osl").expect("svg has").is_some());
    // trd comes from generation 1: it answers nobody any more, and goes straight on.
    fleet.file("trd", &third);
    fleet.pass(10);
    assert_eq!(fleet.node.said(&site("trd")).map(|said| said.generation), Some(Generation(1)));
    assert!(matches!(fleet.rise("trd"), Err(NotYet::Steady { have: 2, .. })));
    // It has not heard osl in generation 2, and osl has run the third for W only now.
    fleet.pass(80);
    assert!(fleet.rise("trd").expect("all three others have").is_some());
    assert_eq!(fleet.running("trd"), (3, true));
}

/// By the new file it answers nobody, so after W it is one of those who answer in nothing older:
/// the voter that was removed is gone and speaks for nobody.
#[test]
fn a_voter_that_missed_a_generation_follows_without_the_one_that_was_removed() {
    let (mut fleet, _) = added();
    fleet.die("trd");
    for file in [step(2, THREE, FOUR), step(3, FOUR, &FOUR[1..])] {
        for voter in ["osl", "svg"] {
            fleet.file(voter, &file);
        }
        fleet.pass(100);
        for voter in ["osl", "svg"] {
            fleet.rise(voter).expect("it may rise");
        }
        fleet.pass(100);
    }
    fleet.die("ber");
    fleet.revive("trd");
    fleet.file("trd", &step(3, FOUR, &FOUR[1..]));
    fleet.pass(80);
    assert!(matches!(fleet.rise("trd"), Err(NotYet::Steady { have: 2, need: 3, .. })));
    fleet.pass(10);
    assert!(fleet.rise("trd").expect("it is the third").is_some());
    assert_eq!(fleet.running("trd"), (3, true));
}

/// What a voter said in the generation before is remembered when it has gone on: where one voter
/// is dead the next one need not wait for W while its answers end.
#[test]
fn a_voter_that_has_gone_on_still_speaks_for_the_generation_before() {
    let (mut fleet, held) = four();
    fleet.pass(100);
    let file = step(3, FOUR, &["osl", "svg", "trd"]);
    ["osl", "svg", "trd"].iter().for_each(|voter| fleet.file(voter, &file));
    fleet.die("trd");
    fleet.node.elect(file);
    fleet.pass(90);
    for voter in ["osl", "svg"] {
        fleet.rise(voter).expect("it may rise");
        fleet.pass(10);
    }
    fleet.assert_serves(&held);
}

/// 5/osl is served by osl and svg, while trd and the new voter are for an older claim: without
/// having caught up these two would be a majority once osl is removed.
#[test]
fn a_voter_that_is_behind_stays_where_it_is() {
    let mut fleet = Fleet::new(FOUR, &step(2, THREE, FOUR));
    let (old, new) = (claim(4, "trd"), claim(5, "osl"));
    FOUR.iter().for_each(|voter| assert!(fleet.vote(voter, &old)));
    assert!(fleet.vote("osl", &new));
    fleet.pass(100);
    let file = step(3, FOUR, &["ber", "svg", "trd"]);
    for voter in ["ber", "svg", "trd"] {
        fleet.file(voter, &file);
    }
    fleet.pass(90);
    assert!(fleet.try_rise("ber").is_ok(), "three of the four have nothing newer than itself");
    assert!(fleet.vote("svg", &new));
    fleet.pass(10);
    let behind =
        (2, vec![(site("osl"), Behind::Service(pay())), (site("svg"), Behind::Service(pay()))]);
    for voter in ["ber", "trd"] {
        let Err(NotYet::CaughtUp { have, need: 3, left, .. }) = fleet.rise(voter) else {
            panic!("{voter} has risen")
        };
        assert_eq!((have, left), behind);
    }
    fleet.rise("svg").expect("nobody has anything newer");
    // Another claim of that epoch is no better: only a newer one settles it.
    let other = claim(5, "trd");
    assert!(fleet.vote("ber", &other) && fleet.vote("trd", &other));
    fleet.pass(10);
    assert!(matches!(fleet.rise("ber"), Err(NotYet::CaughtUp { .. })));
    let newest = claim(6, "trd");
    assert!(fleet.vote("ber", &newest) && fleet.vote("trd", &newest));
    fleet.pass(10);
    fleet.rise("ber").expect("newer than all");
    fleet.rise("trd").expect("newer than all");
}

#[test]
fn marks_are_covered_by_newer_ones_equal_claims_and_floors() {
    let mark = |epoch, claim: Option<char>| Mark { epoch: nett_policy::id::Epoch(epoch), claim };
    for (own, other, is_covered) in [
        (mark(0, None), mark(0, None), true),
        (mark(5, Some('x')), mark(4, Some('y')), true),
        (mark(4, Some('x')), mark(5, Some('y')), false),
        (mark(5, Some('x')), mark(5, Some('x')), true),
        (mark(5, Some('x')), mark(5, Some('y')), false),
        (mark(5, Some('x')), mark(5, None), false),
        (mark(5, None), mark(5, Some('x')), true),
        (mark(5, None), mark(5, None), true),
        (mark(4, None), mark(5, None), false),
    ] {
        assert_eq!(covers(&own, &other), is_covered, "{own:?} {other:?}");
    }
}

#[test]
fn answers_of_two_generations_count_each_by_itself() {
    let (mut fleet, held) = added();
    let file = step(2, THREE, FOUR);
    fleet.node.elect(file.clone());
    fleet.pass(10);
    assert_eq!(fleet.node.electorate().generation, Generation(1));
    fleet.assert_serves(&held);
    for voter in ["osl", "svg"] {
        fleet.file(voter, &file);
    }
    fleet.pass(100);
    fleet.rise("osl").expect("it may rise");
    fleet.die("trd");
    // osl in generation 2 with ber, svg in generation 1: neither is a majority.
    fleet.pass(70);
    assert!(!matches!(fleet.verdict(&held), Verdict::Serves { .. }));
    fleet.rise("svg").expect("it may rise");
    fleet.pass(10);
    fleet.assert_serves(&held);
    assert_eq!(fleet.node.electorate().generation, Generation(2));
    // A node of generation 4 counts neither.
    fleet.node.elect(step(4, FOUR, FOUR));
    fleet.pass(10);
    assert!(!matches!(fleet.verdict(&held), Verdict::Serves { .. }));
}

#[test]
fn a_voter_that_lost_its_journal_begins_in_its_files_generation() {
    let (mut fleet, held) = four();
    let file = step(3, FOUR, &["ber", "osl", "svg"]);
    fleet.pass(100);
    fleet.begin("ber", &file);
    assert_eq!(fleet.running("ber"), (3, false));
    fleet.pass(20);
    assert!(fleet.voter("ber").pending().is_empty(), "trd, too, was read");
    assert!(!fleet.vote("ber", &claim(9, "trd")), "it has not entered");
    // osl, svg and trd are a majority of generation 2, and have run it for W.
    assert!(fleet.rise("ber").expect("it may enter").is_some());
    assert_eq!(fleet.running("ber"), (3, true));
    assert!(fleet.vote("ber", &held));

    // The removed voter has to be read as long as not all others run the generation.
    for voter in ["osl", "svg"] {
        fleet.file(voter, &file);
    }
    fleet.pass(100);
    fleet.die("trd");
    let before = fleet.voter("ber").clone();
    fleet.begin("ber", &file);
    fleet.pass(20);
    assert_eq!(fleet.voter("ber").pending(), [&site("trd")].into());
    *fleet.voter("ber") = before;
    fleet.revive("trd");
    fleet.pass(20);
    for voter in ["osl", "svg"] {
        fleet.rise(voter).expect("it may rise");
    }
    fleet.die("trd");
    fleet.begin("ber", &file);
    fleet.pass(20);
    assert!(fleet.voter("ber").pending().is_empty(), "all that vote now say what they know");
    // What they ran before it did not hear.
    assert!(matches!(fleet.rise("ber"), Err(NotYet::Steady { need: 3, .. })));
    fleet.pass(70);
    assert!(fleet.rise("ber").expect("it may enter").is_some());
}

#[test]
fn an_old_file_keeps_a_voter_from_coming_back() {
    let (mut fleet, _) = four();
    // It is given the file of generation 1 with a new disk.
    fleet.begin("osl", &first(THREE));
    fleet.pass(50);
    assert_eq!(fleet.voter("osl").pending().len(), 2, "what they say is of a newer generation");
    let said = fleet.try_rise("osl").expect_err("its file is old");
    assert!(matches!(said, NotYet::Newer { generation: Generation(2), .. }), "{said}");
    // With its journal it answers nobody.
    fleet.file("svg", &first(THREE));
    fleet.pass(10);
    let said = fleet.try_rise("svg").expect_err("its file is old");
    assert_eq!(said, NotYet::FileOlder { runs: Generation(2), file: Generation(1) });
    assert_eq!(fleet.running("svg").0, 2);
    let asked = fleet.node.answered(&site("svg")).expect("it answered before");
    assert!(asked < fleet.time());
}

/// All voters begin anew with a file of generation 3.
#[test]
fn a_fabric_that_begins_anew_waits_once() {
    let file = step(3, FOUR, THREE);
    let mut fleet = Fleet::new(&[], &file);
    THREE.iter().for_each(|voter| fleet.begin(voter, &file));
    fleet.voter("osl").rejoin_without(&site("ber"));
    fleet.voter("svg").rejoin_without(&site("ber"));
    fleet.voter("trd").rejoin_without(&site("ber"));
    fleet.pass(80);
    assert!(matches!(fleet.rise("osl"), Err(NotYet::Steady { .. })));
    fleet.pass(10);
    for voter in THREE {
        assert!(fleet.rise(voter).expect("it may enter").is_some());
    }
    let claim = claim(1, "osl");
    THREE.iter().for_each(|voter| assert!(fleet.vote(voter, &claim)));
    fleet.pass(100);
    fleet.assert_serves(&claim);
}

/// 5/osl was served in generation 1 by osl and svg. svg forgets it and begins in generation 3,
/// where trd and ber are for 5/trd: a majority of that without svg, and none of generation 2.
#[test]
fn an_epoch_that_may_have_been_decided_is_decided_in_both_generations() {
    let mut fleet = Fleet::new(FOUR, &step(2, THREE, FOUR));
    assert!(fleet.vote("osl", &claim(5, "osl")) && fleet.vote("svg", &claim(5, "osl")));
    assert!(fleet.vote("trd", &claim(5, "trd")) && fleet.vote("ber", &claim(5, "trd")));
    fleet.pass(100);
    fleet.begin("svg", &step(3, FOUR, &["ber", "svg", "trd"]));
    fleet.pass(20);
    fleet.rise("svg").expect("it may enter");
    assert!(!fleet.vote("svg", &claim(5, "trd")), "it may have voted otherwise");
    assert!(fleet.vote("svg", &claim(6, "trd")));
}

#[test]
fn a_voter_is_silent_while_what_it_rises_to_is_not_on_the_disk() {
    let (mut fleet, _) = added();
    let file = step(2, THREE, FOUR);
    fleet.file("osl", &file);
    fleet.pass(100);
    let (placings, rules) = (crate::desk::Desk::new().placings(), crate::bench::rules());
    let knowledge = fleet.knowledge("osl").clone();
    let now = fleet.time();
    let voter = fleet.voter("osl");
    let ask = nett_policy::lease::vote::Ask {
        voter: site("osl"),
        nonce: nett_policy::lease::vote::Nonce(1),
        known: Default::default(),
    };
    assert!(voter.answer(&ask, now).is_some());
    assert!(voter.rise(&rules, &knowledge, &placings, now).expect("it may").is_some());
    assert_eq!(voter.answer(&ask, now), None, "neither of the one nor of the other");
    assert_eq!(voter.rise(&rules, &knowledge, &placings, now), Ok(None), "once");
    voter.risen();
    let answer = voter.answer(&ask, now + s(7)).expect("it answers");
    assert_eq!((answer.voters, answer.steady), (Generation(2), s(7)));
}

/// The sets that such a claim is served by, and that bind newer ones, are those of a generation.
#[test]
fn nobody_goes_on_while_a_claim_without_a_majority_may_bind() {
    let mut fleet = Fleet::new(FOUR, &step(2, THREE, FOUR));
    let (node, alone) = Seat::alone();
    fleet.placings = node.desk.placings();
    assert!(fleet.vote("osl", &alone));
    fleet.file("svg", &step(3, FOUR, THREE));
    fleet.pass(100);
    assert_eq!(fleet.rise("svg"), Err(NotYet::Unprotected(pay())));
    // Its one voter goes on to a newer claim, and no answer of before is of use any more.
    let newer = claim(alone.services[&pay()].0 + 1, "osl");
    FOUR.iter().for_each(|voter| assert!(fleet.vote(voter, &newer)));
    fleet.pass(90);
    assert_eq!(fleet.rise("svg"), Err(NotYet::Unprotected(pay())));
    fleet.pass(10);
    assert!(fleet.rise("svg").expect("it may rise").is_some());
    // Nor is anybody bound where that voter is the one that goes.
    fleet.node.elect(step(3, FOUR, &["ber", "svg", "trd"]));
    let bound = fleet.node.bound_to(&rules(), &fleet.placings, &pay(), s(fleet.now));
    assert!(bound.is_empty(), "{bound:?}");
}

#[test]
fn files_of_one_generation_agree_and_files_of_two_are_one_step_apart() {
    let second = step(2, THREE, FOUR);
    assert_eq!(second.against(&first(THREE).terms()), Ok(Step::Next));
    assert_eq!(second.against(&second.terms()), Ok(Step::Same));
    assert_eq!(first(THREE).against(&second.terms()), Ok(Step::Older));
    assert_eq!(step(3, FOUR, THREE).against(&first(THREE).terms()), Ok(Step::Further));
    let other = step(2, THREE, &["osl", "svg", "trd", "bgo"]);
    let refused = other.against(&second.terms()).expect_err("two files of one number");
    assert!(matches!(refused, TermsRefused::Other { generation: Generation(2), .. }), "{refused}");
    let jump = step(3, THREE, FOUR);
    let refused = jump.against(&second.terms()).expect_err("four had voted");
    assert!(matches!(refused, TermsRefused::NotOneStep { .. }), "{refused}");
    assert!(refused.to_string().contains("ber/ber-b1, osl/osl-b1"), "{refused}");

    let mut lease = step(2, THREE, THREE);
    lease.change = VoterChange::Lease(Lease { duration: s(30), ..Lease::default() });
    assert!(lease.against(&first(THREE).terms()).is_err(), "60 s were used");
    let mut before = first(THREE);
    before.lease.duration = s(30);
    assert_eq!(lease.against(&before.terms()), Ok(Step::Next));
    assert_eq!((lease.all().len(), lease.both().len()), (3, 3));
    let four = step(2, THREE, FOUR);
    assert_eq!((four.all().len(), four.both().len()), (4, 3));
}
