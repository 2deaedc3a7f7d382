//! The composition root: the only place that names concrete adapters, starts their tasks and orders
//! their end.
//!
//! Start: configuration, preflight, journal, zone and name server, kernel, bus, control socket. The
//! journal is replayed before anything is wanted of the kernel, and the zone is served from it
//! before the bus is asked. Stop: tasks are dropped, the kernel is left as it is.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use nett_dns::{Cookies, Deadlines, Stats, Transfers};
use nett_policy::document::Diagnostic;
use nett_policy::fabric::{Fabric, Family, Node};
use nett_policy::lower::object::NodeState;
use nett_policy::roster::Rosters;
use nkeys::KeyPair;
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::api::server::{ApiServer, Backend, Limits as ApiLimits};
use crate::api::types::{ApiError, ApiRequest, ApiResponse, ErrorCode};
use crate::bus::Bus;
use crate::bus::intake::ledger::Ledger;
use crate::bus::nats::{NatsBus, NatsConfig};
use crate::bus::wire::Sealed;
use crate::clock::Clock;
use crate::config::{Config, Loaded, load, read_keyring, read_seed, read_zone_keys};
use crate::controller::driver::{Driver, Finished, Input, Parts};
use crate::controller::event::Event;
use crate::controller::own_log::OwnLog;
use crate::controller::{Prefix, Setting, Snapshot, chosen_between, prefix};
use crate::http::{HttpServer, Inside, Limits as HttpLimits};
use crate::journal::{FileJournal, Journal, JournalWriter, Saved, Stored, sort};
use crate::kernel::preflight::{Finding, Interfaces, Severity, capabilities, preflight};
use crate::kernel::sysctl::{self, apply_sysctls};
use crate::kernel::{InterfaceCounters, KernelError, LinuxKernel, Monitor, NeighbourTable};
use crate::lease;
use crate::lease::hands::{Hands, Waiting};
use crate::name_server::{self, NameServer};
use crate::probe::LinkProbe;
use crate::probe::bfd::{self, Presence, Transition, Watcher};
use crate::probe::neighbours::{self, Watched};
use crate::probe::round_trips;
use crate::reconcile::{OwnLink, Reconciler};
use crate::records::Records;
use crate::rng::Rng;
use crate::signals::{Signals, again, tell_mistakes};
use crate::supervised::Supervised;
use crate::telemetry::event::StoredEntryRefused;
use crate::telemetry::{Metrics, Scrape};
use crate::watchdog::{self, State, Watchdog};
use crate::zone::ZoneKeeper;

/// Why the agent does not run. Each is the operator's.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("the configuration is refused")]
    Config(Vec<Diagnostic>),
    #[error("preflight refuses the start")]
    Preflight(Vec<Finding>),
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

/// Why a running agent stopped.
enum Ended {
    Stopped,
    /// Go on with this.
    Reload(Box<Loaded>),
    /// What was read does not count any more.
    ReadAgain,
}

/// Events that may wait for the controller.
const EVENTS: usize = 1024;

/// Runs until SIGTERM or SIGINT. SIGHUP reads the files again: valid ones take effect by starting
/// anew inside the process, which changes nothing in the kernel that need not change; with a
/// mistake in them everything stays as it is.
pub async fn run(path: &Path) -> Result<(), AppError> {
    let mut loaded = load(path).map_err(|e| AppError::Config(e.diagnostics))?;
    crate::telemetry::start(&loaded.config.log);
    let registry = prometheus::Registry::new();
    let metrics = Metrics::register(&registry).expect("the registry is new");
    let (dns, intake) = (Arc::new(Stats::default()), Arc::new(Ledger::default()));
    let scrape = Scrape { registry, metrics, dns, intake };
    let cookies = name_server::own_cookies().map_err(anyhow::Error::from)?;
    let mut rotation = JoinSet::new();
    rotation.spawn(name_server::rotate(cookies.clone()));
    // Sessions outlive a reload; dropped, they tell the far ends that nothing failed.
    let (watcher, told) = Watcher::start()
        .map_err(|e| anyhow::anyhow!("cannot start the thread that watches links: {e}"))?;
    let watching = Watching { watcher: Arc::new(watcher), told: Arc::new(Mutex::new(told)) };
    let mut signals = Signals::open()?;
    loop {
        let around = (&cookies, &watching);
        match run_loaded(path, loaded, scrape.clone(), around, &mut signals).await? {
            None => return Ok(()),
            Some(next) => loaded = next,
        }
    }
}

