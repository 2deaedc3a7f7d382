//! A fourth voter is added and the first one is removed, one after the other, while one site serves
//! all the time. Leases of five nodes without a bus: every ask is answered at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use nett_agent::bus::wire::{BeaconAnswer, SealedVote, open_answer, seal_answer};
use nett_agent::controller::event::Token;
use nett_agent::lease::electing::kept;
use nett_agent::lease::store::{LeaseRecord, Restored};
use nett_agent::lease::{Lease, LeaseEffect, LeaseEvent, Standing};
use nett_policy::document::{SourceFile, compile};
use nett_policy::fabric::Fabric;
use nett_policy::id::{Generation, NodeId, ServiceId, SiteId};
use nett_policy::lease::vote::Ask;
use nett_policy::lease::voters::{BadVoters, Voters};
use nett_policy::log::entry::FabricRef;
use nett_policy::roster::Rosters;
use nett_policy::service::Catalog;
use nkeys::{KeyPair, KeyPairType};

/// The first two serve, the others are witnesses.
const NODES: [&str; 5] = ["osl-b1", "svg-b1", "ber-w1", "ham-w1", "cph-w1"];
/// T and W in the file.
const LEASE: Duration = Duration::from_secs(5);
const WAIT: Duration = Duration::from_secs(7);
const TICK: Duration = Duration::from_millis(500);

fn pair(name: &str) -> KeyPair {
    let mut raw = [9; 32];
    raw[..name.len()].copy_from_slice(name.as_bytes());
    KeyPair::new_from_raw(KeyPairType::User, raw).expect("a key from 32 bytes")
}

fn id<T: std::str::FromStr<Err = nett_policy::id::IdError>>(text: &str) -> T {
    text.parse().expect("a valid id")
}

