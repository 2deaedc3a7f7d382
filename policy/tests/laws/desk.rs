//! One site's log and the agent that writes it: the shortest way from a wish to entries.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nett_policy::id::{EntryId, NodeId, Selector, SiteId, WallMs, Weight};
use nett_policy::log::conflict::Claims;
use nett_policy::log::entry::{
    Ask, Body, Command, Entry, FabricRef, Object, Person, Position, Refused, Request, Terms, Verb,
    Wish, WishKind,
};
use nett_policy::log::fold::Fold;
use nett_policy::log::intent::Intent;
use nett_policy::safety::{GATE, LAST_ELIGIBLE_SITE};
use nett_policy::task::acks::Course;
use nett_policy::task::decide::{Present, Sight, admit, judge, judge_wish, planned};
use nett_policy::task::next::{Ack, Next, Seen, next};
use nett_policy::task::view::adoption;
use nett_policy::task::view::{TaskState, is_open, state};
use proptest::prelude::*;

use super::ground::Ground;

/// A verb with its arguments as picks from whatever there is.
#[derive(Debug, Clone)]
pub(crate) enum Order {
    Failover { service: usize, to: usize },
    FailoverAll { to: usize },
    Failback { service: usize },
    Steer { service: usize, weights: (u32, u32) },
    DrainSite { site: usize, on: bool },
    DrainService { service: usize, site: usize, on: bool },
    DrainCluster { cluster: usize, on: bool },
    Revert { task: usize },
    Evacuate { site: usize, to: Option<usize> },
    Hold { service: usize, on: bool },
    Resolve { subject: usize },
}

/// How the nodes answer the open step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nodes {
    Done,
    Failing,
    Silent,
}

pub(crate) fn orders() -> impl Strategy<Value = Order> {
    let service = || 0..3usize;
    let site = || 0..2usize;
    prop_oneof![
        3 => (service(), site()).prop_map(|(service, to)| Order::Failover { service, to }),
        1 => site().prop_map(|to| Order::FailoverAll { to }),
        2 => service().prop_map(|service| Order::Failback { service }),
        3 => (service(), (0..=256u32, 0..=256u32))
            .prop_map(|(service, weights)| Order::Steer { service, weights }),
        2 => (site(), any::<bool>()).prop_map(|(site, on)| Order::DrainSite { site, on }),
        2 => (service(), site(), any::<bool>())
            .prop_map(|(service, site, on)| Order::DrainService { service, site, on }),
        2 => (0..2usize, any::<bool>())
            .prop_map(|(cluster, on)| Order::DrainCluster { cluster, on }),
        2 => (0..8usize).prop_map(|task| Order::Revert { task }),
        1 => (site(), prop::option::of(site()))
            .prop_map(|(site, to)| Order::Evacuate { site, to }),
        1 => (service(), any::<bool>()).prop_map(|(service, on)| Order::Hold { service, on }),
        2 => (0..4usize).prop_map(|subject| Order::Resolve { subject }),
    ]
}

struct View {
    intent: Intent,
    claims: Claims,
    sight: Sight,
}

/// The writer of one site's log, with what it has read of the others.
#[derive(Debug, Clone)]
pub(crate) struct Desk<'a> {
    ground: &'a Ground,
    site: SiteId,
    node: NodeId,
    pub(crate) fold: Fold,
    /// The own log.
    pub(crate) log: Vec<Entry>,
    asked: u64,
    now: WallMs,
}

impl<'a> Desk<'a> {
    pub(crate) fn new(ground: &'a Ground, pick: usize) -> Self {
        let site = ground.site(pick);
        let node = ground.fabric.nodes.iter().find(|n| n.site == site).expect("a site has nodes");
        let (fold, log) = (Fold::default(), Vec::new());
        let node = node.id.clone();
        Self { ground, site, node, fold, log, asked: 0, now: WallMs(1_000_000) }
    }

    pub(crate) fn intent(&self) -> Intent {
        Intent::read(&self.fold)
    }

    /// Takes in an entry of another site.
    pub(crate) fn read(&mut self, entry: &Entry) {
        self.fold.join(entry);
    }

