//! What became of every probe packet, and the questions the stories ask about it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

/// What became of one packet. Its number is its place in the report.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sent {
    pub(crate) at: u64,
    /// `None` until answered. The first answer counts, later ones are duplicates.
    pub(crate) answer: Option<Answered>,
    pub(crate) duplicates: u32,
    /// Thrown away by the kernel's own race ([`crate::observe::drops`]).
    pub(crate) discarded: bool,
    pub(crate) error: Option<IcmpError>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Answered {
    pub(crate) served_at: u64,
    pub(crate) got_at: u64,
    /// Index into the report's server names.
    pub(crate) server: usize,
}

/// An error instead of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IcmpError {
    pub at: u64,
    /// The errno the kernel made of it, for example EHOSTUNREACH.
    pub errno: i32,
    /// The router that sent it; `None` for an error of the own host.
    pub from: Option<IpAddr>,
}

/// Which packets a server answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    pub answers: usize,
    /// When the server gave its first and its last answer.
    pub first: u64,
    pub last: u64,
}

/// The record of a probe, or of a part of it.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub(crate) packets: Vec<Sent>,
    pub(crate) servers: Vec<String>,
}

// === impl Report ===

impl Report {
    /// Several records as one, in the order of sending.
    pub fn joined(reports: impl IntoIterator<Item = Self>) -> Self {
        let mut all = Self::default();
        for report in reports {
            let known = report.servers.iter().map(|name| all.server(name));
            let places: Vec<usize> = known.collect();
            all.packets.extend(report.packets.into_iter().map(|mut p| {
                p.answer = p.answer.map(|a| Answered { server: places[a.server], ..a });
                p
            }));
        }
        all.packets.sort_by_key(|p| p.at);
        all
    }

    /// The place of a server's name, which is added when it is new.
    pub(crate) fn server(&mut self, name: &str) -> usize {
        let known = self.servers.iter().position(|s| s == name);
        known.unwrap_or_else(|| {
            self.servers.push(name.to_owned());
            self.servers.len() - 1
        })
    }

    /// The packets sent in `[from, to)`.
    pub fn between(&self, from: u64, to: u64) -> Self {
        let inside = |p: &&Sent| p.at >= from && p.at < to;
        Self {
            packets: self.packets.iter().filter(inside).cloned().collect(),
            servers: self.servers.clone(),
        }
    }

    /// The packets sent at or after `from`.
    pub fn since(&self, from: u64) -> Self {
        self.between(from, u64::MAX)
    }

    pub fn sent(&self) -> usize {
        self.packets.len()
    }

    pub fn received(&self) -> usize {
        self.packets.iter().filter(|p| p.answer.is_some()).count()
    }

    /// Sent and never answered; those with an ICMP error are among them, those that Linux discards
    /// whenever it replaces a group are not.
    pub fn lost(&self) -> usize {
        self.sent() - self.received() - self.discarded()
    }

    fn discarded(&self) -> usize {
        self.packets.iter().filter(|p| p.discarded && p.answer.is_none()).count()
    }

    /// When the last one that counts as lost was sent.
    pub fn last_lost(&self) -> Option<u64> {
        let is_lost = |p: &&Sent| p.answer.is_none() && !p.discarded;
        self.packets.iter().rev().find(is_lost).map(|p| p.at)
    }

    pub fn duplicates(&self) -> u32 {
        self.packets.iter().map(|p| p.duplicates).sum()
    }

    /// The ICMP errors in order of sending.
    pub fn errors(&self) -> impl Iterator<Item = &IcmpError> {
        self.packets.iter().filter_map(|p| p.error.as_ref())
    }

    /// Per server that answered: how often, first and last time.
    pub fn served(&self) -> BTreeMap<&str, Served> {
        let mut all: BTreeMap<&str, Served> = BTreeMap::new();
        for answer in self.packets.iter().filter_map(|p| p.answer) {
            let at = answer.served_at;
            let name = self.servers[answer.server].as_str();
            all.entry(name)
                .and_modify(|s| {
                    s.answers += 1;
                    s.first = s.first.min(at);
                    s.last = s.last.max(at);
                })
                .or_insert(Served { answers: 1, first: at, last: at });
        }
        all
    }

    /// Who answered each of a probe's flows, which send in turn, since some moment.
    pub fn by_flow(&self, flows: usize, since: u64) -> Vec<BTreeSet<&str>> {
        let mut all = vec![BTreeSet::new(); flows];
        for (packet, flow) in self.packets.iter().zip((0..flows).cycle()) {
            if let Some(answer) = packet.answer.filter(|_| packet.at >= since) {
                all[flow].insert(self.servers[answer.server].as_str());
            }
        }
        all
    }

    pub fn answers_of(&self, server: &str) -> usize {
        self.served().get(server).map_or(0, |s| s.answers)
    }

    /// For how long both servers gave answers: from the later first to the earlier last answer;
    /// zero when one had ended before the other began, or one never answered.
    pub fn overlap(&self, one: &str, other: &str) -> Duration {
        let served = self.served();
        let (Some(one), Some(other)) = (served.get(one), served.get(other)) else {
            return Duration::ZERO;
        };
        let begun = one.first.max(other.first);
        Duration::from_nanos(one.last.min(other.last).saturating_sub(begun))
    }

