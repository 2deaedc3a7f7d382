//! The socket server against peers that are wrong, greedy or slow.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nett_agent::api::codec::MAX_CALL;
use nett_agent::api::server::{ApiServer, Backend, Limits, ServerError};
use nett_agent::api::types::{ApiError, ApiRequest, ApiResponse, ErrorCode, Outcome, Stamp};
use serde_json::Value;
use tokio::sync::oneshot;

use crate::harness::World;

/// Longer than anything here takes, so that a hang is a failure and not a wait.
const PATIENCE: Duration = Duration::from_secs(20);

fn connect(world: &World) -> UnixStream {
    let stream = UnixStream::connect(world.socket()).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream.set_write_timeout(Some(PATIENCE)).expect("set");
    stream
}

fn read_line(stream: &UnixStream) -> Value {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("a line");
    serde_json::from_str(&line).expect("JSON")
}

fn is_closed(mut stream: &UnixStream) -> bool {
    match stream.read(&mut [0; 16]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

const STATUS: &[u8] = b"{\"v\":1,\"request\":{\"op\":\"status\"}}\n";

#[test]
fn one_connection_carries_many_calls_and_survives_bad_ones() {
    let world = World::new();
    let mut stream = connect(&world);
    for (line, expected) in [
        (STATUS, None),
        (&b"not json\n"[..], Some("bad-request")),
        (b"\n", Some("bad-request")),
        (b"\xff\xfe\n", Some("bad-request")),
        (b"{\"v\":9,\"request\":{}}\n", Some("version")),
        (STATUS, None),
    ] {
        stream.write_all(line).expect("sent");
        let answer = read_line(&stream);
        assert_eq!(answer["error"]["code"].as_str(), expected, "{answer}");
        assert_eq!(answer["ok"].is_object(), expected.is_none());
    }
}

#[test]
fn calls_in_one_packet_are_answered_in_order() {
    let world = World::new();
    let mut stream = connect(&world);
    let tasks = b"{\"v\":1,\"request\":{\"op\":\"tasks\"}}\n";
    stream.write_all(&[STATUS, tasks].concat()).expect("sent");
    let mut lines = BufReader::new(&stream).lines();
    for kind in ["status", "tasks"] {
        let line = lines.next().expect("a line").expect("read");
        let answer: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(answer["ok"]["kind"], kind);
    }
}

#[test]
fn an_oversized_call_is_told_so_and_cut_off() {
    let world = World::new();
    let mut stream = connect(&world);
    // The server may close before everything is written.
    let _ = stream.write_all(&vec![b' '; MAX_CALL + 1]);
    let answer = read_line(&stream);
    assert_eq!(answer["error"]["code"], "too-large");
    assert!(is_closed(&stream));
    // The limit itself is allowed.
    let mut stream = connect(&world);
    let mut padded = STATUS[..STATUS.len() - 1].to_vec();
    padded.resize(MAX_CALL, b' ');
    padded.push(b'\n');
    stream.write_all(&padded).expect("sent");
    assert!(read_line(&stream)["ok"].is_object());
}

#[test]
fn a_half_line_is_no_call() {
    let world = World::new();
    let mut stream = connect(&world);
    stream.write_all(&STATUS[..STATUS.len() - 1]).expect("sent");
    stream.shutdown(std::net::Shutdown::Write).expect("shut");
    assert!(is_closed(&stream));
    assert!(world.fake.seen.lock().expect("no panic holds it").is_empty());
}

#[test]
fn a_slow_or_silent_peer_loses_its_connection() {
    let world =
        World::with_limits(Limits { idle: Duration::from_millis(200), ..Limits::default() });
    let silent = connect(&world);
    assert!(is_closed(&silent));
    // A byte now and then does not help: the bound is for the whole line.
    let mut slow = connect(&world);
    let start = Instant::now();
    let mut bytes = STATUS.iter().cycle();
    while start.elapsed() < PATIENCE {
        let byte = bytes.find(|b| **b != b'\n').expect("endless");
        slow.set_read_timeout(Some(Duration::from_millis(20))).expect("set");
        if slow.write_all(&[*byte]).is_err() || matches!(slow.read(&mut [0; 1]), Ok(0)) {
            break;
        }
    }
    assert!(start.elapsed() < PATIENCE, "still connected");
}

#[test]
fn one_connection_too_many_is_told_busy() {
    let world = World::with_limits(Limits { connections: 2, ..Limits::default() });
    let mut held: Vec<UnixStream> = (0..2).map(|_| connect(&world)).collect();
    for stream in &mut held {
        stream.write_all(STATUS).expect("sent");
        assert!(read_line(stream)["ok"].is_object());
    }
    let third = connect(&world);
    assert_eq!(read_line(&third)["error"]["code"], "busy");
    assert!(is_closed(&third));
    world.run(&["status"]).exits(3).says("takes no more");
    // Room again once one is gone.
    drop(held.pop());
    let start = Instant::now();
    while world.run(&["status"]).exit != 0 {
        assert!(start.elapsed() < PATIENCE, "no room after a connection ended");
    }
}

#[tokio::test]
async fn only_the_socket_of_a_dead_agent_is_replaced() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("agent.sock");
    let bind = || ApiServer::bind(&path, Limits::default());
    // Nothing there.
    let server = bind().expect("bound");
    let mode = std::fs::metadata(&path).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    // Somebody listens.
    assert!(matches!(bind(), Err(ServerError::InUse { .. })));
    assert!(path.exists());
    drop(server);
    assert!(!path.exists());
    // Somebody has died.
    drop(UnixListener::bind(&path).expect("bound"));
    assert!(path.exists());
    let server = bind().expect("the stale file is replaced");
    // Somebody else took the place: their file stays.
    std::fs::remove_file(&path).expect("removed");
    let _other = UnixListener::bind(&path).expect("bound");
    drop(server);
    assert!(path.exists());
    // No socket at all.
    let file = dir.path().join("file");
    std::fs::write(&file, "precious").expect("written");
    let refused = ApiServer::bind(&file, Limits::default());
    assert!(matches!(refused, Err(ServerError::NotASocket { .. })));
    assert_eq!(std::fs::read_to_string(&file).expect("there"), "precious");
}

/// Ends its own server by the call, and has the answer only then.
struct Parting {
    end: Mutex<Option<oneshot::Sender<()>>>,
    /// `None`: never.
    answer: Option<ApiResponse>,
}

impl Backend for Parting {
    async fn call(&self, _: ApiRequest) -> ApiResponse {
        drop(self.end.lock().expect("no panic holds it").take());
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        match &self.answer {
            Some(answer) => answer.clone(),
            None => std::future::pending().await,
        }
    }
}

#[tokio::test]
async fn a_server_that_ends_gives_the_answers_that_are_almost_there() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("agent.sock");
    let error = ApiError::new(ErrorCode::Internal, "almost there", "");
    let said = ApiResponse::new("osl", "osl-b1", Stamp::from_ms(0), Outcome::Error(error));
    for answer in [Some(said), None] {
        let expects = answer.is_some();
        let parting = if expects { PATIENCE } else { Duration::from_millis(200) };
        let limits = Limits { parting, ..Limits::default() };
        let server = ApiServer::bind(&path, limits).expect("bound");
        let (end, ends) = oneshot::channel();
        let backend = Arc::new(Parting { end: Mutex::new(Some(end)), answer });
        let serving = tokio::spawn(server.serve(backend, async { drop(ends.await) }));
        let path = path.clone();
        let asking = tokio::task::spawn_blocking(move || {
            // Nothing is asked on the first one, which must hold nobody up.
            let _idle = UnixStream::connect(&path).expect("connected");
            let mut stream = UnixStream::connect(&path).expect("connected");
            stream.set_read_timeout(Some(PATIENCE)).expect("set");
            stream.write_all(STATUS).expect("sent");
            if expects {
                assert_eq!(read_line(&stream)["error"]["message"], "almost there");
            }
            assert!(is_closed(&stream));
        });
        asking.await.expect("asked");
        tokio::time::timeout(PATIENCE / 2, serving).await.expect("ended").expect("no panic");
    }
    assert!(!path.exists());
}
