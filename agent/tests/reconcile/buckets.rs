//! Buckets that should lead nowhere are looked at while somebody waits for them.

use std::time::Duration;

use nett_agent::controller::event::Event;
use nett_policy::fabric::Family;
use nett_policy::id::Weight;
use nett_policy::lower::object::{Buckets, Nexthop, NexthopId};
use tokio::time::{Instant, timeout_at};

use crate::rig::*;

/// How many looks there are within some seconds.
async fn looks(rig: &mut Rig, seconds: u64) -> usize {
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut seen = 0;
    while let Ok(event) = timeout_at(until, rig.events.recv()).await {
        seen += usize::from(matches!(event, Some(Event::Buckets { .. })));
    }
    seen
}

#[tokio::test(start_paused = true)]
async fn buckets_are_looked_at_while_somebody_waits_and_no_longer() {
    let mut rig = Rig::start(|_| {});
    let mut state = full();
    let (served, left) = (NexthopId::backend(0), NexthopId::backend(1));
    state.nexthops.insert(served, single(2, "wan0"));
    state.nexthops.insert(left, single(6, "wan1"));
    let most = Weight::new(256).expect("the greatest");
    let members = [(served, most), (left, Weight::ONE)].into();
    let buckets = Some(Buckets { count: 128, idle: 6000, unbalanced: 0 });
    let group = Nexthop::Group { family: Family::V4, members, buckets };
    state.nexthops.insert(NexthopId::resilient(0, false, Family::V4), group);
    rig.reach(&state).await;
    assert_eq!(looks(&mut rig, 60).await, 0, "nobody waits");
    rig.looks.send_replace(true);
    let seen = looks(&mut rig, 60).await;
    assert!((58..=62).contains(&seen), "{seen}");
    rig.looks.send_replace(false);
    assert_eq!(looks(&mut rig, 60).await, 0, "nobody waits any more");
}
