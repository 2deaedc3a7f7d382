//! What is measured of Nett: the name server as the agent runs it, over a generated catalogue.
//!
//! Commands come as lines on the standard input, so that a change starts where a placement starts
//! to differ, and ends where a question sees it: placement, lowering, zone and swap are inside.

use std::collections::BTreeMap;
use std::io::{BufRead as _, Write as _};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, bail};
use arc_swap::ArcSwap;
use nett_dns::{Limits, Serial, Server, Stats, Zone, ZoneSource, publish};
use nett_policy::id::{ServiceId, SiteId};
use nett_policy::log::intent::{Intent, World};
use nett_policy::lower;
use nett_policy::place::{Placement, place};
use nett_policy::service::Catalog;
use nett_policy::traffic::{Spread, Traffic};

use crate::data;

pub(crate) fn name_server(listen: SocketAddr, names: u32) -> anyhow::Result<()> {
    let (fabric, catalog) = data::catalog(names)?;
    let world = World { fabric: &fabric, catalog: &catalog };
    let mut placement = place(world, &Intent::default());
    let services = lower::answers(world, &placement);
    let started = Instant::now();
    let zone = Zone::build(ZoneSource {
        zone: &fabric.zone,
        fabric: &fabric,
        home: None,
        serial: Serial(1),
        services: &services,
    })?;
    let built = started.elapsed();
    drop(services);
    let zone = Arc::new(ArcSwap::from_pointee(zone));
    // Counted, but never reached by a load generator that stands for many networks.
    let limits = Limits { equal_answers_per_second: 1_000_000, ..Limits::default() };
    let _server = Server::start(&[listen], Arc::clone(&zone), limits, Arc::new(Stats::default()))?;
    let stdout = std::io::stdout();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let done = match line.split_once(' ') {
            Some(("built", _)) => format!("{}", built.as_micros()),
            Some(("first", count)) => change(world, &mut placement, &zone, count.parse()?, 0)?,
            Some(("second", count)) => change(world, &mut placement, &zone, count.parse()?, 1)?,
            _ => bail!("unknown command `{line}`"),
        };
        writeln!(stdout.lock(), "{done}")?;
    }
    Ok(())
}

/// Sends the first `count` names to their site number `to`; gives the microseconds it took.
fn change(
    world: World<'_>,
    placement: &mut Placement,
    zone: &ArcSwap<Zone>,
    count: u32,
    to: usize,
) -> anyhow::Result<String> {
    let started = Instant::now();
    let mut changes = BTreeMap::new();
    for n in 0..count {
        let (id, site) = target(world.catalog, n, to)?;
        let placed = placement.services.get_mut(&id).context("a placed service")?;
        placed.traffic = Traffic::settled(Spread::one(site));
        let service = world.catalog.get(&id).context("a service")?;
        changes.insert(id, Some(lower::answers_of(service, placed)));
    }
    let current = zone.load();
    let next = current.with(&changes, current.serial().next())?;
    publish(zone, next)?;
    Ok(started.elapsed().as_micros().to_string())
}

fn target(catalog: &Catalog, n: u32, to: usize) -> anyhow::Result<(ServiceId, SiteId)> {
    let id: ServiceId = format!("p{}/e{}/s{n}", n % 100, n % 4).parse()?;
    let service = catalog.get(&id).context("a service")?;
    let site = service.sites().into_iter().nth(to).context("a second site")?;
    Ok((id, site))
}

/// Sends every question back with the response bit set.
pub(crate) fn floor(listen: SocketAddr) -> anyhow::Result<()> {
    let socket = UdpSocket::bind(listen)?;
    let mut buffer = [0; 4096];
    loop {
        let (length, from) = socket.recv_from(&mut buffer)?;
        if let Some(flags) = buffer.get_mut(2) {
            *flags |= 0x80;
        }
        socket.send_to(&buffer[..length], from)?;
    }
}
