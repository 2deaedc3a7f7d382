//! `[[safety]]` and `[[freeze]]` as written: which one thing each rule says.
//!
//! Pure; what the rules name is looked up in [`super::fabric_check`].

use super::code::Code;
use super::form;
use super::read::{At, Reader, Section};
use super::tree::Value;
use crate::fabric::{Freeze, Limit, Part};
use crate::id::{RuleId, Selector, SiteId, WallMs};

#[derive(Debug)]
pub(super) struct SafetyDoc {
    pub(super) id: At<RuleId>,
    pub(super) owner: String,
    /// `None` when it could not be read.
    pub(super) limit: Option<Limit>,
    /// The least number of parts, where it is a rule about so many.
    pub(super) least: Option<At<u32>>,
    pub(super) of: Vec<At<Part>>,
}

/// The keys of which a rule has one.
const KINDS: [&str; 7] = [
    "at_least",
    "drained_share",
    "tasks_at_once",
    "link_load",
    "site_load",
    "risk_groups",
    "switch",
];

pub(super) fn safety(r: &Reader<'_>, s: &Section<'_, '_>) -> Option<SafetyDoc> {
    let id = s.required("id").and_then(|v| r.parse_text(v, form::id));
    let owner = s.required("owner").and_then(|v| r.parse_text(v, form::words));
    let given: Vec<(&str, &Value)> =
        KINDS.iter().filter_map(|key| Some((*key, s.optional(key)?))).collect();
    let mut found = Found { least: None, of: Vec::new() };
    let limit = match given.as_slice() {
        [(kind, value)] => found.limit(r, s, kind, value),
        other => {
            let said: Vec<String> = other.iter().map(|(key, _)| format!("`{key}`")).collect();
            let message = match said.as_slice() {
                [] => "this safety rule says nothing".to_owned(),
                said => format!("this safety rule says several things: {}", said.join(", ")),
            };
            let words = KINDS.map(|key| format!("`{key}`")).join(", ");
            let hint = format!("a rule has one of {words}");
            let at = other.get(1).map_or(s.span, |(key, _)| s.span_of(key));
            r.report(r.mistake(Code::SafetyKind, at, message).hint(hint));
            for key in ["of", "services", "except", "local_share"] {
                s.optional(key);
            }
            None
        }
    };
    let Found { least, of } = found;
    let owner = owner.map(|o| o.value).unwrap_or_default();
    Some(SafetyDoc { id: id?, owner, limit, least, of })
}

struct Found {
    least: Option<At<u32>>,
    of: Vec<At<Part>>,
}

impl Found {
    fn limit(
        &mut self,
        r: &Reader<'_>,
        s: &Section<'_, '_>,
        kind: &str,
        value: &Value,
    ) -> Option<Limit> {
        match kind {
            "at_least" => {
                self.least = r.integer(value, 1..=65_535);
                let of = s.required("of");
                self.of = of.map(|v| r.items(v, |v| r.parse_text(v, form::id))).unwrap_or_default();
                let of = self.of.iter().map(|part| part.value.clone()).collect();
                Some(Limit::AtLeast { least: self.least?.value, of })
            }
            "drained_share" => {
                let percent = r.integer(value, 0..=99_u8);
                let of = self.sites(r, s);
                Some(Limit::DrainedShare { percent: percent?.value, of })
            }
            "tasks_at_once" => {
                let most = r.integer(value, 1..=65_535);
                let services = selectors(r, s);
                Some(Limit::TasksAtOnce { most: most?.value, services })
            }
            "link_load" => {
                let percent = r.integer(value, 1..=1000_u32);
                let share = s.optional("local_share").and_then(|v| r.integer(v, 0..=100_u8));
                let local_share = share.map_or(100, |share| share.value);
                Some(Limit::LinkLoad { percent: percent?.value, local_share })
            }
            "site_load" => {
                let percent = r.integer(value, 1..=1000_u32);
                let of = self.sites(r, s);
                Some(Limit::SiteLoad { percent: percent?.value, of })
            }
            "risk_groups" => {
                let least = r.integer(value, 1..=127_u32);
                let of = self.sites(r, s);
                Some(Limit::RiskGroups { least: least?.value, of })
            }
            _ => {
                let fact = r.parse_text(value, form::name);
                let (services, except) = (selectors(r, s), verbs(r, s));
                Some(Limit::Switch { fact: fact?.value, services, except })
            }
        }
    }

    /// The sites that a rule is about; none given are all.
    fn sites(&mut self, r: &Reader<'_>, s: &Section<'_, '_>) -> Vec<SiteId> {
        let of = s.optional("of");
        let sites: Vec<At<SiteId>> =
            of.map(|v| r.items(v, |v| r.parse_text(v, form::id))).unwrap_or_default();
        let part = |at: &At<SiteId>| At { value: Part::Site(at.value.clone()), span: at.span };
        self.of = sites.iter().map(part).collect();
        sites.into_iter().map(|at| at.value).collect()
    }
}

fn selectors(r: &Reader<'_>, s: &Section<'_, '_>) -> Vec<Selector> {
    let services = s.optional("services");
    let services = services.map(|v| r.items(v, |v| r.parse_text(v, form::selector)));
    services.into_iter().flatten().map(|s| s.value).collect()
}

fn verbs(r: &Reader<'_>, s: &Section<'_, '_>) -> Vec<String> {
    let except = s.optional("except").map(|v| r.items(v, |v| r.choice(v, VERBS)));
    except.into_iter().flatten().map(|v| v.value.to_owned()).collect()
}

const VERBS: &[(&str, &str)] = &[
    ("failover", "failover"),
    ("failback", "failback"),
    ("steer", "steer"),
    ("drain", "drain"),
    ("undrain", "undrain"),
    ("evacuate", "evacuate"),
    ("hold", "hold"),
    ("release", "release"),
    ("revert", "revert"),
    ("resolve", "resolve"),
];

pub(super) fn freeze(r: &Reader<'_>, s: &Section<'_, '_>) -> Option<Freeze> {
    let from = s.required("from").and_then(|v| r.parse_text(v, form::time));
    let to = s.required("to").and_then(|v| r.parse_text(v, form::time));
    let (services, except) = (selectors(r, s), verbs(r, s));
    let owner = s.optional("owner").and_then(|v| r.parse_text(v, form::words));
    let (from, to) = (from?, to?);
    if to.value <= from.value {
        let message = "this freeze ends before it begins";
        r.report(
            r.mistake(Code::FreezeEmpty, to.span, message)
                .related(r.place(from.span), "it begins here"),
        );
    }
    let ms = |at: &At<i64>| WallMs(u64::try_from(at.value).unwrap_or(0).saturating_mul(1000));
    Some(Freeze { from: ms(&from), to: ms(&to), services, except, owner: owner.map(|o| o.value) })
}