    /// The longest time between the sendings of two answered packets with only unanswered ones
    /// between them: how long the service was away. Zero when nothing was lost in between.
    pub fn longest_outage(&self) -> Duration {
        let mut longest = 0;
        let mut last_good = None;
        let mut missed = false;
        for packet in &self.packets {
            if packet.answer.is_none() {
                missed = true;
                continue;
            }
            if let (true, Some(good)) = (missed, last_good) {
                longest = longest.max(packet.at - good);
            }
            (last_good, missed) = (Some(packet.at), false);
        }
        Duration::from_nanos(longest)
    }

    /// The round-trip time that `share` (0 to 1) of the answers did not exceed.
    pub fn round_trip(&self, share: f64) -> Option<Duration> {
        let answered = |p: &Sent| p.answer.map(|a| a.got_at.saturating_sub(p.at));
        let mut times: Vec<u64> = self.packets.iter().filter_map(answered).collect();
        times.sort_unstable();
        let last = times.len().checked_sub(1)?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a share of a count of packets"
        )]
        let at = (last as f64 * share.clamp(0.0, 1.0)).round() as usize;
        times.get(at).copied().map(Duration::from_nanos)
    }

    /// `12000 sent, 0 lost, 0 doubled, osl 8000 svg 4000`.
    pub fn summary(&self) -> String {
        let mut text =
            format!("{} sent, {} lost, {} doubled", self.sent(), self.lost(), self.duplicates());
        let discarded = self.discarded();
        if discarded > 0 {
            text += &format!(", {discarded} discarded by Linux");
        }
        let errors = self.errors().count();
        if errors > 0 {
            text += &format!(", {errors} errors");
        }
        for (name, served) in self.served() {
            text += &format!(", {name} {}", served.answers);
        }
        text + &self.holes()
    }

    /// The first ten runs of packets without an answer: when (since the first packet, and seconds
    /// since the Unix epoch), how many, and who answered before and after, as
    /// ` [+1.204 s, at 1764000000.123456: 7 lost in 6.1 ms, osl before, svg after]`.
    fn holes(&self) -> String {
        let answered = |p: &Sent| p.answer.map(|a| self.servers[a.server].as_str());
        let runs: Vec<_> =
            self.packets.chunk_by(|a, b| a.answer.is_some() == b.answer.is_some()).collect();
        let first = self.packets.first().map_or(0, |p| p.at);
        let ms = |nanos: u64| nanos as f64 / 1e6;
        let (mut text, mut told) = (String::new(), 0);
        for (i, run) in runs.iter().enumerate() {
            let (Some(begin), Some(end)) = (run.first(), run.last()) else { continue };
            if begin.answer.is_some() || told == 10 {
                continue;
            }
            let side = |at: Option<usize>, pick: fn(&[Sent]) -> Option<&Sent>| {
                let beside = at.and_then(|at| runs.get(at));
                beside.and_then(|run| pick(run)).and_then(answered).unwrap_or("nobody").to_owned()
            };
            text += &format!(
                " [+{:.3} s, at {}.{:06}: {} lost in {:.1} ms, {} before, {} after]",
                ms(begin.at - first) / 1e3,
                begin.at / 1_000_000_000,
                begin.at % 1_000_000_000 / 1000,
                run.len(),
                ms(end.at - begin.at),
                side(i.checked_sub(1), <[Sent]>::last),
                side(Some(i + 1), <[Sent]>::first),
            );
            told += 1;
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(at: u64, server: Option<usize>) -> Sent {
        Sent {
            at,
            answer: server.map(|server| Answered { served_at: at + 1, got_at: at + 2, server }),
            ..Sent::default()
        }
    }

    fn report(servers: &[Option<usize>]) -> Report {
        let packets = servers.iter().zip(0..);
        Report {
            packets: packets.map(|(s, i)| packet(i * 10, *s)).collect(),
            servers: vec!["osl".into(), "svg".into()],
        }
    }

    #[test]
    fn overlap_is_the_time_in_which_both_answered() {
        let clean = report(&[Some(0), Some(0), Some(1), Some(1)]);
        assert_eq!(clean.overlap("osl", "svg"), Duration::ZERO);
        let mixed = report(&[Some(0), Some(1), Some(0), Some(1)]);
        assert_eq!(mixed.overlap("osl", "svg"), Duration::from_nanos(10));
        assert_eq!(mixed.overlap("osl", "ber"), Duration::ZERO);
    }

    #[test]
    fn an_outage_lasts_from_the_last_good_packet_to_the_next() {
        let gap = report(&[Some(0), None, None, Some(1), Some(1)]);
        assert_eq!(gap.longest_outage(), Duration::from_nanos(30));
        assert_eq!((gap.sent(), gap.lost()), (5, 2));
        assert_eq!(report(&[Some(0); 3]).longest_outage(), Duration::ZERO);
    }

    #[test]
    fn joined_records_keep_names_and_order() {
        let mut other = report(&[Some(0)]);
        other.servers = vec!["svg".into()];
        let joined = Report::joined([report(&[Some(0), Some(0)]), other]);
        let expected = "3 sent, 0 lost, 0 doubled, osl 2, svg 1";
        assert_eq!(joined.summary(), expected);
        assert!(joined.packets.is_sorted_by_key(|p| p.at));
    }

    #[test]
    fn parts_are_cut_by_the_time_of_sending() {
        let all = report(&[Some(0), Some(0), Some(1), None]);
        assert_eq!(all.between(10, 30).summary(), "2 sent, 0 lost, 0 doubled, osl 1, svg 1");
        assert_eq!(all.since(30).lost(), 1);
        assert_eq!(all.round_trip(0.5), Some(Duration::from_nanos(2)));
    }
}
