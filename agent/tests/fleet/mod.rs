//! Several controllers in one thread: a log per site, a kernel that does as it is told, and time
//! that jumps to the next deadline. Deterministic: no clock, no randomness, no task.
#![allow(dead_code, reason = "each test binary uses a part")]
#![expect(unreachable_pub, reason = "everything here is for the tests that include it")]

mod asking;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use nett_agent::api::types::{ApiRequest, CommandReply, Outcome, Payload};
use nett_agent::bus::wire::{Draft, OutsideRequest, Report, Sealed, request_subject, seal_request};
use nett_agent::controller::effect::{Append, Effect};
use nett_agent::controller::event::{AppendFailure, Applied, Event, Now, Token};
use nett_agent::controller::{Controller, Setting};
use nett_policy::document::{SourceFile, compile};
use nett_policy::fabric::Fabric;
use nett_policy::id::{EntryId, NodeId, SiteId, WallMs};
use nett_policy::log::chain::followed;
use nett_policy::log::entry::{
    Ask, Body, EndFact, Outcome as TaskOutcome, Person, Request, Slot, Terms, Verb, WishKind,
};
use nett_policy::lower::answers::Answers;
use nett_policy::lower::object::{Layout, NodeState};
use nett_policy::nearness::RoundTrips;
use nett_policy::service::{Catalog, Service};
use nkeys::{KeyPair, KeyPairType};

/// Wall time at the start.
const EPOCH_MS: u64 = 1_795_253_400_000;

pub struct Fleet {
    pub fabric: Arc<Fabric>,
    pub agents: BTreeMap<NodeId, Agent>,
    logs: BTreeMap<SiteId, Vec<Sealed>>,
    inbox: VecDeque<(NodeId, Event)>,
    pub keys: BTreeMap<String, KeyPair>,
    now: Duration,
    counter: u64,
    /// Replies to requests, by token.
    pub replies: BTreeMap<u64, CommandReply>,
    /// What other answers there were, by token.
    pub answers: BTreeMap<u64, Outcome>,
    /// Nodes whose events are kept back: dead or unreachable.
    pub silent: BTreeSet<NodeId>,
    /// What each node's kernel was told, in order, over all nodes.
    pub told: Vec<(NodeId, NodeState)>,
    pub probes_answer: bool,
    /// How often each kernel is read in part only before it is read whole.
    pub torn: usize,
    /// The last report of each node.
    pub reports: BTreeMap<NodeId, Report>,
    /// What was asked outside, and when.
    pub asked: Vec<(Duration, OutsideRequest)>,
    /// What crosses between sites while they are cut from each other.
    cut: Option<VecDeque<(NodeId, Event)>>,
}

pub struct Agent {
    pub controller: Controller,
    pub kernel: NodeState,
    pub zone: Answers,
    /// How far the zone was last told that sites are from each other.
    pub near: RoundTrips,
    /// Whether it has buckets looked at.
    pub looks: bool,
    key: KeyPair,
    pub audit: usize,
    /// What it keeps over a restart.
    pub journal: Vec<(Sealed, u64)>,
}

pub fn id<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().expect("a valid id")
}

fn key(number: u8) -> KeyPair {
    KeyPair::new_from_raw(KeyPairType::User, [number; 32]).expect("a key from 32 bytes")
}

// === impl Fleet ===

impl Fleet {
    /// The two-site fabric with keys known here, every agent started and connected.
    pub fn start() -> Self {
        Self::start_with(|_, _| {})
    }

