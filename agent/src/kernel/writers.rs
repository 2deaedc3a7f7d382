//! Who else wrote to our objects, as far as notifications tell: for the operator who has to find
//! the other program.
//!
//! The kernel names the netlink port of whoever asked for a change. A program's first port is its
//! process id, so a long-lived daemon has a name in `/proc`; a tool that has ended is told by its
//! port alone. It is evidence for a message and never a reason to do anything.
//!
//! Crash story: nothing is kept.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use nett_policy::plan::Object;

/// The last foreign writer of each of our objects; cheap to clone, all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Writers(Arc<Mutex<BTreeMap<Object, String>>>);

/// How many objects are remembered; a flush names thousands, and the first ones tell who it was.
const MOST: usize = 256;
/// Longer than any name in `/proc`.
const NAME: usize = 64;

// === impl Writers ===

impl Writers {
    /// Who wrote to the object last, if somebody else did.
    pub fn of(&self, object: &Object) -> Option<String> {
        self.lock().get(object).cloned()
    }

    pub(super) fn note(&self, object: Object, writer: String) {
        let mut all = self.lock();
        if all.len() < MOST || all.contains_key(&object) {
            all.insert(object, writer);
        }
    }

    /// Forgets all, so that there is room for news.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Object, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The program behind a netlink port, and the protocol number it wrote with.
pub(super) fn name(port: u32, protocol: Option<u8>) -> String {
    let comm = std::fs::read_to_string(format!("/proc/{port}/comm"));
    let comm = comm.ok().map(|c| clean(c.trim())).filter(|c| !c.is_empty());
    let program = match comm {
        Some(comm) => format!("{comm} (pid {port})"),
        None => format!("a program that has ended (netlink port {port})"),
    };
    match protocol {
        Some(protocol) => {
            format!("{program} with {}", super::foreign::Owner(protocol))
        }
        None => program,
    }
}

/// Names of processes are chosen by processes.
pub(super) fn clean(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(NAME).collect()
}
