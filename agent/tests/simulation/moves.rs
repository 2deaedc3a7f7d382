//! Every kind of move through the real controllers, one after the other, with the name servers of
//! all nodes looked at after every step (`names.rs`); and the same moves and others drawn among
//! faults, where each node is to answer by what it has read.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use nett_policy::fabric::Family;
use nett_policy::id::{EntryId, NodeId, ServiceId, SiteId, Weight};
use nett_policy::log::entry::{Ask, Object, Ramp, Terms, Verb, WishKind};
use nett_policy::task::steps::StepKind;
use nett_policy::task::view::{TaskState, state};

use crate::disk::NEVER;
use crate::faults::Fault;
use crate::naive::Question;
use crate::shape::named_shape;
use crate::world::{World, ms};
use crate::{Ended, LEASE_PATIENCE, PATIENCE, end, hold};

/// Seeds of `make test` for the row of moves, and for moves drawn among faults.
const ROWS: u64 = 1;
const DRAWN: u64 = 2;
/// How long things go wrong in the latter.
const ROUGH: Duration = Duration::from_secs(30);
/// How long a site serves without a word from the voters, with all there is to it.
const LEASE: Duration = Duration::from_secs(7);
/// How long it may take until the name servers follow what nodes have read.
const SOON: Duration = Duration::from_millis(200);

/// One that belongs to no site.
const STRANGER: &str = "8.8.8.8";
const BOOKS: &str = "shop/prod/books";

fn id<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a valid id")
}

fn started(seed: u64) -> World {
    let mut world = World::with_shape(seed, None, named_shape);
    // What is read is looked at, so nothing of it is forgotten.
    for agent in world.agents.values_mut() {
        agent.pace = Some(NEVER);
        agent.controller.set_pace(NEVER);
    }
    world.open_name_servers();
    world
}

/// A row of moves while nothing goes wrong but what the row says.
fn row(seed: u64) -> Ended {
    let mut world = started(seed);
    world.rough = false;
    // Leases begin after a wait.
    world.pass(Duration::from_secs(12));
    let moved = planned(&mut world).and_then(|()| site_dies(&mut world));
    let moved = moved.and_then(|()| lease_is_lost(&mut world));
    if let Err(wrong) = moved.and_then(|()| looked_at(&world)) {
        return Err(Box::new((wrong, world)));
    }
    end(world, LEASE_PATIENCE)
}

/// Every kind of step was looked at, and much was asked.
fn looked_at(world: &World) -> Result<(), String> {
    use StepKind::{Activate, LowerTtl, Shift, Verify, Withdraw};
    let names = world.names.as_ref().expect("it has name servers");
    let often = |kind: &StepKind| names.steps.get(kind).is_some_and(|n| *n >= 10);
    match [LowerTtl, Activate, Verify, Shift, Withdraw].iter().all(often) {
        true if names.compared > 10_000 => Ok(()),
        _ => Err(format!("steps {:?}, {} questions", names.steps, names.compared)),
    }
}

fn planned(world: &mut World) -> Result<(), String> {
    let failover = |service: &str, to: &str| Verb::Failover { services: id(service), to: id(to) };
    let plain = Terms::default;
    let steer = |service: &str, to: &[(&str, u32)]| {
        let weight = |(site, n): &(&str, u32)| (id(site), Weight::new(*n).expect("a weight"));
        Verb::Steer { services: id(service), to: to.iter().map(weight).collect() }
    };
    let ramp = Ramp { steps: vec![10, 50, 100], dwell: Duration::from_secs(2), only_while: None };
    let ramp = Terms { ramp: Some(ramp), ..plain() };
    world.say("shop/prod/api", STRANGER, "osl")?;
    world.carry("osl", failover("shop/prod/api", "svg"), plain())?;
    world.say("shop/prod/api", STRANGER, "svg")?;
    let pay = world.carry("svg", failover("shop/prod/pay", "trd"), plain())?;
    world.say("shop/prod/pay", "10.1.0.9", "trd")?;
    world.carry("osl", Verb::Revert { task: pay }, plain())?;
    world.say("shop/prod/pay", "10.1.0.9", "osl")?;
    let shares = [("osl", 1), ("svg", 3), ("trd", 2)];
    world.carry("osl", steer("shop/prod/api", &shares), plain())?;
    world.carry("trd", steer("shop/prod/api", &[("trd", 1)]), ramp)?;
    world.say("shop/prod/api", "fd00:1::9", "trd")?;
    world.carry("svg", steer("shop/prod/near", &shares), plain())?;
    world.carry("svg", Verb::Failback { services: id("shop/prod/*") }, plain())?;
    world.say("shop/prod/near", "10.3.255.255", "trd")?;
    let site = Object::Site(id("osl"));
    world.carry("svg", Verb::Drain { object: site.clone() }, plain())?;
    for service in ["api", "pay", "near", "local", "first", "books"] {
        world.say(&format!("shop/prod/{service}"), "10.1.0.9", "svg")?;
    }
    world.carry("trd", Verb::Undrain { object: site }, plain())?;
    let one = Object::ServiceAt(id("shop/prod/local"), id("svg"));
    world.carry("osl", Verb::Drain { object: one.clone() }, plain())?;
    world.say("shop/prod/local", "10.2.3.4", "osl")?;
    world.carry("osl", Verb::Undrain { object: one }, plain())?;
    world.say("shop/prod/local", "10.2.3.4", "svg")
}

