//! One simulated node: a controller, a journal that keeps what was synced, a kernel that loses what
//! Linux loses, and clocks of its own. Killing it loses the controller and nothing else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use futures::executor::block_on;
use nett_agent::bus::wire::Sealed;
use nett_agent::controller::event::{Event, Pulse};
use nett_agent::controller::{Controller, Pace, Setting, chosen_between};
use nett_agent::journal::Saved;
use nett_agent::kernel::{Kernel, SimulatedKernel};
use nett_policy::id::{LinkId, NodeId, ServiceId, SiteId};
use nett_policy::lower::LinksUp;
use nett_policy::lower::answers::Answers;
use nett_policy::lower::object::Nexthop;
use nett_policy::lower::object::{GuardElement, NexthopId, NodeState, RouteTarget};
use nett_policy::lower::resilient::left_over;
use nett_policy::plan::plan;
use nett_policy::service::Catalog;
use nkeys::KeyPair;

use crate::lease::LeaseHost;
use crate::streams::Reader;

pub(crate) struct Agent {
    pub(crate) setting: Setting,
    pub(crate) key: KeyPair,
    pub(crate) controller: Controller,
    pub(crate) alive: bool,
    /// Raised by every start, so that what was meant for an earlier one finds nobody.
    pub(crate) life: u64,
    /// Dies before the effect of this number, counted from now.
    pub(crate) dies_in: Option<usize>,
    pub(crate) journal: Vec<(Sealed, u64)>,
    /// What it took for itself alone.
    pub(crate) own_log: Vec<Sealed>,
    /// The checkpoint before it.
    pub(crate) saved: Saved,
    /// How often the journal is made smaller, where not as usual.
    pub(crate) pace: Option<Pace>,
    /// What a broken disk did not take.
    pub(crate) unsaved: VecDeque<(Sealed, u64)>,
    pub(crate) disk_works: bool,
    /// The journal says that the one before it died with something unsaved.
    pub(crate) lacks: bool,
    pub(crate) kernel: SimulatedKernel,
    /// The last state that the controller wanted, with its generation.
    pub(crate) wanted: Option<(u64, NodeState)>,
    /// Whether it has buckets looked at.
    pub(crate) looks: bool,
    /// True while a visit of the kernel is on its way.
    pub(crate) applying: bool,
    /// True while a look at what is counted is on its way.
    pub(crate) watching: bool,
    pub(crate) zone: Answers,
    pub(crate) serial: u32,
    /// Milliseconds that its wall clock is ahead.
    pub(crate) skew: i64,
    /// Per site, how many entries of its stream were handed on in this life.
    pub(crate) read: BTreeMap<SiteId, usize>,
    pub(crate) caught_up: BTreeSet<SiteId>,
    pub(crate) reader: Reader,
    pub(crate) connected: bool,
    /// When its timer is to go off.
    pub(crate) timer: Option<Duration>,
    pub(crate) lease: LeaseHost,
}

/// How a visit to the kernel ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Visit {
    /// Everything is as wanted, after so many operations.
    Done(usize),
    /// Some operations were carried out; more are to come.
    Halfway,
    Failed(Vec<String>),
}

impl Agent {
    pub(crate) fn new(setting: Setting, key: KeyPair) -> Self {
        let views = setting.fabric.links_of(&setting.node.id);
        let mut interfaces: Vec<String> = views.map(|v| v.near.interface.clone()).collect();
        interfaces.push(setting.node.core.clone());
        interfaces.extend(setting.node.outer.clone());
        let names: Vec<&str> = interfaces.iter().map(String::as_str).collect();
        Self {
            controller: Controller::new(setting.clone()),
            kernel: SimulatedKernel::new(&names),
            setting,
            key,
            alive: false,
            life: 0,
            dies_in: None,
            journal: Vec::new(),
            own_log: Vec::new(),
            saved: Saved::default(),
            pace: None,
            unsaved: VecDeque::new(),
            disk_works: true,
            lacks: false,
            wanted: None,
            applying: false,
            looks: false,
            watching: false,
            zone: Answers::new(),
            serial: 0,
            skew: 0,
            read: BTreeMap::new(),
            caught_up: BTreeSet::new(),
            reader: Reader::default(),
            connected: false,
            timer: None,
            lease: LeaseHost::default(),
        }
    }

    pub(crate) fn site(&self) -> &SiteId {
        &self.setting.node.site
    }