/// The fabric in which these nodes vote.
fn fabric(voters_gen: u64, voters: &[&str]) -> (Fabric, Catalog) {
    let mut text = format!(
        "[fabric]\nname = \"lab\"\ngeneration = {voters_gen}\nvoters_gen = {voters_gen}\n\
         vip_ranges = [\"10.99.0.0/16\"]\nlease = {{ duration = \"5s\", wait = \"7s\" }}\n\
         [zone]\nname = \"steer.example.\"\nhostmaster = \"dns.example.\"\n\
         ns = [{{ name = \"ns1.steer.example.\", addresses = [\"10.1.0.53\"] }}]\n"
    );
    for (node, n) in NODES.iter().zip(1..) {
        let (site, _) = node.split_once('-').expect("a site's");
        let (key, voter) = (pair(node).public_key(), voters.contains(node));
        let serves = n < 3;
        let prefixes = if serves { format!("prefixes = [\"10.{n}.0.0/16\"]\n") } else { "".into() };
        let role = match serves {
            true => format!("role = \"border\"\ncore = \"core\"\naddresses = [\"10.{n}.1.2\"]"),
            false => "role = \"witness\"".to_owned(),
        };
        write!(
            text,
            "[[site]]\nid = \"{site}\"\nrank = {n}\n{prefixes}[[node]]\nid = \"{node}\"\n\
             site = \"{site}\"\n{role}\nkey = \"{key}\"\nvoter = {voter}\n"
        )
        .expect("text grows");
    }
    text += "[[link]]\nid = \"osl-svg\"\ncost = 10\n\
             a = { node = \"osl-b1\", interface = \"wan0\", addresses = [\"172.31.0.1/30\"] }\n\
             b = { node = \"svg-b1\", interface = \"wan0\", addresses = [\"172.31.0.2/30\"] }\n";
    let services = "[[service]]\nid = \"shop/prod/db\"\ncategory = \"B\"\nprimary = \"osl\"\n\
                    standby = [\"svg\"]\nisolation = \"lease\"\nvips = [\"10.99.0.1\"]\n\
                    backends.osl = [\"10.1.20.1\"]\nbackends.svg = [\"10.2.20.1\"]\n";
    let files = [("fabric.toml", text), ("services.toml", services.to_owned())]
        .map(|(name, text)| SourceFile::new(name.to_owned(), text));
    compile(&files[0], &files[1]).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

/// One node: its lease, and what is on its disk.
struct Host {
    lease: Lease,
    fabric: Arc<Fabric>,
    records: Vec<LeaseRecord>,
    up: bool,
}

struct World {
    hosts: BTreeMap<NodeId, Host>,
    now: Duration,
    tokens: u64,
}

// === impl Host ===

impl Host {
    fn reference(&self) -> FabricRef {
        FabricRef { generation: self.fabric.generation, hash: self.fabric.hash.clone() }
    }

    fn generation(&self) -> Generation {
        kept(&self.records).expect("it runs some").generation
    }
}

// === impl World ===

impl World {
    /// Every node starts with the first three voters, on an empty disk.
    fn new() -> Self {
        let mut world = Self { hosts: BTreeMap::new(), now: Duration::from_secs(100), tokens: 0 };
        for node in NODES {
            world.start(node, &fabric(1, &NODES[..3]));
        }
        world
    }

    fn host(&mut self, node: &NodeId) -> &mut Host {
        self.hosts.get_mut(node).expect("a node")
    }

    /// Starts a node with these files and what is on its disk.
    fn start(&mut self, node: &str, (fabric, catalog): &(Fabric, Catalog)) {
        let node: NodeId = id(node);
        let (fabric, catalog) = (Arc::new(fabric.clone()), Arc::new(catalog.clone()));
        let me = fabric.node(&node).expect("one of it").clone();
        let lease = Lease::new(fabric.clone(), catalog, me).expect("something is leased");
        let records = self.hosts.remove(&node).map(|host| host.records).unwrap_or_default();
        let whole = !records.is_empty();
        self.tokens += 1;
        let seed = u128::from(self.tokens) << 64;
        let found = Restored { records: records.clone(), whole, boot: "boot".to_owned(), seed };
        self.hosts.insert(node.clone(), Host { lease, fabric, records, up: true });
        let now = self.now;
        let lease = &mut self.host(&node).lease;
        lease.handle(LeaseEvent::Restored(Box::new(found)), now);
        lease.handle(LeaseEvent::GateFound(None), now);
        lease.fences_told();
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += TICK;
            let nodes: Vec<NodeId> = self.hosts.keys().cloned().collect();
            for node in nodes {
                if self.hosts[&node].up {
                    self.turn(&node);
                }
            }
            let serving: BTreeSet<&NodeId> =
                self.hosts.iter().filter(|(_, host)| serves(&host.lease)).map(|(n, _)| n).collect();
            assert!(serving.len() <= 1, "{serving:?} serve at {:?}", self.now);
        }
    }

    /// All that follows now, and what follows from that.
    fn turn(&mut self, node: &NodeId) {
        let now = self.now;
        for _ in 0..20 {
            let (_, effects) = self.host(node).lease.turn(now);
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                self.carry_out(node, effect);
            }
        }
        panic!("{node} never has enough");
    }

    fn carry_out(&mut self, node: &NodeId, effect: LeaseEffect) {
        let now = self.now;
        let host = self.host(node);
        let event = match effect {
            LeaseEffect::Keep { number, records } => {
                host.records.extend(records);
                LeaseEvent::Kept { number, result: Ok(()) }
            }
            LeaseEffect::Vote(ballot) => {
                let key = pair(node.as_str());
                let vote = SealedVote::seal(&ballot, node, &host.reference(), &key);
                let vote = vote.expect("the key fits");
                host.records.push(LeaseRecord::Made(vote.clone()));
                LeaseEvent::Voted(Ok(vote))
            }
            LeaseEffect::Shape(shape) => {
                LeaseEvent::Shaped { number: shape.number, result: Ok(()) }
            }
            LeaseEffect::Arm { round, .. } => {
                LeaseEvent::Armed { round, anew: false, result: Ok(()) }
            }
            LeaseEffect::Ask(asks) => {
                asks.into_iter().for_each(|(voter, ask)| self.ask(node, &voter, ask));
                return;
            }
            LeaseEffect::Answer { .. }
            | LeaseEffect::Publish(_)
            | LeaseEffect::Open { .. }
            | LeaseEffect::Deadlines(_) => return,
        };
        host.lease.handle(event, now);
    }

    fn ask(&mut self, node: &NodeId, voter: &NodeId, ask: Ask) {
        let now = self.now;
        self.tokens += 1;
        let token = Token(self.tokens);
        let host = self.host(voter);
        if !host.up {
            return;
        }
        host.lease.handle(LeaseEvent::Asked { token, ask }, now);
        let (_, effects) = host.lease.turn(now);
        let mut said = None;
        for effect in effects {
            match effect {
                LeaseEffect::Answer { token: to, said: answer } if to == token => {
                    said = Some(answer);
                }
                other => self.carry_out(voter, other),
            }
        }
        if let Some(said) = said {
            let said = self.over_the_wire(voter, &said);
            self.host(node).lease.handle(LeaseEvent::Answered(Box::new(said)), now);
        }
    }

    fn over_the_wire(&self, voter: &NodeId, said: &BeaconAnswer) -> BeaconAnswer {
        let host = &self.hosts[voter];
        let bytes = seal_answer(said, &host.reference(), &pair(voter.as_str())).expect("signs");
        open_answer(&bytes, &Rosters::from(&*host.fabric)).expect("opens")
    }

    /// What each node runs, or counts where it has no voter.
    fn generations(&self) -> Vec<u64> {
        NODES.iter().map(|node| self.hosts[&id::<NodeId>(node)].generation().0).collect()
    }

    fn counted(&self) -> Vec<u64> {
        let of = |node: &&str| self.hosts[&id::<NodeId>(node)].lease.voters_gen().0;
        NODES.iter().map(of).collect()
    }

    #[track_caller]
    fn is_served(&self) {
        let (_, stands) =
            self.hosts[&id::<NodeId>("osl-b1")].lease.stands().first_key_value().expect("one");
        assert!(serves(&self.hosts[&id::<NodeId>("osl-b1")].lease), "{:?}: {stands:?}", self.now);
    }
}

