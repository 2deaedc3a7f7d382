//! The page of metrics: every name, what the document says about it, and the numbers of a
//! reconciler over a simulated kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nett_agent::bus::wire::OpenError;
use nett_agent::controller::event::{AppendFailure, Event};
use nett_agent::controller::{ServiceSnapshot, Snapshot};
use nett_agent::kernel::{
    Count, Filled, Kernel, KernelError, KernelEvent, Origin, Parts, Readback, SimulatedKernel,
};
use nett_agent::probe::bfd::{Presence, Views};
use nett_agent::reconcile::{Changes, Reconciler, Wanted};
use nett_agent::rng::Rng;
use nett_agent::telemetry::event::{
    EntryAppended, EntryRefused, EntryTaken, Journalled, KernelDrift, KernelOp, KernelRound,
    LinkDoubted, LinkLost, NeighbourChanged, Outcome, Resync, SeparationBroken, SessionChanged,
};
use nett_agent::telemetry::metric_name::{ALL, Kind};
use nett_agent::telemetry::{Answer, Duty, Metrics, Scrape};
use nett_agent::watchdog::Pulse;
use nett_dns::{Limits, Serial, Server, Setup, Stats, Zone, ZoneSource};
use nett_policy::document::{SourceFile, compile};
use nett_policy::id::Epoch;
use nett_policy::log::entry::{Body, EndFact, Slot};
use nett_policy::log::intent::{Intent, World};
use nett_policy::lower::object::{GuardElement, Layout, Nexthop, NexthopId, NodeState};
use nett_policy::plan::{Op, Plan};
use nett_policy::task::times::Cost;
use prometheus::Registry;
use tokio::sync::{mpsc, watch};

fn scrape() -> Scrape {
    let registry = Registry::new();
    let metrics = Metrics::register(&registry).expect("an empty registry");
    Scrape { registry, metrics, dns: Arc::new(Stats::default()), intake: Arc::default() }
}

fn text(scrape: &Scrape, snapshot: Option<Snapshot>) -> String {
    scrape.text(&Answer { snapshot, after: Duration::from_millis(3) })
}

