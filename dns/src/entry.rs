//! One service of a snapshot: its bytes for questions, and what they were made of.

use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use nett_policy::fabric::Family;
use nett_policy::id::{Epoch, SiteId};
use nett_policy::lower::answers::{ServiceAnswers, SiteAnswers, Standing};
use nett_policy::service::{AllDown, FixedAnswers, Prefer, Ttl};

use crate::packed::{Packed, Records};
use crate::steer::Plan;
use crate::topology::{SiteIndex, Topology};

/// A service in a table. What is not asked for is not touched: all but the bytes lies elsewhere.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    packed: Packed<'a>,
    only: u8,
    fixed: &'a Option<Arc<FixedAnswers>>,
    bearing: &'a Option<Bearing>,
}

/// The mark of a choice that depends on the client.
pub(crate) const DEPENDS: u8 = u8::MAX;

/// What the bytes were made of: for the choice among sites, for the full path and for people.
#[derive(Debug, Clone)]
pub(crate) struct Details {
    fixed: Arc<FixedAnswers>,
    bearing: Bearing,
}

/// Where a service is: all of it that a move changes.
#[derive(Debug, Clone)]
pub(crate) struct Bearing {
    pub(crate) epoch: Epoch,
    pub(crate) steering: Arc<Steering>,
}

/// What becomes of questions about all services of one shape that stand alike. Most moves are of
/// very many such services, so a table writes two words for each of them.
#[derive(Debug)]
pub(crate) struct Steering {
    standing: Arc<Standing>,
    plan: Plan,
    ttls: Ttls,
}

/// All that a steering is made of beside a standing. Services that share a steering have the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Shape {
    sites: Vec<SiteId>,
    prefer: Prefer,
    all_down: AllDown,
    ttl: Ttl,
}

/// The steerings made for one snapshot, each once.
#[derive(Debug, Default)]
pub(crate) struct Steerings {
    /// By the steering a service had before, and its new standing: its shape is not looked at. They
    /// are told by their places in memory, which nobody else gets while the table and the
    /// steering found here hold them.
    moved: HashMap<(usize, usize), Arc<Steering>, foldhash::fast::RandomState>,
    /// By shape and the place of the standing.
    made: HashMap<(Shape, usize), Arc<Steering>, foldhash::fast::RandomState>,
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

// === impl Steerings ===

impl Steerings {
    /// Of a service that the table does not have, or as another one.
    pub(crate) fn of(&mut self, answers: &ServiceAnswers, topology: &Topology) -> Arc<Steering> {
        let key = (Shape::of(&answers.fixed), Arc::as_ptr(&answers.standing).addr());
        let made = || Arc::new(Steering::new(answers, topology));
        Arc::clone(self.made.entry(key).or_insert_with(made))
    }

    /// Of a service that had `before`, in the table, with the same fixed answers.
    pub(crate) fn after(
        &mut self,
        before: &Arc<Steering>,
        answers: &ServiceAnswers,
        topology: &Topology,
    ) -> &Arc<Steering> {
        let key = (Arc::as_ptr(before).addr(), Arc::as_ptr(&answers.standing).addr());
        if !self.moved.contains_key(&key) {
            let steering = self.of(answers, topology);
            self.moved.insert(key, steering);
        }
        &self.moved[&key]
    }
}

impl Shape {
    fn of(fixed: &FixedAnswers) -> Self {
        let FixedAnswers { service: _, ttl, prefer, all_down, ports: _, sites } = fixed;
        let sites = sites.iter().map(|s| s.site.clone()).collect();
        Self { sites, prefer: *prefer, all_down: *all_down, ttl: *ttl }
    }
}

// === impl Steering ===

impl Steering {
    fn new(answers: &ServiceAnswers, topology: &Topology) -> Self {
        let (plan, ttls) = (Plan::new(answers, topology), Ttls::of(answers));
        Self { standing: Arc::clone(&answers.standing), plan, ttls }
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(crate) fn ttls(&self) -> Ttls {
        self.ttls
    }

    /// The column that all clients get, or [`DEPENDS`].
    pub(crate) fn only(&self) -> u8 {
        match &self.plan {
            Plan::One(position) => u8::try_from(*position).unwrap_or(DEPENDS),
            Plan::Shares(_) | Plan::Nearest { .. } | Plan::Nowhere(_) => DEPENDS,
        }
    }
}

// === impl Details ===

impl Details {
    pub(crate) fn fixed(&self) -> &FixedAnswers {
        &self.fixed
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.bearing.epoch
    }

    pub(crate) fn standing(&self) -> &Standing {
        &self.bearing.steering.standing
    }

    pub(crate) fn sites(&self) -> impl Iterator<Item = SiteAnswers<'_>> + Clone {
        self.bearing.steering.standing.sites(&self.fixed)
    }

    /// The site at this place of the failover order.
    pub(crate) fn site(&self, at: usize) -> Option<SiteAnswers<'_>> {
        self.fixed.sites.get(at).map(|fixed| self.bearing.steering.standing.told(fixed))
    }

    pub(crate) fn plan(&self) -> &Plan {
        self.bearing.steering.plan()
    }

    pub(crate) fn ttls(&self) -> Ttls {
        self.bearing.steering.ttls()
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
            steered: seconds(ttl.now(answers.standing.lowered)),
            lasting: seconds(ttl.ceiling),
            told: seconds(ttl.floor),
        }
    }
}

// === impl Entry ===

impl<'a> Entry<'a> {
    pub(crate) fn new(
        packed: Packed<'a>,
        only: u8,
        fixed: &'a Option<Arc<FixedAnswers>>,
        bearing: &'a Option<Bearing>,
    ) -> Self {
        Self { packed, only, fixed, bearing }
    }

    /// The labels of the service's name below the apex, in wire form without a root label.
    pub(crate) fn key(self) -> &'a [u8] {
        self.packed.key()
    }

    fn shared(self) -> &'a Arc<FixedAnswers> {
        self.fixed.as_ref().expect("a taken slot has a service")
    }

    fn bearing(self) -> &'a Bearing {
        self.bearing.as_ref().expect("a taken slot has a bearing")
    }

    /// What it was made of, which snapshots share.
    pub(crate) fn details(self) -> Details {
        Details { fixed: Arc::clone(self.shared()), bearing: self.bearing().clone() }
    }

    pub(crate) fn answers(self) -> ServiceAnswers {
        let Bearing { epoch, steering } = self.bearing();
        let standing = Arc::clone(&steering.standing);
        ServiceAnswers { fixed: Arc::clone(self.shared()), epoch: *epoch, standing }
    }

    pub(crate) fn fixed(self) -> &'a FixedAnswers {
        self.shared()
    }

    pub(crate) fn standing(self) -> &'a Standing {
        &self.bearing().steering.standing
    }

    pub(crate) fn epoch(self) -> Epoch {
        self.bearing().epoch
    }

    pub(crate) fn sites(self) -> impl Iterator<Item = SiteAnswers<'a>> + Clone {
        self.standing().sites(self.fixed())
    }

    /// The site at this place of the failover order.
    pub(crate) fn site(self, at: usize) -> Option<SiteAnswers<'a>> {
        self.fixed().sites.get(at).map(|fixed| self.standing().told(fixed))
    }

    pub(crate) fn plan(self) -> &'a Plan {
        self.bearing().steering.plan()
    }

    pub(crate) fn ttls(self) -> Ttls {
        self.bearing().steering.ttls()
    }

    /// The column of `AllDown::Fallback`, behind those of the sites.
    pub(crate) fn fallback(self) -> usize {
        self.fixed().sites.len()
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
