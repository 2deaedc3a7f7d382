//! Mail that nobody has sent who may: changed on its way, signed by another site's agent, right but
//! under another subject, cut short, or said long ago. It comes to an agent as bytes, as all mail
//! does, and the readers of the agent say whether it is believed.

use std::collections::BTreeMap;

use nett_agent::bus::subject;
use nett_agent::bus::wire::{
    BeaconAnswer, Draft, OpenError, Report, Sealed, SealedVote, open_answer, open_report,
    request_subject, seal_answer, seal_report, seal_request,
};
use nett_agent::controller::event::Event;
use nett_agent::lease::LeaseEvent;
use nett_agent::lease::store::LeaseRecord;
use nett_policy::id::{NodeId, SiteId, WallMs};
use nett_policy::lease::vote::Ask;
use nkeys::KeyPair;
use serde_json::Value;

use crate::mutants::Mutant;
use crate::traps::Way;
use crate::world::{Happening, World, ms};

/// What is wrong with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Forgery {
    /// Its signature is that of another message of the same author.
    Changed,
    /// An agent of another site signed it.
    Foreign,
    /// It was said under another subject, or to others.
    Astray,
    CutShort,
    /// It is right, and old.
    Old,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Report,
    Entry,
    Vote,
    Answer,
    Request,
}

/// A message as it comes, with what somebody takes it for who believes everything.
#[derive(Debug)]
pub(crate) struct Forged {
    to: NodeId,
    life: u64,
    forgery: Forgery,
    subject: String,
    bytes: Vec<u8>,
    says: Says,
}

#[derive(Debug)]
enum Says {
    Report(Report),
    /// With its number in the stream.
    Entry(Box<Sealed>, u64),
    Vote(SealedVote),
    Answer(Box<BeaconAnswer>),
}

/// How many messages of each kind were refused and believed.
pub(crate) type Letters = BTreeMap<(Kind, Forgery), (usize, usize)>;

// === impl Forgery ===

impl Forgery {
    pub(crate) const ALL: [Self; 5] =
        [Self::Changed, Self::Foreign, Self::Astray, Self::CutShort, Self::Old];
}

// === impl Kind ===

impl Kind {
    pub(crate) const ALL: [Self; 5] =
        [Self::Report, Self::Entry, Self::Vote, Self::Answer, Self::Request];
}

// === impl Says ===

impl Says {
    fn kind(&self) -> Kind {
        match self {
            Self::Report(_) => Kind::Report,
            Self::Entry(..) => Kind::Entry,
            Self::Vote(_) => Kind::Vote,
            Self::Answer(_) => Kind::Answer,
        }
    }

    /// Where it stands in its stream, if it does.
    fn stream_seq(&self) -> u64 {
        match self {
            Self::Entry(_, stream_seq) => *stream_seq,
            Self::Report(_) | Self::Vote(_) | Self::Answer(_) => 0,
        }
    }

    fn event(self) -> Event {
        match self {
            Self::Report(report) => Event::Report(report),
            Self::Entry(sealed, stream_seq) => Event::Entries(vec![(*sealed, stream_seq)]),
            Self::Vote(vote) => Event::Lease(LeaseEvent::Vote(vote)),
            Self::Answer(said) => Event::Lease(LeaseEvent::Answered(said)),
        }
    }
}

// === impl World ===

impl World {
    /// Somebody sends an agent such a message, if there is one of the kind.
    pub(crate) fn forge(&mut self, to: &NodeId, kind: Kind, forgery: Forgery) {
        let authors: Vec<NodeId> = self.agents.keys().filter(|node| *node != to).cloned().collect();
        let Some(at) = self.later.usize(0..1000).checked_rem(authors.len()) else { return };
        let author = authors[at].clone();
        let Some(stranger) = self.stranger(&author) else { return };
        let made = match kind {
            Kind::Report => self.forged_report(&author, &stranger, forgery),
            Kind::Entry => self.forged_entry(to, &author, &stranger, forgery),
            Kind::Vote => self.forged_vote(forgery),
            Kind::Answer => self.forged_answer(to, &author, &stranger, forgery),
            Kind::Request => return self.forged_request(&stranger, forgery),
        };
        let Some((subject, bytes, says)) = made else { return };
        self.post_forged(to, forgery, (subject, bytes, says));
    }

