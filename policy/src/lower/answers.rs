//! What the steering zone says about one service: the input of a zone snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::id::{Epoch, ServiceId, SiteId};
use crate::place::{Placed, Reason};
use crate::service::{FixedAnswers, SiteAddresses, shared};
use crate::traffic::Spread;

/// The answers of all services.
pub type Answers = BTreeMap<ServiceId, ServiceAnswers>;

/// The answers for one service. Equal values give equal answers to every question but the serial.
///
/// It is three small values, so that a move of very many services writes little and allocates
/// nothing: what stays is not looked at, and what changes is in memory once for all that move
/// alike.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServiceAnswers {
    /// What stays when the service moves; copies share it.
    pub fixed: Arc<FixedAnswers>,
    pub epoch: Epoch,
    /// What a move changes; services in the same state share it.
    pub standing: Arc<Standing>,
}

/// How a service stands among its sites.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Standing {
    /// Something may change soon: answers carry the floor of the TTL.
    pub lowered: bool,
    /// Served under a lease that was taken without a majority of the voters, and has none yet.
    pub unprotected: bool,
    /// Who is answered: the `answers` part of the service's traffic state.
    pub spread: Spread,
    /// Sites that are drained, for the service or as a whole.
    pub drained: BTreeSet<SiteId>,
    /// Of sites whose health is known.
    pub health: BTreeMap<SiteId, SiteHealth>,
}

/// The standings of one lowering, each in memory once.
#[derive(Debug, Default)]
pub struct Standings {
    /// Neighbours in a catalogue often stand alike.
    last: Option<Arc<Standing>>,
    known: BTreeSet<Arc<Standing>>,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SiteHealth {
    Up,
    Down,
    Unready,
    Unknown,
}

impl ServiceAnswers {
    /// The answers are those of `placed` from now on. The service is the one that `fixed` was made
    /// of, which is looked at only while a task is under way.
    pub fn take_place(&mut self, placed: &Placed, standings: &mut Standings) {
        self.standing = standings.of_placed(&self.fixed, placed);
        self.epoch = placed.epoch;
    }

    /// Every site of the service, in failover order.
    pub fn sites(&self) -> impl Iterator<Item = SiteAnswers<'_>> + Clone {
        self.standing.sites(&self.fixed)
    }

    /// The site at this place of the failover order.
    pub fn site(&self, at: usize) -> Option<SiteAnswers<'_>> {
        self.fixed.sites.get(at).map(|fixed| self.standing.told(fixed))
    }
}

impl Standings {
    /// How a service stands that is placed so; nothing is known of anybody's health.
    pub fn of_placed(&mut self, fixed: &FixedAnswers, placed: &Placed) -> Arc<Standing> {
        let lowered = placed.lowered && fixed.ttl.is_lowered_for_moves();
        let unprotected = placed.reason == Reason::LeaseUnprotected;
        self.of((lowered, unprotected), &placed.traffic.answers, &placed.drained)
    }

    fn of(
        &mut self,
        (lowered, unprotected): (bool, bool),
        spread: &Spread,
        drained: &BTreeSet<SiteId>,
    ) -> Arc<Standing> {
        let same = |s: &&Arc<Standing>| {
            (s.lowered, s.unprotected) == (lowered, unprotected)
                && s.spread == *spread
                && s.drained == *drained
        };
        if let Some(last) = self.last.as_ref().filter(same) {
            return Arc::clone(last);
        }
        let (spread, drained) = (spread.clone(), drained.clone());
        let health = BTreeMap::new();
        let standing = Standing { lowered, unprotected, spread, drained, health };
        let standing = shared(&mut self.known, Arc::new(standing));
        self.last = Some(Arc::clone(&standing));
        standing
    }
}

impl Standing {
    /// Every site of a service that stands so, in failover order.
    pub fn sites<'a>(
        &'a self,
        fixed: &'a FixedAnswers,
    ) -> impl Iterator<Item = SiteAnswers<'a>> + Clone {
        fixed.sites.iter().map(|fixed| self.told(fixed))
    }

    /// What is said of one of its sites.
    pub fn told<'a>(&self, fixed: &'a SiteAddresses) -> SiteAnswers<'a> {
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
/// and are told apart from changed ones without a look into them.
pub fn share(answers: &mut Answers, known: &Answers) {
    let mut known = known.iter().peekable();
    for (id, answers) in answers {
        while known.next_if(|(other, _)| *other < id).is_some() {}
        if let Some((_, same)) = known.next_if(|(other, same)| *other == id && *same == answers) {
            *answers = same.clone();
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
            let standing = Standing {
                lowered: false,
                unprotected: false,
                spread: Spread::Nowhere,
                drained: BTreeSet::new(),
                health: BTreeMap::new(),
            };
            let (fixed, standing) = (Arc::new(fixed), Arc::new(standing));
            (service, ServiceAnswers { fixed, epoch: Epoch(*epoch), standing })
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
        let shared = |(id, a): (&ServiceId, &ServiceAnswers)| {
            let same = |k: &ServiceAnswers| {
                Arc::ptr_eq(&k.fixed, &a.fixed) && Arc::ptr_eq(&k.standing, &a.standing)
            };
            known.get(id).is_some_and(same).then(|| id.to_string())
        };
        let shared: Vec<String> = next.iter().filter_map(shared).collect();
        assert_eq!(shared, ["shop/prod/a", "shop/prod/e"]);
    }

    #[test]
    fn standings_are_in_memory_once_in_any_order() {
        let site = |id: &str| -> SiteId { id.parse().expect("an id") };
        let drained = BTreeSet::from([site("svg")]);
        let all = [
            ((false, false), Spread::one(site("osl")), BTreeSet::new()),
            ((false, true), Spread::one(site("osl")), BTreeSet::new()),
            ((true, false), Spread::one(site("osl")), BTreeSet::new()),
            ((false, false), Spread::one(site("svg")), BTreeSet::new()),
            ((false, false), Spread::one(site("osl")), drained),
        ];
        let mut standings = Standings::default();
        let mut of = |n: usize| {
            let (said, spread, drained) = all[n].clone();
            let found = standings.of(said, &spread, &drained);
            let marks = (found.lowered, found.unprotected);
            let told = (marks, found.spread.clone(), found.drained.clone());
            assert_eq!(told, (said, spread, drained));
            found
        };
        let first: Vec<_> = (0..all.len()).map(&mut of).collect();
        for n in [4, 3, 3, 0, 2, 1, 0, 0] {
            assert!(Arc::ptr_eq(&of(n), &first[n]), "{n}");
        }
    }
}
