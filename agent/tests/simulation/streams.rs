//! The servers and their streams: an entry is stored behind the last one or not at all, mirrors at
//! other sites follow, agents read on. A stream can be lost with all that was in it; then the
//! site's agents fill the one that takes its place from their journals.

use std::collections::{BTreeMap, BTreeSet};

use nett_agent::bus::wire::{Draft, Sealed};
use nett_agent::controller::effect::Append;
use nett_agent::controller::event::{AppendFailure, Event};
use nett_policy::id::{EntryId, NodeId, SiteId};

use crate::mutants::Mutant;
use crate::said::said;
use crate::world::{Happening, World, ms};

#[derive(Default)]
pub(crate) struct Server {
    pub(crate) up: bool,
    pub(crate) log: Vec<Sealed>,
    /// How much it has of the logs of others.
    pub(crate) mirrors: BTreeMap<SiteId, usize>,
    /// What the streams had that it has lost, oldest first.
    former: Vec<Vec<Sealed>>,
    /// Of which stream of another site its mirror is: how many that site had lost before.
    mirrored: BTreeMap<SiteId, usize>,
}

/// An entry on its way to its site's server.
#[derive(Debug)]
pub(crate) struct Letter {
    pub(crate) node: NodeId,
    pub(crate) life: u64,
    pub(crate) sealed: Sealed,
    /// The number of the stream's last message, as its writer knows it.
    pub(crate) after: u64,
    /// Which stream it is meant for.
    stream: usize,
}

/// The streams that an agent reads.
#[derive(Default)]
pub(crate) struct Reader {
    /// Which stream of each site it has begun to read in this life.
    streams: BTreeMap<SiteId, usize>,
    /// Sites whose stream it has read from its first message on.
    whole: BTreeSet<SiteId>,
    /// How often it began one from there.
    begun: usize,
}

// === impl Server ===

impl Server {
    pub(crate) fn up() -> Self {
        Self { up: true, ..Self::default() }
    }

    /// What is, or was, in one of its streams.
    fn stream(&self, number: usize) -> &[Sealed] {
        self.former.get(number).unwrap_or(&self.log)
    }

    /// What was ever stored: the log begins with it again once it was filled.
    pub(crate) fn lost(&self) -> &[Sealed] {
        self.former.iter().max_by_key(|stream| stream.len()).map_or(&[], Vec::as_slice)
    }

    fn holds_what_it_lost(&self) -> bool {
        let lost = self.lost();
        let ids = |entries: &[Sealed]| -> Vec<EntryId> {
            entries.iter().map(|sealed| sealed.entry.id.clone()).collect()
        };
        self.log.get(..lost.len()).is_some_and(|log| ids(log) == ids(lost))
    }
}

// === impl World ===

impl World {
    pub(crate) fn append(&mut self, node: &NodeId, append: Append) {
        let Append { body, verbatim, after, after_stream_seq } = append;
        let body = self.as_written(body);
        self.counter += 1;
        let site = self.agents[node].site().clone();
        let (boot, seq, prev_hash) = match after {
            Some(head) => (head.boot, head.seq + 1, head.hash),
            None => (format!("boot{}", self.counter), 1, String::new()),
        };
        let draft = Draft {
            id: self.next_id(&site),
            site,
            node: node.clone(),
            fabric: self.agents[node].controller.fabric_ref(),
            at: self.clock(node).wall,
            boot,
            seq,
            prev_hash,
            body,
            request_verbatim: verbatim,
        };
        let sealed = Sealed::seal(draft, &self.agents[node].key).expect("the key fits");
        let (life, delay) = (self.agents[node].life, ms(self.rng.u64(1..5)));
        let stream = self.servers[&sealed.entry.site].former.len();
        let (node, after) = (node.clone(), after_stream_seq);
        let letter = Letter { node, life, sealed, after, stream };
        self.at(delay, Happening::Store(Box::new(letter)));
    }

