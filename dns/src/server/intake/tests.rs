//! Who is let in while the thread is behind, and what filter is wanted, on a clock of the tests.

use std::collections::BTreeSet;

use super::*;

const STEP: Duration = Duration::from_micros(10);

fn ip(a: u8, b: u8) -> IpAddr {
    IpAddr::from([198, a, b, 1])
}

fn fifty(n: u32) -> IpAddr {
    ip(1, u8::try_from(n % 50).expect("cut"))
}

struct Run {
    intake: Intake,
    now: Instant,
    lost: u32,
}

impl Run {
    fn new() -> Self {
        let now = Instant::now();
        Self { intake: Intake::new(now), now, lost: 0 }
    }

    /// Fifty networks have places of their own, which is chance.
    fn with_fifty() -> Self {
        loop {
            let run = Self::new();
            let places: BTreeSet<_> = (0..50).map(|n| run.intake.place_of(fifty(n)).0).collect();
            if places.len() == 50 {
                return run;
            }
        }
    }

    /// One question a step, from `source(n)`; counts those admitted. In calm the thread waits
    /// all of the time, behind it never does and questions are lost.
    fn ask(&mut self, steps: u32, calm: bool, source: impl Fn(u32) -> IpAddr) -> u32 {
        let mut admitted = 0;
        for n in 0..steps {
            self.now += STEP;
            self.lost += u32::from(!calm);
            let queue = Queue { age: 5 * LATE, lost: self.lost };
            let (waited, queue) = match calm {
                true => (STEP, None),
                false => (Duration::ZERO, self.intake.wants_look().then_some(queue)),
            };
            self.intake.waited(waited, queue, self.now);
            admitted += u32::from(self.intake.admits(source(n), self.now));
        }
        admitted
    }
}

#[test]
fn in_calm_everybody_is_admitted() {
    let mut run = Run::new();
    let everybody = |n: u32| ip(u8::try_from(n % 256).expect("cut"), 0);
    assert_eq!(run.ask(500_000, true, everybody), 500_000);
}

/// How many of many questions are admitted while the thread never waits, and the queue is so.
fn admitted_with(queue: impl Fn(u32) -> Queue) -> usize {
    let mut run = Run::new();
    let mut one = |n: u32| {
        run.now += STEP;
        let looked = run.intake.wants_look().then(|| queue(n));
        run.intake.waited(Duration::ZERO, looked, run.now);
        run.intake.admits(IpAddr::from(n.to_be_bytes()), run.now)
    };
    (0..500_000).filter(|n| one(*n)).count()
}

#[test]
fn a_thread_that_is_busy_and_not_late_admits_everybody() {
    assert_eq!(admitted_with(|_| Queue { age: LATE / 2, lost: 0 }), 500_000);
}

/// The processor was somebody else's: a few questions are old, and none is lost.
#[test]
fn a_short_queue_of_old_questions_is_no_rush() {
    let clients = STEP * 500;
    assert_eq!(admitted_with(|_| Queue { age: clients, lost: 0 }), 500_000);
    let rush = admitted_with(|n| Queue { age: clients, lost: n });
    assert!(rush < 100_000, "{rush}");
}

/// Interrupts make a thread wait that is behind all the same.
#[test]
fn a_thread_that_waits_for_its_processor_now_and_then_is_behind() {
    let mut run = Run::new();
    let mut admitted = 0;
    for n in 0..200_000u32 {
        run.now += STEP;
        let waited = if n.is_multiple_of(50) { 2 * WAITED } else { Duration::ZERO };
        let queue = Queue { age: 5 * LATE, lost: n };
        let queue = run.intake.wants_look().then_some(queue);
        run.intake.waited(waited, queue, run.now);
        admitted += u32::from(run.intake.admits(IpAddr::from(n.to_be_bytes()), run.now));
    }
    assert!(admitted < 20_000, "{admitted}");
}

