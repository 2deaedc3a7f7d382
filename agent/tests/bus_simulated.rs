//! The simulated bus keeps the promises of the real one, faults included.

mod bus_fixture;

use std::collections::BTreeMap;

use bus_fixture::*;
use nett_agent::bus::simulated::{SimulatedBus, SimulatedNet};
use nett_agent::bus::{AppendError, Bus, BusEvent, BusEvents};
use nett_policy::id::SiteId;

fn agent(net: &SimulatedNet, site: &str, node: &str, capacity: usize) -> (SimulatedBus, BusEvents) {
    net.agent(&id(site), &id(node), &BTreeMap::new(), capacity)
}

/// What waits now: entries as `site/number`, other events by a word.
fn drain(events: &mut BusEvents) -> Vec<String> {
    let mut seen = Vec::new();
    while let Ok(event) = events.try_recv() {
        seen.push(match event {
            BusEvent::Entry { site, stream_seq, .. } => format!("{site}/{stream_seq}"),
            BusEvent::BadEntry { site, stream_seq, .. } => format!("bad {site}/{stream_seq}"),
            BusEvent::Connected => "connected".to_owned(),
            BusEvent::Disconnected => "disconnected".to_owned(),
            BusEvent::CaughtUp { site } => format!("caught up {site}"),
            other => format!("{other:?}"),
        });
    }
    seen
}

/// As the real one does: once, and not where reading began with the first entry.
#[tokio::test]
async fn a_log_is_read_from_its_first_entry_on_when_that_is_asked_for() {
    let (site, net) = (id("osl"), SimulatedNet::new(shared(), 7));
    let (osl, mut at_osl) = agent(&net, "osl", "osl-b1", 64);
    for seq in 1..=3 {
        assert_eq!(osl.append(&sealed_command("osl", seq), seq - 1).await, Ok(seq));
    }
    let start = BTreeMap::from([(id("osl"), 3)]);
    let (later, mut events) = net.agent(&site, &id("osl-r1"), &start, 64);
    assert_eq!(drain(&mut events), ["connected", "osl/3", "caught up osl", "caught up svg"]);
    later.rewind(&site);
    let rewound = format!("{:?}", BusEvent::Rewound { site: site.clone() });
    let again = [rewound.as_str(), "osl/1", "osl/2", "osl/3", "caught up osl"];
    assert_eq!(drain(&mut events), again);
    drain(&mut at_osl);
    later.rewind(&site);
    osl.rewind(&site);
    assert_eq!((drain(&mut events), drain(&mut at_osl)), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn appends_compare_and_cuts_hold_back() {
    let (osl_id, svg_id): (SiteId, SiteId) = (id("osl"), id("svg"));
    let net = SimulatedNet::new(shared(), 7);
    let (osl, mut at_osl) = agent(&net, "osl", "osl-b1", 64);
    let (_svg, mut at_svg) = agent(&net, "svg", "svg-b1", 64);
    let begin = ["connected", "caught up osl", "caught up svg"];
    assert_eq!(drain(&mut at_osl), begin);
    assert_eq!(drain(&mut at_svg), begin);

    assert_eq!(osl.append(&sealed_command("osl", 1), 0).await, Ok(1));
    assert_eq!(osl.append(&sealed_command("osl", 1), 0).await, Ok(1));
    assert_eq!(osl.append(&sealed_command("osl", 2), 0).await, Err(AppendError::Conflict));
    assert_eq!(drain(&mut at_svg), ["osl/1"]);

    net.cut(&osl_id, &svg_id, true);
    assert_eq!(osl.append(&sealed_command("osl", 2), 1).await, Ok(2));
    assert_eq!(drain(&mut at_osl), ["osl/1", "osl/2"]);
    assert_eq!(drain(&mut at_svg), [""; 0]);
    net.cut(&svg_id, &osl_id, false);
    assert_eq!(drain(&mut at_svg), ["osl/2"]);

    net.stop_server(&osl_id, true);
    assert_eq!(osl.append(&sealed_command("osl", 3), 2).await, Err(AppendError::Unreachable));
    assert!(!osl.connected());
    assert_eq!(drain(&mut at_osl), ["disconnected"]);
    net.stop_server(&osl_id, false);
    assert_eq!(drain(&mut at_osl), begin);

    net.inject(&osl_id, "nett.r.log.osl.end.x", b"{}");
    assert_eq!(drain(&mut at_svg), ["bad osl/3"]);
}

#[tokio::test]
async fn what_does_not_fit_is_delivered_later() {
    let net = SimulatedNet::new(shared(), 7);
    let (osl, mut at_osl) = agent(&net, "osl", "osl-b1", 64);
    for seq in 1..=5 {
        osl.append(&sealed_command("osl", seq), seq - 1).await.expect("appends");
    }
    drain(&mut at_osl);
    let (_late, mut events) = agent(&net, "svg", "svg-b1", 2);
    let mut seen = Vec::new();
    while seen.len() < 8 {
        let more = drain(&mut events);
        assert!(!more.is_empty(), "nothing after {seen:?}");
        seen.extend(more);
        net.pump();
    }
    seen.retain(|what| what.starts_with("osl/"));
    assert_eq!(seen, ["osl/1", "osl/2", "osl/3", "osl/4", "osl/5"]);
}

#[tokio::test]
async fn duplicates_and_orders_come_from_the_seed() {
    let run = async |seed| {
        let net = SimulatedNet::new(shared(), seed);
        net.reorder(true);
        net.duplicate(true);
        let (osl, _a) = agent(&net, "osl", "osl-b1", 64);
        let (svg, _b) = agent(&net, "svg", "svg-b1", 64);
        for seq in 1..=3 {
            osl.append(&sealed_command("osl", seq), seq - 1).await.expect("appends");
            svg.append(&sealed_command("svg", seq), seq - 1).await.expect("appends");
        }
        let (_c, mut events) = agent(&net, "osl", "osl-r1", 64);
        drain(&mut events)
    };
    let twice = ["osl/1", "osl/1", "osl/2", "osl/2", "osl/3", "osl/3"];
    let mut orders = std::collections::BTreeSet::new();
    for seed in 0..20 {
        let seen = run(seed).await;
        assert_eq!(seen, run(seed).await, "seed {seed} is not repeatable");
        let of_osl: Vec<&String> = seen.iter().filter(|w| w.starts_with("osl/")).collect();
        assert_eq!(of_osl, twice.iter().collect::<Vec<_>>());
        orders.insert(seen);
    }
    assert!(orders.len() > 1, "reordering changes nothing");
}

#[tokio::test]
async fn requests_reach_one_agent_and_answers_come_back() {
    let net = SimulatedNet::new(shared(), 7);
    let osl: SiteId = id("osl");
    assert!(net.request(&osl, "nett.l.cmd.osl.x", b"{}").is_none());
    let (bus, mut events) = agent(&net, "osl", "osl-b1", 64);
    drain(&mut events);
    let answer = net.request(&osl, "nett.l.cmd.osl.x", b"{}").expect("somebody is there");
    let Ok(BusEvent::Request { reply, .. }) = events.try_recv() else {
        panic!("no request arrived");
    };
    reply.answer(b"yes".to_vec()).await;
    assert_eq!(answer.await.expect("answered"), b"yes");
    let question = net.rpc(&id("osl-b1"), "status", b"").expect("it is there");
    assert!(matches!(events.try_recv(), Ok(BusEvent::Rpc { .. })));
    assert!(question.await.is_err(), "a dropped responder answers nothing");
    drop(bus);
    assert!(net.rpc(&id("osl-b1"), "status", b"").is_none());
}
