//! People at every site who ask for moves, approve, repeat themselves and are replayed.

use std::collections::{BTreeMap, BTreeSet};

use nett_agent::api::types::{ApiRequest, CommandReply};
use nett_agent::bus::wire::{request_subject, seal_request};
use nett_agent::controller::UNHEARD_TARGET;
use nett_agent::controller::event::{Event, Token};
use nett_policy::id::EntryId;
use nett_policy::id::{NodeId, ServiceId, SiteId, WallMs, Weight};
use nett_policy::log::entry::{Ask, Object, Person, Request, Terms, Verb, WishKind};
use nett_policy::log::intent::World as Policy;

use crate::shape::OPERATORS;
use crate::world::{Happening, World, ms};

/// What the people have sent, and what they heard.
#[derive(Default)]
pub(crate) struct Desk {
    /// Requests as sent: subject and bytes.
    pub(crate) sent: Vec<(String, Vec<u8>)>,
    /// The same, unsealed.
    pub(crate) asked: Vec<Request>,
    pub(crate) replies: BTreeMap<u64, CommandReply>,
}

impl World {
    /// Draws when people act within `time`.
    pub(crate) fn plan_operators(&mut self, time: std::time::Duration) {
        let total = u64::try_from(time.as_millis()).expect("a short run");
        for _ in 0..self.rng.usize(3..12) {
            let at = self.rng.u64(500..total);
            self.at(ms(at), Happening::Operator);
        }
    }

    pub(crate) fn operate(&mut self) {
        let sites: Vec<SiteId> = self.servers.keys().cloned().collect();
        let site = sites[self.rng.usize(0..sites.len())].clone();
        // Some people are called because a server is down.
        let dark = sites.iter().find(|site| !self.servers[*site].up).cloned();
        let site = match (dark, self.later.bool()) {
            (Some(dark), true) => dark,
            _ => site,
        };
        let person = OPERATORS[self.rng.usize(0..OPERATORS.len())];
        let waiting: Vec<CommandReply> = self
            .desk
            .replies
            .values()
            .filter(|r| r.state.as_deref() == Some("waiting-approval"))
            .cloned()
            .collect();
        let ask = match self.rng.u8(0..10) {
            0 if !self.desk.sent.is_empty() => return self.replay(&site),
            1..4 if !waiting.is_empty() => {
                let reply = &waiting[self.rng.usize(0..waiting.len())];
                let task: EntryId = reply.task.as_deref().expect("a task").parse().expect("an id");
                let plan_hash = reply.plan_hash.clone().expect("a plan");
                let kind = match self.rng.u8(0..6) {
                    0 => WishKind::Reject,
                    _ => WishKind::Approve { plan_hash },
                };
                Ask::Wish { task, kind }
            }
            4 if !self.tasks().is_empty() => {
                let tasks = self.tasks();
                let task = tasks[self.rng.usize(0..tasks.len())].clone();
                Ask::Wish { task, kind: self.wish() }
            }
            _ => self.command(&sites),
        };
        self.ask(person, &site, ask);
    }

    /// As somebody does who takes a service to the own site.
    pub(crate) fn take_over(&mut self, service: &ServiceId, to: &SiteId) {
        let person = OPERATORS[self.rng.usize(0..OPERATORS.len())];
        let services = service.to_string().parse().expect("an id is a selector");
        let verb = Verb::Failover { services, to: to.clone() };
        let terms = Terms { supersede: true, ..Terms::default() };
        let ask = Ask::Command { verb, plan_hash: None, overrides: BTreeSet::new(), terms };
        self.ask(person, to, ask);
    }

    pub(crate) fn ask(&mut self, person: &str, site: &SiteId, ask: Ask) {
        let request = self.request(person, site, ask);
        let subject = request_subject(&request);
        let bytes = seal_request(&request, &subject, &self.key(person)).expect("the key fits");
        self.desk.sent.push((subject.clone(), bytes.clone()));
        self.desk.asked.push(request.clone());
        self.note(format!("{person} at {site}: {:?}", request.ask));
        self.submit(site, &subject, &bytes);
        // Impatient people send it to another agent, too.
        if self.rng.u8(0..4) == 0 {
            self.submit(site, &subject, &bytes);
        }
    }

    /// Somebody sends what was sent before.
    fn replay(&mut self, site: &SiteId) {
        let (subject, bytes) = self.desk.sent[self.rng.usize(0..self.desk.sent.len())].clone();
        self.submit(site, &subject, &bytes);
    }

