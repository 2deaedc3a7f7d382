//! Whether something that is asked again and again is there: fast to doubt, slow to trust again.
//!
//! What has never answered is not missed: its silence may be a firewall's. Only who answered once
//! can become silent, and comes back after a row of answers, so that one that comes and goes does
//! not take traffic along each time.
//!
//! Crash story: made anew with the process; until the first answer nothing is held against anybody.

/// Questions in a row without an answer until something counts as silent.
pub const FALL: u32 = 3;
/// Answers in a row until it counts again.
pub const RISE: u32 = 20;

/// What is known of one that is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Liveness {
    state: State,
    /// Answers, while silent, or missing answers, while there, in a row.
    row: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Unknown,
    There,
    Silent,
}

// === impl Liveness ===

impl Liveness {
    /// Takes in whether the last question was answered; true when that changed the verdict.
    pub fn hear(&mut self, answered: bool) -> bool {
        let (state, row) = match (self.state, answered) {
            (State::Unknown, false) => (State::Unknown, 0),
            (State::Unknown | State::There, true) => (State::There, 0),
            (State::There, false) if self.row + 1 >= FALL => (State::Silent, 0),
            (State::There, false) => (State::There, self.row + 1),
            (State::Silent, false) => (State::Silent, 0),
            (State::Silent, true) if self.row + 1 >= RISE => (State::There, 0),
            (State::Silent, true) => (State::Silent, self.row + 1),
        };
        let changed = (state == State::Silent) != self.is_silent();
        *self = Self { state, row };
        changed
    }

    pub fn is_silent(&self) -> bool {
        self.state == State::Silent
    }

    /// True once it has answered at all.
    pub fn is_known(&self) -> bool {
        self.state != State::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(answers: impl IntoIterator<Item = bool>) -> (Liveness, u32) {
        let mut one = Liveness::default();
        let changes = answers.into_iter().filter(|answered| one.hear(*answered)).count();
        (one, u32::try_from(changes).expect("few"))
    }

    #[test]
    fn who_never_answered_is_not_missed() {
        let (one, changes) = after(std::iter::repeat_n(false, 100));
        assert!(!one.is_silent() && !one.is_known());
        assert_eq!(changes, 0);
    }

    #[test]
    fn the_third_missing_answer_in_a_row_is_silence() {
        assert!(!after([true, false, false]).0.is_silent());
        assert!(!after([true, false, false, true, false, false]).0.is_silent());
        assert_eq!(after([true, false, false, false]), {
            let (one, _) = after([true, false, false, false]);
            assert!(one.is_silent());
            (one, 1)
        });
    }

    #[test]
    fn it_counts_again_after_a_row_of_answers() {
        let silent = [true, false, false, false];
        let answers = |n| std::iter::repeat_n(true, n as usize);
        let (one, _) = after(silent.into_iter().chain(answers(RISE - 1)));
        assert!(one.is_silent());
        let (one, changes) = after(silent.into_iter().chain(answers(RISE)));
        assert!(!one.is_silent());
        assert_eq!(changes, 2);
        let broken = answers(RISE - 1).chain([false]).chain(answers(RISE - 1));
        assert!(after(silent.into_iter().chain(broken)).0.is_silent());
    }
}
