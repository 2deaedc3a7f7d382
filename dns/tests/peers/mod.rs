//! Name servers of other makers, each in a directory of its own and on an address of its own.

#![allow(dead_code, reason = "every test crate uses a part of it")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a daemon may take for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// An address of this test alone: ports there are free, and nobody else's daemon is reached.
pub(crate) fn own_address() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., a, b] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 | (a & 63), b, NEXT.fetch_add(1, Ordering::Relaxed)).into()
}

/// A port of an address that the kernel found free for both transports.
fn free_port(address: IpAddr) -> SocketAddr {
    let tcp = TcpListener::bind((address, 0)).expect("a free port");
    let socket = tcp.local_addr().expect("bound");
    drop(UdpSocket::bind(socket).expect("free for UDP too"));
    socket
}

/// A running daemon; it ends with this value.
pub(crate) struct Peer {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) dir: TempDir,
}

/// What a secondary must know of its primary.
pub(crate) struct Primary<'a> {
    pub(crate) address: SocketAddr,
    /// Where the secondary is to listen and to ask from.
    pub(crate) own: SocketAddr,
    /// Name and base64 secret of the HMAC-SHA256 key.
    pub(crate) key: Option<(&'a str, &'a str)>,
}

/// Where a secondary may listen.
pub(crate) fn place() -> SocketAddr {
    free_port(own_address())
}

/// BIND listens on addresses that interfaces have, and on no others.
pub(crate) fn place_for_bind() -> SocketAddr {
    free_port(Ipv4Addr::LOCALHOST.into())
}

impl Peer {
    /// BIND as secondary of steer.example.
    pub(crate) fn bind(primary: &Primary<'_>) -> Self {
        let Primary { address, own, key } = primary;
        let dir = TempDir::new().expect("a directory");
        let at = dir.path().display();
        let (ip, port) = (own.ip(), own.port());
        let (key_text, with_key) = match key {
            Some((name, secret)) => (
                format!("key \"{name}\" {{ algorithm hmac-sha256; secret \"{secret}\"; }};\n"),
                format!("key \"{name}\""),
            ),
            None => Default::default(),
        };
        let config = format!(
            "{key_text}options {{ directory \"{at}\"; listen-on port {port} {{ {ip}; }}; \
             listen-on-v6 {{ none; }}; pid-file none; lock-file none; session-keyfile none; \
             recursion no; notify no; allow-transfer {{ any; }}; dnssec-validation no; }};\n\
             controls {{ }};\n\
             zone \"steer.example\" {{ type secondary; file \"zone.db\"; \
             masterfile-format text; transfer-source {ip}; \
             primaries port {} {{ {} {with_key}; }}; }};\n",
            address.port(),
            address.ip(),
        );
        let file = write(dir.path(), "named.conf", &config);
        Self::start("named", &["-g", "-n", "1", "-c", path(&file)], *own, dir)
    }

    /// Knot DNS as secondary of steer.example.
    pub(crate) fn knot(primary: &Primary<'_>) -> Self {
        let Primary { address, own, key } = primary;
        let dir = TempDir::new().expect("a directory");
        let at = dir.path().display();
        let (key_text, with_key) = match key {
            Some((name, secret)) => (
                format!("key:\n  - id: {name}\n    algorithm: hmac-sha256\n    secret: {secret}\n"),
                format!("    key: {name}\n"),
            ),
            None => Default::default(),
        };
        let (ip, port) = (own.ip(), own.port());
        let config = format!(
            "server:\n    rundir: {at}\n    listen: {ip}@{port}\n    udp-workers: 1\n    \
             tcp-workers: 1\n    background-workers: 1\n\
             database:\n    storage: {at}/db\n{key_text}\
             log:\n  - target: stderr\n    any: info\n\
             remote:\n  - id: primary\n    address: {}@{}\n    via: {ip}\n{with_key}\
             acl:\n  - id: told\n    address: {}\n    action: notify\n  - id: all\n    \
             address: 127.0.0.0/8\n    action: transfer\n\
             zone:\n  - domain: steer.example\n    storage: {at}\n    file: zone.db\n    \
             master: primary\n    acl: [told, all]\n    zonefile-sync: 0\n",
            address.ip(),
            address.port(),
            address.ip(),
        );
        std::fs::create_dir(dir.path().join("db")).expect("a directory");
        let file = write(dir.path(), "knot.conf", &config);
        Self::start("knotd", &["-c", path(&file)], *own, dir)
    }

