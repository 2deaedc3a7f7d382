//! One file per subcommand: its arguments, and what it asks.

mod approve;
mod audit;
mod backup;
mod bus;
mod completions;
mod drain;
mod evacuate;
mod explain;
mod fabric;
mod fact;
mod failback;
mod failover;
mod hold;
mod key;
mod keygen;
mod link;
mod node;
mod parse;
mod plan;
mod prove;
mod reject;
mod rejoin;
mod resolve;
mod restore;
mod revert;
mod schema;
mod service;
mod simulate;
mod site;
mod status;
mod steer;
mod task;
mod turn;
mod undrain;

use clap::Subcommand;

use super::exit::{CtlError, Exit};
use super::session::Session;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// The fabric at a glance
    Status(status::Args),
    /// Services: where their traffic is
    #[command(subcommand)]
    Service(service::Sub),
    /// Sites
    #[command(subcommand)]
    Site(site::Sub),
    /// Nodes
    #[command(subcommand)]
    Node(node::Sub),
    /// Inter-site links
    #[command(subcommand)]
    Link(link::Sub),
    /// Move services to another site
    Failover(failover::Args),
    /// Move services back to their primary site
    Failback(failback::Args),
    /// Spread services over sites by weight
    Steer(steer::Args),
    /// Take a site, a cluster, a node, a link or a service at a site out of service
    #[command(subcommand)]
    Drain(drain::Sub),
    /// Put back what a drain took out
    #[command(subcommand)]
    Undrain(undrain::Sub),
    /// Take every service away from a dead site
    Evacuate(evacuate::Args),
    /// Let no task touch services until they are released
    Hold(hold::Args),
    /// Let tasks touch held services again
    Release(hold::Args),
    /// Keys of people
    #[command(subcommand)]
    Key(key::Sub),
    /// Split decisions: two people decided about one thing without knowing of each other
    Conflicts,
    /// End a split decision
    Resolve(resolve::Args),
    /// What a verb would do, per node; changes nothing
    #[command(subcommand)]
    Plan(plan::Sub),
    /// Tasks: what is under way, and what became of it
    #[command(subcommand)]
    Task(task::Sub),
    /// Facts: what outside reporters say, for gates and switches
    #[command(subcommand)]
    Fact(fact::Sub),
    /// Approve a task that waits (short for task approve)
    Approve(approve::Args),
    /// Reject a task that waits (short for task reject)
    Reject(reject::Args),
    /// Undo a task by a new one (short for task revert)
    Revert(revert::Args),
    /// Why something is as it is
    #[command(subcommand)]
    Explain(explain::Sub),
    /// What would move, stop or be too narrow if something were lost
    Simulate(simulate::Args),
    /// What the packet counters say: of separation, of drains
    #[command(subcommand)]
    Prove(prove::Sub),
    /// What happened, by whom and why
    Audit(audit::Args),
    /// Write this node's log and audit trail to a file
    Backup(backup::Args),
    /// Take in the log of a backup
    Restore(restore::Args),
    /// Let this node's voter vote without having read a voter that is lost
    Rejoin(rejoin::Args),
    /// The file that all nodes share
    #[command(subcommand)]
    Fabric(fabric::Sub),
    /// Set up and check the NATS side
    #[command(subcommand)]
    Bus(bus::Sub),
    /// Make an nkey for an operator or an agent
    Keygen(keygen::Args),
    /// Shell completions
    Completions(completions::Args),
    /// The JSON Schema of calls and answers
    Schema(schema::Args),
}

pub(super) async fn run(command: Command, session: &mut Session) -> Result<Exit, CtlError> {
    match command {
        Command::Status(args) => status::run(&args, session).await,
        Command::Service(sub) => service::run(sub, session).await,
        Command::Site(sub) => site::run(sub, session).await,
        Command::Node(sub) => node::run(sub, session).await,
        Command::Link(sub) => link::run(sub, session).await,
        Command::Failover(args) => failover::run(args, session).await,
        Command::Failback(args) => failback::run(args, session).await,
        Command::Steer(args) => steer::run(args, session).await,
        Command::Drain(sub) => drain::run(sub, session).await,
        Command::Undrain(sub) => undrain::run(sub, session).await,
        Command::Evacuate(args) => evacuate::run(args, session).await,
        Command::Hold(args) => hold::run(args, true, session).await,
        Command::Release(args) => hold::run(args, false, session).await,
        Command::Key(sub) => key::run(sub, session).await,
        Command::Conflicts => resolve::list(session).await,
        Command::Resolve(args) => resolve::run(args, session).await,
        Command::Plan(sub) => plan::run(sub, session).await,
        Command::Task(sub) => task::run(sub, session).await,
        Command::Fact(sub) => fact::run(sub, session).await,
        Command::Approve(args) => approve::run(args, session).await,
        Command::Reject(args) => reject::run(args, session).await,
        Command::Revert(args) => revert::run(args, session).await,
        Command::Explain(sub) => explain::run(sub, session).await,
        Command::Simulate(args) => simulate::run(&args, session).await,
        Command::Prove(sub) => prove::run(sub, session).await,
        Command::Audit(args) => audit::run(&args, session).await,
        Command::Backup(args) => backup::run(&args, session).await,
        Command::Restore(args) => restore::run(&args, session).await,
        Command::Rejoin(args) => rejoin::run(&args, session).await,
        Command::Fabric(sub) => fabric::run(&sub, session).await,
        Command::Bus(sub) => bus::run(sub, session).await,
        Command::Keygen(args) => keygen::run(&args, session),
        Command::Completions(args) => completions::run(&args, session),
        Command::Schema(args) => schema::run(&args, session),
    }
}
