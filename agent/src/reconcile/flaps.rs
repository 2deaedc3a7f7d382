//! What the interfaces of links have done so far, as readbacks show it, for the rule that holds
//! those down which come and go ([`Flaps`]).
//!
//! An interface is lost when it is away or has no carrier, or is another one under the same name.
//! One that somebody has set down is away and not lost. What was not read whole says nothing of an
//! interface that is missing in it.
//!
//! Crash story: a process that begins finds nothing lost, and believes the next two returns.

use std::collections::BTreeMap;

use nett_policy::id::LinkId;
use nett_policy::trust::flaps::{Flaps, Held};
use tokio::time::Instant;

use super::OwnLink;
use crate::controller::event::{HeldDown, News};
use crate::kernel::Interface;
use crate::telemetry::Metrics;
use crate::telemetry::event::{LinkHeld, LinkLost};

/// All links of this node.
#[derive(Debug)]
pub(super) struct Flapping {
    /// From which the times of the rule count.
    begun: Instant,
    links: BTreeMap<LinkId, Line>,
    pub(super) news: Vec<News>,
}

#[derive(Debug, Default)]
struct Line {
    /// The number of the interface, when it was there at the last look.
    index: Option<u32>,
    flaps: Flaps,
}

// === impl Flapping ===

impl Default for Flapping {
    fn default() -> Self {
        Self { begun: Instant::now(), links: BTreeMap::new(), news: Vec::new() }
    }
}

impl Flapping {
    /// Takes in a look at the interface of a link, and says whether the link is held down.
    /// `whole` is false where an interface that is not there may only have been missed.
    pub(super) fn look(
        &mut self,
        own: &OwnLink,
        there: Option<&Interface>,
        whole: bool,
        metrics: &Metrics,
    ) -> Option<Held> {
        let now = self.begun.elapsed();
        let index = there.filter(|there| there.up).map(|there| there.index);
        let link = &own.link;
        let line = self.links.entry(link.clone()).or_insert_with(|| {
            // What is away at the beginning has not been lost by anybody who is asked.
            let mut flaps = Flaps::default();
            if index.is_none() {
                flaps.away();
            }
            Line { index, flaps }
        });
        let torn = there.is_none() && !whole;
        let before = line.flaps.held().is_some();
        line.flaps.tick(now);
        match (line.index, index) {
            (Some(old), Some(new)) if old == new => {}
            (None, None) => {}
            (Some(_), None) if torn => {}
            (Some(_), None) if there.is_some_and(|there| there.shut) => line.flaps.away(),
            (Some(_), None) => {
                metrics.emit(LinkLost { link });
                line.flaps.lost(now);
            }
            (Some(_), Some(_)) => {
                metrics.emit(LinkLost { link });
                line.flaps.lost(now);
                line.flaps.back(now);
            }
            (None, Some(_)) => line.flaps.back(now),
        }
        if !torn {
            line.index = index;
        }
        let held = line.flaps.held();
        if held.is_some() != before {
            metrics.emit(LinkHeld { link, held });
            self.news.push(News { kind: "flaps", text: said(own, held) });
        }
        held
    }

    /// When a link is let go, if it stays up.
    pub(super) fn next(&self) -> Option<Instant> {
        let deadlines = self.links.values().filter_map(|line| line.flaps.deadline());
        deadlines.min().map(|at| self.begun + at)
    }

    /// As the controller hears it now.
    pub(super) fn told(&self, held: Held) -> HeldDown {
        let Held { losses, time, until } = held;
        let left = until.map(|at| at.saturating_sub(self.begun.elapsed()));
        HeldDown { losses, time, left }
    }
}

/// For the audit trail.
fn said(own: &OwnLink, held: Option<Held>) -> String {
    let OwnLink { link, interface, .. } = own;
    match held {
        Some(Held { losses, time, .. }) => format!(
            "link {link}: {interface} was lost {losses} times within a minute; held down until it \
             has stayed up for {} s",
            time.as_secs()
        ),
        None => format!("link {link}: {interface} has stayed up and is held down no more"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use nett_policy::trust::flaps::{FIRST, LOSSES};

    use super::*;

    /// A look that misses the interface says nothing of it, and the time goes on.
    #[tokio::test(start_paused = true)]
    async fn a_link_that_is_let_go_while_a_look_misses_it_is_told() {
        let own = OwnLink {
            link: "osl-svg-1".parse().expect("an id"),
            interface: "wan0".to_owned(),
            peer: "svg".parse().expect("an id"),
            addresses: Vec::new(),
            gateways: Vec::new(),
        };
        let there = |up| {
            let (addresses, tentative) = (BTreeSet::new(), BTreeSet::new());
            Interface { index: 3, up, shut: false, addresses, tentative }
        };
        let metrics = Metrics::register(&prometheus::Registry::new()).expect("new");
        let mut flapping = Flapping::default();
        for _ in 0..LOSSES {
            for up in [true, false, true] {
                flapping.look(&own, Some(&there(up)), true, &metrics);
            }
        }
        assert_eq!(flapping.news.len(), 1);
        tokio::time::advance(FIRST).await;
        assert_eq!(flapping.look(&own, None, false, &metrics), None);
        let told = flapping.news.last().map(|news| news.text.as_str());
        assert!(told.is_some_and(|text| text.ends_with("held down no more")), "{told:?}");
        flapping.look(&own, Some(&there(true)), true, &metrics);
        assert_eq!(flapping.news.len(), 2);
    }
}
