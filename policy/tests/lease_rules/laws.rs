//! Answers that are lost, late, doubled or replayed only ever take away, and the gate's grouping
//! never gives more than the predicate.

use nett_policy::lease::knowledge::Knowledge;
use nett_policy::lease::rule::{Ground, Verdict};
use nett_policy::lease::vote::{Answer, Claim, Nonce, Vote};
use proptest::prelude::*;

use crate::bench::{Bench, NAMES, asking, claim, electorates, rules, s, service, site};

/// What happens next, at both nodes alike but for the answers.
#[derive(Debug, Clone)]
enum Event {
    Wait(u64),
    /// A voter votes for a claim, and perhaps both nodes read it now.
    Vote(usize, usize, bool),
    /// Both nodes read what they have not read.
    Read,
    /// Both nodes ask a voter. One has the answer at once; what becomes of the other's?
    Ask(usize, Fate),
    /// One of the late answers comes now; it may come again.
    Late(prop::sample::Index),
}

#[derive(Debug, Clone, Copy)]
enum Fate {
    Arrives,
    Lost,
    Late,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let fate =
        prop_oneof![Just(Fate::Arrives), Just(Fate::Arrives), Just(Fate::Lost), Just(Fate::Late)];
    let event = prop_oneof![
        3 => (1u64..40).prop_map(Event::Wait),
        2 => (0..3usize, 0..4usize, any::<bool>()).prop_map(|(v, c, r)| Event::Vote(v, c, r)),
        1 => Just(Event::Read),
        6 => (0..3usize, fate).prop_map(|(v, f)| Event::Ask(v, f)),
        2 => any::<prop::sample::Index>().prop_map(Event::Late),
    ];
    prop::collection::vec(event, 1..120)
}

fn claims() -> [Claim; 4] {
    [claim(1, "osl"), claim(2, "svg"), claim(3, "osl"), claim(4, "osl")]
}

/// The two nodes: one that loses nothing, and one with the faults.
struct Pair {
    bench: Bench,
    faulty: Knowledge,
    unread: Vec<Vote>,
    late: Vec<Answer>,
    now: u64,
    nonces: u128,
}

impl Pair {
    fn step(&mut self, event: Event) {
        let now = s(self.now);
        match event {
            Event::Wait(seconds) => self.now += seconds,
            Event::Vote(voter, which, read) => {
                self.unread.extend(self.bench.vote(NAMES[voter], &claims()[which]));
                if read {
                    self.read();
                }
            }
            Event::Read => self.read(),
            Event::Ask(voter, fate) => {
                self.nonces += 1;
                let (name, nonce) = (NAMES[voter], Nonce(self.nonces));
                let ask = self.bench.node.ask(&rules(), &site(name), nonce, now);
                self.faulty.ask(&rules(), &site(name), nonce, now);
                let mut answer = self.bench.voter(name).answer(&ask, now).expect("it answers");
                // Votes come by their own way here, to both nodes alike.
                answer.new.clear();
                self.bench.node.take(&answer, now).expect("its own ask");
                match fate {
                    Fate::Arrives => self.faulty.take(&answer, now).expect("its own ask"),
                    Fate::Lost => {}
                    Fate::Late => self.late.push(answer),
                }
            }
            Event::Late(_) if self.late.is_empty() => {}
            // Its ask may be forgotten by now.
            Event::Late(which) => drop(self.faulty.take(which.get(&self.late), now)),
        }
    }

    fn read(&mut self) {
        for vote in std::mem::take(&mut self.unread) {
            self.bench.node.read_vote(&vote, s(self.now));
            self.faulty.read_vote(&vote, s(self.now));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn faults_of_answers_only_take_away(events in events()) {
        let mut pair = Pair {
            bench: Bench::new(),
            faulty: Knowledge::new(electorates()),
            unread: Vec::new(),
            late: Vec::new(),
            now: 0,
            nonces: 0,
        };
        let service = service();
        for event in events {
            pair.step(event);
            let now = s(pair.now);
            for claim in &claims() {
                for ground in [Ground::Wait, Ground::Confirmed] {
                    let ask = asking(claim, &service, ground);
                    let whole = pair.bench.node.serves(&rules(), ask, now);
                    let faulty = pair.faulty.serves(&rules(), ask, now);
                    if let Verdict::Serves { until } = faulty {
                        let longer = matches!(whole, Verdict::Serves { until: u } if u >= until);
                        prop_assert!(longer, "{faulty:?} beside {whole:?}");
                    }
                    grouping_gives_no_more(&pair.faulty, claim, ground, pair.now)?;
                }
            }
        }
    }
}

/// Whatever slot is alive and open: the predicate says the same, until at least that slot's end.
fn grouping_gives_no_more(
    node: &Knowledge,
    claim: &Claim,
    ground: Ground,
    now: u64,
) -> Result<(), TestCaseError> {
    let service = service();
    let ask = asking(claim, &service, ground);
    let group = node.group(&rules(), ask, s(now)).group;
    let verdict = node.serves(&rules(), ask, s(now));
    let mut opened = false;
    for armed in now.saturating_sub(59)..=now {
        if node.opens(&rules(), &group, s(armed)) {
            opened = true;
            let covers = matches!(verdict, Verdict::Serves { until } if until >= s(armed + 60));
            prop_assert!(covers, "a slot armed at {armed} s is open at {now} s: {verdict:?}");
        }
    }
    prop_assert_eq!(opened, verdict.is_serving(), "a round of every age was tried");
    Ok(())
}