/// The thread of the BFD sessions, and what it has to tell.
struct Watching {
    watcher: Arc<Watcher>,
    told: Arc<Mutex<mpsc::Receiver<Transition>>>,
}

async fn run_loaded(
    path: &Path,
    loaded: Loaded,
    scrape: Scrape,
    (cookies, watching): (&Arc<Cookies>, &Watching),
    signals: &mut Signals,
) -> Result<Option<Loaded>, AppError> {
    let Loaded { config, fabric, catalog, notes } = loaded;
    for note in &notes {
        tracing::warn!(%note, "The configuration has a note.");
    }
    let fabric = Arc::new(fabric);
    let node = fabric.node(&config.node).expect("checked: the node is in the fabric").clone();
    let key = Arc::new(read_seed(&config.key_file).map_err(anyhow::Error::from)?);
    let clock = Clock::start();
    let (mut tasks, mut watchdog) = (Supervised::default(), Watchdog::default());
    let (inputs, input) = mpsc::channel(EVENTS);
    let (own, own_events) = mpsc::channel(EVENTS);

    let (mut kernel, monitor) = open_kernel(&config, &fabric, &node).await?;
    let dir = make_dir(&config)?;
    let mut records = Records::open(&dir, node.id.clone(), clock)
        .map_err(|e| anyhow::anyhow!("cannot open the audit trail: {e}"))?;
    let rosters = open_rosters(&config, &fabric, &mut records)?;
    let Opened { journal, saved, entries, whole } =
        open_journal(&config, &rosters, &mut records, &scrape.metrics)?;
    // Of two branches of a log the one that counts comes first; the other is passed over.
    let entries = sort(&saved, entries);
    let Prefix { start, whole: chained } = prefix(&saved, &entries);
    let whole = whole && chained;
    let opened = OwnLog::open(&dir, &node.id, &rosters);
    let (own_log, local) = opened.map_err(anyhow::Error::from)?;
    let (home, deadlines) = (node.site.clone(), Arc::new(Deadlines::default()));
    let (catalog, events) = (Arc::new(catalog), own.clone());
    let lease = tasks.among("the gate of leased services", |tasks| {
        lease::open::open(&dir, (&catalog, &node), &rosters, events, tasks)
    });
    let mut lease = lease.map_err(anyhow::Error::from)?;
    let zone = ZoneKeeper::open(&fabric, &home, &config.state_dir, clock.now().wall)
        .map_err(anyhow::Error::from)?
        .copied_by(secondaries(&config, &fabric)?)
        .limited_by(deadlines.clone());
    let zone = signed(zone, &config, &fabric, &scrape.dns)?;
    let profile = name_server::profile(&config.dns, &config.node, cookies);
    let profile = Arc::new(profile.map_err(anyhow::Error::from)?);
    let name_server = NameServer::new(&config.dns, profile, scrape.dns.clone());
    let name_server = name_server.map_err(anyhow::Error::from)?;

    let ((wanted, wishes), (looks, looked)) = (watch::channel(None), watch::channel(false));
    // Read once before anything is wanted, so that the first wish finds the kernel as it is.
    let found = crate::kernel::Kernel::read(&mut kernel).await;
    let found = found.map_err(|e| unread(e, "the first look"))?;
    let adopted = found.state != NodeState::default();
    let links = fabric.links_of(&node.id).map(|view| OwnLink {
        link: view.link.id.clone(),
        interface: view.near.interface.clone(),
        peer: view.far_site.clone(),
        addresses: view.near.addresses.clone(),
        gateways: Family::BOTH.into_iter().filter_map(|family| view.gateway(family)).collect(),
    });
    let views = watching.watcher.views();
    watching.watcher.watch(bfd::paths(&fabric, &node.id), bfd::memory::recall(&dir));
    let tell = bfd::tell(watching.told.clone(), views.clone(), own.clone(), scrape.metrics.clone());
    tasks.spawn("the thread that watches the links", tell);
    tasks.spawn("the memory of the links", bfd::memory::keep(dir.clone(), views.clone()));
    let (presence, present) = watch::channel(Presence::default());
    tasks.spawn("the way to the links", hand_on(present.clone(), watching.watcher.clone()));
    let reconciler = Reconciler {
        kernel,
        changes: monitor,
        wanted: wishes,
        looks: looked,
        events: own.clone(),
        links: links.collect(),
        paths: views,
        presence,
        layout: config.kernel.layout.clone(),
        dry_run: config.kernel.dry_run,
        rng: Rng::system(),
        metrics: scrape.metrics.clone(),
        counted: BTreeMap::new(),
        pulse: watchdog.pulse("the writer of the kernel"),
    };
    tasks.spawn("the writer of the kernel", reconciler.run());
    let measured = round_trips::links(&fabric, &node.id);
    if !measured.is_empty() {
        let counters = InterfaceCounters::open().map_err(anyhow::Error::from)?;
        let measure = round_trips::measure(measured, counters, present, own.clone());
        tasks.spawn("the round trips", measure);
    }
    let watched = watched(&fabric, &node);
    if !watched.is_empty() {
        let table = NeighbourTable::open().map_err(anyhow::Error::from)?;
        let watch = neighbours::watch(watched, table, own.clone(), scrape.metrics.clone());
        tasks.spawn("the watch over the site's other nodes", watch);
    }

    let reading = Reading { rosters: rosters.clone(), start, intake: scrape.intake.clone() };
    let (bus, mut bus_events) = start_bus(&config, &fabric, &node, &key, reading).await?;
    let to_driver = inputs.clone();
    tasks.spawn("the bus", async move {
        while let Some(event) = bus_events.recv().await {
            if to_driver.send(Input::Bus(event)).await.is_err() {
                return;
            }
        }
    });

    let socket =
        ApiServer::bind(&config.socket, ApiLimits::default()).map_err(anyhow::Error::from)?;
    let backend = Arc::new(Door { inputs: inputs.clone() });
    let (parting, part) = oneshot::channel::<()>();
    let (gone, all_gone) = oneshot::channel::<()>();
    let conversing = socket.serve(backend.clone(), async { drop(part.await) });
    tasks.spawn("the control socket", async {
        conversing.await;
        drop(gone);
    });
    if let Some(address) = config.http_listen {
        let http = HttpServer::bind(address, HttpLimits::default());
        let http = http.await.map_err(anyhow::Error::from)?;
        tasks.spawn("the HTTP server", http.serve(backend, scrape.clone()));
    }

    let bus: Arc<dyn Bus> = Arc::new(bus);
    let hands = lease.as_ref().map(|opened| Hands {
        fabric: fabric.clone(),
        node: node.id.clone(),
        bus: bus.clone(),
        key: key.clone(),
        rosters: rosters.clone(),
        store: opened.store.clone(),
        gate: opened.gate.clone(),
        deadlines,
        clock,
        events: own.clone(),
        waiting: Waiting::default(),
    });
    let (fabric_of, catalog_of) = (fabric.clone(), catalog.clone());
    let setting =
        Setting { fabric: fabric.clone(), catalog, layout: config.kernel.layout.clone(), node };
    let parts = Parts {
        bus,
        hands,
        probe: Arc::new(LinkProbe),
        journal,
        own_log,
        zone,
        name_server,
        records,
        clock,
        rng: Rng::system(),
        key,
        wanted,
        looks,
        metrics: scrape.metrics.clone(),
        rosters: rosters.clone(),
        intake: scrape.intake.clone(),
        pulse: watchdog.pulse("the decision maker"),
    };
    let mut driver = Driver::new(setting, parts, own).paced(config.journal);
    for sealed in local {
        driver.take(Event::LocalKept(Ok(Box::new(sealed)))).await;
    }
    if let Some(opened) = &mut lease {
        driver.take(opened.event()).await;
    }
    driver.replay(saved, entries, whole || !adopted).await;
    tracing::info!(node = %config.node, "The agent is ready.");
    watchdog::tell(State::Ready);
    if let Some(within) = watchdog::wanted_within() {
        let alive = || watchdog::tell(State::Alive);
        tasks.spawn("the watchdog", watchdog.run(within, alive));
    }
    let heard = (own_events, input);
    let ended = run_until_told(path, &mut driver, heard, &mut tasks, signals).await?;
    watchdog::tell(match ended {
        Ended::Stopped => State::Stopping,
        Ended::Reload(_) | Ended::ReadAgain => State::Reloading,
    });
    // Whoever asked for just this has an answer to read; an error says that the sender is dropped.
    drop(parting);
    let _ = all_gone.await;
    tasks.shutdown().await;
    Ok(match ended {
        Ended::Stopped => None,
        Ended::Reload(next) => Some(*next),
        Ended::ReadAgain => Some(again(path, || Loaded {
            config,
            fabric: (*fabric_of).clone(),
            catalog: (*catalog_of).clone(),
            notes,
        })),
    })
}

