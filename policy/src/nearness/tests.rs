//! A time that is told stays told while what is measured stays near it.

use proptest::prelude::*;

use super::*;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// So many questions, half a second apart, all answered after `rtt`; the changes they made.
fn ask(gauge: &mut Gauge, now: &mut Duration, rtt: Option<Duration>, times: usize) -> usize {
    let ask = |_: &usize| {
        *now += ms(500);
        gauge.take(rtt, *now)
    };
    (0..times).filter(ask).count()
}

/// A gauge that tells 10 ms, and the time.
fn settled() -> (Gauge, Duration) {
    let (mut gauge, mut now) = (Gauge::default(), Duration::ZERO);
    assert_eq!(ask(&mut gauge, &mut now, Some(ms(10)), WINDOW), 1);
    assert_eq!(gauge.told(), Some(ms(10)));
    (gauge, now)
}

#[test]
fn nothing_is_told_before_the_window_is_full_and_half_of_it_answered() {
    let (mut gauge, mut now) = (Gauge::default(), Duration::ZERO);
    assert_eq!(ask(&mut gauge, &mut now, Some(ms(10)), WINDOW - 1), 0);
    assert_eq!(ask(&mut gauge, &mut now, None, WINDOW / 2), 1);
    let (mut gauge, mut now) = (Gauge::default(), Duration::ZERO);
    ask(&mut gauge, &mut now, Some(ms(10)), WINDOW / 2 - 1);
    assert_eq!(ask(&mut gauge, &mut now, None, WINDOW), 0);
    assert_eq!((gauge.told(), gauge.least()), (None, None));
    // What takes too long has not come back.
    assert_eq!(ask(&mut gauge, &mut now, Some(LONGEST + ms(1)), 2 * WINDOW), 0);
}

#[test]
fn a_slower_link_is_told_when_the_window_has_nothing_else_and_a_faster_one_at_once() {
    let (mut gauge, mut now) = settled();
    assert_eq!(ask(&mut gauge, &mut now, Some(ms(30)), WINDOW - 1), 0);
    assert_eq!(ask(&mut gauge, &mut now, Some(ms(30)), 1), 1);
    assert_eq!(gauge.told(), Some(ms(30)));
    let (mut gauge, mut now) = settled();
    assert_eq!(ask(&mut gauge, &mut now, Some(ms(5)), 1), 1);
    assert_eq!(gauge.told(), Some(ms(5)));
}

#[test]
fn a_link_that_comes_and_goes_is_told_once_a_minute_at_most() {
    let (mut gauge, mut now) = settled();
    let mut changes = 0;
    for round in 0..40 {
        let rtt = if round % 2 == 0 { ms(30) } else { ms(10) };
        changes += ask(&mut gauge, &mut now, Some(rtt), 2 * WINDOW);
    }
    // 320 s, in which the time changed every 8 s.
    assert!((2..=6).contains(&changes), "{changes} changes");
}

#[test]
fn silence_keeps_what_was_told_until_it_is_old() {
    let (mut gauge, mut now) = settled();
    let questions = usize::try_from(FORGET.as_millis() / 500).expect("few");
    assert_eq!(ask(&mut gauge, &mut now, None, questions), 0);
    assert_eq!(ask(&mut gauge, &mut now, None, 2 * WINDOW), 1);
    assert_eq!(gauge.told(), None);
}

/// The two-site fabric; links osl-svg-1 and osl-svg-2 of one cost.
fn fabric() -> Fabric {
    let text =
        nett_fixtures::fabric_file("two-sites", "fabric.toml").expect("the fixture is there");
    let file = crate::document::SourceFile::new(text.name, text.text);
    crate::document::compile_fabric(&file).expect("the fixture is valid")
}

#[test]
fn of_the_cheapest_links_the_fastest_counts_by_its_near_end() {
    let mut fabric = fabric();
    let [a, b] = fabric.joined_by(&fabric.links[0]).map(Clone::clone);
    let ends = |link: &crate::fabric::Link| {
        [&link.a.node, &link.b.node].map(|node| (node.clone(), link.id.clone()))
    };
    let [first_a, first_b] = ends(&fabric.links[0]);
    let [second_a, _] = ends(&fabric.links[1]);
    for link in &mut fabric.links {
        link.cost = 10;
    }
    let pair = |there: u64, back: u64| {
        RoundTrips::from([((a.clone(), b.clone()), ms(there)), ((b.clone(), a.clone()), ms(back))])
    };
    let told = Told::from([(first_a, ms(9)), (first_b, ms(8)), (second_a, ms(5))]);
    assert_eq!(between(&fabric, &Told::new()), RoundTrips::new());
    assert_eq!(between(&fabric, &told), pair(5, 5));
    // Nothing is asked of a link that costs more, however fast it is.
    fabric.links[1].cost = 20;
    assert_eq!(between(&fabric, &told), pair(9, 8));
}

proptest! {
    /// Whatever the link does within a tenth of what is told, nothing changes.
    #[test]
    fn within_a_tenth_nothing_is_told_anew(
        told in 1_000u64..1_000_000,
        shares in proptest::collection::vec((900u64..=1_100, any::<bool>()), 1..200),
    ) {
        let told = Duration::from_micros(told);
        let (mut gauge, mut now) = (Gauge::default(), Duration::ZERO);
        ask(&mut gauge, &mut now, Some(told), WINDOW);
        for (share, lost) in shares {
            now += HOLD;
            let rtt = told * u32::try_from(share).expect("small") / 1000;
            // Too short to be forgotten.
            now = now.min(FORGET);
            prop_assert!(!gauge.take((!lost).then_some(rtt), now));
        }
        prop_assert_eq!(gauge.told(), Some(told));
    }

    /// Of two sites at most one is nearer, and neither within a tenth or the grain.
    #[test]
    fn nearer_is_one_way_and_by_more_than_a_tenth(a in 0u64..5_000_000, b in 0u64..5_000_000) {
        let (x, y) = (Duration::from_micros(a), Duration::from_micros(b));
        prop_assert!(!(is_nearer(x, y) && is_nearer(y, x)));
        if a.abs_diff(b) * 10 <= a.max(b) || x.abs_diff(y) <= GRAIN {
            prop_assert!(!is_nearer(x, y) && !is_nearer(y, x));
        }
    }
}
