//! A claim without a majority: who may make it, by whom it is served, and what it is to others.

use std::collections::BTreeSet;

use nett_policy::fabric::{Node, Role};
use nett_policy::id::{EntryId, Epoch, NodeId, ServiceId, SiteId};
use nett_policy::lease::confirm::{Needs, Withdrawals};
use nett_policy::lease::placings::{Placings, candidates, definition};
use nett_policy::lease::rule::{Ground, Verdict, Why};
use nett_policy::lease::vote::{Asking, Bounds, Claim};
use nett_policy::log::checkpoint::spent;
use nett_policy::log::entry::{Object, Outcome, StepKind, Terms, Verb, WishKind};
use nett_policy::log::fold::Fold;
use nett_policy::service::{Catalog, Isolation};
use nett_policy::task::decide::RefusalKind;
use nett_policy::task::view::{TaskState, state};

use crate::bench::{Bench, s};
use crate::desk::{API, Desk, LEDGER, NOW, PAY, id};

fn sites(names: &[&str]) -> BTreeSet<SiteId> {
    names.iter().map(|name| id(name)).collect()
}

fn without(names: &[&str]) -> Terms {
    Terms { without: sites(names), ..Terms::default() }
}

fn to(service: &str, site: &str) -> Verb {
    Verb::Failover { services: id(service), to: id(site) }
}

/// A desk at osl that hears nothing of these sites.
fn dark(names: &[&str]) -> Desk {
    let mut desk = Desk::new();
    darken(&mut desk, names);
    desk
}

fn darken(desk: &mut Desk, names: &[&str]) {
    let off = sites(names);
    let nodes = desk.fabric.nodes.iter();
    desk.sight.away =
        nodes.filter(|node| off.contains(&node.site)).map(|node| node.id.clone()).collect();
    desk.silent = desk.sight.away.clone();
    desk.sight.voters = &sites(&["osl", "svg", "trd"]) - &off;
    desk.sight.silent = off;
}

/// Accepts the command, approves it, and lets it run to its end.
fn carried(desk: &mut Desk, verb: Verb, terms: Terms) -> EntryId {
    let task = desk.command(verb, terms);
    approve(desk, &task);
    let reading = desk.run(&task, |_| false);
    assert_eq!(reading.end, Some(Outcome::Done), "{}", reading.end_reason);
    task
}

fn approve(desk: &mut Desk, task: &EntryId) {
    let plan_hash = desk.fold.command(task).expect("accepted").1.plan_hash.clone();
    desk.wish(task, WishKind::Approve { plan_hash });
}

// --- who may make it

#[test]
fn it_takes_a_reason_to_go_without_a_majority_and_a_second_person() {
    let desk = dark(&["svg", "trd"]);
    let (_, judged) = desk.judged(to(PAY, "osl"), Terms::default());
    assert_eq!(judged.expect_err("no majority").refused_by, "no-change");
    for (service, needed) in [(PAY, 1), (LEDGER, 1)] {
        let (_, judged) = desk.judged(to(service, "osl"), without(&["svg", "trd"]));
        let proposal = judged.expect("accepted");
        assert_eq!(proposal.approvals_needed, needed, "{service} needs none by its definition");
        assert_eq!(proposal.effect.moves.len(), 1, "{service} is claimed anew where it is");
    }
}