/// Few questions lie there and none is lost, but they are late, and a rush has just been.
#[test]
fn behind_a_rush_a_late_question_is_sign_enough() {
    let mut run = Run::new();
    let flood = |n: u32| IpAddr::from((n.wrapping_mul(0x9e37_79b9)).to_be_bytes());
    run.ask(10_000, false, flood);
    run.ask(100_000, true, flood);
    assert_eq!(run.intake.admit, ALL, "it is over");
    let late = |run: &mut Run| {
        for n in 0..1000 {
            run.now += STEP;
            let queue = Queue { age: 2 * LATE, lost: run.lost };
            let queue = run.intake.wants_look().then_some(queue);
            run.intake.waited(Duration::ZERO, queue, run.now);
            run.intake.admits(flood(n), run.now);
        }
        run.intake.admit < ALL
    };
    assert!(late(&mut run), "it begins again");
    run.ask(1_500_000, true, flood);
    assert!(!late(&mut run), "it was long ago");
}

#[test]
fn in_a_rush_the_known_are_admitted_and_few_of_the_unknown() {
    let mut run = Run::with_fifty();
    run.ask(1_000_000, true, fifty);
    // One question in 100 is of a known network, the others are of any.
    let flood = |n: u32| IpAddr::from((n.wrapping_mul(0x9e37_79b9)).to_be_bytes());
    run.ask(100_000, false, flood);
    let (mut of_known, mut of_unknown) = (0, 0);
    for n in 0..100 {
        of_unknown += run.ask(990, false, |m| flood(1_000_000 + n * 990 + m));
        of_known += run.ask(10, false, |m| fifty(n * 10 + m));
    }
    assert_eq!(of_known, 1000, "of 1000");
    assert!(of_unknown < 99_000 / 50, "{of_unknown} of 99000");
    // And when it is over, everybody again.
    run.ask(200_000, true, fifty);
    assert_eq!(run.ask(1000, true, flood), 1000);
}

#[test]
fn one_network_has_a_share_however_well_known() {
    let mut run = Run::new();
    let one = |_| ip(1, 1);
    run.ask(1_000_000, true, one);
    run.ask(100_000, false, one);
    // 10 seconds of 100000 questions each.
    let admitted = run.ask(1_000_000, false, one);
    assert!(admitted < 10 * MOST_SHARE, "{admitted}");
    assert!(admitted >= 10 * LEAST_SHARE, "{admitted}");
}

/// A flood of one network that is known too, and what the filter does of it: the network has no
/// way of its own, others have, and those who asked become many again when it ends.
#[test]
fn the_filter_follows_the_rush() {
    let mut run = Run::with_fifty();
    run.ask(1_000_000, true, fifty);
    assert!(run.intake.wanted_filter(run.now).is_none(), "it is calm");
    let flood = |n: u32| if n.is_multiple_of(100) { fifty(n / 100) } else { ip(1, 7) };
    for _ in 0..20 {
        run.ask(10_000, false, flood);
        if let Some(holes) = run.intake.wanted_filter(run.now) {
            run.intake.filtered(holes, run.now);
        }
    }
    let share = run.intake.filter.holes.share();
    assert!((LEAST..ALL / 8).contains(&share), "{share}");
    let second = run.intake.second(run.now);
    let ways = run.intake.places.iter().filter(|place| place.has_a_way(second)).count();
    assert_eq!(ways, 49);
    let (at, _) = run.intake.place_of(ip(1, 7));
    assert!(run.intake.places[at].heavy);
    // What comes through is not drawn from a second time, as far as that is known.
    let passed = run.ask(10_000, false, |n| IpAddr::from(n.wrapping_mul(7919).to_be_bytes()));
    assert!(passed > 5_000, "{passed} of 10000");
    // Nobody comes any more.
    for _ in 0..400 {
        run.now += WINDOW;
        run.intake.nothing_came(run.now);
        if let Some(holes) = run.intake.wanted_filter(run.now) {
            run.intake.filtered(holes, run.now);
        }
    }
    assert_eq!(run.intake.filter.holes.share(), ALL);
}

