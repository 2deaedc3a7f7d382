//! Three voters, one service and a node, to write rules down in few words.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nett_policy::id::{EntryId, Epoch, Generation, ServiceId, SiteId};
use nett_policy::lease::electorate::{Electorate, Electorates};
use nett_policy::lease::knowledge::{Knowledge, Unheard};
use nett_policy::lease::rule::{Ground, RateError, Rules, Verdict};
use nett_policy::lease::vote::{Answer, Ask, Asking, Bounds, Claim, Incarnation, Nonce, Vote};
use nett_policy::lease::voter::{Ballot, Voter};

pub(crate) const NAMES: [&str; 3] = ["osl", "svg", "trd"];

pub(crate) fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn site(name: &str) -> SiteId {
    name.parse().expect("a site")
}

pub(crate) fn service() -> ServiceId {
    "shop/prod/db".parse().expect("a service")
}

pub(crate) fn entry(site: &str, n: u8) -> EntryId {
    format!("{site}.{:0>26}", n).parse().expect("an entry")
}

pub(crate) fn electorates() -> Electorates {
    let voters = NAMES.iter().map(|n| site(n)).collect();
    Electorates::first(Electorate { generation: Generation(1), voters })
}

/// T = 60 s, W = 90 s.
pub(crate) fn rules() -> Rules {
    let rules = Rules::of(s(60), RateError::ppm(190_000).expect("valid"), 3);
    Rules { wait: s(90), ..rules }
}

/// The claim that gives the service to `target` in `epoch`.
pub(crate) fn claim(epoch: u64, target: &str) -> Claim {
    let id = entry(target, u8::try_from(epoch).expect("small"));
    Claim { id, target: site(target), services: BTreeMap::from([(service(), Epoch(epoch))]) }
}

/// What the shell does between ballot and vote.
pub(crate) fn seal(ballot: &Ballot) -> Vote {
    let Ballot {
        voter,
        incarnation,
        number,
        prev_hash,
        claim,
        services,
        target,
        voters,
        left_out: _,
    } = ballot.clone();
    let hash = nett_policy::id::sha256_hex(format!("{incarnation:?} {number} {claim}").as_bytes());
    Vote { voter, incarnation, number, prev_hash, hash, claim, services, target, voters }
}

pub(crate) struct Bench {
    pub(crate) rules: Rules,
    pub(crate) voters: BTreeMap<SiteId, Voter>,
    pub(crate) node: Knowledge,
    nonces: u128,
}

impl Bench {
    /// Three voters of a new fabric, and a node that has heard nothing.
    pub(crate) fn new() -> Self {
        let founded = |(n, name): (u128, &&str)| {
            (site(name), Voter::founded(site(name), Incarnation(n), electorates()))
        };
        Self {
            rules: rules(),
            voters: (1..).zip(NAMES.iter()).map(founded).collect(),
            node: Knowledge::new(electorates()),
            nonces: 0,
        }
    }

    pub(crate) fn voter(&mut self, name: &str) -> &mut Voter {
        self.voters.get_mut(&site(name)).expect("a voter")
    }

    /// The voter votes for the claim; `None` when it may not.
    pub(crate) fn vote(&mut self, name: &str, claim: &Claim) -> Option<Vote> {
        // It has read nothing of the others.
        let unread = Knowledge::new(electorates());
        let voter = self.voter(name);
        let ballot = voter.ballot(&unread, claim);
        if ballot.services.is_empty() {
            return None;
        }
        let vote = seal(&ballot);
        voter.made(vote.clone()).expect("it follows");
        Some(vote)
    }

    pub(crate) fn ask(&mut self, name: &str, now: Duration) -> Ask {
        self.nonces += 1;
        self.node.ask(&self.rules, &site(name), Nonce(self.nonces), now)
    }

    /// Asked and answered at one instant, votes included.
    pub(crate) fn hear(&mut self, name: &str, now: Duration) -> Result<(), Unheard> {
        let ask = self.ask(name, now);
        let answer = self.voters[&site(name)].answer(&ask, now).expect("it answers");
        self.node.take(&answer, now)
    }

    pub(crate) fn hear_all(&mut self, now: Duration) {
        for name in NAMES {
            self.hear(name, now).expect("heard");
        }
    }

    /// An answer that is not delivered yet.
    pub(crate) fn answer(&mut self, name: &str, now: Duration) -> Answer {
        let ask = self.ask(name, now);
        self.voters[&site(name)].answer(&ask, now).expect("it answers")
    }

    pub(crate) fn verdict(&self, claim: &Claim, ground: Ground, now: Duration) -> Verdict {
        self.node.serves(&self.rules, asking(claim, &service(), ground), now)
    }

    pub(crate) fn serves(&self, claim: &Claim, now: Duration) -> bool {
        self.verdict(claim, Ground::Wait, now).is_serving()
    }
}

/// Of a service that never had a claim without a majority.
pub(crate) static UNBOUND: Bounds =
    Bounds { above: Epoch(0), with: Vec::new(), alone: BTreeSet::new(), next: None };

/// The question of a node of the claim's own site.
pub(crate) fn asking<'a>(claim: &'a Claim, service: &'a ServiceId, ground: Ground) -> Asking<'a> {
    Asking {
        claim: &claim.id,
        service,
        epoch: claim.services[service],
        target: &claim.target,
        ground,
        here: &claim.target,
        bounds: &UNBOUND,
        alone: Ground::Nothing,
    }
}
