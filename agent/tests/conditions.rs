//! What a node says of conditions that change nothing of what is wanted: links that are held down
//! or full, and a name server that cannot listen.

mod fleet;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fleet::{Fleet, id};
use nett_agent::api::types::{ApiRequest, LinkEndDoc, NodeDoc, Outcome, Payload};
use nett_agent::controller::Snapshot;
use nett_agent::controller::effect::{AuditEvent, Effect};
use nett_agent::controller::event::{Applied, Event, HeldDown};
use nett_agent::probe::bfd::packet::{Diagnostic, State};
use nett_agent::probe::bfd::{PathView, Views};
use nett_policy::fabric::Family;
use nett_policy::id::LinkId;
use nett_policy::saturation::Saturated;
use nett_policy::trust::Belief;

const BORDER: &str = "osl-b1";
const LINK: &str = "osl-svg-1";

/// Lets an event happen at the border, and gives what goes on record because of it.
fn happens(fleet: &mut Fleet, event: Event) -> Vec<String> {
    let now = fleet.clock();
    let controller = &mut fleet.agents.get_mut(&id(BORDER)).expect("known").controller;
    let effects = controller.handle(event, now);
    let recorded = effects.into_iter().filter_map(|effect| match effect {
        Effect::Audit(AuditEvent::Kernel { kind, text }) => Some(format!("{kind}: {text}")),
        _ => None,
    });
    let recorded = recorded.collect();
    fleet.pass(Duration::from_secs(5));
    recorded
}

/// The border, as a node says.
fn border(fleet: &mut Fleet, asked: &str) -> NodeDoc {
    let Outcome::Ok(payload) = fleet.ask(asked, ApiRequest::Nodes {}) else { panic!("no nodes") };
    let Payload::Nodes { nodes } = *payload else { panic!("no nodes") };
    nodes.into_iter().find(|node| node.id == BORDER).expect("known")
}

/// The border's end of the link, as a node says.
fn end(fleet: &mut Fleet, asked: &str) -> LinkEndDoc {
    let Outcome::Ok(payload) = fleet.ask(asked, ApiRequest::Links {}) else { panic!("no links") };
    let Payload::Links { links } = *payload else { panic!("no links") };
    let link = links.into_iter().find(|link| link.id == LINK).expect("known");
    [link.a, link.b].into_iter().find(|end| end.node == BORDER).expect("an end")
}

fn flag(fleet: &Fleet, of: impl Fn(&Snapshot) -> &BTreeMap<LinkId, bool>) -> bool {
    of(&fleet.snapshot(BORDER))[&id::<LinkId>(LINK)]
}

fn full() -> Saturated {
    Saturated {
        sent_bps: 1_000_000,
        received_bps: 20_000,
        capacity_bps: Some(1_000_000),
        took: Some(Duration::from_millis(310)),
        usual: Some(Duration::from_micros(400)),
        lost: 25,
    }
}

#[test]
fn a_link_that_is_held_down_is_told_with_what_is_left() {
    let mut fleet = Fleet::start();
    let reached = Applied::default;
    let second = Duration::from_secs(1);
    let held = HeldDown { losses: 4, time: 20 * second, left: Some(20 * second) };
    let held = BTreeMap::from([(id(LINK), held)]);
    let line = format!("link {LINK}: held down, flapped 4 times");
    let links = vec![line.clone()];
    happens(&mut fleet, Event::Applied(Applied { held, links, ..reached() }));
    let told = end(&mut fleet, BORDER).held.expect("it is held down");
    assert_eq!((told.losses, told.time_ms, told.left_ms), (4, 20_000, Some(15_000)));
    assert_eq!(end(&mut fleet, "svg-b1").held, None, "known by its own agent alone");
    assert!(flag(&fleet, |numbers| &numbers.held));
    for asked in [BORDER, "svg-b1"] {
        assert!(border(&mut fleet, asked).degraded.contains(&line), "{asked}");
    }
    let away = HeldDown { losses: 5, time: 20 * second, left: None };
    let held = BTreeMap::from([(id(LINK), away)]);
    happens(&mut fleet, Event::Applied(Applied { held, ..reached() }));
    let told = end(&mut fleet, BORDER).held.expect("it is held down");
    assert_eq!((told.losses, told.left_ms), (5, None));
    happens(&mut fleet, Event::Applied(reached()));
    assert_eq!(end(&mut fleet, BORDER).held, None);
    assert!(!flag(&fleet, |numbers| &numbers.held));
}

