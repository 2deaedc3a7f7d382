//! Probes of the `verify` step: real packets over a named link to a VIP, before traffic goes there.
//! And [`neighbours`]: whether the other nodes of the site are there; [`bfd`]: whether packets over
//! the links arrive; [`round_trips`]: how long they take.
//!
//! A probe carries the mark of replies over its link (class 0x2000 plus the link's index), so the
//! rule that sends replies back also pins the probe to that link, whatever today's routes are.
//! Nothing here reads Nett's own state: an answer means that the far site delivered the packet and
//! that its reply came back.

mod ahead;
pub mod bfd;
mod echo;
pub mod neighbours;
pub mod round_trips;
mod run;

use std::time::Duration;

use nett_policy::task::acks::ProbeTarget;

pub use run::LinkProbe;

/// What came of all probes of one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub ok: bool,
    /// One line per target.
    pub evidence: Vec<String>,
}

/// Sends probes. The real one is [`LinkProbe`]; tests use closures or [`Always`].
pub trait Probe: Send + Sync + 'static {
    fn run(
        &self,
        targets: Vec<ProbeTarget>,
        timeout: Duration,
    ) -> impl Future<Output = Verdict> + Send;
}

/// Says the same about everything.
#[derive(Debug, Clone, Copy)]
pub struct Always(pub bool);

impl Probe for Always {
    async fn run(&self, targets: Vec<ProbeTarget>, _timeout: Duration) -> Verdict {
        let line = |t: ProbeTarget| format!("{} at {}: simulated", t.service, t.site);
        Verdict { ok: self.0, evidence: targets.into_iter().map(line).collect() }
    }
}