/// The zone with the keys that sign it, where it is signed and served here.
fn signed(
    zone: ZoneKeeper,
    config: &Config,
    fabric: &Fabric,
    stats: &Stats,
) -> Result<ZoneKeeper, AppError> {
    if config.dns.listen.is_empty() {
        return Ok(zone);
    }
    let directory = config.dns.key_dir.as_ref().map(|d| d.value.as_path());
    let keys = read_zone_keys(directory, &fabric.zone, &stats.signing);
    match keys.map_err(anyhow::Error::from)? {
        Some(keys) => Ok(zone.signed_with(Arc::new(keys)).map_err(anyhow::Error::from)?),
        None => Ok(zone),
    }
}

/// The secondaries of the zone, if this node is the one they copy from.
fn secondaries(config: &Config, fabric: &Fabric) -> Result<Arc<Transfers>, AppError> {
    let path = config.dns.tsig_keys.as_ref().map(|f| f.value.as_path());
    let keys = read_keyring(path).map_err(anyhow::Error::from)?;
    let transfer = &fabric.zone.transfer;
    Ok(Arc::new(Transfers::new(transfer, keys, transfer.from.as_ref() == Some(&config.node))))
}

/// Runs the driver until a signal says stop, or hands over a configuration to go on with.
async fn run_until_told(
    path: &Path,
    driver: &mut Driver<LinkProbe>,
    (own, inputs): (mpsc::Receiver<Event>, mpsc::Receiver<Input>),
    tasks: &mut Supervised,
    signals: &mut Signals,
) -> Result<Ended, AppError> {
    let (told, tell) = oneshot::channel();
    let stop = async {
        loop {
            tokio::select! {
                // Without one of its parts the agent would only look alive.
                ended = tasks.ended() => break drop(told.send(Err(ended))),
                _ = signals.terminate.recv() => {
                    tracing::info!("SIGTERM: the agent stops; forwarding stays as it is.");
                    break drop(told.send(Ok(None)));
                }
                _ = signals.interrupt.recv() => {
                    tracing::info!("SIGINT: the agent stops; forwarding stays as it is.");
                    break drop(told.send(Ok(None)));
                }
                _ = signals.hangup.recv() => {
                    watchdog::tell(State::Reloading);
                    match load(path) {
                        Ok(loaded) => {
                            tracing::info!("SIGHUP: the files are read again, and are good.");
                            break drop(told.send(Ok(Some(loaded))));
                        }
                        Err(refused) => {
                            tell_mistakes(&refused);
                            watchdog::tell(State::Kept);
                        }
                    }
                }
            }
        }
    };
    let finished = driver.run(own, inputs, stop).await;
    if finished == Finished::ReadAgain {
        return Ok(Ended::ReadAgain);
    }
    match tell.await {
        Ok(Ok(Some(loaded))) => Ok(Ended::Reload(Box::new(loaded))),
        Ok(Ok(None)) => Ok(Ended::Stopped),
        Ok(Err(ended)) => Err(anyhow::Error::from(ended).into()),
        Err(_) => Err(anyhow::anyhow!("the decision maker has nothing to wait for").into()),
    }
}

