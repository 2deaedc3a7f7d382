//! The journal as a file, and the file of the generation before.

use std::io;
use std::path::{Path, PathBuf};

use super::count::Count;
use super::disk::{Directory, Disk};
use super::line::{Head, Known, head, header, line, parse, size};
use super::{Journal, Loaded, Record};

/// All of these are for the operator: the disk, the path or its permissions.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("cannot {action} the journal {path}: is the state directory writable and not full?")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{path} begins with `{found}`: another release wrote it; move it away, or use that one"
    )]
    Header { path: PathBuf, found: String },
    #[error("the journal's writer is gone")]
    Closed,
}

pub struct FileJournal {
    /// For messages.
    path: PathBuf,
    names: Names,
    disk: Box<dyn Disk>,
    /// Bytes of whole records, the header included.
    length: u64,
    /// How often it was written anew.
    generation: u64,
    /// How many records were ever synced, in a file of its own.
    count: Count,
}

/// The files of one journal.
struct Names {
    journal: String,
    previous: String,
    /// What is being written.
    new: String,
    /// What was found damaged, or of another release.
    aside: String,
}

// === impl FileJournal ===

impl FileJournal {
    /// Opens or creates `journal` in the state directory.
    pub fn open(state_dir: &Path) -> Result<Self, JournalError> {
        Self::open_named(state_dir, "journal")
    }

    /// Opens or creates a journal of that name.
    pub fn open_named(state_dir: &Path, name: &str) -> Result<Self, JournalError> {
        let path = state_dir.join(name);
        let disk = Directory::open(state_dir).map_err(|source| {
            let action = "create the directory of";
            JournalError::Io { action, path: path.clone(), source }
        })?;
        Ok(Self::on(Box::new(disk), path, name))
    }

    /// A journal of that name on any disk; `path` is what messages call it.
    pub fn on(disk: Box<dyn Disk>, path: PathBuf, name: &str) -> Self {
        let names = Names {
            journal: name.to_owned(),
            previous: format!("{name}.previous"),
            new: format!("{name}.new"),
            aside: format!("{name}.damaged"),
        };
        let count = Count::new(format!("{name}.count"));
        Self { path, names, disk, length: 0, generation: 0, count }
    }

    fn io(&self, action: &'static str) -> impl Fn(io::Error) -> JournalError + use<> {
        let path = self.path.clone();
        move |source| JournalError::Io { action, path: path.clone(), source }
    }

    fn read_file(&self, name: &str) -> Result<Vec<u8>, JournalError> {
        let found = self.disk.read(name).map_err(self.io("read"))?;
        Ok(found.unwrap_or_default())
    }

    fn write_synced(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.disk.append(&self.names.journal, bytes)?;
        self.disk.sync(&self.names.journal)
    }

    /// A journal with the header alone.
    fn begin(&mut self) -> Result<(), JournalError> {
        let io = self.io("begin");
        let header = header(self.generation);
        self.disk.truncate(&self.names.journal, 0).map_err(&io)?;
        self.write_synced(header.as_bytes()).map_err(&io)?;
        self.disk.sync_names().map_err(&io)?;
        self.length = size(header.len());
        Ok(())
    }

    /// Writes these records as the next generation. Whatever stops this, before or after any step,
    /// leaves a whole journal: the old one or the new one.
    fn begin_anew(&mut self, records: &[Record], keep_old: bool) -> Result<(), JournalError> {
        let io = self.io("write anew");
        let generation = self.generation + 1;
        let mut bytes = header(generation).into_bytes();
        bytes.extend(records.iter().flat_map(line));
        let Names { journal, previous, new, aside: _ } = &self.names;
        // Left by a crash.
        self.disk.truncate(new, 0).map_err(&io)?;
        self.disk.append(new, &bytes).map_err(&io)?;
        self.disk.sync(new).map_err(&io)?;
        if keep_old {
            self.disk.link(journal, previous).map_err(&io)?;
        }
        self.disk.rename(new, journal).map_err(&io)?;
        self.length = size(bytes.len());
        self.generation = generation;
        self.disk.sync_names().map_err(&io)
    }

    fn cut(&mut self, loaded: &Loaded, whole: usize) -> Result<(), JournalError> {
        self.length = size(whole) - loaded.torn;
        if loaded.torn > 0 {
            let name = &self.names.journal;
            self.disk.truncate(name, self.length).map_err(self.io("truncate"))?;
            self.disk.sync(name).map_err(self.io("sync"))?;
        }
        Ok(())
    }

    /// What the generation before has. What of it cannot be read is passed over.
    fn previous(&self) -> Result<Option<Loaded>, JournalError> {
        let bytes = self.read_file(&self.names.previous)?;
        Ok(match head(&bytes) {
            Head::Good(Known { length, .. }) => Some(parse(&bytes[length..])),
            Head::Empty | Head::Other(_) => None,
            Head::Damaged => Some(parse(&bytes)).filter(|loaded| !loaded.records.is_empty()),
        })
    }

