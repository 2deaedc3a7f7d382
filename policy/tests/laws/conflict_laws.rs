//! A split decision is found by everybody who has read the same, and by nobody where there is none.

use std::collections::BTreeMap;

use nett_policy::id::{EntryId, Epoch};
use nett_policy::log::conflict::{Claims, Contested};
use nett_policy::log::entry::Entry;
use nett_policy::log::fold::Fold;
use nett_policy::place::{Reason, place};
use nett_policy::traffic::Spread;
use proptest::prelude::*;

use super::desk::{Desk, Nodes, Order};
use super::fold_laws::{Act, acts, fold, history};
use super::ground::Ground;

/// Conflicts the long way round: who knew of whom, by what each author had read when it wrote.
///
/// `history` says after which entries of both logs every effect was written; an effect that its
/// subject's winner had not read is a loser.
fn approve_and_run(desk: &mut Desk<'_>, by: usize) {
    desk.wish(by, 0, true);
    while desk.advance(Nodes::Done).is_some() {}
}

fn exchange(desks: &mut [Desk<'_>; 2]) {
    let logs = [desks[0].log.clone(), desks[1].log.clone()];
    logs[1].iter().for_each(|entry| desks[0].read(entry));
    logs[0].iter().for_each(|entry| desks[1].read(entry));
}

fn split(ground: &Ground) -> [Desk<'_>; 2] {
    let mut desks = [Desk::new(ground, 0), Desk::new(ground, 1)];
    // Both took an override, so both wait for the other operator; and neither has read the other.
    desks[0].order(1, &Order::Steer { service: 2, weights: (1, 3) }, false);
    approve_and_run(&mut desks[0], 0);
    desks[1].order(0, &Order::Failover { service: 2, to: 0 }, false);
    approve_and_run(&mut desks[1], 1);
    desks
}

#[test]
fn two_decisions_in_a_cut_are_one_conflict_until_it_is_resolved() {
    let ground = Ground::two_sites();
    let mut desks = split(&ground);
    assert!(desks.iter().all(|d| Claims::of(&d.fold).conflicts().is_empty()), "not known yet");
    exchange(&mut desks);

    let seen = desks.iter().map(|d| Claims::of(&d.fold).conflicts()).collect::<Vec<_>>();
    assert_eq!(seen[0], seen[1], "the same at both sites");
    let [conflict] = seen[0].as_slice() else { panic!("one split decision: {seen:?}") };
    let web: nett_policy::id::ServiceId = "shop/prod/web".parse().expect("an id");
    assert_eq!(conflict.subject, Contested::Service(web));
    assert_eq!(conflict.winner.order().site.as_str(), "osl", "the better rank");
    let [loser] = conflict.losers.as_slice() else { panic!("one loser: {conflict:?}") };
    assert_eq!(loser.order().site.as_str(), "svg");
    assert_ne!(conflict.winner.person, loser.person, "both people are named");
    assert!(conflict.why(loser).contains("both have epoch 1"), "{}", conflict.why(loser));

    // An ordinary command on top does not hide it: its author may not have known.
    desks[0].order(1, &Order::Steer { service: 2, weights: (3, 1) }, true);
    approve_and_run(&mut desks[0], 0);
    assert_eq!(Claims::of(&desks[0].fold).conflicts().len(), 1);

    desks[1].order(0, &Order::Resolve { subject: 0 }, true);
    exchange(&mut desks);
    assert_eq!(Claims::of(&desks[1].fold).conflicts().len(), 1, "it waits for its approval");
    approve_and_run(&mut desks[1], 1);
    assert_eq!(Claims::of(&desks[1].fold).conflicts().len(), 1, "a resolve from before knew less");
}

#[test]
fn a_resolve_that_knows_everything_ends_the_conflict_everywhere() {
    let ground = Ground::two_sites();
    let mut desks = split(&ground);
    exchange(&mut desks);
    desks[1].order(0, &Order::Resolve { subject: 0 }, true).expect("there is one to resolve");
    approve_and_run(&mut desks[1], 1);
    exchange(&mut desks);
    for desk in &desks {
        assert_eq!(Claims::of(&desk.fold).conflicts(), []);
    }
    let web = "shop/prod/web".parse().expect("an id");
    let held = desks[0].intent().held(&nett_policy::log::entry::Subject::Service(web)).cloned();
    assert_eq!(held.expect("written").order.epoch, Epoch(2), "the next epoch");
}

/// The prefixes of both logs, joined in any order.
fn claims_of(entries: &[Entry]) -> Vec<(Contested, EntryId, Vec<EntryId>)> {
    let claims = Claims::of(&fold(entries));
    let line = |c: nett_policy::log::conflict::Conflict| {
        let losers = c.losers.iter().map(|l| l.order().task.clone()).collect();
        (c.subject, c.winner.order().task.clone(), losers)
    };
    claims.conflicts().into_iter().map(line).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Where everything is read at once nobody decides behind anybody's back.
    #[test]
    fn without_a_cut_there_is_no_conflict(acts in prop::collection::vec(acts(), 1..40)) {
        let ground = Ground::two_sites();
        let mut whole = Vec::new();
        for act in acts {
            whole.push(act);
            whole.extend([0, 1].map(|to| Act::Deliver { to, at_most: 1000 }));
        }
        prop_assert_eq!(claims_of(&history(&ground, &whole)), []);
    }

    /// The same entries, the same verdict: in any order, and with any of them twice.
    #[test]
    fn the_verdict_depends_on_the_set_alone(
        acts in prop::collection::vec(acts(), 1..40),
        order in prop::collection::vec(any::<prop::sample::Index>(), 120),
    ) {
        let ground = Ground::two_sites();
        let entries = history(&ground, &acts);
        prop_assume!(!entries.is_empty());
        let mut other: Vec<Entry> = entries.clone();
        other.extend(order.iter().take(20).map(|i| i.get(&entries).clone()));
        for (n, index) in order.iter().enumerate() {
            let len = other.len();
            other.swap(n % len, index.index(len));
        }
        prop_assert_eq!(claims_of(&entries), claims_of(&other));
    }

    /// The winner is the register's, and no conflict names anybody twice.
    #[test]
    fn a_conflict_has_the_winner_of_its_register(acts in prop::collection::vec(acts(), 1..60)) {
        let ground = Ground::two_sites();
        let fold: Fold = fold(&history(&ground, &acts));
        let intent = nett_policy::log::intent::Intent::read(&fold);
        for conflict in Claims::of(&fold).conflicts() {
            let winner = conflict.winner.order();
            let mut orders = BTreeMap::new();
            for loser in &conflict.losers {
                prop_assert!(loser.order() < winner);
                let key = (loser.order().task.clone(), loser.order().epoch);
                prop_assert!(orders.insert(key, ()).is_none());
            }
            let held = intent.held(&conflict.subject.subject()).map(|h| &h.order);
            let mover = match &conflict.subject {
                Contested::Service(service) => intent.mover(service).map(|m| &m.order),
                Contested::Drained(_) | Contested::Held(_) | Contested::Revoked(_) => None,
            };
            prop_assert_eq!(held.max(mover), Some(winner));
        }
    }
}

#[test]
fn two_sites_drained_behind_each_others_backs_leave_every_service_somewhere() {
    let ground = Ground::two_sites();
    let mut desks = [Desk::new(&ground, 0), Desk::new(&ground, 1)];
    for (site, desk) in desks.iter_mut().enumerate() {
        desk.order(site, &Order::DrainSite { site, on: true }, true).expect("the other is left");
        approve_and_run(desk, 1 - site);
    }
    exchange(&mut desks);
    let world = ground.world();
    let placed = desks.each_ref().map(|desk| place(world, &desk.intent()));
    assert_eq!(placed[0], placed[1], "the same at both sites");
    for (service, placed) in &placed[0].services {
        assert_ne!(placed.traffic.spread, Spread::Nowhere, "{service}");
        // Either stays where it is, or the newest drain does not count for it.
        let kept = Reason::Kept { wanted: Spread::Nowhere };
        assert!([Reason::Left, kept].contains(&placed.reason), "{service}: {:?}", placed.reason);
    }
}