    /// The same with changes to it.
    pub fn start_with(change: impl FnOnce(&mut Fabric, &mut Vec<Service>)) -> Self {
        let text = |name: &str| {
            let text = nett_fixtures::fabric_file("two-sites", name).expect("the fixture is there");
            SourceFile::new(text.name, text.text)
        };
        let compiled = compile(&text("fabric.toml"), &text("services.toml"));
        let (mut fabric, catalog) = compiled.expect("the fixture is valid");
        let mut keys = BTreeMap::new();
        for (node, number) in fabric.nodes.iter_mut().zip(1u8..) {
            node.key = key(number).public_key();
            keys.insert(node.id.to_string(), key(number));
        }
        let mut services: Vec<Service> = catalog.iter().cloned().collect();
        change(&mut fabric, &mut services);
        for (operator, number) in fabric.operators.iter_mut().zip(100u8..) {
            operator.key = key(number).public_key();
            keys.insert(operator.name.clone(), key(number));
        }
        let fabric = Arc::new(fabric);
        let catalog: Arc<Catalog> = Arc::new(Catalog::new(services));
        let logs = fabric.sites.iter().map(|s| (s.id.clone(), Vec::new())).collect();
        let mut fleet = Self {
            agents: BTreeMap::new(),
            logs,
            inbox: VecDeque::new(),
            keys,
            now: Duration::from_secs(100),
            counter: 0,
            replies: BTreeMap::new(),
            answers: BTreeMap::new(),
            silent: BTreeSet::new(),
            told: Vec::new(),
            probes_answer: true,
            torn: 0,
            asked: Vec::new(),
            cut: None,
            reports: BTreeMap::new(),
            fabric: fabric.clone(),
        };
        for node in &fabric.nodes {
            let setting = Setting {
                fabric: fabric.clone(),
                catalog: catalog.clone(),
                layout: Layout::default(),
                node: node.clone(),
            };
            fleet.boot(setting);
        }
        fleet.run();
        fleet
    }

    fn boot(&mut self, setting: Setting) {
        let node = setting.node.clone();
        let agent = Agent {
            controller: Controller::new(setting),
            kernel: NodeState::default(),
            zone: BTreeMap::new(),
            near: RoundTrips::new(),
            looks: false,
            key: KeyPair::from_seed(&self.keys[node.id.as_str()].seed().expect("a seed"))
                .expect("a key"),
            audit: 0,
            journal: Vec::new(),
        };
        self.agents.insert(node.id.clone(), agent);
        let up = self.fabric.links.iter().map(|l| l.id.clone()).collect();
        let mut begin =
            vec![Event::ReplayDone { trusted: true }, Event::Links { up }, Event::BusConnected];
        for (site, log) in &self.logs {
            for (sealed, stream_seq) in log.iter().cloned().zip(1u64..) {
                begin.push(Event::Entries(vec![(sealed, stream_seq)]));
            }
            begin.push(Event::CaughtUp { site: site.clone() });
        }
        self.inbox.extend(begin.into_iter().map(|event| (node.id.clone(), event)));
    }

    /// Starts an agent anew with an empty memory, as after a kill; its kernel stays.
    pub fn restart(&mut self, node: &str) {
        let node: NodeId = id(node);
        let old = self.agents.remove(&node).expect("a known node");
        let setting = old.controller.setting().clone();
        self.inbox.retain(|(to, _)| *to != node);
        self.boot(setting);
        let agent = self.agents.get_mut(&node).expect("just booted");
        agent.kernel = old.kernel;
        self.run();
    }

    /// Starts an agent whose journal is known to lack something, on a kernel that has the state of
    /// a former run; gives what it wants before and after the logs were read.
    pub fn restart_without_journal(&mut self, node: &str) -> (usize, usize) {
        let node: NodeId = id(node);
        let setting = self.agents[&node].controller.setting().clone();
        self.agents.get_mut(&node).expect("a known node").controller = Controller::new(setting);
        self.inbox.retain(|(to, _)| *to != node);
        self.told.clear();
        let up = self.fabric.links.iter().map(|l| l.id.clone()).collect();
        for event in
            [Event::ReplayDone { trusted: false }, Event::Links { up }, Event::BusConnected]
        {
            self.step(&node, event);
        }
        self.pass(Duration::from_secs(5));
        let before = self.told.len();
        for (site, log) in self.logs.clone() {
            for (sealed, stream_seq) in log.into_iter().zip(1u64..) {
                self.step(&node, Event::Entries(vec![(sealed, stream_seq)]));
            }
            self.step(&node, Event::CaughtUp { site });
        }
        self.run();
        (before, self.told.len())
    }

