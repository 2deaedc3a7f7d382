//! What the nft guards count, on this node and on those that report: whether anything went where it
//! must not, and whether what is drained carries nothing any more.
//!
//! Crash story: the kernel counts; after a restart the first look is the baseline, so nothing is
//! alarmed twice.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use nett_policy::fabric::{Node, Role};
use nett_policy::id::NodeId;
use nett_policy::log::entry::Object;
use nett_policy::safety::{Flow, Flows};

use super::Controller;
use super::event::Now;
use crate::api::types::{CountDoc, DrainedDoc, DrainedRow, SeparationDoc, Stamp};

/// Packets by counter, `CLASS` or `CLASS.SITE`.
pub(super) type Packets = BTreeMap<String, u64>;

/// What one node counted, at its last looks.
#[derive(Debug, Clone, Default)]
pub(super) struct Counted {
    /// Oldest first; the oldest is as old as rates are measured over.
    looks: VecDeque<(Duration, Packets)>,
    /// The bytes at the same times.
    bytes: VecDeque<(Duration, Packets)>,
    /// When the first look was: of what grew before it nothing is known.
    begun: Option<Duration>,
    /// Growth of the counters that are to stay at zero, and when it was seen; oldest first.
    broken: BTreeMap<&'static str, VecDeque<(Duration, u64)>>,
}

/// What must stay at zero.
pub const ZEROS: [&str; 3] = ["hairpin", "leak", "stray"];
/// How many times of growth are remembered of a counter; older ones count as the oldest of these.
const REMEMBERED: usize = 100;
/// For how long packets that the guard stopped are named in the node's state.
const ALARM: Duration = Duration::from_secs(60);
/// Over how long a rate is measured: longer than nodes take from one count to the next, or silence
/// between two counts would look like none.
const WINDOW: Duration = Duration::from_secs(10);
/// A drained object carries less than this: what keeps a link alive is more than nothing.
const DRAINED_PPS: u64 = 1;

// === impl Counted ===

impl Counted {
    /// Takes in the counters of one look; what grew that must not is remembered. Nodes report more
    /// often than they count, so the same counters may come twice.
    pub(super) fn take(&mut self, packets: Packets, bytes: Packets, at: Duration) {
        if let Some((_, before)) = self.looks.back() {
            let grown = ZEROS.map(|class| (class, grown(before, &packets, class)));
            for (class, packets) in grown.into_iter().filter(|(_, packets)| *packets > 0) {
                self.broke(class, packets, at);
            }
        }
        self.begun.get_or_insert(at);
        remember(&mut self.looks, packets, at);
        remember(&mut self.bytes, bytes, at);
    }

    fn broke(&mut self, class: &'static str, packets: u64, at: Duration) {
        let times = self.broken.entry(class).or_default();
        times.push_back((at, packets));
        if times.len() > REMEMBERED
            && let Some((_, older)) = times.pop_front()
            && let Some((_, oldest)) = times.front_mut()
        {
            *oldest = oldest.saturating_add(older);
        }
    }

    /// What the counters that are to stay at zero have grown by since a moment; `None` when nobody
    /// looked at them then.
    fn broken_since(&self, moment: Duration) -> Option<BTreeMap<&'static str, u64>> {
        self.begun.filter(|begun| *begun <= moment)?;
        let of = |class: &str| self.broken.get(class).into_iter().flatten();
        let grown = |class| of(class).filter(|(at, _)| *at >= moment).map(|(_, n)| n).sum();
        Some(ZEROS.map(|class| (class, grown(class))).into())
    }

    fn now(&self) -> Option<&(Duration, Packets)> {
        self.looks.back()
    }

    fn troubles(&self, now: Duration) -> Vec<String> {
        let last = self.broken.iter().filter_map(|(class, times)| Some((class, times.back()?)));
        let fresh = last.filter(|(_, (at, _))| now.saturating_sub(*at) <= ALARM);
        let line = |(class, (_, packets)): (&&str, &(Duration, u64))| {
            format!("separation: the guard stopped {packets} packets ({class})")
        };
        fresh.map(line).collect()
    }

    /// Bits per second over one counter; `None` when it was not looked at for long enough.
    fn bits(&self, name: &str) -> Option<u64> {
        let ((since, before), (at, now)) = (self.bytes.front()?, self.bytes.back()?);
        let time = at.checked_sub(*since).filter(|time| *time >= WINDOW)?;
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Some(grown(before, now, name).saturating_mul(8000) / millis)
    }

    /// How fast some counters grow; `None` when they were not looked at for long enough.
    fn rate(&self, counts: impl Fn(&str) -> bool) -> Option<Rate> {
        let ((since, before), (at, now)) = (self.looks.front()?, self.now()?);
        let time = at.checked_sub(*since).filter(|time| *time >= WINDOW)?;
        let names = || now.keys().filter(|name| counts(name));
        let moved = names().any(|name| now[name] > 0);
        let packets = names().fold(0u64, |sum, name| sum.saturating_add(grown(before, now, name)));
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Some(Rate { pps: packets.saturating_mul(1000).div_ceil(millis), moved })
    }
}

