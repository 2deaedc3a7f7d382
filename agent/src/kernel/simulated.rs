//! A kernel made of sets, with the real one's habits: it refuses what Linux refuses and loses
//! without a word what Linux loses.
//!
//! Modelled: carrier loss and admin down take all nexthops of the device, shrink the groups,
//! delete the emptied ones and the routes on them; a nexthop cannot be added without carrier;
//! groups and routes need their members; deleting a nexthop takes its routes; removing an address
//! leaves nexthops and routes as they are; `lo` takes the IPv6 floors with it; buckets of resilient
//! groups that are in use stay where they are, others follow the weights. Not modelled: sysctls,
//! packets, rule evaluation.

mod buckets;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use ipnet::IpNet;
use nett_policy::fabric::Family;
use nett_policy::lower::object::{
    Guard, GuardElement, Nexthop, NexthopId, NodeState, RouteKey, RouteTarget,
};
use nett_policy::plan::Op;
use nix::errno::Errno;

use super::error::KernelError;
use super::read::forget;
use super::{Count, Filled, Foreign, Interface, Kernel, Parts, Readback};
use buckets::Buckets;

/// Which operation an injected failure meets.
type Matcher = Box<dyn Fn(&Op) -> bool + Send>;

#[derive(Default)]
pub struct SimulatedKernel {
    state: NodeState,
    interfaces: BTreeMap<String, Interface>,
    /// The number of the interface that was made last: none is given twice.
    last_index: u32,
    foreign: Vec<Foreign>,
    counters: BTreeMap<String, Count>,
    watched: BTreeMap<GuardElement, u64>,
    buckets: Buckets,
    failures: VecDeque<(Matcher, KernelError)>,
    lost_answers: VecDeque<(Matcher, KernelError)>,
    /// Neighbours that do not say their addresses, by interface.
    silent: BTreeSet<(String, IpAddr)>,
    incomplete: u32,
    refused_reads: u32,
    applied: Vec<Op>,
}

// === impl SimulatedKernel ===

impl SimulatedKernel {
    /// With these interfaces, all up.
    pub fn new(interfaces: &[&str]) -> Self {
        let mut kernel = Self::default();
        for name in interfaces {
            kernel.add_interface(name);
        }
        kernel
    }

    /// What is there, for assertions.
    pub fn state(&self) -> &NodeState {
        &self.state
    }

    /// Every operation that was carried out, in order.
    pub fn applied(&self) -> &[Op] {
        &self.applied
    }

    /// The next operation that `matches` fails with `error` and changes nothing.
    pub fn fail_next(
        &mut self,
        matches: impl Fn(&Op) -> bool + Send + 'static,
        error: KernelError,
    ) {
        self.failures.push_back((Box::new(matches), error));
    }

    /// As [`Self::fail_next`], that many times.
    pub fn fail_times(
        &mut self,
        times: usize,
        matches: impl Fn(&Op) -> bool + Clone + Send + 'static,
        error: KernelError,
    ) {
        for _ in 0..times {
            self.fail_next(matches.clone(), error.clone());
        }
    }

    /// The next operation that `matches` is carried out and answered with `error`.
    pub fn lose_answer(
        &mut self,
        matches: impl Fn(&Op) -> bool + Send + 'static,
        error: KernelError,
    ) {
        self.lost_answers.push_back((Box::new(matches), error));
    }

    /// The operations carried out since the last call, in order.
    pub fn take_applied(&mut self) -> Vec<Op> {
        std::mem::take(&mut self.applied)
    }

    /// Duplicate address detection begins or ends.
    pub fn set_tentative(&mut self, interface: &str, address: IpNet, tentative: bool) {
        if let Some(there) = self.interfaces.get_mut(interface) {
            if tentative {
                there.tentative.insert(address);
            } else {
                there.tentative.remove(&address);
            }
        }
    }

    /// A neighbour does not say its link-layer address, or does.
    pub fn set_silent(&mut self, interface: &str, neighbour: IpAddr, silent: bool) {
        let entry = (interface.to_owned(), neighbour);
        if silent {
            self.silent.insert(entry);
        } else {
            self.silent.remove(&entry);
        }
    }

    /// The next `times` readbacks lack every second route and say that they are not complete.
    pub fn interrupt_reads(&mut self, times: u32) {
        self.incomplete = times;
    }

    /// The next `times` readbacks are refused, as those of a process without CAP_NET_ADMIN.
    pub fn refuse_reads(&mut self, times: u32) {
        self.refused_reads = times;
    }

