//! Opens what the lease needs of this machine: its journal and its gate.

use std::path::Path;
use std::sync::Arc;

use nett_policy::fabric::{Node, Role};
use nett_policy::roster::Rosters;
use nett_policy::service::Catalog;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::LeaseEvent;
use super::gate::{self, GateJob};
use super::store::{Restored, boot_id, restored};
use crate::controller::event::Event;
use crate::journal::{FileJournal, Journal, JournalError, JournalWriter};
use crate::kernel::{KernelError, NftGate};

/// What an agent starts the lease with.
pub struct Opened {
    pub store: JournalWriter,
    pub restored: Restored,
    /// `None` on a witness.
    pub gate: Option<mpsc::Sender<GateJob>>,
}

/// Why the lease cannot be opened: for the operator.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error("cannot start the thread of the lease's journal")]
    Thread(#[source] std::io::Error),
}

/// Work that may wait for the gate.
const JOBS: usize = 64;

/// `None` where nothing is leased. The gate runs among `tasks`.
///
/// # Errors
/// The journal cannot be read, or the process may not open netlink sockets.
pub fn open(
    state_dir: &Path,
    (catalog, node): (&Catalog, &Node),
    rosters: &Arc<Rosters>,
    events: mpsc::Sender<Event>,
    tasks: &mut JoinSet<()>,
) -> Result<Option<Opened>, LeaseError> {
    if catalog.leased().len() == 0 {
        return Ok(None);
    }
    let mut journal = FileJournal::open_named(state_dir, "lease")?;
    let loaded = journal.load()?;
    let restored = restored(&loaded, rosters, boot_id(), seed());
    let store = JournalWriter::spawn(Box::new(journal)).map_err(LeaseError::Thread)?;
    let gate = match node.role {
        Role::Witness => None,
        Role::Border | Role::Route => {
            let (jobs, work) = mpsc::channel(JOBS);
            tasks.spawn(gate::run(NftGate::open(node.core.clone())?, work, events));
            Some(jobs)
        }
    };
    Ok(Some(Opened { store, restored, gate }))
}

impl Opened {
    /// The first event of the lease.
    pub fn event(&mut self) -> Event {
        Event::Lease(LeaseEvent::Restored(Box::new(std::mem::take(&mut self.restored))))
    }
}

fn seed() -> u128 {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).expect("the system has random numbers");
    u128::from_ne_bytes(bytes)
}
