//! Real nats-servers, run from rendered files with certificates of a throw-away authority.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use nett_agent::bus::nats::TlsFiles;
use nett_agent::bus::provision::{self, Finding};
use nett_agent::bus::render::{RenderOptions, ServerLine, new_secret, render};
use nett_policy::fabric::Fabric;
use nett_policy::id::SiteId;
use nix::sys::signal::{Signal, kill};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use tempfile::TempDir;

use crate::bus_fixture::{ADMIN, seed};

/// Long enough for a busy machine; nothing waits this long when it works.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Polls until `probe` gives a value.
pub(crate) async fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Makes certificates that serve as server's and client's.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    dir: PathBuf,
}

impl Authority {
    fn new(dir: &Path) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, "throw-away authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        std::fs::write(dir.join("ca.crt"), certificate.pem()).expect("writable");
        Self { issuer: Issuer::new(params, key), dir: dir.to_owned() }
    }

    pub(crate) fn issue(&self, name: &str) -> TlsFiles {
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let mut params = CertificateParams::new(names).expect("valid names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let files = TlsFiles {
            ca: self.dir.join("ca.crt"),
            cert: self.dir.join(format!("{name}.crt")),
            key: self.dir.join(format!("{name}.key")),
        };
        std::fs::write(&files.cert, certificate.pem()).expect("writable");
        std::fs::write(&files.key, key.serialize_pem()).expect("writable");
        files
    }
}

/// One running server; killed when dropped.
pub(crate) struct Server {
    child: Child,
    config: PathBuf,
    log: PathBuf,
    pub(crate) clients: u16,
    pub(crate) leafs: Option<u16>,
}

impl Server {
    async fn start(dir: &Path, site: &SiteId, text: &str) -> Self {
        let config = dir.join(format!("{site}.conf"));
        std::fs::write(&config, text).expect("writable");
        let log = dir.join(format!("{site}.log"));
        let child = spawn(&config, &log);
        let mut server = Self { child, config, log, clients: 0, leafs: None };
        server.ready().await;
        server
    }

    async fn ready(&mut self) {
        let text = eventually("the nats-server is ready", || {
            let text = std::fs::read_to_string(&self.log).unwrap_or_default();
            let ended = self.child.try_wait().expect("our child");
            assert!(ended.is_none(), "the nats-server ended: {text}");
            text.contains("Server is ready").then_some(text)
        });
        let text = text.await;
        let port = |what: &str| -> Option<u16> {
            let line = text.lines().rev().find(|line| line.contains(what))?;
            line.rsplit(':').next()?.trim().parse().ok()
        };
        self.clients = port("Listening for client connections on").expect("it says so");
        self.leafs = port("Listening for leafnode connections on");
    }

