//! The lab's nats-servers: one per site, in the site's bus namespace.
//!
//! Their configuration is what `nettctl bus render` writes and their streams what
//! `nettctl bus init` makes; [`plain_config`] exists only to try the wires without Nett.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::files::NATS_PORT;
use crate::lab::{Lab, Told};
use crate::process::Spec;
use crate::topology::Site;

/// Which nats-server a lab runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Server {
    /// The one of the distribution, of the 2.9 line.
    #[default]
    Debian,
    /// One of the 2.12 line.
    Newer,
}

/// The name of a site's server process and of its log.
pub fn process_name(site: Site) -> String {
    format!("nats-{}", site.id)
}

/// A configuration without TLS, accounts or streams.
pub fn plain_config() -> String {
    format!("listen: \"0.0.0.0:{NATS_PORT}\"\nserver_name: \"plain\"\n")
}

/// Starts a site's server with the configuration file `config` and waits until it accepts.
///
/// The working directory of the lab's program is the one relative paths in `config` start from;
/// rendered files use absolute ones.
pub fn start(lab: &mut Lab, site: Site, config: &Path) -> Result<()> {
    let name = process_name(site);
    let spec = Spec {
        name: name.clone(),
        program: lab.server().program(lab),
        args: vec!["-c".into(), config.display().to_string()],
        env: leaf_seed(lab, site)?,
        log: lab.layout().log(&name),
    };
    lab.start_process(&site.bus_host(), spec)?;
    let address = SocketAddr::from(([127, 0, 0, 1], NATS_PORT));
    let ns = lab.ns(&site.bus_host())?;
    lab.while_alive(&name, Duration::from_secs(10), "nats-server accepts", || {
        let wait = Duration::from_millis(200);
        ns.run(|| Ok(std::net::TcpStream::connect_timeout(&address, wait).map(drop)?))
    })
    .map(drop)
}

/// Renders the configuration of a site's server; returns the file.
///
/// In the 2.9 line sites join by password; all sites' renderings share one file of passwords.
pub fn render(lab: &Lab, site: Site) -> Result<PathBuf> {
    let host = lab.layout().host(&site.bus_host());
    fs::create_dir_all(&host).with_context(|| format!("cannot create {}", host.display()))?;
    let tls = lab.layout().tls();
    let out = host.join("nats.conf");
    let secrets = ("--leaf-secrets", lab.layout().root.join("leaf-secrets"));
    let files = [
        ("--fabric", lab.layout().fabric()),
        ("--out", out.clone()),
        ("--server-ca", tls.join("ca.crt")),
        ("--server-cert", tls.join(format!("{}.crt", site.bus_host()))),
        ("--server-key", tls.join(format!("{}.key", site.bus_host()))),
        ("--store-dir", host.join("streams")),
    ];
    let words = ["bus", "render", "--site", site.id, "--server", lab.server().line()];
    let mut args: Vec<String> = words.map(str::to_owned).to_vec();
    let secrets = (lab.server() == Server::Debian).then_some(secrets);
    for (option, path) in files.into_iter().chain(secrets) {
        args.extend([option.to_owned(), path.display().to_string()]);
    }
    lab.nettctl_in(&site.bus_host(), &args)?.must_be_done()?;
    if let Some(size) = lab.payload() {
        raise(&out, size)?;
    }
    Ok(out)
}

/// Lets a server carry larger messages than it was rendered for, two at a time.
fn raise(config: &Path, size: &str) -> Result<()> {
    let lines = fs::read_to_string(config)?;
    let lines = lines.lines().map(|line| match line.split_once(':') {
        Some(("max_payload", _)) => format!("max_payload: {size}"),
        Some(("max_pending", _)) => "max_pending: 192MB".to_owned(),
        _ => line.to_owned(),
    });
    let text = lines.collect::<Vec<_>>().join("\n") + "\n";
    Ok(fs::write(config, text)?)
}

/// Creates a site's streams with the admin key.
pub fn init(lab: &Lab, site: Site) -> Result<()> {
    manage(lab, site, &["init"])?.must_be_done()
}

/// `nettctl bus ...` at a site's server, with the admin key.
pub fn manage(lab: &Lab, site: Site, words: &[&str]) -> Result<Told> {
    let tls = lab.layout().tls();
    let file = |name: String| tls.join(name).display().to_string();
    let options = [
        ("--fabric", lab.layout().fabric().display().to_string()),
        ("--site", site.id.to_owned()),
        ("--nats", crate::files::nats_url(site)),
        ("--key", lab.keys().seed("admin").display().to_string()),
        ("--tls-ca", file("ca.crt".to_owned())),
        ("--tls-cert", file(format!("{}.crt", site.bus_host()))),
        ("--tls-key", file(format!("{}.key", site.bus_host()))),
    ];
    let mut args = vec!["bus".to_owned()];
    args.extend(words.iter().map(|word| (*word).to_owned()));
    args.extend(options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]));
    lab.nettctl_in(&site.bus_host(), &args)
}

/// The seed of the site's leafnode connection, which servers read from their environment.
fn leaf_seed(lab: &Lab, site: Site) -> Result<Vec<(String, String)>> {
    let path = lab.keys().seed(&crate::files::leaf_name(site));
    let seed =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(vec![("NETT_LEAF_SEED".into(), seed.trim().into())])
}

// === impl Server ===

impl Server {
    /// Debian installs its own in `/usr/sbin`, which an ordinary user's PATH may lack; the newer
    /// one comes with the Python packages of `make deps`.
    fn program(self, lab: &Lab) -> PathBuf {
        let debian = PathBuf::from("/usr/sbin/nats-server");
        match self {
            Self::Debian if debian.exists() => debian,
            Self::Debian => "nats-server".into(),
            Self::Newer => lab.programs().python.join("bin/nats-server"),
        }
    }

    fn line(self) -> &'static str {
        match self {
            Self::Debian => "2.9",
            Self::Newer => "2.10",
        }
    }
}