    fn post_forged(
        &mut self,
        to: &NodeId,
        forgery: Forgery,
        (subject, bytes, says): (String, Vec<u8>, Says),
    ) {
        let bytes = match forgery {
            Forgery::CutShort => bytes[..bytes.len() / 2].to_vec(),
            _ => bytes,
        };
        let (to, life) = (to.clone(), self.agents[to].life);
        let forged = Forged { to, life, forgery, subject, bytes, says };
        self.at(ms(20), Happening::Forged(Box::new(forged)));
    }

    /// A node of another site.
    fn stranger(&self, author: &NodeId) -> Option<NodeId> {
        let site = self.agents[author].site();
        self.agents.iter().find(|(_, agent)| agent.site() != site).map(|(node, _)| node.clone())
    }

    /// Says that all links of its author are down.
    fn forged_report(
        &mut self,
        author: &NodeId,
        stranger: &NodeId,
        forgery: Forgery,
    ) -> Option<(String, Vec<u8>, Says)> {
        let real = self.reports.get(author)?.clone();
        let mut lie = Report { at: WallMs(real.at.0 + 1), ..real.clone() };
        lie.links.values_mut().for_each(|up| *up = false);
        let key = |node: &NodeId| &self.agents[node].key;
        let seal = |report: &Report, key: &KeyPair| seal_report(report, key).expect("the key fits");
        let subject = subject::report(&real.site, author);
        Some(match forgery {
            Forgery::Foreign => (subject, seal(&lie, key(stranger)), Says::Report(lie)),
            Forgery::Astray => {
                let theirs = self.reports.get(stranger)?.clone();
                (subject, seal(&theirs, key(stranger)), Says::Report(theirs))
            }
            Forgery::Old => {
                let old = self.first_reports.get(author)?.clone();
                (subject, seal(&old, key(author)), Says::Report(old))
            }
            Forgery::Changed | Forgery::CutShort => {
                let bytes = signed_as(&seal(&lie, key(author)), &seal(&real, key(author)));
                (subject, bytes, Says::Report(lie))
            }
        })
    }

    /// An entry that the agent has read, and that is another now.
    fn forged_entry(
        &mut self,
        to: &NodeId,
        author: &NodeId,
        stranger: &NodeId,
        forgery: Forgery,
    ) -> Option<(String, Vec<u8>, Says)> {
        let site = self.agents[author].site().clone();
        let read = self.agents[to].read.get(&site).copied().unwrap_or(0);
        let at = self.later.usize(0..1000).checked_rem(read)?;
        let real = self.servers[&site].log.get(at)?.clone();
        let entry = &real.entry;
        let draft = |id| Draft {
            id,
            site: entry.site.clone(),
            node: entry.node.clone(),
            fabric: self.agents[author].controller.fabric_ref(),
            at: WallMs(entry.at.0 + 1),
            boot: entry.position.boot.clone(),
            seq: entry.position.seq,
            prev_hash: entry.position.prev_hash.clone(),
            body: entry.body.clone(),
            request_verbatim: real.verbatim(),
        };
        // Lower than any: of two entries for one place it would be kept.
        let id = format!("{site}.{:0>26}", 0).parse().expect("an id");
        let signer = if forgery == Forgery::Foreign { stranger } else { &entry.node };
        let lie = Sealed::seal(draft(id), &self.agents[signer].key).expect("the key fits");
        let (subject, stream_seq) = (real.subject(), at as u64 + 1);
        Some(match forgery {
            Forgery::Foreign => (subject, lie.bytes.to_vec(), Says::Entry(lie.into(), stream_seq)),
            Forgery::Astray => {
                let elsewhere = self.agents[stranger].site();
                let subject = subject::entry(elsewhere, &entry.body);
                (subject, real.bytes.to_vec(), Says::Entry(real.into(), stream_seq))
            }
            Forgery::Old => (subject, real.bytes.to_vec(), Says::Entry(real.into(), stream_seq)),
            Forgery::Changed | Forgery::CutShort => {
                (subject, signed_as(&lie.bytes, &real.bytes), Says::Entry(lie.into(), stream_seq))
            }
        })
    }

