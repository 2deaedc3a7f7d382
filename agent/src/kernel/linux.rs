//! The real kernel: one operation is one message and one answer.
//!
//! Add is CREATE and EXCL: it never overwrites. When the place is taken, the object there decides:
//! ours and equal is success, ours and different asks for another look, foreign is an error.
//! Replace is REPLACE without CREATE and only follows a readback that showed the object as ours.
//! Delete is by key and protocol, and an absent object is success.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use nett_policy::fabric::Family;
use nett_policy::lower::object::{
    GuardElement, Layout, Nexthop, NexthopId, RouteKey, RouteTarget, Rule,
};
use nett_policy::plan::Op;
use nix::errno::Errno;

use super::error::KernelError;
use super::foreign::Owner;
use super::netlink::attr::Message;
use super::netlink::socket::{
    Connection, Failure, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, OwnPorts,
};
use super::netlink::wire::{KernelWires, Wires};
use super::netlink::{link, neighbour, nexthop, route, rule};
use super::nft::Nft;
use super::{Count, Filled, Kernel, Parts, Readback};

/// The kernel of the network namespace in which this was opened.
pub struct LinuxKernel {
    pub(super) layout: Layout,
    pub(super) route: Connection,
    pub(super) nft: Nft,
    /// Name to number, of the last readback.
    pub(super) interfaces: BTreeMap<String, u32>,
    ports: OwnPorts,
}

const ADD: u16 = NLM_F_CREATE | NLM_F_EXCL;

// === impl LinuxKernel ===

impl LinuxKernel {
    /// Opens the command sockets in the network namespace of the calling thread. Must be called
    /// inside a tokio runtime with IO and time.
    ///
    /// # Errors
    /// When the process may not open netlink sockets, or the kernel has none.
    pub fn open(layout: Layout) -> Result<Self, KernelError> {
        Self::over(Arc::new(KernelWires), layout)
    }

    /// As [`Self::open`], over sockets of another make.
    ///
    /// # Errors
    /// When there are no sockets.
    pub fn over(wires: Arc<dyn Wires>, layout: Layout) -> Result<Self, KernelError> {
        let ports = OwnPorts::default();
        let open = |protocol, object| {
            let connection = Connection::over(wires.clone(), protocol, ports.clone());
            connection.map_err(|e| KernelError::of(object, e))
        };
        Ok(Self {
            route: open(NETLINK_ROUTE, "the rtnetlink socket")?,
            nft: Nft::new(open(NETLINK_NETFILTER, "the nf_tables socket")?),
            layout,
            interfaces: BTreeMap::new(),
            ports,
        })
    }

    /// Loads the nft table without an owner, so that other programs can change or flush it and
    /// only reconciliation repairs it. For hosts with nft 1.0.6 or older whose operators need
    /// `nft -j list ruleset` while no agent runs.
    #[must_use]
    pub fn unprotected(mut self) -> Self {
        self.nft.unprotected();
        self
    }

    /// The ports of the command sockets, for [`super::Monitor`] to tell own changes from others.
    pub fn ports(&self) -> OwnPorts {
        self.ports.clone()
    }

    /// How often something was sent to the kernel and answered, since this was opened.
    pub fn round_trips(&self) -> u64 {
        self.route.round_trips() + self.nft.round_trips()
    }

    /// Whether packets to a neighbour are sent at once; `None` when it has no entry.
    async fn neighbour(&mut self, of: IpAddr, index: u32) -> Result<Option<bool>, KernelError> {
        match self.route.get(neighbour::get(of, index), neighbour::is_known).await {
            Err(Failure::Refused { errno: Errno::ENOENT, .. }) => Ok(None),
            other => other.map_err(|e| KernelError::of(format!("neighbour {of}"), e)),
        }
    }

    async fn add_nexthop(&mut self, id: NexthopId, to: &Nexthop) -> Result<(), KernelError> {
        let object = || format!("nexthop id {id} {to}");
        let index = self.index_of(to, object).await?;
        let message = nexthop::put(ADD, self.layout.protocol, id, to, index);
        match self.route.request(message).await {
            Err(Failure::Refused { errno: Errno::EEXIST, .. }) => {
                self.judge_nexthop(id, to, index).await
            }
            other => other.map_err(|e| stale_nexthop(object(), e)),
        }
    }

