//! What this node makes of every leased service now, and the gate that goes with it.
//!
//! The claim that a majority's newest votes name is the one to follow: to its site, once its task
//! has come to the step that serves. Where that is the own site, the predicate decides, and then
//! only behind a gate that guards the service's VIPs and was read back. A VIP is guarded from
//! before the routes may lead to a backend until after they no longer do; elsewhere it passes,
//! because other sites' traffic is on its way through.
//!
//! All of it is computed anew after a restart, so there is no crash story but the gate's own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use nett_policy::id::{EntryId, Epoch, ServiceId, SiteId};
use nett_policy::lease::confirm::Needs;
use nett_policy::lease::group::Group;
use nett_policy::lease::placings::candidates;
use nett_policy::lease::rule::{Ground, Verdict};
use nett_policy::lease::vote::Asking;
use nett_policy::place::{Placement, Reason};
use nett_policy::service::{Isolation, Service};
use nett_policy::traffic::{Spread, Traffic};

use super::gate::GateShape;
use super::{Lease, LeaseEffect};

/// What this node knows of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stands {
    pub standing: Standing,
    /// The claim that a majority's newest votes name.
    pub claim: Option<EntryId>,
    /// Of the log: 0 is the definition.
    pub epoch: Epoch,
    pub target: Option<SiteId>,
    /// Voters whose newest vote is for it.
    pub backers: usize,
    /// Of a claim for the own site.
    pub verdict: Option<Verdict>,
    /// The sites whose voters it was made without, as long as it has no majority.
    pub unprotected: BTreeSet<SiteId>,
}

/// What this node does with a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Serves it.
    Serving,
    /// The claim is for this site and does not count here, or not yet.
    Shut,
    /// The claim is for another site.
    Elsewhere,
    /// The claim's task has withdrawn it everywhere and not come to serving it.
    Between,
    /// No claim is known to have a majority.
    Unclaimed,
    /// The claim's task was taken back: nobody serves it until there is another claim.
    Stopped,
}

#[derive(Debug, Default)]
pub(super) struct Judged {
    stands: BTreeMap<ServiceId, Stands>,
    /// False until it is known what gate there is.
    looked: bool,
    /// A former process left a gate.
    there: bool,
    /// VIPs whose routes may still lead to a backend.
    maybe_local: BTreeSet<IpAddr>,
    groups: BTreeMap<Group, u32>,
    last_group: u32,
    /// The last shape that was asked for.
    wanted: Option<GateShape>,
    /// Asked for and not confirmed, oldest first.
    sent: VecDeque<GateShape>,
    /// What was read back last.
    shaped: Option<GateShape>,
    /// Not taken, or taken and not read back: any of these may be in the kernel until a later one
    /// was read back.
    doubtful: Vec<GateShape>,
    pub(super) trouble: Option<String>,
    retry: Option<Duration>,
    deadline: Option<Duration>,
    deadlines: BTreeMap<ServiceId, Duration>,
}

/// How long until a gate that was refused is tried again.
const SHAPE_RETRY: Duration = Duration::from_secs(1);
/// Numbers of groups are given again only after so many others: no slot lives that long.
const GROUPS: u32 = 1 << 16;

// === impl Judged ===

impl Judged {
    /// Without a gate nothing is known about the routes.
    pub(super) fn found(&mut self, here: BTreeSet<IpAddr>, vips: Option<BTreeSet<IpAddr>>) {
        (self.looked, self.there) = (true, vips.is_some());
        self.maybe_local.extend(vips.unwrap_or(here));
    }

    pub(super) fn shaped(&mut self, number: u64, result: Result<(), String>, now: Duration) {
        while self.sent.front().is_some_and(|shape| shape.number <= number) {
            let shape = self.sent.pop_front();
            let answered = shape.filter(|s| s.number == number);
            match (answered, &result) {
                (Some(shape), Ok(())) => {
                    self.doubtful.clear();
                    self.shaped = Some(shape);
                }
                (Some(shape), Err(_)) => self.doubt(shape),
                (None, _) => {}
            }
        }
        self.trouble = result.err();
        if let Some(error) = &self.trouble {
            tracing::error!(error, "The gate does not take its shape.");
            (self.wanted, self.retry) = (None, Some(now + SHAPE_RETRY));
        }
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        [self.deadline, self.retry].into_iter().flatten().min()
    }