/// Not more than one look a second, and none much older than rates are measured over, so that their
/// number is bounded.
fn remember(looks: &mut VecDeque<(Duration, Packets)>, counts: Packets, at: Duration) {
    let close = looks.back().is_some_and(|(last, _)| at < *last + Duration::from_secs(1));
    if close && looks.len() > 1 {
        looks.pop_back();
    }
    if !counts.is_empty() {
        looks.push_back((at, counts));
    }
    while looks.get(1).is_some_and(|(second, _)| *second + WINDOW <= at) {
        looks.pop_front();
    }
}

/// How fast counters grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Rate {
    pps: u64,
    /// One of them is above zero: they do count what is looked for.
    moved: bool,
}

impl Rate {
    fn and(self, other: Self) -> Self {
        Self { pps: self.pps.saturating_add(other.pps), moved: self.moved || other.moved }
    }
}

/// How much a counter grew; one that is lower than before has begun again from zero.
fn grown(before: &Packets, now: &Packets, name: &str) -> u64 {
    let of = |all: &Packets| all.get(name).copied().unwrap_or(0);
    let (old, new) = (of(before), of(now));
    new.checked_sub(old).unwrap_or(new)
}

/// The rule that counts a class, in the words of the table's listing.
fn rule_of(class: &str) -> &'static str {
    match class {
        "local" => "fwd_guard: stays in the site (oifname != @outer accept)",
        "arrived" => "fwd_guard: arrives in the site (iifname @outer, oifname != @outer accept)",
        "steered" => "fwd_guard: service (daddr @vip4 / @vip6 goto out_mark)",
        "intersite" => "fwd_guard: other site (daddr @remote4 / @remote6 goto out_mark)",
        "return" => "fwd_guard: reply to the other site (mark 0x2000/0x3000 accept)",
        "marked" => "fwd_mark: failover traffic (@failover_to / @failover_from goto failover_mark)",
        "transit" => "fwd_guard: between two other sites (iifname . oifname @through jump transit)",
        "spent" => "carry: too few hops left (ip ttl, ip6 hoplimit <= 32 reject)",
        "hairpin" => "fwd_guard: came from outside, must not go back (iifname @outer drop)",
        "leak" => "fwd_guard: own site, or a service by no way of ours (@site4, no_way reject)",
        "stray" => "fwd_guard: no reason to leave the site (reject)",
        "refused" => "pre_drain: nobody serves it here (@drained, @shut_in, @shut_out reject)",
        _ => "of another release",
    }
}

// === impl Controller ===

impl Controller {
    pub(super) fn counted(&mut self, packets: Packets, bytes: Packets, now: Now) {
        self.counts.take(packets, bytes, now.mono);
    }

    /// What crosses between the sites, and what each delivers inside; of those sites whose routers
    /// have all counted for long enough, apart from those that are away.
    pub(super) fn flows(&self, away: &BTreeSet<NodeId>) -> Flows {
        let mut flows = Flows::new();
        for site in self.setting.fabric.sites.iter().map(|s| &s.id) {
            let there = |node: &&Node| node.site == *site && !away.contains(&node.id);
            let nodes: Vec<&Node> = self.routers().filter(there).collect();
            if !nodes.iter().any(|n| n.role == Role::Border) {
                continue;
            }
            let sum = |name: &str| -> Option<u64> {
                nodes.iter().map(|node| self.counts_of(&node.id)?.bits(name)).sum()
            };
            let Some(inside) = sum("local") else { continue };
            let own = Flow { steered: inside, ..Flow::default() };
            flows.insert((site.clone(), site.clone()), own);
            for peer in self.setting.fabric.other_sites(site).map(|s| &s.id) {
                let of = |class: &str| sum(&format!("{class}.{peer}")).unwrap_or(0);
                let (steered, replies) = (of("steered"), of("return"));
                let other = of("intersite").saturating_add(of("transit"));
                let flow = Flow { steered, replies, other };
                flows.insert((site.clone(), peer.clone()), flow);
            }
        }
        flows
    }

