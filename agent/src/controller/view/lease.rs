//! Leases in documents: who votes, what their votes say of a service, and how long that holds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nett_policy::id::{EntryId, Generation, ServiceId, SiteId};
use nett_policy::lease::electorate::Terms;
use nett_policy::lease::placings::definition;
use nett_policy::lease::rule::{Verdict, Why};

use super::super::Controller;
use super::super::effect::{AuditEvent, Effect};
use super::super::event::Now;
use super::{bad_request, ms};
use crate::api::types::{ApiError, LeaseDoc, LeasesDoc, Payload, RejoinDoc, VoterDoc, VotersDoc};
use crate::lease::{Standing, Stands};

/// How many services are named one by one of those that somebody has to do something about.
const SHOWN: usize = 20;

// === impl Controller ===

impl Controller {
    pub(super) fn leases_doc(&self, now: Now) -> Option<LeasesDoc> {
        let lease = self.lease.as_ref()?;
        let electorates = lease.electorates();
        let change = |site: &SiteId| match () {
            () if electorates.added() == Some(site) => Some("added".to_owned()),
            () if electorates.removed() == Some(site) => Some("removed".to_owned()),
            () => None,
        };
        let voter = |site: &SiteId| VoterDoc {
            site: site.to_string(),
            node: lease.voter_of(site).map(ToString::to_string).unwrap_or_default(),
            answered_ms: lease.last_answered(site).map(|at| ms(now.mono.saturating_sub(at))),
            generation: lease.said(site).map(|said| said.generation.0),
            steady_ms: lease.said(site).map(|said| ms(said.steady_at(now.mono))),
            rejoining: lease.said(site).is_some_and(|said| said.rejoining),
            change: change(site),
        };
        let pending = lease.pending().unwrap_or_default();
        let times = self.setting.fabric.lease;
        Some(LeasesDoc {
            duration_ms: ms(times.duration),
            wait_ms: ms(times.wait),
            voters: electorates.all().iter().map(voter).collect(),
            fences_known: lease.knows_fences(),
            pending: pending.into_iter().map(ToString::to_string).collect(),
            gate: lease.gate_trouble().map(str::to_owned),
            terms: Some(terms(&electorates.terms())),
            counts: lease.counts_by().0,
            runs: lease.runs().map(|running| running.generation.0),
            rises: lease.rises_not().map(ToString::to_string),
            refused: lease.refused().map(str::to_owned),
        })
    }

    pub(super) fn lease_doc(&self, service: &ServiceId, now: Now) -> Option<LeaseDoc> {
        let lease = self.lease.as_ref()?;
        let stands = lease.stands().get(service)?;
        let defined = self.setting.catalog.get(service).and_then(definition).map(|(id, _)| id);
        let Stands { standing, claim, epoch, target, backers, verdict, unprotected } = stands;
        let needed = lease.voters().len() / 2 + 1;
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Some(LeaseDoc {
            standing: standing.as_str().to_owned(),
            why: why(service, stands, now.mono),
            claim: claim.as_ref().filter(|id| Some(*id) != defined.as_ref()).map(|c| c.to_string()),
            epoch: epoch.0,
            target: target.as_ref().map(ToString::to_string),
            voters: count(*backers),
            needed: count(needed),
            left_ms: left(verdict, now.mono).map(ms),
            unprotected: unprotected.iter().map(ToString::to_string).collect(),
        })
    }

    /// Services that were taken without a majority of the voters and have none yet.
    fn unprotected(&self) -> impl Iterator<Item = (&ServiceId, &Stands)> {
        let stands = self.lease.as_ref().map(|lease| lease.stands()).into_iter().flatten();
        stands.filter(|(_, stands)| !stands.unprotected.is_empty())
    }

    pub(super) fn is_unprotected(&self, service: &ServiceId) -> bool {
        let stands = self.lease.as_ref().and_then(|lease| lease.stands().get(service));
        stands.is_some_and(|stands| !stands.unprotected.is_empty())
    }

    pub(super) fn unprotected_services(&self, most: usize) -> BTreeSet<ServiceId> {
        self.unprotected().take(most).map(|(service, _)| service.clone()).collect()
    }

    /// How many of them a task has taken.
    pub(super) fn unprotected_by(&self, task: &EntryId) -> u64 {
        let own = self.unprotected().filter(|(_, stands)| stands.claim.as_ref() == Some(task));
        u64::try_from(own.count()).unwrap_or(u64::MAX)
    }

    /// The same, for whoever looks at the status.
    pub(super) fn unprotected_lines(&self) -> Vec<String> {
        let all: Vec<_> = self.unprotected().collect();
        let line = |(service, stands): &(&ServiceId, &Stands)| {
            let to = stands.target.as_ref().map(ToString::to_string).unwrap_or_default();
            let off: Vec<&str> = stands.unprotected.iter().map(SiteId::as_str).collect();
            let off = off.join(", ");
            format!(
                "{service} is UNPROTECTED at {to}: it was taken while {off} were said to be off; \
                 bring them back one by one, each able to read the log of {to}"
            )
        };
        let more = all.len().saturating_sub(SHOWN);
        let more = (more > 0).then(|| format!("{more} more services are unprotected"));
        all.iter().take(SHOWN).map(line).chain(more).collect()
    }

