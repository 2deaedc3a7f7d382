//! The agent's one decision maker: an event in, effects out, nothing awaited.
//!
//! Only this type changes what the agent believes. It holds no socket, file, timer or random
//! number; the driver ([`driver`]) owns those, carries effects out in order and feeds results back
//! as events. After a crash everything here is rebuilt from the journal: an entry is journalled
//! before its first effect on kernel or zone, so a restart wants exactly what was wanted before.
//!
//! ```text
//!  bus, socket, kernel, probes, timers ──Event──> Controller::handle ──Effect──> driver
//!       reading   entries into the fold, intent, placement
//!       doing     desired state, acknowledgements
//!       neighbours  who of the site is there, with which links
//!       near      how far sites are from each other
//!       compacting  what of the logs may be forgotten
//!       prefaces  checkpoints in streams, written and read
//!       counting    what the guards count, and what must not be counted
//!       revoked     whose keys count
//!       deciding  requests and next facts, one append in flight
//!       view      answers to questions
//! ```

mod asker;
mod beside;
mod compacting;
mod cost;
mod counting;
mod deciding;
mod doing;
mod draining;
pub mod driver;
pub mod effect;
pub mod event;
mod external;
mod facts;
mod filling;
mod keeping;
mod lease;
mod leaving;
mod local;
mod lost;
mod near;
mod neighbours;
pub mod own_log;
mod pacing;
mod path_check;
mod prefaces;
mod reading;
mod refusals;
mod rescuing;
mod revoked;
mod saturation;
mod serving;
pub mod shelf;
mod view;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use nett_policy::fabric::{Fabric, Family, Limit, Node, SafetyRule};
use nett_policy::fact::Facts;
use nett_policy::id::{EntryId, LinkId, NodeId, ServiceId, SiteId, WallMs};
use nett_policy::log::checkpoint::Checkpoint;
use nett_policy::log::conflict::{Claims, Conflict};
use nett_policy::log::entry::FabricRef;
use nett_policy::log::fold::Fold;
use nett_policy::log::intent::{Intent, World};
use nett_policy::lower::object::{Layout, NodeState};
use nett_policy::lower::{LinksUp, beyond};
use nett_policy::place::Placement;
use nett_policy::safety::Flows;
use nett_policy::saturation::Saturated;
use nett_policy::service::Catalog;
use nett_policy::task::decide::{Present, Sight};
use nett_policy::task::times::Cost;

use crate::bus::intake::ledger::Record;
use crate::bus::wire::Report;
use crate::lease::Lease;
use compacting::Compacting;
pub use compacting::Pace;
use counting::Counted;
pub use counting::ZEROS;
use deciding::Deciding;
use doing::Doing;
use draining::Draining;
use effect::{AuditEvent, Effect};
use event::{Event, Now, Pulse, Token};
use external::Asking;
use local::Locals;
pub use local::{LOCAL, UNHEARD_TARGET};
use near::Near;
pub use neighbours::chosen_between;
use prefaces::Prefaces;
use reading::Reading;
pub use reading::{Prefix, prefix};
pub use view::snapshot::{SERVICE_SERIES, ServiceSnapshot, Snapshot};

/// What does not change while the agent runs.
#[derive(Debug, Clone)]
pub struct Setting {
    pub fabric: Arc<Fabric>,
    pub catalog: Arc<Catalog>,
    pub layout: Layout,
    pub node: Node,
}