/// The value of a sample, by its name with its labels.
fn sample(page: &str, name: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

fn snapshot() -> Snapshot {
    let percent = BTreeMap::from([("osl".parse().expect("a site"), 100)]);
    let service = ServiceSnapshot { epoch: Epoch(7), percent };
    Snapshot {
        bus_connected: true,
        bus_heard: Some(false),
        sites_connected: 1,
        peer_lag: BTreeMap::from([("svg".parse().expect("a site"), Duration::from_millis(1500))]),
        links: BTreeMap::from([("osl-svg-1".parse().expect("a link"), true)]),
        held: BTreeMap::from([("osl-svg-1".parse().expect("a link"), true)]),
        saturated: BTreeMap::from([("osl-svg-1".parse().expect("a link"), false)]),
        rtts: BTreeMap::from([(
            "osl-svg-1".parse().expect("a link"),
            Duration::from_micros(1_204),
        )]),
        tasks: BTreeMap::from([(nett_agent::api::types::TaskStateDoc::Running, 2)]),
        services: BTreeMap::from([("shop/prod/api".parse().expect("a service"), service)]),
        dns_serial: Some(41),
        dns_listening: Some(false),
        conflicts: 0,
        leases: BTreeMap::from([(
            "shop/prod/api".parse().expect("a service"),
            Duration::from_millis(42_500),
        )]),
        unprotected: ["shop/prod/api".parse().expect("a service")].into(),
        voters: BTreeMap::from([("file", 2)]),
        facts: BTreeMap::from([(["shop/prod/api", "osl", "data-lag"].map(str::to_owned), 0.25)]),
        costs: BTreeMap::from([(
            "shop/prod/api".parse().expect("a service"),
            Cost { rto: Some(Duration::from_millis(4_200)), rpo: Some(Duration::from_millis(250)) },
        )]),
    }
}

fn nexthop() -> Nexthop {
    let gateway = "192.0.2.2".parse().expect("an address");
    Nexthop::Single { interface: "wan0".to_owned(), gateway }
}

/// Two real questions to a real server: one steered, one that is too short to answer.
fn ask_dns(stats: &Arc<Stats>) {
    let file = |name: &str| {
        let text = nett_fixtures::fabric_file("two-sites", name).expect("the fixture is there");
        SourceFile::new(text.name, text.text)
    };
    let compiled = compile(&file("fabric.toml"), &file("services.toml"));
    let (fabric, catalog) = compiled.expect("the fixture is valid");
    let world = World { fabric: &fabric, catalog: &catalog };
    let placement = nett_policy::place::place(world, &Intent::default());
    let services = nett_policy::lower::answers(world, &placement);
    let serial = Serial::of_snapshot(1);
    let zone =
        ZoneSource { zone: &fabric.zone, fabric: &fabric, home: None, serial, services: &services };
    let zone = Arc::new(arc_swap::ArcSwap::from_pointee(Zone::build(zone).expect("a zone")));
    let listen = ["127.0.0.1:0".parse().expect("an address")];
    let server = Server::start(Setup {
        listen: listen.to_vec(),
        encrypted: None,
        zone,
        limits: Limits::default(),
        profile: Arc::default(),
        stats: stats.clone(),
    });
    let server = server.expect("a free port");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    let to = server.addresses()[0];
    socket.send_to(b"short", to).expect("sent");
    let mut question = vec![0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["api", "prod", "shop", "steer", "example"] {
        question.push(u8::try_from(label.len()).expect("short"));
        question.extend_from_slice(label.as_bytes());
    }
    question.extend_from_slice(&[0, 0, 1, 0, 1]);
    socket.send_to(&question, to).expect("sent");
    socket.recv(&mut [0; 512]).expect("an answer");
}

fn emit_everything(metrics: &Metrics) {
    let op = Op::AddNexthop(NexthopId(7), nexthop());
    metrics.emit(KernelOp { op: &op, outcome: Outcome::Done });
    metrics.emit(KernelDrift { plan: &Plan { ops: vec![op] } });
    metrics.emit(KernelRound { took: Duration::from_millis(2) });
    metrics.emit(Resync::Start);
    metrics.emit(SeparationBroken { class: "leak", packets: 2 });
    let node = "osl-r2".parse().expect("an id");
    metrics.emit(NeighbourChanged { node: &node, silent: true });
    let link = "osl-svg-1".parse().expect("an id");
    let (reason, remote) = ("control detection time expired", "not heard");
    let (from, to, family) = ("up", "down", "IPv4");
    let unsaid = Some(0);
    metrics.emit(SessionChanged { unsaid, link: &link, family, from, to, reason, remote });
    metrics.emit(LinkDoubted { link: &link, family, doubted: true });
    metrics.emit(LinkLost { link: &link });
    metrics.traffic(&BTreeMap::from([("leak".to_owned(), Count { packets: 3, bytes: 180 })]));
    let slot =
        Slot { task: "osl.01jd3m5w7r8v3qyb2s9t4k6e1h".parse().expect("an id"), term: 0, index: 1 };
    let outcome = nett_policy::log::entry::Outcome::Done;
    let body = Body::End(EndFact { slot, outcome, reason: String::new() });
    metrics.emit(EntryTaken { body: &body, replayed: true });
    metrics.emit(EntryAppended { kind: "end", result: Err(&AppendFailure::Conflict) });
    let site = "osl".parse().expect("a site");
    metrics.emit(EntryRefused { site: &site, stream_seq: 3, error: &OpenError::SignatureForm });
    metrics.emit(Journalled { took: Duration::from_micros(300), result: Ok(()) });
}

#[test]
fn the_page_has_every_metric_with_its_kind_and_labels_and_no_other() {
    let scrape = scrape();
    emit_everything(&scrape.metrics);
    ask_dns(&scrape.dns);
    scrape.dns.signing.expires(1_800_000_000);
    let page = text(&scrape, Some(snapshot()));
    let declared: BTreeSet<(&str, &str)> =
        ALL.iter().map(|metric| (metric.name, metric.kind.as_str())).collect();
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    assert_eq!(types.collect::<BTreeSet<_>>(), declared);
    for metric in ALL {
        let start = match metric.kind {
            Kind::Histogram => format!("{}_sum", metric.name),
            Kind::Counter | Kind::Gauge => metric.name.to_owned(),
        };
        let rows = page.lines().filter_map(|line| line.strip_prefix(&start));
        let labels: BTreeSet<BTreeSet<&str>> = rows
            .filter(|rest| rest.starts_with(['{', ' ']))
            .map(|rest| {
                let inside = rest.strip_prefix('{').and_then(|r| r.split_once('}'));
                let pairs = inside.map_or("", |(pairs, _)| pairs).split(',');
                pairs.filter_map(|pair| Some(pair.split_once('=')?.0)).collect()
            })
            .collect();
        assert_eq!(
            labels,
            BTreeSet::from([metric.labels.iter().copied().collect()]),
            "{}",
            metric.name
        );
    }
    for (name, value) in [
        ("nett_kernel_ops_total{object=\"nexthop\",op=\"add\",result=\"ok\"}", 1.0),
        ("nett_kernel_drift_total{cause=\"missing\",object=\"nexthop\"}", 1.0),
        ("nett_traffic_bytes_total{class=\"leak\",peer=\"\"}", 180.0),
        ("nett_entries_total{kind=\"end\",result=\"conflict\"}", 1.0),
        ("nett_entries_refused_total{reason=\"signature\"}", 1.0),
        ("nett_peer_lag_seconds{site=\"svg\"}", 1.5),
        ("nett_tasks{state=\"running\"}", 2.0),
        ("nett_service_epoch{service=\"shop/prod/api\"}", 7.0),
        ("nett_service_weight{service=\"shop/prod/api\",site=\"osl\"}", 100.0),
        ("nett_dns_queries_total{rcode=\"noerror\",transport=\"udp\"}", 1.0),
        ("nett_dns_dropped_total{reason=\"short\"}", 1.0),
        ("nett_dns_answer_seconds_bucket{le=\"+Inf\"}", 1.0),
        ("nett_dns_answer_seconds_count", 1.0),
        ("nett_dns_serial", 41.0),
        ("nett_dns_listening", 0.0),
        ("nett_link_losses_total{link=\"osl-svg-1\"}", 1.0),
        ("nett_link_held{link=\"osl-svg-1\"}", 1.0),
        ("nett_link_saturated{link=\"osl-svg-1\"}", 0.0),
        ("nett_conflicts", 0.0),
        ("nett_event_loop_lag_seconds", 0.003),
        ("nett_ready{duty=\"kernel\"}", 0.0),
    ] {
        assert_eq!(sample(&page, name), Some(value), "{name}");
    }
}

#[test]
fn without_the_controller_its_part_is_left_out() {
    let scrape = scrape();
    text(&scrape, Some(snapshot()));
    let page = text(&scrape, None);
    assert_eq!(sample(&page, "nett_bus_connected"), None, "an old value is not shown as new");
    assert_eq!(sample(&page, "nett_conflicts"), None);
    assert_eq!(sample(&page, "nett_journal_degraded"), Some(0.0), "the rest is");
}

#[test]
fn the_document_lists_exactly_these_metrics() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/METRICS.md");
    let document = std::fs::read_to_string(path).expect("docs/METRICS.md is readable");
    let rows = document.lines().filter(|line| line.starts_with("| `nett_"));
    let told: Vec<(String, String, Vec<String>)> = rows
        .map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let [_, name, kind, labels, _unit, meaning, _] = cells[..] else {
                panic!("five cells are wanted: {row}")
            };
            assert!(!meaning.is_empty(), "{row}");
            let plain = |text: &str| text.trim_matches('`').to_owned();
            let labels = labels.split(", ").filter(|label| !label.is_empty());
            (plain(name), kind.to_owned(), labels.map(plain).collect())
        })
        .collect();
    let own = |text: &&str| (*text).to_owned();
    let here = ALL.iter().map(|metric| {
        let labels = metric.labels.iter().map(own).collect();
        (metric.name.to_owned(), metric.kind.as_str().to_owned(), labels)
    });
    assert_eq!(told, here.collect::<Vec<_>>());
}

