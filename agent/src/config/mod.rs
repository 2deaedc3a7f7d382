//! `agent.toml` and the two files it names: from text to one validated value.
//!
//! [`load`] reads all three files and reports all their mistakes together; what it returns needs no
//! later check. It changes nothing on the host, so a running agent that reloads builds the new
//! value beside the old one and keeps the old one when this fails.

mod check;
mod dns;
mod file;
mod key;
mod zone_keys;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use nett_policy::document::{
    At, Code, Diagnostic, Reader, SourceFile, compile_fabric, compile_with_notes, nearest,
    node_keys, services_alone,
};
use nett_policy::fabric::Fabric;
use nett_policy::id::NodeId;
use nett_policy::lower::object::Layout;
use nett_policy::service::Catalog;

pub use crate::bus::nats::TlsFiles;
pub use check::check;
pub use dns::{
    CertificateFileError, CookiePolicy, Dns, EncryptedDns, Nsid, SecretsError, read_certificate,
    read_secrets,
};
pub use key::{KeygenError, keygen, read_seed};
pub use zone_keys::{ZoneKeyError, read_keyring, read_zone_keys};

use crate::controller::Pace;
use file::AgentDoc;

/// Exit status for bad usage or configuration.
pub const EXIT_CONFIG: u8 = 2;
/// Where the control socket is when the file does not say.
pub const DEFAULT_SOCKET: &str = "/run/nett/agent.sock";
/// Where HTTP is served when the file does not say.
pub const DEFAULT_HTTP: &str = "127.0.0.1:9642";

/// The settings of one node. Every path is absolute or relative to the working directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub node: NodeId,
    pub fabric_path: PathBuf,
    pub services_path: PathBuf,
    pub state_dir: PathBuf,
    /// Holds the seed (`SU...`) of the node's nkey.
    pub key_file: PathBuf,
    pub nats: Nats,
    pub dns: Dns,
    /// `None` when switched off.
    pub http_listen: Option<SocketAddr>,
    pub socket: PathBuf,
    pub kernel: Kernel,
    pub log: Log,
    /// How often the journal is written anew.
    pub journal: Pace,
}

