//! The seam to a directory of the disk: just what a journal needs of it.
//!
//! Two ways to stop are told apart here. A killed process loses nothing that it wrote; a machine
//! without power keeps what was synced, and of the rest whatever the disk happened to take. Nothing
//! in here retries or repairs.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Files of one directory, by name.
pub trait Disk: Send {
    /// `None` where there is no such file.
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>>;

    /// Behind what is there; makes the file where there is none.
    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Over what is there, from the first byte on; what is longer stays.
    fn overwrite(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;

    fn truncate(&mut self, name: &str, length: u64) -> io::Result<()>;

    /// Returns when the content would survive a power loss.
    fn sync(&mut self, name: &str) -> io::Result<()>;

    /// Gives a file a second name, in place of whatever had that.
    fn link(&mut self, from: &str, to: &str) -> io::Result<()>;

    /// Moves a file, in place of whatever stood there.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;

    /// Returns when the names would survive a power loss.
    fn sync_names(&mut self) -> io::Result<()>;
}

/// A directory of this machine.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    open: BTreeMap<String, File>,
}

// === impl Directory ===

impl Directory {
    /// Makes the directory where it is missing.
    pub fn open(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        Ok(Self { path: path.to_owned(), open: BTreeMap::new() })
    }

    fn file(&mut self, name: &str) -> io::Result<&mut File> {
        if !self.open.contains_key(name) {
            let path = self.path.join(name);
            let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
            self.open.insert(name.to_owned(), file);
        }
        Ok(self.open.get_mut(name).expect("opened above"))
    }
}

impl Disk for Directory {
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.path.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.file(name)?.write_all(bytes)
    }

    fn overwrite(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.path.join(name);
        let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        file.write_all(bytes)
    }

    fn truncate(&mut self, name: &str, length: u64) -> io::Result<()> {
        self.file(name)?.set_len(length)
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.file(name)?.sync_data()
    }

    fn link(&mut self, from: &str, to: &str) -> io::Result<()> {
        let (path, beside) = (self.path.join(to), self.path.join(format!("{to}.link")));
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        fs::hard_link(self.path.join(from), &beside)?;
        self.open.remove(to);
        fs::rename(beside, path)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.open.remove(from);
        self.open.remove(to);
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn sync_names(&mut self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}
