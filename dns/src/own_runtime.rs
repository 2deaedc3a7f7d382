//! A runtime for one thread of the name server.
//!
//! It is built by who starts the server, who hears of what goes wrong, and handed to the thread. If
//! that is refused, the runtime is dropped where it was built, perhaps in the midst of somebody
//! else's runtime; a plain one of tokio panics there. It must never be given blocking tasks: nobody
//! waits for them.

use std::io;

use tokio::runtime::{Builder, EnterGuard, Runtime};

/// A runtime that may be dropped anywhere.
#[derive(Debug)]
pub(crate) struct OwnRuntime(Option<Runtime>);

// === impl OwnRuntime ===

impl OwnRuntime {
    /// With sockets and timers; the error is the system's.
    pub(crate) fn build() -> io::Result<Self> {
        let built = Builder::new_current_thread().enable_io().enable_time().build()?;
        Ok(Self(Some(built)))
    }

    /// Sockets made while the guard lives belong to this runtime.
    pub(crate) fn enter(&self) -> EnterGuard<'_> {
        self.inside().enter()
    }

    /// Runs `work` to its end on this thread.
    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.inside().block_on(work)
    }

    fn inside(&self) -> &Runtime {
        self.0.as_ref().expect("taken only when it is dropped")
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_may_be_dropped_inside_another_runtime() {
        drop(OwnRuntime::build().expect("a runtime"));
    }
}