    /// Unbound as validating resolver of the zone at `primary`, with its keys as trust anchors.
    pub(crate) fn unbound(primary: SocketAddr, anchors: &str) -> Self {
        let dir = TempDir::new().expect("a directory");
        let at = dir.path().display();
        let own = place();
        let (ip, port) = (own.ip(), own.port());
        let anchor = write(dir.path(), "anchor.key", anchors);
        let config = format!(
            "server:\n  directory: \"{at}\"\n  chroot: \"\"\n  username: \"\"\n  pidfile: \"\"\n  \
             interface: {ip}@{port}\n  access-control: 127.0.0.0/8 allow\n  use-syslog: no\n  \
             logfile: \"\"\n  num-threads: 1\n  do-not-query-localhost: no\n  \
             module-config: \"validator iterator\"\n  trust-anchor-file: \"{}\"\n  \
             val-log-level: 2\n  aggressive-nsec: no\n  cache-max-ttl: 0\n  \
             cache-max-negative-ttl: 0\n  outgoing-interface: {ip}\n\
             stub-zone:\n  name: steer.example.\n  stub-addr: {}@{}\n  stub-first: no\n\
             remote-control:\n  control-enable: no\n",
            path(&anchor),
            primary.ip(),
            primary.port(),
        );
        let file = write(dir.path(), "unbound.conf", &config);
        Self::start("unbound", &["-d", "-p", "-c", path(&file)], own, dir)
    }

    /// gdnsd with these files in its directory: `config` without options, zones, `admin_state`.
    pub(crate) fn gdnsd(files: &BTreeMap<&str, String>) -> Self {
        let dir = TempDir::new().expect("a directory");
        let at = dir.path().display();
        let own = place();
        let (ip, port) = (own.ip(), own.port());
        for made in ["zones", "run", "state"] {
            std::fs::create_dir(dir.path().join(made)).expect("a directory");
        }
        let options = format!(
            "options => {{ listen => [\"{ip}\"], dns_port => {port}, udp_threads => 1, \
             tcp_threads => 1, run_dir => {at}/run, state_dir => {at}/state }}\n"
        );
        for (name, text) in files {
            match *name {
                "config" => write(dir.path(), name, &format!("{options}{text}")),
                "admin_state" => write(&dir.path().join("state"), name, text),
                _ => write(dir.path(), name, text),
            };
        }
        let directory = path(dir.path()).to_owned();
        let peer = Self::start("gdnsd", &["-c", &directory, "start"], own, dir);
        peer.until(&["ns1.steer.example", "A"], "192.0.2.53");
        peer
    }

    fn start(program: &str, arguments: &[&str], address: SocketAddr, dir: TempDir) -> Self {
        let log = std::fs::File::create(dir.path().join("log")).expect("a file");
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| {
                panic!("{program} is installed (bind9, knot, unbound, gdnsd): {e}")
            });
        Self { child, address, dir }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What `dig` prints in its short form for a question to this daemon.
    pub(crate) fn dig(&self, arguments: &[&str]) -> String {
        dig_at(self.address, &[&["+short"], arguments].concat())
    }

    /// Asks until the answer is this one; how long that took.
    pub(crate) fn until(&self, arguments: &[&str], answer: &str) -> Duration {
        let begun = Instant::now();
        loop {
            let found = self.dig(arguments);
            if found.trim() == answer {
                return begun.elapsed();
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "{arguments:?}: `{found}` instead of `{answer}`\n{}",
                self.log()
            );
            std::thread::yield_now();
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks a name server with `dig`.
pub(crate) fn dig_at(server: SocketAddr, arguments: &[&str]) -> String {
    let output = Command::new("dig")
        .args(["-r", "+tries=1", "+time=5", "+nocookie", "+norec", "-p"])
        .arg(server.port().to_string())
        .arg(format!("@{}", server.ip()))
        .args(arguments)
        .output()
        .expect("dig is installed (package bind9-dnsutils)");
    String::from_utf8(output.stdout).expect("dig writes text")
}

/// Runs a program and gives what it prints, which it must end well.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|e| panic!("{program} is not installed: {e}"));
    let text = |bytes| String::from_utf8(bytes).expect("text");
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {out}{err}");
    out + &err
}

pub(crate) fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).expect("a file");
    path
}

pub(crate) fn path(path: &Path) -> &str {
    path.to_str().expect("plain characters")
}
