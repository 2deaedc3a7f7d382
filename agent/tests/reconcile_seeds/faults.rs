//! What can happen to a kernel, to its node and to the process, and how it is drawn.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use nett_agent::kernel::{Foreign, Kernel, KernelEvent, Origin, SimulatedKernel};
use nett_agent::probe::bfd::packet::{Diagnostic, State};
use nett_agent::probe::bfd::{PathId, PathView};
use nett_policy::fabric::Family;
use nett_policy::lower::object::{
    Layout, Nexthop, NexthopId, NodeState, RouteKey, RouteTarget, Rule, RuleAction, Table,
};
use nett_policy::plan::{Object, Op};
use nett_policy::trust::Belief;
use nix::errno::Errno;
use tokio::time::Instant;

use crate::stage::{Death, Lost, Refusal, Stage, Which, now};
use crate::world::{World, ms};

const OTHER: KernelEvent = KernelEvent::Objects(Origin::Other);
/// BIRD's.
const FOREIGN: u8 = 12;
/// How long a stopped process is stopped.
const STOPPED: Duration = Duration::from_secs(30);
/// More often than an agent puts an object back.
const RIVAL: u32 = 24;

/// What happens at some time.
#[derive(Debug, Clone)]
pub(crate) enum Happening {
    Fault,
    Carrier { interface: String, up: bool, again: u32 },
    Interface(String),
    Address { interface: String, address: IpNet },
    Tentative { interface: String, address: IpNet },
    Heard { interface: String, neighbour: IpAddr },
    Believed(PathId),
    Leaves(Foreign),
    Continued,
    Fast,
    Rival { object: Object, again: u32 },
}