/// Tells the thread of the sessions which interfaces are there.
async fn hand_on(mut presence: watch::Receiver<Presence>, watcher: Arc<Watcher>) {
    while presence.changed().await.is_ok() {
        watcher.present(presence.borrow_and_update().clone());
    }
}

/// The nodes of the site that this one asks whether they are there, each at its first address.
fn watched(fabric: &Fabric, node: &Node) -> Vec<Watched> {
    let interface = node.outer.as_ref().unwrap_or(&node.core);
    let others = chosen_between(fabric, node).into_iter();
    let watched = others.filter_map(|other| {
        let (node, interface) = (other.id.clone(), interface.clone());
        Some(Watched { node, address: *other.addresses.first()?, interface })
    });
    watched.collect()
}

/// The interfaces of the fabric on this node.
pub fn interfaces(fabric: &Fabric, node: &Node) -> Interfaces {
    let (outer, through) = (fabric.outer_interfaces(node), fabric.through_interfaces(node));
    Interfaces { outer, core: vec![node.core.clone()], through }
}

async fn open_kernel(
    config: &Config,
    fabric: &Fabric,
    node: &Node,
) -> Result<(LinuxKernel, Monitor), AppError> {
    not_refused(capabilities(&config.ports()))?;
    let layout = config.kernel.layout.clone();
    let kernel = LinuxKernel::open(layout.clone()).map_err(anyhow::Error::from)?;
    // Without owner flags: nft 1.0.6 prints JSON that no parser takes for a table that has one.
    let mut kernel = kernel.unprotected();
    // Subscribed before the first read, so that nothing falls between the two.
    let monitor = Monitor::open(&layout, &kernel.ports()).map_err(anyhow::Error::from)?;
    let interfaces = interfaces(fabric, node);
    let findings = preflight(&mut kernel, &interfaces).await;
    let mut findings = findings.map_err(|e| unread(e, "preflight"))?;
    // A start that is refused sets nothing.
    let refused = findings.iter().any(Finding::refuses);
    if config.kernel.manage_sysctl && !refused {
        for finding in apply_sysctls(&interfaces) {
            match finding.severity {
                Severity::Ok => tracing::info!(%finding, "Set what the fabric needs."),
                _ => tracing::warn!(%finding, "Cannot set what the fabric needs."),
            }
        }
    }
    if !(config.kernel.manage_sysctl && refused) {
        findings.extend(sysctl::check(&interfaces));
    }
    not_refused(findings)?;
    Ok((kernel, monitor))
}

