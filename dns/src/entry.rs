//! One service of a snapshot: its bytes for questions, and what they were made of.

use std::sync::Arc;
use std::time::Duration;

use nett_policy::fabric::Family;
use nett_policy::lower::answers::ServiceAnswers;
use nett_policy::service::FixedAnswers;

use crate::packed::{Packed, Records};
use crate::steer::Plan;
use crate::topology::{SiteIndex, Topology};

/// A service in a table. What is not asked for is not touched: `details` lie elsewhere.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    packed: Packed<'a>,
    only: u8,
    details: &'a Option<Details>,
}

/// The mark of a choice that depends on the client.
pub(crate) const DEPENDS: u8 = u8::MAX;

/// What the bytes were made of: for the choice among sites, for the full path and for people.
#[derive(Debug, Clone)]
pub(crate) struct Details {
    answers: Arc<ServiceAnswers>,
    /// Those of `answers`, to be told apart without a look into it.
    fixed: Arc<FixedAnswers>,
    plan: Plan,
    ttls: Ttls,
}

/// How long the records of a service may be kept, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ttls {
    /// The addresses of its own name, which a task may lower.
    pub(crate) steered: u32,
    /// What stays as it is when the service moves.
    pub(crate) lasting: u32,
    /// What says where it is.
    pub(crate) told: u32,
}

// === impl Details ===

impl Details {
    pub(crate) fn new(answers: &Arc<ServiceAnswers>, topology: &Topology) -> Self {
        let (plan, ttls) = (Plan::new(answers, topology), Ttls::of(answers));
        Self { answers: Arc::clone(answers), fixed: Arc::clone(&answers.fixed), plan, ttls }
    }

    /// True when both are of one service as the catalogue has it now.
    pub(crate) fn is_of_the_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.fixed, &other.fixed)
    }

    /// True when the records of all sites are those of `other`: only which is chosen may differ.
    pub(crate) fn has_records_of(&self, other: &Self) -> bool {
        self.is_of_the_same(other) && self.ttls == other.ttls
    }

    /// The column that all clients get, or [`DEPENDS`].
    pub(crate) fn only(&self) -> u8 {
        match &self.plan {
            Plan::One(position) => u8::try_from(*position).unwrap_or(DEPENDS),
            Plan::Shares(_) | Plan::Nearest { .. } | Plan::Nowhere(_) => DEPENDS,
        }
    }

    pub(crate) fn answers(&self) -> &Arc<ServiceAnswers> {
        &self.answers
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(crate) fn ttls(&self) -> Ttls {
        self.ttls
    }
}

// === impl Ttls ===

impl Ttls {
    fn of(answers: &ServiceAnswers) -> Self {
        // RFC 2181 section 8: a TTL has 31 bits.
        const MAX_TTL: u64 = 0x7fff_ffff;
        let seconds = |ttl: Duration| u32::try_from(ttl.as_secs().min(MAX_TTL)).expect("31 bits");
        let ttl = answers.fixed.ttl;
        Self {
            steered: seconds(ttl.now(answers.lowered)),
            lasting: seconds(ttl.ceiling),
            told: seconds(ttl.floor),
        }
    }
}

// === impl Entry ===

impl<'a> Entry<'a> {
    pub(crate) fn new(packed: Packed<'a>, only: u8, details: &'a Option<Details>) -> Self {
        Self { packed, only, details }
    }

    /// The labels of the service's name below the apex, in wire form without a root label.
    pub(crate) fn key(self) -> &'a [u8] {
        self.packed.key()
    }

    /// What it was made of; snapshots share it.
    pub(crate) fn details(self) -> &'a Details {
        self.details.as_ref().expect("a taken slot has details")
    }

    pub(crate) fn answers(self) -> &'a ServiceAnswers {
        &self.details().answers
    }

    pub(crate) fn plan(self) -> &'a Plan {
        &self.details().plan
    }

    pub(crate) fn ttls(self) -> Ttls {
        self.details().ttls
    }

    /// The column of `AllDown::Fallback`, behind those of the sites.
    pub(crate) fn fallback(self) -> usize {
        self.answers().fixed.sites.len()
    }

    /// The column that every client gets, if it is prepared and there is one.
    pub(crate) fn only(self) -> Option<usize> {
        (self.only != DEPENDS).then_some(self.only.into())
    }

    /// The addresses of one family in a column, and whose they are; `None` when not prepared.
    pub(crate) fn addresses(
        self,
        column: usize,
        family: Family,
    ) -> Option<(Option<SiteIndex>, Records<'a>)> {
        self.packed.addresses(column, family)
    }
}