    /// Carries out at most `most` operations of the way to the wanted state.
    pub(crate) fn visit_kernel(&mut self, most: usize) -> Visit {
        let Some((_, wanted)) = &self.wanted else { return Visit::Done(0) };
        let wanted = NodeState { answers: BTreeMap::new(), ..wanted.clone() };
        let ops = plan(&wanted, self.kernel.state()).ops;
        let mut failures = Vec::new();
        for op in ops.iter().take(most) {
            if let Err(error) = block_on(self.kernel.apply(op)) {
                failures.push(error.to_string());
            }
        }
        match () {
            () if !failures.is_empty() => Visit::Failed(failures),
            () if ops.len() > most => Visit::Halfway,
            () => Visit::Done(ops.len()),
        }
    }

    /// Whether anything is to be looked at that is counted, or buckets that should lead nowhere.
    pub(crate) fn watches(&self) -> bool {
        let counts = self.kernel.state().guard.iter().any(|g| g.counted().next().is_some());
        counts || !self.left_over().is_empty()
    }

    /// The groups to look at.
    fn left_over(&self) -> BTreeSet<NexthopId> {
        match self.looks {
            true => left_over(self.kernel.state()).into_keys().collect(),
            false => BTreeSet::new(),
        }
    }

    /// Packets pass, of which some are for what is left, and what was counted is read, and where
    /// buckets lead.
    pub(crate) fn watch(&mut self, packets: impl Fn(GuardElement) -> u64) -> Vec<Event> {
        let guard = self.kernel.state().guard.as_ref();
        let elements: BTreeSet<GuardElement> =
            guard.into_iter().flat_map(|guard| guard.counted().copied()).collect();
        for element in &elements {
            self.kernel.pass(*element, packets(*element));
        }
        let mut events = Vec::new();
        if !elements.is_empty() {
            let packets = block_on(self.kernel.watched(&elements)).expect("it does not fail");
            events.push(Event::Watched { packets });
        }
        let groups = self.left_over();
        if !groups.is_empty() {
            let filled = block_on(self.kernel.buckets(&groups)).expect("it does not fail");
            events.push(Event::Buckets { filled });
        }
        events
    }

    /// Flows use every backend, or none.
    pub(crate) fn use_backends(&mut self, used: bool) {
        let groups = self.kernel.state().nexthops.values().filter_map(|nexthop| match nexthop {
            Nexthop::Group { members, buckets: Some(_), .. } => Some(members.keys().copied()),
            _ => None,
        });
        let members: BTreeSet<NexthopId> = groups.flatten().collect();
        members.into_iter().for_each(|member| self.kernel.use_buckets(member, used));
    }

    /// The services whose packets this node's kernel hands to a backend of its own site, or to a
    /// route node that does.
    pub(crate) fn delivers(&self, catalog: &Catalog) -> BTreeSet<ServiceId> {
        let state = self.kernel.state();
        let layout = &self.setting.layout;
        let accepts = |service: &&nett_policy::service::Service| {
            let of_vips = state.routes.iter().filter(|(key, _)| {
                key.table == layout.table_in
                    && service.vips.iter().any(|vip| key.destination.addr() == *vip)
            });
            let mut targets = of_vips.map(|(_, target)| target);
            targets.any(|target| matches!(target, RouteTarget::Nexthop(id) if leads(state, *id)))
        };
        catalog.iter().filter(accepts).map(|s| s.id.clone()).collect()
    }

    /// All nodes of the site are there, as far as anybody sees.
    pub(crate) fn pulses(&self) -> BTreeMap<NodeId, Pulse> {
        let others = chosen_between(&self.setting.fabric, &self.setting.node);
        others.into_iter().map(|node| (node.id.clone(), Pulse::default())).collect()
    }

    pub(crate) fn links_up(&self, down: &BTreeSet<LinkId>) -> LinksUp {
        let views = self.setting.fabric.links_of(&self.setting.node.id);
        views.map(|v| v.link.id.clone()).filter(|id| !down.contains(id)).collect()
    }
}

fn leads(state: &NodeState, id: NexthopId) -> bool {
    match state.nexthops.get(&id) {
        Some(Nexthop::Group { members, .. }) => members.keys().any(|id| leads(state, *id)),
        Some(Nexthop::Single { .. }) => true,
        Some(Nexthop::Blackhole { .. }) | None => false,
    }
}