    /// Carrier comes or goes. What goes with it comes back only by being added again.
    pub fn set_carrier(&mut self, interface: &str, up: bool) {
        if let Some(there) = self.interfaces.get_mut(interface) {
            there.up = up;
        }
        if !up {
            self.lose_nexthops(|nexthop| on(nexthop, interface));
        }
    }

    /// Somebody sets the interface down, or up; the carrier goes and comes with that.
    pub fn set_shut(&mut self, interface: &str, shut: bool) {
        self.set_carrier(interface, !shut);
        if let Some(there) = self.interfaces.get_mut(interface) {
            there.shut = shut;
        }
    }

    /// The device and all that hangs on it; made anew it has another number.
    pub fn delete_interface(&mut self, name: &str) {
        self.set_carrier(name, false);
        self.interfaces.remove(name);
    }

    pub fn add_interface(&mut self, name: &str) {
        self.last_index += 1;
        let index = self.last_index;
        let interface = Interface { index, up: true, ..Interface::default() };
        self.interfaces.insert(name.to_owned(), interface);
    }

    pub fn add_address(&mut self, interface: &str, address: IpNet) {
        if let Some(there) = self.interfaces.get_mut(interface) {
            there.addresses.insert(address);
        }
    }

    /// Nexthops that used it stay, and lead nowhere.
    pub fn remove_address(&mut self, interface: &str, address: IpNet) {
        if let Some(there) = self.interfaces.get_mut(interface) {
            there.addresses.remove(&address);
            there.tentative.remove(&address);
        }
    }

    /// `ip nexthop flush`: all of them, and in silence the routes on them.
    pub fn flush_nexthops(&mut self) {
        self.lose_nexthops(|_| true);
    }

    /// `lo` goes down. IPv6 routes without a way hang on it; IPv4 ones do not.
    pub fn lose_lo(&mut self) {
        self.state.routes.retain(|key, target| {
            Family::of_net(key.destination) == Family::V4 || *target != RouteTarget::Unreachable
        });
    }

    /// Somebody else changes our objects behind our back.
    pub fn meddle(&mut self, change: impl FnOnce(&mut NodeState)) {
        change(&mut self.state);
    }

    /// Objects of others that a readback reports; adding at their place is refused.
    pub fn set_foreign(&mut self, foreign: Vec<Foreign>) {
        self.foreign = foreign;
    }

    pub fn count(&mut self, counter: &str, packets: u64, bytes: u64) {
        let count = self.counters.entry(counter.to_owned()).or_default();
        count.packets += packets;
        count.bytes += bytes;
    }

    /// Packets for or from what the counting sets hold.
    pub fn pass(&mut self, element: GuardElement, packets: u64) {
        *self.watched.entry(element).or_default() += packets;
    }

    /// Flows use all buckets that lead to a member now, until they are idle again.
    pub fn use_buckets(&mut self, member: NexthopId, used: bool) {
        self.buckets.follow(&self.state.nexthops);
        self.buckets.mark(member, used);
    }

    /// Removes nexthops as the kernel does: out of their groups, with emptied groups and routes.
    fn lose_nexthops(&mut self, lost: impl Fn(&Nexthop) -> bool) {
        let state = &mut self.state;
        state.nexthops.retain(|_, nexthop| !lost(nexthop));
        let ids: Vec<NexthopId> = state.nexthops.keys().copied().collect();
        state.nexthops.retain(|_, nexthop| match nexthop {
            Nexthop::Single { .. } | Nexthop::Blackhole { .. } => true,
            Nexthop::Group { members, .. } => {
                members.retain(|member, _| ids.contains(member));
                !members.is_empty()
            }
        });
        let nexthops = &state.nexthops;
        state.routes.retain(|_, target| match target {
            RouteTarget::Nexthop(id) => nexthops.contains_key(id),
            RouteTarget::Unreachable => true,
        });
    }

