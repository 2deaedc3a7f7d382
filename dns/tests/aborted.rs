//! Connections that fail while they are taken. Alone in its crate, because `strace` makes the calls
//! of the whole process fail.

mod sample;
mod serve;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;

use serve::{Running, query};

const PATIENCE: Duration = Duration::from_secs(20);

/// Lets every one of the first calls of accept4(2) of this process fail.
fn fail_accepts(count: u32, error: &str) -> Child {
    let mut strace = Command::new("strace")
        .args(["-f", "-e", "trace=accept4", "-e"])
        .arg(format!("inject=accept4:error={error}:when=1..{count}"))
        .arg(format!("--attach={}", std::process::id()))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("strace is installed (package strace)");
    // It says so once it holds the process.
    let lines = BufReader::new(strace.stderr.take().expect("a pipe"));
    let (told, attached) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in lines.lines().map_while(Result::ok) {
            if line.contains("attached") {
                let _ = told.send(());
            }
        }
    });
    attached.recv_timeout(PATIENCE).expect("strace may attach to its parent");
    strace
}

#[test]
fn aborted_connections_do_not_end_the_listener() {
    let server = Running::usual();
    let good = query("api.prod.shop.steer.example", RecordType::A, None);
    let works = || {
        let mut stream = server.connect();
        serve::send(&mut stream, &good);
        serve::receive(&mut stream)
    };
    assert!(!works().is_empty());
    for (error, count) in [("ECONNABORTED", 20), ("EMFILE", 3), ("ENFILE", 3), ("ENOBUFS", 3)] {
        let before = server.stats.accept_errors();
        let mut strace = fail_accepts(count, error);
        let started = Instant::now();
        assert!(!works().is_empty(), "{error}");
        // An aborted connection says nothing about the next, so nothing is waited for.
        let took = started.elapsed();
        assert!(took < PATIENCE, "{error}: {took:?}");
        let errors = server.stats.accept_errors() - before;
        assert_eq!(errors, u64::from(count), "{error}");
        Command::new("kill").arg(strace.id().to_string()).status().expect("kill is there");
        strace.wait().expect("it ends");
    }
}
