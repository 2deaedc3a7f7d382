//! A site with very many services of all categories and modes, and a log that moves them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use nett_policy::document::{SourceFile, compile};
use nett_policy::fabric::Fabric;
use nett_policy::id::{EntryId, WallMs};
use nett_policy::log::conflict::Claims;
use nett_policy::log::entry::{
    Ask, Body, Command, Entry, FabricRef, Person, Position, Request, Terms, Verb, Wish, WishKind,
};
use nett_policy::log::fold::Fold;
use nett_policy::log::intent::{Intent, World};
use nett_policy::safety::BUILT_IN;
use nett_policy::service::Catalog;
use nett_policy::task::acks::Course;
use nett_policy::task::decide::{Present, Proposal, Sight, planned, propose};
use nett_policy::task::next::{Ack, Next, Seen, next};
use nett_policy::task::steps::StepKind;
use nett_policy::task::view::{last_effect, read};

pub(crate) fn id<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().expect("a valid id")
}

pub(crate) fn evacuation() -> Verb {
    Verb::Evacuate { site: id("osl"), to: None }
}

pub(crate) struct Ground {
    fabric: Fabric,
    catalog: Catalog,
}

impl Ground {
    /// All with their primary at osl; one of each three breaks before it makes.
    pub(crate) fn with(services: usize) -> Self {
        let mut text = String::new();
        for n in 0..services {
            let category = ["A", "B", "C"][n % 3];
            let handover = if n % 3 == 2 { "make-before-break" } else { "break-before-make" };
            let (high, low) = (n / 250, n % 250 + 1);
            writeln!(
                text,
                "[[service]]\nid = \"shop/prod/s{n:06}\"\ncategory = \"{category}\"\n\
                 primary = \"osl\"\nstandby = [\"svg\"]\nhandover = \"{handover}\"\n\
                 vips = [\"fd00:99::{high:x}:{low:x}\"]\n\
                 backends.osl = [\"fd00:a:20::{:x}\"]\nbackends.svg = [\"fd00:b:20::{:x}\"]\n\
                 approvals = 1\nrto = \"30s\"",
                n % 64 + 1,
                n % 64 + 1,
            )
            .expect("writing to a string cannot fail");
        }
        let fabric = nett_fixtures::fabric_file("two-sites", "fabric.toml").expect("a fixture");
        let fabric = SourceFile::new(fabric.name, fabric.text);
        let services = SourceFile::new("services.toml", text);
        let (fabric, catalog) = compile(&fabric, &services).expect("valid");
        Self { fabric, catalog }
    }

    /// With a third site, linked to the second, that sends its clients to whoever serves.
    pub(crate) fn with_third_site(mut self) -> Self {
        let fabric = &mut self.fabric;
        let mut site = fabric.sites.last().expect("two").clone();
        (site.id, site.rank, site.prefixes) = (id("trd"), 3, vec![id("fd00:c::/32")]);
        fabric.sites.push(site);
        let mut border = fabric.node(&id("svg-b1")).expect("there").clone();
        (border.id, border.site) = (id("trd-b1"), id("trd"));
        fabric.nodes.push(border);
        let mut link = fabric.links[0].clone();
        (link.id, link.a.node, link.b.node) = (id("svg-trd-1"), id("trd-b1"), id("svg-b1"));
        link.b.interface = "wan2".to_owned();
        fabric.links.push(link);
        self
    }

    pub(crate) fn world(&self) -> World<'_> {
        World { fabric: &self.fabric, catalog: &self.catalog }
    }

    pub(crate) fn desk(&self) -> Desk<'_> {
        Desk {
            ground: self,
            fold: Fold::default(),
            intent: Intent::default(),
            claims: Claims::default(),
            log: Vec::new(),
            task: None,
            confirm_within: None,
            unanswered: false,
        }
    }
}

/// The site that lives, with what it has read; kept up entry by entry, as an agent does.
pub(crate) struct Desk<'a> {
    ground: &'a Ground,
    pub(crate) fold: Fold,
    intent: Intent,
    claims: Claims,
    pub(crate) log: Vec<Entry>,
    pub(crate) task: Option<EntryId>,
    pub(crate) confirm_within: Option<Duration>,
    /// Nothing answers where it goes.
    pub(crate) unanswered: bool,
}

const NOW: WallMs = WallMs(1_795_253_400_000);

