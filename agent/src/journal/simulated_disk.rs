//! A directory in memory that can be stopped at any operation, by a kill or by a loss of power.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::Disk;

/// Handles to one directory; what one writes, the others see.
#[derive(Debug, Clone, Default)]
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// By number, so that a file may have two names.
    files: BTreeMap<u64, Content>,
    names: BTreeMap<String, u64>,
    /// The names as of the last sync.
    synced_names: BTreeMap<String, u64>,
    next: u64,
    /// Operations that change something, until now.
    operations: usize,
    /// From this operation on nothing works: the process is dead.
    dies_at: Option<usize>,
    /// From this operation on nothing more fits.
    full: bool,
}

#[derive(Debug, Clone, Default)]
struct Content {
    bytes: Vec<u8>,
    synced: Vec<u8>,
}

// === impl SimulatedDisk ===

impl SimulatedDisk {
    /// Changes so far.
    pub fn operations(&self) -> usize {
        self.lock().operations
    }

    /// The process dies in the operation of this number, counted from the first of all; of what it
    /// was to write there only the first half is.
    pub fn die_at(&self, operation: usize) {
        self.lock().dies_at = Some(operation);
    }

    pub fn set_full(&self, full: bool) {
        self.lock().full = full;
    }

    /// Another process may begin. With `power_lost` only what was synced is there, and of what was
    /// not, as much as `taken` says of every file, in percent.
    pub fn restart(&self, power_lost: bool, taken: usize) {
        let mut state = self.lock();
        state.dies_at = None;
        if !power_lost {
            return;
        }
        state.names = state.synced_names.clone();
        for content in state.files.values_mut() {
            let Content { bytes, synced } = content.clone();
            let more = bytes.strip_prefix(synced.as_slice()).unwrap_or_default();
            content.bytes = [&synced, &more[..more.len() * taken / 100]].concat();
            content.synced = content.bytes.clone();
        }
    }

    /// Puts a file there, safe and sound.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let mut state = self.lock();
        let file = Content { bytes: bytes.to_vec(), synced: bytes.to_vec() };
        let number = state.make(name);
        state.files.insert(number, file);
        state.synced_names = state.names.clone();
    }

    pub fn remove(&self, name: &str) {
        let mut state = self.lock();
        state.names.remove(name);
        state.synced_names.remove(name);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds this lock")
    }
}

// === impl State ===

impl State {
    /// The number of a new file under this name.
    fn make(&mut self, name: &str) -> u64 {
        self.next += 1;
        self.names.insert(name.to_owned(), self.next);
        self.next
    }

    /// True when the process dies here.
    fn count(&mut self) -> io::Result<bool> {
        self.operations += 1;
        match self.dies_at {
            Some(at) if self.operations > at => Err(io::Error::other("killed")),
            Some(at) => Ok(self.operations == at),
            None => Ok(false),
        }
    }

    fn file(&mut self, name: &str) -> &mut Content {
        let number = match self.names.get(name) {
            Some(number) => *number,
            None => self.make(name),
        };
        self.files.entry(number).or_default()
    }

    fn change(&mut self, change: impl FnOnce(&mut Self)) -> io::Result<()> {
        if self.count()? {
            return Err(io::Error::other("killed"));
        }
        change(self);
        Ok(())
    }
}

impl Disk for SimulatedDisk {
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let state = self.lock();
        let number = state.names.get(name);
        Ok(number.and_then(|n| state.files.get(n)).map(|content| content.bytes.clone()))
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        let dies = state.count()?;
        let (full, half) = (state.full, bytes.len() / 2);
        let taken = if dies || full { &bytes[..half] } else { bytes };
        state.file(name).bytes.extend_from_slice(taken);
        match () {
            () if dies => Err(io::Error::other("killed")),
            () if full => Err(io::ErrorKind::StorageFull.into()),
            () => Ok(()),
        }
    }

    fn overwrite(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.lock().change(|state| {
            let content = &mut state.file(name).bytes;
            let rest = content.split_off(bytes.len().min(content.len()));
            *content = [bytes, &rest].concat();
        })
    }

    fn truncate(&mut self, name: &str, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).map_err(io::Error::other)?;
        self.lock().change(|state| state.file(name).bytes.resize(length, 0))
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.lock().change(|state| {
            let content = state.file(name);
            content.synced = content.bytes.clone();
        })
    }

    fn link(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.lock();
        let number = *state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        state.change(|state| {
            state.names.insert(to.to_owned(), number);
        })
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.lock();
        let number = *state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        state.change(|state| {
            state.names.remove(from);
            state.names.insert(to.to_owned(), number);
        })
    }

    fn sync_names(&mut self) -> io::Result<()> {
        self.lock().change(|state| state.synced_names = state.names.clone())
    }
}