    fn doubt(&mut self, shape: GateShape) {
        let same = |known: &GateShape| {
            (&known.guarded, &known.members) == (&shape.guarded, &shape.members)
        };
        if !self.doubtful.iter().any(same) {
            self.doubtful.push(shape);
        }
    }

    /// The kernel has one of these: what was read back, or what was asked for since.
    fn all_are(&self, is: impl Fn(&GateShape) -> bool) -> bool {
        self.shaped.as_ref().is_some_and(&is) && self.doubtful.iter().chain(&self.sent).all(is)
    }

    /// True when no shape that the kernel may have or come to lets one of these pass.
    pub(super) fn is_shut(&self, vips: &BTreeSet<IpAddr>) -> bool {
        self.all_are(|shape| vips.iter().all(|vip| !shape.members.contains_key(vip)))
    }

    pub(super) fn is_serving(&self) -> bool {
        self.stands.values().any(|stand| stand.standing == Standing::Serving)
    }

    /// A shape of this process was read back.
    pub(super) fn is_shaped(&self) -> bool {
        self.shaped.is_some()
    }

    /// There is a table, of this process or a former one.
    pub(super) fn has_gate(&self) -> bool {
        self.looked && (self.there || self.shaped.is_some())
    }

    fn guards(&self, service: &Service) -> bool {
        self.all_are(|shape| service.vips.iter().all(|v| shape.guarded.contains(v)))
    }

    /// The numbers of all groups that a service has now.
    pub(super) fn groups_in_use(&self) -> BTreeSet<u32> {
        self.groups.values().copied().collect()
    }

    fn number_of(&mut self, group: &Group) -> u32 {
        if let Some(number) = self.groups.get(group) {
            return *number;
        }
        let used: BTreeSet<u32> = self.groups.values().copied().collect();
        self.last_group = number_after(self.last_group, &used);
        self.groups.insert(group.clone(), self.last_group);
        self.last_group
    }
}

/// The next number that no group has, which fewer than [`GROUPS`] have.
fn number_after(last: u32, used: &BTreeSet<u32>) -> u32 {
    let next = |number: &u32| Some(number % GROUPS + 1);
    let mut numbers = std::iter::successors(next(&last), next);
    numbers.find(|number| !used.contains(number)).expect("they go round and round")
}

// === impl Lease ===

impl Lease {
    /// True when what is to be done with a service is something else than before.
    pub(super) fn judge(&mut self, now: Duration) -> bool {
        self.withdraw_from_definitions();
        self.withdraw_from_decided();
        if self.judged.retry.is_some_and(|at| now >= at) {
            self.judged.retry = None;
        }
        let mut stands = BTreeMap::new();
        let mut groups: BTreeMap<ServiceId, Group> = BTreeMap::new();
        let mut next: Vec<Duration> = Vec::new();
        let mut deadlines = BTreeMap::new();
        for service in self.catalog.clone().leased() {
            let (stand, group) = self.stand(service, now, &mut next);
            let over = match (stand.standing, stand.verdict) {
                (_, Some(Verdict::Serves { until })) => Some(until),
                // Its VIPs lead nowhere until somebody claims it: names say no more than that.
                (Standing::Stopped, _) => Some(Duration::ZERO),
                _ => None,
            };
            deadlines.extend(over.map(|at| (service.id.clone(), at)));
            groups.extend(group.map(|group| (service.id.clone(), group)));
            stands.insert(service.id.clone(), stand);
        }
        self.shape(&stands, &groups);
        let standing =
            |all: &BTreeMap<ServiceId, Stands>| -> Vec<(Standing, Option<SiteId>, bool)> {
                let one = |s: &Stands| (s.standing, s.target.clone(), s.unprotected.is_empty());
                all.values().map(one).collect()
            };
        let changed = standing(&stands) != standing(&self.judged.stands);
        for (service, stand) in &stands {
            let vips = self.catalog.get(service).map(|s| &s.vips).into_iter().flatten();
            if stand.standing == Standing::Serving {
                self.judged.maybe_local.extend(vips);
            }
        }
        self.judged.stands = stands;
        self.judged.deadline = next.into_iter().filter(|at| *at > now).min();
        if deadlines != self.judged.deadlines {
            self.judged.deadlines.clone_from(&deadlines);
            self.effects.push(LeaseEffect::Deadlines(deadlines));
        }
        changed
    }

