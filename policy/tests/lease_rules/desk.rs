//! Tasks about leased services: three sites with a voter each, a log that takes commands as an
//! agent of osl does, and one service of each isolation.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use nett_policy::document::{SourceFile, compile};
use nett_policy::fabric::{Fabric, Node, Site};
use nett_policy::id::{EntryId, NodeId, ServiceId, SiteId, WallMs};
use nett_policy::lease::placings::{Placing, Placings};
use nett_policy::log::conflict::Claims;
use nett_policy::log::entry::{
    Ask, Body, Command, Entry, FabricRef, Person, Position, Request, Terms, Verb, Wish, WishKind,
};
use nett_policy::log::fold::Fold;
use nett_policy::log::intent::{Intent, World};
use nett_policy::place::{Placed, place_one};
use nett_policy::service::{Catalog, Handover, Isolation, Mode, Service, Standby};
use nett_policy::task::decide::{Present, Proposal, Refusal, Sight, judge};
use nett_policy::task::next::{Ack, Next, Seen, next};
use nett_policy::task::view::{Reading, read};

pub(crate) const NOW: WallMs = WallMs(1_795_253_400_000);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
/// `static`, `lease` and `exclusive`.
pub(crate) const API: &str = "shop/prod/api";
pub(crate) const PAY: &str = "shop/prod/pay";
pub(crate) const LEDGER: &str = "shop/prod/ledger";

pub(crate) fn id<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().expect("a valid id")
}

pub(crate) struct Desk {
    pub(crate) fabric: Fabric,
    catalog: Catalog,
    pub(crate) sight: Sight,
    pub(crate) log: Vec<Entry>,
    pub(crate) fold: Fold,
    /// Nodes that acknowledge nothing.
    pub(crate) silent: BTreeSet<NodeId>,
    /// How long ago the last fact was read, whenever the next one is asked for.
    pub(crate) since_last: Duration,
}

fn third_site(fabric: &mut Fabric) {
    let copy = fabric.site(&id("svg")).expect("the fixture has it").clone();
    fabric.sites.push(Site { id: id("trd"), rank: 3, ..copy });
    let copy = fabric.node(&id("svg-b1")).expect("the fixture has it").clone();
    fabric.nodes.push(Node { id: id("trd-b1"), site: id("trd"), ..copy });
    for node in &mut fabric.nodes {
        node.voter = node.id.as_str().ends_with("-b1");
    }
}

fn services(catalog: &Catalog) -> Vec<Service> {
    let service = |name: &str, copy: &str, isolation: Isolation| {
        let mut service = catalog.get(&id(copy)).expect("the fixture has it").clone();
        (service.id, service.isolation, service.approvals) = (id(name), isolation, 0);
        service.gates.clear();
        service.drain = None;
        if let Mode::ActivePassive { standby, .. } = &mut service.mode {
            standby.push(Standby { site: id("trd"), min_healthy: 1 });
        }
        let backends = service.backends[&id::<SiteId>("svg")].clone();
        Arc::make_mut(&mut service.backends).insert(id("trd"), backends);
        service
    };
    let api = service(API, "shop/prod/api", Isolation::Static);
    let pay = service(PAY, "shop/prod/pay", Isolation::Lease);
    let mut ledger = service(LEDGER, "shop/prod/pay", Isolation::Exclusive);
    ledger.vips = vec![id("10.99.0.40"), id("fd00:99::40")];
    assert_eq!(pay.handover, Handover::BreakBeforeMake, "as the configuration check demands");
    vec![api, pay, ledger]
}

// === impl Desk ===

impl Desk {
    pub(crate) fn new() -> Self {
        let file = |name: &str| {
            let text = nett_fixtures::fabric_file("two-sites", name).expect("a fixture");
            SourceFile::new(text.name, text.text)
        };
        let (mut fabric, catalog) =
            compile(&file("fabric.toml"), &file("services.toml")).expect("the fixture is valid");
        third_site(&mut fabric);
        let voters = fabric.voters().map(|node| node.site.clone()).collect();
        Self {
            catalog: Catalog::new(services(&catalog)),
            sight: Sight { now: NOW, voters, ..Sight::default() },
            fabric,
            log: Vec::new(),
            fold: Fold::default(),
            silent: BTreeSet::new(),
            since_last: HOUR,
        }
    }

    /// Defines a service anew, with another isolation.
    pub(crate) fn define(&mut self, service: &str, isolation: Isolation) {
        let define = |one: &Service| {
            let isolation = if one.id.as_str() == service { isolation } else { one.isolation };
            Service { isolation, ..one.clone() }
        };
        self.catalog = Catalog::new(self.catalog.iter().map(define).collect::<Vec<_>>());
    }

