//! A fake agent behind the real socket server, and a way to run the real `nettctl` against it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use nett_agent::api::server::{ApiServer, Backend, Limits};
use nett_agent::api::types::{ApiError, ApiRequest, ApiResponse, ErrorCode, Outcome, Stamp};
use nkeys::KeyPair;
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

/// The answers by `op` of the request.
const CANNED: &str = include_str!("canned.json");

pub(crate) const TASK: &str = "osl.01jd3m5w7r8v3qyb2s9t4k6e1h";

pub(crate) fn canned(op: &str) -> Value {
    let all: Value = serde_json::from_str(CANNED).expect("canned.json is JSON");
    all[op].clone()
}

pub(crate) fn response(value: Value) -> ApiResponse {
    serde_json::from_value(value).expect("a response of the API")
}

/// Serves queued answers first (the last one stays), canned ones otherwise.
#[derive(Default)]
pub(crate) struct Fake {
    queued: Mutex<BTreeMap<String, Vec<Value>>>,
    pub(crate) seen: Mutex<Vec<ApiRequest>>,
}

impl Backend for Fake {
    async fn call(&self, request: ApiRequest) -> ApiResponse {
        let op = op(&request);
        self.seen.lock().expect("no panic holds it").push(request);
        let mut queued = self.queued.lock().expect("no panic holds it");
        let value = match queued.get_mut(&op) {
            Some(list) if list.len() > 1 => list.remove(0),
            Some(list) => list[0].clone(),
            None => canned(&op),
        };
        if value.is_null() {
            let error = ApiError::new(ErrorCode::Internal, format!("no answer for {op}"), "");
            return ApiResponse::new("osl", "osl-b1", Stamp::from_ms(0), Outcome::Error(error));
        }
        response(value)
    }
}

/// The name of a request on the wire.
fn op(request: &ApiRequest) -> String {
    let value = serde_json::to_value(request).expect("requests are JSON");
    value["op"].as_str().expect("requests have a tag").to_owned()
}

/// A served fake. Dropping it ends the server.
pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) fake: Arc<Fake>,
    pub(crate) key: KeyPair,
    runtime: Runtime,
    stop: Option<oneshot::Sender<()>>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    pub(crate) fn with_limits(limits: Limits) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let dir = tempfile::tempdir().expect("a directory");
        let key = KeyPair::new_user();
        std::fs::write(dir.path().join("mira.nk"), key.seed().expect("a seed of a new pair"))
            .expect("written");
        let fake = Arc::new(Fake::default());
        let (stop, stopped) = oneshot::channel();
        {
            let _inside = runtime.enter();
            let path = dir.path().join("agent.sock");
            let server = ApiServer::bind(&path, limits).expect("bound");
            let backend = Arc::clone(&fake);
            runtime.spawn(server.serve(backend, async {
                let _ = stopped.await;
            }));
        }
        Self { dir, fake, key, runtime, stop: Some(stop) }
    }

    /// What is answered to `op` from now on, one after the other; the last one stays.
    pub(crate) fn queue(&self, op: &str, answers: Vec<Value>) {
        let mut queued = self.fake.queued.lock().expect("no panic holds it");
        queued.insert(op.to_owned(), answers);
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    /// Ends the server and waits until it is gone.
    pub(crate) fn stop(mut self) -> TempDir {
        drop(self.stop.take());
        self.runtime.shutdown_timeout(std::time::Duration::from_secs(10));
        self.dir
    }

    pub(crate) fn run(&self, line: &[&str]) -> Ran {
        let mut command = nettctl();
        command.arg("--socket").arg(self.socket()).args(line);
        Ran::of(command)
    }

    /// As `run`, with the operator's key.
    pub(crate) fn run_signed(&self, line: &[&str]) -> Ran {
        let mut command = nettctl();
        let key = self.dir.path().join("mira.nk");
        command.arg("--socket").arg(self.socket());
        command.arg("--key").arg(key).args(line);
        Ran::of(command)
    }

    /// The command that reached the agent: its subject and envelope.
    pub(crate) fn command(&self) -> Option<(String, Value)> {
        let seen = self.fake.seen.lock().expect("no panic holds it");
        seen.iter().find_map(|request| match request {
            ApiRequest::Command { subject, envelope } => Some((subject.clone(), envelope.clone())),
            _ => None,
        })
    }
}

/// `nettctl` with nothing of this process's environment that it reads.
pub(crate) fn nettctl() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nettctl"));
    for (name, _) in std::env::vars() {
        if name.starts_with("NETT_") {
            command.env_remove(name);
        }
    }
    command.env("COLUMNS", "100").stdin(std::process::Stdio::null());
    command
}

/// What one run gave.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) exit: i32,
}

impl Ran {
    pub(crate) fn of(mut command: Command) -> Self {
        let Output { status, stdout, stderr } = command.output().expect("nettctl runs");
        Self {
            out: String::from_utf8(stdout).expect("text"),
            err: String::from_utf8(stderr).expect("text"),
            exit: status.code().expect("ended by itself"),
        }
    }

    #[track_caller]
    pub(crate) fn exits(&self, expected: i32) -> &Self {
        assert_eq!(self.exit, expected, "{self:#?}");
        self
    }

    #[track_caller]
    pub(crate) fn says(&self, part: &str) -> &Self {
        assert!(self.err.contains(part), "no `{part}` in {self:#?}");
        self
    }
}

/// Compares with a file under `golden/`; `NETT_UPDATE=1` writes it.
#[track_caller]
pub(crate) fn golden(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ctl_cli/golden").join(name);
    if std::env::var_os("NETT_UPDATE").is_some_and(|v| v == "1") {
        std::fs::write(&path, found).expect("written");
    }
    let expected = std::fs::read_to_string(&path)
        .unwrap_or_else(|e| panic!("{}: {e}; NETT_UPDATE=1 writes it", path.display()));
    assert_eq!(found, expected, "{name} differs; NETT_UPDATE=1 writes it");
}
