//! What the steering zone says about one service: the input of a zone snapshot.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::id::{Epoch, ServiceId, SiteId};
use crate::service::{AllDown, Port, Prefer};
use crate::traffic::Spread;

/// The answers of all services. A copy shares them.
pub type Answers = BTreeMap<ServiceId, Arc<ServiceAnswers>>;

/// The answers for one service. Equal values give equal answers to every question but the serial.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServiceAnswers {
    pub service: ServiceId,
    pub ttl: Duration,
    pub prefer: Prefer,
    pub all_down: AllDown,
    /// Who is answered: the `answers` part of the service's traffic state.
    pub spread: Spread,
    pub epoch: Epoch,
    /// What SRV, SVCB and HTTPS records tell of.
    pub ports: Vec<Port>,
    /// Every site of the service, in failover order.
    pub sites: Vec<SiteAnswers>,
}

/// What one site would answer, and its line of TXT.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SiteAnswers {
    pub site: SiteId,
    /// Both families; per family the site's addresses, else the VIPs.
    pub addresses: Vec<IpAddr>,
    pub state: SiteState,
    /// 0 to 100.
    pub weight: u32,
    pub health: SiteHealth,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SiteState {
    Active,
    Standby,
    Drained,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SiteHealth {
    Up,
    Down,
    Unready,
    Unknown,
}

impl SiteState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Standby => "standby",
            Self::Drained => "drained",
        }
    }
}

impl SiteHealth {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Unready => "unready",
            Self::Unknown => "unknown",
        }
    }
}