/// All agents of a site are dead, its services leave it, and it comes back.
fn site_dies(world: &mut World) -> Result<(), String> {
    let dead: Vec<NodeId> = world.nodes_of(&id("svg"));
    dead.iter().for_each(|node| world.strike(Fault::KillNow(node.clone())));
    world.pass(Duration::from_secs(5));
    let evacuate = Verb::Evacuate { site: id("svg"), to: None };
    let asserted = dead.iter().cloned().collect();
    world.carry("osl", evacuate, Terms { asserted, ..Terms::default() })?;
    world.say("shop/prod/near", "10.2.3.4", "osl")?;
    dead.into_iter().for_each(|node| world.strike(Fault::Restart(node)));
    world.pass(Duration::from_secs(5));
    world.carry("svg", Verb::Undrain { object: Object::Site(id("svg")) }, Terms::default())?;
    world.say("shop/prod/near", "10.2.3.4", "svg")
}

/// The site that serves under a lease is cut off until it has run out, and another takes over.
fn lease_is_lost(world: &mut World) -> Result<(), String> {
    let (osl, svg): (SiteId, SiteId) = (id("osl"), id("svg"));
    let to_osl = Verb::Failover { services: id(BOOKS), to: osl.clone() };
    if world.told(&world.nodes_of(&svg)[0].clone(), BOOKS, STRANGER)
        != BTreeSet::from([osl.clone()])
    {
        world.carry("osl", to_osl, Terms::default())?;
    }
    world.say(BOOKS, STRANGER, "osl")?;
    for other in ["svg", "trd"] {
        world.strike(Fault::Cut(osl.clone(), id(other)));
    }
    let shut = world.watch_books(LEASE)?;
    if shut.is_none() {
        return Err("the lease of a site that is cut off does not end".to_owned());
    }
    for node in world.nodes_of(&osl) {
        // It may not, and who has addresses of its own perhaps can.
        world.tells(&node, BOOKS, "10.1.0.9", "svg")?;
    }
    for node in world.nodes_of(&id("trd")) {
        world.tells(&node, BOOKS, "10.1.0.9", "osl")?;
    }
    world.take_over(&id(BOOKS), &svg);
    world.watch_books(Duration::from_secs(20))?;
    world.say(BOOKS, STRANGER, "svg")?;
    for other in ["svg", "trd"] {
        world.strike(Fault::Join(osl.clone(), id(other)));
    }
    world.watch_books(Duration::from_secs(5))?;
    world.say(BOOKS, STRANGER, "svg")
}

/// Moves of all kinds by people who do not wait for each other, and everything goes wrong.
fn drawn(seed: u64) -> Ended {
    let mut world = started(seed);
    world.pass(Duration::from_secs(12));
    world.plan_faults(ROUGH);
    world.plan_operators(ROUGH);
    world.pass(ROUGH);
    end(world, LEASE_PATIENCE)
}

