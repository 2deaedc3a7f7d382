//! The readback: all dumps of one look at the kernel, sorted into ours and foreign.
//!
//! A dump is no snapshot. That does no harm, because every operation is idempotent: a route that
//! was missed is added again and found equal, one that has gone is deleted again and not found.

use std::collections::{BTreeMap, BTreeSet};

use nett_policy::fabric::{Family, Transit};
use nett_policy::lower::object::{Layout, Nexthop, NexthopId, RouteKey, RouteTarget, Rule, Table};
use nix::errno::Errno;

use super::error::KernelError;
use super::foreign::Foreign;
use super::linux::LinuxKernel;
use super::netlink::attr::Message;
use super::netlink::socket::{Dump, Failure};
use super::netlink::{link, nexthop, route, rule};
use super::{Interface, Parts, Readback};

pub(super) async fn read(kernel: &mut LinuxKernel) -> Result<Readback, KernelError> {
    let mut readback = Readback { complete: true, ..Readback::default() };
    let both = |table| Family::BOTH.map(|family| (family, table));
    let tables = tables(&kernel.layout).into_iter().flat_map(both).collect();
    refresh(kernel, &mut readback, &Parts::in_use(tables)).await?;
    Ok(readback)
}

pub(super) async fn refresh(
    kernel: &mut LinuxKernel,
    readback: &mut Readback,
    parts: &Parts,
) -> Result<(), KernelError> {
    forget(readback, parts);
    let Parts { interfaces, nexthops, rules, guard, tables } = parts;
    if *interfaces {
        self::interfaces(kernel, readback).await?;
    }
    let restamped =
        if *nexthops { self::nexthops(kernel, readback).await? } else { BTreeMap::new() };
    for (family, table) in tables {
        routes(kernel, readback, *family, *table).await?;
    }
    take_back(restamped, readback);
    if *rules {
        for family in Family::BOTH {
            self::rules(kernel, readback, family).await?;
        }
    }
    if *guard {
        let guard = kernel.nft.read().await?;
        readback.complete &= guard.complete;
        readback.state.guard = guard.guard;
        readback.guard_damage = guard.damage;
        if guard.foreign {
            readback.foreign.push(Foreign::NftTable);
        }
    }
    Ok(())
}

/// Leaves nothing of the parts that are read anew.
pub(super) fn forget(readback: &mut Readback, parts: &Parts) {
    let Parts { interfaces, nexthops, rules, guard, tables } = parts;
    let read = |key: &RouteKey| tables.contains(&(Family::of_net(key.destination), key.table));
    if *interfaces {
        readback.interfaces.clear();
    }
    if *nexthops {
        readback.state.nexthops.clear();
    }
    if *rules {
        readback.state.rules.clear();
    }
    if *guard {
        readback.state.guard = None;
        readback.guard_damage = None;
    }
    if !tables.is_empty() {
        readback.state.routes.retain(|key, _| !read(key));
    }
    readback.foreign.retain(|foreign| match foreign {
        Foreign::Route { key, .. } => !read(key),
        Foreign::Rule { .. } => !rules,
        Foreign::Nexthop { .. } => !nexthops,
        Foreign::NftTable => !guard,
        Foreign::RouteElsewhere { .. }
        | Foreign::RuleElsewhere { .. }
        | Foreign::NexthopElsewhere { .. } => true,
    });
}

async fn interfaces(kernel: &mut LinuxKernel, to: &mut Readback) -> Result<(), KernelError> {
    let links = kernel.route.dump(link::dump_links(), link::decode_link);
    let links = whole(links.await, "the interfaces", to)?;
    let addresses = kernel.route.dump(link::dump_addresses(), link::decode_address);
    let addresses = whole(addresses.await, "the addresses", to)?;
    let names: BTreeMap<u32, &str> = links.iter().map(|l| (l.index, l.name.as_str())).collect();
    for row in &links {
        let link::LinkRow { index, name: _, up, shut } = *row;
        let interface = Interface { index, up, shut, ..Interface::default() };
        to.interfaces.insert(row.name.clone(), interface);
    }
    for row in addresses {
        let Some(interface) = names.get(&row.index).and_then(|n| to.interfaces.get_mut(*n)) else {
            continue;
        };
        interface.addresses.insert(row.address);
        if row.tentative {
            interface.tentative.insert(row.address);
        }
    }
    kernel.interfaces = links.into_iter().map(|l| (l.name, l.index)).collect();
    Ok(())
}

