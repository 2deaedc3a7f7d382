//! Removes everything of Nett from the kernel, and nothing else.
//!
//! Order: rules, the nft table, routes, groups, singles, the gate of leased services; traffic falls
//! back to what the box does without Nett at the first step. An error is noted and the rest goes
//! on. Objects of others in our place stay.

use nett_policy::fabric::Family;
use nett_policy::lower::object::{Layout, RouteKey, Rule};

use super::error::KernelError;
use super::linux::LinuxKernel;
use super::nft::NftGate;
use super::read;

/// What a purge did.
#[derive(Debug, Default)]
pub struct Purged {
    /// Objects that are gone, in iproute2's or nft's words, in the order of removal.
    pub removed: Vec<String>,
    /// Objects that are still there, and why.
    pub failed: Vec<KernelError>,
}

/// Removes what is ours: protocol, table and id or priority range agree; the nft table has our
/// comment. A table that a running agent owns is refused by the kernel: stop the agent first.
///
/// # Errors
/// When the kernel cannot be read; single objects that stay are in [`Purged::failed`].
pub async fn purge(kernel: &mut LinuxKernel) -> Result<Purged, KernelError> {
    let claimed = read::claimed(kernel).await?;
    let read = kernel.nft.read().await?;
    // What an interrupted replacement has left is there without a table, too.
    let guard = read.guard.is_some() || read.damage.is_some();
    let layout = kernel.layout.clone();
    let mut purged = Purged::default();
    for rule in rules(&claimed, &layout) {
        let done = kernel.delete_rule(rule).await;
        purged.note(done, || format!("rule {rule}"));
    }
    if guard {
        let done = kernel.nft.delete().await;
        purged.note(done, || "nft table inet nett".to_owned());
    }
    for key in routes(&claimed, &layout) {
        let done = kernel.delete_route(key).await;
        purged.note(done, || format!("route {key}"));
    }
    for groups in [true, false] {
        for (id, group) in &claimed.nexthops {
            if *group == groups && Layout::NEXTHOP_IDS.contains(&id.0) {
                let done = kernel.delete_nexthop(*id).await;
                purged.note(done, || format!("nexthop id {id}"));
            }
        }
    }
    // Last: while a route is there, the gate is what may stop it.
    match NftGate::open(String::new())?.delete().await {
        Ok(false) => {}
        done => purged.note(done.map(drop), || "nft table inet nett_lease".to_owned()),
    }
    Ok(purged)
}

fn rules<'a>(
    claimed: &'a read::Claimed,
    layout: &'a Layout,
) -> impl Iterator<Item = &'a Rule> + use<'a> {
    let ours = |(_, priority, _): &&(Family, u32, Option<Rule>)| layout.owns_priority(*priority);
    claimed.rules.iter().filter(ours).filter_map(|(_, _, rule)| rule.as_ref())
}

fn routes<'a>(
    claimed: &'a read::Claimed,
    layout: &'a Layout,
) -> impl Iterator<Item = &'a RouteKey> + use<'a> {
    let keys = claimed.routes.iter().map(|(key, _)| key);
    keys.filter(|key| layout.owns_table(key.table))
}

// === impl Purged ===

impl Purged {
    fn note(&mut self, done: Result<(), KernelError>, object: impl Fn() -> String) {
        match done {
            Ok(()) => self.removed.push(object()),
            Err(error) => self.failed.push(error),
        }
    }
}
