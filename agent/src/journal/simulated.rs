//! A journal in memory, with the faults of a disk.

use super::{Journal, JournalError, Loaded, Record};

/// Keeps records in memory. With `full` set, appends fail as on a full disk and nothing is kept.
#[derive(Debug, Default)]
pub struct SimulatedJournal {
    pub records: Vec<Record>,
    pub full: bool,
}

impl Journal for SimulatedJournal {
    fn load(&mut self) -> Result<Loaded, JournalError> {
        Ok(Loaded { records: self.records.clone(), ..Loaded::default() })
    }

    fn append(&mut self, records: &[Record]) -> Result<(), JournalError> {
        if self.full {
            return Err(JournalError::Io {
                action: "write",
                path: "simulated".into(),
                source: std::io::Error::from(std::io::ErrorKind::StorageFull),
            });
        }
        self.records.extend_from_slice(records);
        Ok(())
    }

    fn records(&mut self) -> Result<Vec<Record>, JournalError> {
        Ok(self.records.clone())
    }

    fn rewrite(&mut self, records: &[Record]) -> Result<(), JournalError> {
        self.records = records.to_vec();
        Ok(())
    }

    fn doubt(&mut self) {}
}
