//! The search: breadth first, every state once, with the way back for a trace.

use std::collections::VecDeque;

use crate::judge::{Breach, judge};
use crate::runs::Run;
use crate::state::State;
use crate::steps::{Step, start, successors};

/// What a search found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) states: usize,
    /// False when the bound on states ended the search.
    pub(crate) complete: bool,
    /// Claims that served somewhere, as bits by place.
    pub(crate) served: u8,
    pub(crate) breach: Option<(Breach, Vec<Step>)>,
}

/// Fingerprints, in open addressing: sixteen bytes a state are less than any map of the standard
/// library takes. 0 is empty.
struct Seen {
    slots: Vec<u64>,
    len: usize,
}

pub(crate) fn explore(run: &Run) -> Found {
    let fingerprint =
        |s: &State| s.fingerprint(run.voters, run.sites.len(), run.lives(), run.fixed());
    let first = start(run);
    let mut seen = Seen { slots: vec![0; 1 << 16], len: 0 };
    seen.insert(fingerprint(&first));
    let mut parents: Vec<(u32, Step)> = vec![(0, Step::Tick(0))];
    let mut open: VecDeque<(u32, State)> = VecDeque::from([(0, first)]);
    let mut served = 0;
    let mut complete = true;
    while let Some((at, mut state)) = open.pop_front() {
        let (now, breach) = judge(run, &state);
        served |= now;
        if !run.only_mutex {
            state.served |= now;
        }
        if let Some(breach) = breach {
            let trace = trace(&parents, at);
            return Found {
                states: seen.len,
                complete: false,
                served,
                breach: Some((breach, trace)),
            };
        }
        successors(run, &state, |step, next| {
            if seen.len >= run.most_states {
                complete = false;
            } else if seen.insert(fingerprint(&next)) {
                let number = u32::try_from(parents.len()).expect("states fit 32 bits");
                parents.push((at, step));
                open.push_back((number, next));
            }
        });
    }
    Found { states: seen.len, complete, served, breach: None }
}

fn trace(parents: &[(u32, Step)], mut at: u32) -> Vec<Step> {
    let mut steps = Vec::new();
    while at != 0 {
        let (parent, step) = parents[at as usize];
        steps.push(step);
        at = parent;
    }
    steps.reverse();
    steps
}

// === impl Seen ===

impl Seen {
    /// True when it was not there.
    fn insert(&mut self, fingerprint: u64) -> bool {
        if self.len * 2 >= self.slots.len() {
            let old = std::mem::take(&mut self.slots);
            self.slots = vec![0; old.len() * 2];
            self.len = 0;
            for f in old.into_iter().filter(|f| *f != 0) {
                self.put(f);
            }
        }
        self.put(fingerprint.max(1))
    }

    fn put(&mut self, fingerprint: u64) -> bool {
        let mask = self.slots.len() - 1;
        let mut at = usize::try_from(fingerprint).expect("64 bits") & mask;
        loop {
            match self.slots[at] {
                0 => {
                    self.slots[at] = fingerprint;
                    self.len += 1;
                    return true;
                }
                held if held == fingerprint => return false,
                _ => at = (at + 1) & mask,
            }
        }
    }
}
