//! A service: what moves between sites, and under which rules.

mod answers;
mod class;
mod party;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

pub use answers::{FixedAnswers, SiteAddresses};
pub(crate) use class::backends;
pub use party::{Party, When};

use crate::fabric::{Family, TtlBounds};
use crate::id::{ClusterId, ServiceId, SiteId, Weight};
use crate::traffic::Spread;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    pub id: ServiceId,
    pub category: Category,
    pub mode: Mode,
    pub vips: Vec<IpAddr>,
    /// Next hops inside each site that own the VIPs there.
    /// In a catalogue, services with the same share one copy: it is a large part of what a
    /// service takes in memory.
    pub backends: Arc<BTreeMap<SiteId, Vec<Backend>>>,
    /// What DNS answers for a site instead of the VIPs.
    pub addresses: BTreeMap<SiteId, Vec<IpAddr>>,
    pub handover: Handover,
    pub isolation: Isolation,
    /// Paths that pass no gate of Nett's are fenced by somebody else (`fence = "external"`).
    pub fenced_outside: bool,
    pub trigger: Trigger,
    /// 0 to 2.
    pub approvals: u8,
    /// Regions outside which traffic is never placed; anywhere when empty.
    pub residency: Vec<String>,
    /// Shares of the new site in percent, each held for `ramp_dwell`; one step of 100 when empty.
    pub ramp: Vec<u8>,
    pub ramp_dwell: Duration,
    /// What becomes of flows when shares change.
    pub shift: Shift,
    /// How long the old site goes on accepting what is still on its way to it.
    pub sticky: Duration,
    pub prefer: Prefer,
    pub all_down: AllDown,
    pub ttl: Ttl,
    pub ports: Vec<Port>,
    pub health: Option<Health>,
    pub hold_down: Duration,
    /// When a site that it leaves counts as drained; `None` where nobody asks.
    pub drain: Option<Drain>,
    /// Gates named for `failover` and `failback`.
    pub gates: BTreeMap<String, Vec<String>>,
    /// Who outside takes part in its moves.
    pub external: Vec<Party>,
    /// How much of a site's capacity it takes where it is served alone; 0 is not known.
    pub load: u32,
    /// For how long it may be without service when it is moved.
    pub rto: Option<Duration>,
    /// How much of its newest data, as a time, may be lost when it is moved.
    pub rpo: Option<Duration>,
}

