//! Signs the zone behind its answers: a thread that is woken when answers were served, and looks by
//! itself now and then for signatures that grow old.
//!
//! It never holds up the serving of answers for longer than one portion takes to sign. When it
//! fails, because the serial cannot be kept, the zone stays as it is and it tries again. After a
//! crash everything is signed anew while it is served; there is nothing else to recover.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::zone::Shared;

/// How often it looks at all signatures, and how long it waits after a failure.
const LOOK: Duration = Duration::from_secs(600);
const PAUSE: Duration = Duration::from_secs(5);

/// The thread; dropping it stops it.
pub(crate) struct Signer {
    bell: Arc<Bell>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Bell {
    rung: Mutex<Rung>,
    changed: Condvar,
}

#[derive(Default, Clone, Copy)]
struct Rung {
    work: bool,
    stop: bool,
}

// === impl Signer ===

impl Signer {
    pub(crate) fn start(zone: Arc<Shared>) -> std::io::Result<Self> {
        let bell = Arc::<Bell>::default();
        let heard = Arc::clone(&bell);
        let thread = std::thread::Builder::new()
            .name("nett-zone-signer".to_owned())
            .spawn(move || run(&zone, &heard))?;
        Ok(Self { bell, thread: Some(thread) })
    }

    /// Says that there may be something to sign. Never waits.
    pub(crate) fn wake(&self) {
        self.bell.lock().work = true;
        self.bell.changed.notify_one();
    }
}

impl Drop for Signer {
    fn drop(&mut self) {
        self.bell.lock().stop = true;
        self.bell.changed.notify_one();
        if self.thread.take().is_some_and(|t| t.join().is_err()) {
            tracing::error!("The thread that signs the zone panicked.");
        }
    }
}

impl Bell {
    fn lock(&self) -> MutexGuard<'_, Rung> {
        self.rung.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the bell, at most so long; says how it was rung.
    fn wait(&self, most: Duration) -> Rung {
        let quiet = |rung: &mut Rung| !rung.work && !rung.stop;
        let (mut rung, _) = self
            .changed
            .wait_timeout_while(self.lock(), most, quiet)
            .unwrap_or_else(PoisonError::into_inner);
        let was = *rung;
        rung.work = false;
        was
    }
}

fn run(zone: &Shared, bell: &Bell) {
    // Nothing is published before the first answers are.
    let mut most = Duration::MAX;
    let mut first = true;
    loop {
        let rung = bell.wait(most);
        if rung.stop {
            return;
        }
        most = LOOK;
        let thoroughly = !rung.work || std::mem::take(&mut first);
        loop {
            match zone.sign(thoroughly) {
                Ok(true) if !bell.lock().stop => {}
                Ok(_) => break,
                Err(error) => {
                    tracing::error!(%error, "Cannot serve new signatures of the zone.");
                    most = PAUSE;
                    break;
                }
            }
        }
    }
}
