//! What is told of links that are full, and of those that only look like it.

use proptest::prelude::*;

use super::*;

const MBIT: u64 = 1_000_000;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A link that is looked at twice a second.
struct Link {
    judge: Judge,
    now: Duration,
    sent: u64,
    received: u64,
}

impl Link {
    /// One that takes 1 Mbit/s, if that is said, and has been quiet for a minute.
    fn quiet(capacity: Option<u64>) -> Self {
        let judge = Judge::new(capacity);
        let mut link = Self { judge, now: Duration::ZERO, sent: 0, received: 0 };
        assert_eq!(link.looks(120, [Some(5), Some(5)], [0, 0]), []);
        link
    }

    /// So many times the same: milliseconds of an answer in turn and ahead, and bits a second that
    /// are sent and received. Gives the times at which what is told changed.
    fn looks(&mut self, times: usize, took: [Option<u64>; 2], bps: [u64; 2]) -> Vec<Duration> {
        let begun = self.now;
        let mut changes = Vec::new();
        for _ in 0..times {
            self.now += ms(500);
            self.sent += bps[0] / 16;
            self.received += bps[1] / 16;
            self.judge.counted(self.sent, self.received, self.now);
            self.judge.answered(Asked::InTurn, took[0].map(ms), self.now);
            self.judge.answered(Asked::Ahead, took[1].map(ms), self.now);
            if self.judge.judge(self.now) {
                changes.push(self.now - begun);
            }
        }
        changes
    }
}

/// What is asked in turn and ahead, what is moved, and whether the link is full then.
#[test]
fn which_links_are_full() {
    type Row = (Option<u64>, [Option<u64>; 2], [u64; 2], bool);
    let rows: [(&str, Row); 12] = [
        ("behind a queue, with classes", (Some(MBIT), [Some(300), Some(5)], [MBIT, 0], true)),
        ("without classes", (Some(MBIT), [Some(300), Some(300)], [MBIT, 0], true)),
        ("in the other direction", (Some(MBIT), [Some(300), Some(300)], [0, MBIT], true)),
        ("lost instead of late", (Some(MBIT), [None, Some(5)], [MBIT, 0], true)),
        ("no capacity, with classes", (None, [Some(300), Some(5)], [MBIT, 0], true)),
        ("no capacity, without classes", (None, [Some(300), Some(300)], [MBIT, 0], false)),
        ("much, and nothing waits", (Some(MBIT), [Some(6), Some(6)], [MBIT, MBIT], false)),
        ("a little late", (Some(MBIT), [Some(15), Some(5)], [MBIT, 0], false)),
        ("a longer way", (Some(MBIT), [Some(300), Some(300)], [MBIT / 2, 0], false)),
        ("dead", (Some(MBIT), [None, None], [MBIT, 0], false)),
        ("dead, and the far end sends", (Some(MBIT), [None, None], [MBIT, MBIT], false)),
        ("quiet", (Some(MBIT), [Some(5), Some(5)], [0, 0], false)),
    ];
    for (what, (capacity, took, bps, is_full)) in rows {
        let mut link = Link::quiet(capacity);
        let changes = link.looks(200, took, bps);
        let expected = if is_full { vec![ms(500) * 12] } else { vec![] };
        assert_eq!(changes, expected, "{what}");
        assert_eq!(link.judge.told().is_some(), is_full, "{what}");
    }
}

#[test]
fn what_is_told_has_the_numbers() {
    let mut link = Link::quiet(Some(MBIT));
    link.looks(20, [Some(300), Some(5)], [MBIT, MBIT / 4]);
    let told = link.judge.told().expect("it is full");
    assert_eq!(
        told.to_string(),
        "saturated: sends 1.0 and receives 0.3 Mbit/s of 1.0, packets take 300.0 ms instead of \
         5.0 ms, 0 % get lost"
    );
    let mut link = Link::quiet(None);
    link.looks(20, [None, Some(5)], [MBIT, 0]);
    let told = link.judge.told().expect("it is full").to_string();
    assert!(told.ends_with("Mbit/s, most packets are lost, 75 % get lost"), "{told}");
}