/// Gives the nexthops with our ids and another protocol that have a form of ours.
async fn nexthops(kernel: &mut LinuxKernel, to: &mut Readback) -> Result<Others, KernelError> {
    let rows = kernel.route.dump(nexthop::dump(), nexthop::decode);
    let rows = whole(rows.await, "the nexthops", to)?;
    let names: BTreeMap<u32, &str> =
        kernel.interfaces.iter().map(|(name, index)| (*index, name.as_str())).collect();
    let families: BTreeMap<NexthopId, Family> =
        rows.iter().filter_map(|r| Some((r.id, r.family?))).collect();
    let mut others = Others::new();
    for row in rows {
        let nexthop::Row { id, protocol, form, family } = row;
        if !Layout::NEXTHOP_IDS.contains(&id.0) {
            continue;
        }
        let known = match form {
            nexthop::Form::Single { gateway, index } => names.get(&index).map(|name| {
                let interface = (*name).to_owned();
                Nexthop::Single { gateway, interface }
            }),
            nexthop::Form::Group(members, buckets) => {
                let member = members.keys().next();
                let family = member.and_then(|id| families.get(id)).copied();
                family.map(|family| Nexthop::Group { family, members, buckets })
            }
            nexthop::Form::Blackhole => family.map(|family| Nexthop::Blackhole { family }),
            nexthop::Form::Other => None,
        };
        match known {
            Some(nexthop) if protocol == kernel.layout.protocol => {
                to.state.nexthops.insert(id, nexthop);
            }
            Some(nexthop) => drop(others.insert(id, (nexthop, protocol))),
            None => to.foreign.push(Foreign::Nexthop { id, protocol }),
        }
    }
    Ok(others)
}

/// Nexthops with the protocol that they carry.
type Others = BTreeMap<NexthopId, (Nexthop, u8)>;

/// FRR's zebra installs every nexthop that it has seen again when an interface or address changes,
/// with its own protocol number on it. What a route or group of ours uses under an id of ours is
/// ours, whoever wrote it last; the next change by us has our number again.
fn take_back(others: Others, to: &mut Readback) {
    if others.is_empty() {
        return;
    }
    let mut used: BTreeSet<NexthopId> = BTreeSet::new();
    used.extend(to.state.routes.values().filter_map(|target| match target {
        RouteTarget::Nexthop(id) => Some(*id),
        RouteTarget::Unreachable => None,
    }));
    let is_group = |nexthop: &Nexthop| matches!(nexthop, Nexthop::Group { .. });
    let (groups, singles): (Others, Others) =
        others.into_iter().partition(|(_, (nexthop, _))| is_group(nexthop));
    for some in [groups, singles] {
        used.extend(to.state.nexthops.values().flat_map(|nexthop| match nexthop {
            Nexthop::Group { members, .. } => members.keys().copied().collect(),
            Nexthop::Single { .. } | Nexthop::Blackhole { .. } => Vec::new(),
        }));
        for (id, (nexthop, protocol)) in some {
            if used.contains(&id) {
                to.state.nexthops.insert(id, nexthop);
            } else {
                to.foreign.push(Foreign::Nexthop { id, protocol });
            }
        }
    }
}

