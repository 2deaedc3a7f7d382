//! What must hold at every moment, and when everything is calm again.
//!
//! At every moment: a service that is handed over break-before-make is never delivered at two
//! sites; the epoch that a name server answers with never goes back; a request has one verdict and
//! a task one effect; epochs that a site gives rise. When calm: every agent has every log, wants
//! and has what the core makes of all entries read in any order, any number of times, and no task
//! hangs.

use std::collections::{BTreeMap, BTreeSet};

use nett_agent::bus::wire::Sealed;
use nett_agent::controller::chosen_between;
use nett_policy::id::{EntryId, Epoch, NodeId, ServiceId, SiteId};
use nett_policy::log::entry::{Body, Subject};
use nett_policy::log::fold::Fold;
use nett_policy::log::intent::Intent;
use nett_policy::lower::answers::Answers;
use nett_policy::lower::object::NodeState;
use nett_policy::lower::{Neighbours, Place, lower};
use nett_policy::place::{Reason, place};
use nett_policy::service::{Catalog, Handover};
use nett_policy::task::view::{TaskState, last_effect, state};
use nett_policy::traffic::Spread;

use crate::forged::Letters;
use crate::world::World;

/// What was seen so far, and the first thing that was wrong.
pub(crate) struct Watch {
    /// Services of which one site at a time may deliver.
    single: BTreeSet<ServiceId>,
    delivering: BTreeMap<NodeId, BTreeSet<ServiceId>>,
    epochs: BTreeMap<(NodeId, ServiceId), Epoch>,
    verdicts: BTreeMap<EntryId, EntryId>,
    /// The highest epoch that each site has given to a command on each subject.
    given: BTreeMap<(SiteId, Subject), Epoch>,
    pub(crate) wrong: Option<String>,
    /// Tasks that ended, for the statistics of a run.
    pub(crate) ended: BTreeMap<&'static str, usize>,
    /// Commands that nodes took for themselves.
    pub(crate) taken_locally: usize,
    /// Records that journals forgot.
    pub(crate) forgotten: usize,
    /// Streams that were lost.
    pub(crate) streams_lost: usize,
    /// What became of forged mail.
    pub(crate) letters: Letters,
    /// Requests that nobody has made who may.
    pub(crate) forged: BTreeSet<EntryId>,
}

impl Watch {
    pub(crate) fn new(catalog: &Catalog) -> Self {
        // Leased ones are watched with their gate.
        let single =
            catalog.iter().filter(|s| s.handover == Handover::BreakBeforeMake && !s.is_leased());
        Self {
            single: single.map(|s| s.id.clone()).collect(),
            delivering: BTreeMap::new(),
            epochs: BTreeMap::new(),
            verdicts: BTreeMap::new(),
            given: BTreeMap::new(),
            wrong: None,
            ended: BTreeMap::new(),
            forgotten: 0,
            streams_lost: 0,
            letters: Letters::new(),
            forged: BTreeSet::new(),
            taken_locally: 0,
        }
    }

    pub(crate) fn complain(&mut self, wrong: String) {
        self.wrong.get_or_insert(wrong);
    }

    pub(crate) fn delivering(&mut self, node: &NodeId, services: BTreeSet<ServiceId>) {
        self.delivering.insert(node.clone(), services);
        for service in self.single.clone() {
            let nodes = self.delivering.iter().filter(|(_, all)| all.contains(&service));
            // A node's id begins with its site's.
            let site = |node: &NodeId| node.as_str().split('-').next().unwrap_or("").to_owned();
            let sites: BTreeSet<String> = nodes.map(|(node, _)| site(node)).collect();
            if sites.len() > 1 {
                self.complain(format!("{service} is delivered at {sites:?}"));
            }
        }
    }

    /// Whoever lost what it had read, at a server that lost it too, may begin anew.
    pub(crate) fn forget(&mut self, lost: &NodeId) {
        self.epochs.retain(|(node, _), _| node != lost);
    }

    pub(crate) fn served(&mut self, node: &NodeId, answers: &Answers) {
        for (service, answer) in answers {
            let key = (node.clone(), service.clone());
            let before = self.epochs.insert(key, answer.epoch);
            if let Some(before) = before.filter(|before| *before > answer.epoch) {
                let after = answer.epoch;
                self.complain(format!("{node}: {service} went from epoch {before} to {after}"));
            }
        }
    }

    /// A site that has decided about something decides again only above that.
    fn epochs_rise(&mut self, sealed: &Sealed) {
        let effect = match &sealed.entry.body {
            Body::Command(command) => command.effect.as_ref(),
            Body::Effective(fact) => Some(&fact.effect),
            _ => None,
        };
        for write in effect.into_iter().flat_map(|effect| &effect.writes) {
            let key = (sealed.entry.site.clone(), write.change.subject());
            let before = self.given.insert(key, write.epoch);
            if before.is_some_and(|before| before >= write.epoch) {
                self.complain(format!("{} gives epoch {} again", sealed.entry.id, write.epoch));
            }
        }
    }

