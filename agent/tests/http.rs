//! The HTTP server over real sockets, in front of an agent that answers as it is told.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nett_agent::api::server::Backend;
use nett_agent::api::types::{
    ApiError, ApiRequest, ApiResponse, ErrorCode, IdentityDoc, Outcome, Payload, ServiceLine,
    Stamp, StatusDoc,
};
use nett_agent::controller::Snapshot;
use nett_agent::http::{HttpServer, Inside, Limits};
use nett_agent::telemetry::{Duty, Metrics, Scrape};
use serde_json::Value;
use tokio::runtime::Runtime;

/// Longer than anything here takes, so that a hang is a failure and not a wait.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Fake {
    /// Answers nothing at all.
    stuck: AtomicBool,
    /// Says that it is stopping.
    stopping: AtomicBool,
    /// Has more services than any socket buffer holds.
    huge: AtomicBool,
}

impl Fake {
    fn payload(&self, request: ApiRequest) -> Payload {
        match request {
            ApiRequest::Identify { key: None } => Payload::Identity(IdentityDoc {
                site: "osl".to_owned(),
                node: "osl-b1".to_owned(),
                version: "0".to_owned(),
                operator: None,
                roles: Vec::new(),
                revoked: None,
            }),
            ApiRequest::Status {} => Payload::Status(StatusDoc {
                leases: None,
                local: Vec::new(),
                fabric: "nordic".to_owned(),
                generation: 4,
                fabric_hash: String::new(),
                sites: Vec::new(),
                services: 1,
                open_tasks: Vec::new(),
                rate_limited: Vec::new(),
                floods: Vec::new(),
                revoked: Vec::new(),
                conflicts: Vec::new(),
                asks: Vec::new(),
                refused: 0,
            }),
            ApiRequest::Services { selector: None } => {
                let lines = if self.huge.load(Ordering::SeqCst) { 200_000 } else { 1 };
                Payload::Services { services: vec![line(); lines] }
            }
            ApiRequest::Tasks {} => Payload::Tasks { tasks: Vec::new() },
            other => panic!("HTTP never asks {other:?}"),
        }
    }
}

fn line() -> ServiceLine {
    ServiceLine {
        id: "shop/prod/api".to_owned(),
        category: "A".to_owned(),
        mode: "active-passive".to_owned(),
        primary: None,
        unprotected: false,
        spread: "osl".to_owned(),
        epoch: 7,
        health: [("osl".to_owned(), "unknown".to_owned())].into(),
        task: None,
        age_ms: 0,
    }
}

impl Backend for Fake {
    async fn call(&self, request: ApiRequest) -> ApiResponse {
        if self.stuck.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let outcome = if self.stopping.load(Ordering::SeqCst) {
            let text = "the agent is stopping";
            Outcome::from(ApiError::new(ErrorCode::NotReady, text, "try again"))
        } else {
            Outcome::from(self.payload(request))
        };
        ApiResponse::new("osl", "osl-b1", Stamp::from_ms(1_795_253_400_000), outcome)
    }
}

impl Inside for Fake {
    async fn measure(&self) -> Option<Snapshot> {
        if self.stuck.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        Some(Snapshot { bus_connected: true, ..Snapshot::default() })
    }
}

struct World {
    fake: Arc<Fake>,
    metrics: Metrics,
    address: SocketAddr,
    runtime: Runtime,
}

impl World {
    fn new() -> Self {
        Self::within(Limits::default())
    }

    fn within(limits: Limits) -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().expect("a runtime");
        let registry = prometheus::Registry::new();
        let metrics = Metrics::register(&registry).expect("an empty registry");
        let scrape = Scrape {
            registry,
            metrics: metrics.clone(),
            dns: Arc::default(),
            intake: Arc::default(),
        };
        let any = "127.0.0.1:0".parse().expect("an address");
        let server = runtime.block_on(HttpServer::bind(any, limits)).expect("a free port");
        let address = server.address();
        assert_ne!(address.port(), 0, "the port that was taken");
        let fake = Arc::new(Fake::default());
        runtime.spawn(server.serve(fake.clone(), scrape));
        Self { fake, metrics, address, runtime }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream.set_write_timeout(Some(PATIENCE)).expect("set");
        stream
    }

    fn send(&self, request: &str) -> Answer {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).expect("sent");
        Answer::read(stream)
    }

    fn get(&self, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n"))
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    /// Up to the end of the connection, which is the server's to close.
    fn read(mut stream: TcpStream) -> Self {
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer and an end");
        let (head, body) = text.split_once("\r\n\r\n").expect("an HTTP answer");
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
        Self { status, head: head.to_lowercase(), body: body.to_owned() }
    }

    fn has(&self, header: &str) -> bool {
        self.head.lines().any(|line| line == header)
    }
}