fn serves(lease: &Lease) -> bool {
    let service: ServiceId = id("shop/prod/db");
    lease.stands().get(&service).is_some_and(|stands| stands.standing == Standing::Serving)
}

fn four() -> [&'static str; 4] {
    [NODES[0], NODES[1], NODES[2], NODES[3]]
}

#[test]
fn a_voter_is_added_and_another_removed_while_one_site_serves() {
    let mut world = World::new();
    world.run(4 * WAIT);
    world.is_served();
    assert_eq!(world.generations(), [1; 5]);
    // A file at a time, half a lease between them; the new voter first.
    let next = fabric(2, &four());
    for node in ["ham-w1", "ber-w1", "svg-b1", "osl-b1", "cph-w1"] {
        world.start(node, &next);
        world.run(LEASE / 2);
        world.is_served();
    }
    world.run(LEASE);
    world.is_served();
    assert_eq!((world.generations(), world.counted()), (vec![2; 5], vec![2; 5]));
    let voter: SiteId = id("ham");
    assert_eq!(world.hosts[&id::<NodeId>("osl-b1")].lease.runs(&voter), Some(Generation(2)));

    // One after the other again; who is removed goes last.
    world.run(LEASE);
    let last = fabric(3, &[NODES[0], NODES[1], NODES[3]]);
    let until = world.now + 2 * WAIT;
    for node in ["svg-b1", "osl-b1", "ham-w1", "cph-w1"] {
        world.start(node, &last);
        world.run(LEASE / 2);
        world.is_served();
    }
    while world.now < until {
        world.run(TICK);
        world.is_served();
    }
    // The voter that goes last; until then it was counted.
    world.start("ber-w1", &last);
    world.run(2 * LEASE);
    world.is_served();
    assert_eq!((world.generations(), world.counted()), (vec![3; 5], vec![3; 5]));
    assert!(world.hosts.values().all(|host| host.lease.next_voters().is_none()));
    let removed = &world.hosts[&id::<NodeId>("ber-w1")].lease;
    assert!(removed.pending().is_none(), "it votes no more");
    // Two of the three that are left suffice.
    world.host(&id("ham-w1")).up = false;
    world.run(3 * LEASE);
    world.is_served();
}

