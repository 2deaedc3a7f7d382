//! A thread of its own for the journal, so that a slow disk stops nothing but what must wait for
//! it.

use tokio::sync::{mpsc, oneshot};

use super::{Journal, JournalError, Record};
use crate::rescue::{RestoreError, Restored};

/// Something for the thread that owns the journal.
enum Job {
    Append(Vec<Record>, oneshot::Sender<Result<(), JournalError>>),
    Read(oneshot::Sender<Result<Vec<Record>, JournalError>>),
    Rewrite(Rewrite, oneshot::Sender<Result<usize, JournalError>>),
    Restore(Restore, oneshot::Sender<Result<Result<Restored, RestoreError>, JournalError>>),
}

/// Makes the records of the next generation out of those that are there.
type Rewrite = Box<dyn FnOnce(Vec<Record>) -> Vec<Record> + Send>;

/// Judges a backup by the records that are there.
type Restore = Box<dyn FnOnce(&[Record]) -> Result<Restored, RestoreError> + Send>;

/// Hands records to the thread that owns the journal. The thread ends with its last handle.
#[derive(Debug, Clone)]
pub struct JournalWriter {
    jobs: mpsc::Sender<Job>,
}

impl JournalWriter {
    pub fn spawn(mut journal: Box<dyn Journal>) -> std::io::Result<Self> {
        let (jobs, mut queue) = mpsc::channel::<Job>(64);
        let work = move || {
            while let Some(job) = queue.blocking_recv() {
                // Nobody waits any more when the agent is stopping.
                match job {
                    Job::Append(records, done) => drop(done.send(journal.append(&records))),
                    Job::Read(done) => drop(done.send(journal.records())),
                    Job::Restore(judge, done) => drop(done.send(restore(&mut *journal, judge))),
                    Job::Rewrite(make, done) => drop(done.send(rewrite(&mut *journal, make))),
                }
            }
        };
        std::thread::Builder::new().name("nett-journal".to_owned()).spawn(work)?;
        Ok(Self { jobs })
    }

    /// Returns when the records are synced, which they are together.
    pub async fn append(&self, records: Vec<Record>) -> Result<(), JournalError> {
        let (done, answer) = oneshot::channel();
        self.jobs.send(Job::Append(records, done)).await.map_err(|_| JournalError::Closed)?;
        answer.await.map_err(|_| JournalError::Closed)?
    }

    /// Everything that is in the journal now.
    pub async fn records(&self) -> Result<Vec<Record>, JournalError> {
        let (done, answer) = oneshot::channel();
        self.jobs.send(Job::Read(done)).await.map_err(|_| JournalError::Closed)?;
        answer.await.map_err(|_| JournalError::Closed)?
    }

    /// Takes a backup in, unless `judge` refuses it. Appends wait meanwhile.
    pub async fn restore(
        &self,
        judge: impl FnOnce(&[Record]) -> Result<Restored, RestoreError> + Send + 'static,
    ) -> Result<Result<Restored, RestoreError>, JournalError> {
        let (done, answer) = oneshot::channel();
        let job = Job::Restore(Box::new(judge), done);
        self.jobs.send(job).await.map_err(|_| JournalError::Closed)?;
        answer.await.map_err(|_| JournalError::Closed)?
    }

    /// Writes the journal anew; gives how many records it has then. Appends wait meanwhile.
    pub async fn rewrite(
        &self,
        make: impl FnOnce(Vec<Record>) -> Vec<Record> + Send + 'static,
    ) -> Result<usize, JournalError> {
        let (done, answer) = oneshot::channel();
        let job = Job::Rewrite(Box::new(make), done);
        self.jobs.send(job).await.map_err(|_| JournalError::Closed)?;
        answer.await.map_err(|_| JournalError::Closed)?
    }
}

fn restore(
    journal: &mut dyn Journal,
    judge: Restore,
) -> Result<Result<Restored, RestoreError>, JournalError> {
    let restored = match judge(&journal.records()?) {
        Ok(restored) => restored,
        Err(refused) => return Ok(Err(refused)),
    };
    journal.rewrite(&restored.records)?;
    journal.doubt();
    Ok(Ok(restored))
}

fn rewrite(journal: &mut dyn Journal, make: Rewrite) -> Result<usize, JournalError> {
    let records = make(journal.records()?);
    journal.rewrite(&records)?;
    Ok(records.len())
}
