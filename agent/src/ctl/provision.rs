//! What `nettctl bus` does with files and servers: the fabric read, the bus's own functions called.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nett_policy::document::{SourceFile, compile_fabric};
use nett_policy::fabric::Fabric;
use nett_policy::id::SiteId;

use super::exit::{CtlError, Exit};
use super::key;
use super::session::Session;
use crate::api::client::{Client, ClientError, Transport};
use crate::api::types::{ApiRequest, Outcome, Payload};
use crate::bus::compact::compact;
use crate::bus::keys::{self, Gone};
use crate::bus::nats::TlsFiles;
use crate::bus::provision::{self, Finding};
use crate::bus::render::{self, RenderOptions, ServerLine};

/// Reads and checks a fabric file.
pub(super) fn fabric(path: &Path) -> Result<Fabric, CtlError> {
    let text = fs::read_to_string(path).map_err(|source| CtlError::File {
        path: path.to_owned(),
        hint: "name the fabric file with --fabric",
        source,
    })?;
    let source = SourceFile::new(path.display().to_string(), text);
    compile_fabric(&source).map_err(|mistakes| CtlError::Fabric { mistakes })
}

/// What is wanted of the streams of a site.
pub(super) enum Wish {
    Make,
    /// The keys, too.
    Compare {
        gone: Vec<Gone>,
        /// Whose login asks for the keys, where it is not the admin's.
        system_key: Option<PathBuf>,
    },
    /// The copies of what this site has.
    CopyAgain(SiteId),
    /// What stands before the newest checkpoints goes.
    Compact,
}

/// Makes or compares the streams of a site.
pub(super) async fn streams(
    session: &Session,
    fabric: &Fabric,
    site: &SiteId,
    wish: Wish,
) -> Result<Exit, CtlError> {
    let Some(known) = fabric.site(site) else {
        return Err(CtlError::usage(
            format!("the fabric has no site {site}"),
            "name one of its sites with --site",
        ));
    };
    let Some(path) = &session.global.key else {
        return Err(CtlError::usage(
            "--key (NETT_KEY) is missing",
            "streams are made with the seed of [bus] admin, and checked with it too",
        ));
    };
    let urls = match &session.global.nats {
        Some(url) => vec![url.clone()],
        None => known.nats.clone(),
    };
    let seed = key::read_seed(path)?;
    let tls = tls(session)?;
    let context = provision::connect(site, &urls, &seed, tls.as_ref()).await?;
    let findings: Vec<Finding> = match &wish {
        Wish::Make => provision::init(&context, fabric, site).await?,
        Wish::Compare { gone, system_key } => {
            let mut findings = provision::check(&context, fabric, site).await?;
            let client = match system_key {
                Some(path) => {
                    let seed = key::read_seed(path)?;
                    provision::connect(site, &urls, &seed, tls.as_ref()).await?.client()
                }
                None => context.client(),
            };
            let known = (fabric, site);
            findings.push(keys::look(&client, system_key.is_some(), known, gone).await);
            findings
        }
        Wish::Compact => compact(&context, fabric, site).await?,
        Wish::CopyAgain(owner) => provision::resync(&context, fabric, (site, owner)).await?,
    };
    session.out.findings(&findings)?;
    let good = findings.iter().all(|finding| finding.outcome.is_good());
    Ok(if good { Exit::Done } else { Exit::Failed })
}