    /// What to make of a service, and the voters behind it where it is the own site's.
    fn stand(
        &self,
        service: &Service,
        now: Duration,
        next: &mut Vec<Duration>,
    ) -> (Stands, Option<Group>) {
        let id = &service.id;
        let named = self.knowledge.chosen(&self.placings, id);
        let Some((claim, backers)) = named.map(|(claim, count)| (claim.clone(), count)) else {
            return (Stands::none(), None);
        };
        let Some(placing) = self.placings.get(id, &claim) else {
            // Votes may be ahead of the log that has their claim.
            return (Stands { claim: Some(claim), backers, ..Stands::none() }, None);
        };
        let one = (id, &claim, placing);
        let mut bounds = self.knowledge.bounds(&self.rules, &self.placings, one, now);
        if !self.log_whole {
            bounds.above = Epoch(u64::MAX);
        }
        let unprotected = self.knowledge.unprotected(&self.rules, one, &bounds, now);
        next.extend(unprotected.next);
        let mut stands = Stands {
            standing: Standing::Elsewhere,
            claim: Some(claim.clone()),
            epoch: Epoch(placing.epoch.0.saturating_sub(1)),
            target: Some(placing.target.clone()),
            backers,
            verdict: None,
            unprotected: match unprotected.is {
                true => placing.without.clone(),
                false => BTreeSet::new(),
            },
        };
        if !placing.open {
            stands.standing = match placing.stopped {
                true => Standing::Stopped,
                false => Standing::Between,
            };
            return (stands, None);
        }
        if placing.target != self.me.site || !self.is_serving_node() {
            return (stands, None);
        }
        let (epoch, target, here) = (placing.epoch, &placing.target, &self.me.site);
        let nodes = candidates(&self.fabric, service, &placing.asserted, &BTreeSet::new());
        let needs = Needs { service: id, epoch, target, nodes: &nodes };
        let exclusive = service.isolation == Isolation::Exclusive;
        let ground = self.withdrawals.ground(needs, exclusive);
        let alone = match placing.without.is_empty() {
            true => Ground::Nothing,
            false => {
                let nodes = candidates(&self.fabric, service, &placing.asserted, &placing.without);
                self.withdrawals.ground_alone(Needs { nodes: &nodes, ..needs })
            }
        };
        let (claim, bounds) = (&claim, &bounds);
        let asking = Asking { claim, service: id, epoch, target, ground, here, bounds, alone };
        let verdict = self.knowledge.serves(&self.rules, asking, now);
        let grouping = self.knowledge.group(&self.rules, asking, now);
        next.extend(verdict.deadline());
        next.extend(grouping.next);
        stands.verdict = Some(verdict);
        stands.standing = match verdict.is_serving() && self.judged.guards(service) {
            true => Standing::Serving,
            false => Standing::Shut,
        };
        (stands, Some(grouping.group).filter(|group| !group.is_empty()))
    }

    /// Of services that were taken without a majority the sets of voters of each of which one has
    /// to vote for whatever comes next.
    pub fn bound(&self, now: Duration) -> BTreeMap<ServiceId, Vec<BTreeSet<SiteId>>> {
        let bound = |service: &ServiceId| {
            let sets = self.knowledge.bound_to(&self.rules, &self.placings, service, now);
            (!sets.is_empty()).then(|| (service.clone(), sets))
        };
        self.placings.with_alone().filter_map(bound).collect()
    }

