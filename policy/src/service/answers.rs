//! What DNS says of a service wherever its traffic is: made once for each service of a catalogue,
//! and shared by all answers about it.
//!
//! A move of ten thousand services then makes only what is different at another site. It never
//! looks at a placement.

use std::net::IpAddr;

use super::{AllDown, Port, Prefer, Service, Ttl};
use crate::fabric::Family;
use crate::id::{ServiceId, SiteId};

/// What no move of the service changes about its answers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FixedAnswers {
    pub service: ServiceId,
    pub ttl: Ttl,
    pub prefer: Prefer,
    pub all_down: AllDown,
    /// What SRV, SVCB and HTTPS records tell of.
    pub ports: Vec<Port>,
    /// Every site of the service, in failover order.
    pub sites: Vec<SiteAddresses>,
}

/// What a site answers, while it is answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SiteAddresses {
    pub site: SiteId,
    /// Both families; per family the site's addresses, else the VIPs.
    pub addresses: Vec<IpAddr>,
}

impl FixedAnswers {
    pub fn new(service: &Service) -> Self {
        let site = |site: SiteId| {
            let of = |family| service.answers(&site, family);
            let addresses = Family::BOTH.into_iter().flat_map(of).collect();
            SiteAddresses { addresses, site }
        };
        Self {
            service: service.id.clone(),
            ttl: service.ttl,
            prefer: service.prefer,
            all_down: service.all_down,
            ports: service.ports.clone(),
            sites: service.sites().into_iter().map(site).collect(),
        }
    }
}