/// With no voter that has gone ahead, each waits until a majority of those before has run their
/// generation for W, as far as it knows itself.
#[test]
fn no_voter_begins_the_next_generation_before_its_time() {
    let mut world = World::new();
    // On every disk is the first generation, and that it has not settled.
    world.run(WAIT / 2);
    assert_eq!(world.generations(), [1; 5]);
    let next = fabric(2, &four());
    NODES.iter().for_each(|node| world.start(node, &next));
    world.run(WAIT - TICK);
    let old: Vec<u64> =
        NODES[..3].iter().map(|n| world.hosts[&id::<NodeId>(n)].generation().0).collect();
    assert_eq!(old, [1; 3]);
    let waits = world.hosts[&id::<NodeId>("svg-b1")].lease.next_voters().expect("on the way");
    assert_eq!(waits.generation, Generation(2));
    let why = waits.waits.expect("it waits");
    assert!(why.contains("has not run generation 1 for the wait"), "{why}");
    world.run(WAIT);
    assert_eq!(world.generations(), [2; 5]);
}

#[test]
fn files_that_cannot_follow_are_refused() {
    let mut world = World::new();
    world.run(3 * WAIT);
    let voters = |generation, nodes: &[&str]| Voters::of(&fabric(generation, nodes).0);
    let lease = &world.hosts[&id::<NodeId>("svg-b1")].lease;
    assert_eq!(lease.voters_follow(&voters(1, &NODES[..3])), Ok(()));
    assert_eq!(lease.voters_follow(&voters(2, &four())), Ok(()));
    let refused = |generation, nodes: &[&str]| {
        lease.voters_follow(&voters(generation, nodes)).expect_err("it is refused")
    };
    assert!(refused(2, &NODES).contains("+cph-w1, +ham-w1"));
    assert!(refused(3, &four()).contains("voters_gen = 2 first"));
    // The same is looked at when an agent starts.
    let kept = kept(&world.hosts[&id::<NodeId>("svg-b1")].records).expect("written").clone();
    let changed = Voters { generation: Generation(1), ..voters(2, &four()) };
    assert!(matches!(kept.check(&changed), Err(BadVoters::Changed { .. })));
    // Until the next one has had its time, nothing follows it.
    NODES.iter().for_each(|node| world.start(node, &fabric(2, &four())));
    world.run(2 * LEASE - WAIT / 2);
    assert_eq!(world.generations(), [2; 5]);
    let lease = &world.hosts[&id::<NodeId>("svg-b1")].lease;
    let soon = lease.voters_follow(&voters(3, &NODES)).expect_err("too soon");
    assert!(soon.contains("has not run generation 2 for the wait"), "{soon}");
    assert!(lease.voters_follow(&voters(1, &NODES[..3])).is_err(), "never back");
    world.run(WAIT);
    let lease = &world.hosts[&id::<NodeId>("svg-b1")].lease;
    assert_eq!(lease.voters_follow(&voters(3, &NODES)), Ok(()));
}

/// Releases that know of no generations send none and read none.
#[test]
fn the_first_generation_is_not_named() {
    let mut world = World::new();
    world.run(3 * WAIT);
    let bytes = |records: &[LeaseRecord]| {
        let made = records.iter().filter_map(|record| match record {
            LeaseRecord::Made(vote) => Some(String::from_utf8_lossy(&vote.bytes).into_owned()),
            _ => None,
        });
        made.collect::<Vec<String>>().concat()
    };
    let first = bytes(&world.hosts[&id::<NodeId>("osl-b1")].records);
    assert!(first.contains("\"voters\":1") && !first.contains("voters_gen"), "{first}");
    NODES.iter().for_each(|node| world.start(node, &fabric(2, &four())));
    world.run(3 * WAIT);
    let second = bytes(&world.hosts[&id::<NodeId>("ham-w1")].records);
    assert!(second.contains("\"voters\":2,\"voters_gen\":2"), "{second}");
    for host in world.hosts.values() {
        for record in &host.records {
            let rosters = Rosters::new(
                &host.fabric,
                [nett_policy::roster::Roster::of(&fabric(1, &NODES[..3]).0)],
            );
            let again = LeaseRecord::decode(&record.encode(), &rosters).expect("it is read");
            assert_eq!(again, *record);
        }
    }
}