#[test]
fn a_full_link_is_told_by_all_and_moves_nothing() {
    let mut fleet = Fleet::start();
    let kernels = |fleet: &Fleet| {
        let kernels = fleet.agents.values().map(|agent| agent.kernel.clone());
        kernels.collect::<Vec<_>>()
    };
    let before = kernels(&fleet);
    assert!(!flag(&fleet, |numbers| &numbers.saturated));
    let links = BTreeMap::from([(id(LINK), full())]);
    let line = format!("link {LINK}: {}", full());
    let told = happens(&mut fleet, Event::Saturation { links: links.clone() });
    assert_eq!(told, [format!("saturation: {line}")]);
    let again = happens(&mut fleet, Event::Saturation { links });
    assert_eq!(again, Vec::<String>::new(), "once");
    assert!(flag(&fleet, |numbers| &numbers.saturated));
    assert!(flag(&fleet, |numbers| &numbers.links), "and it is up");
    for asked in [BORDER, "svg-b1"] {
        assert!(border(&mut fleet, asked).degraded.contains(&line), "{asked}");
    }
    let told = end(&mut fleet, BORDER).saturated.expect("it is full");
    assert_eq!((told.sent_bps, told.took_us, told.lost_percent), (1_000_000, Some(310_000), 25));
    assert_eq!(kernels(&fleet), before);
    let told = happens(&mut fleet, Event::Saturation { links: BTreeMap::new() });
    assert_eq!(told, [format!("saturation: link {LINK}: saturated no more")]);
    assert!(!flag(&fleet, |numbers| &numbers.saturated));
    assert_eq!(border(&mut fleet, "svg-b1").degraded, Vec::<String>::new());
}

/// The session's word counts as ever; that both came together is for whoever looks for the cause.
#[test]
fn a_session_that_breaks_while_its_link_is_full_is_told_apart() {
    let view = |belief| {
        let second = Duration::from_secs(1);
        let view = PathView {
            belief,
            state: State::Down,
            diagnostic: Diagnostic::EXPIRED,
            remote: None,
            interval: second,
            detection: second,
            trouble: None,
        };
        let views: Views = Arc::new(BTreeMap::from([((id(LINK), Family::V6), view)]));
        Event::Paths { views, news: Vec::new() }
    };
    for is_full in [false, true] {
        let mut fleet = Fleet::start();
        happens(&mut fleet, view(Belief::Proven));
        let links = if is_full { BTreeMap::from([(id(LINK), full())]) } else { BTreeMap::new() };
        happens(&mut fleet, Event::Saturation { links });
        let told = happens(&mut fleet, view(Belief::Doubted));
        let line =
            format!("saturation: link {LINK}, IPv6: the session broke while it was saturated");
        assert_eq!(told, if is_full { vec![line] } else { vec![] });
        let told = happens(&mut fleet, view(Belief::Probation));
        assert_eq!(told, Vec::<String>::new(), "once");
    }
}

#[test]
fn a_name_server_that_cannot_listen_is_told_by_all_until_it_can() {
    let mut fleet = Fleet::start();
    let why = "cannot listen on 192.0.2.1:53/udp: Address already in use (os error 98)";
    let told = happens(&mut fleet, Event::NameServer { trouble: Some(why.to_owned()) });
    assert_eq!(told, [format!("dns: {why}")]);
    for asked in [BORDER, "svg-b1"] {
        let degraded = border(&mut fleet, asked).degraded;
        assert_eq!(degraded, [format!("dns: no name is answered here: {why}")], "{asked}");
    }
    let told = happens(&mut fleet, Event::NameServer { trouble: None });
    assert_eq!(told, ["dns: the name server listens"]);
    assert_eq!(border(&mut fleet, "svg-b1").degraded, Vec::<String>::new());
}
