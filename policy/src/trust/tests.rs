//! What each thing that can happen to a session makes of the belief in its link.

use super::*;

const PACE: Pace =
    Pace { interval: Duration::from_millis(100), detection: Duration::from_millis(300) };

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Up since the first millisecond.
fn proven() -> Trust {
    let mut trust = Trust::default();
    trust.up(ms(1));
    assert_eq!(trust.belief(), Belief::Proven);
    trust
}

#[test]
fn what_never_came_up_is_used() {
    let mut trust = Trust::default();
    trust.down(Fall::Silence, PACE, ms(500));
    trust.tick(PACE, ms(10_000_000));
    assert_eq!((trust.belief(), trust.deadline()), (Belief::Unproven, None));
}

#[test]
fn what_breaks_off_is_doubted_until_it_was_up_for_a_while() {
    for fall in [Fall::Silence, Fall::Signalled] {
        let mut trust = proven();
        trust.down(fall, PACE, ms(5000));
        assert_eq!((trust.belief(), trust.deadline()), (Belief::Doubted, None));
        trust.up(ms(6000));
        assert_eq!((trust.belief(), trust.deadline()), (Belief::Probation, Some(ms(8000))));
        trust.tick(PACE, ms(7999));
        assert!(trust.belief().is_doubt());
        trust.tick(PACE, ms(8000));
        assert_eq!((trust.belief(), trust.deadline()), (Belief::Proven, None));
    }
}

#[test]
fn a_break_on_probation_begins_it_anew() {
    let mut trust = proven();
    trust.down(Fall::Silence, PACE, ms(5000));
    trust.up(ms(6000));
    trust.down(Fall::Signalled, PACE, ms(7000));
    trust.tick(PACE, ms(9000));
    assert_eq!(trust.belief(), Belief::Doubted);
    trust.up(ms(9000));
    assert_eq!(trust.deadline(), Some(ms(11_000)));
}

#[test]
fn each_break_soon_after_the_last_costs_twice_as_much() {
    let mut trust = proven();
    let mut now = ms(5000);
    let mut holds = Vec::new();
    for _ in 0..8 {
        trust.down(Fall::Silence, PACE, now);
        trust.up(now);
        let until = trust.deadline().expect("on probation");
        holds.push((until - now).as_secs());
        trust.tick(PACE, until);
        now = until;
    }
    assert_eq!(holds, [2, 4, 8, 16, 32, 64, 120, 120]);
    now += setbacks::CALM + ms(1);
    trust.down(Fall::Silence, PACE, now);
    trust.up(now);
    assert_eq!(trust.deadline(), Some(now + ms(2000)), "long after the others");
}

#[test]
fn a_fast_session_is_on_probation_for_a_second() {
    let mut trust = proven();
    let pace = Pace { interval: ms(10), detection: ms(30) };
    trust.down(Fall::Silence, pace, ms(5000));
    trust.up(ms(5000));
    assert_eq!(trust.deadline(), Some(ms(6000)));
}

#[test]
fn who_stops_takes_nothing_away_and_gives_nothing_back() {
    let mut trust = proven();
    trust.down(Fall::Stopped, PACE, ms(5000));
    assert_eq!((trust.belief(), trust.deadline()), (Belief::Unproven, None));
    trust.heard(true, ms(5000));
    trust.tick(PACE, ms(1_000_000));
    assert_eq!(trust.belief(), Belief::Unproven);
    let mut trust = proven();
    trust.down(Fall::Silence, PACE, ms(5000));
    trust.down(Fall::Stopped, PACE, ms(6000));
    trust.heard(true, ms(6000));
    assert_eq!(trust.belief(), Belief::Doubted);
}

/// It hears us not, or it would be up: the link works in one direction.
#[test]
fn who_is_heard_and_does_not_come_up_is_doubted() {
    let mut trust = Trust::default();
    trust.heard(false, ms(1000));
    trust.heard(false, ms(2000));
    assert_eq!(trust.deadline(), Some(ms(6000)), "since it was first heard");
    trust.tick(PACE, ms(6000));
    assert_eq!(trust.belief(), Belief::Doubted);
    let mut trust = Trust::default();
    trust.heard(false, ms(1000));
    trust.heard(true, ms(2000));
    assert_eq!(trust.deadline(), None, "it has stopped");
    let mut trust = Trust::default();
    trust.heard(false, ms(1000));
    trust.up(ms(2000));
    assert_eq!((trust.belief(), trust.deadline()), (Belief::Proven, None));
}