#[test]
fn what_is_not_so_is_refused() {
    type Row = (&'static [&'static str], &'static str, &'static str, Terms, &'static str);
    let off = |nodes: &[&str]| nodes.iter().map(|node| id(node)).collect::<BTreeSet<NodeId>>();
    let rows: [Row; 9] = [
        // Dark sites, service, target, terms, and what is said.
        (&["trd"], PAY, "osl", without(&["trd"]), "a majority of the voters is heard"),
        (&["svg", "trd"], PAY, "osl", without(&["trd"]), "the voter of svg is neither heard nor"),
        (&["svg", "trd"], PAY, "osl", without(&["osl", "svg", "trd"]), "this is osl, and not off"),
        (&["svg", "trd"], PAY, "trd", without(&["svg", "trd"]), "trd cannot be off and serve"),
        (&["svg", "trd"], API, "trd", without(&["svg", "trd"]), "shop/prod/api has no lease"),
        (&["svg", "trd"], "shop/prod/*", "trd", without(&["svg"]), "shop/prod/api has no lease"),
        (&["svg", "trd"], PAY, "osl", without(&["bgo"]), "there is no site `bgo`"),
        (&["osl", "svg", "trd"], PAY, "osl", without(&["svg", "trd"]), "voter of osl is neither"),
        (
            &["svg", "trd"],
            PAY,
            "osl",
            Terms { asserted: off(&["svg-b1"]), ..Terms::default() },
            "needs 2 voters, and this site hears 1",
        ),
    ];
    for (dark_sites, service, target, terms, said) in rows {
        let mut desk = dark(dark_sites);
        if terms.without.is_empty() {
            // Somebody has sent it away before.
            desk = Desk::new();
            carried(&mut desk, to(PAY, "svg"), Terms::default());
            darken(&mut desk, dark_sites);
        }
        let (_, judged) = desk.judged(to(service, target), terms);
        let refusal = judged.expect_err(said);
        assert!(refusal.message.contains(said), "{said}: {refusal:?}");
        assert!(refusal.kind != RefusalKind::Changed, "{refusal:?}");
    }
}

#[test]
fn nobody_is_off_who_is_heard_by_any_way() {
    for heard in ["a voter", "a report"] {
        let mut desk = dark(&["svg", "trd"]);
        match heard {
            "a voter" => drop(desk.sight.voters.insert(id("trd"))),
            _ => drop(desk.sight.silent.remove(&id::<SiteId>("trd"))),
        }
        if heard == "a voter" {
            // With it there is a majority again.
            let (_, judged) = desk.judged(to(PAY, "osl"), without(&["svg", "trd"]));
            assert!(judged.expect_err(heard).message.contains("it is not needed"));
            continue;
        }
        let (_, judged) = desk.judged(to(PAY, "osl"), without(&["svg", "trd"]));
        let refusal = judged.expect_err(heard);
        assert!(refusal.message.contains("trd was heard a moment ago"), "{refusal:?}");
    }
}

#[test]
fn a_node_that_is_away_at_a_site_that_is_not_off_has_to_be_named() {
    let mut desk = dark(&["svg", "trd"]);
    // svg's voter lives elsewhere in this fabric: the site itself is a candidate without one.
    for node in desk.fabric.nodes.iter_mut().filter(|n| n.site == id("svg")) {
        node.voter = false;
    }
    let (_, judged) = desk.judged(to(PAY, "osl"), without(&["trd"]));
    let refusal = judged.expect_err("svg's nodes are away");
    assert!(refusal.message.contains("svg-"), "{refusal:?}");
    assert!(refusal.hint.is_some_and(|hint| hint.contains("--fencing asserted --off svg-")));
    let asserted = desk.sight.away.clone();
    let (_, judged) = desk.judged(to(PAY, "osl"), Terms { asserted, ..without(&["trd"]) });
    judged.expect("all are named");
}

#[test]
fn only_a_failover_names_sites_that_are_off() {
    let desk = dark(&["svg", "trd"]);
    for verb in [
        Verb::Failback { services: id(PAY) },
        Verb::Evacuate { site: id("trd"), to: None },
        Verb::Drain { object: Object::Site(id("trd")) },
    ] {
        let (_, judged) = desk.judged(verb.clone(), without(&["svg", "trd"]));
        let refusal = judged.expect_err("not a failover");
        assert_eq!((refusal.kind, &*refusal.refused_by), (RefusalKind::Usage, "without-quorum"));
    }
}

#[test]
fn an_approval_is_for_the_sites_that_were_named() {
    let mut desk = dark(&["svg", "trd"]);
    let hash = |desk: &Desk, terms: Terms| {
        desk.judged(to(PAY, "osl"), terms).1.expect("accepted").plan_hash
    };
    let both = hash(&desk, without(&["svg", "trd"]));
    let asserted = desk.sight.away.clone();
    assert_eq!(both, hash(&desk, without(&["svg", "trd"])));
    // The same nodes are owed, and another number of voters is enough.
    for node in desk.fabric.nodes.iter_mut().filter(|n| n.site == id("svg")) {
        node.voter = false;
    }
    let one = hash(&desk, Terms { asserted, ..without(&["trd"]) });
    assert_ne!(both, one);
}

