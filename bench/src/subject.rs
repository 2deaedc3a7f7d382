//! What is measured of Nett: the name server as the agent runs it, over a generated catalogue.
//!
//! Commands come as lines on the standard input. A new placement is prepared before, as the zone
//! files of other servers are; taking it over, lowering, zone and swap are what is measured.
#![expect(clippy::print_stderr, reason = "how long signing took is told beside the commands")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, Write as _};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use arc_swap::ArcSwap;
use nett_dns::dnssec::{Keys, SigningStats, ZoneKey};
use nett_dns::{Changes, Limits, Serial, Server, Setup, Zone, ZoneSource, publish};
use nett_policy::id::ServiceId;
use nett_policy::log::intent::{Intent, World};
use nett_policy::lower;
use nett_policy::lower::answers::{Answers, Standings};
use nett_policy::place::{Placement, place};
use nett_policy::service::Service;
use nett_policy::traffic::{Spread, Traffic};

use crate::data;

pub(crate) fn name_server(
    listen: SocketAddr,
    names: u32,
    keys: Option<&Path>,
) -> anyhow::Result<()> {
    let (fabric, catalog) = data::catalog(names)?;
    let world = World { fabric: &fabric, catalog: &catalog };
    let mut placement = place(world, &Intent::default());
    let mut services = lower::answers(world, &placement);
    let started = Instant::now();
    let zone = Zone::build(ZoneSource {
        zone: &fabric.zone,
        fabric: &fabric,
        home: None,
        serial: Serial(1),
        services: &services,
    })?;
    let built = started.elapsed();
    let zone = match keys {
        Some(keys) => signed(zone, keys)?,
        None => zone,
    };
    let zone = Arc::new(ArcSwap::from_pointee(zone));
    // Counted, but never reached by a load generator that stands for many networks.
    let limits = Limits { equal_answers_per_second: 1_000_000, ..Limits::default() };
    let _server = Server::start(Setup {
        listen: vec![listen],
        encrypted: None,
        zone: Arc::clone(&zone),
        limits,
        profile: Arc::default(),
        stats: Arc::default(),
    })?;
    let stdout = std::io::stdout();
    let mut moved = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let done = match line.split_once(' ') {
            Some(("built", _)) => format!("{}", built.as_micros()),
            Some(("first", which)) => {
                moved = place_at(world, which == "all", 0)?;
                String::new()
            }
            Some(("second", which)) => {
                moved = place_at(world, which == "all", 1)?;
                String::new()
            }
            Some(("apply", _)) => change((&mut placement, &mut moved), &mut services, &zone)?,
            _ => bail!("unknown command `{line}`"),
        };
        writeln!(stdout.lock(), "{done}")?;
    }
    Ok(())
}

/// The zone with all its signatures.
fn signed(zone: Zone, keys: &Path) -> anyhow::Result<Zone> {
    let file = |ending: &str| -> anyhow::Result<String> {
        let mut files = std::fs::read_dir(keys)?.filter_map(|e| Some(e.ok()?.path()));
        let found = files.find(|f| f.extension().is_some_and(|e| e == ending));
        Ok(std::fs::read_to_string(found.context("no key in the directory")?)?)
    };
    let key = ZoneKey::read(data::ZONE, &file("key")?, Some(&file("private")?))?;
    let validity = Duration::from_secs(14 * 86_400);
    let stats = Arc::<SigningStats>::default();
    let keys = Keys::new(data::ZONE, (Arc::new(key), None), Vec::new(), validity, stats.clone());
    let keys = keys.context("a key that signs")?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let started = Instant::now();
    let serial = zone.serial();
    let zone = zone.with_keys(Arc::new(keys), now).caught_up(serial, usize::MAX, now);
    let (made, took) = (stats.signatures(), started.elapsed());
    eprintln!("{made} signatures in {} ms", took.as_millis());
    Ok(zone)
}

/// The placement that is to come: name 0, or all names, at their site number `to`. As `place` does
/// it, services in the same state share one copy.
fn place_at(
    world: World<'_>,
    all: bool,
    to: usize,
) -> anyhow::Result<Vec<(ServiceId, Arc<Traffic>)>> {
    let one: ServiceId = "p0/e0/s0".parse()?;
    let moving = |service: &&Service| all || service.id == one;
    let mut known = BTreeMap::new();
    let traffic = |service: &Service| {
        let site = service.sites().into_iter().nth(to).context("a second site")?;
        let settled = || Arc::new(Traffic::settled(Spread::one(site.clone())));
        let traffic = known.entry(site.clone()).or_insert_with(settled);
        Ok((service.id.clone(), Arc::clone(traffic)))
    };
    world.catalog.iter().filter(moving).map(traffic).collect()
}

/// Serves another placement; gives the microseconds it took, with the old snapshot gone. What was
/// before stands in `moved` behind it, so that the next change may be the way back.
fn change(
    (placement, moved): (&mut Placement, &mut [(ServiceId, Arc<Traffic>)]),
    services: &mut Answers,
    zone: &ArcSwap<Zone>,
) -> anyhow::Result<String> {
    let started = Instant::now();
    // All are in the order of ids.
    let mut moved = moved.iter_mut().peekable();
    let mut standings = Standings::default();
    let placed = placement.services.values_mut();
    let mut changes = Vec::with_capacity(moved.len());
    for ((id, answers), placed) in services.iter_mut().zip(placed) {
        let Some((_, traffic)) = moved.next_if(|(moved, _)| *moved == *id) else { continue };
        std::mem::swap(&mut placed.traffic, traffic);
        answers.take_place(placed, &mut standings);
        changes.push((id, Some(&*answers)));
    }
    let changes = Changes::in_order(changes);
    let current = zone.load();
    let next = current.with(&changes, current.serial().next());
    publish(zone, next)?;
    Ok(started.elapsed().as_micros().to_string())
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
