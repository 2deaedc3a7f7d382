//! The one home of exit statuses, and of the errors that lead to them.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use nett_policy::document::Diagnostic;

use crate::api::client::ClientError;
use crate::api::types::{ErrorCode, TaskStateDoc};
use crate::bus::provision::ProvisionError;
use crate::bus::render::RenderError;
use crate::bus::wire::WireError;

/// How `nettctl` ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    /// Done; for a command without `--wait`: accepted.
    Done = 0,
    /// The task failed, or ended otherwise than done.
    Failed = 1,
    /// Usage or configuration.
    Usage = 2,
    /// Cannot reach an agent or site.
    Unreachable = 3,
    /// Refused by a rule, which is named.
    Refused = 4,
    /// Waits for approval.
    Waiting = 5,
    /// Timed out.
    TimedOut = 6,
    /// The state changed since the plan.
    Changed = 7,
}

/// Why a command did not get its way before an agent judged it.
#[derive(Debug, thiserror::Error)]
pub(super) enum CtlError {
    #[error("{message}")]
    Usage { message: String, hint: String },
    #[error("`nettctl {name}` is not in this release")]
    Later { name: String },
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The command left, and nobody said what became of it.
    #[error("the command was sent and not answered: {source}")]
    Unanswered {
        hint: String,
        #[source]
        source: ClientError,
    },
    #[error("{path}: {source}")]
    File {
        path: PathBuf,
        hint: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("{path}: not an operator's nkey seed")]
    Seed { path: PathBuf },
    #[error(transparent)]
    Sign(#[from] WireError),
    #[error("no new key: the system's random numbers failed")]
    Keygen(#[source] nkeys::error::Error),
    /// Every mistake of a fabric file.
    #[error("{} in the fabric file", count(.mistakes.len()))]
    Fabric { mistakes: Vec<Diagnostic> },
    #[error(transparent)]
    Render(#[from] RenderError),
    #[error("{}", chain(.0))]
    Provision(#[from] ProvisionError),
    /// The key counts no more.
    #[error("refused by revoked: {sentence}")]
    Revoked { sentence: String },
    /// The task's plan is not the one that was named.
    #[error("the plan of task {task} is {found}, not {expected}")]
    Plan { task: String, found: String, expected: String },
    #[error("nothing was sent")]
    Declined,
    #[error("cannot start: {source}")]
    Runtime {
        #[source]
        source: io::Error,
    },
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

// === impl Exit ===

impl Exit {
    /// What a task's end means for one who waited for it.
    pub(super) fn of_task(state: TaskStateDoc) -> Self {
        match state {
            TaskStateDoc::Done => Self::Done,
            TaskStateDoc::WaitingApproval => Self::Waiting,
            TaskStateDoc::Running
            | TaskStateDoc::Paused
            | TaskStateDoc::Confirming
            | TaskStateDoc::Local => Self::TimedOut,
            TaskStateDoc::Failed
            | TaskStateDoc::Rejected
            | TaskStateDoc::Expired
            | TaskStateDoc::Cancelled
            | TaskStateDoc::Superseded
            | TaskStateDoc::Reverted => Self::Failed,
        }
    }

    /// The status an agent gave with a refusal; anything else is a refusal by a rule.
    pub(super) fn of_refusal(code: u8) -> Self {
        match code {
            1 => Self::Failed,
            2 => Self::Usage,
            3 => Self::Unreachable,
            5 => Self::Waiting,
            6 => Self::TimedOut,
            7 => Self::Changed,
            _ => Self::Refused,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<ErrorCode> for Exit {
    fn from(code: ErrorCode) -> Self {
        match code {
            ErrorCode::BadRequest
            | ErrorCode::Version
            | ErrorCode::TooLarge
            | ErrorCode::NotFound
            | ErrorCode::Unsupported => Self::Usage,
            ErrorCode::Busy | ErrorCode::NotReady => Self::Unreachable,
            ErrorCode::Timeout => Self::TimedOut,
            ErrorCode::Internal => Self::Failed,
        }
    }
}

// === impl CtlError ===

impl CtlError {
    pub(super) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hint: hint.into() }
    }

    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Usage { .. }
            | Self::Later { .. }
            | Self::File { .. }
            | Self::Seed { .. }
            | Self::Sign(_)
            | Self::Fabric { .. }
            | Self::Render(_)
            | Self::Declined => Exit::Usage,
            Self::Provision(error) => match error {
                ProvisionError::Connect { .. } => Exit::Unreachable,
                ProvisionError::NotAMirror { .. }
                | ProvisionError::UnknownSite(_)
                | ProvisionError::Start(_)
                | ProvisionError::Domain { .. } => Exit::Usage,
                ProvisionError::Look { .. }
                | ProvisionError::Create { .. }
                | ProvisionError::Delete { .. }
                | ProvisionError::Purge { .. } => Exit::Failed,
            },
            Self::Client(error) => of_client(error),
            Self::Unanswered { source, .. } => match source {
                ClientError::Agent(error) => error.code.into(),
                ClientError::NoAgent { .. } => Exit::Unreachable,
                _ => Exit::TimedOut,
            },
            Self::Revoked { .. } => Exit::Refused,
            Self::Plan { .. } => Exit::Changed,
            Self::Runtime { .. } | Self::Output(_) | Self::Keygen(_) => Exit::Failed,
        }
    }

    /// What to do about it.
    pub(super) fn hint(&self) -> Option<&str> {
        match self {
            Self::Usage { hint, .. } | Self::Unanswered { hint, .. } => Some(hint),
            Self::Client(ClientError::Agent(error)) => error.hint.as_deref(),
            Self::File { hint, .. } => Some(hint),
            Self::Seed { .. } => {
                Some("it must hold one line that begins with SU; see nettctl keygen")
            }
            Self::Plan { .. } => {
                Some("the state changed since you looked: read `nettctl task show` again")
            }
            Self::Revoked { .. } => Some("sign with another key; a new one comes with the fabric"),
            Self::Declined
            | Self::Later { .. }
            | Self::Client(_)
            | Self::Sign(_)
            | Self::Keygen(_)
            | Self::Fabric { .. }
            | Self::Render(_)
            | Self::Provision(_)
            | Self::Runtime { .. }
            | Self::Output(_) => None,
        }
    }
}

fn of_client(error: &ClientError) -> Exit {
    match error {
        ClientError::Socket { .. }
        | ClientError::Nats { .. }
        | ClientError::NoAgent { .. }
        | ClientError::NoAnswer { .. }
        | ClientError::Closed { .. } => Exit::Unreachable,
        ClientError::Incomplete { .. } | ClientError::TooLarge { .. } => Exit::Usage,
        ClientError::Decode(_) | ClientError::WrongAnswer => Exit::Usage,
        ClientError::Agent(error) => error.code.into(),
    }
}

fn count(mistakes: usize) -> String {
    match mistakes {
        1 => "1 mistake".to_owned(),
        many => format!("{many} mistakes"),
    }
}

/// An error with everything beneath it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(source) = below {
        text += &format!(": {source}");
        below = source.source();
    }
    text
}