/// A kernel that a test can reach into while the reconciler owns it.
#[derive(Clone)]
struct Shared(Arc<Mutex<SimulatedKernel>>);

impl Shared {
    fn with<T>(&self, f: impl FnOnce(&mut SimulatedKernel) -> T) -> T {
        f(&mut self.0.lock().expect("no test panics in here"))
    }

    /// The simulated kernel's futures never wait.
    fn now<T>(future: impl Future<Output = T>) -> T {
        futures::FutureExt::now_or_never(future).expect("nothing to wait for")
    }
}

impl Kernel for Shared {
    async fn read(&mut self) -> Result<Readback, KernelError> {
        self.with(|kernel| Self::now(kernel.read()))
    }

    async fn refresh(&mut self, to: &mut Readback, parts: &Parts) -> Result<(), KernelError> {
        self.with(|kernel| Self::now(kernel.refresh(to, parts)))
    }

    async fn counters(&mut self) -> Result<BTreeMap<String, Count>, KernelError> {
        self.with(|kernel| Self::now(kernel.counters()))
    }

    async fn watched(
        &mut self,
        elements: &BTreeSet<GuardElement>,
    ) -> Result<BTreeMap<GuardElement, u64>, KernelError> {
        self.with(|kernel| Self::now(kernel.watched(elements)))
    }

    async fn buckets(&mut self, groups: &BTreeSet<NexthopId>) -> Result<Filled, KernelError> {
        self.with(|kernel| Self::now(kernel.buckets(groups)))
    }

    async fn knows(&mut self, neighbour: IpAddr, interface: &str) -> Result<bool, KernelError> {
        self.with(|kernel| Self::now(kernel.knows(neighbour, interface)))
    }

    async fn apply(&mut self, op: &Op) -> Result<(), KernelError> {
        self.with(|kernel| Self::now(kernel.apply(op)))
    }
}

struct News(mpsc::Receiver<KernelEvent>);