#[test]
fn it_does_not_take_effect_once_a_site_is_back() {
    let mut desk = dark(&["svg", "trd"]);
    let task = desk.command(to(PAY, "osl"), without(&["svg", "trd"]));
    assert_eq!(state(&desk.fold, &task), TaskState::WaitingApproval);
    desk.run(&task, |_| false);
    assert!(desk.placings().get(&id(PAY), &task).is_none(), "it waits for its approval");
    darken(&mut desk, &["svg"]);
    approve(&mut desk, &task);
    let reading = desk.run(&task, |_| false);
    assert_eq!(reading.end, Some(Outcome::Failed));
    assert!(reading.end_reason.contains("it is not needed"), "{}", reading.end_reason);
    assert!(desk.placings().get(&id(PAY), &task).is_none(), "there is no claim");
}

// --- what it is in the log

#[test]
fn nodes_of_sites_that_are_off_are_owed_and_nobody_else() {
    let mut desk = dark(&["svg", "trd"]);
    let task = carried(&mut desk, to(LEDGER, "osl"), without(&["svg", "trd"]));
    let effect = nett_policy::task::view::first_effect(&desk.fold, &task).expect("effective");
    let withdraw = effect.steps.iter().find(|s| s.kind == StepKind::Withdraw).expect("a step");
    assert!(withdraw.required.is_empty(), "{:?}", withdraw.required);
    let off = |node: &&Node| node.site != id("osl") && node.role != Role::Witness;
    let off = desk.fabric.nodes.iter().filter(off).map(|node| node.id.clone());
    assert_eq!(withdraw.owed, off.collect());
    let placing = desk.placing(LEDGER, &task);
    assert_eq!((placing.without, placing.open), (sites(&["svg", "trd"]), true));
}

/// One who is heard and does not confirm is not waited out, whatever the service is.
#[test]
fn a_candidate_that_is_not_off_has_to_confirm() {
    let mut desk = dark(&["trd"]);
    desk.sight.voters = sites(&["osl"]);
    for node in desk.fabric.nodes.iter_mut().filter(|n| n.site == id("svg")) {
        node.voter = false;
    }
    desk.silent.insert(id("svg-b1"));
    let task = desk.command(to(PAY, "osl"), without(&["trd"]));
    approve(&mut desk, &task);
    let reading = desk.run(&task, |_| false);
    assert_eq!(reading.end, Some(Outcome::Failed));
    assert!(reading.end_reason.contains("svg-b1 confirmed"), "{}", reading.end_reason);
    assert!(!desk.placing(PAY, &task).open, "nobody serves under it");
}

#[test]
fn the_word_is_about_this_claim_alone() {
    let mut desk = dark(&["svg", "trd"]);
    let first = carried(&mut desk, to(PAY, "osl"), without(&["svg", "trd"]));
    darken(&mut desk, &[]);
    desk.silent.clear();
    let next = carried(&mut desk, to(PAY, "svg"), Terms::default());
    let back = carried(&mut desk, Verb::Revert { task: next.clone() }, Terms::default());
    for task in [&next, &back] {
        assert!(desk.placing(PAY, task).without.is_empty(), "{task}");
    }
    assert_eq!(desk.placing(PAY, &first).without, sites(&["svg", "trd"]));
    // Of a service that was no part of it nothing is known.
    let ledger: ServiceId = id(LEDGER);
    assert!(desk.placings().get(&ledger, &first).is_none());
    assert!(desk.placings().alone(&ledger).next().is_none());
}