    /// SIGKILL, as if the machine had lost power.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("our child");
        self.child.wait().expect("our child");
    }

    /// Starts a killed server again on the port it had.
    pub(crate) async fn restart(&mut self) {
        let text = std::fs::read_to_string(&self.config).expect("written before");
        let listen = format!("listen: \"127.0.0.1:{}\"", self.clients);
        let text = text.replacen("listen: \"127.0.0.1:-1\"", &listen, 1);
        std::fs::write(&self.config, text).expect("writable");
        std::fs::remove_file(&self.log).expect("the first run wrote it");
        self.child = spawn(&self.config, &self.log);
        self.ready().await;
    }

    pub(crate) fn pid(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).expect("pids are small"))
    }

    pub(crate) fn url(&self) -> String {
        format!("tls://127.0.0.1:{}", self.clients)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The server under test: `NETT_NATS_SERVER`, or what is installed.
fn program() -> (PathBuf, ServerLine) {
    let program = std::env::var_os("NETT_NATS_SERVER").map(PathBuf::from).unwrap_or_else(|| {
        let installed = PathBuf::from("/usr/sbin/nats-server");
        if installed.exists() { installed } else { "nats-server".into() }
    });
    let version = Command::new(&program).arg("-v").output();
    let version = version.expect("install nats-server, or set NETT_NATS_SERVER");
    let old = String::from_utf8_lossy(&version.stdout).contains("v2.9.");
    (program, if old { ServerLine::V2_9 } else { ServerLine::V2_10 })
}

fn spawn(config: &Path, log: &Path) -> Child {
    let mut command = Command::new(program().0);
    command.arg("-c").arg(config).arg("-l").arg(log);
    // 2.10 and newer take the seed of the leaf connection from here.
    command.env("NETT_LEAF_SEED", seed(102));
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("install nats-server")
}

/// The servers of both sites, joined.
pub(crate) struct Lab {
    pub(crate) fabric: Fabric,
    pub(crate) servers: BTreeMap<SiteId, Server>,
    pub(crate) authority: Authority,
    options: BTreeMap<SiteId, RenderOptions>,
    _dir: TempDir,
}

impl Lab {
    /// Starts the servers, highest rank first; makes no streams.
    pub(crate) async fn start(mut fabric: Fabric) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let authority = Authority::new(dir.path());
        let leaf_secrets: BTreeMap<SiteId, String> = fabric
            .sites
            .iter()
            .map(|s| (s.id.clone(), new_secret().expect("randomness")))
            .collect();
        let (mut servers, mut rendered) = (BTreeMap::new(), BTreeMap::new());
        for place in 0..fabric.sites.len() {
            let site = fabric.sites[place].id.clone();
            let options = RenderOptions {
                server: program().1,
                tls: authority.issue(site.as_str()),
                store_dir: dir.path().join(format!("js-{site}")),
                listen: "127.0.0.1:-1".to_owned(),
                leaf_listen: "127.0.0.1:-1".to_owned(),
                monitor: None,
                leaf_secrets: leaf_secrets.clone(),
            };
            let text = render(&fabric, &site, &options).expect("renders");
            let server = Server::start(dir.path(), &site, &text).await;
            if let Some(port) = server.leafs {
                fabric.sites[place].leaf = vec![format!("tls://127.0.0.1:{port}")];
            }
            fabric.sites[place].nats = vec![server.url()];
            servers.insert(site.clone(), server);
            rendered.insert(site, options);
        }
        Self { fabric, servers, authority, options: rendered, _dir: dir }
    }

    /// Writes a site's file anew, as for `fabric`, and has the server read it again.
    pub(crate) fn reload(&self, site: &SiteId, fabric: &Fabric) {
        let text = render(fabric, site, &self.options[site]).expect("renders");
        let server = &self.servers[site];
        std::fs::write(&server.config, text).expect("writable");
        kill(server.pid(), Signal::SIGHUP).expect("our child");
    }

    /// Changes a site's file and has the server read it again; gives what it was.
    pub(crate) fn change(&self, site: &SiteId, change: impl FnOnce(&str) -> String) -> String {
        let server = &self.servers[site];
        let before = std::fs::read_to_string(&server.config).expect("written before");
        let text = change(&before);
        assert_ne!(text, before, "there is something to change");
        std::fs::write(&server.config, text).expect("writable");
        kill(server.pid(), Signal::SIGHUP).expect("our child");
        before
    }

    /// A connection of somebody with a key, for what `nettctl bus` does.
    pub(crate) async fn context(&self, site: &SiteId, number: u8) -> jetstream::Context {
        let urls = &self.fabric.site(site).expect("known").nats;
        let tls = self.authority.issue("somebody");
        let context = provision::connect(site, urls, &seed(number), Some(&tls)).await;
        context.expect("the key connects")
    }

    /// Makes the streams of a site, as `nettctl bus init` does.
    pub(crate) async fn init(&self, site: &SiteId) -> Vec<Finding> {
        let context = self.context(site, ADMIN).await;
        provision::init(&context, &self.fabric, site).await.expect("the streams are made")
    }
}