fn not_refused(findings: Vec<Finding>) -> Result<(), AppError> {
    for finding in findings.iter().filter(|f| f.severity == Severity::Warn) {
        tracing::warn!(%finding, "Preflight warns.");
    }
    let refused: Vec<Finding> = findings.into_iter().filter(Finding::refuses).collect();
    if refused.is_empty() { Ok(()) } else { Err(AppError::Preflight(refused)) }
}

/// Every question was asked several times by then.
fn unread(error: KernelError, when: &str) -> anyhow::Error {
    anyhow::Error::from(error).context(format!(
        "{when} cannot read the kernel; start the agent again, and look into the kernel's own log \
         if that does not help"
    ))
}

fn make_dir(config: &Config) -> Result<std::path::PathBuf, AppError> {
    let dir = &config.state_dir;
    std::fs::create_dir_all(dir)
        .map_err(|e| anyhow::anyhow!("cannot make the state directory {}: {e}", dir.display()))?;
    Ok(dir.clone())
}

/// Opens the journal and what it holds. Entries that are not believed are reported and passed over:
/// the bus delivers them again if they are good after all.
fn open_journal(
    config: &Config,
    rosters: &Rosters,
    records: &mut Records,
    metrics: &Metrics,
) -> Result<Opened, AppError> {
    let mut journal = FileJournal::open(&config.state_dir).map_err(anyhow::Error::from)?;
    let loaded = journal.load().map_err(anyhow::Error::from)?;
    for line in &loaded.damaged {
        tracing::error!(line, "The journal is damaged there; the bus has to deliver it again.");
        records.note("journal-damage", &format!("line {line}"));
    }
    let mut entries = Vec::new();
    let mut whole = loaded.is_whole();
    if loaded.missing > 0 {
        let missing = loaded.missing;
        tracing::error!(missing, "The journal lacks records that it once had.");
        records.note("journal-damage", &format!("{missing} records are gone"));
    }
    if loaded.previous {
        tracing::error!("The journal cannot be read as it was written; taking the one before too.");
        records.note("journal-damage", "taken together with the generation before");
    }
    let mut saved = Saved::default();
    for record in loaded.records {
        match Saved::read(&record) {
            Some(Ok(one)) => {
                saved.take(one);
                continue;
            }
            Some(Err(error)) => {
                tracing::error!(error, "The journal's checkpoint cannot be read.");
                records.note("journal-damage", &error);
                whole = false;
                continue;
            }
            None => {}
        }
        match Sealed::open_stored(&record.bytes, rosters) {
            Ok(sealed) => entries.push((sealed, record.stream_seq)),
            Err(error) => {
                let stream_seq = record.stream_seq;
                metrics.emit(StoredEntryRefused { stream_seq, error: &error });
                records.note("journal-entry", &error.message());
                whole = false;
            }
        }
    }
    records.complete(entries.iter().map(|(sealed, _)| sealed));
    let journal = JournalWriter::spawn(Box::new(journal))
        .map_err(|e| anyhow::anyhow!("cannot start the thread of the journal: {e}"))?;
    Ok(Opened { journal, saved, entries, whole })
}

