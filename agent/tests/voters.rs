//! Generations of voters on one node: what is on its disk before it asks and answers, what of it a
//! restart takes up, and files that contradict it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use nett_agent::bus::wire::BeaconAnswer;
use nett_agent::controller::event::Token;
use nett_agent::lease::store::{LeaseRecord, Restored};
use nett_agent::lease::{Lease, LeaseEffect, LeaseEvent};
use nett_fixtures::fabric_file;
use nett_policy::document::{SourceFile, compile};
use nett_policy::fabric::{Fabric, Lease as Times, Node, Role, VoterChange, VoterStep};
use nett_policy::id::{Generation, SiteId};
use nett_policy::lease::generation::Running;
use nett_policy::lease::vote::{Answer, Ask, Incarnation, Nonce};
use nett_policy::roster::Rosters;
use nett_policy::service::Catalog;

const BOOT: &str = "this";

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Three sites, the border of each of which votes, with one service under a lease.
fn files() -> (Fabric, Arc<Catalog>) {
    let file = |name: &str| fabric_file("three-sites", name).expect("the fixture is there");
    let (mut fabric, mut services) = (file("fabric.toml"), file("services.toml"));
    let core = "core = \"core\"\n";
    fabric.text = fabric.text.replace(core, &format!("{core}voter = true\n"));
    let handover = "handover = \"break-before-make\"\n";
    let leased = format!("{handover}isolation = \"lease\"\n");
    services.text = services.text.replacen(handover, &leased, 1);
    let [fabric, services] = [fabric, services].map(|file| SourceFile::new(file.name, file.text));
    let (fabric, catalog) = compile(&fabric, &services).expect("they are valid");
    (fabric, Arc::new(catalog))
}

/// The file of the second generation, whose lease was another one before.
fn second(fabric: &Fabric, before: u64) -> Fabric {
    let before = Times { duration: seconds(before), ..fabric.lease };
    let mut fabric = fabric.clone();
    let (generation, change) = (Generation(2), VoterChange::Lease(before));
    fabric.voter_step = VoterStep { generation, change, lease: fabric.lease };
    fabric.lease.duration = fabric.lease.duration.min(before.duration);
    fabric
}

/// The voter of osl, without a gate to wait for, and its disk.
struct Bench {
    lease: Lease,
    now: Duration,
    records: Vec<LeaseRecord>,
    asks: Vec<Ask>,
    answers: Vec<(Answer, bool)>,
    /// Records are not confirmed.
    slow: bool,
}

impl Bench {
    fn start(fabric: &Fabric, records: &[LeaseRecord], (now, boot): (Duration, &str)) -> Self {
        Self::begin(fabric, records, (now, boot), false)
    }

    fn begin(
        fabric: &Fabric,
        records: &[LeaseRecord],
        (now, boot): (Duration, &str),
        slow: bool,
    ) -> Self {
        let (_, catalog) = files();
        let node = fabric.nodes.iter().find(|node| node.id.as_str() == "osl-b1");
        let me = Node { role: Role::Witness, ..node.expect("a border").clone() };
        let lease = Lease::new(Arc::new(fabric.clone()), catalog, me).expect("something is leased");
        let (asks, answers) = (Vec::new(), Vec::new());
        let mut bench = Self { lease, now, records: records.to_vec(), asks, answers, slow };
        let whole = !records.is_empty();
        let (records, boot) = (records.to_vec(), boot.to_owned());
        let found = Restored { records, whole, boot, seed: 7 };
        bench.lease.handle(LeaseEvent::Restored(Box::new(found)), now);
        bench.turn();
        bench
    }

    fn turn(&mut self) {
        loop {
            let (_, effects) = self.lease.turn(self.now);
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                self.carry_out(effect);
            }
        }
    }

    fn carry_out(&mut self, effect: LeaseEffect) {
        match effect {
            LeaseEffect::Keep { number, records } => {
                self.records.extend(records);
                if !self.slow {
                    self.lease.handle(LeaseEvent::Kept { number, result: Ok(()) }, self.now);
                }
            }
            LeaseEffect::Ask(asks) => self.asks.extend(asks),
            LeaseEffect::Answer { said, .. } => self.answers.push((said.answer, said.rejoining)),
            _ => {}
        }
    }

    /// What its voter says to somebody who asks.
    fn says(&mut self) -> Option<(Answer, bool)> {
        self.answers.clear();
        let voter = "osl".parse().expect("a site");
        let ask = Ask { voter, nonce: Nonce(1), known: Default::default() };
        self.lease.handle(LeaseEvent::Asked { token: Token(1), ask }, self.now);
        self.turn();
        self.answers.pop()
    }

    fn pass(&mut self, time: Duration) {
        for _ in 0..time.as_secs() {
            self.now += seconds(1);
            self.turn();
        }
    }

    fn runs(&self) -> Option<Running> {
        self.lease.runs()
    }
}

/// A voter whose journal is whole and has nobody left to read.
fn old_journal() -> Vec<LeaseRecord> {
    let begun = LeaseRecord::Begun { incarnation: Incarnation(9), pending: BTreeSet::new() };
    vec![begun, LeaseRecord::Told]
}

#[test]
fn nobody_is_asked_or_answered_before_the_disk_has_the_terms() {
    let (fabric, _) = files();
    let mut slow = Bench::begin(&fabric, &old_journal(), (seconds(100), BOOT), true);
    slow.pass(seconds(10));
    assert!(slow.records.contains(&LeaseRecord::Terms(fabric.electorates().terms())));
    assert_eq!((slow.asks.len(), slow.says()), (0, None));
    let mut quick = Bench::start(&fabric, &old_journal(), (seconds(100), BOOT));
    quick.pass(seconds(1));
    assert!(!quick.asks.is_empty());
    assert!(quick.says().is_some());
}

