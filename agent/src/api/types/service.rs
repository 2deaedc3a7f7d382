//! A service: what it is, and where its traffic is.

use std::collections::BTreeMap;

use nett_policy::service::{AllDown, Category, Handover, Mode, Prefer, Readmit, Service, Trigger};
use nett_policy::traffic::Spread;
use serde::{Deserialize, Serialize};

use super::LeaseDoc;

/// One line of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceLine {
    pub id: String,
    /// `A`, `B` or `C`.
    pub category: String,
    /// `active-passive` or `active-active`.
    pub mode: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,
    /// Where traffic that enters goes, in words.
    pub spread: String,
    /// Its lease was taken without a majority of the voters, and has none yet.
    #[serde(default, skip_serializing_if = "super::request::is_false")]
    pub unprotected: bool,
    pub epoch: u64,
    /// Health by site: `up`, `down`, `unready` or `unknown`.
    pub health: BTreeMap<String, String>,
    /// The task that is open on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Age of the oldest health report it rests on, in milliseconds.
    pub age_ms: u64,
}

/// Everything about one service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceDoc {
    pub id: String,
    pub definition: DefinitionDoc,
    pub spread: SpreadDoc,
    /// Sites that deliver what arrives from others.
    pub accept: Vec<String>,
    /// Who DNS answers with.
    pub answers: SpreadDoc,
    pub epoch: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_task: Option<String>,
    /// The task that is open on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_task: Option<String>,
    /// In failover order.
    pub sites: Vec<ServiceSite>,
    /// Of `lease` and `exclusive` services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Box<LeaseDoc>>,
}

/// A service at one site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceSite {
    pub site: String,
    /// `active`, `standby` or `drained`.
    pub state: String,
    /// Percent of traffic.
    pub weight: u32,
    /// `up`, `down`, `unready` or `unknown`.
    pub health: String,
    pub backends_up: u32,
    pub backends: u32,
    /// Age of the health report in milliseconds; absent when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
}

/// The definition in brief; durations in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DefinitionDoc {
    pub category: String,
    pub mode: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,
    /// In failover order; for `active-active` the active sites.
    pub sites: Vec<String>,
    pub vips: Vec<String>,
    pub handover: String,
    pub isolation: String,
    pub trigger: String,
    pub approvals: u8,
    pub residency: Vec<String>,
    pub prefer: String,
    pub all_down: String,
    pub ttl_ms: u64,
    /// While a task about it is open; absent where the TTL is always the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_floor_ms: Option<u64>,
    pub hold_down_ms: u64,
    /// Shares of the new site in percent.
    pub ramp: Vec<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readmit: Option<String>,
}

/// How traffic is spread. The tag is `kind`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum SpreadDoc {
    Nowhere {},
    /// Weight by site.
    Weighted {
        weights: BTreeMap<String, u32>,
    },
    /// Each serves what enters at it.
    Nearest {
        sites: Vec<String>,
    },
}

// === impl SpreadDoc ===

impl From<&Spread> for SpreadDoc {
    fn from(spread: &Spread) -> Self {
        match spread {
            Spread::Nowhere => Self::Nowhere {},
            Spread::Weighted(weights) => Self::Weighted {
                weights: weights
                    .iter()
                    .map(|(site, weight)| (site.to_string(), u32::from(weight.get())))
                    .collect(),
            },
            Spread::Nearest(sites) => {
                Self::Nearest { sites: sites.iter().map(ToString::to_string).collect() }
            }
        }
    }
}

impl SpreadDoc {
    /// In the words of [`Spread`]'s own text.
    pub fn text(&self) -> String {
        match self {
            Self::Nowhere {} => "nowhere".to_owned(),
            Self::Weighted { weights } if weights.len() == 1 => {
                weights.keys().cloned().collect::<String>()
            }
            Self::Weighted { weights } => {
                let parts: Vec<String> = weights.iter().map(|(s, w)| format!("{s}={w}")).collect();
                parts.join(",")
            }
            Self::Nearest { sites } => format!("nearest of {}", sites.join(",")),
        }
    }
}

// === impl DefinitionDoc ===

impl From<&Service> for DefinitionDoc {
    fn from(service: &Service) -> Self {
        let ms = |d: std::time::Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let (mode, readmit) = match &service.mode {
            Mode::ActivePassive { .. } => ("active-passive", None),
            Mode::ActiveActive { active: _, readmit } => {
                let readmit = match readmit {
                    Readmit::Manual => "manual",
                    Readmit::Auto => "auto",
                };
                ("active-active", Some(readmit.to_owned()))
            }
        };
        Self {
            category: category(service.category).to_owned(),
            mode: mode.to_owned(),
            primary: service.primary().map(ToString::to_string),
            sites: service.sites().iter().map(ToString::to_string).collect(),
            vips: service.vips.iter().map(ToString::to_string).collect(),
            handover: match service.handover {
                Handover::MakeBeforeBreak => "make-before-break",
                Handover::BreakBeforeMake => "break-before-make",
            }
            .to_owned(),
            isolation: service.isolation.as_str().to_owned(),
            trigger: match service.trigger {
                Trigger::Manual => "manual",
                Trigger::Approve => "approve",
                Trigger::Auto => "auto",
            }
            .to_owned(),
            approvals: service.approvals,
            residency: service.residency.clone(),
            prefer: match service.prefer {
                Prefer::Nearest => "nearest",
                Prefer::Local => "local",
                Prefer::Primary => "primary",
            }
            .to_owned(),
            all_down: match service.all_down {
                AllDown::LastOrder => "last-order".to_owned(),
                AllDown::Refuse => "refuse".to_owned(),
                AllDown::Fallback(address) => address.to_string(),
            },
            ttl_ms: ms(service.ttl.ceiling),
            ttl_floor_ms: service.ttl.is_lowered_for_moves().then(|| ms(service.ttl.floor)),
            hold_down_ms: ms(service.hold_down),
            ramp: service.ramp.clone(),
            readmit,
        }
    }
}

fn category(category: Category) -> &'static str {
    match category {
        Category::A => "A",
        Category::B => "B",
        Category::C => "C",
    }
}