impl World {
    /// Gives a command, and its approval where it needs one, and waits until it is done.
    fn carry(&mut self, site: &str, verb: Verb, terms: Terms) -> Result<EntryId, String> {
        let known: BTreeSet<EntryId> = self.tasks_of_log();
        let what = format!("{verb:?}");
        let overrides = BTreeSet::new();
        self.ask("mira", &id(site), Ask::Command { verb, plan_hash: None, overrides, terms });
        let (mut waited, mut approved, mut read) = (Duration::ZERO, false, self.lengths());
        while waited < PATIENCE {
            self.pass(ms(250));
            waited += ms(250);
            if std::mem::replace(&mut read, self.lengths()) == self.lengths() {
                continue;
            }
            if let Some(wrong) = self.watch.wrong.clone() {
                return Err(wrong);
            }
            let task = self.tasks_of_log().into_iter().find(|task| !known.contains(task));
            let Some(task) = task else { continue };
            match state(&self.fold_of_all(), &task) {
                TaskState::Ended(outcome) if outcome.as_str() == "done" => {
                    // Every site has read that.
                    self.pass(ms(200));
                    return Ok(task);
                }
                TaskState::WaitingApproval if !approved => approved = self.approve(&task),
                TaskState::WaitingApproval | TaskState::Running => {}
                other => return Err(format!("{what} is {other:?}")),
            }
        }
        Err(format!("{what} does not end: {:?}", self.desk.replies.values().last()))
    }

    fn tasks_of_log(&mut self) -> BTreeSet<EntryId> {
        self.fold_of_all().commands().map(|(task, _, _)| task.clone()).collect()
    }

    /// False where nobody knows the plan yet.
    fn approve(&mut self, task: &EntryId) -> bool {
        let of_task = |reply: &&nett_agent::api::types::CommandReply| {
            reply.task.as_deref() == Some(task.as_str())
        };
        let reply = self.desk.replies.values().find(of_task);
        let Some(plan_hash) = reply.and_then(|reply| reply.plan_hash.clone()) else { return false };
        let kind = WishKind::Approve { plan_hash };
        self.ask("jon", &id("trd"), Ask::Wish { task: task.clone(), kind });
        true
    }

    /// All nodes that live send this client to that site.
    fn say(&mut self, service: &str, client: &str, site: &str) -> Result<(), String> {
        let alive = self.agents.values().filter(|agent| agent.alive);
        let nodes: Vec<NodeId> = alive.map(|agent| agent.setting.node.id.clone()).collect();
        nodes.iter().try_for_each(|node| self.tells(node, service, client, site))
    }

    fn tells(
        &mut self,
        node: &NodeId,
        service: &str,
        client: &str,
        site: &str,
    ) -> Result<(), String> {
        let told = self.told(node, service, client);
        match told == BTreeSet::from([id(site)]) {
            true => Ok(()),
            false => Err(format!("{node} sends {client} to {told:?} for {service}, not {site}")),
        }
    }

    /// The sites whose addresses of the service a node tells a client now.
    fn told(&mut self, node: &NodeId, service: &str, client: &str) -> BTreeSet<SiteId> {
        let service: ServiceId = id(service);
        let client: IpAddr = id(client);
        let question = Question::from(client, Family::V4);
        let told = self.ask_name_server(node, &service, &question);
        let service = self.catalog.get(&service).expect("a service");
        let has = |(_, own): &(&SiteId, &Vec<IpAddr>)| own.iter().any(|a| told.contains(a));
        service.addresses.iter().filter(has).map(|(site, _)| site.clone()).collect()
    }

    /// Looks at all name servers again and again for so long. When it was first seen that no kernel
    /// lets packets to the leased service pass.
    fn watch_books(&mut self, time: Duration) -> Result<Option<Duration>, String> {
        let (until, books) = (self.now + time, id(BOOKS));
        let mut shut: BTreeMap<SiteId, Duration> = BTreeMap::new();
        let mut first = None;
        while self.now < until {
            self.pass(ms(200));
            let serving = self.serving().remove(&books).unwrap_or_default();
            first = first.or(serving.is_empty().then_some(self.now));
            for node in self.agents.keys().cloned().collect::<Vec<_>>() {
                self.check_names_soon(&node, SOON)?;
                let site = self.agents[&node].site().clone();
                if serving.contains(&site) {
                    shut.remove(&site);
                    continue;
                }
                let since = *shut.entry(site.clone()).or_insert(self.now);
                let tells_own = self.told(&node, BOOKS, STRANGER).contains(&site);
                if tells_own && self.now > since + SOON {
                    return Err(format!("{node} sends clients to itself, and lets nobody pass"));
                }
            }
        }
        Ok(first)
    }
}

#[test]
fn names_follow_every_step_of_every_move() {
    hold("NETT_ROW_SEED", ("NETT_ROW_SEEDS", ROWS), row);
}

#[test]
fn names_follow_what_was_read_whatever_goes_wrong() {
    hold("NETT_NAMES_SEED", ("NETT_NAMES_SEEDS", DRAWN), drawn);
}
