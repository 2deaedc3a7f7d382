//! `nettctl drain`.

use nett_policy::id::{ClusterId, LinkId, NodeId, ServiceId, SiteId, WallMs};
use nett_policy::log::entry::{Object, Verb};

use crate::api::types::Stamp;
use crate::ctl::args::{Change, More};
use crate::ctl::duration::until;
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::session::Session;
use crate::ctl::submit;

#[derive(Debug, clap::Args)]
pub(in crate::ctl) struct Lasting {
    /// Until when it is meant to last (RFC 3339, or in how long); then you are asked to end it
    #[arg(long, value_name = "TIME", value_parser = until)]
    until: Option<Stamp>,
    /// Established connections stay until they end; new ones go on (sites and services)
    #[arg(long)]
    soft: bool,
    #[command(flatten)]
    change: Change,
}

#[derive(Debug, clap::Subcommand)]
pub(in crate::ctl) enum Sub {
    /// Every service at a site
    Site {
        id: SiteId,
        #[command(flatten)]
        lasting: Lasting,
    },
    /// A border or route node: traffic takes the others of its site
    Node {
        id: NodeId,
        #[command(flatten)]
        lasting: Lasting,
    },
    /// An inter-site link: traffic takes the others
    Link {
        id: LinkId,
        #[command(flatten)]
        lasting: Lasting,
    },
    /// A cluster of backends: the others of its site take its share
    Cluster {
        id: ClusterId,
        #[command(flatten)]
        lasting: Lasting,
    },
    /// One service at one site
    Service {
        id: ServiceId,
        /// The site it leaves
        #[arg(long, value_name = "SITE")]
        at: SiteId,
        #[command(flatten)]
        lasting: Lasting,
    },
}

impl Sub {
    pub(super) fn object(&self) -> Object {
        match self {
            Self::Site { id, lasting: _ } => Object::Site(id.clone()),
            Self::Node { id, lasting: _ } => Object::Node(id.clone()),
            Self::Link { id, lasting: _ } => Object::Link(id.clone()),
            Self::Cluster { id, lasting: _ } => Object::Cluster(id.clone()),
            Self::Service { id, at, lasting: _ } => Object::ServiceAt(id.clone(), at.clone()),
        }
    }

    pub(super) fn change(&self) -> Change {
        let (Self::Site { lasting, .. }
        | Self::Node { lasting, .. }
        | Self::Link { lasting, .. }
        | Self::Cluster { lasting, .. }
        | Self::Service { lasting, .. }) = self;
        let until = lasting.until.map(|at| WallMs(at.ms()));
        let soft = lasting.soft;
        Change { more: More { until, soft, ..More::default() }, ..lasting.change.clone() }
    }

    pub(super) fn verb(&self) -> Verb {
        Verb::Drain { object: self.object() }
    }
}

pub(super) async fn run(sub: Sub, session: &mut Session) -> Result<Exit, CtlError> {
    submit::command(session, sub.verb(), &sub.change()).await
}