    /// An id that is taken: by the same object, another one of ours, or somebody else's.
    async fn judge_nexthop(
        &mut self,
        id: NexthopId,
        to: &Nexthop,
        index: u32,
    ) -> Result<(), KernelError> {
        let object = format!("nexthop id {id} {to}");
        let found = self.route.get(nexthop::get(id), nexthop::decode).await;
        let found = found.map_err(|e| KernelError::of(&object, e))?;
        let Some(row) = found else {
            let reason = "it was there and is gone".to_owned();
            return Err(KernelError::Stale { object, reason });
        };
        if row.protocol != self.layout.protocol {
            let owner = format!("nexthop of {}", Owner(row.protocol));
            return Err(KernelError::Foreign { object, owner });
        }
        let same = match (&row.form, to) {
            (nexthop::Form::Single { gateway, index: at }, Nexthop::Single { gateway: to, .. }) => {
                gateway == to && *at == index
            }
            (
                nexthop::Form::Group(members, buckets),
                Nexthop::Group { family: _, members: to, buckets: like },
            ) => members == to && buckets == like,
            (nexthop::Form::Blackhole, Nexthop::Blackhole { family }) => {
                row.family == Some(*family)
            }
            _ => false,
        };
        if same {
            return Ok(());
        }
        let reason = "the id is ours and holds another object".to_owned();
        Err(KernelError::Stale { object, reason })
    }

    async fn replace_nexthop(&mut self, id: NexthopId, to: &Nexthop) -> Result<(), KernelError> {
        let object = || format!("nexthop id {id} {to}");
        let index = self.index_of(to, object).await?;
        let message = nexthop::put(NLM_F_REPLACE, self.layout.protocol, id, to, index);
        match self.route.request(message).await {
            Err(failure) if is_absent(&failure) => self.add_nexthop(id, to).await,
            other => other.map_err(|e| stale_nexthop(object(), e)),
        }
    }

    async fn add_route(&mut self, key: &RouteKey, to: RouteTarget) -> Result<(), KernelError> {
        let message = route::put(ADD, self.layout.protocol, key, to);
        let result = self.route.request(message).await;
        let mut results = [result.map_err(|e| route_error(key, to, e))];
        if is_taken(&results[0]) {
            self.judge_routes(&[(*key, to)], &mut results).await;
        }
        let [result] = results;
        result
    }

    /// Places that are taken: by the same route, another one of ours, or somebody else's. One dump
    /// per table, however many they are.
    async fn judge_routes(
        &mut self,
        wanted: &[(RouteKey, RouteTarget)],
        results: &mut [Result<(), KernelError>],
    ) {
        let taken = |i: &usize| is_taken(&results[*i]);
        let taken: Vec<usize> = (0..wanted.len()).filter(taken).collect();
        let place = |key: &RouteKey| (Family::of_net(key.destination), key.table);
        let places: BTreeSet<_> = taken.iter().map(|i| place(&wanted[*i].0)).collect();
        let mut there: BTreeMap<RouteKey, route::Row> = BTreeMap::new();
        for (family, table) in places {
            let rows = self.route.dump(route::dump_table(family, table), route::decode);
            match rows.await {
                // Where a key is taken twice, the foreign one counts.
                Ok(rows) => rows.items.into_iter().for_each(|row| {
                    let foreign = row.protocol != self.layout.protocol;
                    if foreign || !there.contains_key(&row.key) {
                        there.insert(row.key, row);
                    }
                }),
                Err(failure) => {
                    let hit = taken.iter().filter(|i| place(&wanted[**i].0) == (family, table));
                    for i in hit {
                        let (key, to) = wanted[*i];
                        results[*i] = Err(route_error(&key, to, failure.clone()));
                    }
                }
            }
        }
        for i in taken.into_iter().filter(|i| is_taken(&results[*i])).collect::<Vec<_>>() {
            let (key, to) = wanted[i];
            results[i] = self.judge_route(&key, to, there.get(&key));
        }
    }