/// Whose keys count no more: the people named, or where none is those that the agent on this
/// machine has read of.
pub(super) async fn gone(
    session: &Session,
    fabric: &Fabric,
    names: &[String],
) -> Result<Vec<Gone>, CtlError> {
    let of_fabric = |name: &String| {
        let operator = fabric.operators.iter().find(|one| one.name == *name);
        let operator = operator.ok_or_else(|| {
            CtlError::usage(
                format!("--revoked: the fabric has no operator {name}"),
                "name an [[operator]] of the fabric file",
            )
        })?;
        Ok(Gone { person: name.clone(), key: operator.key.clone() })
    };
    if !names.is_empty() {
        return names.iter().map(of_fabric).collect();
    }
    let at = Transport::Socket(session.global.socket.clone());
    let asked = async { Client::connect(&at, ASK_AGENT).await?.call(&ApiRequest::Status {}).await };
    let revoked = match asked.await.map(|answer| answer.outcome) {
        Ok(Outcome::Ok(payload)) => match *payload {
            Payload::Status(status) => status.revoked,
            _ => return Err(ClientError::WrongAnswer.into()),
        },
        Ok(Outcome::Error(error)) => return Err(ClientError::Agent(error).into()),
        Err(_) => {
            let socket = session.global.socket.display();
            session.out.note(&format!(
                "no agent at {socket} to ask whose keys were revoked: those of the fabric file \
                 count, unless --revoked names them"
            ))?;
            return Ok(Vec::new());
        }
    };
    Ok(revoked.into_iter().map(|one| Gone { person: one.person, key: one.key }).collect())
}

/// For the agent on this machine.
const ASK_AGENT: Duration = Duration::from_secs(2);

fn tls(session: &Session) -> Result<Option<TlsFiles>, CtlError> {
    let global = &session.global;
    match (&global.tls_ca, &global.tls_cert, &global.tls_key) {
        (None, None, None) => Ok(None),
        (Some(ca), Some(cert), Some(key)) => {
            Ok(Some(TlsFiles { ca: ca.clone(), cert: cert.clone(), key: key.clone() }))
        }
        _ => Err(CtlError::usage(
            "the files for TLS are not complete",
            "give --tls-ca, --tls-cert and --tls-key, or none of them for a lab without TLS",
        )),
    }
}

/// The file of one site's server. For the 2.9 line the passwords of the leaf connections are in
/// `secrets`, one `SITE PASSWORD` a line, the same file for every site; what is missing is added.
pub(super) fn server_file(
    fabric: &Fabric,
    site: &SiteId,
    mut options: RenderOptions,
    secrets: Option<&Path>,
) -> Result<String, CtlError> {
    if options.server == ServerLine::V2_9 {
        let Some(path) = secrets else {
            return Err(CtlError::usage(
                "--leaf-secrets is missing",
                "servers of the 2.9 line join sites by password: name the file that holds them",
            ));
        };
        options.leaf_secrets = leaf_secrets(fabric, path)?;
    }
    Ok(render::render(fabric, site, &options)?)
}

fn leaf_secrets(fabric: &Fabric, path: &Path) -> Result<BTreeMap<SiteId, String>, CtlError> {
    let failed = |source| CtlError::File {
        path: path.to_owned(),
        hint: "it holds one `SITE PASSWORD` a line, the same for every site",
        source,
    };
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(failed(error)),
    };
    let mut secrets = BTreeMap::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let bad = || failed(io::Error::new(io::ErrorKind::InvalidData, "not SITE PASSWORD"));
        let (site, secret) = line.split_once(' ').ok_or_else(bad)?;
        secrets.insert(site.parse().map_err(|_| bad())?, secret.trim().to_owned());
    }
    let mut file = fs::OpenOptions::new();
    let mut file = file.append(true).create(true).mode(0o600).open(path).map_err(failed)?;
    for site in &fabric.sites {
        if !secrets.contains_key(&site.id) {
            let secret = render::new_secret().map_err(|e| failed(io::Error::other(e)))?;
            writeln!(file, "{} {secret}", site.id).map_err(failed)?;
            secrets.insert(site.id.clone(), secret);
        }
    }
    file.sync_all().map_err(failed)?;
    Ok(secrets)
}

/// Writes a file that may hold secrets, in one step, with mode 0600.
pub(super) fn write_private(path: &Path, text: &str) -> Result<(), CtlError> {
    let failed = |source| CtlError::File {
        path: path.to_owned(),
        hint: "its directory must exist and be writable",
        source,
    };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    // What a run that was cut off has left.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut file = fs::OpenOptions::new();
    let mut file =
        file.write(true).create_new(true).mode(0o600).open(&temporary).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    fs::rename(&temporary, path).map_err(failed)
}