    pub(crate) fn stored(&mut self, sealed: &Sealed) {
        self.epochs_rise(sealed);
        if let Some(request) = sealed.request().filter(|r| r.site != sealed.entry.site) {
            let (id, of) = (&sealed.entry.id, &request.site);
            self.complain(format!("nobody believes {id}: its request is for {of}"));
        }
        let request = match &sealed.entry.body {
            Body::Command(command) => &command.request.id,
            Body::Refused(refused) => &refused.request.id,
            Body::End(end) => {
                *self.ended.entry(end.outcome.as_str()).or_default() += 1;
                return;
            }
            Body::Wish(_)
            | Body::Effective(_)
            | Body::Step(_)
            | Body::Turn(_)
            | Body::Adopt(_)
            | Body::Withdrawn(_) => {
                return;
            }
        };
        if self.forged.contains(request) {
            self.complain(format!("{request} is forged, and in {}", sealed.entry.id));
        }
        // Only the site that a request names decides about it.
        if request.site() != sealed.entry.site {
            return;
        }
        let other = self.verdicts.insert(request.clone(), sealed.entry.id.clone());
        if let Some(other) = other {
            self.complain(format!("{request} was decided twice: {other}, {}", sealed.entry.id));
        }
    }
}

impl World {
    /// The first thing that is wrong is told where it happened.
    pub(crate) fn heed(&mut self) {
        if let Some(wrong) = self.watch.wrong.clone().filter(|_| !self.told) {
            self.told = true;
            self.note(format!("WRONG: {wrong}"));
        }
    }

    /// All entries of all logs.
    fn entries(&self) -> Vec<Sealed> {
        self.servers.values().flat_map(|s| s.log.iter().cloned()).collect()
    }

    /// The fold of everything, read in a drawn order with repeats.
    pub(crate) fn fold_of_all(&mut self) -> Fold {
        let mut entries = self.entries();
        let again: Vec<Sealed> = entries.iter().filter(|_| self.rng.bool()).cloned().collect();
        entries.extend(again);
        self.rng.shuffle(&mut entries);
        let mut fold = Fold::default();
        for sealed in &entries {
            fold.join(&sealed.entry);
        }
        fold
    }

    /// Every agent has read as much of each log as there was.
    pub(crate) fn check_read(&self, lengths: &BTreeMap<SiteId, usize>) -> Result<(), String> {
        for (node, agent) in &self.agents {
            for (site, length) in lengths {
                let held = agent.read.get(site).copied().unwrap_or(0);
                if held < *length {
                    return Err(format!("{node} has {held} of the {length} entries of {site}"));
                }
            }
        }
        Ok(())
    }

    /// The tasks that run and wait for nobody: not for an approval, and not for the end of a hold.
    /// One that waits to be confirmed undoes itself.
    pub(crate) fn busy(&mut self) -> Vec<String> {
        let fold = self.fold_of_all();
        let intent = Intent::read(&fold);
        let held = |id: &EntryId| {
            let moves = last_effect(&fold, id).into_iter().flat_map(|effect| &effect.moves);
            moves.map(|a_move| &a_move.service).any(|service| intent.is_held(service))
        };
        let tasks = fold.commands().map(|(id, _, _)| id.clone());
        let moves_on =
            |id: &EntryId| matches!(state(&fold, id), TaskState::Running | TaskState::Confirming);
        let tasks = tasks.filter(|id| moves_on(id) && !held(id)).map(|id| format!("task {id}"));
        // They wait until every site was heard, or has been silent for long enough.
        let of_nodes = self.agents.iter().filter(|(_, agent)| agent.controller.locals() > 0);
        tasks.chain(of_nodes.map(|(node, _)| format!("a command of {node} alone"))).collect()
    }

    /// Everybody wants and has what the core makes of all entries.
    pub(crate) fn check_settled(&mut self) -> Result<(), String> {
        let fold = self.fold_of_all();
        let world = self.policy();
        let intent = Intent::read(&fold);
        let placement = place(world, &intent);
        for (service, placed) in &placement.services {
            // A task that failed, or is held, between break and make leaves nothing behind it.
            let leased = world.catalog.get(service).is_some_and(|s| s.is_leased());
            let settled = placed.reason != Reason::UnderWay && !leased;
            if settled && placed.traffic.spread == Spread::Nowhere {
                return Err(format!("{service} is served nowhere: {:?}", placed.reason));
            }
        }
        for (node, agent) in &self.agents {
            let links_up = agent.links_up(&self.links_down);
            let setting = &agent.setting;
            let (layout, at) = (&setting.layout, &setting.node);
            let mut placement = placement.clone();
            if let Some(lease) = agent.controller.lease() {
                lease.overlay(&mut placement);
            }
            let mut known = Neighbours::default();
            for other in chosen_between(&setting.fabric, at) {
                // Everybody has reported by now.
                let views = setting.fabric.links_of(&other.id).map(|view| view.link.id.clone());
                let up = views.filter(|link| !self.links_down.contains(link)).collect();
                known.entry(other.id.clone()).links = Some(up);
            }
            let neighbours = &known;
            let at = Place { world, layout, node: at, links_up: &links_up, neighbours };
            let due = lower(at, &placement);
            if agent.zone != due.answers {
                return Err(format!("{node} answers {:?} not {:?}", agent.zone, due.answers));
            }
            let due = NodeState { answers: BTreeMap::new(), ..due };
            let ops = nett_policy::plan::plan(&due, agent.kernel.state());
            if !ops.is_empty() {
                return Err(format!("{node} lacks\n{ops}"));
            }
        }
        Ok(())
    }

    /// How many entries each site wrote.
    pub(crate) fn lengths(&self) -> BTreeMap<SiteId, usize> {
        self.servers.iter().map(|(site, server)| (site.clone(), server.log.len())).collect()
    }
}
