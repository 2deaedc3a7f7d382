//! Two agents of a site write at once: who loses goes on as soon as it is known behind what.

mod fleet;

use fleet::{Fleet, id};
use nett_agent::controller::effect::Effect;
use nett_agent::controller::event::{AppendFailure, Event, Token};
use nett_policy::log::entry::{Ask, Terms, Verb};

/// Behind which number of the stream something is appended.
fn behind(effects: &[Effect]) -> Option<u64> {
    effects.iter().find_map(|effect| match effect {
        Effect::Append(append) => Some(append.after_stream_seq),
        _ => None,
    })
}

fn hold(service: &str) -> Verb {
    Verb::Hold { services: id(service) }
}

fn order(service: &str) -> Ask {
    let verb = hold(service);
    Ask::Command { verb, plan_hash: None, overrides: [].into(), terms: Terms::default() }
}

#[test]
fn who_has_read_the_winner_before_the_loss_was_known_does_not_wait() {
    for read_first in [true, false] {
        let mut fleet = Fleet::start();
        let before = fleet.log("osl").len();
        // The other agent of the site hears nothing for a while.
        fleet.silent.insert(id("osl-r1"));
        assert!(fleet.command("mira", "osl", hold("shop/prod/web")).accepted);
        fleet.silent.clear();
        let written: Vec<_> = fleet.log("osl").iter().cloned().zip(1u64..).skip(before).collect();
        let last = fleet.log("osl").len() as u64;
        let (now, request) = (fleet.clock(), fleet.request("odd", "osl", order("shop/prod/api")));
        let (subject, bytes) = fleet.seal(&request);
        let controller = &mut fleet.agents.get_mut(&id("osl-r1")).expect("known").controller;
        let effects = controller.handle(Event::Request { token: Token(1), subject, bytes }, now);
        assert_eq!(behind(&effects), Some(before as u64));
        let entries = Event::Entries(written);
        let lost = Event::AppendFailed(AppendFailure::Conflict);
        let [first, second] = if read_first { [entries, lost] } else { [lost, entries] };
        assert_eq!(behind(&controller.handle(first, now)), None, "read first: {read_first}");
        let effects = controller.handle(second, now);
        assert_eq!(behind(&effects), Some(last), "read first: {read_first}: {effects:?}");
    }
}

/// What somebody is refused counts once, however often another agent was faster.
#[test]
fn a_refusal_that_loses_many_times_counts_as_one() {
    let mut fleet = Fleet::start();
    let before = fleet.log("osl").len();
    fleet.silent.insert(id("osl-r1"));
    for n in 0..10 {
        let services = id("shop/prod/web");
        let release = Verb::Release { services };
        let verb = if n % 2 == 0 { hold("shop/prod/web") } else { release };
        let reply = fleet.command("mira", "osl", verb);
        assert!(reply.accepted, "{reply:?}");
    }
    fleet.silent.clear();
    let written: Vec<_> = fleet.log("osl").iter().cloned().zip(1u64..).skip(before).collect();
    assert!(written.len() >= 10);
    let mut old = fleet.request("odd", "osl", order("shop/prod/api"));
    (old.issued_at.0, old.expires_at.0) = (old.issued_at.0 - 600_000, old.expires_at.0 - 600_000);
    let (now, (subject, bytes)) = (fleet.clock(), fleet.seal(&old));
    let controller = &mut fleet.agents.get_mut(&id("osl-r1")).expect("known").controller;
    let mut effects = controller.handle(Event::Request { token: Token(1), subject, bytes }, now);
    for (n, entry) in written.into_iter().enumerate() {
        assert!(behind(&effects).is_some(), "after {n} losses: {effects:?}");
        controller.handle(Event::Entries(vec![entry]), now);
        effects = controller.handle(Event::AppendFailed(AppendFailure::Conflict), now);
    }
    assert!(behind(&effects).is_some(), "{effects:?}");
}

/// Whoever has a key that counts does not fill the log with what he is refused.
#[test]
fn of_many_refusals_some_are_recorded_and_all_are_answered() {
    let mut fleet = Fleet::start();
    let before = fleet.log("osl").len();
    for _ in 0..100 {
        let mut request = fleet.request("odd", "osl", order("shop/prod/web"));
        request.issued_at.0 -= 600_000;
        request.expires_at.0 -= 600_000;
        let reply = fleet.send("osl-b1", &request);
        assert_eq!(reply.refused_by.as_deref(), Some("expired"), "{reply:?}");
    }
    let recorded = fleet.log("osl").len() - before;
    assert!((1..=50).contains(&recorded), "{recorded} of 100");
    // Of somebody else they are.
    let mut request = fleet.request("mira", "osl", order("shop/prod/web"));
    request.expires_at.0 -= 600_000;
    request.issued_at.0 -= 600_000;
    assert_eq!(fleet.send("osl-b1", &request).refused_by.as_deref(), Some("expired"));
    assert_eq!(fleet.log("osl").len() - before, recorded + 1);
}
