//! What the steering zone says about one service: the input of a zone snapshot.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::id::{Epoch, ServiceId, SiteId};
use crate::service::{AllDown, Port, Prefer, Ttl};
use crate::traffic::Spread;

/// The answers of all services. A copy shares them.
pub type Answers = BTreeMap<ServiceId, Arc<ServiceAnswers>>;

/// The answers for one service. Equal values give equal answers to every question but the serial.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServiceAnswers {
    pub service: ServiceId,
    pub ttl: Ttl,
    /// Something may change soon: answers carry the floor of the TTL.
    pub lowered: bool,
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

/// Takes from `known` what is equal there, so that answers that did not change are in memory once
/// and are told apart from changed ones by their place alone.
pub fn share(answers: &mut Answers, known: &Answers) {
    let mut known = known.iter().peekable();
    for (id, answers) in answers {
        while known.next_if(|(other, _)| *other < id).is_some() {}
        if let Some((_, same)) = known.next_if(|(other, same)| *other == id && *same == answers) {
            *answers = Arc::clone(same);
        }
    }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn answers(epochs: &[(&str, u64)]) -> Answers {
        let one = |(id, epoch): &(&str, u64)| {
            let service: ServiceId = format!("shop/prod/{id}").parse().expect("an id");
            let answers = ServiceAnswers {
                service: service.clone(),
                ttl: Ttl::fixed(Duration::from_secs(30)),
                lowered: false,
                prefer: Prefer::Nearest,
                all_down: AllDown::Refuse,
                spread: Spread::Nowhere,
                epoch: Epoch(*epoch),
                ports: Vec::new(),
                sites: Vec::new(),
            };
            (service, Arc::new(answers))
        };
        epochs.iter().map(one).collect()
    }

    #[test]
    fn equal_answers_are_shared_and_nothing_else_changes() {
        let known = answers(&[("a", 1), ("b", 1), ("d", 1), ("e", 1), ("z", 1)]);
        let mut next = answers(&[("a", 1), ("c", 1), ("d", 2), ("e", 1), ("f", 1)]);
        let wanted = next.clone();
        share(&mut next, &known);
        assert_eq!(next, wanted);
        let shared = |(id, a): (&ServiceId, &Arc<ServiceAnswers>)| {
            known.get(id).is_some_and(|k| Arc::ptr_eq(k, a)).then(|| id.to_string())
        };
        let shared: Vec<String> = next.iter().filter_map(shared).collect();
        assert_eq!(shared, ["shop/prod/a", "shop/prod/e"]);
    }
}