    pub(super) fn own_bytes(&self) -> Packets {
        self.counts.bytes.back().map(|(_, bytes)| bytes.clone()).unwrap_or_default()
    }

    pub(super) fn separation_troubles(&self) -> Vec<String> {
        self.counts.troubles(self.last_now)
    }

    pub(super) fn own_counts(&self) -> Packets {
        self.counts.now().map(|(_, packets)| packets.clone()).unwrap_or_default()
    }

    fn counts_of(&self, node: &NodeId) -> Option<&Counted> {
        if *node == self.setting.node.id {
            return Some(&self.counts);
        }
        let heard = self.peers.reports.get(node)?;
        let fresh = self.last_now.saturating_sub(heard.at) <= super::SILENCE;
        Some(&heard.counts).filter(|_| fresh)
    }

    /// With `since`, what the counters that are to stay at zero have grown by from then on.
    pub(super) fn separation_doc(&self, since: Option<Stamp>, now: Now) -> SeparationDoc {
        let (mut rows, mut unheard) = (Vec::new(), Vec::new());
        let moment = since.map(|since| {
            let ago = Duration::from_millis(now.wall.0.saturating_sub(since.ms()));
            now.mono.saturating_sub(ago)
        });
        for node in self.routers() {
            let Some((at, packets)) = self.counts_of(&node.id).and_then(Counted::now) else {
                unheard.push(node.id.to_string());
                continue;
            };
            let grown = moment.map(|moment| self.counts_of(&node.id)?.broken_since(moment));
            let packets = match grown {
                None => packets.clone(),
                Some(Some(grown)) => grown.into_iter().map(|(c, n)| (c.to_owned(), n)).collect(),
                Some(None) => {
                    unheard.push(node.id.to_string());
                    continue;
                }
            };
            for (name, packets) in &packets {
                let (class, peer) = name.split_once('.').unwrap_or((name, ""));
                rows.push(CountDoc {
                    node: node.id.to_string(),
                    class: class.to_owned(),
                    peer: (!peer.is_empty()).then(|| peer.to_owned()),
                    packets: *packets,
                    expected_zero: ZEROS.contains(&class),
                    rule: rule_of(class).to_owned(),
                    age_ms: super::view::ms(now.mono.saturating_sub(*at)),
                });
            }
        }
        let holds =
            unheard.is_empty() && !rows.iter().any(|row| row.expected_zero && row.packets > 0);
        SeparationDoc { holds, since, rows, unheard }
    }

    pub(super) fn drained_doc(&self) -> DrainedDoc {
        let mut rows = Vec::new();
        for site in &self.setting.fabric.sites {
            if !self.intent.is_drained(&Object::Site(site.id.clone())) {
                continue;
            }
            // What others send there is counted where it leaves them.
            let name = format!("steered.{}", site.id);
            let through = format!("transit.{}", site.id);
            let mut ends = self.setting.fabric.transits.iter().flat_map(|t| &t.between);
            let may_come_through = ends.any(|end| *end == site.id);
            let others = self.routers().filter(|n| n.site != site.id);
            let borders = others.filter(|n| n.role == Role::Border);
            let rates = borders.map(|n| self.counts_of(&n.id)?.rate(|c| c == name || c == through));
            let rates: Option<Vec<Rate>> = rates.collect();
            let rate = rates.map(|all| all.into_iter().fold(Rate::default(), Rate::and));
            let measured = match may_come_through {
                true => format!("{name} and {through} on the borders of the other sites"),
                false => format!("{name} on the borders of the other sites"),
            };
            rows.push(drained_row(format!("site {}", site.id), rate, measured));
        }
        let drained = self.intent.drained_ways();
        for node in self.routers().filter(|n| drained.nodes.contains(&n.id)) {
            let counts = |name: &str| {
                let class = name.split('.').next().unwrap_or(name);
                ["arrived", "steered", "intersite", "return", "transit"].contains(&class)
            };
            let rate = self.counts_of(&node.id).and_then(|c| c.rate(counts));
            let through = !self.setting.fabric.transits.is_empty();
            let measured = match through {
                true => "arrived, steered, intersite, return and transit on the node",
                false => "arrived, steered, intersite and return on the node",
            };
            let measured = measured.to_owned();
            rows.push(drained_row(format!("node {}", node.id), rate, measured));
        }
        rows.extend(self.kept_rows());
        DrainedDoc { rows }
    }

    fn routers(&self) -> impl Iterator<Item = &Node> {
        let nodes = self.setting.fabric.nodes.iter();
        nodes.filter(|n| n.role != Role::Witness)
    }
}

