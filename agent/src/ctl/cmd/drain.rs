//! `nettctl drain`.

use nett_policy::id::{LinkId, NodeId, ServiceId, SiteId};
use nett_policy::log::entry::{Object, Verb};

use crate::ctl::args::Change;
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::session::Session;
use crate::ctl::submit;

#[derive(Debug, clap::Subcommand)]
pub(in crate::ctl) enum Sub {
    /// Every service at a site
    Site {
        id: SiteId,
        #[command(flatten)]
        change: Change,
    },
    /// A border or route node: traffic takes the others of its site
    Node {
        id: NodeId,
        #[command(flatten)]
        change: Change,
    },
    /// An inter-site link: traffic takes the others
    Link {
        id: LinkId,
        #[command(flatten)]
        change: Change,
    },
    /// One service at one site
    Service {
        id: ServiceId,
        /// The site it leaves
        #[arg(long, value_name = "SITE")]
        at: SiteId,
        #[command(flatten)]
        change: Change,
    },
}

impl Sub {
    pub(super) fn object(&self) -> Object {
        match self {
            Self::Site { id, change: _ } => Object::Site(id.clone()),
            Self::Node { id, change: _ } => Object::Node(id.clone()),
            Self::Link { id, change: _ } => Object::Link(id.clone()),
            Self::Service { id, at, change: _ } => Object::ServiceAt(id.clone(), at.clone()),
        }
    }

    pub(super) fn change(&self) -> &Change {
        match self {
            Self::Site { change, .. }
            | Self::Node { change, .. }
            | Self::Link { change, .. }
            | Self::Service { change, .. } => change,
        }
    }

    pub(super) fn verb(&self) -> Verb {
        Verb::Drain { object: self.object() }
    }
}

pub(super) async fn run(sub: Sub, session: &mut Session) -> Result<Exit, CtlError> {
    submit::command(session, sub.verb(), sub.change()).await
}
