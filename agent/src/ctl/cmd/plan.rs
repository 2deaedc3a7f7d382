//! `nettctl plan`: every verb with the same arguments; what is there to sign is passed over.

use nett_policy::log::entry::Terms;

use super::{drain, evacuate, failback, failover, hold, key, resolve, revert, steer, undrain};
use crate::api::types::{ApiRequest, Outcome, Payload, TermsDoc, VerbDoc};
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::session::Session;
use crate::ctl::submit;

#[derive(Debug, clap::Subcommand)]
pub(in crate::ctl) enum Sub {
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
    /// Undo a task
    Revert(revert::Args),
    /// End a split decision
    Resolve(resolve::Args),
    /// Keys of people
    #[command(subcommand)]
    Key(key::Sub),
}

pub(super) async fn run(sub: Sub, session: &mut Session) -> Result<Exit, CtlError> {
    let (verb, change) = match &sub {
        Sub::Failover(args) => (args.verb(), args.change()),
        Sub::Failback(args) => (args.verb(), args.change.clone()),
        Sub::Steer(args) => (args.verb(), args.change()),
        Sub::Drain(sub) => (sub.verb(), sub.change()),
        Sub::Undrain(sub) => (undrain::verb(sub), sub.change()),
        Sub::Evacuate(args) => (args.verb()?, args.change.clone()),
        Sub::Hold(args) => (args.verb(true), args.change.clone()),
        Sub::Release(args) => (args.verb(false), args.change.clone()),
        Sub::Revert(args) => (args.verb(), args.change.clone()),
        Sub::Resolve(args) => (args.verb(), args.change.clone()),
        Sub::Key(sub) => (sub.verb(), sub.change()),
    };
    let terms = submit::terms(session, &verb, &change).await?;
    let terms = (terms != Terms::default()).then(|| TermsDoc::from(&terms));
    let (verb, overrides) = (VerbDoc::from(&verb), change.overrides.iter().cloned().collect());
    let answer = session.ask(&ApiRequest::Plan { verb, overrides, terms }).await?;
    session.out.answer(&answer)?;
    let Outcome::Ok(payload) = &answer.outcome else {
        return Ok(Exit::Failed);
    };
    let Payload::Plan(plan) = &**payload else {
        return Ok(Exit::Failed);
    };
    // The status the verb itself would end with, as far as it can be known now.
    let expected = &change.signing.plan_hash;
    if expected.as_ref().is_some_and(|hash| *hash != plan.plan_hash) {
        return Ok(Exit::Changed);
    }
    let passed = |rule: &String| change.overrides.contains(rule);
    let refused = plan.refusals.iter().any(|r| r.override_with.is_none() || !passed(&r.rule));
    Ok(if refused { Exit::Refused } else { Exit::Done })
}