/// Nothing but an end (or a reset) comes, within the patience.
fn ends_unanswered(mut stream: TcpStream) {
    match stream.read(&mut [0; 16]) {
        Ok(read) => assert_eq!(read, 0, "an answer to half a request"),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_questions_are_answered_with_the_documents_of_the_api() {
    let world = World::new();
    for (path, kind) in
        [("/v1/status", "status"), ("/v1/services", "services"), ("/v1/tasks?x=1", "tasks")]
    {
        let answer = world.get(path);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert!(answer.has("content-type: application/json"), "{answer:?}");
        assert!(answer.has("cache-control: no-store"), "{answer:?}");
        let body: Value = serde_json::from_str(&answer.body).expect("JSON");
        assert_eq!((&body["site"], &body["node"]), (&"osl".into(), &"osl-b1".into()));
        assert_eq!(body["ok"]["kind"], kind, "{path}");
    }
    let services: Value = serde_json::from_str(&world.get("/v1/services").body).expect("JSON");
    assert_eq!(services["ok"]["services"][0]["id"], "shop/prod/api");
}

#[test]
fn an_error_of_the_agent_has_its_status_and_its_words() {
    let world = World::new();
    world.fake.stopping.store(true, Ordering::SeqCst);
    let answer = world.get("/v1/status");
    assert_eq!(answer.status, 503);
    let body: Value = serde_json::from_str(&answer.body).expect("JSON");
    assert_eq!(body["error"]["code"], "not-ready");
    let health = world.get("/healthz");
    assert_eq!((health.status, health.body.as_str()), (503, "the agent is stopping\n"));
}

#[test]
fn health_follows_the_controller_and_never_hangs_with_it() {
    let limits = Limits { answer: Duration::from_millis(100), ..Limits::default() };
    let world = World::within(limits);
    assert_eq!(world.get("/healthz").status, 200);
    world.fake.stuck.store(true, Ordering::SeqCst);
    let health = world.get("/healthz");
    let text = "the agent had no answer within 100 ms\n";
    assert_eq!((health.status, health.body.as_str()), (503, text));
    assert_eq!(world.get("/v1/tasks").status, 504);
    let page = world.get("/metrics");
    assert_eq!(page.status, 200, "what needs no controller is still there");
    assert!(!page.body.contains("nett_bus_connected"), "{}", page.body);
    let lag = page.body.lines().find_map(|l| l.strip_prefix("nett_event_loop_lag_seconds "));
    let lag: f64 = lag.and_then(|l| l.parse().ok()).expect("a number");
    assert!(lag >= 0.1, "it was waited for: {lag}");
    world.fake.stuck.store(false, Ordering::SeqCst);
    assert_eq!(world.get("/healthz").status, 200, "health comes back");
    assert!(world.get("/metrics").body.contains("nett_bus_connected 1\n"));
}

#[test]
fn ready_when_every_required_duty_was_done_once() {
    let world = World::new();
    let answer = world.get("/readyz");
    let all = "journal: waiting\nkernel: waiting\nzone: waiting\nbus: waiting (not required)\n";
    assert_eq!((answer.status, answer.body.as_str()), (503, all));
    for (duty, status) in [(Duty::Zone, 503), (Duty::Journal, 503), (Duty::Kernel, 200)] {
        world.metrics.fulfil(duty);
        assert_eq!(world.get("/readyz").status, status, "after {duty:?}");
    }
    let answer = world.get("/readyz");
    assert!(answer.body.ends_with("zone: done\nbus: waiting (not required)\n"), "{answer:?}");
    world.fake.stuck.store(true, Ordering::SeqCst);
    assert_eq!(world.get("/readyz").status, 200, "a stuck agent is unhealthy, not unready");
}

#[test]
fn metrics_come_as_text_that_prometheus_reads() {
    let world = World::new();
    let page = world.get("/metrics");
    assert_eq!(page.status, 200);
    assert!(page.has("content-type: text/plain; version=0.0.4"), "{}", page.head);
    let version = env!("CARGO_PKG_VERSION");
    assert!(page.body.contains(&format!("nett_build_info{{version=\"{version}\"}} 1\n")));
    assert!(page.body.contains("nett_ready{duty=\"journal\"} 0\n"));
    assert!(page.body.ends_with('\n'));
}

#[test]
fn other_paths_are_unknown_and_other_methods_refused() {
    let world = World::new();
    for path in ["/", "/v1/events", "/metrics/", "/v1", "/v1/service", "/%6detrics", "*"] {
        assert_eq!(world.get(path).status, 404, "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "NONSENSE"] {
        let answer = world.send(&format!("{method} /v1/status HTTP/1.1\r\nhost: test\r\n\r\n"));
        assert_eq!(answer.status, 405, "{method}");
        assert!(answer.has("allow: get, head"), "{method}: {answer:?}");
        let unknown = world.send(&format!("{method} /nothing HTTP/1.1\r\nhost: test\r\n\r\n"));
        assert_eq!(unknown.status, 404, "{method}");
    }
    let head = world.send("HEAD /v1/status HTTP/1.1\r\nhost: test\r\n\r\n");
    assert_eq!((head.status, head.body.as_str()), (200, ""), "a head has no body");
    let body = "GET /metrics HTTP/1.1\r\nhost: test\r\ncontent-length: 2\r\n\r\nhi";
    assert_eq!(world.send(body).status, 413);
    assert_eq!(world.send("GET /metrics SPDY/9\r\n\r\n").status, 400);
}

#[test]
fn a_connection_carries_one_request() {
    let world = World::new();
    let twice = "GET /healthz HTTP/1.1\r\nhost: test\r\n\r\n".repeat(2);
    let mut stream = world.connect();
    stream.write_all(twice.as_bytes()).expect("sent");
    let mut bytes = Vec::new();
    // What comes after the one answer may be an end or a reset: a request was left unread.
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8(bytes).expect("text");
    assert_eq!(text.matches("HTTP/1.1 200").count(), 1, "{text}");
}

#[test]
fn a_head_that_is_too_large_is_refused() {
    let world = World::new();
    let many = "a: b\r\n".repeat(65);
    let answer = world.send(&format!("GET /healthz HTTP/1.1\r\nhost: test\r\n{many}\r\n"));
    assert_eq!(answer.status, 431, "{answer:?}");
    let few = "a: b\r\n".repeat(60);
    let answer = world.send(&format!("GET /healthz HTTP/1.1\r\nhost: test\r\n{few}\r\n"));
    assert_eq!(answer.status, 200, "{answer:?}");

    let limits = Limits { head: 1024, ..Limits::default() };
    let small = World::within(limits);
    let long = "x".repeat(1100);
    for request in [
        format!("GET /healthz HTTP/1.1\r\nhost: test\r\ncookie: {long}\r\n\r\n"),
        format!("GET /healthz?{long} HTTP/1.1\r\nhost: test\r\n\r\n"),
        format!("GET /healthz HTTP/1.1\r\nhost: test\r\ncookie: {long}"),
    ] {
        let answer = small.send(&request);
        assert!((400..=431).contains(&answer.status), "{answer:?}");
    }
    assert_eq!(small.get("/healthz").status, 200);
}

#[test]
fn a_head_that_does_not_end_ends_its_connection() {
    let limits = Limits { head_time: Duration::from_millis(200), ..Limits::default() };
    let world = World::within(limits);
    let mut halves = Vec::new();
    for half in ["", "GET /hea", "GET /healthz HTTP/1.1\r\nhost: t"] {
        let mut stream = world.connect();
        stream.write_all(half.as_bytes()).expect("sent");
        halves.push(stream);
    }
    assert_eq!(world.get("/healthz").status, 200, "others are not kept waiting");
    halves.into_iter().for_each(ends_unanswered);
}

#[test]
fn a_peer_that_does_not_read_loses_its_connection() {
    let limits = Limits { connections: 1, whole: Duration::from_millis(300), ..Limits::default() };
    let world = World::within(limits);
    world.fake.huge.store(true, Ordering::SeqCst);
    let mut greedy = world.connect();
    greedy.write_all(b"GET /v1/services HTTP/1.1\r\nhost: test\r\n\r\n").expect("sent");
    // The first bytes are here, so the only place is taken; the rest does not fit.
    greedy.read_exact(&mut [0; 8]).expect("the answer begins");
    eventually("the place is free again", || world.get_or_busy("/healthz") == 200);
    let mut rest = Vec::new();
    let ended = greedy.read_to_end(&mut rest);
    assert!(ended.is_err() || rest.len() < 20_000_000, "cut off: {}", rest.len());
}

#[test]
fn more_connections_than_there_are_places_are_told_so() {
    let limits = Limits { connections: 2, ..Limits::default() };
    let world = World::within(limits);
    let idle = [world.connect(), world.connect()];
    let surplus = Answer::read(world.connect());
    assert_eq!((surplus.status, surplus.body.as_str()), (503, "too many HTTP connections"));
    drop(idle);
    eventually("places are free again", || world.get_or_busy("/healthz") == 200);
}

impl World {
    /// The status; 503 too when the server closed before it read the request.
    fn get_or_busy(&self, path: &str) -> u16 {
        let mut stream = self.connect();
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n");
        let mut text = String::new();
        let asked = stream.write_all(request.as_bytes());
        match asked.and_then(|()| stream.read_to_string(&mut text)) {
            Ok(_) => text.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(503),
            Err(_) => 503,
        }
    }
}

#[test]
fn an_address_in_use_is_named_with_what_to_do() {
    let world = World::new();
    let again = HttpServer::bind(world.address, Limits::default());
    let error = world.runtime.block_on(again).expect_err("it is taken");
    let text = error.to_string();
    assert!(text.contains(&world.address.to_string()) && text.contains("http.listen"), "{text}");
}
