//! `nettctl bus`: needs the fabric file and the admin key, and no agent.

use std::collections::BTreeMap;
use std::path::PathBuf;

use nett_policy::id::SiteId;

use crate::bus::keys::without;
use crate::bus::nats::TlsFiles;
use crate::bus::render::{RenderOptions, ServerLine};
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::provision::{self, Wish};
use crate::ctl::session::Session;

#[derive(Debug, clap::Subcommand)]
pub(in crate::ctl) enum Sub {
    /// Make the streams of a site on its nats-server; needs --site and --key of the bus admin
    Init(Files),
    /// The configuration of the nats-server of --site
    Render(Box<Render>),
    /// Delete what stands before the checkpoints of the logs; needs --site and --key
    Compact(Files),
    /// Make the copies of another site's streams anew; needs --site and --key
    Resync(Resync),
    /// Compare a site's streams, and the keys its server knows, with what they should be; needs
    /// --site and --key
    Check(Check),
}

#[derive(Debug, Clone, clap::Args)]
pub(in crate::ctl) struct Files {
    /// The fabric file
    #[arg(long, value_name = "FILE", default_value = "/etc/nett/fabric.toml")]
    fabric: PathBuf,
}

/// Whose keys count no more.
#[derive(Debug, Clone, clap::Args)]
pub(in crate::ctl) struct Revoked {
    /// This person's key counts no more; may be repeated [default: those that the agent on this
    /// machine knows of]
    #[arg(long = "revoked", value_name = "NAME")]
    names: Vec<String>,
}

#[derive(Debug, Clone, clap::Args)]
pub(in crate::ctl) struct Check {
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    revoked: Revoked,
    /// Seed of [bus] system: asks servers of the 2.9 line, which do not tell the admin
    #[arg(long, value_name = "FILE")]
    system_key: Option<PathBuf>,
}

#[derive(Debug, Clone, clap::Args)]
pub(in crate::ctl) struct Resync {
    #[command(flatten)]
    files: Files,
    /// The site whose streams are copied
    #[arg(long, value_name = "SITE")]
    owner: SiteId,
}

#[derive(Debug, Clone, clap::Args)]
pub(in crate::ctl) struct Render {
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    revoked: Revoked,
    /// Write here, mode 0600, instead of to the output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Which server will read it
    #[arg(long, value_enum, value_name = "LINE", default_value = "2.10")]
    server: Line,
    /// 2.9 only: passwords of the leaf connections, `SITE PASSWORD` a line; missing ones are made
    #[arg(long, value_name = "FILE")]
    leaf_secrets: Option<PathBuf>,
    /// The server's certificate authority
    #[arg(long, value_name = "FILE", default_value = "/etc/nett/nats/ca.crt")]
    server_ca: PathBuf,
    /// The server's certificate
    #[arg(long, value_name = "FILE", default_value = "/etc/nett/nats/server.crt")]
    server_cert: PathBuf,
    /// The key of that certificate
    #[arg(long, value_name = "FILE", default_value = "/etc/nett/nats/server.key")]
    server_key: PathBuf,
    /// Where the server keeps its streams
    #[arg(long, value_name = "DIR", default_value = "/var/lib/nats")]
    store_dir: PathBuf,
    /// For agents and operators
    #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:4222")]
    listen: String,
    /// For other sites
    #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:7422")]
    leaf_listen: String,
    /// For monitoring, on loopback only
    #[arg(long, value_name = "ADDR:PORT")]
    monitor: Option<String>,
}

/// Lines of nats-server that read different files: Debian 12's, and those after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Line {
    #[value(name = "2.9")]
    V2_9,
    #[value(name = "2.10")]
    V2_10,
}

pub(super) async fn run(sub: Sub, session: &mut Session) -> Result<Exit, CtlError> {
    let Some(site) = &session.global.site else {
        return Err(CtlError::usage("--site (NETT_SITE) is missing", "name the server's site"));
    };
    let site: SiteId = site
        .parse()
        .map_err(|e| CtlError::usage(format!("--site: {e}"), "name a site of the fabric"))?;
    match sub {
        Sub::Init(files) => {
            let fabric = provision::fabric(&files.fabric)?;
            provision::streams(session, &fabric, &site, Wish::Make).await
        }
        Sub::Check(Check { files, revoked, system_key }) => {
            let fabric = provision::fabric(&files.fabric)?;
            let gone = provision::gone(session, &fabric, &revoked.names).await?;
            let wish = Wish::Compare { gone, system_key };
            provision::streams(session, &fabric, &site, wish).await
        }
        Sub::Compact(files) => {
            let fabric = provision::fabric(&files.fabric)?;
            provision::streams(session, &fabric, &site, Wish::Compact).await
        }
        Sub::Resync(Resync { files, owner }) => {
            let fabric = provision::fabric(&files.fabric)?;
            provision::streams(session, &fabric, &site, Wish::CopyAgain(owner)).await
        }
        Sub::Render(args) => render(*args, &site, session).await,
    }
}

async fn render(args: Render, site: &SiteId, session: &Session) -> Result<Exit, CtlError> {
    let Render {
        files,
        revoked,
        out,
        server,
        leaf_secrets,
        server_ca,
        server_cert,
        server_key,
        store_dir,
        listen,
        leaf_listen,
        monitor,
    } = args;
    let fabric = provision::fabric(&files.fabric)?;
    let fabric = without(&fabric, &provision::gone(session, &fabric, &revoked.names).await?);
    let options = RenderOptions {
        server: match server {
            Line::V2_9 => ServerLine::V2_9,
            Line::V2_10 => ServerLine::V2_10,
        },
        tls: TlsFiles { ca: server_ca, cert: server_cert, key: server_key },
        store_dir,
        listen,
        leaf_listen,
        monitor,
        leaf_secrets: BTreeMap::new(),
    };
    let text = provision::server_file(&fabric, site, options, leaf_secrets.as_deref())?;
    match out {
        Some(path) => provision::write_private(&path, &text)?,
        None => session.out.raw(text.as_bytes())?,
    }
    Ok(Exit::Done)
}
