//! Links whose interfaces come and go.

use std::time::Duration;

use nett_agent::controller::event::{Applied, HeldDown};
use nett_agent::kernel::KernelEvent;
use nett_policy::fabric::Family;
use nett_policy::id::LinkId;
use nett_policy::trust::flaps::FIRST;
use tokio::time::{Instant, timeout_at};

use crate::rig::*;

/// What was told while some time passed.
struct Told {
    held: Option<HeldDown>,
    troubles: Vec<String>,
    kinds: Vec<&'static str>,
}

fn link() -> LinkId {
    "osl-svg-1".parse().expect("an id")
}

/// Takes in what is told for so long, when it is told.
async fn hear(rig: &mut Rig, time: Duration) -> Option<Told> {
    let (until, mut told) = (Instant::now() + time, None);
    let mut kinds = Vec::new();
    while let Ok(applied) = timeout_at(until, rig.applied()).await {
        let Applied { held, links: troubles, news, .. } = applied;
        kinds.extend(news.iter().map(|news| news.kind).filter(|kind| *kind == "flaps"));
        told = Some(Told { held: held.get(&link()).copied(), troubles, kinds: kinds.clone() });
    }
    told
}

async fn flap(rig: &mut Rig, away: Duration, there: Duration) -> Option<Told> {
    for (up, time) in [(false, away), (true, there)] {
        rig.kernel.with(|kernel| kernel.set_carrier("wan0", up));
        rig.tell(KernelEvent::Interfaces).await;
        let told = hear(rig, time).await;
        if up {
            return told;
        }
    }
    None
}

const SHORT: Duration = Duration::from_millis(100);
const LONG: Duration = Duration::from_millis(500);

#[tokio::test(start_paused = true)]
async fn a_link_that_comes_and_goes_is_held_down_until_it_has_stayed_up() {
    let mut rig = Rig::start(|_| {});
    rig.reach(&full()).await;
    for nth in 1..=20 {
        rig.links.clear();
        let told = flap(&mut rig, SHORT, LONG).await.expect("it is told");
        let carried = rig.links.iter().any(|(_, families)| !families.is_empty());
        assert_eq!(carried, nth < 3, "flap {nth}");
        let held = told.held.map(|held| (held.losses, held.time));
        assert_eq!(held, (nth >= 3).then_some((nth, FIRST)), "flap {nth}");
        let line = "link osl-svg-1: held down, flapped";
        assert_eq!(told.troubles.iter().any(|t| t.starts_with(line)), nth >= 3, "flap {nth}");
    }
    let back = Instant::now() - LONG;
    rig.links.clear();
    let told = hear(&mut rig, FIRST).await.expect("it is told");
    assert_eq!((told.held, told.troubles, told.kinds), (None, vec![], vec!["flaps"]));
    let [(at, families)] = &rig.links[..] else { panic!("{:?}", rig.links) };
    assert_eq!(families, &Family::BOTH);
    let took = at.duration_since(back);
    assert!((FIRST..FIRST + SHORT).contains(&took), "{took:?}");
    assert_eq!(rig.kernel.state(), full());

    // Again soon: at once, and for twice as long.
    let told = flap(&mut rig, SHORT, LONG).await.expect("it is told");
    let held = told.held.expect("it is held down");
    assert_eq!((held.losses, held.time), (3, FIRST * 2));
    let left = held.left.expect("it is there");
    assert!(left > FIRST * 2 - LONG && left <= FIRST * 2, "{left:?}");
    assert_eq!(told.kinds, Vec::<&str>::new(), "told with the loss");
}

#[tokio::test(start_paused = true)]
async fn what_flaps_now_and_then_is_believed_each_time() {
    let mut rig = Rig::start(|_| {});
    rig.reach(&full()).await;
    for nth in 0..10 {
        rig.links.clear();
        flap(&mut rig, SHORT, Duration::from_secs(31)).await;
        let (at, families) = rig.links.last().expect("told");
        assert_eq!(families, &Family::BOTH, "flap {nth}");
        let took = Instant::now().duration_since(*at);
        assert!(took > Duration::from_secs(30), "used at once: {took:?}");
    }
}

/// Whoever sets an interface down has a reason, and one to set it up again.
#[tokio::test(start_paused = true)]
async fn what_somebody_sets_down_and_up_is_used_each_time() {
    let mut rig = Rig::start(|_| {});
    rig.reach(&full()).await;
    for nth in 0..10 {
        rig.kernel.with(|kernel| kernel.set_shut("wan0", true));
        rig.tell(KernelEvent::Interfaces).await;
        hear(&mut rig, SHORT).await;
        rig.links.clear();
        rig.kernel.with(|kernel| kernel.set_shut("wan0", false));
        rig.tell(KernelEvent::Interfaces).await;
        let told = hear(&mut rig, LONG).await.expect("it is told");
        assert_eq!(told.held, None, "time {nth}");
        assert_eq!(rig.links.last().expect("told").1, Family::BOTH, "time {nth}");
    }
}

/// Only the number says that it was lost.
#[tokio::test(start_paused = true)]
async fn an_interface_that_is_made_anew_again_and_again_is_held_down_too() {
    let mut rig = Rig::start(|_| {});
    rig.reach(&full()).await;
    for nth in 1..=3 {
        rig.kernel.with(|kernel| {
            kernel.delete_interface("wan0");
            kernel.add_interface("wan0");
            [NEAR4, NEAR6].iter().for_each(|a| kernel.add_address("wan0", net(a)));
        });
        rig.tell(KernelEvent::Interfaces).await;
        let told = hear(&mut rig, LONG).await.expect("it is told");
        assert_eq!(told.held.map(|held| held.losses), (nth == 3).then_some(3), "time {nth}");
    }
    assert_eq!(rig.kernel.state(), full());
}
