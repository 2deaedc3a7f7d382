//! `nettctl task cancel`, `pause`, `resume`, `confirm`, `gate` and `adopt`: what people may want of
//! a task while it is open.

use std::collections::BTreeSet;

use nett_policy::id::{EntryId, NodeId};
use nett_policy::log::entry::WishKind;

use super::parse;
use crate::ctl::args::{Fencing, Signing};
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::session::Session;
use crate::ctl::submit::{self, Wanted};

#[derive(Debug, clap::Args)]
pub(in crate::ctl) struct Args {
    /// Task id
    #[arg(value_parser = parse::task)]
    id: EntryId,
    #[command(flatten)]
    signing: Signing,
}

#[derive(Debug, clap::Args)]
pub(in crate::ctl) struct GateArgs {
    /// Task id
    #[arg(value_parser = parse::task)]
    id: EntryId,
    /// The fact that holds, as the service names it (data-ready)
    name: String,
    #[command(flatten)]
    signing: Signing,
}

#[derive(Debug, clap::Args)]
pub(in crate::ctl) struct AdoptArgs {
    /// Task id
    #[arg(value_parser = parse::task)]
    id: EntryId,
    /// What is to be known of nodes that must acknowledge and are silent
    #[arg(long, value_enum, value_name = "HOW", default_value = "confirmed")]
    fencing: Fencing,
    /// With --fencing asserted: say that this node is off; may be repeated [default: every node
    /// that is silent]
    #[arg(long = "off", value_name = "NODE")]
    off: Vec<NodeId>,
    #[command(flatten)]
    signing: Signing,
}

pub(super) async fn run(
    args: Args,
    kind: WishKind,
    session: &mut Session,
) -> Result<Exit, CtlError> {
    submit::wish(session, args.id, Wanted::Other(kind), &args.signing).await
}

pub(super) async fn gate(args: GateArgs, session: &mut Session) -> Result<Exit, CtlError> {
    let kind = WishKind::Gate { name: args.name };
    submit::wish(session, args.id, Wanted::Other(kind), &args.signing).await
}

pub(super) async fn adopt(args: AdoptArgs, session: &mut Session) -> Result<Exit, CtlError> {
    let asserted: BTreeSet<NodeId> = match args.fencing {
        Fencing::Confirmed => BTreeSet::new(),
        Fencing::Lease => {
            return Err(CtlError::Later { name: "task adopt --fencing lease".to_owned() });
        }
        Fencing::Asserted if args.off.is_empty() => submit::silent_nodes(session).await?,
        Fencing::Asserted => args.off.into_iter().collect(),
    };
    let kind = WishKind::Adopt { asserted };
    submit::wish(session, args.id, Wanted::Other(kind), &args.signing).await
}