impl World {
    pub(crate) fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Fault => {
                self.strike();
                let pause = match self.rng.u8(0..4) {
                    0 => self.rng.u64(0..60),
                    1 => self.rng.u64(0..400),
                    _ => self.rng.u64(0..2_500),
                };
                self.at(ms(pause), Happening::Fault);
            }
            Happening::Carrier { interface, up, again } => self.carrier(&interface, up, again),
            Happening::Interface(name) => {
                self.note(|| format!("{name} is made anew"));
                self.disturb(|kernel| kernel.add_interface(&name));
                self.stage.tell(KernelEvent::Interfaces);
                self.give_addresses(&name);
            }
            Happening::Address { interface, address } => {
                self.note(|| format!("{address} is on {interface}"));
                let tentative = address.addr().is_ipv6();
                self.disturb(|kernel| {
                    kernel.add_address(&interface, address);
                    kernel.set_tentative(&interface, address, tentative);
                });
                self.stage.tell(KernelEvent::Interfaces);
                if tentative {
                    let delay = ms(self.rng.u64(100..1_500));
                    self.at(delay, Happening::Tentative { interface, address });
                }
            }
            Happening::Tentative { interface, address } => {
                self.disturb(|kernel| kernel.set_tentative(&interface, address, false));
                self.stage.tell(KernelEvent::Interfaces);
            }
            Happening::Heard { interface, neighbour } => {
                self.disturb(|kernel| kernel.set_silent(&interface, neighbour, false));
            }
            Happening::Believed(path) => {
                self.doubted.retain(|doubted| *doubted != path);
                self.say_paths();
            }
            Happening::Leaves(foreign) => {
                self.note(|| format!("{foreign} leaves"));
                let mut all = self.foreign();
                all.retain(|one| *one != foreign);
                self.stage.with(|stage| stage.set_foreign(all));
                self.tell(OTHER);
            }
            Happening::Continued => self.stage.with(|stage| stage.stop(false)),
            Happening::Fast => self.stage.with(|stage| stage.faults.slow = 0),
            Happening::Rival { object, again } => {
                self.remove(&object);
                if again > 0 {
                    let delay = ms(self.rng.u64(100..700));
                    self.at(delay, Happening::Rival { object, again: again - 1 });
                }
            }
        }
    }

    fn disturb(&self, change: impl FnOnce(&mut SimulatedKernel)) {
        self.stage.with(|stage| stage.disturb(false, change));
    }

    /// Something goes wrong, or somebody wants something else.
    fn strike(&mut self) {
        match self.rng.u8(0..34) {
            0..=5 => self.move_on(),
            6..=8 => {
                if let Some(object) = self.one_of_ours() {
                    self.remove(&object);
                }
            }
            9 => self.flush(),
            10 => self.change(),
            11 => self.foreign_beside(),
            12 => self.foreign_in_place(),
            13 => self.stranger(),
            14 => {
                self.note(|| "the monitor is overrun".to_owned());
                self.stage.tell(KernelEvent::Overrun);
            }
            15 | 16 => self.lose_answers(),
            17 | 18 => self.refuse(),
            19 | 20 => {
                let times = self.rng.u32(1..6);
                self.stage.with(|stage| stage.faults.torn = times);
                self.tell(OTHER);
            }
            21 => {
                let times = self.rng.u32(1..5);
                self.stage.with(|stage| stage.faults.unread = times);
                self.tell(OTHER);
            }
            22 => self.delete_interface(),
            23 | 24 => {
                let interface = self.one_interface();
                let again = if self.rng.u8(0..4) == 0 { self.rng.u32(5..20) } else { 0 };
                self.carrier(&interface, false, again);
            }
            25 => self.remove_address(),
            26 => self.doubt(),
            27 => {
                self.note(|| "lo is down".to_owned());
                self.disturb(SimulatedKernel::lose_lo);
                self.stage.tell(KernelEvent::Interfaces);
            }
            28 | 29 => {
                let death = Death { at: self.rng.u32(0..60), behind: self.rng.bool() };
                self.note(|| format!("dies at a write: {death:?}"));
                self.stage.with(|stage| stage.faults.death = Some(death));
                // So that there is something to write.
                self.move_on();
            }
            30 => self.die(),
            31 => self.stop(),
            32 => {
                let object = self.one_of_ours();
                let again = if self.rng.u8(0..4) == 0 { RIVAL } else { self.rng.u32(1..6) };
                if let Some(object) = object {
                    self.happen(Happening::Rival { object, again });
                }
            }
            _ => {
                let slow = self.rng.u64(1..40);
                self.note(|| format!("the kernel takes up to {slow} ms"));
                self.stage.with(|stage| stage.faults.slow = slow);
                let delay = ms(self.rng.u64(100..10_000));
                self.at(delay, Happening::Fast);
            }
        }
    }

    /// The next step of a task, or quite another state.
    pub(crate) fn move_on(&mut self) {
        let count = self.arena.placements.len();
        let next = match self.rng.u8(0..4) {
            0 => self.rng.usize(0..count),
            _ => (*self.step.borrow() + 1) % count,
        };
        self.note(|| format!("step {next} is decided"));
        self.step.send_replace(next);
    }

    fn one_of_ours(&mut self) -> Option<Object> {
        let ours = self.ours();
        (!ours.is_empty()).then(|| ours[self.rng.usize(0..ours.len())].clone())
    }

    fn one_interface(&mut self) -> String {
        let all: Vec<String> = self.arena.interfaces(&self.node).into_iter().collect();
        all[self.rng.usize(0..all.len())].clone()
    }

    /// Somebody else deletes one object of ours.
    fn remove(&mut self, object: &Object) {
        self.note(|| format!("somebody deletes {object}"));
        self.disturb(|kernel| match object {
            Object::Nexthop(id) => {
                if let Some(nexthop) = kernel.state().nexthops.get(id).cloned() {
                    // As the kernel does it, with what uses it.
                    let op = Op::DeleteNexthop(*id, nexthop);
                    now(kernel.apply(&op)).expect("nothing is refused");
                    kernel.take_applied();
                }
            }
            Object::Route(key) => kernel.meddle(|state| state.routes.retain(|k, _| k != key)),
            Object::Rule(rule) => kernel.meddle(|state| state.rules.retain(|r| r != rule)),
            Object::Guard => kernel.meddle(|state| state.guard = None),
        });
        self.tell(OTHER);
    }

    fn flush(&mut self) {
        let what = self.rng.u8(0..6);
        let tables: Vec<Table> = self.stage.with(|s| tables(s.kernel.state()));
        let table = (!tables.is_empty()).then(|| tables[self.rng.usize(0..tables.len())]);
        self.note(|| format!("somebody flushes {what}: {table:?}"));
        self.disturb(|kernel| match what {
            0 | 1 => kernel.flush_nexthops(),
            2 => kernel.meddle(|state| state.routes.retain(|key, _| Some(key.table) != table)),
            3 => kernel.meddle(|state| state.rules.clear()),
            4 => kernel.meddle(|state| state.guard = None),
            _ => {
                kernel.flush_nexthops();
                kernel.meddle(|state| state.guard = None);
                kernel.meddle(|state| state.rules.clear());
            }
        });
        self.tell(OTHER);
    }

    /// Somebody else gives an object of ours another value.
    fn change(&mut self) {
        let (pick, other) = (self.rng.usize(0..1000), self.rng.usize(0..1000));
        let what = self.rng.u8(0..4);
        self.note(|| "somebody changes an object".to_owned());
        let change = |state: &mut NodeState| match what {
            0 => {
                if let Some(guard) = &mut state.guard {
                    // A rule, chain, set or element that is not as it should be.
                    guard.mark_mask = 0;
                    guard.refused.clear();
                }
            }
            1 => {
                let ids: Vec<NexthopId> = state.nexthops.keys().copied().collect();
                let count = state.routes.len().max(1);
                if let Some(target) = state.routes.values_mut().nth(pick % count) {
                    *target = match ids.get(other % (ids.len() + 1)) {
                        Some(id) => RouteTarget::Nexthop(*id),
                        None => RouteTarget::Unreachable,
                    };
                }
            }
            _ => {
                let groups = state.nexthops.values_mut().filter_map(|nexthop| match nexthop {
                    Nexthop::Group { members, .. } if members.len() > 1 => Some(members),
                    _ => None,
                });
                let mut groups: Vec<_> = groups.collect();
                let count = groups.len().max(1);
                if let Some(members) = groups.get_mut(pick % count) {
                    members.pop_first();
                }
            }
        };
        self.stage.with(|stage| stage.disturb(true, |kernel| kernel.meddle(change)));
        self.tell(OTHER);
    }

    fn add_foreign(&mut self, foreign: Foreign) {
        self.note(|| format!("somebody adds {foreign}"));
        let mut all = self.foreign();
        all.push(foreign.clone());
        self.stage.with(|stage| stage.set_foreign(all));
        self.tell(OTHER);
        let delay = ms(self.rng.u64(10..20_000));
        self.at(delay, Happening::Leaves(foreign));
    }

    fn foreign_beside(&mut self) {
        let host = self.rng.u8(1..250);
        let foreign = match self.rng.u8(0..4) {
            0 => Foreign::Rule { family: Family::V4, priority: 4490, protocol: FOREIGN },
            1 => {
                Foreign::Nexthop { id: NexthopId(0x4E65_5F00 + u32::from(host)), protocol: FOREIGN }
            }
            2 => Foreign::RouteElsewhere { key: novel(Table(9000), host) },
            _ => Foreign::Route { key: novel(Table(7000), host), protocol: FOREIGN },
        };
        self.add_foreign(foreign);
    }

    /// Ours goes, and somebody else's is there before it is back.
    fn foreign_in_place(&mut self) {
        let routes: Vec<Object> = self.ours().into_iter().filter(is_free).collect();
        if routes.is_empty() {
            return;
        }
        let object = routes[self.rng.usize(0..routes.len())].clone();
        self.remove(&object);
        let foreign = match object {
            Object::Route(key) => Foreign::Route { key, protocol: FOREIGN },
            Object::Nexthop(id) => Foreign::Nexthop { id, protocol: FOREIGN },
            Object::Guard => Foreign::NftTable,
            Object::Rule(_) => return,
        };
        self.add_foreign(foreign);
    }

    /// Something with all our marks, by somebody else's hand; never the same twice.
    fn stranger(&mut self) {
        self.strange += 1;
        let host = self.strange;
        let object = match self.rng.u8(0..3) {
            0 => Object::Nexthop(NexthopId(0x4E65_5E00 + u32::from(host))),
            1 => Object::Rule(strange_rule(host)),
            _ => Object::Route(novel(Table(7001), host)),
        };
        self.note(|| format!("a stranger adds {object}"));
        let added = object.clone();
        self.disturb(|kernel| {
            kernel.meddle(|state| match added {
                Object::Nexthop(id) => {
                    state.nexthops.extend([(id, Nexthop::Blackhole { family: Family::V4 })]);
                }
                Object::Rule(rule) => state.rules.extend([rule]),
                Object::Route(key) => state.routes.extend([(key, RouteTarget::Unreachable)]),
                Object::Guard => {}
            });
        });
        // What the process finds at its start it takes over.
        let add = |stage: &mut Stage| match stage.is_alive() && !stage.is_beginning() {
            true => stage.strangers.insert(object),
            false => stage.former.insert(object),
        };
        self.stage.with(add);
        self.tell(OTHER);
    }

    fn lose_answers(&mut self) {
        let rng = &mut self.rng;
        let times = rng.usize(1..4);
        let lost: Vec<Lost> = (0..times)
            .map(|_| Lost { done: rng.bool(), after: ms(if rng.bool() { 1_000 } else { 0 }) })
            .collect();
        self.stage.with(|stage| stage.faults.lost.extend(lost));
        self.move_on();
    }

    fn refuse(&mut self) {
        let which = match self.rng.u8(0..8) {
            0 => Which::All,
            1 => Which::Nexthops,
            2 => Which::Routes,
            3 => Which::Rules,
            4 => Which::Guard,
            5 => match self.one_of_ours() {
                Some(object) => Which::One(object),
                None => Which::All,
            },
            _ => Which::Some(self.rng.u8(2..8)),
        };
        let all = [Errno::EINVAL, Errno::ENOSPC, Errno::EPERM, Errno::ENOMEM];
        let errno = all[self.rng.usize(0..all.len())];
        let until = Instant::now() + ms(self.rng.u64(10..6_000));
        self.note(|| format!("{which:?} is refused with {errno:?}"));
        let refusal = Refusal { which, errno, until };
        self.stage.with(|stage| stage.faults.refusals.push(refusal));
        self.move_on();
    }

    fn delete_interface(&mut self) {
        let name = self.one_interface();
        self.note(|| format!("{name} is deleted"));
        self.losses.entry(name.clone()).or_default().push(Instant::now());
        self.disturb(|kernel| kernel.delete_interface(&name));
        self.stage.tell(KernelEvent::Interfaces);
        let delay = ms(self.rng.u64(0..3_000));
        self.at(delay, Happening::Interface(name));
    }

    fn give_addresses(&mut self, name: &str) {
        for link in self.arena.links(&self.node).into_iter().filter(|l| l.interface == name) {
            for address in link.addresses {
                let interface = name.to_owned();
                let delay = ms(self.rng.u64(0..1_000));
                self.at(delay, Happening::Address { interface, address });
            }
        }
    }

    fn carrier(&mut self, interface: &str, up: bool, again: u32) {
        self.note(|| format!("{interface} is {}", if up { "up" } else { "down" }));
        if !up {
            self.losses.entry(interface.to_owned()).or_default().push(Instant::now());
        }
        self.disturb(|kernel| kernel.set_carrier(interface, up));
        if !up {
            // The kernel says nothing of what goes with it.
            self.stage.tell(KernelEvent::Objects(Origin::Kernel));
        }
        self.stage.tell(KernelEvent::Interfaces);
        let interface = interface.to_owned();
        let delay = ms(if again > 0 { 100 } else { self.rng.u64(1..3_000) });
        if !up {
            self.at(delay, Happening::Carrier { interface, up: true, again });
        } else if again > 0 {
            self.at(delay, Happening::Carrier { interface, up: false, again: again - 1 });
        }
    }

    fn remove_address(&mut self) {
        let links = self.arena.links(&self.node);
        if links.is_empty() {
            return;
        }
        let link = &links[self.rng.usize(0..links.len())];
        let address = link.addresses[self.rng.usize(0..link.addresses.len())];
        let interface = link.interface.clone();
        self.note(|| format!("{address} is taken from {interface}"));
        self.disturb(|kernel| kernel.remove_address(&interface, address));
        self.stage.tell(KernelEvent::Interfaces);
        let delay = ms(self.rng.u64(10..4_000));
        self.at(delay, Happening::Address { interface, address });
    }

    /// Packets go out and none comes back, or the far end says nothing at all.
    fn doubt(&mut self) {
        let links = self.arena.links(&self.node);
        if links.is_empty() {
            return;
        }
        let link = &links[self.rng.usize(0..links.len())];
        let delay = ms(self.rng.u64(10..6_000));
        if self.rng.bool() {
            let family = Family::BOTH[self.rng.usize(0..2)];
            let path = (link.link.clone(), family);
            self.note(|| format!("{path:?} is doubted"));
            self.doubted.push(path.clone());
            self.say_paths();
            self.at(delay, Happening::Believed(path));
        } else {
            let neighbour = link.gateways[self.rng.usize(0..link.gateways.len())];
            let interface = link.interface.clone();
            self.disturb(|kernel| kernel.set_silent(&interface, neighbour, true));
            self.at(delay, Happening::Heard { interface, neighbour });
        }
    }

    pub(crate) fn say_paths(&self) {
        let view = PathView {
            belief: Belief::Doubted,
            state: State::Down,
            diagnostic: Diagnostic::EXPIRED,
            remote: None,
            interval: ms(100),
            detection: ms(300),
            trouble: None,
        };
        let views: BTreeMap<PathId, PathView> =
            self.doubted.iter().map(|path| (path.clone(), view.clone())).collect();
        self.paths.send_replace(views.into());
        self.stage.with(|stage| stage.pace.disturbed(Instant::now()));
    }

    /// SIGKILL while nothing is written; sometimes the whole node begins anew.
    fn die(&mut self) {
        self.stage.with(Stage::kill);
        if self.rng.bool() {
            self.note(|| "the node begins anew with an empty kernel".to_owned());
            self.disturb(|kernel| kernel.meddle(|state| *state = NodeState::default()));
            self.stage.with(|stage| stage.foreign.clear());
            self.stage.with(|stage| stage.set_foreign(Vec::new()));
        }
    }

    fn stop(&mut self) {
        self.stage.with(|stage| stage.stop(true));
        self.at(STOPPED, Happening::Continued);
        // What was decided meanwhile, and what has come to nothing by the end.
        for _ in 0..self.rng.u8(0..4) {
            self.move_on();
        }
    }

    /// Everything that went wrong is put right, but for what somebody else has in our place.
    pub(crate) fn put_right(&mut self, foreign: bool) {
        self.forget_queue();
        self.note(|| "all is put right".to_owned());
        self.stage.with(|stage| {
            stage.faults = Default::default();
            stage.stop(false);
        });
        let (links, interfaces) = (self.arena.links(&self.node), self.arena.interfaces(&self.node));
        self.disturb(|kernel| {
            let there = now(kernel.read()).expect("nothing is refused").interfaces;
            for name in interfaces {
                if there.contains_key(&name) {
                    kernel.set_carrier(&name, true);
                } else {
                    kernel.add_interface(&name);
                }
            }
            for link in &links {
                for address in &link.addresses {
                    kernel.add_address(&link.interface, *address);
                    kernel.set_tentative(&link.interface, *address, false);
                }
                for gateway in &link.gateways {
                    kernel.set_silent(&link.interface, *gateway, false);
                }
            }
        });
        self.doubted.clear();
        self.say_paths();
        let stays = |one: &Foreign| match one {
            Foreign::Route { key, .. } => key.metric != Layout::METRIC_FLOOR,
            _ => false,
        };
        let mut left = self.foreign();
        left.retain(|one| foreign && stays(one));
        self.stage.with(|stage| stage.set_foreign(left));
        self.stage.tell(KernelEvent::Interfaces);
        self.stage.tell(OTHER);
    }
}

fn tables(state: &NodeState) -> Vec<Table> {
    let mut tables: Vec<Table> = state.routes.keys().map(|key| key.table).collect();
    tables.dedup();
    tables
}

/// In whose place somebody else's object can be.
fn is_free(object: &Object) -> bool {
    !matches!(object, Object::Rule(_))
}

/// Where no wish ever has a route.
fn novel(table: Table, host: u8) -> RouteKey {
    let destination = IpNet::from(IpAddr::from([10, 98, 77, host]));
    RouteKey { table, destination, metric: Layout::METRIC_ACTIVE }
}

fn strange_rule(host: u8) -> Rule {
    let (iif, fwmark, from) = (None, None, None);
    let to = Some(IpNet::from(IpAddr::from([10, 98, 78, host])));
    let (family, action) = (Family::V4, RuleAction::Unreachable);
    Rule { priority: 4491, family, iif, fwmark, from, to, action }
}
