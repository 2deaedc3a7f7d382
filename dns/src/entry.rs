//! One service of a snapshot: its bytes for questions, and what they were made of.

use std::sync::Arc;
use std::time::Duration;

use nett_policy::fabric::Family;
use nett_policy::lower::answers::ServiceAnswers;

use crate::name::{LowerName, NameError};
use crate::packed::{Packed, Records, pack};
use crate::steer::Plan;
use crate::topology::{SiteIndex, Topology};

/// A service in a table. What is not asked for is not touched: `details` lie elsewhere.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    packed: Packed<'a>,
    details: &'a Option<Arc<Details>>,
}

/// What the bytes were made of: for the choice among sites, for the full path and for people.
#[derive(Debug)]
pub(crate) struct Details {
    answers: Arc<ServiceAnswers>,
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
    /// Prepares one service, and appends the bytes for questions.
    pub(crate) fn prepare(
        answers: &Arc<ServiceAnswers>,
        topology: &Topology,
        bytes: &mut Vec<u8>,
    ) -> Result<Arc<Self>, NameError> {
        let name = LowerName::of_service(&answers.service)?;
        let key = name.labels();
        let plan = Plan::new(answers, topology);
        let ttls = Ttls::of(answers);
        pack(bytes, key, &plan, (answers, ttls.steered), topology);
        Ok(Arc::new(Self { answers: Arc::clone(answers), plan, ttls }))
    }
}

impl Details {
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
        let ServiceAnswers { ttl, lowered, .. } = answers;
        Self {
            steered: seconds(ttl.now(*lowered)),
            lasting: seconds(ttl.ceiling),
            told: seconds(ttl.floor),
        }
    }
}

// === impl Entry ===

impl<'a> Entry<'a> {
    pub(crate) fn new(packed: Packed<'a>, details: &'a Option<Arc<Details>>) -> Self {
        Self { packed, details }
    }

    /// The labels of the service's name below the apex, in wire form without a root label.
    pub(crate) fn key(self) -> &'a [u8] {
        self.packed.key()
    }

    /// What it was made of; snapshots share it.
    pub(crate) fn details(self) -> &'a Arc<Details> {
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
        self.answers().sites.len()
    }

    /// The column that every client gets, if it is prepared and there is one.
    pub(crate) fn only(self) -> Option<usize> {
        self.packed.only()
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