/// How important a service is. The order is the order in which sites are evacuated backwards:
/// C first, A last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Category {
    A,
    B,
    C,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    ActivePassive { primary: SiteId, standby: Vec<Standby> },
    ActiveActive { active: Vec<SiteId>, readmit: Readmit },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standby {
    pub site: SiteId,
    pub min_healthy: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readmit {
    Manual,
    Auto,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Backend {
    pub address: IpAddr,
    pub cluster: Option<ClusterId>,
    pub weight: Weight,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Handover {
    MakeBeforeBreak,
    BreakBeforeMake,
}

/// What a site that is cut off from the others does with the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Goes on serving for ever.
    Static,
    /// Serves while a majority of voters counts, see [`crate::lease`].
    Lease,
    /// As `Lease`, and never starts without confirmed withdrawals or somebody's word for them.
    Exclusive,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    Manual,
    Approve,
    Auto,
}

/// How long answers may be kept, in whole seconds from 1 s to one day (RFC 2181 section 8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ttl {
    /// While nothing is to change.
    pub ceiling: Duration,
    /// While a task about the service is open; the ceiling where it is never lowered.
    pub floor: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Prefer {
    Nearest,
    Local,
    Primary,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AllDown {
    LastOrder,
    Refuse,
    Fallback(IpAddr),
}

/// A TCP port that the service listens on, and its registered name (RFC 6335 section 5.1).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Port {
    pub name: String,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    pub tcp: Option<u16>,
    pub interval: Duration,
    pub fall: u32,
    pub rise: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    /// Packets per second, in each direction, below which a site counts as drained.
    pub pps: u32,
    /// For how long it must have been below that.
    pub dwell: Duration,
}

impl Drain {
    /// Where nobody says otherwise.
    pub const USUAL: Self = Self { pps: 1, dwell: Duration::from_secs(10) };
}

/// What becomes of the flows that are there when the shares of sites change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Shift {
    /// They move as the kernel's hash falls out.
    #[default]
    Plain,
    /// They stay where they are while they are used.
    Resilient(Resilient),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resilient {
    /// Without a packet for so long a flow may move. 1 s to 1 h.
    pub idle: Duration,
    /// At most so many parts can be told apart. 8 to 1024.
    pub buckets: u16,
    /// After so long flows move although they are used; `None` is never.
    pub force: Option<Duration>,
}

impl Resilient {
    /// Where nobody says otherwise.
    pub const USUAL: Self = Self { idle: Duration::from_secs(60), buckets: 128, force: None };
}

/// All services of a fabric, by id. A service's *index* is its place in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalog {
    services: BTreeMap<ServiceId, Listed>,
    leased: Vec<ServiceId>,
    /// In order; services have places in it.
    classes: Vec<String>,
    /// Each of those that services have, once.
    backends: Vec<Arc<BTreeMap<SiteId, Vec<Backend>>>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Listed {
    service: Service,
    answers: Arc<FixedAnswers>,
    class: usize,
}

// === impl Service ===

impl Service {
    /// The sites that may serve, in failover order.
    pub fn sites(&self) -> Vec<SiteId> {
        match &self.mode {
            Mode::ActivePassive { primary, standby } => {
                std::iter::once(primary).chain(standby.iter().map(|s| &s.site)).cloned().collect()
            }
            Mode::ActiveActive { active, readmit: _ } => active.clone(),
        }
    }

    pub fn primary(&self) -> Option<&SiteId> {
        match &self.mode {
            Mode::ActivePassive { primary, .. } => Some(primary),
            Mode::ActiveActive { .. } => None,
        }
    }

    /// True where only a claim with a majority of votes may serve.
    pub fn is_leased(&self) -> bool {
        self.isolation != Isolation::Static
    }

    /// How flows are kept where they are, if they are.
    pub fn resilient(&self) -> Option<Resilient> {
        match self.shift {
            Shift::Plain => None,
            Shift::Resilient(settings) => Some(settings),
        }
    }

    pub fn is_active_active(&self) -> bool {
        matches!(self.mode, Mode::ActiveActive { .. })
    }

    pub fn vips(&self, family: Family) -> impl Iterator<Item = IpAddr> + '_ {
        self.vips.iter().copied().filter(move |a| Family::of(*a) == family)
    }

    pub fn backends(&self, site: &SiteId, family: Family) -> impl Iterator<Item = &Backend> {
        let at_site = self.backends.get(site).map(Vec::as_slice).unwrap_or_default();
        at_site.iter().filter(move |b| Family::of(b.address) == family)
    }

    /// What DNS answers for `site`: per family its addresses, else the VIPs of that family.
    pub fn answers(&self, site: &SiteId, family: Family) -> impl Iterator<Item = IpAddr> + '_ {
        let own = self.addresses.get(site).map(Vec::as_slice).unwrap_or_default();
        let has_own = own.iter().any(|a| Family::of(*a) == family);
        let all = if has_own { own } else { self.vips.as_slice() };
        all.iter().copied().filter(move |a| Family::of(*a) == family)
    }

    /// Whether some client gets other addresses from DNS when who is answered changes so.
    pub fn answers_change(&self, from: &Spread, to: &Spread) -> bool {
        let all = |site: &SiteId| -> BTreeSet<IpAddr> {
            Family::BOTH.into_iter().flat_map(|family| self.answers(site, family)).collect()
        };
        let told = |spread: &Spread| -> BTreeSet<BTreeSet<IpAddr>> {
            match (spread, self.all_down) {
                (Spread::Nowhere, AllDown::Refuse) => BTreeSet::new(),
                (Spread::Nowhere, AllDown::Fallback(address)) => {
                    BTreeSet::from([BTreeSet::from([address])])
                }
                (Spread::Nowhere, AllDown::LastOrder) => {
                    self.sites().first().map(all).into_iter().collect()
                }
                (spread, _) => spread.sites().iter().map(all).collect(),
            }
        };
        // Between sites that answer the same it does not matter who is sent to which.
        let (before, after) = (told(from), told(to));
        from != to && (before != after || before.len() > 1)
    }
}

// === impl Ttl ===

impl Ttl {
    /// The same at all times.
    pub fn fixed(ttl: Duration) -> Self {
        Self { ceiling: ttl, floor: ttl }
    }

    /// The same within the bounds of a zone.
    pub fn within(self, bounds: TtlBounds) -> Self {
        let hold = |ttl: Duration| ttl.clamp(bounds.floor, bounds.ceiling);
        Self { ceiling: hold(self.ceiling), floor: hold(self.floor) }
    }

