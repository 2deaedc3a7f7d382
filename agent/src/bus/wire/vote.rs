//! Votes, asks and answers of the lease.
//!
//! A vote is signed by the voter's node and kept as it came, since it travels in answers, in the
//! site's stream of votes and in journals. An ask is not signed: it only asks. An answer is, with
//! the votes that the asker lacks inside, each under its own signature. Whether a node is its
//! site's voter is judged by whoever reads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nett_policy::id::{EntryId, Epoch, Generation, NodeId, ServiceId, SiteId};
use nett_policy::lease::vote::{Answer, Ask, Incarnation, Nonce, Vote};
use nett_policy::lease::voter::Ballot;
use nett_policy::log::entry::FabricRef;
use nkeys::KeyPair;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::entry::{FabricDoc, named_fabric, open_header};
use super::sign::{self, Signer};
use super::{Judge, OpenError, VERSION, WireError, epochs, id, json};
use crate::bus::subject as subjects;

/// The most bytes of votes in one answer: the next ask gets the rest.
const VOTES_BYTES: usize = 192 * 1024;
/// What an answer says at most of how long its voter has run its generation, in seconds: longer
/// than any wait.
const MOST_STEADY: u64 = 1_000_000_000;

/// A vote with the bytes that its voter signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedVote {
    pub vote: Vote,
    /// Who signed it.
    pub node: NodeId,
    pub bytes: Arc<[u8]>,
}

