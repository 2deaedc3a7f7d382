//! From one generation of the voters to the next: whether the file may be used beside what the disk
//! has, and when the own voter rises.
//!
//! Who rises, and by which generation a node counts, is decided by `nett_policy::lease` alone
//! (adr/0062). Here it gets its disk: the terms of a generation are on it before anybody is asked
//! or answered in it, and what a voter rises to before it answers in that; in between it answers
//! nothing.
//!
//! Crash story: of a rise that did not reach the disk nobody has heard; the voter goes on where it
//! was and rises again. Times hold within one boot; after another one a voter counts from now on.

use std::time::Duration;

use nett_policy::id::{Generation, SiteId};
use nett_policy::lease::generation::{NotYet, Running};
use nett_policy::lease::said::Said;

use super::Lease;
use super::store::LeaseRecord;

// === impl Lease ===

impl Lease {
    /// Compares the file with every generation that this node has used.
    pub(super) fn restore_terms(&mut self, records: &[LeaseRecord]) {
        let used = records.iter().filter_map(|record| match record {
            LeaseRecord::Terms(terms) => Some(terms),
            _ => None,
        });
        let used: Vec<_> = used.collect();
        let refused = used.iter().find_map(|terms| self.electorates.against(terms).err());
        if let Some(refused) = refused {
            tracing::error!(%refused, "The voters of the file are refused.");
            self.refused = Some(refused.to_string());
            return;
        }
        let both = self.electorates.terms_before().into_iter().chain([self.electorates.terms()]);
        let new: Vec<_> = both.filter(|terms| !used.contains(&terms)).collect();
        if !new.is_empty() {
            let records = new.into_iter().map(LeaseRecord::Terms).collect();
            self.terms_open = Some(self.keep(records));
        }
    }

    /// What the own voter ran, by the last that the journal says since it began, in this boot's
    /// time; `None` in a journal from before generations had voters of their own.
    pub(super) fn ran(&self, records: &[LeaseRecord], now: Duration) -> Option<Running> {
        let last = records.iter().rev().find_map(|record| match record {
            LeaseRecord::Runs { running, boot } => Some((*running, boot)),
            _ => None,
        });
        let (running, boot) = last?;
        let same = *boot == self.boot && !boot.is_empty();
        let since = if same { running.since.min(now) } else { now };
        Some(Running { since, ..running })
    }

    pub(super) fn runs_record(&self, running: Running) -> LeaseRecord {
        LeaseRecord::Runs { running, boot: self.boot.clone() }
    }

    /// The own voter rises as soon as it may.
    pub(super) fn consider_rise(&mut self, now: Duration) {
        // What was to be remembered before must not come to the disk behind this.
        let is_written = self.keeping.open.is_empty();
        let voting = self.voting.as_mut().filter(|voting| is_written && voting.is_written());
        let Some(voting) = voting else { return };
        match voting.voter.rise(&self.rules, &self.knowledge, &self.placings, now) {
            Ok(None) => self.rises_not = None,
            Ok(Some(running)) => {
                tracing::info!(generation = %running.generation, "This voter rises.");
                self.rises_not = None;
                let record = self.runs_record(running);
                let number = self.keep(vec![record]);
                if let Some(voting) = &mut self.voting {
                    voting.rising = Some(number);
                }
            }
            Err(not_yet) => {
                // What is left of a time is no news.
                let kind = std::mem::discriminant(&not_yet);
                if self.rises_not.as_ref().map(std::mem::discriminant) != Some(kind) {
                    tracing::info!(%not_yet, "This voter does not rise yet.");
                }
                self.rises_not = Some(not_yet);
            }
        }
    }

    /// The generation by which this node counts.
    pub fn counts_by(&self) -> Generation {
        self.knowledge.electorate().generation
    }

    /// What a voter said of itself last.
    pub fn said(&self, voter: &SiteId) -> Option<&Said> {
        self.knowledge.said(voter)
    }

    /// What the own voter runs; `None` where this node is no voter.
    pub fn runs(&self) -> Option<Running> {
        self.voting.as_ref().map(|voting| voting.voter.running())
    }

    /// Why the own voter does not run its file's generation.
    pub fn rises_not(&self) -> Option<&NotYet> {
        self.rises_not.as_ref()
    }
}