    pub(crate) fn store(&mut self, letter: Letter) {
        let Letter { node, life, sealed, after, stream } = letter;
        let site = self.agents[&node].site().clone();
        let answer = |world: &mut Self, delay: u64, event: Event| {
            let node = node.clone();
            world.at(ms(delay), Happening::Reach { node, life, event });
        };
        let server = self.servers.get_mut(&site).expect("every site has one");
        if !server.up || server.former.len() != stream {
            let failure = AppendFailure::Unreachable("no server".to_owned());
            return answer(self, 1, Event::AppendFailed(failure));
        }
        let length = server.log.len() as u64;
        if length != after && self.mutant != Some(Mutant::NoCompareAndSet) {
            return answer(self, 1, Event::AppendFailed(AppendFailure::Conflict));
        }
        server.log.push(sealed.clone());
        let stream_seq = length + 1;
        self.note(format!("{node} stores {site}:{stream_seq} {}", said(&sealed)));
        self.watch.stored(&sealed);
        self.check_step(&sealed);
        self.heed();
        for other in self.servers.keys().cloned().collect::<Vec<_>>() {
            if other != site {
                let delay = ms(self.rng.u64(2..100));
                self.at(delay, Happening::Mirror { reader: other, origin: site.clone() });
            }
        }
        self.tell_readers(&site, &site);
        let lost = self.rough && self.rng.u8(0..30) == 0;
        let delay = if lost { 4000 } else { self.rng.u64(1..5) };
        let event = match lost {
            true => Event::AppendFailed(AppendFailure::Unknown("no answer".to_owned())),
            false => Event::Appended { sealed, stream_seq },
        };
        answer(self, delay, event);
    }

    pub(crate) fn mirror(&mut self, reader: &SiteId, origin: &SiteId) {
        if !self.joined(reader, origin) {
            return;
        }
        let (held, stream) = (self.servers[origin].log.len(), self.servers[origin].former.len());
        let server = self.servers.get_mut(reader).expect("a known site");
        server.mirrors.insert(origin.clone(), held);
        server.mirrored.insert(origin.clone(), stream);
        self.tell_readers(reader, origin);
    }

    /// The agents of a site read on in a log.
    pub(crate) fn tell_readers(&mut self, site: &SiteId, origin: &SiteId) {
        let of_site = self.agents.values().filter(|a| a.site() == site && a.alive);
        let nodes: Vec<_> = of_site.map(|a| (a.setting.node.id.clone(), a.life)).collect();
        for (node, life) in nodes {
            let delay = ms(self.rng.u64(1..10));
            self.at(delay, Happening::Pull { node, life, origin: origin.clone() });
        }
    }

    pub(crate) fn pull(&mut self, node: &NodeId, origin: &SiteId) {
        let site = self.agents[node].site().clone();
        let server = &self.servers[&site];
        if !server.up || !self.agents[node].connected {
            return;
        }
        let (stream, held) = match site == *origin {
            true => (server.former.len(), server.log.len()),
            false => (
                server.mirrored.get(origin).copied().unwrap_or(0),
                server.mirrors.get(origin).copied().unwrap_or(0),
            ),
        };
        let life = self.agents[node].life;
        self.reads_another(node, origin, (stream, held));
        if !self.lives(node, life) {
            return;
        }
        let begun = self.agents[node].reader.begun;
        let log = self.servers[origin].stream(stream);
        let mut from = self.agents[node].read.get(origin).copied().unwrap_or(0);
        // Delivered again, from anywhere.
        if self.rough && self.rng.u8(0..20) == 0 {
            from = self.rng.usize(0..=from);
        }
        let entries = log.get(from..held).unwrap_or(&[]).to_vec();
        for (sealed, stream_seq) in entries.into_iter().zip(from as u64 + 1..) {
            let sealed = self.as_read(node, sealed);
            self.step(node, Event::Entries(vec![(sealed, stream_seq)]));
            if !self.lives(node, life) || self.agents[node].reader.begun != begun {
                return;
            }
        }
        let agent = self.agent(node);
        let read = agent.read.entry(origin.clone()).or_default();
        *read = held.max(*read);
        if agent.caught_up.insert(origin.clone()) {
            self.step(node, Event::CaughtUp { site: origin.clone() });
        }
    }

    /// An agent finds that a stream was made anew, and reads it from its beginning.
    fn reads_another(&mut self, node: &NodeId, origin: &SiteId, (stream, held): (usize, usize)) {
        let agent = self.agent(node);
        let read = agent.read.get(origin).copied().unwrap_or(0);
        let before = agent.reader.streams.insert(origin.clone(), stream);
        if read == 0 {
            agent.reader.whole.insert(origin.clone());
        }
        let other = match before {
            Some(before) => before != stream,
            None => stream > 0 && held < read,
        };
        if !other {
            return;
        }
        self.begin_stream(node, origin);
        self.note(format!("{node} finds another stream of {origin}"));
        let (site, read, found) = (origin.clone(), read as u64, held as u64);
        self.step(node, Event::LogReplaced { site, read, found });
    }

