//! The reconciler over a simulated kernel that loses, refuses and changes things behind its back.

mod buckets;
mod flaps;
mod rig;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nett_agent::controller::event::Event;
use nett_agent::kernel::{Foreign, KernelError, KernelEvent, Origin};
use nett_agent::probe::bfd::packet::{Diagnostic, State};
use nett_agent::probe::bfd::{PathView, Views};
use nett_agent::reconcile::{LEFT_ALONE, REPAIRS};
use nett_policy::fabric::Family;
use nett_policy::lower::object::{
    ClassNumber, GuardElement, GuardSet, Layout, Nexthop, NexthopId, NodeState, RouteKey,
    RouteTarget, Rule, RuleAction, Subject,
};
use nett_policy::plan::{Object, Op};
use nett_policy::trust::Belief;
use tokio::time::Instant;

use rig::*;

// === what a failed object holds up, and what it does not ===

#[tokio::test(start_paused = true)]
async fn a_refused_group_leaves_its_class_as_it_was_and_the_others_move() {
    let mut rig = Rig::start(|_| {});
    rig.reach(&full()).await;
    let mut next = full();
    next.nexthops.insert(CLASS, group(&[TWO]));
    next.nexthops.insert(OTHER_CLASS, group(&[ONE]));
    let op = Op::ReplaceNexthop { id: CLASS, from: group(&[ONE, TWO]), to: group(&[TWO]) };
    rig.kernel.with(|k| k.fail_times(3, is(Object::Nexthop(CLASS)), refused(&op)));
    rig.want(&next);
    let begun = Instant::now();
    let applied = rig.applied().await;
    let state = rig.kernel.state();
    assert_eq!(state.nexthops[&CLASS], group(&[ONE, TWO]), "the last good group");
    assert_eq!(state.nexthops[&OTHER_CLASS], group(&[ONE]), "the other class moved");
    let [failure] = &applied.failures[..] else { panic!("{:?}", applied.failures) };
    assert!(failure.contains("Nexthop has invalid gateway"), "{failure}");
    rig.in_place().await;
    assert_eq!(rig.kernel.state(), next);
    // 100, 200, 400 ms, each less by up to a quarter.
    let took = begun.elapsed();
    assert!((450..900).contains(&took.as_millis()), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_route_never_moves_to_a_group_that_is_not_ready() {
    let mut rig = Rig::start(|_| {});
    rig.reach(&full()).await;
    let third = NexthopId(0x4E65_4008);
    let mut next = full();
    next.nexthops.insert(third, group(&[ONE]));
    next.routes.insert(vip(), RouteTarget::Nexthop(third));
    next.nexthops.remove(&CLASS);
    let op = Op::AddNexthop(third, group(&[ONE]));
    rig.kernel.with(|k| k.fail_times(2, is(Object::Nexthop(third)), refused(&op)));
    rig.want(&next);
    let applied = rig.applied().await;
    assert!(!applied.failures.is_empty());
    let state = rig.kernel.state();
    assert_eq!(state.routes[&vip()], RouteTarget::Nexthop(CLASS));
    assert!(state.nexthops.contains_key(&CLASS), "a group in use is not deleted");
    rig.in_place().await;
    assert_eq!(rig.kernel.state(), next);
}

#[tokio::test(start_paused = true)]
async fn no_rule_looks_into_a_table_without_its_floor_or_without_the_guard() {
    for held_up in [Object::Route(key("10.99.0.0/16", Layout::METRIC_FLOOR)), Object::Guard] {
        let mut rig = Rig::start(|_| {});
        let op = Op::AddRule(lookup());
        rig.kernel.with(|k| k.fail_times(2, is(held_up.clone()), refused(&op)));
        rig.want(&full());
        rig.applied().await;
        let state = rig.kernel.state();
        assert!(state.rules.is_empty(), "{held_up}");
        assert_eq!(state.routes[&vip()], RouteTarget::Nexthop(CLASS), "{held_up}");
        rig.in_place().await;
        assert_eq!(rig.kernel.state(), full());
    }
}

/// Without it, what comes from another site would find the routes for what goes there.
#[tokio::test(start_paused = true)]
async fn no_rule_is_looked_up_behind_one_that_ends_and_is_missing() {
    let mut rig = Rig::start(|_| {});
    let iif = Some("wan0".to_owned());
    let end = Rule { priority: 4419, iif, action: RuleAction::Unreachable, ..lookup() };
    let before = Rule { priority: 4410, ..lookup() };
    let mut state = full();
    state.rules.extend([before.clone(), end.clone()]);
    let op = Op::AddRule(end.clone());
    rig.kernel.with(|k| k.fail_times(2, is(Object::Rule(end)), refused(&op)));
    rig.want(&state);
    rig.applied().await;
    assert_eq!(rig.kernel.state().rules, [before].into(), "those before it wait for nothing");
    rig.in_place().await;
    assert_eq!(rig.kernel.state(), state);
}

/// A lost answer takes a second: what is wanted by then counts.
#[tokio::test(start_paused = true)]
async fn after_a_lost_answer_what_is_wanted_by_then_is_carried_out() {
    let mut rig = Rig::start(|_| {});
    rig.reach(&full()).await;
    let mut old = full();
    old.nexthops.insert(CLASS, group(&[ONE]));
    old.routes.remove(&other_vip());
    let (wanted, newest) = (rig.wanted.clone(), Arc::new(full()));
    let decides = move |op: &Op| {
        let meets = is(Object::Nexthop(CLASS))(op);
        if meets {
            wanted.send_replace(Some((3, newest.clone())));
        }
        meets
    };
    let object = "x".to_owned();
    rig.kernel.with(|k| k.fail_next(decides, KernelError::Unanswered { object }));
    rig.want(&old);
    rig.generation += 1;
    rig.in_place().await;
    assert_eq!(rig.kernel.applied(), [], "what is wanted again never went");
    assert_eq!(rig.kernel.state(), full());
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_operation_is_read_back_before_anything_else_is_done() {
    let mut rig = Rig::start(|_| {});
    let object = "x".to_owned();
    // It was carried out, and the answer was lost.
    rig.kernel.with(|k| {
        k.lose_answer(is(Object::Nexthop(CLASS)), KernelError::Unanswered { object });
    });
    rig.want(&full());
    rig.in_place().await;
    let adds = rig.kernel.applied();
    let class = adds.iter().filter(|op| is(Object::Nexthop(CLASS))(op)).count();
    assert_eq!(class, 1, "not asked for twice: {adds:#?}");
}

/// A lost answer is read back and, if need be, asked for once more, all within one report.
#[tokio::test(start_paused = true)]
async fn one_lost_answer_is_no_failure_and_two_are() {
    for (times, told) in [(1, false), (2, true)] {
        let mut rig = Rig::start(|_| {});
        let object = "x".to_owned();
        // It was not carried out.
        rig.kernel.with(|k| {
            let lost = KernelError::Unanswered { object };
            k.fail_times(times, is(Object::Nexthop(CLASS)), lost);
        });
        rig.want(&full());
        let applied = rig.applied().await;
        assert_eq!(!applied.failures.is_empty(), told, "{times}: {:?}", applied.failures);
        if told {
            rig.in_place().await;
        }
        assert_eq!(rig.kernel.state(), full());
    }
}

#[tokio::test(start_paused = true)]
async fn a_reconciler_that_waits_for_the_kernel_for_ever_is_not_called_alive() {
    let mut rig = Rig::start(|_| {});
    rig.reach(&full()).await;
    let calls = Arc::new(AtomicU32::new(0));
    let counted = calls.clone();
    let watchdog = rig.watchdog.take().expect("not taken before");
    let within = Duration::from_secs(30);
    tokio::spawn(watchdog.run(within, move || {
        counted.fetch_add(1, Ordering::Relaxed);
    }));
    tokio::time::sleep(within * 4).await;
    let while_idle = calls.swap(0, Ordering::Relaxed);
    assert!(while_idle >= 15, "{while_idle} calls while nothing happens");
    rig.kernel.hang();
    rig.delete_route(&vip()).await;
    tokio::time::sleep(within * 4).await;
    let hung = calls.load(Ordering::Relaxed);
    assert!(hung <= 2, "{hung} calls while it hangs");
}

#[tokio::test(start_paused = true)]
async fn what_stood_wrong_before_does_not_fail_a_later_wish() {
    let mut rig = Rig::start(|_| {});
    rig.reach(&full()).await;
    let foreign = Foreign::Route { key: other_vip(), protocol: 12 };
    rig.kernel.with(|kernel| {
        kernel.meddle(|state| assert!(state.routes.remove(&other_vip()).is_some()));
        kernel.set_foreign(vec![foreign.clone()]);
    });
    rig.tell(OTHER).await;
    let applied = rig.applied().await;
    assert_eq!(applied.failures, Vec::<String>::new());
    let [standing] = &applied.standing[..] else { panic!("{applied:?}") };
    assert!(standing.contains("protocol 12 (bird)"), "{standing}");
    assert_eq!(applied.foreign, [foreign.to_string()]);
    assert!(kinds(&applied.news).contains(&"foreign"), "{:?}", applied.news);

    let mut next = full();
    next.nexthops.insert(CLASS, group(&[ONE]));
    rig.want(&next);
    let applied = rig.applied().await;
    assert_eq!(applied.failures, Vec::<String>::new(), "the wish is in place");
    assert_eq!(applied.standing.len(), 1);
    next.routes.insert(other_vip(), RouteTarget::Unreachable);
    rig.want(&next);
    assert_eq!(rig.applied().await.failures.len(), 1, "now it is asked for");

    rig.kernel.with(|kernel| kernel.set_foreign(Vec::new()));
    rig.tell(OTHER).await;
    let applied = rig.in_place().await;
    assert_eq!(rig.kernel.state(), next);
    assert!(kinds(&applied.news).contains(&"foreign-gone"), "{:?}", applied.news);
}

// === reads that cannot be trusted ===

#[tokio::test(start_paused = true)]
async fn nothing_is_deleted_because_of_a_read_that_is_not_whole() {
    let mut rig = Rig::start(|_| {});
    rig.reach(&full()).await;
    let mut next = full();
    next.routes.remove(&other_vip());
    rig.kernel.with(|kernel| kernel.interrupt_reads(3));
    rig.tell(KernelEvent::Overrun).await;
    let applied = rig.applied().await;
    assert!(!applied.failures.is_empty(), "{applied:?}");
    rig.want(&next);
    rig.applied().await;
    assert!(rig.kernel.state().routes.contains_key(&other_vip()), "kept while in doubt");
    let deleted = |op: &Op| op.deletes();
    assert!(!rig.kernel.applied().iter().any(deleted));
    rig.in_place().await;
    assert_eq!(rig.kernel.state(), next);
}

#[tokio::test(start_paused = true)]
async fn a_kernel_that_cannot_be_read_is_told_with_its_reason_until_it_can() {
    let mut rig = Rig::start(|_| {});
    rig.reach(&full()).await;
    rig.kernel.with(|kernel| kernel.refuse_reads(4));
    rig.tell(OTHER).await;
    let begun = Instant::now();
    for _ in 0..4 {
        let applied = rig.applied().await;
        let [failure] = &applied.failures[..] else { panic!("{applied:?}") };
        assert!(failure.starts_with("the kernel could not be read: "), "{failure}");
        assert!(failure.contains("EPERM; run the agent with CAP_NET_ADMIN"), "{failure}");
        assert!(applied.unread, "nothing is said of what was asked for");
    }
    rig.in_place().await;
    // 100, 200, 400 and 800 ms, each less by up to a quarter.
    let took = begun.elapsed();
    assert!((1100..1700).contains(&took.as_millis()), "{took:?}");
    assert!(rig.kernel.applied().is_empty(), "and nothing was done");
}

#[tokio::test(start_paused = true)]
async fn what_is_found_at_the_start_is_taken_over_and_cleaned_up() {
    let mut left = full();
    left.routes.insert(key("10.99.0.9/32", 100), RouteTarget::Unreachable);
    let mut rig = Rig::start(|kernel| kernel.meddle(|state| *state = left));
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(rig.kernel.applied(), [], "nothing is wanted yet, so nothing is done");
    rig.reach(&full()).await;
}

/// What a former life has left would else be left for ever.
#[tokio::test(start_paused = true)]
async fn what_is_found_is_taken_over_also_when_the_first_look_was_not_whole() {
    let mut left = full();
    left.routes.insert(key("10.99.0.9/32", 100), RouteTarget::Unreachable);
    let mut rig = Rig::start(|kernel| {
        kernel.meddle(|state| *state = left);
        kernel.interrupt_reads(2);
    });
    rig.reach(&full()).await;
}

#[tokio::test(start_paused = true)]
async fn that_a_look_was_not_whole_is_told_before_whatever_else_failed() {
    let mut rig = Rig::start(|_| {});
    rig.reach(&full()).await;
    let mut next = full();
    let many = (1..100).map(|n| (key(&format!("10.99.1.{n}/32"), 100), RouteTarget::Unreachable));
    next.routes.extend(many);
    let op = Op::AddRoute(vip(), RouteTarget::Unreachable);
    rig.kernel.with(|kernel| {
        kernel.fail_times(200, |op| matches!(op, Op::AddRoute(..)), refused(&op));
        kernel.interrupt_reads(9);
    });
    rig.want(&next);
    rig.tell(KernelEvent::Overrun).await;
    let applied = rig.applied().await;
    assert!(applied.failures.len() > 20, "{applied:?}");
    assert_eq!(applied.failures[0], "the kernel could not be read whole");
}

#[tokio::test(start_paused = true)]
async fn what_appears_later_with_our_marks_is_told_and_left_alone() {
    let mut rig = Rig::start(|_| {});
    rig.reach(&full()).await;
    let stranger = key("10.99.0.77/32", 100);
    rig.kernel.with(|kernel| {
        kernel.meddle(|state| {
            state.routes.insert(stranger, RouteTarget::Unreachable);
        });
    });
    rig.tell(OTHER).await;
    let applied = rig.applied().await;
    assert!(applied.foreign.iter().any(|f| f.contains("10.99.0.77")), "{applied:?}");
    assert_eq!(applied.failures, Vec::<String>::new());
    rig.reach_beside(&full(), stranger).await;
}

impl Rig {
    /// As [`Rig::reach`], with a route there that is not ours.
    async fn reach_beside(&mut self, state: &NodeState, stranger: RouteKey) {
        self.want(state);
        self.in_place().await;
        let mut expected = state.clone();
        expected.routes.insert(stranger, RouteTarget::Unreachable);
        assert_eq!(self.kernel.state(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_path_that_is_doubted_makes_its_link_unusable_at_once() {
    let mut rig = Rig::start(|_| {});
    rig.reach(&full()).await;
    let path = ("osl-svg-1".parse().expect("an id"), Family::V4);
    let view = PathView {
        belief: Belief::Doubted,
        state: State::Down,
        diagnostic: Diagnostic::EXPIRED,
        remote: None,
        interval: Duration::from_secs(1),
        detection: Duration::from_secs(1),
        trouble: None,
    };
    let begun = Instant::now();
    rig.paths.send_replace(Arc::new(BTreeMap::from([(path, view)])));
    let applied = rig.applied().await;
    assert!(begun.elapsed() < Duration::from_millis(60), "{:?}", begun.elapsed());
    assert_eq!(rig.links.last().expect("told").1, [Family::V6]);
    assert!(applied.links[0].contains("IPv4 BFD session is down"), "{:?}", applied.links);
    rig.paths.send_replace(Views::default());
    let applied = rig.applied().await;
    assert_eq!(rig.links.last().expect("told").1, Family::BOTH);
    assert_eq!(applied.links, Vec::<String>::new());
}

// === silent deletions ===

#[tokio::test(start_paused = true)]
async fn what_a_carrier_takes_comes_back_in_order_when_it_returns() {
    let mut rig = Rig::start(|_| {});
    rig.reach(&full()).await;
    rig.kernel.with(|kernel| kernel.set_carrier("wan1", false));
    rig.tell(KernelEvent::Interfaces).await;
    let applied = rig.applied().await;
    assert!(!applied.standing.is_empty(), "{applied:?}");
    rig.kernel.applied();
    // Long enough for the pauses between tries to have grown.
    tokio::time::sleep(Duration::from_secs(60)).await;
    rig.kernel.with(|kernel| kernel.set_carrier("wan1", true));
    let back = Instant::now();
    rig.tell(KernelEvent::Interfaces).await;
    rig.in_place().await;
    assert!(back.elapsed() < Duration::from_millis(100), "{:?}", back.elapsed());
    assert_eq!(rig.kernel.state(), full());
    let order: Vec<u8> = rig.kernel.applied().iter().map(rank).collect();
    assert!(order.is_sorted(), "{order:?}");
}

fn rank(op: &Op) -> u8 {
    match op {
        Op::AddNexthop(_, Nexthop::Single { .. }) => 0,
        Op::AddNexthop(..) | Op::ReplaceNexthop { .. } => 1,
        Op::AddRoute(..) => 2,
        other => panic!("{other} repairs no carrier"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_link_is_usable_in_a_family_only_with_its_address() {
    let mut rig = Rig::start(|_| {});
    rig.reach(&full()).await;
    assert_eq!(rig.links.last().expect("told").1, Family::BOTH);
    rig.kernel.with(|kernel| kernel.remove_address("wan0", net(NEAR4)));
    rig.tell(KernelEvent::Interfaces).await;
    let applied = rig.applied().await;
    assert_eq!(rig.links.last().expect("told").1, [Family::V6]);
    assert_eq!(applied.links, ["link osl-svg-1: address 172.31.0.1/30 is missing on wan0"]);
    rig.kernel.with(|kernel| {
        kernel.add_address("wan0", net(NEAR4));
        kernel.set_tentative("wan0", net(NEAR6), true);
    });
    rig.tell(KernelEvent::Interfaces).await;
    rig.settled(&[Family::V4]).await;
    assert_eq!(rig.links.last().expect("told").1, [Family::V4], "until the detection ends");
    rig.kernel.with(|kernel| kernel.set_tentative("wan0", net(NEAR6), false));
    rig.tell(KernelEvent::Interfaces).await;
    let applied = rig.settled(&Family::BOTH).await;
    assert_eq!(applied.links, Vec::<String>::new());
}

/// The far end sees it at the same time, and has to put back the way of the answers.
#[tokio::test(start_paused = true)]
async fn what_comes_back_is_doubted_for_a_moment_and_what_was_there_is_not() {
    let mut rig = Rig::start(|_| {});
    rig.reach(&full()).await;
    let told: Vec<_> = rig.links.drain(..).map(|(_, families)| families).collect();
    assert_eq!(told, [Family::BOTH], "an agent that begins doubts nothing");
    for again in 0..2 {
        rig.kernel.with(|kernel| kernel.set_carrier("wan0", false));
        rig.tell(KernelEvent::Interfaces).await;
        rig.settled(&[]).await;
        tokio::time::sleep(Duration::from_secs(again)).await;
        rig.kernel.with(|kernel| kernel.set_carrier("wan0", true));
        let back = Instant::now();
        rig.tell(KernelEvent::Interfaces).await;
        let applied = rig.in_place().await;
        assert!(back.elapsed() < Duration::from_millis(100), "its own way is put back at once");
        assert_eq!(rig.kernel.state(), full());
        assert_eq!(applied.links, Vec::<String>::new(), "that is no trouble");
        rig.settled(&Family::BOTH).await;
        let (at, _) = rig.links.last().expect("told");
        let took = at.duration_since(back);
        assert!(took >= Duration::from_millis(100), "{took:?}");
        assert!(took <= Duration::from_millis(200), "{took:?}");
    }
}

/// Nobody saw it go: only its number says that it is another one.
#[tokio::test(start_paused = true)]
async fn an_interface_that_was_made_anew_between_two_looks_has_come_back() {
    let mut rig = Rig::start(|kernel| {
        // The last one: its number is never given again all the same.
        kernel.delete_interface("wan0");
        kernel.add_interface("wan0");
        [NEAR4, NEAR6].iter().for_each(|a| kernel.add_address("wan0", net(a)));
    });
    rig.reach(&full()).await;
    rig.kernel.with(|kernel| {
        kernel.delete_interface("wan0");
        kernel.add_interface("wan0");
        [NEAR4, NEAR6].iter().for_each(|a| kernel.add_address("wan0", net(a)));
    });
    let back = Instant::now();
    rig.tell(KernelEvent::Interfaces).await;
    rig.settled(&[]).await;
    rig.settled(&Family::BOTH).await;
    let (at, _) = rig.links.last().expect("told");
    assert!(at.duration_since(back) >= Duration::from_millis(100));
    assert_eq!(rig.kernel.state(), full(), "with all that went with it");
}

/// The kernel asks once a second, and throws away what does not fit into the queue meanwhile.
#[tokio::test(start_paused = true)]
async fn what_comes_back_is_doubted_while_its_neighbour_is_asked_for_and_not_for_ever() {
    let mut rig = Rig::start(|_| {});
    rig.reach(&full()).await;
    let far = FAR.map(|far| far.parse().expect("an address"));
    for answered in [Some(Duration::from_millis(900)), None] {
        rig.kernel.with(|kernel| {
            kernel.set_carrier("wan0", false);
            kernel.set_silent("wan0", far[1], true);
        });
        rig.tell(KernelEvent::Interfaces).await;
        rig.settled(&[]).await;
        rig.kernel.with(|kernel| kernel.set_carrier("wan0", true));
        let back = Instant::now();
        rig.tell(KernelEvent::Interfaces).await;
        rig.settled(&[Family::V4]).await;
        assert!(back.elapsed() <= Duration::from_millis(200), "the other family waits for nothing");
        let expected = match answered {
            Some(after) => {
                tokio::time::sleep_until(back + after).await;
                rig.kernel.with(|kernel| kernel.set_silent("wan0", far[1], false));
                after
            }
            None => Duration::from_secs(4),
        };
        rig.settled(&Family::BOTH).await;
        let (at, _) = rig.links.last().expect("told");
        let took = at.duration_since(back);
        assert!(took >= expected, "{took:?}");
        assert!(took <= expected + Duration::from_millis(100), "{took:?}");
    }
}

// === other writers ===

#[tokio::test(start_paused = true)]
async fn what_others_delete_is_put_back_until_the_budget_is_spent() {
    let mut rig = Rig::start(|_| {});
    rig.reach(&full()).await;
    for n in 0..REPAIRS {
        rig.delete_route(&vip()).await;
        let applied = rig.in_place().await;
        assert_eq!(kinds(&applied.news), ["repair"], "{n}");
        assert!(applied.news[0].text.contains("a test that wrote"), "{:?}", applied.news);
        assert_eq!(rig.kernel.state(), full());
    }
    rig.delete_route(&vip()).await;
    let applied = rig.applied().await;
    assert_eq!(kinds(&applied.news), ["contested", "repair"]);
    assert_eq!(applied.failures, Vec::<String>::new());
    let [standing] = &applied.standing[..] else { panic!("{applied:?}") };
    assert!(standing.contains("left alone") && standing.contains("a test"), "{standing}");
    assert!(!rig.kernel.state().routes.contains_key(&vip()));

    // Other objects are still kept in place.
    rig.delete_route(&other_vip()).await;
    rig.applied().await;
    assert!(rig.kernel.state().routes.contains_key(&other_vip()));
    // Later it gets a new budget.
    tokio::time::sleep(LEFT_ALONE).await;
    rig.in_place().await;
    assert_eq!(rig.kernel.state(), full());
}

#[tokio::test(start_paused = true)]
async fn an_operator_who_wants_something_else_of_a_contested_object_is_obeyed() {
    let mut rig = Rig::start(|_| {});
    rig.reach(&full()).await;
    for _ in 0..=REPAIRS {
        rig.delete_route(&vip()).await;
        rig.applied().await;
    }
    let mut next = full();
    next.routes.insert(vip(), RouteTarget::Unreachable);
    rig.reach(&next).await;
}

#[tokio::test(start_paused = true)]
async fn a_flapping_carrier_spends_no_budget() {
    let mut rig = Rig::start(|_| {});
    rig.reach(&full()).await;
    for _ in 0..4 * REPAIRS {
        for up in [false, true] {
            rig.kernel.with(|kernel| kernel.set_carrier("wan1", up));
            rig.tell(KernelEvent::Objects(Origin::Kernel)).await;
            rig.tell(KernelEvent::Interfaces).await;
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    }
    rig.want(&full());
    rig.in_place().await;
    assert_eq!(rig.kernel.state(), full());
}

// === what is counted for drains ===

/// A look at many counters takes its time, in which nothing else is done: at most a tenth of it.
#[tokio::test(start_paused = true)]
async fn counters_are_looked_at_as_often_as_it_is_cheap() {
    let mut looks = Vec::new();
    for cost in [0, 100, 500, 3000].map(Duration::from_millis) {
        let mut rig = Rig::start(|_| {});
        let mut state = full();
        let guard = state.guard.as_mut().expect("a border has one");
        let subject = Subject::Class(ClassNumber(7));
        guard.refused.insert(GuardElement { set: GuardSet::CountTo, subject });
        rig.reach(&state).await;
        rig.kernel.count_slowly(cost);
        let until = Instant::now() + Duration::from_secs(100);
        let mut seen = 0;
        while let Ok(event) = tokio::time::timeout_at(until, rig.events.recv()).await {
            seen += u32::from(matches!(event, Some(Event::Watched { .. })));
        }
        // One was before it became slow, and one may be at each end of the time.
        let busy = cost * seen.saturating_sub(2);
        assert!(busy <= Duration::from_secs(10), "{seen} looks of {cost:?}: busy {busy:?}");
        looks.push(seen);
    }
    assert!(looks[0] > 95 && looks[1] > 85 && looks[3] >= 2, "{looks:?}");
}