impl Desk<'_> {
    fn present<T>(&self, f: impl FnOnce(Present<'_>) -> T) -> T {
        let Self { ground, fold, intent, claims, .. } = self;
        let sight = Sight { now: NOW, ..Sight::default() };
        let (world, home) = (ground.world(), &id("svg"));
        f(Present { world, fold, intent, claims, home, sight: &sight })
    }

    fn terms(&self) -> Terms {
        let dead = self.ground.fabric.nodes.iter().filter(|n| n.site.as_str() == "osl");
        let asserted = dead.map(|n| n.id.clone()).collect();
        Terms { asserted, confirm_within: self.confirm_within, ..Terms::default() }
    }

    pub(crate) fn propose(&self, verb: &Verb) -> Proposal {
        let (none, terms) = (BTreeSet::new(), self.terms());
        self.present(|present| propose(present, verb, &none, &terms)).expect("nothing refuses")
    }

    /// What a verb would do asks the same of nodes when all services are looked at.
    pub(crate) fn holds_in_full(&self, verb: &Verb) {
        let (overrides, terms) = (BUILT_IN.map(str::to_owned).into(), self.terms());
        self.present(|present| {
            let proposal = propose(present, verb, &overrides, &terms).expect("nothing refuses");
            let (world, before, site) = (present.world, present.intent, present.home);
            let course = Course { world, before, task: &planned(), site, effect: &proposal.effect };
            assert_eq!(course.with_nodes_in_full(&terms.asserted), *proposal.effect);
            assert!(proposal.effect.steps.iter().any(|step| !step.required.is_empty()));
        });
    }

    fn request(&self, number: usize, operator: usize, ask: Ask) -> Request {
        let operator = &self.ground.fabric.operators[operator];
        Request {
            id: id(&format!("svg.r{number:025}")),
            site: id("svg"),
            person: Person { name: operator.name.clone(), key: operator.key.clone() },
            reason: "a test".to_owned(),
            issued_at: NOW,
            expires_at: WallMs(NOW.0 + 60_000),
            ask,
        }
    }

    pub(crate) fn accept(&mut self, verb: &Verb, proposal: &Proposal) {
        let (verb, overrides, terms) = (verb.clone(), BTreeSet::new(), self.terms());
        let ask = Ask::Command { verb, plan_hash: None, overrides, terms };
        let request = self.request(1, 1, ask);
        self.task = Some(request.id.clone());
        self.write(Body::Command(Command {
            request,
            plan_hash: proposal.plan_hash.clone(),
            approvals_needed: proposal.approvals_needed,
            supersedes: Vec::new(),
            bad_since: None,
            effect: None,
        }));
    }

    pub(crate) fn approve(&mut self) {
        let task = self.task.clone().expect("accepted");
        let (_, command) = self.fold.command(&task).expect("known");
        let kind = WishKind::Approve { plan_hash: command.plan_hash.clone() };
        let request = self.request(2, 0, Ask::Wish { task, kind });
        self.write(Body::Wish(Wish { request }));
    }

    /// Writes the task's next fact; every node has done its part, and time has passed.
    pub(crate) fn advance(&mut self) -> bool {
        let task = self.task.clone().expect("accepted");
        let reading = read(&self.fold, &task);
        let open = last_effect(&self.fold, &task).zip(reading.open_step());
        let step = open
            .and_then(|(effect, number)| effect.steps.iter().find(|step| step.number == number));
        let ok = !(self.unanswered && step.is_some_and(|step| step.kind == StepKind::Verify));
        let evidence = if ok { Vec::new() } else { vec!["no echo reply".to_owned(); 50] };
        let ack = |_: &_, slot: &_| {
            Some(Ack { slot: Clone::clone(slot), ok, evidence: evidence.clone() })
        };
        let since_last = Duration::from_secs(3600);
        let seen = Seen { ack: &ack, told: &|_, _| None, heard: &|_| None, since_last, now: NOW };
        match self.present(|present| next(present, &task, &seen)) {
            Next::Write(body) => {
                self.write(*body);
                true
            }
            Next::Wait(_) => false,
        }
    }

    fn write(&mut self, body: Body) {
        let seq = u64::try_from(self.log.len()).expect("a short log") + 1;
        let hash = |n: u64| if n == 0 { String::new() } else { format!("h{n}") };
        let (generation, fabric) = (self.ground.fabric.generation, &self.ground.fabric.hash);
        let entry = Entry {
            id: id(&format!("svg.{seq:026}")),
            site: id("svg"),
            node: id("svg-b1"),
            position: Position {
                boot: "first".to_owned(),
                seq,
                prev_hash: hash(seq - 1),
                hash: hash(seq),
            },
            fabric: FabricRef { generation, hash: fabric.clone() },
            at: NOW,
            body,
        };
        self.fold.join(&entry);
        if let Some(task) = entry.about() {
            self.intent.update(&self.fold, task);
            if matches!(entry.body, Body::Command(_) | Body::Effective(_)) {
                self.claims.update(&self.fold, task);
            }
        }
        self.log.push(entry);
    }
}