    fn begin_stream(&mut self, node: &NodeId, origin: &SiteId) {
        let agent = self.agent(node);
        agent.read.insert(origin.clone(), 0);
        agent.caught_up.remove(origin);
        agent.reader.whole.insert(origin.clone());
        agent.reader.begun += 1;
    }

    /// What does not fit may stand behind what an agent missed: it reads all of it, once.
    pub(crate) fn rewind(&mut self, node: &NodeId, site: SiteId) -> Option<Event> {
        if self.servers[&site].former.is_empty() {
            self.watch.complain(format!("{node} finds a gap in a log"));
            return None;
        }
        let agent = self.agent(node);
        if agent.reader.whole.contains(&site) {
            return None;
        }
        let life = agent.life;
        self.begin_stream(node, &site);
        let (node, origin) = (node.clone(), site.clone());
        self.at(ms(5), Happening::Pull { node, life, origin });
        Some(Event::Rewound { site })
    }

    /// The server of a site loses its stream, where its agents have all of it.
    pub(crate) fn lose_stream(&mut self, site: &SiteId) {
        let length = self.servers[site].log.len();
        let all = self.nodes_of(site).iter().all(|node| {
            let agent = &self.agents[node];
            let own = agent.journal.iter().filter(|(sealed, _)| sealed.entry.site == *site);
            agent.alive && agent.disk_works && agent.unsaved.is_empty() && own.count() == length
        });
        if !all || length == 0 || !self.has_streams() {
            return;
        }
        self.note(format!("{site} loses its stream of {length} entries"));
        let server = self.servers.get_mut(site).expect("a known site");
        let log = std::mem::take(&mut server.log);
        server.former.push(log);
        self.watch.streams_lost += 1;
        self.tell_readers(site, site);
        for reader in
            self.servers.keys().filter(|other| *other != site).cloned().collect::<Vec<_>>()
        {
            let delay = ms(self.rng.u64(2..100));
            self.at(delay, Happening::Mirror { reader, origin: site.clone() });
        }
    }

    /// Every site's stream holds what was ever stored in it: a journal may be lost then, too.
    pub(crate) fn has_streams(&self) -> bool {
        self.servers.values().all(Server::holds_what_it_lost)
    }

    /// What a lost stream held is in the log again, in its order.
    pub(crate) fn check_streams(&self) -> Result<(), String> {
        for (site, server) in &self.servers {
            if !server.holds_what_it_lost() {
                let (lost, now) = (server.lost().len(), server.log.len());
                return Err(format!("{site} lost {lost} entries, and has {now} others"));
            }
        }
        Ok(())
    }

    /// An agent stores again what its journal has of its site's log, entry for entry.
    pub(crate) fn refill(&mut self, node: &NodeId, life: u64, from: u64, after: u64) {
        if !self.lives(node, life) {
            return;
        }
        let site = self.agents[node].site().clone();
        let own = self.agents[node].journal.iter().map(|(sealed, _)| sealed);
        let behind = |s: &&Sealed| s.entry.site == site && s.entry.position.seq >= from;
        let mut own: Vec<Sealed> = own.filter(behind).cloned().collect();
        if self.mutant == Some(Mutant::ShortRefill) {
            own.pop();
        }
        let (mut through, mut stream_seq) = (from - 1, after);
        let has_next = own.first().is_some_and(|sealed| sealed.entry.position.seq == from);
        let server = self.servers.get_mut(&site).expect("every site has one");
        for sealed in own {
            let fits = sealed.entry.position.seq == through + 1;
            if !server.up || !fits || server.log.len() as u64 != stream_seq {
                break;
            }
            (through, stream_seq) = (sealed.entry.position.seq, stream_seq + 1);
            server.log.push(sealed);
        }
        self.note(format!("{node} fills the stream of {site} up to {through}"));
        self.tell_readers(&site, &site);
        let others = self.servers.keys().filter(|other| **other != site).cloned();
        for reader in others.collect::<Vec<_>>() {
            let delay = ms(self.rng.u64(2..100));
            self.at(delay, Happening::Mirror { reader, origin: site.clone() });
        }
        if self.mutant == Some(Mutant::ShortRefill) {
            through += 1;
        }
        let why = (!has_next).then(|| format!("its journal has not entry {from}"));
        // The stream may be lost again before its agent hears of it.
        let delay = ms(self.rng.u64(1..50));
        self.reach(node, delay, Event::Refilled { through, stream_seq, why });
    }
}
