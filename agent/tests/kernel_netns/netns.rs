//! Network namespaces that go with the test, and what iproute2 and nft say inside them.

use std::fs::File;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sched::{CloneFlags, setns};
use serde_json::Value;

use crate::forks;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A network namespace, deleted on drop.
pub(crate) struct Netns {
    name: String,
}

impl Netns {
    pub(crate) fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("nettk-{}-{number}", std::process::id());
        let made = forks::output(Command::new("ip").args(["netns", "add", &name]));
        let made = made.expect("the tests need iproute2's `ip`");
        assert!(
            made.status.success(),
            "cannot make network namespace {name}: {}; run the kernel tests as root with \
             CAP_NET_ADMIN and CAP_SYS_ADMIN",
            String::from_utf8_lossy(&made.stderr)
        );
        let netns = Self { name };
        netns.ip("link set lo up");
        netns
    }

    /// A border: `wan0`, `wan1` and `core0` with carrier, addresses of both families, forwarding.
    pub(crate) fn border() -> Self {
        let netns = Self::new();
        for (nth, name) in ["wan0", "wan1", "core0"].into_iter().enumerate() {
            netns.ip(&format!("link add {name} type veth peer name {name}p"));
            // No link-local addresses: nothing to wait for until they are checked.
            netns.ip(&format!("link set {name} addrgenmode none"));
            netns.ip(&format!("addr add 192.0.2.{}/30 dev {name}", 4 * nth + 1));
            netns.ip(&format!("addr add fd00:{nth}::1/64 dev {name} nodad"));
            netns.ip(&format!("link set {name} up"));
            netns.ip(&format!("link set {name}p up"));
        }
        netns
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Moves an interface into another namespace.
    pub(crate) fn move_link(&self, name: &str, to: &Self) {
        self.ip(&format!("link set {name} netns {}", to.name));
    }

    /// Runs `ip` with words split at spaces; panics when it fails.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        let out = self.try_ip(arguments);
        out.unwrap_or_else(|error| panic!("ip {arguments}: {error}"))
    }

    pub(crate) fn try_ip(&self, arguments: &str) -> Result<String, String> {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name]);
        command.args(arguments.split_whitespace());
        output(command)
    }

    /// `ip -j -d ...` as JSON; an empty answer is an empty list.
    pub(crate) fn ip_json(&self, arguments: &str) -> Vec<Value> {
        let text = self.ip(&format!("-j -d {arguments}"));
        match text.trim() {
            "" => Vec::new(),
            text => serde_json::from_str(text).expect("ip writes JSON"),
        }
    }

    /// Runs `nft` inside the namespace; the program is one argument.
    pub(crate) fn nft(&self, program: &str) -> Result<String, String> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, "nft", program]);
        output(command)
    }

    pub(crate) fn run(&self, words: &[&str]) -> Result<String, String> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]);
        command.args(words);
        output(command)
    }

    /// Runs `work` on a thread inside the namespace, with a runtime of its own.
    pub(crate) fn inside<T: Send>(&self, work: impl AsyncFnOnce() -> T + Send) -> T {
        let path = format!("/run/netns/{}", self.name);
        let enter = move || {
            let file = File::open(path).expect("the namespace was made");
            setns(file, CloneFlags::CLONE_NEWNET).expect("root may enter a namespace");
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(work())
        };
        std::thread::scope(|scope| match scope.spawn(enter).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = forks::output(Command::new("ip").args(["netns", "del", &self.name]));
    }
}

fn output(mut command: Command) -> Result<String, String> {
    let out = forks::output(&mut command).expect("the tests need iproute2 and nft");
    if out.status.success() {
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&out.stderr).into_owned())
    }
}
