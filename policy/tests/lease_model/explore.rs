//! The search: breadth first, every state once, with the way back for a trace.

use std::collections::VecDeque;

use crate::judge::{Breach, judge};
use crate::runs::Run;
use crate::state::State;
use crate::steps::{Step, start, successors};

/// What a search found.
#[derive(Debug)]
pub(crate) struct Found<T> {
    pub(crate) states: usize,
    /// False when the bound on states ended the search.
    pub(crate) complete: bool,
    /// Claims that served somewhere, as bits by place.
    pub(crate) served: u8,
    pub(crate) breach: Option<(Breach, Vec<T>)>,
}

/// Fingerprints, in open addressing: sixteen bytes a state are less than any map of the standard
/// library takes. 0 is empty.
struct Seen {
    slots: Vec<u64>,
    len: usize,
}

pub(crate) fn explore(run: &Run) -> Found<Step> {
    search(
        start(run),
        run.most_states,
        |state| state.fingerprint(run.voters, run.sites.len(), run.lives(), run.fixed()),
        |state: &mut State| {
            let (now, breach) = judge(run, state);
            if !run.only_mutex {
                state.served |= now;
            }
            (now, breach)
        },
        |state, visit| successors(run, state, visit),
    )
}

/// Looks at every state that can be reached: `judge` says who serves and what is wrong, and notes
/// in the state what the ones after it have to know.
pub(crate) fn search<S: Copy, T: Copy>(
    first: S,
    most_states: usize,
    fingerprint: impl Fn(&S) -> u64,
    judge: impl Fn(&mut S) -> (u8, Option<Breach>),
    successors: impl Fn(&S, &mut dyn FnMut(T, S)),
) -> Found<T> {
    let mut seen = Seen { slots: vec![0; 1 << 16], len: 0 };
    seen.insert(fingerprint(&first));
    // Each state's parent and the step from there; the first has none.
    let mut parents: Vec<Option<(u32, T)>> = vec![None];
    let mut open: VecDeque<(u32, S)> = VecDeque::from([(0, first)]);
    let mut served = 0;
    let mut complete = true;
    while let Some((at, mut state)) = open.pop_front() {
        let (now, breach) = judge(&mut state);
        served |= now;
        if let Some(breach) = breach {
            let breach = Some((breach, trace(&parents, at)));
            return Found { states: seen.len, complete: false, served, breach };
        }
        successors(&state, &mut |step, next| {
            if seen.len >= most_states {
                complete = false;
            } else if seen.insert(fingerprint(&next)) {
                let number = u32::try_from(parents.len()).expect("states fit 32 bits");
                parents.push(Some((at, step)));
                open.push_back((number, next));
            }
        });
    }
    Found { states: seen.len, complete, served, breach: None }
}

fn trace<T: Copy>(parents: &[Option<(u32, T)>], mut at: u32) -> Vec<T> {
    let mut steps = Vec::new();
    while let Some((parent, step)) = parents[at as usize] {
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