    /// Handles everything that is to be handled now.
    pub fn run(&mut self) {
        let mut steps = 0;
        while let Some((node, event)) = self.inbox.pop_front() {
            steps += 1;
            assert!(steps < 20_000, "the fleet does not come to rest");
            self.step(&node, event);
        }
    }

    /// Lets time pass, from deadline to deadline.
    pub fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        self.run();
        loop {
            let due = self.agents.iter().filter(|(node, _)| !self.silent.contains(node));
            let next = due.filter_map(|(node, a)| Some((a.controller.deadline()?, node.clone())));
            let Some((at, node)) = next.min().filter(|(at, _)| *at <= until) else { break };
            self.now = self.now.max(at);
            self.step(&node, Event::Timer);
            self.run();
        }
        self.now = until;
    }

    pub fn step(&mut self, node: &NodeId, event: Event) {
        if self.silent.contains(node) {
            return;
        }
        let now = self.clock();
        let agent = self.agents.get_mut(node).expect("a known node");
        for effect in agent.controller.handle(event, now) {
            self.carry_out(node, effect);
        }
    }

    pub fn clock(&self) -> Now {
        let ms = u64::try_from(self.now.as_millis()).expect("a short test");
        Now { mono: self.now, wall: WallMs(EPOCH_MS + ms) }
    }

    fn carry_out(&mut self, node: &NodeId, effect: Effect) {
        let agent = self.agents.get_mut(node).expect("a known node");
        match effect {
            Effect::Journal { sealed, stream_seq } => agent.journal.push((sealed, stream_seq)),
            Effect::Local(_) => panic!("the bus is always there"),
            Effect::Compact(_) | Effect::Condense(_) | Effect::TakeIn(_) => {
                panic!("a fleet's logs are short")
            }
            Effect::Refill { from, after_stream_seq } => self.refill(node, from, after_stream_seq),
            Effect::ReadAgain => self.read_again(node),
            Effect::Rewind { .. } => {}
            Effect::Append(append) => self.append(node, *append),
            Effect::Kernel { generation, desired } => {
                let operations = nett_policy::plan::plan(&desired, &agent.kernel).ops.len();
                agent.kernel = (*desired).clone();
                self.told.push((node.clone(), *desired));
                let applied = Applied { generation, operations, ..Applied::default() };
                let failures = vec!["torn".to_owned()];
                let torn = Applied { unread: true, failures, ..applied.clone() };
                let looks = (0..self.torn).map(|_| (node.clone(), Event::Applied(torn.clone())));
                self.inbox.extend(looks);
                self.inbox.push_back((node.clone(), Event::Applied(applied)));
            }
            Effect::Buckets { looks } => agent.looks = looks,
            Effect::Zone(answers) => {
                agent.zone = answers;
                let result = Ok(1);
                self.inbox.push_front((node.clone(), Event::Served { result }));
            }
            Effect::Near(near) => {
                agent.near = near;
                self.inbox.push_front((node.clone(), Event::Ordered { result: Ok(1) }));
            }
            Effect::Probe { slot, .. } => {
                let (ok, evidence) = (self.probes_answer, vec!["simulated".to_owned()]);
                self.inbox.push_back((node.clone(), Event::Probed { slot, ok, evidence }));
            }
            Effect::Report(report) => self.spread(node, &report),
            Effect::AskOutside(request) => self.asked.push((self.now, *request)),
            Effect::Plan { token, mut response, planning } => {
                planning.finish(&mut response);
                self.answers.insert(token.0, response.outcome);
            }
            Effect::Reply { token, response } => match response.outcome {
                Outcome::Ok(payload) => match *payload {
                    Payload::Command(reply) => drop(self.replies.insert(token.0, reply)),
                    other => drop(self.answers.insert(token.0, Outcome::from(other))),
                },
                outcome @ Outcome::Error(_) => drop(self.answers.insert(token.0, outcome)),
            },
            Effect::Audit(_) => agent.audit += 1,
            Effect::Lease(_) => unreachable!("nothing is leased here"),
        }
    }

    fn spread(&mut self, node: &NodeId, report: &Report) {
        self.reports.insert(node.clone(), report.clone());
        let others: Vec<NodeId> = self.agents.keys().filter(|o| *o != node).cloned().collect();
        for other in others {
            self.carry(node, other, Event::Report(report.clone()));
        }
    }

    /// Takes an event to another node, or holds it back at the cut.
    fn carry(&mut self, from: &NodeId, to: NodeId, event: Event) {
        let site = |node: &NodeId| self.fabric.node(node).map(|n| n.site.clone());
        let crosses = site(from) != site(&to);
        match (&mut self.cut, crosses) {
            (Some(held), true) => {
                // Only the newest report of a node is kept.
                if !matches!(event, Event::Report(_)) {
                    held.push_back((to, event));
                }
            }
            (_, _) => self.inbox.push_back((to, event)),
        }
    }

    /// The node says of itself that it runs another fabric, and says no more.
    pub fn report_another_fabric(&mut self, node: &str) {
        let node: NodeId = id(node);
        let mut report = self.reports.get(&node).expect("it has reported").clone();
        report.at.0 += 1;
        report.fabric.hash = "another".to_owned();
        self.silent.insert(node.clone());
        self.spread(&node, &report);
        self.run();
    }

    fn refill(&mut self, node: &NodeId, from: u64, after: u64) {
        let site = self.fabric.node(node).expect("a known node").site.clone();
        let journal = self.agents[node].journal.clone();
        let own = journal.into_iter().map(|(sealed, _)| sealed).filter(|s| s.entry.site == site);
        let lost: Vec<Sealed> = own.filter(|s| s.entry.position.seq >= from).collect();
        let log = self.logs.get_mut(&site).expect("every site has a log");
        let (mut through, mut stream_seq) = (from - 1, after);
        if u64::try_from(log.len()).expect("short") == after {
            for sealed in lost {
                (through, stream_seq) = (sealed.entry.position.seq, stream_seq + 1);
                log.push(sealed.clone());
                for other in self.agents.keys().filter(|other| *other != node) {
                    let entry = Event::Entries(vec![(sealed.clone(), stream_seq)]);
                    self.inbox.push_back((other.clone(), entry));
                }
            }
        }
        self.inbox.push_back((node.clone(), Event::Refilled { through, stream_seq, why: None }));
    }

    /// As the agent does it: the journal, the branch that counts first, and then the bus.
    fn read_again(&mut self, node: &NodeId) {
        let old = self.agents.remove(node).expect("a known node");
        self.inbox.retain(|(to, _)| to != node);
        let order = followed(old.journal.iter().map(|(sealed, _)| &sealed.entry), &BTreeMap::new());
        let mut begin: Vec<Event> = Vec::new();
        for at in order {
            let (sealed, stream_seq) = old.journal[at].clone();
            begin.push(Event::Replayed { sealed, stream_seq });
        }
        let waiting = self.inbox.len();
        self.boot(old.controller.setting().clone());
        let booted: Vec<_> = self.inbox.drain(waiting..).collect();
        self.inbox.extend(begin.into_iter().map(|event| (node.clone(), event)));
        self.inbox.extend(booted);
        let agent = self.agents.get_mut(node).expect("just booted");
        (agent.kernel, agent.journal) = (old.kernel, old.journal);
    }

    /// The site's stream is lost but for its first entries, and its agents find out.
    pub fn lose_stream(&mut self, site: &str, keep: usize) {
        let site: SiteId = id(site);
        let log = self.logs.get_mut(&site).expect("every site has a log");
        let read = u64::try_from(log.len()).expect("short");
        log.truncate(keep);
        let (log, found) = (log.clone(), u64::try_from(keep).expect("short"));
        let of_site = self.fabric.nodes.iter().filter(|n| n.site == site);
        for node in of_site.map(|n| n.id.clone()).collect::<Vec<_>>() {
            let replaced = Event::LogReplaced { site: site.clone(), read, found };
            self.inbox.push_back((node.clone(), replaced));
            for (sealed, stream_seq) in log.iter().cloned().zip(1u64..) {
                self.inbox.push_back((node.clone(), Event::Entries(vec![(sealed, stream_seq)])));
            }
            self.inbox.push_back((node, Event::CaughtUp { site: site.clone() }));
        }
        self.run();
    }

    pub fn log(&self, site: &str) -> &[Sealed] {
        &self.logs[&id::<SiteId>(site)]
    }

    /// An entry beside one that the log has: the same place, another id.
    pub fn rival(&self, site: &str, seq: usize, lower: bool) -> Sealed {
        let entry = self.log(site)[seq - 1].entry.clone();
        let ulid = if lower { "0".repeat(26) } else { "z".repeat(26) };
        let body = Body::End(EndFact {
            slot: Slot { task: id(&format!("{site}.{ulid}")), term: 0, index: 0 },
            outcome: TaskOutcome::Failed,
            reason: "of another branch".to_owned(),
        });
        let draft = Draft {
            id: id(&format!("{site}.{ulid}")),
            site: entry.site.clone(),
            node: entry.node.clone(),
            fabric: entry.fabric.clone(),
            at: entry.at,
            boot: entry.position.boot.clone(),
            seq: entry.position.seq,
            prev_hash: entry.position.prev_hash.clone(),
            body,
            request_verbatim: None,
        };
        Sealed::seal(draft, &self.agents[&entry.node].key).expect("the key fits")
    }

    pub fn deliver(&mut self, node: &str, sealed: Sealed, stream_seq: u64) {
        self.inbox.push_back((id(node), Event::Entries(vec![(sealed, stream_seq)])));
        self.run();
    }

    /// How far a node has read a site's log, by the hash there.
    pub fn head(&mut self, node: &str, site: &str) -> (u64, String) {
        match self.ask(node, ApiRequest::Nodes {}) {
            Outcome::Ok(payload) => match *payload {
                Payload::Nodes { nodes } => {
                    let own = nodes.into_iter().find(|n| n.id == node).expect("itself");
                    let head = own.heads.into_iter().find(|h| h.site == site).expect("read");
                    (head.seq, head.hash)
                }
                other => panic!("no nodes: {other:?}"),
            },
            Outcome::Error(error) => panic!("no nodes: {error:?}"),
        }
    }

    /// Nothing crosses between sites until [`Self::heal`].
    pub fn cut(&mut self) {
        self.cut.get_or_insert_default();
    }

    pub fn heal(&mut self) {
        let held = self.cut.take().unwrap_or_default();
        self.inbox.extend(held);
        self.run();
    }

    fn append(&mut self, node: &NodeId, append: Append) {
        let Append { body, verbatim, after, after_stream_seq } = append;
        let site = self.fabric.node(node).expect("a known node").site.clone();
        let at = self.clock().wall;
        let log = self.logs.get_mut(&site).expect("every site has a log");
        let length = u64::try_from(log.len()).expect("a short log");
        if after_stream_seq != length {
            let failure = Event::AppendFailed(AppendFailure::Conflict);
            return self.inbox.push_back((node.clone(), failure));
        }
        let (boot, seq, prev_hash) = match after {
            Some(head) => (head.boot, head.seq + 1, head.hash),
            None => ("boot".to_owned(), 1, String::new()),
        };
        self.counter += 1;
        let fabric = self.agents[node].controller.fabric_ref();
        let id = id(&format!("{site}.{:0>26}", self.counter));
        let draft = Draft {
            id,
            site: site.clone(),
            node: node.clone(),
            fabric,
            at,
            boot,
            seq,
            prev_hash,
            body,
            request_verbatim: verbatim,
        };
        let sealed = Sealed::seal(draft, &self.agents[node].key).expect("the key fits");
        log.push(sealed.clone());
        let stream_seq = length + 1;
        let appended = Event::Appended { sealed: sealed.clone(), stream_seq };
        self.inbox.push_back((node.clone(), appended));
        let others: Vec<NodeId> = self.agents.keys().filter(|o| *o != node).cloned().collect();
        for other in others {
            self.carry(node, other, Event::Entries(vec![(sealed.clone(), stream_seq)]));
        }
    }

    pub fn request(&mut self, person: &str, site: &str, ask: Ask) -> Request {
        self.counter += 1;
        let now = self.clock().wall;
        Request {
            id: id(&format!("{site}.{:0>26}", self.counter)),
            site: id(site),
            person: Person { name: person.to_owned(), key: self.keys[person].public_key() },
            reason: "a test".to_owned(),
            issued_at: now,
            expires_at: WallMs(now.0 + 60_000),
            ask,
        }
    }

    /// Hands a signed request to an agent and runs until everything is at rest.
    pub fn send(&mut self, node: &str, request: &Request) -> CommandReply {
        let (subject, bytes) = self.seal(request);
        self.send_bytes(node, subject, bytes)
    }

    /// A request signed by its author, with the subject it is signed for.
    pub fn seal(&self, request: &Request) -> (String, Vec<u8>) {
        let subject = request_subject(request);
        let key = &self.keys[&request.person.name];
        let bytes = seal_request(request, &subject, key).expect("the key fits");
        (subject, bytes)
    }

    pub fn send_bytes(&mut self, node: &str, subject: String, bytes: Vec<u8>) -> CommandReply {
        self.counter += 1;
        let token = Token(self.counter);
        self.inbox.push_back((id(node), Event::Request { token, subject, bytes }));
        self.run();
        self.replies.get(&token.0).expect("every request is answered").clone()
    }

    /// Asks what is answered as a command is.
    pub fn hand_in(&mut self, node: &str, request: ApiRequest) -> CommandReply {
        self.counter += 1;
        let token = Token(self.counter);
        self.inbox.push_back((id(node), Event::Api { token, request }));
        self.run();
        self.replies.remove(&token.0).expect("every request is answered")
    }

    pub fn ask(&mut self, node: &str, request: ApiRequest) -> Outcome {
        self.counter += 1;
        let token = Token(self.counter);
        self.inbox.push_back((id(node), Event::Api { token, request }));
        self.run();
        self.answers.remove(&token.0).expect("every question is answered")
    }

    pub fn command(&mut self, person: &str, site: &str, verb: Verb) -> CommandReply {
        self.command_with(person, site, verb, &[], Terms::default())
    }

    pub fn command_with(
        &mut self,
        person: &str,
        site: &str,
        verb: Verb,
        overrides: &[&str],
        terms: Terms,
    ) -> CommandReply {
        let overrides = overrides.iter().map(|rule| (*rule).to_owned()).collect();
        let ask = Ask::Command { verb, plan_hash: None, overrides, terms };
        let request = self.request(person, site, ask);
        self.send(&format!("{site}-b1"), &request)
    }

    pub fn wish(&mut self, person: &str, site: &str, task: &str, kind: WishKind) -> CommandReply {
        let request = self.request(person, site, Ask::Wish { task: id(task), kind });
        self.send(&format!("{site}-b1"), &request)
    }

    pub fn approve(&mut self, person: &str, site: &str, opened: &CommandReply) -> CommandReply {
        let task: EntryId = id(opened.task.as_deref().expect("a task"));
        let plan_hash = opened.plan_hash.clone().expect("a plan hash");
        let ask = Ask::Wish { task, kind: WishKind::Approve { plan_hash } };
        let request = self.request(person, site, ask);
        self.send(&format!("{site}-b1"), &request)
    }
}
