//! The streams of a site: made once by an operator with the admin key, checked at any time.
//!
//! Agents hold no right to make, change or delete a stream. Everything here can be repeated: what
//! is as it should be is left alone, and a stop half way is mended by running it again. Nothing is
//! ever deleted but a mirror, by [`resync`] alone: what was in it is at its origin.

use std::time::Duration;

use async_nats::jetstream::stream::{
    Config, DiscardPolicy, External, RetentionPolicy, Source, StorageType,
};
use async_nats::jetstream::{self, Context};
use nett_policy::fabric::Fabric;
use nett_policy::id::SiteId;

use super::nats::{self, StartError, TlsFiles};
use super::subject::{self, Replicated};

const MIB: i64 = 1 << 20;
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Retries of an append within this time are known to the server.
const RETRY_WINDOW: Duration = Duration::from_secs(2 * 3600);
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);

/// A stream as it should be.
#[derive(Debug, Clone)]
pub struct StreamPlan {
    /// What it is for, in a few words.
    pub purpose: String,
    pub config: Config,
}

/// What was found, or done, about one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub stream: String,
    pub purpose: String,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Created,
    /// It is as it should be.
    Same,
    /// These properties were changed.
    Updated(Vec<String>),
    /// `check` only: there is none.
    Missing,
    /// So many messages were in it, and so many are left.
    Smaller {
        before: u64,
        after: u64,
    },
    /// Nothing of it was deleted, and why.
    Stays(String),
    /// A mirror was deleted and made anew: it reads its origin from the beginning.
    Again,
    /// These properties differ, and were not changed: by `check`, or because the server cannot.
    Differs(Vec<String>),
}

/// Why provisioning stopped.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    #[error("site {0} is not in the fabric")]
    UnknownSite(SiteId),
    #[error("cannot reach the nats-server of site {site} at {urls}")]
    Connect {
        site: SiteId,
        urls: String,
        #[source]
        source: async_nats::ConnectError,
    },
    #[error("cannot start the connection")]
    Start(#[from] StartError),
    #[error("{stream}: the nats-server did not say what it has (is the key the admin key?)")]
    Look {
        stream: String,
        #[source]
        source: jetstream::context::GetStreamError,
    },
    #[error("{stream} cannot be made (is the key the admin key?)")]
    Create {
        stream: String,
        #[source]
        source: jetstream::context::CreateStreamError,
    },
    #[error("{stream} is no mirror: only a copy of another site's stream is made anew")]
    NotAMirror { stream: String },
    #[error("{stream} cannot be deleted (is the key the admin key?)")]
    Delete {
        stream: String,
        #[source]
        source: jetstream::context::DeleteStreamError,
    },
    #[error("{stream} cannot be made smaller (is the key the admin key?)")]
    Purge {
        stream: String,
        #[source]
        source: super::compact::PurgeError,
    },
    #[error("the server's JetStream domain is {found}, site {site} was meant: wrong server?")]
    Domain { site: SiteId, found: String },
}

/// Connects for provisioning; waits for the connection, at most a few seconds.
pub async fn connect(
    site: &SiteId,
    urls: &[String],
    admin_seed: &str,
    tls: Option<&TlsFiles>,
) -> Result<Context, ProvisionError> {
    let options = nats::options(admin_seed, tls)?.name("nettctl bus");
    let client = options.connect(urls.to_vec()).await.map_err(|source| {
        let (site, urls) = (site.clone(), urls.join(", "));
        ProvisionError::Connect { site, urls, source }
    })?;
    let builder = jetstream::context::ContextBuilder::new();
    Ok(builder.timeout(REQUEST_DEADLINE).build(client))
}

/// Every stream the server of `site` holds.
pub fn streams(fabric: &Fabric, site: &SiteId) -> Vec<StreamPlan> {
    let mut plans = Vec::new();
    for what in Replicated::ALL {
        plans.push(StreamPlan {
            purpose: format!("the {} of site {site}", noun(what)),
            config: Config { subjects: vec![what.subjects(site)], ..replicated(what, site) },
        });
    }
    plans.extend(commands(fabric, site));
    plans.push(StreamPlan {
        purpose: "observations of the last hour".to_owned(),
        config: Config {
            name: subject::observation_stream(site),
            subjects: vec![format!("nett.l.obs.{site}.>"), format!("nett.l.fact.{site}.>")],
            storage: StorageType::Memory,
            max_age: Duration::from_secs(3600),
            max_bytes: 32 * MIB,
            ..base()
        },
    });
    plans.push(local_bucket());
    for peer in fabric.other_sites(site) {
        for what in Replicated::ALL {
            let origin = Source {
                name: what.stream(&peer.id),
                external: Some(External {
                    api_prefix: subject::domain_api(&peer.id),
                    delivery_prefix: None,
                }),
                ..Source::default()
            };
            plans.push(StreamPlan {
                purpose: format!("mirror of the {} of site {}", noun(what), peer.id),
                config: Config { mirror: Some(origin), ..replicated(what, &peer.id) },
            });
        }
    }
    plans
}