    fn judge_route(
        &self,
        key: &RouteKey,
        to: RouteTarget,
        there: Option<&route::Row>,
    ) -> Result<(), KernelError> {
        let object = format!("route {key} {to}");
        let reason = match there {
            Some(row) if row.protocol != self.layout.protocol => {
                let owner = format!("route of {}", Owner(row.protocol));
                return Err(KernelError::Foreign { object, owner });
            }
            Some(row) if row.target == Some(to) => return Ok(()),
            Some(_) => "the route is ours and has another target",
            None => "it was there and is gone",
        };
        Err(KernelError::Stale { object, reason: reason.to_owned() })
    }

    async fn replace_route(&mut self, key: &RouteKey, to: RouteTarget) -> Result<(), KernelError> {
        let message = route::put(NLM_F_REPLACE, self.layout.protocol, key, to);
        match self.route.request(message).await {
            Err(failure) if is_absent(&failure) => self.add_route(key, to).await,
            other => other.map_err(|e| route_error(key, to, e)),
        }
    }

    /// With EXCL the kernel compares the whole rule and its protocol: taken means equal and ours.
    async fn add_rule(&mut self, object: &Rule) -> Result<(), KernelError> {
        let protocol = self.layout.protocol;
        let message = rule::message(rule::RTM_NEWRULE, ADD, protocol, object);
        match self.route.request(message).await {
            Err(Failure::Refused { errno: Errno::EEXIST, .. }) => Ok(()),
            other => other.map_err(|e| KernelError::of(format!("rule {object}"), e)),
        }
    }

    pub(super) async fn delete(
        &mut self,
        message: Message,
        object: impl ToString,
    ) -> Result<(), KernelError> {
        match self.route.request(message).await {
            Err(failure) if is_absent(&failure) => Ok(()),
            other => other.map_err(|e| KernelError::of(object, e)),
        }
    }

    pub(super) async fn delete_rule(&mut self, object: &Rule) -> Result<(), KernelError> {
        let protocol = self.layout.protocol;
        let message = rule::message(rule::RTM_DELRULE, 0, protocol, object);
        self.delete(message, format!("rule {object}")).await
    }

    pub(super) async fn delete_route(&mut self, key: &RouteKey) -> Result<(), KernelError> {
        let message = route::delete(self.layout.protocol, key);
        self.delete(message, format!("route {key}")).await
    }

    pub(super) async fn delete_nexthop(&mut self, id: NexthopId) -> Result<(), KernelError> {
        let message = nexthop::delete(id);
        self.delete(message, format!("nexthop id {id}")).await
    }

    /// The number of a single's device; 0 for what has none.
    async fn index_of(
        &mut self,
        nexthop: &Nexthop,
        object: impl Fn() -> String,
    ) -> Result<u32, KernelError> {
        let Nexthop::Single { interface, .. } = nexthop else {
            return Ok(0);
        };
        if let Some(index) = self.interfaces.get(interface) {
            return Ok(*index);
        }
        let links = self.route.dump(link::dump_links(), link::decode_link);
        let links = links.await.map_err(|e| KernelError::of(object(), e))?.items;
        self.interfaces = links.into_iter().map(|l| (l.name, l.index)).collect();
        let index = self.interfaces.get(interface).copied();
        index.ok_or_else(|| KernelError::Interface {
            object: object(),
            reason: format!("interface {interface} does not exist"),
        })
    }

    /// Routes that change their target, in one pipeline. One that has gone is added.
    async fn replace_routes(
        &mut self,
        wanted: &[(RouteKey, RouteTarget)],
    ) -> Vec<Result<(), KernelError>> {
        let protocol = self.layout.protocol;
        let put =
            |(key, to): &(RouteKey, RouteTarget)| route::put(NLM_F_REPLACE, protocol, key, *to);
        let results = self.route.pipeline(wanted.iter().map(put).collect()).await;
        let mut judged = Vec::with_capacity(wanted.len());
        for (result, (key, to)) in results.into_iter().zip(wanted) {
            judged.push(match result {
                Err(failure) if is_absent(&failure) => self.add_route(key, *to).await,
                other => other.map_err(|e| route_error(key, *to, e)),
            });
        }
        judged
    }