    /// To any agent of the site that is alive.
    pub(crate) fn submit(&mut self, site: &SiteId, subject: &str, bytes: &[u8]) {
        let of_site = self.agents.values().filter(|a| a.site() == site && a.alive);
        let nodes: Vec<NodeId> = of_site.map(|a| a.setting.node.id.clone()).collect();
        if nodes.is_empty() {
            return;
        }
        let node = nodes[self.rng.usize(0..nodes.len())].clone();
        self.counter += 1;
        let (token, delay) = (Token(self.counter), ms(self.rng.u64(1..50)));
        let subject = subject.to_owned();
        // Without a server they go to the node itself.
        let event = match self.servers[site].up {
            true => Event::Request { token, subject, bytes: bytes.to_vec() },
            false => {
                let envelope = serde_json::from_slice(bytes).expect("a request is JSON");
                Event::Api { token, request: ApiRequest::Command { subject, envelope } }
            }
        };
        self.reach(&node, delay, event);
    }

    fn request(&mut self, person: &str, site: &SiteId, ask: Ask) -> Request {
        let nodes = &self.fabric.nodes;
        let node = nodes.iter().find(|n| n.site == *site).expect("every site has nodes");
        let now = self.clock(&node.id.clone()).wall;
        Request {
            id: self.next_id(site),
            site: site.clone(),
            person: Person { name: person.to_owned(), key: self.key(person).public_key() },
            reason: "a test".to_owned(),
            issued_at: now,
            expires_at: WallMs(now.0 + self.expiry),
            ask,
        }
    }

    /// The tasks that people have heard of.
    fn tasks(&self) -> Vec<EntryId> {
        let replies = self.desk.replies.values();
        replies.filter_map(|r| r.task.as_deref()?.parse().ok()).collect()
    }

    fn wish(&mut self) -> WishKind {
        match self.rng.u8(0..6) {
            0 => WishKind::Cancel,
            1 => WishKind::Pause,
            2 | 3 => WishKind::Resume,
            4 => WishKind::Confirm,
            _ => WishKind::Adopt { asserted: BTreeSet::new() },
        }
    }

    fn command(&mut self, sites: &[SiteId]) -> Ask {
        let confirm_within = (self.rng.u8(0..8) == 0).then(|| ms(self.rng.u64(100..5000)));
        let supersede = self.rng.u8(0..6) == 0;
        let terms = Terms { supersede, confirm_within, ..Terms::default() };
        let verb = self.verb(sites);
        let overrides = match self.later.u8(0..2) {
            0 => BTreeSet::from([UNHEARD_TARGET.to_owned()]),
            _ => BTreeSet::new(),
        };
        Ask::Command { verb, plan_hash: None, overrides, terms }
    }

    fn verb(&mut self, sites: &[SiteId]) -> Verb {
        let verb = self.usual_verb(sites);
        let clusters = self.fabric.clusters.len();
        match self.later.u8(0..16) {
            drained @ 0..2 if clusters > 0 => {
                let cluster = &self.fabric.clusters[self.later.usize(0..clusters)];
                let object = Object::Cluster(cluster.id.clone());
                if drained == 0 { Verb::Drain { object } } else { Verb::Undrain { object } }
            }
            _ => verb,
        }
    }

    fn usual_verb(&mut self, sites: &[SiteId]) -> Verb {
        let services: Vec<ServiceId> = self.catalog.iter().map(|s| s.id.clone()).collect();
        let service = services[self.rng.usize(0..services.len())].clone();
        let services = service.to_string().parse().expect("an id is a selector");
        let site = sites[self.rng.usize(0..sites.len())].clone();
        let tasks: Vec<EntryId> =
            self.desk.replies.values().filter_map(|r| r.task.as_deref()?.parse().ok()).collect();
        match self.rng.u8(0..16) {
            0..4 => Verb::Failover { services, to: site },
            4..6 => Verb::Failback { services },
            6 => {
                let mut weight = |()| Weight::new(self.rng.u32(1..100)).expect("in range");
                let to = sites.iter().map(|s| (s.clone(), weight(()))).collect();
                Verb::Steer { services, to }
            }
            7 => Verb::Drain { object: Object::Site(site) },
            8 => Verb::Undrain { object: Object::Site(site) },
            9 => Verb::Drain { object: Object::ServiceAt(service, site) },
            10 => Verb::Undrain { object: Object::ServiceAt(service, site) },
            11 => Verb::Evacuate { site, to: None },
            12 => Verb::Hold { services },
            13 | 14 => Verb::Release { services },
            _ if tasks.is_empty() => Verb::Failback { services },
            _ => Verb::Revert { task: tasks[self.rng.usize(0..tasks.len())].clone() },
        }
    }

    pub(crate) fn policy(&self) -> Policy<'_> {
        Policy { fabric: &self.fabric, catalog: &self.catalog }
    }
}