/// Taken back while it had no lease, it went somewhere; nobody said who is off for that.
#[test]
fn an_undo_carries_nobodys_word() {
    let mut desk = dark(&["svg", "trd"]);
    let terms = Terms { confirm_within: Some(s(60)), ..without(&["svg", "trd"]) };
    let task = desk.command(to(PAY, "osl"), terms);
    approve(&mut desk, &task);
    let reading = desk.run(&task, |_| false);
    assert_eq!(reading.end, Some(Outcome::Reverted), "{}", reading.end_reason);
    let placing = desk.placing(PAY, &task);
    assert!(placing.stopped && !placing.open, "nobody confirmed it: {placing:?}");
    assert_eq!(placing.without, sites(&["svg", "trd"]), "older claims stay shut");
}

#[test]
fn however_the_log_is_read_the_claim_is_the_same() {
    let mut desk = dark(&["svg", "trd"]);
    carried(&mut desk, to(PAY, "osl"), without(&["svg", "trd"]));
    let whole = desk.placings();
    let count = desk.log.len();
    let read = |order: Vec<usize>| {
        let mut fold = Fold::default();
        for at in order {
            fold.join(&desk.log[at]);
        }
        Placings::of_log(desk.world(), &fold)
    };
    assert_eq!(read((0..count).rev().collect()), whole);
    assert_eq!(read((0..count).chain(0..count).collect()), whole);
    assert_eq!(read((0..count).step_by(2).chain((1..count).step_by(2)).collect()), whole);
}

#[test]
fn a_checkpoint_keeps_it_until_another_claim_is_done_and_read() {
    let mut desk = dark(&["svg", "trd"]);
    let alone = carried(&mut desk, to(PAY, "osl"), without(&["svg", "trd"]));
    let all = |desk: &Desk| {
        let seq = u64::try_from(desk.log.len()).expect("short");
        let stable = [(id("osl"), seq)].into();
        spent(&desk.fold, &stable, nett_policy::id::WallMs(NOW.0 + 10_000_000)).tasks
    };
    assert!(!all(&desk).contains(&alone), "it is the newest");
    darken(&mut desk, &[]);
    desk.silent.clear();
    carried(&mut desk, to(PAY, "svg"), Terms::default());
    assert!(all(&desk).contains(&alone), "every node has read what came after it");
}

// --- by whom it is served

/// A node of osl that knows the log of a desk, and three voters. Log epochs are lease epochs less
/// one.
pub(crate) struct Seat {
    pub(crate) desk: Desk,
    bench: Bench,
    here: SiteId,
}

impl Seat {
    /// Of osl, which took the service while the others were off; only its own voter has voted.
    pub(crate) fn alone() -> (Self, Claim) {
        let mut desk = dark(&["svg", "trd"]);
        let task = carried(&mut desk, to(PAY, "osl"), without(&["svg", "trd"]));
        let mut node = Self { desk, bench: Bench::new(), here: id("osl") };
        let claim = node.claim(&task);
        node.vote("osl", &claim);
        (node, claim)
    }

    fn claim(&self, task: &EntryId) -> Claim {
        let placing = self.desk.placing(PAY, task);
        let services = [(id(PAY), placing.epoch)].into();
        Claim { id: task.clone(), target: placing.target, services }
    }

    /// What the definition claims.
    fn defined(&self) -> Claim {
        let service = self.catalog().get(&id(PAY)).expect("known").clone();
        let (claim, target) = definition(&service).expect("it has a primary");
        Claim { id: claim, target, services: [(id(PAY), Epoch(1))].into() }
    }

    fn catalog(&self) -> Catalog {
        Catalog::new(self.desk.world().catalog.iter().cloned().collect::<Vec<_>>())
    }

    fn vote(&mut self, voter: &str, claim: &Claim) {
        self.bench.vote(voter, claim).expect("a vote");
    }

    fn hear(&mut self, voters: &[&str], now: u64) {
        voters.iter().for_each(|voter| self.bench.hear(voter, s(now)).expect("heard"));
    }

    fn bounds(&self, placings: &Placings, claim: &Claim, now: u64) -> Bounds {
        let service = id(PAY);
        let placing = placings.get(&service, &claim.id).expect("in the log");
        let one = (&service, &claim.id, placing);
        self.bench.node.bounds(&self.bench.rules, placings, one, s(now))
    }

