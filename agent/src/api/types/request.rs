//! What a client may ask.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nett_policy::id::{IdError, WallMs, Weight};
use nett_policy::log::entry::{Object, Ramp, Terms, Verb};
use serde::{Deserialize, Serialize};

use super::Stamp;

/// The version of the API's shapes. A server answers a call of another version with
/// [`super::ErrorCode::Version`].
pub const VERSION: u32 = 1;

/// One call as it travels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiCall {
    pub v: u32,
    pub request: ApiRequest,
}

/// A question, or a signed command to hand in. The tag is `op`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ApiRequest {
    /// Which agent answers, and whose key this is: what a client needs to know before it signs.
    Identify {
        /// Public nkey (`U...`) of the operator, if one is at hand.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
    },
    Status {},
    Services {
        /// Service id or selector (`shop/prod/*`); everything when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        selector: Option<String>,
    },
    Service {
        id: String,
    },
    Sites {},
    Site {
        id: String,
    },
    Nodes {},
    Links {},
    Tasks {},
    Task {
        id: String,
    },
    /// An operator's word, at the voter's own socket, that another voter will not be read.
    Rejoin {
        without: String,
        reason: String,
    },
    /// What `verb` would do; changes nothing.
    Plan {
        verb: VerbDoc,
        /// Rules that the command would pass over.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        overrides: BTreeSet<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        terms: Option<TermsDoc>,
    },
    /// Split decisions.
    Conflicts {},
    ExplainName {
        name: String,
        /// The resolver's or client's address; the server's default client when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        client: Option<String>,
        /// A client subnet as a resolver would send it (RFC 7871), `ADDRESS/LENGTH`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        subnet: Option<String>,
    },
    /// The way of a packet from `from` to `to`, hop by hop.
    ExplainPath {
        from: String,
        to: String,
        /// The node it begins at; where the fabric says that `from` is, when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<String>,
    },
    /// What would follow from a loss: `site:ID`, `node:ID`, `link:ID` or `risk:NAME`.
    Simulate {
        lose: String,
    },
    /// What the guards count, and what of it must be zero.
    Separation {
        /// Only what must be zero, and by how much it has grown since.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<Stamp>,
    },
    /// Whether what is drained carries nothing any more.
    Drained {},
    /// What outside reporters say, as far as it is good.
    Facts {},
    /// A signed fact, for the subject it was signed for.
    Fact {
        subject: String,
        envelope: serde_json::Value,
    },
    /// Entries in the order of this node's audit file, oldest first, at most `limit` of the newest.
    Audit {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<Stamp>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
        limit: u32,
    },
    /// Whether this node's audit file is as it was written.
    AuditVerify {},
    /// This node's copy of the log.
    Backup {},
    /// Whole lines of this node's audit file, from this byte on.
    AuditPart {
        from: u64,
    },
    /// A piece of a log to be taken in, at the node's own socket.
    Restore {
        /// The name of the fabric it is of.
        fabric: String,
        /// SHA-256 of the whole log, in hexadecimal digits.
        hash: String,
        /// Where the piece stands, in bytes; 0 begins anew.
        from: u64,
        text: String,
        /// With this piece all of it is here.
        last: bool,
        reason: String,
    },
    /// Long poll: answered with the task as soon as its revision is above `after_revision`, and
    /// with whatever it is then after `timeout_ms` (the server takes at most 20 s).
    WatchTask {
        id: String,
        after_revision: u64,
        timeout_ms: u64,
    },
    /// A signed request envelope, for the subject it was signed for.
    Command {
        subject: String,
        envelope: serde_json::Value,
    },
}

/// What a command wants: the body of a signed request, without what binds it to a plan. The tag is
/// `verb`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub enum VerbDoc {
    Failover {
        services: String,
        to: String,
    },
    Failback {
        services: String,
    },
    Steer {
        services: String,
        /// Weight by site, 1 to 256.
        to: BTreeMap<String, u32>,
    },
    Drain {
        object: ObjectDoc,
    },
    Undrain {
        object: ObjectDoc,
    },
    Evacuate {
        site: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<String>,
    },
    Hold {
        services: String,
    },
    Release {
        services: String,
    },
    Revert {
        task: String,
    },
    Resolve {
        subject: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<String>,
    },
    Revoke {
        /// Whose key.
        person: String,
    },
}

/// How a command is to be carried out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TermsDoc {
    #[serde(default)]
    pub supersede: bool,
    /// Nodes that are said to be off.
    #[serde(default)]
    pub asserted: BTreeSet<String>,
    /// Sites that are said to be off, so that their voters are not needed.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub without: BTreeSet<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_within_ms: Option<u64>,
    /// By which shares a steer goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ramp: Option<RampDoc>,
    /// Until when a drain is meant to last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Stamp>,
    /// Established connections stay until they end.
    #[serde(default, skip_serializing_if = "is_false")]
    pub soft: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
pub(super) fn is_false(value: &bool) -> bool {
    !*value
}

/// Shares of a move, each held for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RampDoc {
    /// In percent, ascending to 100.
    pub steps: Vec<u8>,
    pub dwell_ms: u64,
    /// A comparison with a fact that must hold before every share but the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only_while: Option<String>,
}

/// What can be drained: a site, or with `service` that service at the site; a node, or a link.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ObjectDoc {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
}

// === impl VerbDoc ===