/// `rate` is `None` where one of those who count it is not heard, or has just begun.
fn drained_row(object: String, rate: Option<Rate>, measured: String) -> DrainedRow {
    let rate = rate.filter(|rate| rate.moved);
    let state = match rate {
        None => "unmeasured",
        Some(rate) if rate.pps < DRAINED_PPS => "drained",
        Some(_) => "carrying",
    };
    let pps = rate.map_or(0, |rate| rate.pps);
    DrainedRow { object, state: state.to_owned(), pps, measured }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packets(all: &[(&str, u64)]) -> Packets {
        all.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect()
    }

    #[test]
    fn only_what_grows_while_somebody_looks_is_alarmed() {
        let at = Duration::from_secs;
        let mut counted = Counted::default();
        let none = Packets::new;
        counted.take(packets(&[("leak", 7), ("local", 1)]), none(), at(1));
        assert!(counted.troubles(at(1)).is_empty(), "it was there before");
        counted.take(packets(&[("leak", 7), ("local", 9)]), none(), at(6));
        assert!(counted.troubles(at(6)).is_empty());
        counted.take(packets(&[("leak", 10), ("local", 9)]), none(), at(11));
        let said = counted.troubles(at(12)).join(" ");
        assert!(said.contains("3 packets (leak)"), "{said}");
        assert!(counted.troubles(at(72)).is_empty(), "it is over");
    }

    #[test]
    fn what_was_stopped_long_ago_does_not_count_for_ever() {
        let at = Duration::from_secs;
        let mut counted = Counted::default();
        for (second, stray) in [(1, 2), (6, 2), (11, 5), (16, 5)] {
            counted.take(packets(&[("stray", stray)]), Packets::new(), at(second));
        }
        let stray = |moment| counted.broken_since(at(moment)).map(|all| all["stray"]);
        assert_eq!([stray(0), stray(1), stray(11), stray(12)], [None, Some(3), Some(3), Some(0)]);
        let many = u64::try_from(REMEMBERED).expect("few") + 50;
        for n in 1..=many {
            counted.take(packets(&[("stray", 5 + n)]), Packets::new(), at(20 + n));
        }
        assert_eq!(counted.broken["stray"].len(), REMEMBERED);
        assert_eq!(counted.broken_since(at(1)).map(|all| all["stray"]), Some(3 + many));
    }

    #[test]
    fn a_counter_that_never_moved_measures_nothing() {
        let at = Duration::from_secs;
        let mut counted = Counted::default();
        let of = |name: &str| name == "steered.svg";
        counted.take(packets(&[("steered.svg", 0)]), Packets::new(), at(1));
        counted.take(packets(&[("steered.svg", 0)]), Packets::new(), at(11));
        assert_eq!(counted.rate(of).map(|r| r.moved), Some(false));
        counted.take(packets(&[("steered.svg", 5000)]), Packets::new(), at(21));
        assert_eq!(counted.rate(of).map(|r| r.pps), Some(500));
        counted.take(packets(&[("steered.svg", 5000)]), Packets::new(), at(31));
        assert_eq!(counted.rate(of), Some(Rate { pps: 0, moved: true }));
    }

    #[test]
    fn bits_are_measured_over_a_whole_window() {
        let at = Duration::from_secs;
        let mut counted = Counted::default();
        counted.take(Packets::new(), packets(&[("steered.svg", 1_000)]), at(1));
        counted.take(Packets::new(), packets(&[("steered.svg", 6_000)]), at(6));
        assert_eq!(counted.bits("steered.svg"), None, "too short");
        counted.take(Packets::new(), packets(&[("steered.svg", 11_000)]), at(11));
        assert_eq!(counted.bits("steered.svg"), Some(8_000));
        assert_eq!(counted.bits("steered.ber"), Some(0), "a counter that is not there is still");
    }

    /// Reports every 2 s repeat what was counted every 5 s: that is not silence.
    #[test]
    fn what_is_told_more_often_than_it_is_counted_is_not_drained() {
        let at = Duration::from_secs;
        let mut counted = Counted::default();
        let of = |name: &str| name == "steered.svg";
        for second in 0..60 {
            let told = second - second % 2;
            let packets = packets(&[("steered.svg", 7 + told / 5 * 500)]);
            counted.take(packets, Packets::new(), at(second));
            if second >= 12 {
                let Rate { pps, .. } = counted.rate(of).expect("long enough");
                assert!((30..=170).contains(&pps), "{pps} at {second}");
            }
        }
        assert!(counted.looks.len() < 20, "{}", counted.looks.len());
    }
}
