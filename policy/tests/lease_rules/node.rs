//! What a node makes of votes and answers.

use std::collections::{BTreeMap, BTreeSet};

use nett_policy::id::{Epoch, Generation, NodeId, SiteId};
use nett_policy::lease::confirm::{Needs, Withdrawals};
use nett_policy::lease::knowledge::{Knowledge, Read, Unheard};
use nett_policy::lease::rule::{
    Ground, RateError, Rules, Span, Verdict, Why, best, quorum_of, wait_of,
};
use nett_policy::lease::vote::Incarnation;
use nett_policy::lease::voter::Voter;

use crate::bench::{Bench, asking, claim, electorates, s, seal, service, site};

#[test]
fn the_wait_covers_clocks_that_differ_both_ways() {
    for (ppm, wait_ms) in [(0, 61_000), (200, 61_025), (190_000, 89_149), (499_999, 181_000)] {
        let wait = wait_of(s(60), RateError::ppm(ppm).expect("in range"));
        assert_eq!(wait.as_nanos().div_ceil(1_000_000), wait_ms, "{ppm} ppm");
    }
    assert!(RateError::ppm(500_000).is_err());
    assert!(wait_of(s(60), RateError::ppm(190_000).expect("in range")) <= s(90));
    for (voters, quorum) in [(1, 1), (3, 2), (4, 3), (5, 3), (7, 4)] {
        assert_eq!(quorum_of(voters), quorum, "{voters} voters");
    }
}

/// A claim for osl that two voters voted for, read at 0 s and answered at 100 s.
fn held() -> (Bench, nett_policy::lease::vote::Claim) {
    let mut bench = Bench::new();
    let first = claim(1, "osl");
    bench.vote("osl", &first).expect("a vote");
    bench.vote("trd", &first).expect("a vote");
    bench.hear_all(s(0));
    bench.hear_all(s(100));
    (bench, first)
}

#[test]
fn a_node_serves_from_the_end_of_the_wait_to_the_end_of_the_answers() {
    let mut bench = Bench::new();
    let first = claim(1, "osl");
    bench.vote("osl", &first).expect("a vote");
    bench.hear_all(s(0));
    assert_eq!(
        bench.verdict(&first, Ground::Wait, s(0)),
        Verdict::Shut(Why::NoMajority { behind: 1 })
    );
    bench.vote("trd", &first).expect("a vote");
    bench.hear_all(s(10));
    assert_eq!(bench.verdict(&first, Ground::Wait, s(10)), Verdict::Waits { from: s(100) });
    bench.hear("osl", s(70)).expect("heard");
    bench.hear("trd", s(80)).expect("heard");
    assert!(!bench.serves(&first, s(99)));
    // osl's answer is the first of the two to end.
    let serving = Verdict::Serves { until: s(130) };
    assert_eq!(bench.verdict(&first, Ground::Wait, s(100)), serving);
    assert_eq!(serving.deadline(), Some(s(130)));
    assert_eq!(
        bench.verdict(&first, Ground::Wait, s(130)),
        Verdict::Shut(Why::Expired { counting: 1 })
    );
}

#[test]
fn a_third_answer_moves_the_end_only_as_far_as_a_majority_reaches() {
    let (mut bench, first) = held();
    bench.vote("svg", &first).expect("a vote");
    bench.hear("svg", s(0)).expect("heard");
    bench.hear("svg", s(120)).expect("heard");
    assert_eq!(bench.verdict(&first, Ground::Wait, s(120)), Verdict::Serves { until: s(160) });
    bench.hear("trd", s(150)).expect("heard");
    assert_eq!(bench.verdict(&first, Ground::Wait, s(150)), Verdict::Serves { until: s(180) });
}

#[test]
fn the_lease_runs_from_when_the_ask_was_sent() {
    let (mut bench, first) = held();
    let late: Vec<_> = ["osl", "trd"].map(|v| bench.answer(v, s(110))).into();
    for answer in &late {
        bench.node.take(answer, s(169)).expect("its ask is known");
    }
    assert_eq!(bench.verdict(&first, Ground::Wait, s(169)), Verdict::Serves { until: s(170) });
    // Delivered again, it says nothing new.
    late.iter().for_each(|a| bench.node.take(a, s(175)).expect("still known"));
    assert!(!bench.serves(&first, s(175)));
}

#[test]
fn an_answer_counts_only_for_its_own_ask_voter_and_generation() {
    let (mut bench, _) = held();
    let good = bench.answer("osl", s(101));
    let mut other = good.clone();
    other.nonce.0 += 1000;
    assert_eq!(bench.node.take(&other, s(102)), Err(Unheard::Nonce));
    let mut other = bench.answer("trd", s(101));
    other.nonce = good.nonce;
    assert_eq!(bench.node.take(&other, s(102)), Err(Unheard::Voter));
    let mut other = good.clone();
    other.voters = Generation(2);
    assert_eq!(bench.node.take(&other, s(102)), Err(Unheard::Generation));
    assert_eq!(bench.node.take(&good, s(102)), Ok(()));
    // An ask of an earlier process is nobody's.
    bench.node = bench.node.clone().restarted(true, s(103));
    assert_eq!(bench.node.take(&good, s(103)), Err(Unheard::Nonce));
}