#[derive(Debug)]
pub struct Controller {
    /// Its fabric is without the people whose keys were revoked.
    setting: Setting,
    /// The fabric as configured.
    configured: Arc<Fabric>,
    reading: Reading,
    fold: Fold,
    intent: Intent,
    claims: Claims,
    /// Split decisions that nobody has resolved.
    conflicts: Vec<Conflict>,
    /// Since `conflicts` was computed.
    claims_changed: bool,
    /// Tasks that have not ended.
    open: BTreeSet<EntryId>,
    placement: Placement,
    /// What is known beside the log, as of the event that is being handled.
    sight: Sight,
    /// What the last task that ended has cost each service, for a bounded number of them.
    costs: BTreeMap<ServiceId, Cost>,
    /// When the flows in `sight` were measured.
    measured: Option<Duration>,
    doing: Doing,
    deciding: Deciding,
    peers: Peers,
    /// `None` where nothing is leased.
    lease: Option<Lease>,
    /// What is seen of the other nodes of the site; `None` before they were asked.
    pulses: Option<BTreeMap<NodeId, Pulse>>,
    counts: Counted,
    draining: Draining,
    near: Near,
    /// Links of this node that are full.
    saturated: BTreeMap<LinkId, Saturated>,
    asking: Asking,
    locals: Locals,
    compacting: Compacting,
    prefaces: Prefaces,
    /// The checkpoint of the journal, until all that it kept is read.
    restored: Checkpoint,
    watchers: Vec<view::Watcher>,
    /// False until the journal is read: before that nothing is wanted of the kernel.
    started: bool,
    /// False while the journal is known to lack something: what is in the kernel stays.
    trusted: bool,
    effects: Vec<Effect>,
    /// The monotonic time of the event that is being handled.
    last_now: Duration,
    /// When the first event was handled.
    since: Option<Duration>,
    /// Somebody, or this node itself, sees its links otherwise than when they were last looked at.
    links_changed: bool,
}

/// What other nodes say about themselves, and what this one sees of them.
#[derive(Debug, Default)]
struct Peers {
    reports: BTreeMap<NodeId, Heard>,
    bus_connected: bool,
    /// Whether others are heard on the bus's second connection; `None` until that is known.
    hearing: Option<Result<(), String>>,
}

#[derive(Debug)]
struct Heard {
    report: Report,
    at: Duration,
    counts: Counted,
}

/// How often a node reports although nothing changed.
const REPORT_INTERVAL: Duration = Duration::from_secs(2);
/// How long a node may be silent before its site counts as out of contact.
const SILENCE: Duration = Duration::from_secs(10);

// === impl Controller ===

impl Controller {
    pub fn new(setting: Setting) -> Self {
        let Setting { fabric, catalog, layout: _, node } = &setting;
        let lease = Lease::new(fabric.clone(), catalog.clone(), node.clone());
        Self {
            lease,
            configured: setting.fabric.clone(),
            setting,
            reading: Reading::default(),
            fold: Fold::default(),
            intent: Intent::default(),
            claims: Claims::default(),
            conflicts: Vec::new(),
            claims_changed: false,
            open: BTreeSet::new(),
            sight: Sight::default(),
            costs: BTreeMap::new(),
            measured: None,
            placement: Placement::default(),
            doing: Doing::default(),
            deciding: Deciding::default(),
            peers: Peers::default(),
            pulses: None,
            counts: Counted::default(),
            draining: Draining::default(),
            near: Near::default(),
            saturated: BTreeMap::new(),
            asking: Asking::default(),
            locals: Locals::default(),
            compacting: Compacting::default(),
            prefaces: Prefaces::default(),
            restored: Checkpoint::default(),
            watchers: Vec::new(),
            started: false,
            trusted: false,
            effects: Vec::new(),
            last_now: Duration::ZERO,
            since: None,
            links_changed: true,
        }
    }

