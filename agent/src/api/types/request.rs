//! What a client may ask.

use std::collections::BTreeMap;

use nett_policy::id::{IdError, Weight};
use nett_policy::log::entry::{Object, Verb};
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
    /// What `verb` would do; changes nothing.
    Plan {
        verb: VerbDoc,
    },
    ExplainName {
        name: String,
        /// The resolver's or client's address; the server's default client when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        client: Option<String>,
        /// A client subnet as a resolver would send it (RFC 7871), `ADDRESS/LENGTH`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        subnet: Option<String>,
    },
    /// Entries in the order of this node's audit file, oldest first, at most `limit` of the newest.
    Audit {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<Stamp>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
        limit: u32,
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
    Revert {
        task: String,
    },
}

/// What can be drained: a site, or with `service` that service at the site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectDoc {
    pub site: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
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
            Verb::Revert { task } => Self::Revert { task: task.to_string() },
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
            VerbDoc::Revert { task } => Self::Revert { task: task.parse()? },
        })
    }
}

// === impl ObjectDoc ===

impl From<&Object> for ObjectDoc {
    fn from(object: &Object) -> Self {
        match object {
            Object::Site(site) => Self { site: site.to_string(), service: None },
            Object::ServiceAt(service, site) => {
                Self { site: site.to_string(), service: Some(service.to_string()) }
            }
        }
    }
}

impl TryFrom<&ObjectDoc> for Object {
    type Error = IdError;

    fn try_from(doc: &ObjectDoc) -> Result<Self, IdError> {
        let ObjectDoc { site, service } = doc;
        let site = site.parse()?;
        Ok(match service {
            None => Self::Site(site),
            Some(service) => Self::ServiceAt(service.parse()?, site),
        })
    }
}
