//! How many records a journal has ever taken, in a file beside it.
//!
//! Written after each write of the journal and not synced: what it says is never more than what was
//! synced, and mostly that. A journal with fewer was cut off cleanly, or comes from a backup. It
//! says of which generation of the journal it speaks, so that a crash between the two is no loss.

use super::disk::Disk;
use super::line::checked;

pub(super) struct Count {
    name: String,
    generation: u64,
    value: u64,
    /// What was counted at the last start: while records are missing, their number stands.
    floor: u64,
}

/// What a count says; nothing of generation 0 where it cannot be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) generation: u64,
    pub(super) records: u64,
}

impl Count {
    pub(super) fn new(name: String) -> Self {
        Self { name, generation: 0, value: 0, floor: 0 }
    }

    pub(super) fn read(&self, disk: &dyn Disk) -> Counted {
        let bytes = disk.read(&self.name).ok().flatten().unwrap_or_default();
        let text = String::from_utf8(bytes).unwrap_or_default();
        let Some(words) = text.lines().next().and_then(checked) else { return Counted::default() };
        let mut numbers = words.split(' ').map(str::parse);
        match (numbers.next(), numbers.next(), numbers.next()) {
            (Some(Ok(records)), None, None) => Counted { generation: 0, records },
            (Some(Ok(records)), Some(Ok(generation)), None) => Counted { generation, records },
            _ => Counted::default(),
        }
    }

    /// Counts in a generation that had so many.
    pub(super) fn begin(&mut self, generation: u64, floor: u64) {
        (self.generation, self.floor) = (generation, floor);
    }

    pub(super) fn add(&mut self, disk: &mut dyn Disk, records: u64) {
        self.write(disk, self.value + records);
    }

    /// A record that the disk did not take counts as missing until it is there.
    pub(super) fn owe(&mut self, disk: &mut dyn Disk) {
        self.floor = self.floor.max(self.value + 1);
        self.write(disk, self.value);
    }

    /// Without it a clean cut is not noticed; nothing else depends on it. Never shorter than before
    /// and written in place, which a full disk takes too.
    pub(super) fn write(&mut self, disk: &mut dyn Disk, value: u64) {
        self.value = value;
        let (value, generation) = (value.max(self.floor), self.generation);
        let text = match generation {
            // As releases without generations read it.
            0 => format!("{value:020}"),
            _ => format!("{value:020} {generation:010}"),
        };
        let text = format!("{text} {:08x}\n", crc32c::crc32c(text.as_bytes()));
        let _ = disk.overwrite(&self.name, text.as_bytes());
    }
}
