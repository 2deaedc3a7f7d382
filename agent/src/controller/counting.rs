//! What the nft guards count, on this node and on those that report: whether anything went where it
//! must not, and whether what is drained carries nothing any more.
//!
//! Crash story: the kernel counts; after a restart the first look is the baseline, so nothing is
//! alarmed twice.

use std::collections::BTreeMap;
use std::time::Duration;

use nett_policy::fabric::Node;
use nett_policy::id::NodeId;
use nett_policy::log::entry::Object;

use super::Controller;
use super::event::Now;
use crate::api::types::{CountDoc, DrainedDoc, DrainedRow, SeparationDoc};

/// Packets by counter, `CLASS` or `CLASS.SITE`.
pub(super) type Packets = BTreeMap<String, u64>;

/// What one node counted, now and at the look before.
#[derive(Debug, Clone, Default)]
pub(super) struct Counted {
    now: Packets,
    before: Packets,
    at: Duration,
    since: Duration,
    /// Growth of the counters that are to stay at zero, and when it was seen.
    alarms: BTreeMap<String, (u64, Duration)>,
}

/// What must stay at zero.
pub const ZEROS: [&str; 3] = ["hairpin", "leak", "stray"];
/// For how long packets that the guard stopped are named in the node's state.
const ALARM: Duration = Duration::from_secs(60);
/// A drained object carries less than this: what keeps a link alive is more than nothing.
const DRAINED_PPS: u64 = 1;

// === impl Counted ===

impl Counted {
    /// Takes in the counters of one look; what grew that must not is remembered.
    pub(super) fn take(&mut self, packets: Packets, at: Duration) {
        if packets == self.now && !self.now.is_empty() {
            // Told again: the time goes on, the growth is none.
            self.before.clone_from(&packets);
        } else {
            self.before = std::mem::replace(&mut self.now, packets);
        }
        (self.since, self.at) = (self.at, at);
        for class in ZEROS {
            let grown = self.growth(class);
            if grown > 0 && !self.before.is_empty() {
                self.alarms.insert(class.to_owned(), (grown, at));
            }
        }
    }

    fn growth(&self, name: &str) -> u64 {
        let of = |all: &Packets| all.get(name).copied().unwrap_or(0);
        of(&self.now).saturating_sub(of(&self.before))
    }

    fn troubles(&self, now: Duration) -> Vec<String> {
        let fresh = self.alarms.iter().filter(|(_, (_, at))| now.saturating_sub(*at) <= ALARM);
        let line = |(class, (packets, _)): (&String, &(u64, Duration))| {
            format!("separation: the guard stopped {packets} packets ({class})")
        };
        fresh.map(line).collect()
    }

    /// Packets a second over some counters; `None` when none of them has ever moved.
    fn pps(&self, counts: impl Fn(&str) -> bool) -> Option<u64> {
        let names = || self.now.keys().filter(|name| counts(name));
        if names().all(|name| self.now[name] == 0) || self.before.is_empty() {
            return None;
        }
        let packets: u64 = names().map(|name| self.growth(name)).sum();
        let millis = self.at.saturating_sub(self.since).as_millis().max(1);
        Some(packets.saturating_mul(1000) / u64::try_from(millis).unwrap_or(u64::MAX))
    }
}

/// The rule that counts a class, in the words of the table's listing.
fn rule_of(class: &str) -> &'static str {
    match class {
        "local" => "fwd_guard: stays in the site (oifname != @outer accept)",
        "arrived" => "fwd_guard: arrives in the site (iifname @outer, oifname != @outer accept)",
        "steered" => "fwd_guard: service (daddr @vip4 / @vip6 goto out_mark)",
        "intersite" => "fwd_guard: other site (daddr @remote4 / @remote6 goto out_mark)",
        "return" => "fwd_guard: reply to the other site (mark 0x2000/0x3000 accept)",
        "hairpin" => "fwd_guard: came from outside, must not go back (iifname @outer drop)",
        "leak" => "fwd_guard: own site leaves the site (daddr @site4 / @site6 reject)",
        "stray" => "fwd_guard: no reason to leave the site (reject)",
        _ => "of another release",
    }
}

// === impl Controller ===

impl Controller {
    pub(super) fn counted(&mut self, packets: Packets, now: Now) {
        self.counts.take(packets, now.mono);
    }

    pub(super) fn separation_troubles(&self) -> Vec<String> {
        self.counts.troubles(self.last_now)
    }