    pub(crate) fn world(&self) -> World<'_> {
        World { fabric: &self.fabric, catalog: &self.catalog }
    }

    fn with<T>(&self, f: impl FnOnce(Present<'_>) -> T) -> T {
        let (intent, claims) = (&Intent::read(&self.fold), &Claims::of(&self.fold));
        let (fold, home, sight) = (&self.fold, &id("osl"), &self.sight);
        f(Present { world: self.world(), fold, intent, claims, home, sight })
    }

    fn request(&self, operator: usize, ask: Ask) -> Request {
        let operator = &self.fabric.operators[operator];
        Request {
            id: id(&format!("osl.r{:025}", self.log.len())),
            site: id("osl"),
            person: Person { name: operator.name.clone(), key: operator.key.clone() },
            reason: "a test".to_owned(),
            issued_at: NOW,
            expires_at: WallMs(NOW.0 + 60_000),
            ask,
        }
    }

    /// What a command would do now, and the request for it.
    pub(crate) fn judged(&self, verb: Verb, terms: Terms) -> (Request, Result<Proposal, Refusal>) {
        let overrides = BTreeSet::new();
        let request = self.request(1, Ask::Command { verb, plan_hash: None, overrides, terms });
        let judged = self.with(|present| judge(present, &request));
        (request, judged)
    }

    /// Accepts a command.
    pub(crate) fn command(&mut self, verb: Verb, terms: Terms) -> EntryId {
        let (request, judged) = self.judged(verb, terms);
        let proposal = judged.expect("accepted");
        let (task, at_once) = (request.id.clone(), proposal.approvals_needed == 0);
        self.write(Body::Command(Command {
            request,
            plan_hash: proposal.plan_hash,
            approvals_needed: proposal.approvals_needed,
            supersedes: Vec::new(),
            bad_since: None,
            effect: at_once.then_some(proposal.effect),
        }));
        task
    }

    pub(crate) fn wish(&mut self, task: &EntryId, kind: WishKind) {
        let request = self.request(0, Ask::Wish { task: task.clone(), kind });
        self.write(Body::Wish(Wish { request }));
    }

    /// The task's next fact; `None` where it waits.
    pub(crate) fn next(&self, task: &EntryId) -> Option<Body> {
        let ack = |node: &NodeId, slot: &_| {
            let word = || Ack { slot: Clone::clone(slot), ok: true, evidence: Vec::new() };
            (!self.silent.contains(node)).then(word)
        };
        let since_last = self.since_last;
        let seen = Seen { ack: &ack, told: &|_, _| None, heard: &|_| None, since_last, now: NOW };
        match self.with(|present| next(present, task, &seen)) {
            Next::Write(body) => Some(*body),
            Next::Wait(_) => None,
        }
    }

    /// Writes the task's facts until one is not due or `until` says so.
    pub(crate) fn run(&mut self, task: &EntryId, until: impl Fn(&Reading) -> bool) -> Reading {
        while !until(&read(&self.fold, task))
            && let Some(body) = self.next(task)
        {
            self.write(body);
        }
        read(&self.fold, task)
    }

    pub(crate) fn placings(&self) -> Placings {
        Placings::of_log(self.world(), &self.fold)
    }

    /// What a task's claim is to a service.
    pub(crate) fn placing(&self, service: &str, task: &EntryId) -> Placing {
        self.placings().get(&id(service), task).expect("a claim").clone()
    }

    /// The claims that voters may vote for of a service.
    pub(crate) fn newest(&self, service: &str) -> Vec<EntryId> {
        let service: ServiceId = id(service);
        let claims = self.placings().newest().into_iter();
        claims.filter(|claim| claim.services.contains_key(&service)).map(|c| c.id).collect()
    }

    pub(crate) fn placed(&self, service: &str) -> Placed {
        let service = self.catalog.get(&id(service)).expect("known");
        place_one(self.world(), &Intent::read(&self.fold), service)
    }

    fn write(&mut self, body: Body) {
        let seq = u64::try_from(self.log.len()).expect("a short log") + 1;
        let hash = |n: u64| if n == 0 { String::new() } else { format!("h{n}") };
        let position =
            Position { boot: "first".to_owned(), seq, prev_hash: hash(seq - 1), hash: hash(seq) };
        let generation = self.fabric.generation;
        let entry = Entry {
            id: id(&format!("osl.{seq:026}")),
            site: id("osl"),
            node: id("osl-b1"),
            position,
            fabric: FabricRef { generation, hash: self.fabric.hash.clone() },
            at: NOW,
            body,
        };
        self.fold.join(&entry);
        self.log.push(entry);
    }
}
