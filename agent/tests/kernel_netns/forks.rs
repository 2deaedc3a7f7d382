//! Children of a process whose other threads own tables.
//!
//! Between its fork and its exec a child has a copy of every socket of this process. A table keeps
//! its owner until the last copy of the owner's socket is closed, so nobody forks while one is.

use std::io::Result;
use std::ops::{Deref, DerefMut};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

static FORKS: Mutex<()> = Mutex::new(());

/// While this is held, nobody forks.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    FORKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns when the child is the program it is to be.
pub(crate) fn spawn(command: &mut Command) -> Result<Child> {
    let _alone = alone();
    command.spawn()
}

pub(crate) fn output(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    spawn(command)?.wait_with_output()
}

/// What owns a table, and no more as soon as this is dropped.
pub(crate) struct Owner<T>(Option<T>);

impl<T> Owner<T> {
    pub(crate) fn new(owner: T) -> Self {
        Self(Some(owner))
    }

    /// For what is to own nothing after all.
    pub(crate) fn into_inner(mut self) -> T {
        self.0.take().expect("taken by drop alone")
    }
}

impl<T> Deref for Owner<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("taken by drop alone")
    }
}

impl<T> DerefMut for Owner<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("taken by drop alone")
    }
}

impl<T> Drop for Owner<T> {
    fn drop(&mut self) {
        let _alone = alone();
        drop(self.0.take());
    }
}