    /// Judges a command and writes what was decided; `None` when the order names nothing.
    pub(crate) fn order(
        &mut self,
        operator: usize,
        order: &Order,
        supersede: bool,
    ) -> Option<Entry> {
        let verb = self.verb(order)?;
        let overrides = [GATE, LAST_ELIGIBLE_SITE, "keep-one"].map(str::to_owned);
        let overrides = BTreeSet::from(overrides);
        let asserted = match &verb {
            Verb::Evacuate { site, .. } => {
                let nodes = self.ground.fabric.nodes.iter().filter(|n| n.site == *site);
                nodes.map(|n| n.id.clone()).collect()
            }
            _ => BTreeSet::new(),
        };
        // Every other of them is soft, where it may be.
        let at_site = matches!(&verb, Verb::Drain { object: Object::ServiceAt(..) });
        let soft = at_site && self.asked.is_multiple_of(2);
        let terms = Terms { supersede, asserted, soft, ..Terms::default() };
        let ask = Ask::Command { verb, plan_hash: None, overrides, terms };
        let request = self.request(operator, ask);
        let view = self.view();
        let present = self.present(&view);
        let judged = admit(present, &request).and_then(|()| judge(present, &request));
        if let Ok(proposal) = &judged {
            let (world, before) = (present.world, present.intent);
            let (task, site, effect) = (&planned(), &self.site, &proposal.effect);
            let course = Course { world, before, task, site, effect };
            let Ask::Command { terms, .. } = &request.ask else { unreachable!("a command") };
            let in_full = course.with_nodes_in_full(&terms.asserted);
            assert_eq!(**effect, in_full, "a few services stand for all");
        }
        let body = match judged {
            Ok(proposal) => {
                let approvals_needed = proposal.approvals_needed;
                let effect = (approvals_needed == 0).then_some(proposal.effect);
                let (plan_hash, supersedes) = (proposal.plan_hash, proposal.supersedes);
                let bad_since = proposal.bad_since;
                Body::Command(Command {
                    request,
                    plan_hash,
                    approvals_needed,
                    supersedes,
                    bad_since,
                    effect,
                })
            }
            Err(refusal) => Body::Refused(Refused {
                request,
                refused_by: refusal.refused_by,
                message: refusal.message,
            }),
        };
        Some(self.write(body))
    }

    /// Approves or rejects a task that this site knows and that waits.
    pub(crate) fn wish(&mut self, operator: usize, pick: usize, approve: bool) -> Option<Entry> {
        let waits = |task: &&EntryId| state(&self.fold, task) == TaskState::WaitingApproval;
        let waiting: Vec<&EntryId> = self.fold.commands().map(|c| c.0).filter(waits).collect();
        let task = (*waiting.get(pick % waiting.len().max(1))?).clone();
        let (_, command) = self.fold.command(&task)?;
        let plan_hash = command.plan_hash.clone();
        let kind = if approve { WishKind::Approve { plan_hash } } else { WishKind::Reject };
        self.wish_of(operator, task, kind)
    }

    /// Cancels, pauses or resumes any task that this site knows.
    pub(crate) fn turn(&mut self, operator: usize, pick: usize, kind: WishKind) -> Option<Entry> {
        let open = |task: &&EntryId| is_open(&self.fold, task);
        let open: Vec<&EntryId> = self.fold.commands().map(|c| c.0).filter(open).collect();
        let task = (*open.get(pick % open.len().max(1))?).clone();
        self.wish_of(operator, task, kind)
    }

    fn wish_of(&mut self, operator: usize, task: EntryId, kind: WishKind) -> Option<Entry> {
        let request = self.request(operator, Ask::Wish { task: task.clone(), kind: kind.clone() });
        let view = self.view();
        let body = match judge_wish(self.present(&view), &request) {
            Ok(()) if matches!(kind, WishKind::Adopt { .. }) => {
                Body::Adopt(adoption(&self.fold, request, self.ground.fabric.rank(&self.site)))
            }
            Ok(()) => Body::Wish(Wish { request }),
            Err(refusal) => Body::Refused(Refused {
                request,
                refused_by: refusal.refused_by,
                message: refusal.message,
            }),
        };
        Some(self.write(body))
    }

    /// Writes the next fact of an own task, if one is due.
    pub(crate) fn advance(&mut self, nodes: Nodes) -> Option<Entry> {
        let view = self.view();
        let present = self.present(&view);
        let ack = |node: &NodeId, slot: &_| match nodes {
            Nodes::Done => Some(Ack { slot: Clone::clone(slot), ok: true, evidence: Vec::new() }),
            Nodes::Failing => {
                let evidence = vec![format!("{node} cannot")];
                Some(Ack { slot: Clone::clone(slot), ok: false, evidence })
            }
            Nodes::Silent => None,
        };
        // An hour is longer than any timeout and any stickiness of the fixture.
        let told = |_: &NodeId, _: &_| None;
        let since_last = Duration::from_secs(3600);
        let seen = Seen { ack: &ack, told: &told, heard: &|_| None, since_last, now: self.now };
        let own = self.fold.commands().filter(|(task, ..)| self.fold.home(task) == self.site);
        let due = own.map(|(task, ..)| next(present, task, &seen)).find_map(|next| match next {
            Next::Write(body) => Some(*body),
            Next::Wait(_) => None,
        });
        due.map(|body| self.write(body))
    }