    /// Nothing of the journal can be read as it should be: puts it aside for whoever wants to look
    /// at it, and goes on with what both generations hold, which belongs together in any order.
    fn mend(&mut self, found: Loaded) -> Result<Loaded, JournalError> {
        let previous = self.previous()?;
        let mut loaded = Loaded { previous: previous.is_some(), ..found };
        let mut records = previous.map(|loaded| loaded.records).unwrap_or_default();
        let own: Vec<Record> =
            loaded.records.iter().filter(|r| !records.contains(r)).cloned().collect();
        records.extend(own);
        loaded.records = records;
        // What looks like a torn tail may be anything here.
        loaded.torn = 0;
        let name = &self.names.journal;
        if self.disk.read(name).map_err(self.io("read"))?.is_some() {
            self.disk.link(name, &self.names.aside).map_err(self.io("put aside"))?;
        }
        self.begin_anew(&loaded.records, false)?;
        Ok(loaded)
    }

    fn load_head(&mut self, bytes: &[u8]) -> Result<Loaded, JournalError> {
        match head(bytes) {
            Head::Empty if self.previous()?.is_none() => {
                self.begin()?;
                Ok(Loaded { fresh: true, ..Loaded::default() })
            }
            Head::Empty => self.mend(Loaded { fresh: true, ..Loaded::default() }),
            Head::Other(found) if self.previous()?.is_none() => {
                Err(JournalError::Header { path: self.path.clone(), found })
            }
            // Put aside as it is: the release that wrote it can be given it again.
            Head::Other(_) => self.mend(Loaded { damaged: vec![1], ..Loaded::default() }),
            Head::Good(Known { length, generation }) => {
                self.generation = generation;
                let loaded = parse(&bytes[length..]);
                if !loaded.damaged.is_empty() && self.previous()?.is_some() {
                    return self.mend(loaded);
                }
                self.cut(&loaded, bytes.len())?;
                Ok(loaded)
            }
            Head::Damaged => {
                let mut loaded = parse(bytes);
                loaded.damaged.insert(0, 1);
                self.mend(loaded)
            }
        }
    }
}

impl Journal for FileJournal {
    fn load(&mut self) -> Result<Loaded, JournalError> {
        let bytes = self.read_file(&self.names.journal)?;
        let counted = self.count.read(&*self.disk);
        // A journal that is written anew gets a number that none had.
        self.generation = counted.generation;
        let mut loaded = self.load_head(&bytes)?;
        let found = size(loaded.records.len()) + size(loaded.damaged.len());
        // A crash between the writing anew and its count: what is counted is gone on purpose.
        let uncounted = loaded.is_whole() && counted.generation < self.generation;
        let counted_records = if uncounted { 0 } else { counted.records };
        loaded.missing = counted_records.saturating_sub(found);
        if counted.generation > self.generation {
            // A whole generation is gone.
            loaded.missing = loaded.missing.max(1);
        }
        let floor = counted_records.max(found + loaded.missing);
        self.count.begin(self.generation, if loaded.is_whole() { 0 } else { floor });
        self.count.write(&mut *self.disk, size(loaded.records.len()));
        Ok(loaded)
    }

    fn append(&mut self, records: &[Record]) -> Result<(), JournalError> {
        let lines: Vec<u8> = records.iter().flat_map(line).collect();
        if let Err(error) = self.write_synced(&lines) {
            // A part of them must not stand before the next one. When the disk does not even
            // take that, the next start finds a damaged line, and says so.
            let _ = self.disk.truncate(&self.names.journal, self.length);
            // The agent may act on it all the same: a start before it is kept must know.
            self.count.owe(&mut *self.disk);
            return Err(self.io("write")(error));
        }
        self.length += size(lines.len());
        self.count.add(&mut *self.disk, size(records.len()));
        Ok(())
    }

    fn records(&mut self) -> Result<Vec<Record>, JournalError> {
        let bytes = self.read_file(&self.names.journal)?;
        Ok(match head(&bytes) {
            Head::Good(Known { length, .. }) => parse(&bytes[length..]).records,
            Head::Empty | Head::Other(_) | Head::Damaged => Vec::new(),
        })
    }

    fn rewrite(&mut self, records: &[Record]) -> Result<(), JournalError> {
        self.begin_anew(records, true)?;
        self.count.begin(self.generation, size(records.len()));
        self.count.write(&mut *self.disk, size(records.len()));
        Ok(())
    }

    fn doubt(&mut self) {
        self.count.owe(&mut *self.disk);
    }
}