    /// What answers carry now.
    pub fn now(self, lowered: bool) -> Duration {
        if lowered { self.floor } else { self.ceiling }
    }

    /// Whether it is lowered at all before something changes.
    pub fn is_lowered_for_moves(self) -> bool {
        self.floor < self.ceiling
    }
}

// === impl Isolation ===

impl Isolation {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Lease => "lease",
            Self::Exclusive => "exclusive",
        }
    }
}

/// The copy of `value` that was known first.
pub(crate) fn shared<T: Ord>(known: &mut BTreeSet<Arc<T>>, value: Arc<T>) -> Arc<T> {
    match known.get(&value) {
        Some(first) => first.clone(),
        None => {
            known.insert(value.clone());
            value
        }
    }
}

// === impl Mode ===

impl Mode {
    /// The same, with the names of its sites in memory once for all that were seen before.
    fn with_names_of(self, known: &mut BTreeSet<SiteId>) -> Self {
        let mut once = |site: SiteId| match known.get(&site) {
            Some(same) => same.clone(),
            None => {
                known.insert(site.clone());
                site
            }
        };
        match self {
            Self::ActivePassive { primary, standby } => Self::ActivePassive {
                primary: once(primary),
                standby: standby.into_iter().map(|s| Standby { site: once(s.site), ..s }).collect(),
            },
            Self::ActiveActive { active, readmit } => {
                Self::ActiveActive { active: active.into_iter().map(once).collect(), readmit }
            }
        }
    }
}

// === impl Catalog ===

impl Catalog {
    /// Later services of an id replace earlier ones; [`crate::document`] refuses repeats before.
    pub fn new(services: impl IntoIterator<Item = Service>) -> Self {
        let (mut known, mut sites) = (BTreeSet::new(), BTreeSet::new());
        let listed = |service: Service| {
            let backends = shared(&mut known, service.backends);
            let mode = service.mode.with_names_of(&mut sites);
            let service = Service { backends, mode, ..service };
            let answers = Arc::new(FixedAnswers::new(&service));
            (service.id.clone(), Listed { service, answers, class: 0 })
        };
        let mut services: BTreeMap<ServiceId, Listed> = services.into_iter().map(listed).collect();
        let leased = services.values().map(|l| &l.service).filter(|s| s.is_leased());
        let leased = leased.map(|service| service.id.clone()).collect();
        let mut classes: BTreeMap<String, Vec<&mut Listed>> = BTreeMap::new();
        for listed in services.values_mut() {
            classes.entry(class::name(&listed.service)).or_default().push(listed);
        }
        for (place, listed) in classes.values_mut().enumerate() {
            listed.iter_mut().for_each(|listed| listed.class = place);
        }
        let classes = classes.into_keys().collect();
        Self { services, leased, classes, backends: known.into_iter().collect() }
    }

    /// The names of all steering classes, in order.
    pub(crate) fn class_names(&self) -> &[String] {
        &self.classes
    }

    /// Services in the order of ids, with the place of their class in [`Catalog::class_names`].
    pub(crate) fn classed(&self) -> impl Iterator<Item = (&Service, usize)> {
        self.services.values().map(|listed| (&listed.service, listed.class))
    }

    /// All backends by site, each that services share once.
    pub(crate) fn backends(&self) -> impl Iterator<Item = &BTreeMap<SiteId, Vec<Backend>>> {
        self.backends.iter().map(|backends| &**backends)
    }

    pub fn get(&self, id: &ServiceId) -> Option<&Service> {
        self.services.get(id).map(|listed| &listed.service)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Service> {
        self.services.values().map(|listed| &listed.service)
    }

    /// What DNS says of each service wherever it is, in the order of ids.
    pub fn answers(&self) -> impl Iterator<Item = &Arc<FixedAnswers>> {
        self.services.values().map(|listed| &listed.answers)
    }

    /// Those that only a claim with a majority of votes may serve, in the order of ids. What is
    /// done again and again for them does not grow with the others.
    pub fn leased(&self) -> impl ExactSizeIterator<Item = &Service> {
        self.leased.iter().map(|id| &self.services[id].service)
    }

    /// Services with their index.
    pub fn indexed(&self) -> impl Iterator<Item = (u32, &Service)> {
        (0u32..).zip(self.iter())
    }

    pub fn len(&self) -> usize {
        self.services.len()
    }

    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }
}