    fn put_nexthop(&mut self, op: &Op, id: NexthopId, to: &Nexthop) -> Result<(), KernelError> {
        match to {
            Nexthop::Single { interface, .. } => {
                let reason = match self.interfaces.get(interface) {
                    Some(there) if there.up => None,
                    Some(_) => Some("Carrier for nexthop device is down".to_owned()),
                    None => Some(format!("interface {interface} does not exist")),
                };
                if let Some(reason) = reason {
                    return Err(KernelError::Interface { object: op.to_string(), reason });
                }
            }
            Nexthop::Group { members, .. } => {
                let of = |id| self.state.nexthops.get(id);
                let black = |id| matches!(of(id), Some(Nexthop::Blackhole { .. }));
                let single = |id| matches!(of(id), Some(Nexthop::Single { .. })) || black(id);
                if members.is_empty() {
                    return Err(refused(op, Errno::EINVAL));
                }
                if !members.keys().all(single) {
                    let reason = "Invalid nexthop id".to_owned();
                    return Err(KernelError::Stale { object: op.to_string(), reason });
                }
                if members.len() > 1 && members.keys().any(black) {
                    return Err(refused(op, Errno::EINVAL));
                }
            }
            Nexthop::Blackhole { .. } => {}
        }
        if self.state.nexthops.get(&id).is_some_and(|there| !there.becomes(to)) {
            return Err(refused(op, Errno::EINVAL));
        }
        self.state.nexthops.insert(id, to.clone());
        self.buckets.follow(&self.state.nexthops);
        Ok(())
    }

    fn need_target(&self, op: &Op, to: &RouteTarget) -> Result<(), KernelError> {
        match to {
            RouteTarget::Nexthop(id) if !self.state.nexthops.contains_key(id) => {
                Err(KernelError::Stale {
                    object: op.to_string(),
                    reason: "Nexthop id does not exist".to_owned(),
                })
            }
            RouteTarget::Nexthop(_) | RouteTarget::Unreachable => Ok(()),
        }
    }

    fn need_guard(&mut self, op: &Op) -> Result<&mut Guard, KernelError> {
        self.state.guard.as_mut().ok_or_else(|| KernelError::Stale {
            object: op.to_string(),
            reason: "ENOENT".to_owned(),
        })
    }

    fn carry_out(&mut self, op: &Op) -> Result<(), KernelError> {
        if let Some(foreign) = self.foreign.iter().find(|f| stands_in_the_way(f, op)) {
            let owner = foreign.to_string();
            return Err(KernelError::Foreign { object: op.to_string(), owner });
        }
        match op {
            Op::AddNexthop(id, to) => match self.state.nexthops.get(id) {
                Some(there) if there == to => Ok(()),
                Some(_) => Err(taken(op)),
                None => self.put_nexthop(op, *id, to),
            },
            Op::ReplaceNexthop { id, from: _, to } => self.put_nexthop(op, *id, to),
            Op::DeleteNexthop(id, _) => {
                self.state.nexthops.remove(id);
                self.lose_nexthops(|_| false);
                Ok(())
            }
            Op::AddRoute(key, to) => {
                self.need_target(op, to)?;
                match self.state.routes.get(key) {
                    Some(there) if there != to => Err(taken(op)),
                    _ => {
                        self.state.routes.insert(*key, *to);
                        Ok(())
                    }
                }
            }
            Op::ReplaceRoute { key, from: _, to } => {
                self.need_target(op, to)?;
                self.state.routes.insert(*key, *to);
                Ok(())
            }
            Op::DeleteRoute(key, _) => {
                self.state.routes.remove(key);
                Ok(())
            }
            Op::AddRule(rule) => {
                self.state.rules.insert(rule.clone());
                Ok(())
            }
            Op::DeleteRule(rule) => {
                self.state.rules.remove(rule);
                Ok(())
            }
            Op::LoadGuard { from: _, to } => {
                self.state.guard = Some(to.clone());
                Ok(())
            }
            Op::DeleteGuard(_) => {
                self.state.guard = None;
                Ok(())
            }
            Op::Elements { add, delete } => {
                let kept = &mut self.need_guard(op)?.refused;
                kept.retain(|element| !delete.contains(element));
                kept.extend(add);
                Ok(())
            }
            Op::Classes { from, to } => {
                let guard = self.need_guard(op)?;
                if guard.classes != *from && guard.classes != *to {
                    let reason = "ENOENT".to_owned();
                    return Err(KernelError::Stale { object: op.to_string(), reason });
                }
                guard.classes = to.clone();
                Ok(())
            }
            Op::Answers { .. } => Err(KernelError::NotKernel(op.to_string())),
        }
    }
}

