//! Three sites, two of them with two borders, and a log that takes commands as an agent does.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use nett_policy::document::{SourceFile, compile};
use nett_policy::fabric::{Cluster, Fabric, Limit, Link, LinkEnd, Node, SafetyRule, Site};
use nett_policy::id::{ClusterId, EntryId, LinkId, NodeId, SiteId, WallMs};
use nett_policy::log::conflict::Claims;
use nett_policy::log::entry::{
    Ask, Body, Command, EndFact, Entry, FabricRef, Object, Outcome, Person, Position, Request,
    Slot, Terms, Verb,
};
use nett_policy::log::fold::Fold;
use nett_policy::log::intent::{Intent, World};
use nett_policy::service::{Catalog, Mode, Service, Standby};
use nett_policy::task::decide::{Present, Proposal, Refusal, Sight, propose};
use nett_policy::task::next::{Next, Seen, next};

pub(crate) const NOW: WallMs = WallMs(1_795_253_400_000);

pub(crate) fn id<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().expect("a valid id")
}

pub(crate) struct Bench {
    pub(crate) fabric: Fabric,
    pub(crate) services: Vec<Service>,
    pub(crate) sight: Sight,
    pub(crate) fold: Fold,
    written: u64,
}

fn third_site(fabric: &mut Fabric) {
    let (osl, svg): (SiteId, SiteId) = (id("osl"), id("svg"));
    let copy = fabric.site(&svg).expect("the fixture has it").clone();
    let ber: SiteId = id("ber");
    fabric.sites.push(Site { id: ber.clone(), region: Some("de".to_owned()), rank: 3, ..copy });
    for name in ["b1", "r1"] {
        let copy = fabric.node(&id(&format!("svg-{name}"))).expect("the fixture has it").clone();
        fabric.nodes.push(Node { id: id(&format!("ber-{name}")), site: ber.clone(), ..copy });
    }
    let copy = fabric.links[0].clone();
    for site in [osl, svg] {
        let node: NodeId = id(&format!("{site}-b2"));
        let a = LinkEnd { node, interface: "wan9".to_owned(), ..copy.a.clone() };
        let b = LinkEnd { node: id("ber-b1"), interface: format!("to-{site}"), ..copy.b.clone() };
        let link: LinkId = id(&format!("{site}-ber-1"));
        fabric.links.push(Link { id: link, a, b, ..copy.clone() });
    }
}

fn at_third_site(service: &mut Service) {
    match &mut service.mode {
        Mode::ActivePassive { standby, .. } => {
            standby.push(Standby { site: id("ber"), min_healthy: 1 });
        }
        Mode::ActiveActive { active, .. } => active.push(id("ber")),
    }
    let backends = service.backends[&id::<SiteId>("svg")].clone();
    Arc::make_mut(&mut service.backends).insert(id("ber"), backends);
    (service.approvals, service.residency) = (0, Vec::new());
}

/// One of the backends at osl that are in a cluster goes into another one.
fn two_clusters(fabric: &mut Fabric, services: &mut [Service]) {
    let second: ClusterId = id("osl/k2");
    fabric.clusters.push(Cluster { id: second.clone(), site: id("osl") });
    for service in services {
        let backends = Arc::make_mut(&mut service.backends);
        let here = backends.get_mut(&id::<SiteId>("osl")).into_iter().flatten();
        let last = here.filter(|backend| backend.cluster.is_some()).last();
        if let Some(backend) = last {
            backend.cluster = Some(second.clone());
        }
    }
}

// === impl Bench ===

impl Bench {
    pub(crate) fn new() -> Self {
        let file = |name: &str| {
            let text = nett_fixtures::fabric_file("pairs", name).expect("a fixture");
            SourceFile::new(text.name, text.text)
        };
        let (mut fabric, catalog) =
            compile(&file("fabric.toml"), &file("services.toml")).expect("the fixture is valid");
        fabric.safety.clear();
        third_site(&mut fabric);
        let mut services: Vec<Service> = catalog.iter().cloned().collect();
        services.iter_mut().for_each(at_third_site);
        two_clusters(&mut fabric, &mut services);
        let age = Duration::from_secs(3);
        let sight = Sight { now: NOW, age, ..Sight::default() };
        Self { fabric, services, sight, fold: Fold::default(), written: 0 }
    }

    pub(crate) fn rule(&mut self, name: &str, limit: Limit) {
        let owner = "netops".to_owned();
        self.fabric.safety.push(SafetyRule { id: id(name), owner, limit });
    }

    pub(crate) fn service(&mut self, name: &str) -> &mut Service {
        self.services.iter_mut().find(|s| s.id.as_str() == name).expect("a known service")
    }

    /// What a verb would do now.
    pub(crate) fn propose(&self, verb: &Verb, overrides: &[&str]) -> Result<Proposal, Refusal> {
        self.with(|present| propose(present, verb, &names(overrides), &self.terms(verb)))
    }