#[test]
fn it_ends_when_packets_are_in_time_again_and_not_at_once() {
    let mut link = Link::quiet(Some(MBIT));
    link.looks(60, [Some(300), Some(5)], [MBIT, 0]);
    assert_eq!(link.looks(60, [Some(5), Some(5)], [0, 0]), [ms(500) * 12]);
    assert_eq!(link.judge.told(), None);
    // A flood of six seconds is told for ten.
    link.looks(12, [Some(300), Some(5)], [MBIT, 0]);
    assert!(link.judge.told().is_some());
    assert_eq!(link.looks(60, [Some(5), Some(5)], [0, 0]), [HOLD]);
}

/// Between the bounds it stays as it was.
#[test]
fn what_trembles_is_told_once() {
    let mut link = Link::quiet(Some(MBIT));
    let mut changes = link.looks(30, [Some(300), Some(300)], [MBIT, 0]).len();
    for _ in 0..20 {
        changes += link.looks(5, [Some(5), Some(5)], [MBIT * 7 / 10, 0]).len();
        changes += link.looks(6, [Some(300), Some(300)], [MBIT * 9 / 10, 0]).len();
    }
    assert_eq!(changes, 1);
    assert!(link.judge.told().is_some());
}

/// Or a flood of an hour would be what is usual.
#[test]
fn what_is_usual_is_not_learnt_from_a_full_link() {
    let mut link = Link::quiet(Some(MBIT));
    let changes = link.looks(7200, [Some(300), Some(300)], [MBIT, 0]);
    assert_eq!(changes.len(), 1);
    // But a way that has become longer is, in time.
    let mut link = Link::quiet(Some(MBIT));
    link.looks(1400, [Some(50), Some(50)], [0, 0]);
    assert_eq!(link.looks(100, [Some(60), Some(60)], [MBIT, 0]), []);
}

#[test]
fn what_is_away_is_full_no_more() {
    let mut link = Link::quiet(Some(MBIT));
    link.looks(30, [Some(300), Some(5)], [MBIT, 0]);
    assert!(link.judge.away());
    assert_eq!(link.judge.told(), None);
    assert!(!link.judge.away());
    let full = link.looks(30, [Some(300), Some(5)], [MBIT, 0]);
    assert_eq!(full, [ms(500) * 16], "it is looked at anew");
}

/// Another interface under the same name.
#[test]
fn counters_that_begin_anew_are_no_rate() {
    let mut link = Link::quiet(Some(MBIT));
    link.looks(8, [Some(5), Some(5)], [MBIT, MBIT]);
    (link.sent, link.received) = (0, 0);
    assert_eq!(link.looks(1, [Some(5), Some(5)], [0, 0]), []);
    assert_eq!(link.judge.rates(), None);
    link.looks(2, [Some(5), Some(5)], [MBIT, 0]);
    assert_eq!(link.judge.rates(), Some([MBIT, 0]));
}

/// A link that loses packets at random treats both kinds alike, and that is no queue. The same
/// random numbers each time: of many hours at 40 % some windows look like one.
#[test]
fn loss_is_no_queue() {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random >> 11
    };
    for percent in (5..100).step_by(5) {
        let mut link = Link::quiet(None);
        for _ in 0..1000 {
            let took = [(); 2].map(|()| (draw() % 100 >= percent).then_some(5));
            assert_eq!(link.looks(1, took, [MBIT / 2, 0]), [], "{percent} % are lost");
        }
    }
}

proptest! {
    /// Whatever comes, what is told changes once in ten seconds at most.
    #[test]
    fn it_never_flutters(
        draws in prop::collection::vec((0_usize..3, 0_usize..3, 0..2 * MBIT, 1_usize..20), 100),
    ) {
        let mut link = Link::quiet(Some(MBIT));
        let mut last = None;
        for (one, other, bps, times) in draws {
            let took = [one, other].map(|n| [None, Some(5), Some(300)][n]);
            let begun = link.now;
            for at in link.looks(times, took, [bps, 0]) {
                let at = begun + at;
                prop_assert!(last.is_none_or(|last| at >= last + HOLD));
                last = Some(at);
            }
        }
    }
}