    /// Takes one event in and says what is to be done, in order.
    pub fn handle(&mut self, event: Event, now: Now) -> Vec<Effect> {
        self.last_now = now.mono;
        self.since.get_or_insert(now.mono);
        let Sight { flows, facts, mut down, .. } = std::mem::take(&mut self.sight);
        if std::mem::take(&mut self.links_changed) {
            down = self.links_down();
        }
        self.sight = Sight { flows, facts, down, ..self.look(now) };
        self.measure(now);
        if !self.is_no_news(&event) {
            self.deciding.pacing.news();
        }
        match event {
            Event::Checkpoint(saved) => self.begin_behind(saved),
            Event::Compacted { records } => self.compacted(records, now),
            Event::Replayed { sealed, stream_seq } => self.replay(sealed, stream_seq, now),
            Event::ReplayDone { trusted } => self.start(trusted, now),
            Event::Entries(entries) => self.read(entries, now),
            Event::Preface { preface, stream_seq } => self.preface(*preface, stream_seq, now),
            Event::Condensed { stored } => self.condensed(stored, now),
            Event::TakenIn { site, error } => self.taken_in(site, error),
            Event::BadEntry { site, stream_seq, error, blocks } => {
                self.bad_entry(site, stream_seq, &error, blocks);
            }
            Event::CaughtUp { site } => self.caught_up(site, now),
            Event::LogReplaced { site, read, found } => self.log_replaced(site, read, found),
            Event::Rewound { site } => self.rewound(&site),
            Event::LocalKept(Ok(sealed)) => self.local_kept(&sealed, now),
            Event::LocalKept(Err(why)) => self.local_not_kept(&why, now),
            Event::Restored => self.effects.push(Effect::ReadAgain),
            Event::Refilled { through, stream_seq, why } => {
                self.refilled(through, stream_seq, why, now);
            }
            Event::Report(report) => self.heard(report, now),
            Event::BusConnected => {
                self.peers.bus_connected = true;
                self.locals.connected(now.mono);
                if let Some(lease) = &mut self.lease {
                    lease.connected();
                }
            }
            Event::BusDisconnected => self.peers.bus_connected = false,
            Event::Hearing { result } => self.peers.hearing = Some(result),
            Event::Request { token, subject, bytes } => {
                self.request(token, (&subject, false), bytes, now)
            }
            Event::TurnedAway(Record { reason, message, count }) => {
                let event = AuditEvent::Unauthentic { reason, message, count };
                self.effects.push(Effect::Audit(event));
            }
            Event::Api { token, request } => self.answer(token, request, now),
            Event::Appended { sealed, stream_seq } => self.appended(sealed, stream_seq, now),
            Event::AppendFailed(failure) => self.append_failed(&failure, now),
            Event::Fact { subject, bytes } => self.fact_heard(&subject, &bytes, now),
            Event::Links { up } => self.links(up, now),
            Event::Paths { views, news } => self.paths(views, news),
            Event::RoundTrips { told } => self.near.own(told),
            Event::Saturation { links } => self.saturation(links),
            Event::Ordered { result } => self.ordered(result),
            Event::Neighbours { pulses } => self.pulses(pulses, now),
            Event::Counted { packets, bytes } => self.counted(packets, bytes, now),
            Event::Watched { packets } => self.watched(packets, now),
            Event::Buckets { filled } => self.buckets(&filled),
            Event::Applied(applied) => self.applied(applied, now),
            Event::Served { result } => self.served(result, now),
            Event::NameServer { trouble } => self.name_server(trouble),
            Event::Journal { trouble } => self.deciding.journal_trouble = trouble,
            Event::Probed { slot, ok, evidence } => self.probed(&slot, ok, evidence),
            Event::Timer => self.serve_again(now),
            Event::Lease(event) => self.lease_event(event, now),
        }
        self.lease_turn(now);
        if self.started {
            self.settle_locals(now);
            self.decide(now);
            self.ask_outside(now);
            self.compact(now);
            self.condense(now);
            self.near(now);
            self.report(now);
            self.answer_watchers(now);
        }
        std::mem::take(&mut self.effects)
    }

    /// When [`Event::Timer`] is wanted at the latest, if nothing else happens before.
    pub fn deadline(&self) -> Option<Duration> {
        let (report, serve) = (self.doing.report_due(), self.doing.serve_due());
        let lease = self.lease_deadline();
        let (watch, outside) = (self.watch_deadline(), self.asking.due());
        let deadlines = [self.deciding.deadline, report, serve, watch, lease, outside];
        deadlines.into_iter().flatten().min()
    }

    /// `None` where nothing is leased.
    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    pub fn setting(&self) -> &Setting {
        &self.setting
    }

    /// False while entries that this node once acted on may be missing.
    pub fn is_trusted(&self) -> bool {
        self.trusted
    }

    fn site(&self) -> &SiteId {
        &self.setting.node.site
    }

