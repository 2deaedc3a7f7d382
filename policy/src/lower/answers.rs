//! What the steering zone says about one service: the input of a zone snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::id::{Epoch, ServiceId, SiteId};
use crate::service::{FixedAnswers, SiteAddresses};
use crate::traffic::Spread;

/// The answers of all services. A copy shares them.
pub type Answers = BTreeMap<ServiceId, Arc<ServiceAnswers>>;

/// The answers for one service. Equal values give equal answers to every question but the serial.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServiceAnswers {
    /// What stays when the service moves; copies share it.
    pub fixed: Arc<FixedAnswers>,
    /// Something may change soon: answers carry the floor of the TTL.
    pub lowered: bool,
    /// Who is answered: the `answers` part of the service's traffic state.
    pub spread: Spread,
    pub epoch: Epoch,
    /// Sites that are drained, for the service or as a whole.
    pub drained: BTreeSet<SiteId>,
    /// Of sites whose health is known.
    pub health: BTreeMap<SiteId, SiteHealth>,
}

/// What one site would answer, and its line of TXT.
#[derive(Debug, Clone, Copy)]
pub struct SiteAnswers<'a> {
    pub site: &'a SiteId,
    pub addresses: &'a [IpAddr],
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

impl ServiceAnswers {
    /// Every site of the service, in failover order.
    pub fn sites(&self) -> impl Iterator<Item = SiteAnswers<'_>> + Clone {
        self.fixed.sites.iter().map(|fixed| self.told(fixed))
    }

    /// The site at this place of the failover order.
    pub fn site(&self, at: usize) -> Option<SiteAnswers<'_>> {
        self.fixed.sites.get(at).map(|fixed| self.told(fixed))
    }

    fn told<'a>(&self, fixed: &'a SiteAddresses) -> SiteAnswers<'a> {
        let SiteAddresses { site, addresses } = fixed;
        SiteAnswers {
            state: match (self.spread.has(site), self.drained.contains(site)) {
                (true, _) => SiteState::Active,
                (false, true) => SiteState::Drained,
                (false, false) => SiteState::Standby,
            },
            weight: self.spread.percent(site),
            health: self.health.get(site).copied().unwrap_or(SiteHealth::Unknown),
            site,
            addresses,
        }
    }
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
    use crate::service::{AllDown, Prefer, Ttl};

    fn answers(epochs: &[(&str, u64)]) -> Answers {
        let one = |(id, epoch): &(&str, u64)| {
            let service: ServiceId = format!("shop/prod/{id}").parse().expect("an id");
            let fixed = FixedAnswers {
                service: service.clone(),
                ttl: Ttl::fixed(Duration::from_secs(30)),
                prefer: Prefer::Nearest,
                all_down: AllDown::Refuse,
                ports: Vec::new(),
                sites: Vec::new(),
            };
            let answers = ServiceAnswers {
                fixed: Arc::new(fixed),
                lowered: false,
                spread: Spread::Nowhere,
                epoch: Epoch(*epoch),
                drained: BTreeSet::new(),
                health: BTreeMap::new(),
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