#[test]
fn votes_that_were_not_read_stop_their_voter_from_counting() {
    let (mut bench, first) = held();
    let second = claim(2, "svg");
    let against = bench.vote("trd", &second).expect("a vote");
    let mut answer = bench.answer("trd", s(150));
    answer.new.clear();
    bench.hear("osl", s(150)).expect("heard");
    bench.node.take(&answer, s(150)).expect("heard");
    // Only the answer of 100 s is left of trd: it was made before that vote.
    assert_eq!(bench.verdict(&first, Ground::Wait, s(150)), Verdict::Serves { until: s(160) });
    assert_eq!(bench.node.read_vote(&against, s(155)), Read::Next(2));
    assert_eq!(
        bench.verdict(&first, Ground::Wait, s(155)),
        Verdict::Shut(Why::NoMajority { behind: 1 })
    );
}

#[test]
fn the_right_is_the_claims_and_not_the_sites() {
    let (mut bench, first) = held();
    for (epoch, target) in [(2, "svg"), (3, "osl")] {
        bench.vote("osl", &claim(epoch, target)).expect("a vote");
        bench.vote("trd", &claim(epoch, target)).expect("a vote");
    }
    bench.hear_all(s(150));
    let third = claim(3, "osl");
    assert!(!bench.serves(&first, s(150)));
    // osl won again, and waits like anybody who wins.
    assert_eq!(bench.verdict(&third, Ground::Wait, s(150)), Verdict::Waits { from: s(240) });
}

#[test]
fn each_vote_of_each_incarnation_has_its_own_wait() {
    let (mut bench, first) = held();
    let lost = Voter::founded(site("trd"), Incarnation(99), electorates());
    *bench.voter("trd") = lost;
    bench.vote("trd", &first).expect("the new incarnation votes");
    bench.hear("osl", s(170)).expect("heard");
    bench.hear("trd", s(170)).expect("heard");
    assert_eq!(bench.verdict(&first, Ground::Wait, s(170)), Verdict::Waits { from: s(260) });
}

#[test]
fn votes_are_read_in_order_and_contradictions_stop_an_incarnation() {
    let mut bench = Bench::new();
    let first = bench.vote("osl", &claim(1, "osl")).expect("a vote");
    let second = bench.vote("osl", &claim(2, "svg")).expect("a vote");
    let mut node = Knowledge::new(electorates());
    assert_eq!(node.read_vote(&second, s(1)), Read::Early);
    assert_eq!(node.known(&site("osl"))[&Incarnation(1)], 0);
    assert_eq!(node.read_vote(&first, s(2)), Read::Next(2));
    assert_eq!(node.read_vote(&first, s(3)), Read::Known);
    let mut other = second.clone();
    other.hash = "other".to_owned();
    assert_eq!(node.read_vote(&other, s(4)), Read::Forked);
    let mut stranger = first.clone();
    stranger.voter = site("bgo");
    assert_eq!(node.read_vote(&stranger, s(5)), Read::Stranger);

    let (mut bench, held) = held();
    let real = bench.vote("trd", &claim(2, "svg")).expect("a vote");
    let mut forged = real.clone();
    forged.prev_hash = "not the vote before".to_owned();
    assert!(bench.serves(&held, s(101)));
    assert_eq!(bench.node.read_vote(&forged, s(101)), Read::Forked);
    assert!(!bench.serves(&held, s(101)), "a voter that contradicts itself does not count");
}

#[test]
fn a_fence_and_a_claim_for_elsewhere_shut() {
    let (mut bench, first) = held();
    let other = site("svg");
    let service = service();
    let elsewhere =
        nett_policy::lease::vote::Asking { here: &other, ..asking(&first, &service, Ground::Wait) };
    let verdict = bench.node.serves(&bench.rules, elsewhere, s(100));
    assert_eq!(verdict, Verdict::Shut(Why::Elsewhere));
    bench.node.fence(&service, Epoch(2));
    bench.node.fence(&service, Epoch(1));
    assert_eq!(bench.node.fence_of(&service), Some(Epoch(2)));
    assert_eq!(bench.verdict(&first, Ground::Wait, s(100)), Verdict::Shut(Why::Fenced));
}

#[test]
fn a_node_without_its_disk_serves_nothing_until_it_is_told_its_fences() {
    let (mut bench, first) = held();
    bench.node = Knowledge::lost(electorates());
    bench.hear_all(s(200));
    bench.hear_all(s(290));
    assert_eq!(bench.verdict(&first, Ground::Wait, s(290)), Verdict::Shut(Why::FenceUnknown));
    bench.node.fences_told(&BTreeMap::new());
    assert!(bench.serves(&first, s(290)));
    bench.node.fences_told(&BTreeMap::from([(service(), Epoch(1))]));
    assert!(!bench.serves(&first, s(290)));
}