    /// The verdict by what of the log was read, and the gate's grouping says the same.
    fn verdict_by(&self, placings: &Placings, claim: &Claim, now: u64) -> Verdict {
        let bounds = self.bounds(placings, claim, now);
        let service = id(PAY);
        let asking = Asking {
            claim: &claim.id,
            service: &service,
            epoch: claim.services[&service],
            target: &claim.target,
            ground: Ground::Wait,
            here: &self.here,
            bounds: &bounds,
            alone: Ground::Wait,
        };
        let (node, rules) = (&self.bench.node, &self.bench.rules);
        let verdict = node.serves(rules, asking, s(now));
        let group = node.group(rules, asking, s(now)).group;
        let rounds = now.saturating_sub(59)..=now;
        let open = rounds.into_iter().any(|armed| node.opens(rules, &group, s(armed)));
        assert_eq!(open, verdict.is_serving(), "at {now} s: {verdict:?}");
        verdict
    }

    fn verdict(&self, claim: &Claim, now: u64) -> Verdict {
        self.verdict_by(&self.desk.placings(), claim, now)
    }

    fn chosen(&self, placings: &Placings) -> Option<EntryId> {
        self.bench.node.chosen(placings, &id(PAY)).map(|(claim, _)| claim.clone())
    }

    fn is_unprotected(&self, claim: &Claim, now: u64) -> bool {
        let placings = self.desk.placings();
        let bounds = self.bounds(&placings, claim, now);
        let placing = placings.get(&id(PAY), &claim.id).expect("in the log");
        let (node, rules) = (&self.bench.node, &self.bench.rules);
        node.unprotected(rules, (&id(PAY), &claim.id, placing), &bounds, s(now)).is
    }
}

#[test]
fn all_voters_that_are_left_serve_it_after_the_wait_and_as_long_as_they_answer() {
    let (mut node, claim) = Seat::alone();
    node.hear(&["osl"], 0);
    assert_eq!(node.verdict(&claim, 0), Verdict::Waits { from: s(90) });
    node.hear(&["osl"], 80);
    assert_eq!(node.verdict(&claim, 90), Verdict::Serves { until: s(140) });
    assert_eq!(node.verdict(&claim, 140), Verdict::Shut(Why::Expired { counting: 0 }));
    assert!(node.is_unprotected(&claim, 100));
}

#[test]
fn one_of_two_that_are_left_is_not_enough() {
    let mut desk = dark(&["trd"]);
    desk.sight.voters = sites(&["osl", "svg"]);
    // An older claim like it makes it needed: nobody else may serve without trd.
    desk.sight.bound = [(id(PAY), vec![sites(&["trd"])])].into();
    let task = carried(&mut desk, to(PAY, "osl"), without(&["trd"]));
    let mut node = Seat { desk, bench: Bench::new(), here: id("osl") };
    let claim = node.claim(&task);
    node.vote("osl", &claim);
    node.hear(&["osl", "svg"], 0);
    node.hear(&["osl", "svg"], 100);
    assert_eq!(node.verdict(&claim, 100), Verdict::Shut(Why::NoMajority { behind: 1 }));
    assert_eq!(node.chosen(&node.desk.placings()), None);
    node.vote("svg", &claim);
    node.hear(&["svg"], 110);
    node.hear(&["osl", "svg"], 190);
    assert_eq!(node.verdict(&claim, 200), Verdict::Serves { until: s(250) });
}

#[test]
fn it_becomes_protected_by_itself_when_a_majority_has_voted_for_it() {
    let (mut node, claim) = Seat::alone();
    node.hear(&["osl"], 0);
    node.hear(&["osl"], 100);
    assert!(node.is_unprotected(&claim, 100));
    node.vote("trd", &claim);
    node.hear(&["osl", "trd"], 110);
    assert!(node.verdict(&claim, 110).is_serving(), "nothing is interrupted");
    assert!(node.is_unprotected(&claim, 199), "an older answer of trd may be in use");
    assert!(!node.is_unprotected(&claim, 200));
    node.hear(&["trd", "osl"], 200);
    assert!(node.verdict(&claim, 200).is_serving());
}