impl From<&Verb> for VerbDoc {
    fn from(verb: &Verb) -> Self {
        match verb {
            Verb::Failover { services, to } => {
                Self::Failover { services: services.to_string(), to: to.to_string() }
            }
            Verb::Failback { services } => Self::Failback { services: services.to_string() },
            Verb::Steer { services, to } => Self::Steer {
                services: services.to_string(),
                to: to
                    .iter()
                    .map(|(site, weight)| (site.to_string(), u32::from(weight.get())))
                    .collect(),
            },
            Verb::Drain { object } => Self::Drain { object: object.into() },
            Verb::Undrain { object } => Self::Undrain { object: object.into() },
            Verb::Evacuate { site, to } => {
                Self::Evacuate { site: site.to_string(), to: to.as_ref().map(ToString::to_string) }
            }
            Verb::Hold { services } => Self::Hold { services: services.to_string() },
            Verb::Release { services } => Self::Release { services: services.to_string() },
            Verb::Revert { task } => Self::Revert { task: task.to_string() },
            Verb::Resolve { subject, to } => Self::Resolve {
                subject: subject.to_string(),
                to: to.as_ref().map(ToString::to_string),
            },
            Verb::Revoke { person } => Self::Revoke { person: person.clone() },
        }
    }
}

impl TryFrom<&VerbDoc> for Verb {
    type Error = IdError;

    fn try_from(doc: &VerbDoc) -> Result<Self, IdError> {
        Ok(match doc {
            VerbDoc::Failover { services, to } => {
                Self::Failover { services: services.parse()?, to: to.parse()? }
            }
            VerbDoc::Failback { services } => Self::Failback { services: services.parse()? },
            VerbDoc::Steer { services, to } => {
                let weights =
                    to.iter().map(|(site, weight)| Ok((site.parse()?, Weight::new(*weight)?)));
                Self::Steer {
                    services: services.parse()?,
                    to: weights.collect::<Result<_, IdError>>()?,
                }
            }
            VerbDoc::Drain { object } => Self::Drain { object: object.try_into()? },
            VerbDoc::Undrain { object } => Self::Undrain { object: object.try_into()? },
            VerbDoc::Evacuate { site, to } => Self::Evacuate {
                site: site.parse()?,
                to: to.as_ref().map(|to| to.parse()).transpose()?,
            },
            VerbDoc::Hold { services } => Self::Hold { services: services.parse()? },
            VerbDoc::Release { services } => Self::Release { services: services.parse()? },
            VerbDoc::Revert { task } => Self::Revert { task: task.parse()? },
            VerbDoc::Resolve { subject, to } => Self::Resolve {
                subject: subject.parse()?,
                to: to.as_ref().map(|to| to.parse()).transpose()?,
            },
            VerbDoc::Revoke { person } => Self::Revoke { person: person.clone() },
        })
    }
}

// === impl TermsDoc ===

impl From<&Terms> for TermsDoc {
    fn from(terms: &Terms) -> Self {
        let Terms { supersede, asserted, without, confirm_within, ramp, until, soft } = terms;
        let ms = |time: &Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            supersede: *supersede,
            asserted: asserted.iter().map(ToString::to_string).collect(),
            without: without.iter().map(ToString::to_string).collect(),
            confirm_within_ms: confirm_within.as_ref().map(ms),
            ramp: ramp.as_ref().map(|Ramp { steps, dwell, only_while }| RampDoc {
                steps: steps.clone(),
                dwell_ms: ms(dwell),
                only_while: only_while.clone(),
            }),
            until: until.map(Stamp::from),
            soft: *soft,
        }
    }
}

impl TryFrom<&TermsDoc> for Terms {
    type Error = IdError;

    fn try_from(doc: &TermsDoc) -> Result<Self, IdError> {
        let TermsDoc { supersede, asserted, without, confirm_within_ms, ramp, until, soft } = doc;
        let ramp = ramp.as_ref().map(|RampDoc { steps, dwell_ms, only_while }| Ramp {
            steps: steps.clone(),
            dwell: Duration::from_millis(*dwell_ms),
            only_while: only_while.clone(),
        });
        Ok(Self {
            supersede: *supersede,
            asserted: asserted.iter().map(|node| node.parse()).collect::<Result<_, _>>()?,
            without: without.iter().map(|site| site.parse()).collect::<Result<_, _>>()?,
            confirm_within: confirm_within_ms.map(Duration::from_millis),
            ramp,
            until: until.map(|at| WallMs(at.ms())),
            soft: *soft,
        })
    }
}

// === impl ObjectDoc ===

impl From<&Object> for ObjectDoc {
    fn from(object: &Object) -> Self {
        let mut doc = Self::default();
        match object {
            Object::Site(site) => doc.site = Some(site.to_string()),
            Object::ServiceAt(service, site) => {
                (doc.site, doc.service) = (Some(site.to_string()), Some(service.to_string()));
            }
            Object::Node(node) => doc.node = Some(node.to_string()),
            Object::Link(link) => doc.link = Some(link.to_string()),
            Object::Cluster(cluster) => doc.cluster = Some(cluster.to_string()),
        }
        doc
    }
}

impl TryFrom<&ObjectDoc> for Object {
    type Error = IdError;

    fn try_from(doc: &ObjectDoc) -> Result<Self, IdError> {
        let ObjectDoc { site, service, node, link, cluster } = doc;
        Ok(match (service, node, link, cluster) {
            (None, Some(node), None, None) => Self::Node(node.parse()?),
            (None, None, Some(link), None) => Self::Link(link.parse()?),
            (None, None, None, Some(cluster)) => Self::Cluster(cluster.parse()?),
            (None, ..) => Self::Site(site.as_deref().unwrap_or_default().parse()?),
            (Some(service), ..) => {
                let site = site.as_deref().unwrap_or_default().parse()?;
                Self::ServiceAt(service.parse()?, site)
            }
        })
    }
}