/// Keeps the present fabric generation, and knows those before it.
fn open_rosters(
    config: &Config,
    fabric: &Fabric,
    records: &mut Records,
) -> Result<Arc<Rosters>, AppError> {
    let opened = crate::rosters::open(&config.state_dir, fabric);
    let (rosters, damaged) = opened.map_err(anyhow::Error::from)?;
    for error in damaged {
        tracing::error!(%error, "A fabric generation of the past cannot be read.");
        records.note("fabric-damage", &error.to_string());
    }
    Ok(Arc::new(rosters))
}

/// What the logs are read with, and from where on.
struct Reading {
    rosters: Arc<Rosters>,
    start: BTreeMap<nett_policy::id::SiteId, u64>,
    intake: Arc<Ledger>,
}

/// The journal as found.
struct Opened {
    journal: JournalWriter,
    saved: Saved,
    entries: Vec<Stored>,
    /// False when something that was once written may be missing.
    whole: bool,
}

async fn start_bus(
    config: &Config,
    fabric: &Arc<Fabric>,
    node: &Node,
    key: &KeyPair,
    reading: Reading,
) -> Result<(NatsBus, crate::bus::BusEvents), AppError> {
    let site = fabric.site(&node.site).expect("checked: a node's site exists");
    let own = &config.nats.urls;
    let urls = if own.is_empty() { site.nats.clone() } else { own.clone() };
    let seed = key.seed().map_err(|e| anyhow::anyhow!("the key file has no seed: {e}"))?;
    let nats = NatsConfig {
        site: node.site.clone(),
        node: node.id.clone(),
        urls,
        seed,
        tls: config.nats.tls.clone(),
        start: reading.start,
        capacity: EVENTS,
        rosters: reading.rosters,
        intake: reading.intake,
    };
    Ok(NatsBus::start(nats, fabric.clone()).await.map_err(anyhow::Error::from)?)
}

/// The control socket's way to the driver.
struct Door {
    inputs: mpsc::Sender<Input>,
}

impl Backend for Door {
    async fn call(&self, request: ApiRequest) -> ApiResponse {
        let (reply, answer) = oneshot::channel();
        let gone = || {
            let error = ApiError::new(ErrorCode::NotReady, "the agent is stopping", "try again");
            ApiResponse::transport_error(error)
        };
        if self.inputs.send(Input::Api { request, reply }).await.is_err() {
            return gone();
        }
        answer.await.unwrap_or_else(|_| gone())
    }
}

impl Inside for Door {
    async fn measure(&self) -> Option<Snapshot> {
        let (reply, answer) = oneshot::channel();
        self.inputs.send(Input::Measure(reply)).await.ok()?;
        answer.await.ok()
    }
}