#[test]
fn a_restart_keeps_waits_in_one_boot_and_begins_them_again_in_another() {
    for (same_boot, from) in [(true, None), (false, Some(s(210)))] {
        let (mut bench, first) = held();
        bench.node = bench.node.clone().restarted(same_boot, s(120));
        assert!(!bench.serves(&first, s(120)), "answers died with the process");
        bench.hear_all(s(121));
        match from {
            None => assert!(bench.serves(&first, s(121))),
            Some(from) => {
                assert_eq!(bench.verdict(&first, Ground::Wait, s(121)), Verdict::Waits { from });
            }
        }
    }
}

#[test]
fn confirmation_replaces_the_wait_for_known_incarnations_only() {
    let (mut bench, _) = held();
    let second = claim(2, "osl");
    bench.vote("osl", &second).expect("a vote");
    bench.vote("trd", &second).expect("a vote");
    bench.hear_all(s(150));
    assert_eq!(bench.verdict(&second, Ground::Wait, s(150)), Verdict::Waits { from: s(240) });
    assert!(bench.verdict(&second, Ground::Confirmed, s(150)).is_serving());
    assert!(!bench.verdict(&second, Ground::Nothing, s(300)).is_serving());
    // A new incarnation is waited for although everybody confirmed.
    *bench.voter("trd") = Voter::founded(site("trd"), Incarnation(99), electorates());
    bench.vote("trd", &second).expect("a vote");
    bench.hear("trd", s(211)).expect("heard");
    bench.hear("osl", s(211)).expect("heard");
    let verdict = bench.verdict(&second, Ground::Confirmed, s(211));
    assert_eq!(verdict, Verdict::Waits { from: s(301) });
}

#[test]
fn every_node_of_every_other_candidate_confirms() {
    let node = |name: &str| -> NodeId { name.parse().expect("a node") };
    let nodes: BTreeMap<SiteId, BTreeSet<NodeId>> = BTreeMap::from([
        (site("osl"), BTreeSet::from([node("osl-1"), node("osl-2")])),
        (site("svg"), BTreeSet::from([node("svg-1")])),
        (site("trd"), BTreeSet::from([node("trd-1")])),
    ]);
    let (service, target) = (service(), site("svg"));
    let needs = Needs { service: &service, epoch: Epoch(5), target: &target, nodes: &nodes };
    let mut said = Withdrawals::default();
    for (name, epoch, missing) in [
        ("osl-1", 5, 2),
        ("osl-1", 4, 2),
        ("osl-2", 4, 2),
        ("svg-1", 9, 2),
        ("osl-2", 7, 1),
        ("trd-1", 5, 0),
    ] {
        let before = said.ground(needs, false);
        assert_eq!(before, Ground::Wait);
        assert_eq!(said.ground(needs, true), Ground::Nothing);
        said.join(node(name), service.clone(), Epoch(epoch));
        assert_eq!(said.missing(needs).len(), missing, "{name} {epoch}");
    }
    assert!(said.confirmed(needs));
    assert_eq!(said.ground(needs, true), Ground::Confirmed);
}

#[test]
fn the_best_span_counts_now_for_longest_or_begins_first() {
    let span = |from, until| Span { from: s(from), until: s(until) };
    let three = [span(0, 20), span(5, 30), span(40, 90)];
    for (now, chosen) in [(10, span(5, 30)), (2, span(0, 20)), (35, span(0, 20))] {
        assert_eq!(best(three, s(now)), Some(chosen), "{now}");
    }
    assert_eq!(best([], s(0)), None);
}

#[test]
fn a_group_opens_by_answers_of_its_round_only() {
    let (mut bench, first) = held();
    let service = service();
    let ask = asking(&first, &service, Ground::Wait);
    let early = bench.node.group(&bench.rules, ask, s(89));
    assert_eq!((early.group, early.next), (Default::default(), Some(s(90))));
    let group = bench.node.group(&bench.rules, ask, s(100)).group;
    assert!(bench.node.opens(&bench.rules, &group, s(100)));
    assert!(!bench.node.opens(&bench.rules, &group, s(101)), "no answer to a later ask");
    bench.hear("osl", s(102)).expect("heard");
    assert!(!bench.node.opens(&bench.rules, &group, s(101)), "one of two");
    // A vote against the claim changes the group at once.
    let against = bench.vote("trd", &claim(2, "svg")).expect("a vote");
    bench.node.read_vote(&against, s(103));
    let smaller = bench.node.group(&bench.rules, ask, s(103)).group;
    assert_ne!(smaller, group);
    assert!(!bench.node.opens(&bench.rules, &smaller, s(100)));
    bench.node.fence(&service, Epoch(1));
    assert_eq!(bench.node.group(&bench.rules, ask, s(103)).group, Default::default());
}

#[test]
fn rules_are_made_of_lease_clocks_and_voters() {
    let rules = Rules::of(s(60), RateError::ppm(0).expect("in range"), 5);
    assert_eq!(rules, Rules { lease: s(60), wait: s(61), quorum: 3 });
    let mut bench = Bench::new();
    let unread = bench.node.clone();
    let ballot = bench.voter("osl").ballot(&unread, &claim(1, "osl"));
    assert_eq!(seal(&ballot).number, 1);
}