/// With very many known networks most bits of the filter are set: of the unknown who share one
/// with them no more are answered than of others.
#[test]
fn the_unknown_gain_nothing_by_the_bit_of_a_known_network() {
    let mut run = Run::new();
    let mut holes = Holes::new(LEAST);
    (0..8192).step_by(2).for_each(|bit| holes.open(bit));
    run.ask(100_000, false, |n| IpAddr::from(n.to_be_bytes()));
    assert_eq!(run.intake.admit, LEAST);
    run.intake.filtered(holes.clone(), run.now);
    let unknown = |n: u32| IpAddr::from((n.wrapping_mul(0x9e37_79b9)).to_be_bytes());
    let open = |n: &u32| {
        let (_, tag) = run.intake.place_of(unknown(*n));
        holes.is_open(Secret::bit_of_tag(tag))
    };
    let sharing: Vec<u32> = (0..20_000).filter(open).collect();
    assert!(sharing.len() > 9_000, "{}", sharing.len());
    let asked = u32::try_from(sharing.len()).expect("few");
    let admitted = run.ask(asked, false, |n| unknown(sharing[n as usize]));
    assert!(admitted < asked / 50, "{admitted} of {asked}");
}

#[test]
fn a_filter_that_was_refused_is_tried_again_later_and_told_once() {
    let mut run = Run::new();
    let flood = |n: u32| IpAddr::from((n.wrapping_mul(0x9e37_79b9)).to_be_bytes());
    run.ask(10_000, false, flood);
    assert!(run.intake.wanted_filter(run.now).is_some());
    assert!(run.intake.without_filter(run.now));
    run.ask(10_000, false, flood);
    assert_eq!(run.intake.wanted_filter(run.now), None);
    run.now += WARY;
    run.ask(10_000, false, flood);
    assert!(run.intake.wanted_filter(run.now).is_some());
    assert!(!run.intake.without_filter(run.now));
}

/// Pauses of 9 ms, again and again, and 64 clients that wait for answers: those that lie there are
/// old in one window after the other, and about as many are taken as of a queue that is long.
#[test]
fn pauses_of_the_processor_are_no_rush() {
    let mut run = Run::new();
    let step = Duration::from_micros(7);
    for n in 0..200_000u32 {
        run.now += if n.is_multiple_of(300) { LATE * 15 } else { step };
        let age = if n % 300 < 64 { LATE * 15 } else { step * 64 };
        let queue = run.intake.wants_look().then_some(Queue { age, lost: 0 });
        run.intake.waited(Duration::ZERO, queue, run.now);
        assert_eq!(run.intake.admit, ALL, "after {n}");
    }
}

/// Nobody looked for hours: what was lost meanwhile is counted, and is no sign of a rush.
#[test]
fn what_was_lost_long_ago_begins_no_rush() {
    let mut run = Run::new();
    run.ask(10_000, true, fifty);
    run.now += STEP * 200;
    let queue = Queue { age: 2 * LATE, lost: 700 };
    run.intake.waited(Duration::ZERO, Some(queue), run.now);
    run.now += WINDOW;
    run.intake.waited(Duration::ZERO, None, run.now);
    assert_eq!((run.intake.admit, run.intake.take_uncounted()), (ALL, 700));
}

#[test]
fn what_the_kernel_lost_is_counted_once() {
    let mut run = Run::new();
    run.ask(100_000, false, |n| IpAddr::from(n.to_be_bytes()));
    let first = run.intake.take_uncounted();
    assert!((90_000..=100_000).contains(&first), "{first}");
    assert_eq!(run.intake.take_uncounted(), 0);
}

#[test]
fn a_proven_address_is_known_at_once() {
    let mut run = Run::new();
    run.ask(100_000, false, |n| ip(2, u8::try_from(n % 200).expect("cut")));
    run.intake.vouch(ip(3, 3), run.now);
    assert_eq!(run.ask(50, false, |_| ip(3, 3)), 50);
}

#[test]
fn a_known_network_keeps_its_place_until_it_is_forgotten() {
    let mut place = Place::default();
    for second in 0..8 {
        place.see(7, second, 1, MOST_SHARE);
    }
    place.see(9, 10, 1, MOST_SHARE);
    assert_eq!((place.tag, place.seen), (7, KNOWN));
    place.see(9, 8 + FORGOTTEN, 1, MOST_SHARE);
    assert_eq!((place.tag, place.seen), (9, 1));
}