#[test]
fn whoever_has_read_it_serves_nothing_up_to_its_epoch() {
    let (mut node, alone) = Seat::alone();
    let old = node.defined();
    node.here = old.target.clone();
    for voter in ["svg", "trd"] {
        node.vote(voter, &old);
    }
    node.hear(&["svg", "trd"], 0);
    node.hear(&["svg", "trd"], 100);
    let unread = Placings::new(node.desk.world());
    assert!(node.verdict_by(&unread, &old, 100).is_serving(), "the word was not true");
    assert_eq!(node.verdict(&old, 100), Verdict::Shut(Why::Overruled));
    // It follows the claim that it has read once the voters that are left are known to be for it.
    assert_eq!(node.chosen(&node.desk.placings()), Some(old.id.clone()));
    node.hear(&["osl"], 101);
    assert_eq!(node.chosen(&node.desk.placings()), Some(alone.id));
}

#[test]
fn a_vote_for_a_claim_that_was_not_read_ends_older_ones() {
    let (mut node, _) = Seat::alone();
    let old = node.defined();
    node.here = old.target.clone();
    for voter in ["svg", "trd"] {
        node.vote(voter, &old);
    }
    node.hear(&["svg", "trd"], 0);
    node.hear(&["svg", "trd"], 100);
    let unread = Placings::new(node.desk.world());
    assert!(node.verdict_by(&unread, &old, 101).is_serving());
    node.hear(&["osl"], 102);
    assert_eq!(node.verdict_by(&unread, &old, 102), Verdict::Shut(Why::Overruled));
}

/// A claim behind it, by those that were off: `target` takes the service with a majority.
fn taken_on(node: &mut Seat, target: &str) -> Claim {
    darken(&mut node.desk, &[]);
    node.desk.silent.clear();
    let task = carried(&mut node.desk, to(PAY, target), Terms::default());
    node.here = id(target);
    node.claim(&task)
}

#[test]
fn a_newer_claim_needs_one_of_the_voters_that_it_had_left() {
    let (mut node, alone) = Seat::alone();
    let newer = taken_on(&mut node, "svg");
    for voter in ["svg", "trd"] {
        node.vote(voter, &newer);
    }
    node.hear(&["osl", "svg", "trd"], 0);
    node.hear(&["osl", "svg", "trd"], 100);
    let verdict = node.verdict(&newer, 100);
    assert_eq!(verdict, Verdict::Shut(Why::NoMajority { behind: 2 }), "osl may serve with its own");
    node.vote("osl", &newer);
    node.hear(&["osl"], 110);
    node.hear(&["osl", "svg", "trd"], 190);
    assert_eq!(node.verdict(&newer, 199), Verdict::Waits { from: s(200) });
    assert!(node.verdict(&newer, 200).is_serving());
    node.here = id("osl");
    assert!(!node.verdict(&alone, 200).is_serving(), "its voter has gone on");
}

/// From then on a majority is enough, whoever dies.
#[test]
fn once_its_voter_has_gone_on_it_binds_nobody_any_more() {
    let (mut node, _) = Seat::alone();
    let newer = taken_on(&mut node, "svg");
    for voter in ["osl", "svg", "trd"] {
        node.vote(voter, &newer);
    }
    node.hear(&["osl", "svg", "trd"], 0);
    let third = taken_on(&mut node, "trd");
    for voter in ["svg", "trd"] {
        node.vote(voter, &third);
    }
    node.hear(&["svg", "trd"], 10);
    node.hear(&["svg", "trd"], 80);
    let verdict = node.verdict(&third, 89);
    assert!(!verdict.is_serving(), "an older answer of osl's voter may be in use: {verdict:?}");
    node.hear(&["svg", "trd"], 100);
    assert!(node.verdict(&third, 101).is_serving(), "without a word of osl");
}