impl Config {
    /// The ports that the agent listens at, of its name server and of HTTP.
    pub fn ports(&self) -> Vec<u16> {
        let encrypted = self.dns.encrypted.iter().flat_map(|e| e.tls.iter().chain(&e.https));
        let all = self.dns.listen.iter().chain(encrypted).chain(&self.http_listen);
        all.map(SocketAddr::port).collect()
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Nats {
    /// Instead of the site's URLs in the fabric file; those when empty.
    pub urls: Vec<String>,
    pub tls: Option<TlsFiles>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kernel {
    /// `return = "loose"` is `strict_return: false` in here.
    pub layout: Layout,
    /// Whether the agent may set sysctls; otherwise it only reports them.
    pub manage_sysctl: bool,
    /// Everything but the last call.
    pub dry_run: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    pub format: LogFormat,
    /// A valid `tracing_subscriber` filter, such as `info` or `nett_agent=debug,info`.
    pub filter: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// The three files, valid and consistent with each other.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    pub config: Config,
    pub fabric: Fabric,
    pub catalog: Catalog,
    /// What is accepted and worth telling.
    pub notes: Vec<Diagnostic>,
}

/// Why the configuration is refused: at least one diagnostic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the configuration has {} mistakes", diagnostics.len())]
pub struct ConfigError {
    pub diagnostics: Vec<Diagnostic>,
}

/// Reads `agent.toml` at `path` and the two files it names.
///
/// # Errors
/// All mistakes of the three files, and files that cannot be read. The operator must act; trying
/// again does not help.
pub fn load(path: &Path) -> Result<Loaded, ConfigError> {
    let file = read(path).map_err(|error| {
        let message = format!("cannot read the file: {error}");
        let name = path.display().to_string();
        ConfigError { diagnostics: vec![Diagnostic::of_file(Code::Unreadable, name, message)] }
    })?;
    let reader = Reader::new(&file);
    let directory = path.parent().unwrap_or(Path::new(""));
    let doc = file::read(&reader, directory);
    let mut found = Vec::new();
    let mut notes = Vec::new();
    let mut compiled = None;
    if let Some(doc) = &doc {
        let fabric = named(&reader, doc, doc.fabric.as_ref());
        let services = named(&reader, doc, doc.services.as_ref());
        match (&fabric, &services) {
            (Some(fabric), Some(services)) => match compile_with_notes(fabric, services) {
                Ok(both) => {
                    notes.extend(both.notes.iter().cloned());
                    compiled = Some(both);
                }
                Err(mistakes) => found.extend(mistakes),
            },
            // One file is missing; the other one's own mistakes still show.
            (Some(fabric), None) => found.extend(compile_fabric(fabric).err().unwrap_or_default()),
            (None, Some(services)) => found.extend(services_alone(services)),
            (None, None) => {}
        }
        if let Some(fabric) = &fabric {
            own_node(&reader, doc, fabric);
        }
        zone_keys::check(&reader, doc, compiled.as_ref().map(|c| &c.fabric));
    }
    let (mut diagnostics, own_notes) = reader.finish();
    diagnostics.extend(found);
    let config = doc.and_then(AgentDoc::build);
    match (config, compiled) {
        (Some(config), Some(both)) if diagnostics.is_empty() => {
            let notes = own_notes.into_iter().chain(notes).collect();
            Ok(Loaded { config, fabric: both.fabric, catalog: both.catalog, notes })
        }
        _ => Err(ConfigError { diagnostics }),
    }
}

fn read(path: &Path) -> std::io::Result<SourceFile> {
    let text = std::fs::read_to_string(path)?;
    Ok(SourceFile::new(path.display().to_string(), text))
}

/// The file a key of `agent.toml` names.
fn named(reader: &Reader<'_>, doc: &AgentDoc, path: Option<&At<PathBuf>>) -> Option<SourceFile> {
    let path = path?;
    let full = doc.directory.join(&path.value);
    match read(&full) {
        Ok(file) => Some(file),
        Err(error) => {
            let message = format!("cannot read {}: {error}", full.display());
            reader.report(
                reader
                    .mistake(Code::Unreadable, path.span, message)
                    .hint("a relative path begins at the directory of this file"),
            );
            None
        }
    }
}

/// The node is in the fabric, and this host holds the key the fabric has for it.
fn own_node(reader: &Reader<'_>, doc: &AgentDoc, fabric: &SourceFile) {
    let seed = doc.key_file.as_ref().and_then(|path| {
        let read = read_seed(&doc.directory.join(&path.value));
        if let Err(why) = &read {
            let mistake = reader.mistake(Code::BadKeyFile, path.span, why.to_string());
            reader.report(mistake.hint(why.remedy()));
        }
        Some((read.ok()?, path.span))
    });
    let (Some(node), Some(known)) = (&doc.node, node_keys(fabric)) else { return };
    let Some((_, key)) = known.nodes.iter().find(|(id, _)| *id == node.value) else {
        if known.whole {
            let names = || known.nodes.iter().map(|(id, _)| id.as_str());
            let hint = match nearest(node.value.as_str(), names()) {
                Some(name) => format!("did you mean `{name}`?"),
                None => format!("its nodes are {}", names().collect::<Vec<_>>().join(", ")),
            };
            let message = format!("the fabric has no node `{}`", node.value);
            reader.report(reader.mistake(Code::UnknownNode, node.span, message).hint(hint));
        }
        return;
    };
    if let (Some((seed, span)), Some(key)) = (seed, key)
        && seed.public_key() != *key
    {
        let message = format!(
            "the key file is of {}, and the fabric has {key} for `{}`",
            seed.public_key(),
            node.value
        );
        reader.report(
            reader
                .mistake(Code::KeyMismatch, span, message)
                .hint("use this node's own key file, or put its public key into the fabric file"),
        );
    }
}