    fn with<T>(&self, f: impl FnOnce(Present<'_>) -> T) -> T {
        let catalog = Catalog::new(self.services.clone());
        let world = World { fabric: &self.fabric, catalog: &catalog };
        let (intent, claims) = (&Intent::read(&self.fold), &Claims::of(&self.fold));
        let (fold, home, sight) = (&self.fold, &id("osl"), &self.sight);
        f(Present { world, fold, intent, claims, home, sight })
    }

    fn terms(&self, verb: &Verb) -> Terms {
        let dead = match verb {
            Verb::Evacuate { site, .. } => Some(site),
            _ => None,
        };
        let nodes = self.fabric.nodes.iter().filter(|n| Some(&n.site) == dead);
        Terms { asserted: nodes.map(|n| n.id.clone()).collect(), ..Terms::default() }
    }

    /// Accepts a command, which takes effect at once; it ends if it is to be `done`.
    pub(crate) fn accept(&mut self, verb: &Verb, overrides: &[&str], done: bool) -> EntryId {
        let proposal = self.propose(verb, overrides).expect("accepted");
        let task = self.command(verb, overrides, &proposal, true);
        if done {
            let slot = Slot { task: task.clone(), term: 0, index: 1 };
            let (outcome, reason) = (Outcome::Done, String::new());
            self.write(Body::End(EndFact { slot, outcome, reason }));
        }
        task
    }

    fn command(
        &mut self,
        verb: &Verb,
        overrides: &[&str],
        proposal: &Proposal,
        at_once: bool,
    ) -> EntryId {
        let (verb, overrides, terms) = (verb.clone(), names(overrides), self.terms(verb));
        let request = Request {
            id: id(&format!("osl.r{:025}", self.written)),
            site: id("osl"),
            person: Person { name: "odd".to_owned(), key: self.fabric.operators[1].key.clone() },
            reason: "a test".to_owned(),
            issued_at: NOW,
            expires_at: WallMs(NOW.0 + 60_000),
            ask: Ask::Command { verb, plan_hash: None, overrides, terms },
        };
        let task = request.id.clone();
        self.write(Body::Command(Command {
            request,
            plan_hash: proposal.plan_hash.clone(),
            approvals_needed: 0,
            supersedes: Vec::new(),
            bad_since: None,
            effect: at_once.then(|| proposal.effect.clone()),
        }));
        task
    }

    /// What becomes of a command that was accepted elsewhere and is to take effect here.
    pub(crate) fn effect_of(&mut self, verb: &Verb, calm: &Proposal) -> Body {
        let task = self.command(verb, &[], calm, false);
        let seen = Seen {
            ack: &|_, _| None,
            told: &|_, _| None,
            heard: &|_| None,
            since_last: Duration::ZERO,
            now: NOW,
        };
        match self.with(|present| next(present, &task, &seen)) {
            Next::Write(body) => *body,
            Next::Wait(_) => panic!("nothing is waited for"),
        }
    }

    fn write(&mut self, body: Body) {
        self.written += 1;
        let hash = |n: u64| if n == 0 { String::new() } else { format!("h{n}") };
        let position = Position {
            boot: "first".to_owned(),
            seq: self.written,
            prev_hash: hash(self.written - 1),
            hash: hash(self.written),
        };
        let generation = self.fabric.generation;
        self.fold.join(&Entry {
            id: id(&format!("osl.{:026}", self.written)),
            site: id("osl"),
            node: id("osl-b1"),
            position,
            fabric: FabricRef { generation, hash: self.fabric.hash.clone() },
            at: NOW,
            body,
        });
    }
}

pub(crate) fn names(overrides: &[&str]) -> BTreeSet<String> {
    overrides.iter().map(|name| (*name).to_owned()).collect()
}

/// A verb by its name, with what has to be there before it.
pub(crate) type Named = (&'static str, fn(&mut Bench) -> Verb);

/// The verbs of the table.
pub(crate) fn verbs() -> [Named; 13] {
    fn api() -> nett_policy::id::Selector {
        id("shop/prod/api")
    }
    fn away(bench: &mut Bench) -> EntryId {
        let verb = Verb::Failover { services: api(), to: id("svg") };
        bench.accept(&verb, &[], true)
    }
    [
        ("failover", |_| Verb::Failover { services: api(), to: id("svg") }),
        ("failback", |bench| {
            away(bench);
            Verb::Failback { services: api() }
        }),
        ("steer", |_| {
            let half = nett_policy::id::Weight::ONE;
            Verb::Steer { services: api(), to: [(id("osl"), half), (id("svg"), half)].into() }
        }),
        ("drain site", |_| Verb::Drain { object: Object::Site(id("osl")) }),
        ("undrain site", |bench| {
            let object = Object::Site(id("osl"));
            bench.accept(&Verb::Drain { object: object.clone() }, &[], true);
            Verb::Undrain { object }
        }),
        ("drain service", |_| Verb::Drain {
            object: Object::ServiceAt(id("shop/prod/api"), id("osl")),
        }),
        ("drain node", |_| Verb::Drain { object: Object::Node(id("osl-b1")) }),
        ("drain link", |_| Verb::Drain { object: Object::Link(id("osl-svg-1")) }),
        ("drain cluster", |_| Verb::Drain { object: Object::Cluster(id("osl/k1")) }),
        ("evacuate", |_| Verb::Evacuate { site: id("osl"), to: None }),
        ("hold", |_| Verb::Hold { services: api() }),
        ("release", |bench| {
            bench.accept(&Verb::Hold { services: api() }, &[], true);
            Verb::Release { services: api() }
        }),
        ("revert", |bench| Verb::Revert { task: away(bench) }),
    ]
}