fn noun(what: Replicated) -> &'static str {
    match what {
        Replicated::Log => "log",
        Replicated::Vote => "votes",
        Replicated::State => "node reports",
    }
}

fn base() -> Config {
    Config {
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        num_replicas: 1,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_consumers: -1,
        max_message_size: -1,
        duplicate_window: Duration::from_secs(120),
        ..Config::default()
    }
}

/// The limits of an origin and of its mirrors are the same, and set on both.
fn replicated(what: Replicated, site: &SiteId) -> Config {
    let name = what.stream(site);
    match what {
        Replicated::Log => Config {
            name,
            max_bytes: 256 * MIB,
            // A full log refuses; it never forgets its oldest entries by itself.
            discard: DiscardPolicy::New,
            deny_delete: true,
            duplicate_window: RETRY_WINDOW,
            ..base()
        },
        Replicated::Vote => Config {
            name,
            max_bytes: 16 * MIB,
            discard: DiscardPolicy::New,
            deny_delete: true,
            ..base()
        },
        Replicated::State => {
            Config { name, max_bytes: 16 * MIB, max_messages_per_subject: 1, ..base() }
        }
    }
}

/// Peers by name: a server announces interest over a leaf connection only if the whole wildcard
/// fits the peer's permissions. `None` for a fabric of one site.
fn commands(fabric: &Fabric, site: &SiteId) -> Option<StreamPlan> {
    let from = |peer: &SiteId| {
        [format!("nett.x.cmd.{site}.{peer}.>"), format!("nett.x.coord.{site}.{peer}.>")]
    };
    let subjects: Vec<String> = fabric.other_sites(site).flat_map(|p| from(&p.id)).collect();
    (!subjects.is_empty()).then(|| StreamPlan {
        purpose: "requests from other sites".to_owned(),
        config: Config {
            name: subject::command_stream(site),
            subjects,
            max_age: 7 * DAY,
            max_bytes: 64 * MIB,
            deny_delete: true,
            duplicate_window: RETRY_WINDOW,
            ..base()
        },
    })
}

/// Made as a stream: the client's own way fails against servers of the 2.9 line.
fn local_bucket() -> StreamPlan {
    StreamPlan {
        purpose: "site-local key-value bucket".to_owned(),
        config: Config {
            name: subject::local_bucket_stream(),
            subjects: vec![format!("$KV.{}.>", subject::LOCAL_BUCKET)],
            max_bytes: 16 * MIB,
            max_messages_per_subject: 5,
            discard: DiscardPolicy::New,
            allow_rollup: true,
            deny_delete: true,
            allow_direct: true,
            ..base()
        },
    }
}

/// Makes what is missing and mends what differs.
pub async fn init(
    context: &Context,
    fabric: &Fabric,
    site: &SiteId,
) -> Result<Vec<Finding>, ProvisionError> {
    walk(context, fabric, site, true).await
}

/// Says what `init` would do, and does nothing.
pub async fn check(
    context: &Context,
    fabric: &Fabric,
    site: &SiteId,
) -> Result<Vec<Finding>, ProvisionError> {
    walk(context, fabric, site, false).await
}

/// Makes the mirrors of `owner` at `site` anew, so that they hold what their origin holds. For an
/// origin that was rebuilt: a server goes on with a mirror by number, and never compares.
///
/// Stopped half way, a mirror is missing: `init` or this again makes it.
pub async fn resync(
    context: &Context,
    fabric: &Fabric,
    (site, owner): (&SiteId, &SiteId),
) -> Result<Vec<Finding>, ProvisionError> {
    for known in [site, owner] {
        if fabric.site(known).is_none() {
            return Err(ProvisionError::UnknownSite(known.clone()));
        }
    }
    check_domain(context, site).await?;
    let names = Replicated::ALL.map(|what| what.stream(owner));
    let mut findings = Vec::new();
    for StreamPlan { purpose, config } in streams(fabric, site) {
        let stream = config.name.clone();
        if !names.contains(&stream) {
            continue;
        }
        let found = existing(context, &stream).await?;
        if config.mirror.is_none() || found.as_ref().is_some_and(|found| found.mirror.is_none()) {
            return Err(ProvisionError::NotAMirror { stream });
        }
        if found.is_some() {
            context.delete_stream(&stream).await.map_err(|source| {
                let stream = stream.clone();
                ProvisionError::Delete { stream, source }
            })?;
        }
        context.create_stream(config).await.map_err(|source| {
            let stream = stream.clone();
            ProvisionError::Create { stream, source }
        })?;
        let outcome = Outcome::Again;
        findings.push(Finding { stream, purpose, outcome });
    }
    Ok(findings)
}