    /// Brings the gate to what is judged, and opens what this round's answers allow.
    fn shape(&mut self, stands: &BTreeMap<ServiceId, Stands>, groups: &BTreeMap<ServiceId, Group>) {
        if !self.is_serving_node() || !self.judged.looked || self.judged.retry.is_some() {
            return;
        }
        let mut guarded = self.judged.maybe_local.clone();
        let mut members = BTreeMap::new();
        let used: BTreeSet<Group> = groups.values().cloned().collect();
        self.judged.groups.retain(|group, _| used.contains(group));
        for (id, stand) in stands {
            let Some(service) = self.catalog.get(id) else { continue };
            if stand.verdict.is_some() {
                guarded.extend(&service.vips);
            }
            if let Some(group) = groups.get(id) {
                let number = self.judged.number_of(group);
                members.extend(service.vips.iter().map(|vip| (*vip, number)));
            }
        }
        let mut opened = BTreeSet::new();
        if let Some(armed) = self.rounds.armed() {
            for group in &used {
                if self.knowledge.opens(&self.rules, group, armed) {
                    opened.insert(self.judged.number_of(group));
                }
            }
        }
        let new: BTreeSet<u32> = opened.difference(&self.rounds.open).copied().collect();
        self.rounds.open.extend(&opened);
        let slot = self.rounds.slot();
        let same = |w: &GateShape| w.guarded == guarded && w.members == members;
        if self.judged.wanted.as_ref().is_some_and(same) {
            if !new.is_empty() {
                self.effects.push(LeaseEffect::Open { slot, groups: new });
            }
            return;
        }
        // Before the first answers what is in the gate is as good as anything.
        if self.judged.there && !self.heard_all {
            self.rounds.open.clear();
            return;
        }
        let number = self.judged.wanted.as_ref().map_or(0, |w| w.number);
        let last = self.judged.sent.back().or(self.judged.shaped.as_ref()).map_or(0, |s| s.number);
        let shape = GateShape {
            number: number.max(last) + 1,
            all: self.vips_here(),
            guarded,
            members,
            open: self.rounds.armed().map(|_| (slot, opened)),
            reset: self.judged.shaped.is_none(),
        };
        self.judged.wanted = Some(shape.clone());
        self.judged.sent.push_back(shape.clone());
        self.effects.push(LeaseEffect::Shape(Box::new(shape)));
    }

    /// The kernel was read back to have what [`Self::overlay`] made of the placement: where that
    /// does not serve, no route leads to a backend any more.
    pub fn settled(&mut self) {
        let serving = |(id, stand): (&ServiceId, &Stands)| {
            let service = self.catalog.get(id)?;
            (stand.standing == Standing::Serving).then_some(&service.vips)
        };
        let local = self.judged.stands.iter().filter_map(serving).flatten().copied().collect();
        if self.judged.looked && self.judged.shaped.is_some() && self.judged.maybe_local != local {
            (self.judged.maybe_local, self.news) = (local, true);
        }
    }

    /// What this node knows of each leased service.
    pub fn stands(&self) -> &BTreeMap<ServiceId, Stands> {
        &self.judged.stands
    }

    /// Why the gate is not as it should be.
    pub fn gate_trouble(&self) -> Option<&str> {
        self.judged.trouble.as_deref().or(self.rounds.trouble.as_deref())
    }

    /// Whether this node serves the service under that task's claim.
    pub fn serves_under(&self, service: &ServiceId, claim: &EntryId) -> bool {
        let stand = self.judged.stands.get(service);
        stand.is_some_and(|s| s.standing == Standing::Serving && s.claim.as_ref() == Some(claim))
    }