impl Kernel for SimulatedKernel {
    async fn read(&mut self) -> Result<Readback, KernelError> {
        if self.refused_reads > 0 {
            self.refused_reads -= 1;
            let object = "nft table inet nett".to_owned();
            return Err(KernelError::Privilege { object, errno: Errno::EPERM, text: None });
        }
        let mut state = self.state.clone();
        let complete = self.incomplete == 0;
        if !complete {
            self.incomplete -= 1;
            let mut nth = 0;
            state.routes.retain(|_, _| {
                nth += 1;
                nth % 2 == 0
            });
        }
        Ok(Readback {
            state,
            complete,
            interfaces: self.interfaces.clone(),
            foreign: self.foreign.clone(),
            guard_damage: None,
        })
    }

    async fn refresh(&mut self, readback: &mut Readback, parts: &Parts) -> Result<(), KernelError> {
        let now = self.read().await?;
        forget(readback, parts);
        let Parts { interfaces, nexthops, rules, guard, tables } = parts;
        let looked =
            |key: &RouteKey| tables.contains(&(Family::of_net(key.destination), key.table));
        readback.complete &= now.complete;
        if *interfaces {
            readback.interfaces = now.interfaces;
        }
        if *nexthops {
            readback.state.nexthops = now.state.nexthops;
        }
        if *rules {
            readback.state.rules = now.state.rules;
        }
        if *guard {
            readback.state.guard = now.state.guard;
        }
        readback.state.routes.extend(now.state.routes.into_iter().filter(|(key, _)| looked(key)));
        readback.foreign.extend(now.foreign.into_iter().filter(|foreign| match foreign {
            Foreign::Route { key, .. } => looked(key),
            Foreign::Rule { .. } => *rules,
            Foreign::Nexthop { .. } => *nexthops,
            Foreign::NftTable => *guard,
            Foreign::RouteElsewhere { .. }
            | Foreign::RuleElsewhere { .. }
            | Foreign::NexthopElsewhere { .. } => false,
        }));
        Ok(())
    }

    async fn counters(&mut self) -> Result<BTreeMap<String, Count>, KernelError> {
        Ok(self.counters.clone())
    }

    async fn watched(
        &mut self,
        elements: &BTreeSet<GuardElement>,
    ) -> Result<BTreeMap<GuardElement, u64>, KernelError> {
        let there: BTreeSet<GuardElement> =
            self.state.guard.iter().flat_map(Guard::counted).copied().collect();
        if !elements.is_subset(&there) {
            let (object, reason) = ("nft table inet nett".to_owned(), "not whole".to_owned());
            return Err(KernelError::Stale { object, reason });
        }
        let counted = |element: &GuardElement| {
            (*element, self.watched.get(element).copied().unwrap_or_default())
        };
        Ok(elements.iter().map(counted).collect())
    }

    async fn buckets(&mut self, groups: &BTreeSet<NexthopId>) -> Result<Filled, KernelError> {
        self.buckets.follow(&self.state.nexthops);
        Ok(self.buckets.of(groups))
    }

    async fn knows(&mut self, neighbour: IpAddr, interface: &str) -> Result<bool, KernelError> {
        Ok(!self.silent.contains(&(interface.to_owned(), neighbour)))
    }

    async fn apply(&mut self, op: &Op) -> Result<(), KernelError> {
        let meets = self.failures.iter().position(|(matches, _)| matches(op));
        if let Some((_, error)) = meets.and_then(|at| self.failures.remove(at)) {
            return Err(error);
        }
        self.carry_out(op)?;
        self.applied.push(op.clone());
        let lost = self.lost_answers.iter().position(|(matches, _)| matches(op));
        match lost.and_then(|at| self.lost_answers.remove(at)) {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }
}

fn on(nexthop: &Nexthop, device: &str) -> bool {
    matches!(nexthop, Nexthop::Single { interface, .. } if interface == device)
}

fn stands_in_the_way(foreign: &Foreign, op: &Op) -> bool {
    match (foreign, op) {
        (Foreign::Route { key, .. }, Op::AddRoute(to, _)) => key == to,
        (Foreign::Nexthop { id, .. }, Op::AddNexthop(to, _)) => id == to,
        (Foreign::NftTable, Op::LoadGuard { .. } | Op::DeleteGuard(_)) => true,
        _ => false,
    }
}

fn taken(op: &Op) -> KernelError {
    let reason = "the place is ours and holds another object".to_owned();
    KernelError::Stale { object: op.to_string(), reason }
}

fn refused(op: &Op, errno: Errno) -> KernelError {
    KernelError::Refused { object: op.to_string(), errno, text: None }
}
