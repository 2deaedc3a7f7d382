//! Links that are full: told, kept on record, and otherwise left alone. What a session or an
//! interface says of a link counts as much while it is full as at any other time; where both come
//! together, that is on record too, for whoever has to find out which of them was first.
//!
//! Crash story: gone with the process; the probes say it again.

use std::collections::BTreeMap;

use nett_policy::id::LinkId;
use nett_policy::saturation::Saturated;

use super::Controller;
use super::event::News;
use crate::probe::bfd::Views;

const KIND: &str = "saturation";

// === impl Controller ===

impl Controller {
    /// These links of this node are full now, and no others.
    pub(super) fn saturation(&mut self, links: BTreeMap<LinkId, Saturated>) {
        let before = std::mem::replace(&mut self.saturated, links);
        let begun = self.saturated.iter().filter(|(link, _)| !before.contains_key(*link));
        let begun = begun.map(|(link, how)| format!("link {link}: {how}"));
        let over = before.keys().filter(|link| !self.saturated.contains_key(*link));
        let over = over.map(|link| format!("link {link}: saturated no more"));
        let news = begun.chain(over).map(|text| News { kind: KIND, text });
        let news = news.collect();
        self.record(news);
    }

    /// Paths that are doubted from now on, while their links are full.
    pub(super) fn doubted_when_full(&self, views: &Views) -> Vec<News> {
        let before = self.doing.paths();
        let news = views.iter().filter(|((link, family), view)| {
            let old = before.get(&(link.clone(), *family));
            view.belief.is_doubt()
                && !old.is_some_and(|old| old.belief.is_doubt())
                && self.saturated.contains_key(link)
        });
        let news = news.map(|((link, family), _)| {
            let family = family.name();
            let text = format!("link {link}, {family}: the session broke while it was saturated");
            News { kind: KIND, text }
        });
        news.collect()
    }

    /// One line each, for the node's state.
    pub(super) fn saturation_troubles(&self) -> impl Iterator<Item = String> {
        self.saturated.iter().map(|(link, how)| format!("link {link}: {how}"))
    }
}