    /// Groups that get other members, in one pipeline. One that has gone is added.
    async fn replace_groups(
        &mut self,
        wanted: &[(NexthopId, &Nexthop)],
    ) -> Vec<Result<(), KernelError>> {
        let protocol = self.layout.protocol;
        // A group has no device.
        let put =
            |(id, to): &(NexthopId, &Nexthop)| nexthop::put(NLM_F_REPLACE, protocol, *id, to, 0);
        let results = self.route.pipeline(wanted.iter().map(put).collect()).await;
        let mut judged = Vec::with_capacity(wanted.len());
        for (result, (id, to)) in results.into_iter().zip(wanted) {
            judged.push(match result {
                Err(failure) if is_absent(&failure) => self.add_nexthop(*id, to).await,
                other => other.map_err(|e| stale_nexthop(format!("nexthop id {id} {to}"), e)),
            });
        }
        judged
    }

    /// Routes that follow each other in one pipeline.
    async fn add_routes(
        &mut self,
        wanted: &[(RouteKey, RouteTarget)],
    ) -> Vec<Result<(), KernelError>> {
        let protocol = self.layout.protocol;
        let messages = wanted.iter().map(|(key, to)| route::put(ADD, protocol, key, *to));
        let results = self.route.pipeline(messages.collect()).await;
        let mut results: Vec<_> = results
            .into_iter()
            .zip(wanted)
            .map(|(result, (key, to))| result.map_err(|e| route_error(key, *to, e)))
            .collect();
        if results.iter().any(is_taken) {
            self.judge_routes(wanted, &mut results).await;
        }
        results
    }

    async fn delete_routes(&mut self, keys: &[RouteKey]) -> Vec<Result<(), KernelError>> {
        let protocol = self.layout.protocol;
        let messages = keys.iter().map(|key| route::delete(protocol, key));
        let results = self.route.pipeline(messages.collect()).await;
        let judged = results.into_iter().zip(keys).map(|(result, key)| match result {
            Err(failure) if is_absent(&failure) => Ok(()),
            other => other.map_err(|e| KernelError::of(format!("route {key}"), e)),
        });
        judged.collect()
    }

    async fn carry_out(&mut self, op: &Op) -> Result<(), KernelError> {
        match op {
            Op::AddNexthop(id, to) => self.add_nexthop(*id, to).await,
            Op::ReplaceNexthop { id, from: _, to } => self.replace_nexthop(*id, to).await,
            Op::DeleteNexthop(id, _) => self.delete_nexthop(*id).await,
            Op::AddRoute(key, to) => self.add_route(key, *to).await,
            Op::ReplaceRoute { key, from: _, to } => self.replace_route(key, *to).await,
            Op::DeleteRoute(key, _) => self.delete_route(key).await,
            Op::AddRule(rule) => self.add_rule(rule).await,
            Op::DeleteRule(rule) => self.delete_rule(rule).await,
            Op::LoadGuard { from: _, to } => self.nft.load(to).await,
            Op::DeleteGuard(_) => self.nft.delete().await,
            Op::Elements { add, delete } => self.nft.elements(add, delete).await,
            Op::Classes { from, to } => self.nft.classes(from, to).await,
            Op::Answers { .. } => Err(KernelError::NotKernel(op.to_string())),
        }
    }
}

impl Kernel for LinuxKernel {
    async fn read(&mut self) -> Result<Readback, KernelError> {
        super::read::read(self).await
    }

    async fn refresh(&mut self, readback: &mut Readback, parts: &Parts) -> Result<(), KernelError> {
        super::read::refresh(self, readback, parts).await
    }

    async fn counters(&mut self) -> Result<BTreeMap<String, Count>, KernelError> {
        self.nft.counters().await
    }

    async fn watched(
        &mut self,
        elements: &BTreeSet<GuardElement>,
    ) -> Result<BTreeMap<GuardElement, u64>, KernelError> {
        self.nft.watched(elements).await
    }