#[test]
fn a_journal_from_before_ran_the_first_generation_and_does_not_rise_alone() {
    let (first, _) = files();
    for (fabric, rises_not) in [(first.clone(), false), (second(&first, 40), true)] {
        let mut bench = Bench::start(&fabric, &old_journal(), (seconds(100), BOOT));
        bench.pass(seconds(200));
        let runs = Running { generation: Generation(1), since: seconds(100), entered: true };
        assert_eq!(bench.runs(), Some(runs));
        assert!(bench.records.contains(&LeaseRecord::Runs { running: runs, boot: BOOT.into() }));
        let (answer, rejoining) = bench.says().expect("an answer");
        assert_eq!((answer.voters, answer.steady), (Generation(1), seconds(200)));
        assert!(!rejoining);
        assert_eq!(bench.lease.rises_not().is_some(), rises_not);
    }
}

/// Within a boot it goes on; after another one, whose clock began anew, it counts from the start.
#[test]
fn how_long_a_generation_is_run_outlives_the_agent_and_not_the_machine() {
    let (fabric, _) = files();
    let first = Bench::start(&fabric, &old_journal(), (seconds(100), BOOT));
    let again = Bench::start(&fabric, &first.records, (seconds(300), BOOT));
    assert_eq!(again.runs().map(|runs| runs.since), Some(seconds(100)));
    assert_eq!(again.records, first.records, "nothing is written twice");
    let mut other = Bench::start(&fabric, &again.records, (seconds(200), "that"));
    assert_eq!(other.runs().map(|runs| runs.since), Some(seconds(200)));
    other.pass(seconds(5));
    assert_eq!(other.says().expect("an answer").0.steady, seconds(5));
    let third = Bench::start(&fabric, &other.records, (seconds(250), "that"));
    assert_eq!(third.runs().map(|runs| runs.since), Some(seconds(200)));
}

/// A slot of the gate opens by the answers of its own round: with some of the round before the
/// other generation would shut what passes.
#[test]
fn a_node_goes_on_with_the_answers_of_one_round() {
    let (first, _) = files();
    let mut bench = Bench::start(&second(&first, 40), &old_journal(), (seconds(100), BOOT));
    let answer = |bench: &mut Bench, site: &str, generation: u64| {
        let site: SiteId = site.parse().expect("a site");
        let ask = bench.asks.iter().rev().find(|ask| ask.voter == site).expect("it is asked");
        let answer = Answer {
            voter: site.clone(),
            nonce: ask.nonce,
            incarnation: Incarnation(3),
            stated: 0,
            voters: Generation(generation),
            steady: seconds(1),
            floor: Default::default(),
            new: Vec::new(),
        };
        let node = format!("{site}-b1").parse().expect("a node");
        let said = BeaconAnswer { answer, node, rejoining: false, votes: Vec::new() };
        bench.lease.handle(LeaseEvent::Answered(Box::new(said)), bench.now);
        bench.turn();
        bench.lease.counts_by()
    };
    bench.pass(seconds(1));
    assert_eq!(answer(&mut bench, "svg", 1), Generation(1));
    bench.pass(seconds(5));
    assert_eq!(answer(&mut bench, "trd", 1), Generation(1));
    assert_eq!(answer(&mut bench, "svg", 2), Generation(1), "one of three");
    bench.pass(seconds(5));
    assert_eq!(answer(&mut bench, "trd", 2), Generation(1), "svg was asked a round before");
    assert_eq!(answer(&mut bench, "svg", 2), Generation(2));
}

#[test]
fn a_voter_that_lost_its_journal_enters_no_later_generation_alone() {
    let (first, _) = files();
    let mut bench = Bench::start(&second(&first, 40), &[], (seconds(100), BOOT));
    bench.pass(seconds(5));
    let runs = Running { generation: Generation(2), since: seconds(100), entered: false };
    assert_eq!(bench.runs(), Some(runs));
    let (answer, rejoining) = bench.says().expect("it says that it reads");
    assert_eq!((answer.voters, rejoining), (Generation(2), true));
    let again = Bench::start(&second(&first, 40), &bench.records, (seconds(150), BOOT));
    assert_eq!(again.runs(), Some(runs), "a restart changes nothing");
}

#[test]
fn a_file_with_other_terms_under_a_used_number_asks_and_answers_nobody() {
    let (first, _) = files();
    let good = second(&first, 40);
    let used = Bench::start(&good, &old_journal(), (seconds(100), BOOT)).records;
    let others = [(second(&first, 41), "does not follow"), (first, "was used with other terms")];
    for (other, told) in others {
        let mut refused = Bench::start(&other, &used, (seconds(200), BOOT));
        refused.pass(seconds(20));
        let why = refused.lease.refused().expect("it is refused").to_owned();
        assert!(why.contains(told), "{why}");
        assert_eq!((refused.asks.len(), refused.says()), (0, None));
        assert_eq!(refused.records, used, "nothing of it is written down");
    }
    let mut again = Bench::start(&good, &used, (seconds(300), BOOT));
    again.pass(seconds(1));
    assert_eq!(again.lease.refused(), None);
    assert!(!again.asks.is_empty() && again.says().is_some());
}

#[test]
fn records_of_generations_are_read_as_they_were_written() {
    let (fabric, _) = files();
    let terms = second(&fabric, 40).electorates().terms();
    let running = Running { generation: Generation(3), since: seconds(12), entered: false };
    let rosters = Rosters::new(&fabric, Vec::new());
    for record in [LeaseRecord::Terms(terms), LeaseRecord::Runs { running, boot: BOOT.into() }] {
        let read = LeaseRecord::decode(&record.encode(), &rosters).expect("it can be read");
        assert_eq!(read, record);
    }
}
