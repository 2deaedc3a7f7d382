//! The one way to change something: look, ask the operator, sign, send, and say what became of it.
//!
//! An operator who confirmed at a terminal has seen a plan; the command is bound to that plan's
//! hash, so that something else never happens instead. With `--yes` only `--plan-hash` binds.

use std::collections::BTreeSet;
use std::time::Duration;

use nett_policy::id::{EntryId, NodeId, SiteId, WallMs};
use nett_policy::log::entry::{Ask, Person, Request, Terms, Verb, WishKind};
use nkeys::KeyPair;

use super::args::{Change, Fencing, More, Signing};
use super::duration::now_ms;
use super::exit::{CtlError, Exit};
use super::render;
use super::session::Session;
use super::{follow, key, sign};
use crate::api::client::ClientError;
use crate::api::types::Payload;
use crate::api::types::{
    ApiRequest, CommandReply, ErrorCode, NodeDoc, PlanDoc, RefusalDoc, TaskDoc, TaskStateDoc,
    TermsDoc, VerbDoc,
};

/// How long a site may take a command.
const COMMAND_EXPIRES: Duration = Duration::from_secs(60);
/// How long a site may take an approval or a rejection.
const WISH_EXPIRES: Duration = Duration::from_secs(15 * 60);
/// How long a fact from outside is good for, unless told otherwise.
const GATE_EXPIRES: Duration = Duration::from_secs(15 * 60);
/// A node that was heard longer ago is silent, in milliseconds.
const SILENT_MS: u64 = 10_000;
/// The longest reason, in bytes.
const REASON_MAX: usize = 1000;

/// Opens a task.
pub(super) async fn command(
    session: &mut Session,
    verb: Verb,
    change: &Change,
) -> Result<Exit, CtlError> {
    let signing = &change.signing;
    let checked = check(session, signing)?;
    let mut plan_hash = signing.plan_hash.clone();
    let terms = terms(session, &verb, change).await?;
    let overrides: BTreeSet<String> = change.overrides.iter().cloned().collect();
    if !signing.yes {
        let plan = plan(session, &verb, &overrides, &terms).await?;
        if let Some(expected) = &plan_hash
            && *expected != plan.plan_hash
        {
            return Err(CtlError::Plan {
                task: format!("({})", verb.name()),
                found: plan.plan_hash,
                expected: expected.clone(),
            });
        }
        let standing = standing(&plan.refusals, &change.overrides);
        session.out.ask_text(&render::confirmation(&plan, &verb))?;
        if !standing.is_empty() {
            return session.out.refused_by_plan(&standing);
        }
        confirm(session)?;
        plan_hash = Some(plan.plan_hash);
    }
    let ask = Ask::Command { verb, plan_hash, overrides, terms };
    send(session, signing, checked, ask, COMMAND_EXPIRES).await
}

/// How the command is to be carried out: as told, with the nodes that are said to be off by name.
pub(super) async fn terms(
    session: &mut Session,
    verb: &Verb,
    change: &Change,
) -> Result<Terms, CtlError> {
    let asserted = match change.fencing {
        Fencing::Confirmed if change.off.is_empty() => BTreeSet::new(),
        Fencing::Confirmed => {
            return Err(CtlError::usage(
                "--off names a node without --fencing asserted",
                "nobody is taken to be off by the way: add --fencing asserted",
            ));
        }
        // Whoever is silent loses its lease: nobody's word is needed.
        Fencing::Lease if change.off.is_empty() => BTreeSet::new(),
        Fencing::Lease => {
            return Err(CtlError::usage(
                "--off names a node beside --fencing lease",
                "a lease ends by itself: leave --off out, or say --fencing asserted",
            ));
        }
        Fencing::Asserted if !change.off.is_empty() => change.off.iter().cloned().collect(),
        Fencing::Asserted => match verb {
            Verb::Evacuate { site, .. } => nodes(session, |n| n.site == site.as_str()).await?,
            _ => match silent_nodes(session).await? {
                silent if silent.is_empty() => {
                    return Err(CtlError::usage(
                        "--fencing asserted, and no node has been silent for 10 s",
                        "name those that are off with --off NODE; `nettctl node list` has them",
                    ));
                }
                silent => silent,
            },
        },
    };
    if !asserted.is_empty() {
        let names: Vec<&str> = asserted.iter().map(NodeId::as_str).collect();
        session.out.note(&format!("you say that these are off: {}", names.join(", ")))?;
    }
    let (supersede, confirm_within) = (change.supersede, change.confirm_within);
    let More { ramp, until, soft, without } = change.more.clone();
    let without = match without {
        None => BTreeSet::new(),
        Some(sites) if sites.is_empty() => return Err(unnamed(session).await?),
        Some(sites) => sites,
    };
    if !without.is_empty() {
        let names: Vec<&str> = without.iter().map(SiteId::as_str).collect();
        session.out.note(&format!(
            "you say that these sites are off, and serve nothing before they have read the log: \
             {}; two sites may serve at once where that is not so",
            names.join(", ")
        ))?;
    }
    Ok(Terms { supersede, asserted, without, confirm_within, ramp, until, soft })
}

