//! The tasks of the running agent, by name: one that ends or panics ends the agent, and the last
//! thing that is said names it.
//!
//! It never starts one again: what a task knew is gone with it, and the next start of the whole
//! agent reads everything from where it is kept.
//!
//! Crash story: tasks end with the process, and leave the kernel as it is.

use std::collections::BTreeMap;

use tokio::task::{Id, JoinError, JoinSet};

/// Tasks of which none may end.
#[derive(Debug, Default)]
pub struct Supervised {
    tasks: JoinSet<()>,
    names: BTreeMap<Id, &'static str>,
}

/// A task that ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    #[error("{0} ended, which nothing is to do while the agent runs")]
    Done(&'static str),
    #[error("{name} panicked: {text}; please report it with the log")]
    Panicked { name: &'static str, text: String },
}

/// Tasks that were started among these by somebody else.
const UNNAMED: &str = "a part of the agent";

// === impl Supervised ===

impl Supervised {
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let handle = self.tasks.spawn(task);
        self.names.insert(handle.id(), name);
    }

    /// For a part that starts its own tasks; all that it starts here have this name.
    pub fn among<T>(&mut self, name: &'static str, start: impl FnOnce(&mut JoinSet<()>) -> T) -> T {
        let mut tasks = JoinSet::new();
        let started = start(&mut tasks);
        if !tasks.is_empty() {
            self.spawn(name, async move {
                if let Some(Err(error)) = tasks.join_next().await
                    && let Ok(panic) = error.try_into_panic()
                {
                    std::panic::resume_unwind(panic);
                }
            });
        }
        started
    }

    /// Waits for the first that ends; for ever where there is none. Cancel safe.
    pub async fn ended(&mut self) -> Ended {
        let name = |id| self.names.get(&id).copied().unwrap_or(UNNAMED);
        match self.tasks.join_next_with_id().await {
            None => std::future::pending().await,
            Some(Ok((id, ()))) => Ended::Done(name(id)),
            Some(Err(error)) => Ended::of(name(error.id()), error),
        }
    }

    /// Ends all of them.
    pub async fn shutdown(mut self) {
        self.tasks.shutdown().await;
    }
}

// === impl Ended ===

impl Ended {
    fn of(name: &'static str, error: JoinError) -> Self {
        let Ok(panic) = error.try_into_panic() else { return Self::Done(name) };
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Self::Panicked { name, text: text.unwrap_or_else(|| "without a word".to_owned()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_ends_and_what_panics_is_named() {
        let mut tasks = Supervised::default();
        tasks.spawn("the one that stays", std::future::pending());
        tasks.spawn("the one that ends", async {});
        assert_eq!(tasks.ended().await, Ended::Done("the one that ends"));
        tasks.spawn("the one that panics", async { panic!("no {}", "way") });
        let panicked = tasks.ended().await;
        let text = "no way".to_owned();
        assert_eq!(panicked, Ended::Panicked { name: "the one that panics", text });
    }

    #[tokio::test]
    async fn a_panic_in_a_part_of_a_part_is_one_of_the_part() {
        let mut tasks = Supervised::default();
        let number = tasks.among("a part", |tasks| {
            tasks.spawn(std::future::pending());
            tasks.spawn(async { panic!("oh") });
            7
        });
        assert_eq!(number, 7);
        let ended = tasks.ended().await;
        assert_eq!(ended, Ended::Panicked { name: "a part", text: "oh".to_owned() });
        tasks.among("nothing", |_| ());
    }
}
