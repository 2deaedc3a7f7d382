//! `nettctl bus`: needs the admin key and no agent.

use std::path::PathBuf;

use nett_policy::id::SiteId;

use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::provision;
use crate::ctl::session::Session;

#[derive(Debug, clap::Subcommand)]
pub(in crate::ctl) enum Sub {
    /// Make the streams of a site on its nats-server (--nats, --site, --key of the bus admin)
    Init(Files),
    /// Write the configuration of a site's nats-server
    Render {
        #[command(flatten)]
        files: Files,
        /// Directory for the files
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Compare a site's streams and limits with what they should be
    Check(Files),
}

#[derive(Debug, Clone, clap::Args)]
pub(in crate::ctl) struct Files {
    /// The fabric file
    #[arg(long, value_name = "FILE", default_value = "/etc/nett/fabric.toml")]
    pub(in crate::ctl) fabric: PathBuf,
    /// The services file
    #[arg(long, value_name = "FILE", default_value = "/etc/nett/services.toml")]
    pub(in crate::ctl) services: PathBuf,
}

pub(super) async fn run(sub: Sub, session: &mut Session) -> Result<Exit, CtlError> {
    let site: Option<SiteId> =
        match &session.global.site {
            Some(site) => Some(site.parse().map_err(|e| {
                CtlError::usage(format!("--site: {e}"), "name a site of the fabric")
            })?),
            None => None,
        };
    match sub {
        Sub::Init(files) => provision::init(session, site, &files).await,
        Sub::Render { files, out } => provision::render(session, site, &files, &out),
        Sub::Check(files) => provision::check(session, site, &files).await,
    }
}