/// Whoever wants to go without a majority has to say who is off: this is whom the agent misses.
async fn unnamed(session: &mut Session) -> Result<CtlError, CtlError> {
    let Payload::Status(status) = session.payload(&ApiRequest::Status {}).await? else {
        return Err(ClientError::WrongAnswer.into());
    };
    let voters = status.leases.map(|leases| leases.voters).unwrap_or_default();
    let missed = voters.iter().filter(|v| v.answered_ms.is_none_or(|ms| ms > SILENT_MS));
    let missed: Vec<String> = missed.map(|v| format!("--without {}", v.site)).collect();
    let hint = match missed.is_empty() {
        true => "every voter answers: it is not needed".to_owned(),
        false => {
            format!("the voters that do not answer: {}, if these sites are off", missed.join(" "))
        }
    };
    Ok(CtlError::usage("--without-quorum names no site that is off", hint))
}

/// The nodes that have not been heard for longer than an answer keeps fresh.
pub(super) async fn silent_nodes(session: &mut Session) -> Result<BTreeSet<NodeId>, CtlError> {
    nodes(session, |node| node.age_ms.is_none_or(|age| age > SILENT_MS)).await
}

async fn nodes(
    session: &mut Session,
    is: impl Fn(&NodeDoc) -> bool,
) -> Result<BTreeSet<NodeId>, CtlError> {
    let Payload::Nodes { nodes } = session.payload(&ApiRequest::Nodes {}).await? else {
        return Err(ClientError::WrongAnswer.into());
    };
    let ids = nodes.iter().filter(|node| is(node)).map(|node| node.id.parse());
    ids.collect::<Result<_, _>>().map_err(|_| ClientError::WrongAnswer.into())
}

/// Says what is wanted of a task that there is.
pub(super) async fn wish(
    session: &mut Session,
    task: EntryId,
    wanted: Wanted,
    signing: &Signing,
) -> Result<Exit, CtlError> {
    let checked = check(session, signing)?;
    let doc = match task_doc(session, &task).await {
        Ok(doc) => doc,
        // One node may have taken it for itself: that node knows.
        Err(CtlError::Client(ClientError::Agent(error)))
            if error.code == ErrorCode::NotFound && signing.yes =>
        {
            let Wanted::Other(kind @ WishKind::Cancel) = wanted else {
                return Err(ClientError::Agent(error).into());
            };
            return send(session, signing, checked, Ask::Wish { task, kind }, WISH_EXPIRES).await;
        }
        Err(error) => return Err(error),
    };
    if let Some(expected) = &signing.plan_hash
        && *expected != doc.plan_hash
    {
        return Err(CtlError::Plan {
            task: task.to_string(),
            found: doc.plan_hash,
            expected: expected.clone(),
        });
    }
    let kind = match wanted {
        Wanted::Approve => WishKind::Approve { plan_hash: doc.plan_hash.clone() },
        Wanted::Other(kind) => kind,
    };
    if !signing.yes {
        session.out.ask_text(&render::wish_text(&doc, &kind))?;
        confirm(session)?;
    }
    let expires = match &kind {
        WishKind::Gate { .. } => GATE_EXPIRES,
        _ => WISH_EXPIRES,
    };
    send(session, signing, checked, Ask::Wish { task, kind }, expires).await
}

/// What an operator wants of a task.
#[derive(Debug, Clone)]
pub(super) enum Wanted {
    /// The plan as it is shown.
    Approve,
    Other(WishKind),
}

/// What a verb would do.
async fn plan(
    session: &mut Session,
    verb: &Verb,
    overrides: &BTreeSet<String>,
    terms: &Terms,
) -> Result<PlanDoc, CtlError> {
    let (verb, overrides) = (VerbDoc::from(verb), overrides.clone());
    let terms = (*terms != Terms::default()).then(|| TermsDoc::from(terms));
    match session.payload(&ApiRequest::Plan { verb, overrides, terms }).await? {
        Payload::Plan(plan) => Ok(plan),
        _ => Err(ClientError::WrongAnswer.into()),
    }
}

async fn task_doc(session: &mut Session, task: &EntryId) -> Result<TaskDoc, CtlError> {
    let id = task.to_string();
    match session.payload(&ApiRequest::Task { id }).await? {
        Payload::Task(task) => Ok(task),
        _ => Err(ClientError::WrongAnswer.into()),
    }
}

/// The refusals that no `--override` passes over.
fn standing<'a>(refusals: &'a [RefusalDoc], overrides: &[String]) -> Vec<&'a RefusalDoc> {
    let passed = |r: &&RefusalDoc| r.override_with.is_some() && overrides.contains(&r.rule);
    refusals.iter().filter(|r| !passed(r)).collect()
}

