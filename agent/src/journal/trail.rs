//! A thread of its own for the audit trail: a disk that others keep busy holds a line up for
//! seconds, and the way around a dead link must not wait for that.
//!
//! Lines are written in the order in which they were given. Who gives one waits only while
//! [`WAITING`] lines are under way; who reads the file first lets [`Written`] wait for what was
//! given before.
//!
//! Crash story: a process that is killed loses the lines that were under way, at most [`WAITING`];
//! the chain of the file goes on. Entries among them are in the journal, and the next start adds
//! them ([`Records::complete`](crate::records::Records::complete)); what else was among them is in
//! no trail. A process that ends writes them all.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::audit::{Audit, AuditRecord};

/// Lines that may be under way.
pub(crate) const WAITING: usize = 1024;

enum Job {
    Line(Box<AuditRecord>),
    /// Answered when all before it is written.
    Written(SyncSender<()>),
}

/// Hands lines to the thread that owns the trail. Dropped, it waits until all are written.
#[derive(Debug)]
pub struct Trail {
    path: PathBuf,
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

/// Waits for lines that are under way.
#[derive(Debug)]
pub struct Written(Receiver<()>);

// === impl Trail ===

impl Trail {
    /// Starts the thread, which owns the trail from now on.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn spawn(mut audit: Audit) -> std::io::Result<Self> {
        let path = audit.path().to_owned();
        let (jobs, queue) = sync_channel(WAITING);
        let work = move || {
            for job in queue {
                match job {
                    Job::Line(record) => {
                        if let Err(error) = audit.append(*record) {
                            tracing::error!(%error, "The audit trail cannot be written.");
                        }
                    }
                    // A reader that has gone away waits for nothing.
                    Job::Written(done) => drop(done.send(())),
                }
            }
        };
        let thread = std::thread::Builder::new().name("nett-audit".to_owned()).spawn(work);
        let thread = thread.map_err(|error| {
            std::io::Error::new(error.kind(), format!("no thread for its writer: {error}"))
        })?;
        Ok(Self { path, jobs: Some(jobs), thread: Some(thread) })
    }

    /// Hands a line on; waits only while the queue is full.
    pub fn append(&self, record: AuditRecord) {
        self.send(Job::Line(Box::new(record)));
    }

    /// For whoever reads the file: what was given until now is to be in it.
    pub fn written(&self) -> Written {
        let (done, answer) = sync_channel(1);
        self.send(Job::Written(done));
        Written(answer)
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn send(&self, job: Job) {
        // The thread ends after the last handle alone.
        if self.jobs.as_ref().is_none_or(|jobs| jobs.send(job).is_err()) {
            tracing::error!("The audit trail is not written any more.");
        }
    }
}

impl Drop for Trail {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // It has nothing to tell.
            let _ = thread.join();
        }
    }
}

// === impl Written ===

impl Written {
    /// Waits, on a thread that may.
    pub fn wait(self) {
        // A trail that has ended has written all it could.
        let _ = self.0.recv();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(n: usize) -> AuditRecord {
        let text =
            format!(r#"{{"at":{n},"node":"osl-b1","kind":"bfd","text":"line {n}","prev":""}}"#);
        serde_json::from_str(&text).expect("a record")
    }

    fn lines(path: &Path) -> usize {
        std::fs::read_to_string(path).expect("readable").lines().count()
    }

    #[test]
    fn who_waits_finds_all_that_was_given_and_the_end_writes_the_rest() {
        let dir = tempfile::tempdir().expect("a directory");
        let trail = Trail::spawn(Audit::open(dir.path()).expect("a trail")).expect("a thread");
        let path = trail.path().to_owned();
        (0..3000).for_each(|n| trail.append(record(n)));
        trail.written().wait();
        assert_eq!(lines(&path), 3000);
        (0..500).for_each(|n| trail.append(record(n)));
        drop(trail);
        assert_eq!(lines(&path), 3500);
        let verdict = super::super::audit::verify(&path, |_| super::super::audit::Belief::Good);
        let verdict = verdict.expect("readable");
        assert_eq!((verdict.lines, verdict.breaks), (3500, Vec::new()), "in order");
    }
}