async fn walk(
    context: &Context,
    fabric: &Fabric,
    site: &SiteId,
    change: bool,
) -> Result<Vec<Finding>, ProvisionError> {
    if fabric.site(site).is_none() {
        return Err(ProvisionError::UnknownSite(site.clone()));
    }
    check_domain(context, site).await?;
    let mut findings = Vec::new();
    for StreamPlan { purpose, config } in streams(fabric, site) {
        let stream = config.name.clone();
        let outcome = match existing(context, &stream).await? {
            Some(existing) => mend(context, &existing, config, change).await,
            None if change => {
                context.create_stream(config).await.map_err(|source| {
                    let stream = stream.clone();
                    ProvisionError::Create { stream, source }
                })?;
                Outcome::Created
            }
            None => Outcome::Missing,
        };
        findings.push(Finding { stream, purpose, outcome });
    }
    Ok(findings)
}

/// A server names its own domain when a client connects; a reused or mistyped one is caught here.
pub(super) async fn check_domain(context: &Context, site: &SiteId) -> Result<(), ProvisionError> {
    let found = context.client().server_info().domain;
    match found {
        Some(found) if found != site.as_str() => {
            Err(ProvisionError::Domain { site: site.clone(), found })
        }
        _ => Ok(()),
    }
}

async fn existing(context: &Context, stream: &str) -> Result<Option<Config>, ProvisionError> {
    use jetstream::context::GetStreamErrorKind;
    match context.get_stream(stream).await {
        Ok(found) => Ok(Some(found.cached_info().config.clone())),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(e)
                if e.error_code() == jetstream::ErrorCode::STREAM_NOT_FOUND =>
            {
                Ok(None)
            }
            _ => Err(ProvisionError::Look { stream: stream.to_owned(), source: error }),
        },
    }
}

async fn mend(context: &Context, existing: &Config, wanted: Config, change: bool) -> Outcome {
    let differences = differences(existing, &wanted);
    if differences.is_empty() {
        return Outcome::Same;
    }
    // The server never changes where a mirror reads from.
    if !change || wanted.mirror.is_some() {
        return Outcome::Differs(differences);
    }
    match context.update_stream(wanted).await {
        Ok(_) => Outcome::Updated(differences),
        Err(error) => {
            let mut differences = differences;
            differences.push(format!("the server refuses the change: {error}"));
            Outcome::Differs(differences)
        }
    }
}

/// The properties that matter, as `name: is X, should be Y`.
fn differences(existing: &Config, wanted: &Config) -> Vec<String> {
    let mut out = Vec::new();
    let mut compare = |name: &str, is: String, should: String| {
        if is != should {
            out.push(format!("{name}: is {is}, should be {should}"));
        }
    };
    let origin = |config: &Config| {
        let mirror = config.mirror.as_ref()?;
        let api = mirror.external.as_ref().map(|e| e.api_prefix.clone());
        Some((mirror.name.clone(), api))
    };
    let sorted = |config: &Config| {
        let mut subjects = config.subjects.clone();
        subjects.sort();
        subjects
    };
    let (is, should) = (existing, wanted);
    compare("subjects", format!("{:?}", sorted(is)), format!("{:?}", sorted(should)));
    compare("mirror", format!("{:?}", origin(is)), format!("{:?}", origin(should)));
    compare("storage", format!("{:?}", is.storage), format!("{:?}", should.storage));
    compare("discard", format!("{:?}", is.discard), format!("{:?}", should.discard));
    compare("max_bytes", is.max_bytes.to_string(), should.max_bytes.to_string());
    compare("max_age", format!("{:?}", is.max_age), format!("{:?}", should.max_age));
    compare("deny_delete", is.deny_delete.to_string(), should.deny_delete.to_string());
    compare(
        "max_msgs_per_subject",
        is.max_messages_per_subject.to_string(),
        should.max_messages_per_subject.to_string(),
    );
    if wanted.mirror.is_none() {
        let window = |c: &Config| format!("{:?}", c.duplicate_window);
        compare("duplicate_window", window(is), window(should));
    }
    out
}

// === impl StreamPlan ===

impl StreamPlan {
    pub(super) fn is_memory(&self) -> bool {
        self.config.storage == StorageType::Memory
    }
}

// === impl Outcome ===

impl Outcome {
    /// True when the stream is usable as it is.
    pub fn is_good(&self) -> bool {
        match self {
            Self::Created | Self::Same | Self::Updated(_) | Self::Again => true,
            Self::Smaller { .. } | Self::Stays(_) => true,
            Self::Missing | Self::Differs(_) => false,
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Created => f.write_str("created"),
            Self::Same => f.write_str("as it should be"),
            Self::Updated(what) => write!(f, "changed ({})", what.join("; ")),
            Self::Smaller { before, after } => write!(f, "{after} of {before} messages are left"),
            Self::Stays(why) => write!(f, "stays as it is: {why}"),
            Self::Again => f.write_str("made anew"),
            Self::Missing => f.write_str("missing: run `nettctl bus init`"),
            Self::Differs(what) => write!(f, "differs ({})", what.join("; ")),
        }
    }
}