    /// Puts in the place of what the log wants what the votes allow.
    pub fn overlay(&self, placement: &mut Placement) {
        for (id, placed) in &mut placement.services {
            let Some(service) = self.catalog.get(id).filter(|s| s.is_leased()) else { continue };
            let stand = self.judged.stands.get(id);
            let standing = stand.map_or(Standing::Unclaimed, |s| s.standing);
            let here = &self.me.site;
            let logged = (*placed.traffic).clone();
            let leased = match stand.is_none_or(|s| s.unprotected.is_empty()) {
                true => Reason::Leased,
                false => Reason::LeaseUnprotected,
            };
            let target = stand.and_then(|s| s.target.clone());
            let (traffic, reason) = match (standing, target) {
                (Standing::Serving, _) => (Traffic::settled(Spread::one(here.clone())), leased),
                (Standing::Elsewhere, Some(site)) => (Traffic::settled(Spread::one(site)), leased),
                (Standing::Between, _) => (nowhere(logged.answers), Reason::LeaseBetween),
                (Standing::Stopped, _) => (nowhere(Spread::Nowhere), Reason::LeaseStopped),
                (Standing::Unclaimed, _) if !logged.serves_at(here) => {
                    (logged, placed.reason.clone())
                }
                (Standing::Shut | Standing::Elsewhere | Standing::Unclaimed, _) => {
                    (nowhere(self.addresses_elsewhere(service)), Reason::LeaseShut)
                }
            };
            (placed.traffic, placed.reason) = (Arc::new(traffic), reason);
        }
    }

    /// What clients are told of a service that this site may not serve: another site that has
    /// addresses of its own, which need no way through this one.
    fn addresses_elsewhere(&self, service: &Service) -> Spread {
        let other = |site: &SiteId| {
            *site != self.me.site && service.addresses.get(site).is_some_and(|a| !a.is_empty())
        };
        service.sites().into_iter().find(other).map_or(Spread::Nowhere, Spread::one)
    }
}

fn nowhere(answers: Spread) -> Traffic {
    Traffic { spread: Spread::Nowhere, accept: BTreeSet::new(), answers }
}

// === impl Standing ===

impl Standing {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Shut => "shut",
            Self::Elsewhere => "elsewhere",
            Self::Between => "between",
            Self::Unclaimed => "unclaimed",
            Self::Stopped => "stopped",
        }
    }
}

// === impl Stands ===

impl Stands {
    fn none() -> Self {
        Self {
            standing: Standing::Unclaimed,
            claim: None,
            epoch: Epoch(0),
            target: None,
            backers: 0,
            verdict: None,
            unprotected: BTreeSet::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(number: u64, vips: &BTreeSet<IpAddr>, group: Option<u32>) -> GateShape {
        GateShape {
            number,
            all: vips.clone(),
            guarded: vips.clone(),
            members: vips.iter().filter_map(|vip| Some((*vip, group?))).collect(),
            open: None,
            reset: false,
        }
    }

    /// A kernel that took a shape and could not be read back must not count as shut by the shape
    /// from before: another site would serve at once.
    #[test]
    fn a_gate_that_may_have_taken_its_shape_is_not_shut() {
        let vips = BTreeSet::from([IpAddr::from([10, 99, 0, 10])]);
        let mut judged = Judged::default();
        let answer = |judged: &mut Judged, shape: GateShape, result: Result<(), &str>| {
            let number = shape.number;
            judged.sent.push_back(shape);
            judged.shaped(number, result.map_err(str::to_owned), Duration::ZERO);
            judged.is_shut(&vips)
        };
        assert!(answer(&mut judged, shape(1, &vips, None), Ok(())));
        assert!(!answer(&mut judged, shape(2, &vips, Some(7)), Err("no answer")));
        assert!(!answer(&mut judged, shape(3, &vips, None), Err("no answer")), "either may be");
        assert!(answer(&mut judged, shape(4, &vips, None), Ok(())), "read back");
    }

    #[test]
    fn a_number_in_use_is_given_to_nobody_else() {
        let used = BTreeSet::from([1, 2, 9]);
        assert_eq!([GROUPS, 2, 8].map(|last| number_after(last, &used)), [3, 3, 10]);
    }
}