/// What can be said before anything is asked: reason, key, and a way to confirm.
fn check(session: &Session, signing: &Signing) -> Result<(String, KeyPair), CtlError> {
    let reason = signing.reason.as_deref().unwrap_or_default().trim();
    if reason.is_empty() {
        return Err(CtlError::usage(
            "--reason is missing",
            "say why: --reason 'site osl loses power'; it goes on record",
        ));
    }
    if reason.len() > REASON_MAX {
        return Err(CtlError::usage(
            format!("--reason has {} bytes, {REASON_MAX} are allowed", reason.len()),
            "name a ticket instead",
        ));
    }
    if session.global.key.is_some() && !signing.yes && !session.out.can_ask() {
        return Err(CtlError::usage(
            "there is no terminal to confirm on",
            "look with `nettctl plan`, then repeat with --yes --plan-hash HASH",
        ));
    }
    Ok((reason.to_owned(), key_of(session)?))
}

/// The key of whoever asks.
pub(super) fn key_of(session: &Session) -> Result<KeyPair, CtlError> {
    let Some(path) = &session.global.key else {
        return Err(CtlError::usage(
            "--key (NETT_KEY) is missing",
            "changes are signed: name the file with your nkey seed",
        ));
    };
    let seed = key::read_seed(path)?;
    key::parse(&seed).ok_or_else(|| CtlError::Seed { path: path.clone() })
}

fn confirm(session: &Session) -> Result<(), CtlError> {
    if session.out.confirm("Go ahead? [y/N] ")? { Ok(()) } else { Err(CtlError::Declined) }
}

async fn send(
    session: &mut Session,
    signing: &Signing,
    (reason, pair): (String, KeyPair),
    ask: Ask,
    expires: Duration,
) -> Result<Exit, CtlError> {
    let (site, name) = speaker(session, &pair).await?;
    let issued_at = now_ms();
    let expires = signing.expires.unwrap_or(expires);
    let expires_ms = u64::try_from(expires.as_millis()).unwrap_or(u64::MAX);
    let id = format!("{site}.{}", ulid::Ulid::generate().to_string().to_lowercase());
    let id: EntryId = id.parse().expect("a site, a dot and a ULID are an entry id");
    let request = Request {
        id: id.clone(),
        site,
        person: Person { name, key: pair.public_key() },
        reason,
        issued_at: WallMs(issued_at),
        expires_at: WallMs(issued_at.saturating_add(expires_ms)),
        ask,
    };
    let sealed = sign::seal(&request, &pair)?;
    // A failure to connect is known to be before the sending; any other is not.
    session.client().await?;
    let sent = session.command(&sealed.subject, sealed.envelope).await;
    let task = match &request.ask {
        Ask::Command { .. } => id,
        Ask::Wish { task, kind: _ } => task.clone(),
    };
    let reply = sent.map_err(|error| unanswered(error, &task))?;
    settle(session, &reply, task, signing.wait).await
}

/// The site that is to accept, and the operator's name: told, or asked of the agent.
pub(super) async fn speaker(
    session: &mut Session,
    pair: &KeyPair,
) -> Result<(SiteId, String), CtlError> {
    let identity = session.identify(pair.public_key()).await?;
    if let Some(wanted) = &session.global.site
        && *wanted != identity.site
    {
        return Err(CtlError::usage(
            format!("this agent is of site {}, not {wanted}", identity.site),
            format!("a command is accepted where it is given: use --nats with --site {wanted}"),
        ));
    }
    if let Some(revoked) = identity.revoked {
        return Err(CtlError::Revoked { sentence: revoked.sentence() });
    }
    let site = identity.site.parse().map_err(|_| ClientError::WrongAnswer)?;
    let name = session.global.operator.clone().or(identity.operator);
    let name = name.ok_or_else(|| {
        CtlError::usage(
            format!("no operator of the fabric has the key {}", pair.public_key()),
            "add an [[operator]] with this key to fabric.toml, or use another --key",
        )
    })?;
    Ok((site, name))
}

fn unanswered(error: CtlError, task: &EntryId) -> CtlError {
    match error {
        CtlError::Client(source @ ClientError::Agent(_)) => source.into(),
        CtlError::Client(source) => CtlError::Unanswered {
            hint: format!("it may have been accepted: look with `nettctl task show {task}`"),
            source,
        },
        other => other,
    }
}

async fn settle(
    session: &mut Session,
    reply: &CommandReply,
    sent: EntryId,
    wait: bool,
) -> Result<Exit, CtlError> {
    if !reply.accepted {
        session.out.reply(reply)?;
        return Ok(Exit::of_refusal(reply.exit));
    }
    // A recorded wish is done, even when the task waits for more of them.
    let waits = reply.exit == Exit::Waiting as u8;
    // Taken by one node alone there is nothing to follow.
    let local = reply.state.as_deref() == Some(TaskStateDoc::Local.as_str());
    if !wait || local {
        session.out.reply(reply)?;
        return Ok(if waits { Exit::Waiting } else { Exit::Done });
    }
    let task = reply.task.as_deref().and_then(|task| task.parse().ok());
    follow::follow(session, &task.unwrap_or(sent)).await
}
