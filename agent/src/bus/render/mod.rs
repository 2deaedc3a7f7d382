//! The configuration of each site's nats-server, made from the fabric.
//!
//! One template for all sites, so that permissions are derived and never typed. Sites are joined
//! by a ranked tree of leaf connections: each site dials every site of higher rank, in order, and
//! keeps one connection; that has no loops by construction. Nothing here reads or writes files.

pub(super) mod permissions;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use nett_policy::fabric::{Fabric, Node, Site};
use nett_policy::id::SiteId;

use super::keys;
use super::nats::TlsFiles;
use super::provision;
use permissions::{Permissions, list};

/// Which server program will read the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerLine {
    /// 2.9: a leaf connection logs in with user and password, beside its certificate.
    V2_9,
    /// 2.10 and newer: a leaf connection logs in with the nkey of its site.
    V2_10,
}

/// What a file depends on beside the fabric.
#[derive(Debug, Clone)]
pub struct RenderOptions {
    pub server: ServerLine,
    /// The server's own certificate; agents, operators and other sites must show one of the same
    /// authority.
    pub tls: TlsFiles,
    pub store_dir: PathBuf,
    /// For agents and operators: `ADDRESS:PORT`.
    pub listen: String,
    /// For other sites: `ADDRESS:PORT`.
    pub leaf_listen: String,
    /// For monitoring, on loopback only.
    pub monitor: Option<String>,
    /// 2.9 only: the password of each site's leaf connection. See [`new_secret`].
    pub leaf_secrets: BTreeMap<SiteId, String>,
}

/// Why no file could be made: the fabric or the options lack something.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RenderError {
    #[error("no site {0} in the fabric")]
    UnknownSite(SiteId),
    #[error("site {0} has no `leaf` URL, but sites of lower rank must dial it: add one")]
    NoLeafUrl(SiteId),
    #[error("`{url}` of site {site} must begin with tls://")]
    LeafUrl { site: SiteId, url: String },
    #[error("site {0} has no `leaf_key`: make one with `nett-agent keygen` and add it")]
    NoLeafKey(SiteId),
    #[error("no leaf password for site {0}: servers of the 2.9 line need one")]
    NoSecret(SiteId),
    #[error("`{0}` cannot stand in a server file: quotes, `$`, `\\` and control characters cannot")]
    Unquotable(String),
}

/// A random password for one site's leaf connection, 130 bits or more.
pub fn new_secret() -> Result<String, getrandom::Error> {
    let mut bytes = [0u8; 20];
    getrandom::fill(&mut bytes)?;
    Ok(data_encoding::HEXLOWER.encode(&bytes))
}

/// The sites that `site` dials, best first.
pub fn dials<'a>(fabric: &'a Fabric, site: &SiteId) -> Vec<&'a Site> {
    let rank = fabric.rank(site);
    let mut higher: Vec<&Site> = fabric.sites.iter().filter(|s| s.rank < rank).collect();
    higher.sort_by_key(|s| s.rank);
    higher
}

/// Pings without an answer after which a server gives a connection up.
const PING_MAX: u32 = 2;

/// Seconds between two pings of a server that may dial so many others: 3, 5, 8, 13 and so on down
/// the ranks, 5 for the first.
///
/// A lost peer is noticed after two to three intervals, and the longest time of a site is less than
/// the shortest of the next in rank. When a site is cut off that several others are connected to,
/// the one they turn to has then forgotten them behind it already. Else it would take the new
/// connection for a loop, which a nats-server refuses for 30 s.
fn ping_interval(dialled: usize) -> u32 {
    match dialled {
        0 => 5,
        place => (1..place).fold(3, |seconds, _| seconds * (PING_MAX + 1) / PING_MAX + 1),
    }
}

/// The configuration file of the nats-server at `site`.
pub fn render(
    fabric: &Fabric,
    site: &SiteId,
    options: &RenderOptions,
) -> Result<String, RenderError> {
    let own = fabric.site(site).ok_or_else(|| RenderError::UnknownSite(site.clone()))?;
    let tls = tls(&options.tls)?;
    let mut out = String::new();
    let to_string = "writing to a string cannot fail";
    writeln!(
        out,
        "# nats-server of site {site} (rank {}), fabric {} generation {}.\n\
         # Made by `nettctl bus render`; change the fabric, not this file.",
        own.rank, fabric.name, fabric.generation
    )
    .expect(to_string);
    writeln!(out, "server_name: \"nett-{site}\"").expect(to_string);
    // `nettctl bus check` compares it with the keys that count.
    writeln!(out, "server_tags: [ {} ]", quoted(&keys::tag(fabric, site))?).expect(to_string);
    writeln!(out, "listen: {}", quoted(&options.listen)?).expect(to_string);
    if let Some(monitor) = &options.monitor {
        writeln!(out, "http: {}", quoted(monitor)?).expect(to_string);
    }
    let ping = ping_interval(dials(fabric, site).len());
    writeln!(out, "ping_interval: \"{ping}s\"\nping_max: {PING_MAX}").expect(to_string);
    out.push_str(
        "write_deadline: \"5s\"\nmax_payload: 4MB\nmax_pending: 32MB\n\
         lame_duck_duration: \"30s\"\n",
    );
    writeln!(out, "tls {{ {tls}, verify: true, timeout: 3 }}").expect(to_string);
    let limits = Limits::of(fabric, site);
    jetstream(&mut out, site, options, &limits)?;
    accounts(&mut out, fabric, own, options, &limits)?;
    leafnodes(&mut out, fabric, site, options, &tls)?;
    Ok(out)
}