    /// A vote that somebody has made. Nobody can tell by its subject: it says for itself whose it
    /// is.
    fn forged_vote(&mut self, forgery: Forgery) -> Option<(String, Vec<u8>, Says)> {
        let made = |record: &LeaseRecord| match record {
            LeaseRecord::Made(vote) => Some(vote.clone()),
            _ => None,
        };
        let records = self.agents.values().flat_map(|agent| &agent.lease.records);
        let votes: Vec<SealedVote> = records.filter_map(made).collect();
        let vote = votes.get(self.later.usize(0..1000).checked_rem(votes.len())?)?.clone();
        let other = votes.iter().find(|other| other.bytes != vote.bytes);
        let bytes = match (forgery, other) {
            (Forgery::Changed | Forgery::Foreign, Some(other)) => {
                signed_as(&vote.bytes, &other.bytes)
            }
            (Forgery::CutShort | Forgery::Old, _) => vote.bytes.to_vec(),
            _ => return None,
        };
        Some((subject::votes(&vote.vote.voter), bytes, Says::Vote(vote)))
    }

    /// What its voter said before, to what the agent has asked last.
    fn forged_answer(
        &mut self,
        to: &NodeId,
        author: &NodeId,
        stranger: &NodeId,
        forgery: Forgery,
    ) -> Option<(String, Vec<u8>, Says)> {
        let (real, mut lie) = (self.last_said(author)?, self.last_said(author)?);
        lie.answer.nonce = self.last_asked(to, &real.answer.voter)?;
        if lie == real {
            return None;
        }
        let fabric = self.agents[author].controller.fabric_ref();
        let key = |node: &NodeId| &self.agents[node].key;
        let seal = |said: &BeaconAnswer, key: &KeyPair| {
            seal_answer(said, &fabric, key).expect("the key fits")
        };
        let subject = subject::votes(&real.answer.voter);
        Some(match forgery {
            Forgery::Foreign => (subject, seal(&lie, key(stranger)), Says::Answer(lie.into())),
            // As another voter answers, who was not asked this.
            Forgery::Astray => {
                let mut theirs = self.last_said(stranger)?;
                theirs.answer.nonce = lie.answer.nonce;
                (subject, seal(&theirs, key(stranger)), Says::Answer(theirs.into()))
            }
            Forgery::Old => (subject, seal(&real, key(author)), Says::Answer(real.into())),
            Forgery::Changed | Forgery::CutShort => {
                let bytes = signed_as(&seal(&lie, key(author)), &seal(&real, key(author)));
                (subject, bytes, Says::Answer(lie.into()))
            }
        })
    }

    /// Something that a person asked, as somebody else asks it. No log may ever have it.
    fn forged_request(&mut self, stranger: &NodeId, forgery: Forgery) {
        let sites: Vec<SiteId> =
            self.servers.iter().filter(|(_, s)| s.up).map(|(site, _)| site.clone()).collect();
        let sent = self.desk.sent.len();
        let places = (self.later.usize(0..1000), self.later.usize(0..1000));
        let (Some(at), Some(sent)) =
            (places.0.checked_rem(sites.len()), places.1.checked_rem(sent))
        else {
            return;
        };
        let site = sites[at].clone();
        let (subject, bytes) = self.desk.sent[sent].clone();
        let id = self.next_id(&site);
        let mut value: Value = serde_json::from_slice(&bytes).expect("a request is JSON");
        value["id"] = Value::from(id.to_string());
        let changed = serde_json_canonicalizer::to_vec(&value).expect("it was canonical");
        let bytes = match forgery {
            Forgery::Changed => changed,
            Forgery::CutShort => changed[..changed.len() / 2].to_vec(),
            Forgery::Foreign => {
                let Some(last) = self.desk.asked.last() else { return };
                let mut request = last.clone();
                let key = &self.agents[stranger].key;
                (request.id, request.person.key) = (id.clone(), key.public_key());
                let subject = request_subject(&request);
                let bytes = seal_request(&request, &subject, key).expect("the key fits");
                self.watch.forged.insert(id);
                return self.submit(&site, &subject, &bytes);
            }
            // At a site that it was not sent to; once more at its own is for everybody to do.
            Forgery::Astray | Forgery::Old => bytes,
        };
        self.watch.forged.insert(id);
        self.submit(&site, &subject, &bytes);
    }