/// What a voter said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BeaconAnswer {
    /// Without its votes, which are beside it.
    pub answer: Answer,
    /// Who signed it.
    pub node: NodeId,
    /// The voter lost its journal and reads the others: its answer counts for nothing.
    pub rejoining: bool,
    pub votes: Vec<SealedVote>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VoteDoc {
    v: u32,
    min_reader: u32,
    kind: VoteKind,
    subject: String,
    site: String,
    node: String,
    fabric: FabricDoc,
    incarnation: String,
    number: u64,
    prev_hash: String,
    claim: String,
    services: BTreeMap<String, u64>,
    target: String,
    voters: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum VoteKind {
    Vote,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AskDoc {
    v: u32,
    kind: AskKind,
    voter: String,
    nonce: String,
    known: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum AskKind {
    Ask,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AnswerDoc {
    v: u32,
    min_reader: u32,
    kind: AnswerKind,
    subject: String,
    site: String,
    node: String,
    fabric: FabricDoc,
    nonce: String,
    incarnation: String,
    stated: u64,
    voters: u64,
    /// For how many whole seconds the voter has run that generation; absent for 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    steady_s: u64,
    rejoining: bool,
    floor: BTreeMap<String, u64>,
    votes: Vec<Map<String, Value>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum AnswerKind {
    Answer,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn write_number(number: u128) -> String {
    format!("{number:032x}")
}

/// The one spelling of a number: 32 hexadecimal digits in lower case.
fn read_number(field: &'static str, text: &str) -> Result<u128, OpenError> {
    let number = u128::from_str_radix(text, 16).ok();
    number.filter(|n| write_number(*n) == text).ok_or_else(|| OpenError::Value {
        field,
        value: text.to_owned(),
        expected: "32 hexadecimal digits in lower case",
    })
}

// === impl SealedVote ===

impl SealedVote {
    /// Signs a ballot with the key of the voter's node.
    pub fn seal(
        ballot: &Ballot,
        node: &NodeId,
        fabric: &FabricRef,
        key: &KeyPair,
    ) -> Result<Self, WireError> {
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
        let document = VoteDoc {
            v: VERSION,
            min_reader: VERSION,
            kind: VoteKind::Vote,
            subject: subjects::votes(&voter),
            site: voter.to_string(),
            node: node.to_string(),
            fabric: FabricDoc::write(fabric),
            incarnation: write_number(incarnation.0),
            number,
            prev_hash: prev_hash.clone(),
            claim: claim.to_string(),
            services: epochs::write(&services),
            target: target.to_string(),
            voters: voters.0,
        };
        let (bytes, hash) = sign::seal(json::object(&document)?, Signer::Agent, key)?;
        let vote =
            Vote { voter, incarnation, number, prev_hash, hash, claim, services, target, voters };
        Ok(Self { vote, node: node.clone(), bytes: bytes.into() })
    }

    /// Opens a vote from wherever it came.
    pub fn open(bytes: &[u8], judge: &dyn Judge) -> Result<Self, OpenError> {
        let map = json::parse(bytes)?;
        let roster = judge.roster(&named_fabric(&map)?).unwrap_or_else(|| judge.now());
        let signed = open_header(bytes, map, None, roster.as_ref())?;
        let hash = signed.hash();
        let VoteDoc {
            v: _,
            min_reader: _,
            kind: VoteKind::Vote,
            subject,
            site,
            node,
            fabric: _,
            incarnation,
            number,
            prev_hash,
            claim,
            services,
            target,
            voters,
        } = json::read(Value::Object(signed.map))?;
        let voter: SiteId = id("site", &site)?;
        expect_subject(subjects::votes(&voter), subject)?;
        let claim: EntryId = id("claim", &claim)?;
        let services: BTreeMap<ServiceId, Epoch> = epochs::read("services", services)?;
        let vote = Vote {
            voter,
            incarnation: Incarnation(read_number("incarnation", &incarnation)?),
            number,
            prev_hash,
            hash,
            claim,
            services,
            target: id("target", &target)?,
            voters: Generation(voters),
        };
        Ok(Self { vote, node: id("node", &node)?, bytes: bytes.into() })
    }
}

fn expect_subject(expected: String, named: String) -> Result<(), OpenError> {
    if expected == named {
        return Ok(());
    }
    Err(OpenError::Subject { signed: expected, arrived: named })
}

// === asks ===

pub fn seal_ask(ask: &Ask) -> Result<Vec<u8>, WireError> {
    let Ask { voter, nonce, known } = ask;
    let known = known.iter().map(|(inc, n)| (write_number(inc.0), *n)).collect();
    let document = AskDoc {
        v: VERSION,
        kind: AskKind::Ask,
        voter: voter.to_string(),
        nonce: write_number(nonce.0),
        known,
    };
    json::canonical(&json::object(&document)?)
}

pub fn open_ask(bytes: &[u8]) -> Result<Ask, OpenError> {
    let AskDoc { v: _, kind: AskKind::Ask, voter, nonce, known } =
        json::read(Value::Object(json::parse(bytes)?))?;
    let known = known.into_iter().map(|(inc, n)| Ok((Incarnation(read_number("known", &inc)?), n)));
    Ok(Ask {
        voter: id("voter", &voter)?,
        nonce: Nonce(read_number("nonce", &nonce)?),
        known: known.collect::<Result<_, OpenError>>()?,
    })
}

// === answers ===

/// Signs an answer with the key of the voter's node. Of the votes as many go along as have room.
pub fn seal_answer(
    said: &BeaconAnswer,
    fabric: &FabricRef,
    key: &KeyPair,
) -> Result<Vec<u8>, WireError> {
    let BeaconAnswer { answer, node, rejoining, votes } = said;
    let Answer { voter, nonce, incarnation, stated, voters, steady, floor, new: _ } = answer;
    let mut room = VOTES_BYTES;
    let mut docs = Vec::new();
    for vote in votes {
        let Some(left) = room.checked_sub(vote.bytes.len()) else { break };
        room = left;
        docs.push(serde_json::from_slice(&vote.bytes).map_err(WireError::Encode)?);
    }
    let document = AnswerDoc {
        v: VERSION,
        min_reader: VERSION,
        kind: AnswerKind::Answer,
        subject: subjects::votes(voter),
        site: voter.to_string(),
        node: node.to_string(),
        fabric: FabricDoc::write(fabric),
        nonce: write_number(nonce.0),
        incarnation: write_number(incarnation.0),
        stated: *stated,
        voters: voters.0,
        steady_s: steady.as_secs().min(MOST_STEADY),
        rejoining: *rejoining,
        floor: epochs::write(floor),
        votes: docs,
    };
    Ok(sign::seal(json::object(&document)?, Signer::Agent, key)?.0)
}

/// Opens an answer, with the votes inside it.
pub fn open_answer(bytes: &[u8], judge: &dyn Judge) -> Result<BeaconAnswer, OpenError> {
    let map = json::parse(bytes)?;
    let roster = judge.roster(&named_fabric(&map)?).unwrap_or_else(|| judge.now());
    let signed = open_header(bytes, map, None, roster.as_ref())?;
    let AnswerDoc {
        v: _,
        min_reader: _,
        kind: AnswerKind::Answer,
        subject,
        site,
        node,
        fabric: _,
        nonce,
        incarnation,
        stated,
        voters,
        steady_s,
        rejoining,
        floor,
        votes,
    } = json::read(Value::Object(signed.map))?;
    let voter: SiteId = id("site", &site)?;
    expect_subject(subjects::votes(&voter), subject)?;
    let open = |map: Map<String, Value>| {
        let bytes = json::canonical(&map).map_err(|_| OpenError::NotCanonical)?;
        let vote = SealedVote::open(&bytes, judge)?;
        expect_subject(subjects::votes(&voter), subjects::votes(&vote.vote.voter))?;
        Ok(vote)
    };
    let votes = votes.into_iter().map(open).collect::<Result<Vec<_>, OpenError>>()?;
    let answer = Answer {
        nonce: Nonce(read_number("nonce", &nonce)?),
        incarnation: Incarnation(read_number("incarnation", &incarnation)?),
        stated,
        voters: Generation(voters),
        steady: Duration::from_secs(steady_s.min(MOST_STEADY)),
        floor: epochs::read("floor", floor)?,
        new: votes.iter().map(|v| v.vote.clone()).collect(),
        voter,
    };
    Ok(BeaconAnswer { answer, node: id("node", &node)?, rejoining, votes })
}