/// What JetStream may use, from the size of the fabric.
struct Limits {
    file: i64,
    memory: i64,
    streams: usize,
    consumers: usize,
}

impl Limits {
    fn of(fabric: &Fabric, site: &SiteId) -> Self {
        let plans = provision::streams(fabric, site);
        let sum = |memory: bool| -> i64 {
            let sizes = plans.iter().filter(|p| (p.is_memory()) == memory);
            sizes.map(|p| p.config.max_bytes).sum()
        };
        let nodes = fabric.nodes.iter().filter(|n| n.site == *site).count();
        Self {
            // A quarter more, for the files' own overhead.
            file: sum(false) / 4 * 5,
            // Agents' consumers live in memory too.
            memory: sum(true) * 2,
            streams: plans.len() + 8,
            consumers: (nodes * fabric.sites.len() * 6).max(512),
        }
    }
}

fn jetstream(
    out: &mut String,
    site: &SiteId,
    options: &RenderOptions,
    limits: &Limits,
) -> Result<(), RenderError> {
    let store = quoted(&options.store_dir.to_string_lossy())?;
    // 2.9 has no such option and writes to disk once a minute: agents keep their own copies.
    let sync = match options.server {
        ServerLine::V2_9 => "",
        ServerLine::V2_10 => ", sync_interval: always",
    };
    let Limits { file, memory, .. } = limits;
    writeln!(
        out,
        "jetstream {{ store_dir: {store}, domain: \"{site}\", max_mem: {memory}, \
         max_file: {file}{sync} }}"
    )
    .expect("writing to a string cannot fail");
    Ok(())
}

fn accounts(
    out: &mut String,
    fabric: &Fabric,
    own: &Site,
    options: &RenderOptions,
    limits: &Limits,
) -> Result<(), RenderError> {
    let to_string = "writing to a string cannot fail";
    out.push_str("accounts {\n");
    if let Some(system) = &fabric.bus.system {
        writeln!(out, "  SYS {{ users: [ {{ nkey: {} }} ] }}", quoted(system)?).expect(to_string);
    }
    let Limits { file, memory, streams, consumers } = limits;
    writeln!(
        out,
        "  NETT {{\n    jetstream: {{ max_mem: {memory}, max_file: {file}, \
         max_streams: {streams}, max_consumers: {consumers} }}\n    users: ["
    )
    .expect(to_string);
    if let Some(admin) = &fabric.bus.admin {
        out.push_str("      # provisioning (nettctl bus init); kept offline otherwise\n");
        writeln!(out, "      {{ nkey: {} }}", quoted(admin)?).expect(to_string);
    }
    out.push_str("      # the agents of this site\n");
    for node in fabric.nodes.iter().filter(|n| n.site == own.id) {
        let Node { id: _, key, .. } = node;
        user(out, &format!("nkey: {}", quoted(key)?), &permissions::agent(fabric, node));
    }
    out.push_str("      # operators: commands and questions only\n");
    for operator in &fabric.operators {
        let permissions = permissions::operator(operator, &own.id);
        user(out, &format!("nkey: {}", quoted(&operator.key)?), &permissions);
    }
    let lower = fabric.sites.iter().filter(|s| s.rank > own.rank);
    for site in lower {
        let login = leaf_login(site, options)?;
        writeln!(
            out,
            "      # the leaf connection of site {}; never speaks as {}",
            site.id, own.id
        )
        .expect(to_string);
        user(out, &login, &permissions::leaf(fabric, &own.id));
    }
    out.push_str("    ]\n  }\n}\n");
    if fabric.bus.system.is_some() {
        out.push_str("system_account: SYS\n");
    }
    Ok(())
}