    pub(super) fn own_counts(&self) -> Packets {
        self.counts.now.clone()
    }

    fn counts_of(&self, node: &NodeId) -> Option<&Counted> {
        if *node == self.setting.node.id {
            return Some(&self.counts).filter(|counts| !counts.now.is_empty());
        }
        let heard = self.peers.reports.get(node)?;
        Some(&heard.counts).filter(|counts| !counts.now.is_empty())
    }

    pub(super) fn separation_doc(&self, now: Now) -> SeparationDoc {
        let (mut rows, mut unheard) = (Vec::new(), Vec::new());
        for node in self.routers() {
            let Some(counts) = self.counts_of(&node.id) else {
                unheard.push(node.id.to_string());
                continue;
            };
            for (name, packets) in &counts.now {
                let (class, peer) = name.split_once('.').unwrap_or((name, ""));
                rows.push(CountDoc {
                    node: node.id.to_string(),
                    class: class.to_owned(),
                    peer: (!peer.is_empty()).then(|| peer.to_owned()),
                    packets: *packets,
                    expected_zero: ZEROS.contains(&class),
                    rule: rule_of(class).to_owned(),
                    age_ms: super::view::ms(now.mono.saturating_sub(counts.at)),
                });
            }
        }
        let holds = !rows.iter().any(|row| row.expected_zero && row.packets > 0);
        SeparationDoc { holds, rows, unheard }
    }

    pub(super) fn drained_doc(&self) -> DrainedDoc {
        let mut rows = Vec::new();
        for site in &self.setting.fabric.sites {
            if !self.intent.is_drained(&Object::Site(site.id.clone())) {
                continue;
            }
            // What others send there is counted where it leaves them.
            let name = format!("steered.{}", site.id);
            let others = self.routers().filter(|n| n.site != site.id);
            let rates = others.filter_map(|n| self.counts_of(&n.id)?.pps(|c| c == name));
            let measured = format!("{name} on the borders of the other sites");
            rows.push(drained_row(format!("site {}", site.id), rates.collect(), measured));
        }
        let drained = self.intent.drained_ways();
        for node in self.routers().filter(|n| drained.nodes.contains(&n.id)) {
            let counts = |name: &str| {
                let class = name.split('.').next().unwrap_or(name);
                ["arrived", "steered", "intersite", "return"].contains(&class)
            };
            let rate = self.counts_of(&node.id).and_then(|c| c.pps(counts));
            let measured = "arrived, steered, intersite and return on the node".to_owned();
            rows.push(drained_row(
                format!("node {}", node.id),
                rate.into_iter().collect(),
                measured,
            ));
        }
        DrainedDoc { rows }
    }

    fn routers(&self) -> impl Iterator<Item = &Node> {
        let nodes = self.setting.fabric.nodes.iter();
        nodes.filter(|n| n.role != nett_policy::fabric::Role::Witness)
    }
}

fn drained_row(object: String, rates: Vec<u64>, measured: String) -> DrainedRow {
    let pps: u64 = rates.iter().sum();
    let state = match (rates.is_empty(), pps < DRAINED_PPS) {
        (true, _) => "unmeasured",
        (false, true) => "drained",
        (false, false) => "carrying",
    };
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
        counted.take(packets(&[("leak", 7), ("local", 1)]), at(1));
        assert!(counted.troubles(at(1)).is_empty(), "it was there before");
        counted.take(packets(&[("leak", 7), ("local", 9)]), at(6));
        assert!(counted.troubles(at(6)).is_empty());
        counted.take(packets(&[("leak", 10), ("local", 9)]), at(11));
        let said = counted.troubles(at(12)).join(" ");
        assert!(said.contains("3 packets (leak)"), "{said}");
        assert!(counted.troubles(at(72)).is_empty(), "it is over");
    }

    #[test]
    fn a_counter_that_never_moved_measures_nothing() {
        let at = Duration::from_secs;
        let mut counted = Counted::default();
        let of = |name: &str| name == "steered.svg";
        counted.take(packets(&[("steered.svg", 0)]), at(1));
        counted.take(packets(&[("steered.svg", 0)]), at(2));
        assert_eq!(counted.pps(of), None);
        counted.take(packets(&[("steered.svg", 500)]), at(4));
        assert_eq!(counted.pps(of), Some(250));
        counted.take(packets(&[("steered.svg", 500)]), at(5));
        assert_eq!(counted.pps(of), Some(0));
    }
}