    async fn buckets(&mut self, groups: &BTreeSet<NexthopId>) -> Result<Filled, KernelError> {
        let mut all = Filled::new();
        for group in groups {
            let object = || format!("the buckets of nexthop id {group}");
            let members = all.entry(*group).or_default();
            let dump = nexthop::dump_buckets(*group);
            let dump = match self.route.dump(dump, nexthop::decode_bucket).await {
                // Gone, or made into another group by somebody: it is made good, and looked at.
                Err(Failure::Refused { errno: Errno::ENOENT | Errno::EINVAL, .. }) => continue,
                other => other.map_err(|e| KernelError::of(object(), e))?,
            };
            if !dump.complete {
                let reason = "it changed while it was read".to_owned();
                return Err(KernelError::Stale { object: object(), reason });
            }
            for member in dump.items {
                *members.entry(member).or_default() += 1;
            }
        }
        Ok(all)
    }

    async fn knows(&mut self, neighbour: IpAddr, interface: &str) -> Result<bool, KernelError> {
        let Ok(index) = nix::net::if_::if_nametoindex(interface) else { return Ok(false) };
        if self.neighbour(neighbour, index).await? == Some(true) {
            return Ok(true);
        }
        let asked = self.route.request(neighbour::seek(neighbour, index)).await;
        asked.map_err(|e| KernelError::of(format!("neighbour {neighbour}"), e))?;
        // Where it was looked for and has no entry, the interface leads to one end alone: the
        // kernel keeps no entry per address there (arp_constructor).
        Ok(self.neighbour(neighbour, index).await?.unwrap_or(true))
    }

    async fn apply(&mut self, op: &Op) -> Result<(), KernelError> {
        let result = self.carry_out(op).await;
        if matches!(&result, Err(KernelError::Interface { .. })) {
            // An interface that was made anew has another number: ask again next time.
            self.interfaces.clear();
        }
        result
    }

    async fn apply_all(&mut self, ops: &[Op]) -> Vec<Result<(), KernelError>> {
        let mut results = Vec::with_capacity(ops.len());
        while let Some(op) = ops.get(results.len()) {
            let rest = ops[results.len()..].iter();
            match op {
                Op::ReplaceNexthop { to: Nexthop::Group { .. }, .. } => {
                    let run = rest.map_while(|op| match op {
                        Op::ReplaceNexthop { id, to: to @ Nexthop::Group { .. }, .. } => {
                            Some((*id, to))
                        }
                        _ => None,
                    });
                    let run: Vec<_> = run.collect();
                    results.extend(self.replace_groups(&run).await);
                }
                Op::AddRoute(..) => {
                    let run = rest.map_while(|op| match op {
                        Op::AddRoute(key, to) => Some((*key, *to)),
                        _ => None,
                    });
                    let run: Vec<_> = run.collect();
                    results.extend(self.add_routes(&run).await);
                }
                Op::ReplaceRoute { .. } => {
                    let run = rest.map_while(|op| match op {
                        Op::ReplaceRoute { key, from: _, to } => Some((*key, *to)),
                        _ => None,
                    });
                    let run: Vec<_> = run.collect();
                    results.extend(self.replace_routes(&run).await);
                }
                Op::DeleteRoute(..) => {
                    let run = rest.map_while(|op| match op {
                        Op::DeleteRoute(key, _) => Some(*key),
                        _ => None,
                    });
                    let run: Vec<_> = run.collect();
                    results.extend(self.delete_routes(&run).await);
                }
                other => results.push(self.apply(other).await),
            }
        }
        results
    }
}

fn is_absent(failure: &Failure) -> bool {
    let Failure::Refused { errno, .. } = failure else {
        return false;
    };
    matches!(errno, Errno::ENOENT | Errno::ESRCH)
}

/// What [`KernelError::of`] makes of EEXIST.
fn is_taken(result: &Result<(), KernelError>) -> bool {
    matches!(result, Err(KernelError::Refused { errno: Errno::EEXIST, .. }))
}

fn route_error(key: &RouteKey, to: RouteTarget, failure: Failure) -> KernelError {
    stale_nexthop(format!("route {key} {to}"), failure)
}

/// A nexthop that a route or group needs went with its carrier: plan again.
fn stale_nexthop(object: String, failure: Failure) -> KernelError {
    match failure {
        Failure::Refused { errno: Errno::EINVAL, text: Some(text) }
            if text.contains("exthop id") =>
        {
            KernelError::Stale { object, reason: text }
        }
        other => KernelError::of(object, other),
    }
}