fn user(out: &mut String, login: &str, permissions: &Permissions) {
    let Permissions { publish, subscribe, subscribe_deny, responses } = permissions;
    let deny = match subscribe_deny.as_slice() {
        [] => String::new(),
        denied => format!(", deny: {}", list(denied)),
    };
    let responses =
        if *responses { ",\n        allow_responses: { max: 4, expires: \"30s\" }" } else { "" };
    writeln!(
        out,
        "      {{ {login}, permissions: {{\n        publish: {{ allow: {} }},\n        \
         subscribe: {{ allow: {}{deny} }}{responses} }} }}",
        list(publish),
        list(subscribe)
    )
    .expect("writing to a string cannot fail");
}

fn leaf_login(site: &Site, options: &RenderOptions) -> Result<String, RenderError> {
    match options.server {
        ServerLine::V2_9 => {
            let secret = secret(&site.id, options)?;
            Ok(format!("user: \"leaf-{}\", password: {}", site.id, quoted(secret)?))
        }
        ServerLine::V2_10 => {
            let key = site.leaf_key.as_ref();
            let key = key.ok_or_else(|| RenderError::NoLeafKey(site.id.clone()))?;
            Ok(format!("nkey: {}", quoted(key)?))
        }
    }
}

fn secret<'a>(site: &SiteId, options: &'a RenderOptions) -> Result<&'a str, RenderError> {
    let secret = options.leaf_secrets.get(site).map(String::as_str);
    secret.ok_or_else(|| RenderError::NoSecret(site.clone()))
}

fn leafnodes(
    out: &mut String,
    fabric: &Fabric,
    site: &SiteId,
    options: &RenderOptions,
    tls: &str,
) -> Result<(), RenderError> {
    let higher = dials(fabric, site);
    let to_string = "writing to a string cannot fail";
    let reconnect = match options.server {
        ServerLine::V2_9 => "1",
        ServerLine::V2_10 => "\"1s\"",
    };
    // No `no_auth_user` anywhere: it would let leaf connections in without a login, too.
    writeln!(out, "leafnodes {{\n  reconnect: {reconnect}").expect(to_string);
    // Who is dialled by nobody opens no port: any user of the account could join there.
    if fabric.sites.iter().any(|s| s.rank > fabric.rank(site)) {
        writeln!(
            out,
            "  listen: {}\n  tls {{ {tls}, verify: true, timeout: 3 }}",
            quoted(&options.leaf_listen)?
        )
        .expect(to_string);
    }
    if !higher.is_empty() {
        let mut urls = Vec::new();
        for site_to in higher {
            if site_to.leaf.is_empty() {
                return Err(RenderError::NoLeafUrl(site_to.id.clone()));
            }
            for url in &site_to.leaf {
                urls.push(leaf_url(site, site_to, url, options)?);
            }
        }
        let nkey = match options.server {
            ServerLine::V2_9 => "",
            ServerLine::V2_10 => " nkey: $NETT_LEAF_SEED,",
        };
        let denied = list(&permissions::SITE_LOCAL.map(str::to_owned));
        writeln!(
            out,
            "  remotes: [ {{ urls: {}, no_randomize: true, account: NETT,{nkey}\n    \
             tls {{ {tls}, timeout: 3 }},\n    \
             deny_imports: {denied}, deny_exports: {denied} }} ]",
            list(&urls)
        )
        .expect(to_string);
    }
    out.push_str("}\n");
    Ok(())
}

fn leaf_url(
    from: &SiteId,
    to: &Site,
    url: &str,
    options: &RenderOptions,
) -> Result<String, RenderError> {
    quoted(url)?;
    let rest = url
        .strip_prefix("tls://")
        .ok_or_else(|| RenderError::LeafUrl { site: to.id.clone(), url: url.to_owned() })?;
    Ok(match options.server {
        ServerLine::V2_9 => format!("tls://leaf-{from}:{}@{rest}", secret(from, options)?),
        ServerLine::V2_10 => url.to_owned(),
    })
}

fn tls(files: &TlsFiles) -> Result<String, RenderError> {
    let TlsFiles { ca, cert, key } = files;
    let path = |p: &PathBuf| quoted(&p.to_string_lossy());
    Ok(format!("cert_file: {}, key_file: {}, ca_file: {}", path(cert)?, path(key)?, path(ca)?))
}

/// A text in quotes, if it means itself there.
fn quoted(text: &str) -> Result<String, RenderError> {
    let bad = |c: char| c.is_control() || matches!(c, '"' | '\\' | '$');
    if text.contains(bad) {
        return Err(RenderError::Unquotable(text.to_owned()));
    }
    Ok(format!("\"{text}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_notices_later_than_those_it_may_turn_to() {
        for place in 1..6 {
            let (longest, shortest) = (PING_MAX + 1, PING_MAX);
            let (one, next) = (ping_interval(place), ping_interval(place + 1));
            assert!(one * longest < next * shortest, "{one} s, then {next} s");
        }
    }
}