    /// Everything that a decision here is made on. The other site is silent: what is read of it was
    /// read before.
    fn view(&self) -> View {
        let other = self.ground.fabric.other_sites(&self.site).map(|s| s.id.clone());
        let sight = Sight { now: self.now, silent: other.collect(), ..Sight::default() };
        View { intent: self.intent(), claims: Claims::of(&self.fold), sight }
    }

    fn present<'b>(&'b self, view: &'b View) -> Present<'b> {
        let View { intent, claims, sight } = view;
        let (world, home) = (self.ground.world(), &self.site);
        Present { world, fold: &self.fold, intent, claims, home, sight }
    }

    fn verb(&self, order: &Order) -> Option<Verb> {
        let service = |pick: &usize| {
            let ids: Vec<_> = self.ground.catalog.iter().map(|s| s.id.clone()).collect();
            ids[pick % ids.len()].clone()
        };
        let exact = |pick: &usize| -> Selector {
            service(pick).as_str().parse().expect("an id is a selector")
        };
        let drain = |object, on| match on {
            true => Verb::Drain { object },
            false => Verb::Undrain { object },
        };
        Some(match order {
            Order::Failover { service, to } => {
                Verb::Failover { services: exact(service), to: self.ground.site(*to) }
            }
            Order::FailoverAll { to } => {
                let services = "*".parse().expect("a selector");
                Verb::Failover { services, to: self.ground.site(*to) }
            }
            Order::Failback { service } => Verb::Failback { services: exact(service) },
            Order::Steer { service, weights } => {
                let shares = [(0, weights.0), (1, weights.1)];
                let weight = |(site, w)| Some((self.ground.site(site), Weight::new(w).ok()?));
                let to: BTreeMap<_, _> = shares.into_iter().filter_map(weight).collect();
                if to.is_empty() {
                    return None;
                }
                Verb::Steer { services: exact(service), to }
            }
            Order::DrainSite { site, on } => drain(Object::Site(self.ground.site(*site)), *on),
            Order::DrainService { service: pick, site, on } => {
                drain(Object::ServiceAt(service(pick), self.ground.site(*site)), *on)
            }
            Order::DrainCluster { cluster, on } => {
                drain(Object::Cluster(Ground::cluster(*cluster)), *on)
            }
            Order::Evacuate { site, to } => {
                let to = to.map(|to| self.ground.site(to));
                Verb::Evacuate { site: self.ground.site(*site), to }
            }
            Order::Hold { service: pick, on: true } => Verb::Hold { services: exact(pick) },
            Order::Hold { service: pick, on: false } => Verb::Release { services: exact(pick) },
            Order::Resolve { subject } => {
                let conflicts = Claims::of(&self.fold).conflicts();
                let one = conflicts.get(subject % conflicts.len().max(1))?;
                Verb::Resolve { subject: one.subject.clone(), to: None }
            }
            Order::Revert { task } => {
                let tasks: Vec<&EntryId> = self.fold.commands().map(|c| c.0).collect();
                Verb::Revert { task: (*tasks.get(task % tasks.len().max(1))?).clone() }
            }
        })
    }

    fn request(&mut self, operator: usize, ask: Ask) -> Request {
        self.asked += 1;
        let operators = &self.ground.fabric.operators;
        let operator = &operators[operator % operators.len()];
        let id = format!("{}.r{:025}", self.site, self.asked);
        Request {
            id: id.parse().expect("an entry id"),
            site: self.site.clone(),
            person: Person { name: operator.name.clone(), key: operator.key.clone() },
            reason: "a law".to_owned(),
            issued_at: self.now,
            expires_at: WallMs(self.now.0 + 30_000),
            ask,
        }
    }

    fn write(&mut self, body: Body) -> Entry {
        let seq = u64::try_from(self.log.len()).expect("a short log") + 1;
        let hash = |seq: u64| format!("{}-{seq}", self.site);
        let entry = Entry {
            id: format!("{}.{seq:026}", self.site).parse().expect("an entry id"),
            site: self.site.clone(),
            node: self.node.clone(),
            position: Position {
                boot: "first".to_owned(),
                seq,
                prev_hash: if seq == 1 { String::new() } else { hash(seq - 1) },
                hash: hash(seq),
            },
            fabric: FabricRef {
                generation: self.ground.fabric.generation,
                hash: self.ground.fabric.hash.clone(),
            },
            at: self.now,
            body,
        };
        self.now.0 += 1000;
        self.fold.join(&entry);
        self.log.push(entry.clone());
        entry
    }
}