    /// An agent reads it as its bus does.
    pub(crate) fn read_forged(&mut self, forged: Forged) {
        let Forged { to, life, forgery, subject, bytes, says } = forged;
        if !self.lives(&to, life) || !self.agents[&to].connected {
            return;
        }
        let kind = says.kind();
        if self.mutant == Some(Mutant::Credulous) {
            return self.step(&to, says.event());
        }
        let (fabric, stream_seq) = (self.agents[&to].setting.fabric.clone(), says.stream_seq());
        let read: Result<Says, OpenError> = match kind {
            Kind::Report => open_report(&bytes, &subject, &*fabric).map(Says::Report),
            Kind::Entry => Sealed::open(&bytes, &subject, &*fabric)
                .map(|sealed| Says::Entry(sealed.into(), stream_seq)),
            Kind::Vote => SealedVote::open(&bytes, &*fabric).map(Says::Vote),
            Kind::Answer | Kind::Request => {
                open_answer(&bytes, &*fabric).map(|said| Says::Answer(said.into()))
            }
        };
        let count = self.watch.letters.entry((kind, forgery)).or_default();
        let may = forgery == Forgery::Old || (kind, forgery) == (Kind::Answer, Forgery::Astray);
        match read {
            Ok(says) => {
                count.1 += 1;
                if !may {
                    self.watch.complain(format!("{to} believes a {kind:?} that is {forgery:?}"));
                }
                self.step(&to, says.event());
            }
            Err(error) => {
                count.0 += 1;
                self.note(format!("{to} refuses a {kind:?} that is {forgery:?}: {error}"));
                if let Says::Entry(sealed, stream_seq) = says {
                    let (site, error) = (sealed.entry.site, error.message());
                    let blocks = None;
                    self.step(&to, Event::BadEntry { site, stream_seq, error, blocks });
                }
            }
        }
    }

    /// Somebody answers in the place of the voters that a site is cut off from.
    pub(crate) fn answer_falsely(&mut self, node: &NodeId, ask: &Ask) {
        let Way::Forged(site, until) = &self.way else { return };
        let asks = self.agents[node].site() == site && ask.voter != *site && self.now < *until;
        let voter = self.fabric.voters().find(|other| other.site == ask.voter);
        let (true, Some(voter)) = (asks, voter.map(|voter| voter.id.clone())) else { return };
        let (Some(mut said), Some(stranger)) = (self.last_said(&voter), self.stranger(&voter))
        else {
            return;
        };
        said.answer.nonce = ask.nonce;
        let fabric = self.agents[&voter].controller.fabric_ref();
        let bytes = seal_answer(&said, &fabric, &self.agents[&stranger].key);
        let letter = (subject::votes(&ask.voter), bytes.expect("the key fits"));
        let says = Says::Answer(said.into());
        self.post_forged(node, Forgery::Foreign, (letter.0, letter.1, says));
    }
}

/// The message with the signature of the other one.
fn signed_as(message: &[u8], other: &[u8]) -> Vec<u8> {
    let read = |bytes: &[u8]| -> Value { serde_json::from_slice(bytes).expect("it is JSON") };
    let (mut message, mut other) = (read(message), read(other));
    message["sig"] = other["sig"].take();
    serde_json_canonicalizer::to_vec(&message).expect("it was canonical")
}