    fn world(&self) -> World<'_> {
        World { fabric: &self.setting.fabric, catalog: &self.setting.catalog }
    }

    fn present(&self) -> Present<'_> {
        Present {
            world: self.world(),
            fold: &self.fold,
            intent: &self.intent,
            claims: &self.claims,
            home: &self.setting.node.site,
            sight: &self.sight,
        }
    }

    /// What crosses between sites is looked at once a second, where a rule asks for it.
    fn measure(&mut self, now: Now) {
        let asked = |rule: &SafetyRule| matches!(rule.limit, Limit::LinkLoad { .. });
        let due = self.measured.is_none_or(|at| now.mono >= at + Duration::from_secs(1));
        if due && self.setting.fabric.safety.iter().any(asked) {
            self.measured = Some(now.mono);
            self.sight.flows = self.flows(&self.sight.away);
        }
    }

    fn look(&self, now: Now) -> Sight {
        let own = self.fabric_ref();
        let age = |heard: &Heard| now.mono.saturating_sub(heard.at);
        let fresh = |heard: &&Heard| age(heard) <= SILENCE;
        let heard = || self.peers.reports.values();
        let other = |heard: &&Heard| heard.report.fabric != own;
        let sites = heard().filter(fresh).map(|h| &h.report.site);
        let alive: BTreeSet<&SiteId> = sites.collect();
        // Who has just started has heard nobody yet.
        let long = self.since.is_some_and(|since| now.mono > since + SILENCE);
        let silent = self.setting.fabric.other_sites(self.site()).map(|s| &s.id);
        let silent = silent.filter(|site| long && !alive.contains(site));
        let silent: BTreeSet<SiteId> = silent.cloned().collect();
        let wall = |ago: Duration| {
            WallMs(now.wall.0.saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)))
        };
        let last =
            |site: &SiteId| heard().filter(|h| h.report.site == *site).map(age).min().map(wall);
        let away = if long { self.away(now) } else { BTreeSet::new() };
        Sight {
            now: now.wall,
            age: heard().map(age).max().unwrap_or_default(),
            mismatched: heard()
                .filter(fresh)
                .filter(other)
                .map(|h| h.report.node.clone())
                .collect(),
            last_heard: silent.iter().filter_map(|s| Some((s.clone(), last(s)?))).collect(),
            silent,
            voters: self.voters_heard(now.mono),
            counted: self.lease.as_ref().map(Lease::counts_by),
            bound: self.bound(now.mono),
            away,
            down: BTreeSet::new(),
            flows: Flows::default(),
            facts: Facts::default(),
        }
    }

    /// The fabric that this agent judges by, as entries and reports name it.
    pub fn fabric_ref(&self) -> FabricRef {
        let fabric = &self.setting.fabric;
        FabricRef { generation: fabric.generation, hash: fabric.hash.clone() }
    }

    fn heard(&mut self, report: Report, now: Now) {
        let known = self.peers.reports.get(&report.node).map(|heard| &heard.report);
        if report.node == self.setting.node.id || known == Some(&report) {
            // Delivered again after a reconnect: no sign of life.
            return;
        }
        // The first one may have been stored long ago.
        let age = match known {
            Some(_) => Duration::ZERO,
            None => Duration::from_millis(now.wall.0.saturating_sub(report.at.0)),
        };
        let at = now.mono.saturating_sub(age);
        self.links_changed |= known.is_none_or(|known| known.links != report.links);
        let Setting { fabric, node, .. } = &self.setting;
        let near = report.site == node.site
            || beyond(fabric, &node.site).any(|border| border.id == report.node);
        let moved = near
            && known
                .is_none_or(|known| known.links != report.links || known.doubted != report.doubted);
        let heard = self.peers.reports.get(&report.node);
        let mut counts = heard.map(|heard| heard.counts.clone()).unwrap_or_default();
        counts.take(report.counters.clone(), report.bytes.clone(), at);
        self.near.take(&report, age, at);
        self.peers.reports.insert(report.node.clone(), Heard { report, at, counts });
        if moved && self.started {
            self.lower(now);
        }
    }

    /// The links a node last said it can use: all of them when it has never said anything.
    fn links_of(&self, node: &NodeId) -> LinksUp {
        if *node == self.setting.node.id {
            return self.doing.links_up().clone();
        }
        let Some(heard) = self.peers.reports.get(node) else {
            return nett_policy::lower::all_links(self.world());
        };
        let up = heard.report.links.iter().filter(|(_, up)| **up);
        let mut links: LinksUp = up.map(|(link, _)| link.clone()).collect();
        let carries = |link: &_| heard.report.links.get(link) == Some(&true);
        for link in heard.report.doubted.iter().filter(|link| !carries(link)) {
            Family::BOTH.iter().for_each(|family| links.doubt(link.clone(), *family));
        }
        links
    }
}

/// The tasks a node has a part in, by the id of the command.
type ByTask<T> = BTreeMap<EntryId, T>;

/// Waiting in order of arrival.
type Queue<T> = VecDeque<T>;

/// A node's desired state with the number that names it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Wanted {
    generation: u64,
    state: NodeState,
}