#[test]
fn an_interface_that_was_away_explains_a_break() {
    // The break is seen while it is away, just after it has returned, and just before it goes.
    let mut trust = proven();
    trust.present(false, ms(5000));
    trust.down(Fall::Silence, PACE, ms(5300));
    assert_eq!((trust.belief(), trust.deadline()), (Belief::Unproven, None));
    trust.present(true, ms(60_000));
    assert_eq!(trust.deadline(), Some(ms(70_000)));

    let mut trust = proven();
    trust.present(false, ms(5000));
    trust.present(true, ms(5200));
    trust.down(Fall::Silence, PACE, ms(5300));
    assert_eq!((trust.belief(), trust.deadline()), (Belief::Unproven, Some(ms(15_300))));

    let mut trust = proven();
    trust.down(Fall::Silence, PACE, ms(5000));
    trust.present(false, ms(5100));
    assert_eq!((trust.belief(), trust.deadline()), (Belief::Unproven, None));
    trust.present(true, ms(6000));
    trust.up(ms(6500));
    assert_eq!(trust.belief(), Belief::Proven, "without probation");
}

#[test]
fn an_interface_explains_nothing_long_before_or_after() {
    let mut trust = proven();
    trust.present(false, ms(5000));
    trust.present(true, ms(5200));
    trust.down(Fall::Silence, PACE, ms(7000));
    assert_eq!(trust.belief(), Belief::Doubted);
    let mut trust = proven();
    trust.down(Fall::Silence, PACE, ms(5000));
    trust.present(false, ms(6001));
    trust.present(true, ms(6002));
    assert_eq!(trust.belief(), Belief::Doubted);
}

/// The carrier is back, and the way behind it is not.
#[test]
fn what_was_up_before_has_to_come_up_again() {
    let mut trust = proven();
    trust.present(false, ms(5000));
    trust.down(Fall::Silence, PACE, ms(5300));
    trust.present(true, ms(9000));
    trust.tick(PACE, ms(19_000));
    assert_eq!(trust.belief(), Belief::Doubted);
}

#[test]
fn what_was_known_before_a_restart_is_not_forgotten() {
    let mut trust = Trust::recalled(PACE);
    assert_eq!(trust.belief(), Belief::Doubted);
    trust.up(ms(1000));
    assert_eq!(trust.deadline(), Some(ms(3000)), "as after a first break");
    trust.tick(PACE, ms(3000));
    assert_eq!(trust.belief(), Belief::Proven);
}

/// After a boot the interface is not there yet, which explains nothing of what was known before.
#[test]
fn what_was_known_before_a_restart_outlives_an_interface_that_comes_late() {
    let mut trust = Trust::recalled(PACE);
    trust.present(false, ms(5));
    trust.present(true, ms(2000));
    assert_eq!(trust.belief(), Belief::Doubted);
}

#[test]
fn who_works_in_one_direction_on_and_off_is_believed_later_each_time() {
    let mut trust = Trust::default();
    let mut now = ms(1000);
    let mut holds = Vec::new();
    for _ in 0..3 {
        trust.heard(false, now);
        now += HEARD;
        trust.tick(PACE, now);
        trust.up(now);
        let until = trust.deadline().expect("on probation");
        holds.push((until - now).as_secs());
        trust.tick(PACE, until);
        trust.down(Fall::Stopped, PACE, until);
        now = until;
    }
    assert_eq!(holds, [2, 4, 8]);
}

/// It said one word and was killed.
#[test]
fn who_was_heard_and_is_silent_again_is_not_doubted() {
    let mut trust = Trust::default();
    trust.heard(false, ms(1000));
    trust.unheard();
    assert_eq!((trust.belief(), trust.deadline()), (Belief::Unproven, None));
    // Where it was up before, silence is no excuse.
    let mut trust = proven();
    trust.present(false, ms(5000));
    trust.down(Fall::Silence, PACE, ms(5300));
    trust.present(true, ms(6000));
    trust.unheard();
    assert_eq!(trust.deadline(), Some(ms(16_000)));
}