    /// Services that are served nowhere because the task that moved them took itself back.
    pub(super) fn stopped(&self) -> Vec<String> {
        let stands = self.lease.as_ref().map(|lease| lease.stands()).into_iter().flatten();
        let stopped = stands.filter(|(_, stands)| stands.standing == Standing::Stopped);
        let services: Vec<&ServiceId> = stopped.map(|(service, _)| service).collect();
        let line = |service: &&ServiceId| format!("{service} is {}", stopped_because(service));
        let more = services.len().saturating_sub(SHOWN);
        let more = (more > 0).then(|| format!("{more} more services are stopped"));
        services.iter().take(SHOWN).map(line).chain(more).collect()
    }

    /// How long this node may go on serving each service if nobody answers any more.
    pub(super) fn leases_left(&self, now: Now) -> Vec<(ServiceId, Duration)> {
        let stands = self.lease.as_ref().map(|lease| lease.stands()).into_iter().flatten();
        let left = stands.filter_map(|(id, s)| Some((id.clone(), left(&s.verdict, now.mono)?)));
        left.collect()
    }

    /// Which generations of voters are in use here, and for what.
    pub(super) fn voter_generations(&self) -> BTreeMap<&'static str, u32> {
        let Some(lease) = &self.lease else { return BTreeMap::new() };
        let file = Some(lease.electorates().present.generation);
        let runs = lease.runs().map(|running| running.generation);
        let all = [("file", file), ("counts", Some(lease.counts_by())), ("runs", runs)];
        let number = |generation: Generation| u32::try_from(generation.0).unwrap_or(u32::MAX);
        all.into_iter().filter_map(|(of, generation)| Some((of, number(generation?)))).collect()
    }

    /// An operator at this node says that a voter will not be read.
    pub(super) fn rejoin(&mut self, site: &str, reason: &str) -> Result<Payload, ApiError> {
        let site: SiteId = site.parse().map_err(|e| bad_request(format!("{e}")))?;
        if reason.trim().is_empty() {
            return Err(bad_request("a reason is missing: it goes on record".to_owned()));
        }
        let Some(lease) = &mut self.lease else {
            return Err(bad_request("nothing is leased here".to_owned()));
        };
        let Some(pending) = lease.pending() else {
            return Err(bad_request(
                "this node does not vote: ask the voter of its site".to_owned(),
            ));
        };
        if !pending.contains(&site) {
            let names: Vec<&str> = pending.iter().map(|s| s.as_str()).collect();
            let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return Err(bad_request(format!("{site} need not be read here; to be read: {names}")));
        }
        lease.rejoin_without(&site);
        let left = lease.pending().unwrap_or_default();
        let pending = left.into_iter().map(ToString::to_string).collect();
        let text = format!("rejoins without {site}: {reason}");
        self.effects.push(Effect::Audit(AuditEvent::Kernel { kind: "rejoin", text }));
        Ok(Payload::Rejoin(RejoinDoc { without: site.to_string(), pending }))
    }
}

fn terms(terms: &Terms) -> VotersDoc {
    let voters = terms.voters.iter().map(|(site, node)| (site.to_string(), node.to_string()));
    VotersDoc {
        generation: terms.generation.0,
        voters: voters.collect(),
        duration_ms: ms(terms.lease.duration),
        wait_ms: ms(terms.lease.wait),
    }
}

fn left(verdict: &Option<Verdict>, now: Duration) -> Option<Duration> {
    match verdict {
        Some(Verdict::Serves { until }) => Some(until.saturating_sub(now)),
        Some(Verdict::Waits { .. } | Verdict::Shut(_)) | None => None,
    }
}

fn stopped_because(service: &ServiceId) -> String {
    format!(
        "stopped: the task that moved it took itself back; nettctl failover {service} --to SITE \
         --reason TEXT is a new claim"
    )
}

fn why(service: &ServiceId, stands: &Stands, now: Duration) -> String {
    let backers = stands.backers;
    match (stands.standing, stands.verdict) {
        (Standing::Serving, _) if !stands.unprotected.is_empty() => {
            let off: Vec<&str> = stands.unprotected.iter().map(SiteId::as_str).collect();
            format!("UNPROTECTED: all voters count but those of {}", off.join(", "))
        }
        (Standing::Serving, _) => "a majority of voters counts".to_owned(),
        (Standing::Elsewhere, _) => "the claim is for another site".to_owned(),
        (Standing::Between, _) => "its task has not come to the step that serves".to_owned(),
        (Standing::Stopped, _) => stopped_because(service),
        (Standing::Unclaimed, _) => "no claim is known to have a majority of votes".to_owned(),
        (Standing::Shut, Some(Verdict::Waits { from })) => {
            format!("waits {} s until older leases are over", from.saturating_sub(now).as_secs())
        }
        (Standing::Shut, Some(Verdict::Shut(why))) => match why {
            Why::Elsewhere => "the claim is for another site".to_owned(),
            Why::Fenced => "this node has confirmed that it withdrew".to_owned(),
            Why::Overruled => {
                "another claim is known that this one cannot be served beside, or a vote for one \
                 that this node has not read"
                    .to_owned()
            }
            Why::FenceUnknown => {
                "this node lost its disk and has not read what it confirmed".to_owned()
            }
            Why::NoMajority { behind } => format!(
                "{behind} voters stand behind it here, {backers} voted for it: confirmations are \
                 missing, or answers"
            ),
            Why::Expired { counting } => format!("only {counting} voters have answered of late"),
        },
        (Standing::Shut, Some(Verdict::Serves { .. }) | None) => {
            "the kernel's gate is not ready".to_owned()
        }
    }
}