/// A higher number that the dead had, and this site never read, is not served beside it either.
#[test]
fn a_higher_epoch_of_before_waits_for_a_voter_that_is_left() {
    let mut desk = Desk::new();
    let first = carried(&mut desk, to(PAY, "svg"), Terms::default());
    let second = carried(&mut desk, to(PAY, "trd"), Terms::default());
    // osl reads on from a log that lacks both.
    let mut behind = dark(&["svg", "trd"]);
    let task = carried(&mut behind, to(PAY, "osl"), without(&["svg", "trd"]));
    let (high, low) = (desk.placing(PAY, &second).epoch, behind.placing(PAY, &task).epoch);
    assert!(high > low && desk.placing(PAY, &first).epoch == low);
    let mut node = Seat { desk: behind, bench: Bench::new(), here: id("osl") };
    let alone = node.claim(&task);
    let placings = node.desk.placings();
    node.vote("osl", &alone);
    node.hear(&["osl"], 0);
    // What a node of trd knows that has come back: both.
    let known = placings.alone(&id(PAY)).map(|(id, p)| (id.clone(), p.epoch)).next();
    assert_eq!(known, Some((alone.id.clone(), low)));
    let bound = node.bench.node.bound_to(&node.bench.rules, &placings, &id(PAY), s(0));
    assert_eq!(bound, [sites(&["osl"])], "whatever comes next");
}

#[test]
fn a_takeover_is_refused_where_its_voters_are_not_heard_and_can_go_without_them() {
    let mut desk = dark(&["svg", "trd"]);
    carried(&mut desk, to(PAY, "osl"), without(&["svg", "trd"]));
    // As svg sees it later, with osl dead: the desk stays at osl, so the names are exchanged.
    darken(&mut desk, &["trd"]);
    desk.sight.bound = [(id(PAY), vec![sites(&["trd"])])].into();
    let (_, judged) = desk.judged(to(PAY, "svg"), Terms::default());
    let refusal = judged.expect_err("trd's voter is needed");
    assert_eq!(refusal.refused_by, "lease-majority");
    assert!(refusal.message.contains("of trd no voter is heard"), "{refusal:?}");
    let (_, judged) = desk.judged(to(PAY, "svg"), without(&["trd"]));
    assert_eq!(judged.expect("two people may").approvals_needed, 1);
    // With its voter heard it is taken on, also to where it is: then nothing is special about it.
    darken(&mut desk, &[]);
    for target in ["osl", "svg"] {
        desk.judged(to(PAY, target), Terms::default()).1.expect(target);
    }
}

/// Two sides that go without each other stop in the end: who has read of the other does.
#[test]
fn a_second_one_ends_the_first() {
    let (mut node, alone) = Seat::alone();
    node.hear(&["osl"], 0);
    node.hear(&["osl"], 100);
    assert!(node.verdict(&alone, 100).is_serving());
    let other = carried(&mut node.desk, to(PAY, "osl"), without(&["svg", "trd"]));
    assert!(node.claim(&other).services > alone.services);
    assert_eq!(node.verdict(&alone, 100), Verdict::Shut(Why::Overruled));
}

#[test]
fn condition_four_rests_on_the_word_for_those_that_are_off_and_on_nothing_else() {
    let desk = Desk::new();
    let ledger = desk.world().catalog.get(&id(LEDGER)).expect("known");
    assert_eq!(ledger.isolation, Isolation::Exclusive);
    let (service, target) = (id(LEDGER), id("osl"));
    let needs =
        |without: &BTreeSet<SiteId>| candidates(&desk.fabric, ledger, &BTreeSet::new(), without);
    let mut said = Withdrawals::default();
    let ground = |said: &Withdrawals, names: &[&str]| {
        let nodes = needs(&sites(names));
        let epoch = Epoch(2);
        said.ground_alone(Needs { service: &service, epoch, target: &target, nodes: &nodes })
    };
    assert_eq!(ground(&said, &["svg", "trd"]), Ground::Wait, "the wait is kept");
    assert_eq!(ground(&said, &["trd"]), Ground::Nothing);
    for node in desk.fabric.serving_nodes(&id("svg")) {
        said.join(node.id.clone(), id(LEDGER), Epoch(2));
    }
    assert_eq!(ground(&said, &["trd"]), Ground::Wait);
}