/// Every table that is ours, used or not: what a former fabric left must be seen too.
pub(super) fn tables(layout: &Layout) -> Vec<Table> {
    let Layout {
        protocol: _,
        table_svc,
        table_in,
        table_guard,
        table_xs,
        table_core,
        table_adv,
        advertise: _,
        table_return_base: _,
        table_via_base: _,
        rule_base: _,
        mark_mask: _,
        strict_return: _,
    } = *layout;
    let fixed = [table_svc, table_in, table_guard, table_xs, table_core, table_adv];
    let returns = (1..=127).map(|index| layout.table_return(index));
    let through = (1..=Transit::MOST).map(|number| layout.table_via(number));
    fixed.into_iter().chain(returns).chain(through).collect()
}

async fn routes(
    kernel: &mut LinuxKernel,
    to: &mut Readback,
    family: Family,
    table: Table,
) -> Result<(), KernelError> {
    let decode = |kind, payload: &[u8]| {
        Ok(route::decode(kind, payload)?.filter(|row| row.key.table == table))
    };
    let dump: Message = route::dump_table(family, table);
    let rows = match kernel.route.dump(dump, decode).await {
        // The table does not exist.
        Err(Failure::Refused { errno: Errno::ENOENT, .. }) => return Ok(()),
        rows => whole(rows, "the routes", to)?,
    };
    for row in rows {
        let route::Row { key, protocol, target } = row;
        match target {
            Some(target) if protocol == kernel.layout.protocol => {
                to.state.routes.insert(key, target);
            }
            _ if !kernel.layout.fills_table(key.table) => {}
            _ => to.foreign.push(Foreign::Route { key, protocol }),
        }
    }
    Ok(())
}

async fn rules(
    kernel: &mut LinuxKernel,
    to: &mut Readback,
    family: Family,
) -> Result<(), KernelError> {
    let rows = kernel.route.dump(rule::dump(family), rule::decode);
    for row in whole(rows.await, "the rules", to)? {
        let rule::Row { priority, protocol, rule } = row;
        if !kernel.layout.owns_priority(priority) {
            continue;
        }
        match rule {
            Some(rule) if protocol == kernel.layout.protocol => {
                to.state.rules.insert(rule);
            }
            _ => to.foreign.push(Foreign::Rule { family, priority, protocol }),
        }
    }
    Ok(())
}

fn whole<T>(
    dump: Result<Dump<T>, Failure>,
    what: &str,
    to: &mut Readback,
) -> Result<Vec<T>, KernelError> {
    let Dump { items, complete } = dump.map_err(|e| KernelError::of(what, e))?;
    to.complete &= complete;
    Ok(items)
}

// === everything with our protocol ===

/// Objects with our protocol, in our ranges or not.
#[derive(Debug, Default)]
pub(super) struct Claimed {
    pub(super) nexthops: Vec<(NexthopId, bool)>,
    pub(super) routes: Vec<(RouteKey, Option<RouteTarget>)>,
    pub(super) rules: Vec<(Family, u32, Option<Rule>)>,
}

/// Everything that carries our protocol, in whatever table, priority or id. Nexthops say whether
/// they are groups.
pub(super) async fn claimed(kernel: &mut LinuxKernel) -> Result<Claimed, KernelError> {
    let protocol = kernel.layout.protocol;
    let mut claimed = Claimed::default();
    let rows = kernel.route.dump(nexthop::dump(), nexthop::decode).await;
    for row in rows.map_err(|e| KernelError::of("the nexthops", e))?.items {
        if row.protocol == protocol {
            let group = row.family.is_none();
            claimed.nexthops.push((row.id, group));
        }
    }
    for family in Family::BOTH {
        let dump = route::dump_protocol(family, protocol);
        let rows = kernel.route.dump(dump, route::decode).await;
        for row in rows.map_err(|e| KernelError::of("the routes", e))?.items {
            if row.protocol == protocol {
                claimed.routes.push((row.key, row.target));
            }
        }
        let rows = kernel.route.dump(rule::dump(family), rule::decode).await;
        for row in rows.map_err(|e| KernelError::of("the rules", e))?.items {
            if row.protocol == protocol {
                claimed.rules.push((family, row.priority, row.rule));
            }
        }
    }
    Ok(claimed)
}
