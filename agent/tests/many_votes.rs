//! Votes are kept for good (adr/0067): what very many of them take on the disk and at a start.

#![allow(clippy::print_stdout, reason = "what it took is told")]

mod bus_fixture;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bus_fixture::{OSL_B1, entry_id, id, key, shared};
use nett_agent::bus::wire::SealedVote;
use nett_agent::lease::store::LeaseRecord;
use nett_policy::id::{Epoch, Generation};
use nett_policy::lease::knowledge::Times;
use nett_policy::lease::vote::Incarnation;
use nett_policy::lease::voter::Ballot;
use nett_policy::log::entry::FabricRef;
use nett_policy::roster::Rosters;

/// A move of a leased service every hour, for a year and more.
const CLAIMS: u32 = 10_000;
/// The most bytes of one vote in a journal, with the times at which it was read.
const BYTES: usize = 800;

#[test]
fn very_many_votes_are_read_back_in_order_and_each_is_small() {
    let fabric = shared();
    let named = FabricRef { generation: fabric.generation, hash: fabric.hash.clone() };
    let signer = key(OSL_B1);
    let mut prev_hash = String::new();
    let mut journal: Vec<Vec<u8>> = Vec::new();
    for number in 1..=CLAIMS {
        let ballot = Ballot {
            voter: id("osl"),
            incarnation: Incarnation(7),
            number: u64::from(number),
            prev_hash,
            claim: entry_id("svg", number),
            services: BTreeMap::from([(id("shop/prod/ledger"), Epoch(u64::from(number)))]),
            target: id("svg"),
            voters: Generation(1),
            left_out: BTreeMap::new(),
        };
        let vote = SealedVote::seal(&ballot, &id("osl-b1"), &named, &signer).expect("it signs");
        prev_hash = vote.vote.hash.clone();
        let at = Duration::from_secs(u64::from(number));
        let times = Times { since: at, heard: Duration::ZERO };
        journal.push(LeaseRecord::Read { vote, times, boot: "a boot".to_owned() }.encode());
    }
    let bytes: usize = journal.iter().map(Vec::len).sum();
    let rosters = Rosters::from(fabric.as_ref());
    let begun = Instant::now();
    let read = |bytes: &Vec<u8>| match LeaseRecord::decode(bytes, &rosters) {
        Ok(LeaseRecord::Read { vote, .. }) => vote.vote.number,
        other => panic!("{other:?}"),
    };
    let numbers: Vec<u64> = journal.iter().map(read).collect();
    println!("{CLAIMS} votes: {bytes} bytes, read in {:?}", begun.elapsed());
    assert!(numbers.into_iter().eq(1..=u64::from(CLAIMS)));
    assert!(bytes / CLAIMS as usize <= BYTES, "{bytes} bytes");
}
