//! `nettctl fabric check`: what the next file changes of the voters, and whether it is time for it.
//!
//! The file is compared with what the agent says of the voters, who may hear less than another one.
//! It is advice: voters and nodes refuse by themselves what must not be (adr/0062).

use std::path::PathBuf;
use std::time::Duration;

use nett_policy::fabric::{Fabric, Lease, VoterChange};
use nett_policy::id::{Generation, IdError};
use nett_policy::lease::electorate::{Electorates, Step, Terms};
use nett_policy::lease::rule::quorum_of;
use serde::Serialize;

use crate::api::client::ClientError;
use crate::api::types::{ApiRequest, LeasesDoc, Payload, VoterDoc, VotersDoc};
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::provision;
use crate::ctl::session::Session;

#[derive(Debug, clap::Subcommand)]
pub(in crate::ctl) enum Sub {
    /// Compare a file with the voters as they are: what it changes, and whether it is time for it
    Check {
        /// The fabric file that nodes are to get next
        file: PathBuf,
    },
}

/// What became of the comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Checked {
    /// What the file changes, and what is worth knowing.
    says: Vec<String>,
    /// The rule that keeps it from being rolled out now, with the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<Refused>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Refused {
    rule: &'static str,
    message: String,
}

pub(super) async fn run(sub: &Sub, session: &mut Session) -> Result<Exit, CtlError> {
    let Sub::Check { file } = sub;
    let fabric = provision::fabric(file)?;
    let Payload::Status(status) = session.payload(&ApiRequest::Status {}).await? else {
        return Err(ClientError::WrongAnswer.into());
    };
    if status.fabric != fabric.name {
        return Err(CtlError::usage(
            format!("the file is of the fabric {}, the agent's of {}", fabric.name, status.fabric),
            "ask an agent of the file's own fabric",
        ));
    }
    let checked = match &status.leases {
        None => Checked::says("nothing is leased here: no voter is asked"),
        Some(leases) => check(&fabric, leases).map_err(|_| ClientError::WrongAnswer)?,
    };
    session.out.checked(&checked, &checked.says)?;
    let Some(Refused { rule, message }) = &checked.refused else { return Ok(Exit::Done) };
    session.out.note(&format!("refused by {rule}: {message}"))?;
    Ok(Exit::Refused)
}

/// # Errors
/// What the agent says has names that are none.
fn check(fabric: &Fabric, leases: &LeasesDoc) -> Result<Checked, IdError> {
    let Some(doc) = &leases.terms else {
        return Ok(Checked::says("the agent is of a release without generations of voters"));
    };
    let present = terms(doc)?;
    let electorates = fabric.electorates();
    if let Some(why) = &leases.refused {
        return Ok(Checked::default().refused("voters-refused", why.clone()));
    }
    let now = present.generation;
    let step = match electorates.against(&present) {
        Ok(step) => step,
        Err(refused) => return Ok(Checked::default().refused("voters-step", refused.to_string())),
    };
    let next = electorates.present.generation;
    Ok(match step {
        Step::Same => Checked::says(&format!("voters: generation {now} as now: no change")),
        Step::Older => Checked::default()
            .refused("voters-step", format!("it has generation {next}, and {now} is in use")),
        Step::Further => Checked::default().refused(
            "voters-step",
            format!("it has generation {next}, and {now} is in use: go one generation at a time"),
        ),
        Step::Next => is_time(leases, &present, fabric, Checked::says(&change(&electorates))),
    })
}

/// Whether a majority of the present voters has run their generation for W.
fn is_time(leases: &LeasesDoc, present: &Terms, fabric: &Fabric, mut checked: Checked) -> Checked {
    let (now, wait) = (present.generation, fabric.lease.wait);
    let is_present = |voter: &&VoterDoc| voter.change.as_deref() != Some("removed");
    let (mut steady, mut all) = (0, 0);
    for voter in leases.voters.iter().filter(is_present) {
        let VoterDoc { site, node, answered_ms, generation, steady_ms, rejoining, change: _ } =
            voter;
        all += 1;
        let runs = generation.unwrap_or_default();
        let time = Duration::from_millis(steady_ms.unwrap_or_default());
        let silent = answered_ms.is_none_or(|ms| ms > leases.duration_ms);
        let what = match () {
            () if silent && !rejoining => "does not answer".to_owned(),
            () if *rejoining => "has lost its journal and does not vote yet".to_owned(),
            () if runs != now.0 => format!("runs generation {runs}"),
            () if time < wait => {
                let (time, wait) = (time.as_secs(), wait.as_secs_f64());
                format!("has run generation {now} for {time} s of {wait} s")
            }
            () => {
                steady += 1;
                continue;
            }
        };
        checked.says.push(format!("{site}/{node} {what}"));
    }
    let needed = quorum_of(all);
    if steady < needed {
        let why = format!(
            "generation {now} has been run for the wait by {steady} of {all} voters, and {needed} \
             are needed: nobody would rise yet"
        );
        return checked.refused("voters-steady", why);
    }
    let told = format!("{steady} of {all} voters have run generation {now} for the wait");
    checked.says.push(told);
    if steady < all {
        checked.says.push(
            "with one of them missing, services under a lease may stop for a while on the way: \
             see LEASES.md, changing the voters"
                .to_owned(),
        );
    }
    checked
}

/// What a file does to the voters, in words.
fn change(electorates: &Electorates) -> String {
    let generation = electorates.present.generation;
    let count = electorates.present.voters.len();
    let node = |node: &dyn std::fmt::Display, site: Option<&nett_policy::id::SiteId>| match site {
        Some(site) => format!("{site}/{node}"),
        None => node.to_string(),
    };
    let what = match &electorates.change {
        VoterChange::First => "is the first".to_owned(),
        VoterChange::Added(id) => format!("adds {}", node(id, electorates.added())),
        VoterChange::Removed(id) => format!("removes {}", node(id, electorates.removed())),
        VoterChange::Lease(Lease { duration, wait }) => {
            let Lease { duration: new, wait: longer } = electorates.lease;
            let seconds = |time: &Duration| time.as_secs_f64();
            format!(
                "changes the lease from {} s to {} s and the wait from {} s to {} s",
                seconds(duration),
                seconds(&new),
                seconds(wait),
                seconds(&longer)
            )
        }
    };
    let needed = quorum_of(count);
    format!("voters: generation {generation} {what}: {count} voters, {needed} are a majority")
}

fn terms(doc: &VotersDoc) -> Result<Terms, IdError> {
    let VotersDoc { generation, voters, duration_ms, wait_ms } = doc;
    let voters = voters.iter().map(|(site, node)| Ok((site.parse()?, node.parse()?)));
    let lease = Lease {
        duration: Duration::from_millis(*duration_ms),
        wait: Duration::from_millis(*wait_ms),
    };
    let voters = voters.collect::<Result<_, IdError>>()?;
    Ok(Terms { generation: Generation(*generation), voters, lease })
}

// === impl Checked ===

impl Checked {
    fn says(line: &str) -> Self {
        Self { says: vec![line.to_owned()], refused: None }
    }

    fn refused(self, rule: &'static str, message: String) -> Self {
        Self { refused: Some(Refused { rule, message }), ..self }
    }
}