impl Changes for News {
    async fn next(&mut self) -> Option<KernelEvent> {
        self.0.recv().await
    }
}

struct Rig {
    kernel: Shared,
    scrape: Scrape,
    wanted: watch::Sender<Wanted>,
    events: mpsc::Receiver<Event>,
    news: mpsc::Sender<KernelEvent>,
}

fn reconciler(dry_run: bool) -> Rig {
    let kernel = Shared(Arc::new(Mutex::new(SimulatedKernel::new(&["wan0"]))));
    let scrape = scrape();
    let (wanted, wishes) = watch::channel(None);
    let (sender, events) = mpsc::channel(16);
    let (news, changes) = mpsc::channel(16);
    let reconciler = Reconciler {
        kernel: kernel.clone(),
        changes: News(changes),
        wanted: wishes,
        events: sender,
        links: Vec::new(),
        paths: watch::channel(Views::default()).1,
        presence: watch::channel(Presence::default()).0,
        layout: Layout::default(),
        dry_run,
        counted: BTreeMap::new(),
        rng: Rng::seeded(1),
        metrics: scrape.metrics.clone(),
        pulse: Pulse::unasked(),
    };
    tokio::spawn(reconciler.run());
    Rig { kernel, scrape, wanted, events, news }
}

impl Rig {
    async fn applied(&mut self) {
        loop {
            let event = self.events.recv().await.expect("the reconciler runs");
            if matches!(event, Event::Applied(_)) {
                return;
            }
        }
    }

    fn value(&self, name: &str) -> Option<f64> {
        sample(&text(&self.scrape, None), name)
    }
}

fn desired() -> NodeState {
    NodeState { nexthops: BTreeMap::from([(NexthopId(7), nexthop())]), ..NodeState::default() }
}

#[tokio::test(start_paused = true)]
async fn a_reconciler_counts_what_it_does_and_what_others_undo() {
    const MISSING: &str = "nett_kernel_drift_total{cause=\"missing\",object=\"nexthop\"}";
    const ADDED: &str = "nett_kernel_ops_total{object=\"nexthop\",op=\"add\",result=\"ok\"}";
    let mut rig = reconciler(false);
    assert!(!rig.scrape.metrics.is_fulfilled(Duty::Kernel));
    rig.wanted.send_replace(Some((1, Arc::new(desired()))));
    rig.applied().await;
    assert!(rig.scrape.metrics.is_fulfilled(Duty::Kernel));
    assert_eq!(rig.value(ADDED), Some(1.0));
    assert_eq!(rig.value("nett_kernel_apply_seconds_count"), Some(1.0));
    assert_eq!(rig.value(MISSING), None, "the first time is no drift");

    rig.kernel.with(|kernel| kernel.meddle(|state| state.nexthops.clear()));
    rig.news.send(KernelEvent::Objects(Origin::Other)).await.expect("it listens");
    rig.applied().await;
    assert_eq!(rig.value(MISSING), Some(1.0));
    assert_eq!(rig.value(ADDED), Some(2.0));
    assert_eq!(rig.value("nett_kernel_resync_total{reason=\"changed\"}"), Some(1.0));
    assert_eq!(rig.value("nett_kernel_resync_total{reason=\"start\"}"), Some(1.0));

    rig.wanted.send_replace(Some((2, Arc::default())));
    rig.applied().await;
    assert_eq!(rig.value(MISSING), Some(1.0), "a new wish is no drift");
    let surplus = "nett_kernel_drift_total{cause=\"surplus\",object=\"nexthop\"}";
    assert_eq!(rig.value(surplus), None);
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_is_ready_only_when_nothing_is_left_to_do() {
    let mut rig = reconciler(true);
    rig.wanted.send_replace(Some((1, Arc::new(desired()))));
    rig.applied().await;
    let planned = "nett_kernel_ops_total{object=\"nexthop\",op=\"add\",result=\"dry-run\"}";
    assert_eq!(rig.value(planned), Some(1.0));
    assert!(!rig.scrape.metrics.is_fulfilled(Duty::Kernel));
    rig.kernel.with(|kernel| kernel.meddle(|state| *state = desired()));
    rig.news.send(KernelEvent::Interfaces).await.expect("it listens");
    rig.applied().await;
    assert!(rig.scrape.metrics.is_fulfilled(Duty::Kernel));
}

#[tokio::test(start_paused = true)]
async fn traffic_is_read_again_and_again() {
    const STRAY: &str = "nett_traffic_packets_total{class=\"stray\",peer=\"\"}";
    let rig = reconciler(false);
    for (added, sum) in [(5, 5.0), (2, 7.0)] {
        rig.kernel.with(|kernel| kernel.count("stray", added, added * 60));
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!(rig.value(STRAY), Some(sum));
    }
}
