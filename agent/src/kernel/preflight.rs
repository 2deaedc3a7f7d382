//! What must be so before the agent touches anything: privileges, interfaces, sysctls, and no
//! object of others in our place.
//!
//! It only reads. Every finding says what, where and what to do; the caller decides whether a
//! [`Severity::Refuse`] stops the start.

use std::fmt;

use caps::{CapSet, Capability};
use nett_policy::lower::object::Layout;

use super::error::KernelError;
use super::foreign::Foreign;
use super::linux::LinuxKernel;
use super::{Kernel, Readback, read, sysctl};

pub use super::sysctl::Interfaces;

/// How often the kernel is read until it is read whole.
const LOOKS: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Ok,
    /// The agent works, with less.
    Warn,
    /// The agent must not start.
    Refuse,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub severity: Severity,
    pub what: String,
    pub where_: String,
    /// Empty when nothing is to be done.
    pub fix: String,
}

/// Looks at interfaces and at objects in our place; changes nothing. `interfaces` are those of the
/// fabric on this node. What may be set before it is looked at is in [`super::sysctl::check`].
///
/// # Errors
/// When the kernel cannot be read at all.
pub async fn preflight(
    kernel: &mut LinuxKernel,
    interfaces: &Interfaces,
) -> Result<Vec<Finding>, KernelError> {
    let readback = whole(kernel).await?;
    let mut findings = present(interfaces, &readback);
    findings.extend(readback.foreign.iter().map(collision));
    findings.extend(elsewhere(kernel).await?);
    if let Some(damage) = &readback.guard_damage {
        findings.push(Finding {
            severity: Severity::Warn,
            what: format!("is not as Nett wrote it: {damage}"),
            where_: "nft table inet nett".to_owned(),
            fix: "nothing; the agent loads it anew".to_owned(),
        });
    }
    if !readback.complete {
        findings.push(Finding {
            severity: Severity::Warn,
            what: format!("could not be read whole, {LOOKS} times: objects may be missing above"),
            where_: "the kernel".to_owned(),
            fix: "look for a program that changes routes, nexthops or the ruleset all the time; \
                  until it is read whole the agent deletes nothing"
                .to_owned(),
        });
    }
    Ok(findings)
}

/// The kernel, looked at again where others changed it meanwhile.
async fn whole(kernel: &mut LinuxKernel) -> Result<Readback, KernelError> {
    let mut readback = kernel.read().await?;
    for _ in 1..LOOKS {
        if readback.complete {
            break;
        }
        readback = kernel.read().await?;
    }
    Ok(readback)
}

/// Looks at what the process may do, first of all: without CAP_NET_ADMIN the kernel cannot even be
/// read. `ports` are those that the agent listens at.
pub fn capabilities(ports: &[u16]) -> Vec<Finding> {
    let first = sysctl::first_unprivileged_port();
    let mut needed =
        vec![(Capability::CAP_NET_ADMIN, String::new()), (Capability::CAP_NET_RAW, String::new())];
    if let Some(port) = ports.iter().filter(|port| **port != 0 && **port < first).min() {
        let why = format!(", which listening at port {port} takes (below {first})");
        needed.push((Capability::CAP_NET_BIND_SERVICE, why));
    }
    needed.into_iter().map(|(capability, why)| allowed(capability, &why)).collect()
}

fn allowed(capability: Capability, why: &str) -> Finding {
    let place = "the process".to_owned();
    match caps::has_cap(None, CapSet::Effective, capability) {
        Ok(true) => Finding::ok(format!("has {capability}"), place),
        Ok(false) | Err(_) => Finding {
            severity: Severity::Refuse,
            what: format!("has no effective {capability}{why}"),
            where_: place,
            fix: format!("AmbientCapabilities={capability} in the unit, or run as root"),
        },
    }
}

fn present(interfaces: &Interfaces, readback: &Readback) -> Vec<Finding> {
    let all = interfaces.outer.iter().chain(&interfaces.core);
    let check = |name: &String| {
        let place = format!("interface {name}");
        match readback.interfaces.get(name) {
            None => Finding {
                severity: Severity::Refuse,
                what: "does not exist".to_owned(),
                where_: place,
                fix: "correct its name in fabric.toml, or create it first".to_owned(),
            },
            Some(interface) if !interface.up => Finding {
                severity: Severity::Warn,
                what: "is down or has no carrier".to_owned(),
                where_: place,
                fix: "nothing; its routes come when it is up".to_owned(),
            },
            Some(interface) if !interface.tentative.is_empty() => Finding {
                severity: Severity::Warn,
                what: "has addresses whose duplicate detection has not ended well".to_owned(),
                where_: place,
                fix: "use nodad on point-to-point links".to_owned(),
            },
            Some(_) => Finding::ok("is up".to_owned(), place),
        }
    };
    all.map(check).collect()
}

fn collision(foreign: &Foreign) -> Finding {
    let fix = match foreign {
        Foreign::Route { .. } => "remove it, or move Nett's tables",
        Foreign::Rule { .. } => "remove it, or move Nett's rule_base",
        Foreign::Nexthop { .. } => "remove it; the range of ids is fixed",
        Foreign::NftTable => "rename or remove that table",
        Foreign::RouteElsewhere { .. }
        | Foreign::RuleElsewhere { .. }
        | Foreign::NexthopElsewhere { .. } => "another program uses our protocol: move either",
    };
    Finding {
        severity: Severity::Refuse,
        what: "stands where Nett's objects go".to_owned(),
        where_: foreign.to_string(),
        fix: fix.to_owned(),
    }
}

/// Objects with our protocol where none of ours can be: another program has taken the number.
async fn elsewhere(kernel: &mut LinuxKernel) -> Result<Vec<Finding>, KernelError> {
    let read::Claimed { nexthops, routes, rules } = read::claimed(kernel).await?;
    let layout = &kernel.layout;
    let nexthops = nexthops
        .into_iter()
        .filter(|(id, _)| !Layout::NEXTHOP_IDS.contains(&id.0))
        .map(|(id, _)| Foreign::NexthopElsewhere { id });
    let routes = routes
        .into_iter()
        .filter(|(key, _)| !layout.owns_table(key.table))
        .map(|(key, _)| Foreign::RouteElsewhere { key });
    let rules = rules
        .into_iter()
        .filter(|(_, priority, _)| !layout.owns_priority(*priority))
        .map(|(family, priority, _)| Foreign::RuleElsewhere { family, priority });
    Ok(nexthops.chain(routes).chain(rules).map(|f| collision(&f)).collect())
}

// === impl Finding ===

impl Finding {
    /// Whether the agent must not start because of it.
    pub fn refuses(&self) -> bool {
        self.severity == Severity::Refuse
    }

    pub(super) fn ok(what: String, where_: String) -> Self {
        Self { severity: Severity::Ok, what, where_, fix: String::new() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { severity, what, where_, fix } = self;
        let word = match severity {
            Severity::Ok => "ok",
            Severity::Warn => "warning",
            Severity::Refuse => "refused",
        };
        write!(f, "{word}: {where_}: {what}")?;
        if fix.is_empty() { Ok(()) } else { write!(f, "; {fix}") }
    }
}
