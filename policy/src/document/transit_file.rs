//! `[[transit]]` as written, and what must hold between it and the links.
//!
//! Pure. A pair of sites has one way through another site at most: which of two is better depends
//! on links that neither end of the pair sees, and two nodes that disagree about it are what loops
//! are made of.

use std::collections::BTreeMap;

use super::code::Code;
use super::diagnostic::Span;
use super::fabric_check::{has_site, unknown_site};
use super::fabric_file::FabricDoc;
use super::form;
use super::link_file::EndDoc;
use super::read::{At, Reader, Section};
use crate::fabric::{Family, Transit};
use crate::id::SiteId;

#[derive(Debug)]
pub(super) struct TransitDoc {
    pub(super) via: At<SiteId>,
    pub(super) between: Vec<At<SiteId>>,
    pub(super) between_span: Span,
}

pub(super) fn transit(r: &Reader<'_>, s: &Section<'_, '_>) -> Option<TransitDoc> {
    let via = s.required("via").and_then(|v| r.parse_text(v, form::id));
    let between = s.required("between");
    let count = between.and_then(super::tree::Value::list_len);
    let between = between.map(|v| r.items(v, |v| r.parse_text(v, form::id::<SiteId>)))?;
    // What could not be read was said already.
    if count == Some(between.len()) && between.len() != 2 {
        let message = format!("`between` has to name two sites, and names {}", between.len());
        let mistake = r.mistake(Code::TransitSites, s.span_of("between"), message);
        r.report(mistake.hint("the two sites whose traffic goes through, like [\"osl\", \"trd\"]"));
    }
    Some(TransitDoc { via: via?, between, between_span: s.span_of("between") })
}

pub(super) fn check(r: &Reader<'_>, doc: &FabricDoc) {
    let mut pairs: BTreeMap<[&SiteId; 2], (&SiteId, Span)> = BTreeMap::new();
    let mut partners: BTreeMap<&SiteId, Vec<&SiteId>> = BTreeMap::new();
    for transit in &doc.transits {
        let known = known_sites(r, doc, transit);
        let [one, other] = transit.between.as_slice() else { continue };
        if !different(r, transit, [one, other]) {
            continue;
        }
        let mut pair = [&one.value, &other.value];
        pair.sort_unstable();
        match pairs.get(&pair) {
            None => drop(pairs.insert(pair, (&transit.via.value, transit.between_span))),
            Some((via, first)) => {
                let [a, b] = pair;
                let message = format!("`{a}` and `{b}` have a way through `{via}` already");
                r.report(
                    r.mistake(Code::TransitTwice, transit.between_span, message)
                        .related(r.place(*first), "first here")
                        .hint("a pair of sites has one: no end sees which of two is the better"),
                );
            }
        }
        if known {
            links(r, doc, transit, [one, other]);
        }
        let through = partners.entry(&transit.via.value).or_default();
        for site in pair {
            if through.contains(&site) {
                continue;
            }
            through.push(site);
            if through.len() == usize::from(Transit::MOST) + 1 {
                let most = Transit::MOST;
                let message = format!("more than {most} sites go through `{}`", transit.via.value);
                r.report(
                    r.mistake(Code::TooMany, transit.via.span, message)
                        .hint(format!("each of them takes a routing table: at most {most}")),
                );
            }
        }
    }
}

fn known_sites(r: &Reader<'_>, doc: &FabricDoc, transit: &TransitDoc) -> bool {
    let mut known = true;
    for site in transit.between.iter().chain([&transit.via]) {
        if !has_site(doc, &site.value) {
            r.report(unknown_site(r, doc, &site.value, site.span));
            known = false;
        }
    }
    known
}

/// Whether three sites are named.
fn different(r: &Reader<'_>, transit: &TransitDoc, [one, other]: [&At<SiteId>; 2]) -> bool {
    let via = &transit.via;
    let twice = match (one.value == other.value, [one, other].iter().find(|s| s.value == via.value))
    {
        (true, _) => Some((other, one, "`between` names the same site twice")),
        (false, Some(end)) => Some((via, *end, "the site lies between itself and another one")),
        (false, None) => None,
    };
    if let Some((at, first, message)) = twice {
        r.report(
            r.mistake(Code::TransitSites, at.span, message)
                .related(r.place(first.span), format!("`{}` stands here", first.value))
                .hint("`via` is a third site, which has links to both of `between`"),
        );
    }
    twice.is_none()
}

/// One border of `via` must have links to both sites, in a common family: borders of a site never
/// send to each other.
fn links(r: &Reader<'_>, doc: &FabricDoc, transit: &TransitDoc, between: [&At<SiteId>; 2]) {
    if !doc.whole {
        return;
    }
    let via = &transit.via.value;
    let ends = between.map(|site| ends_towards(doc, via, &site.value));
    if let Some((site, _)) = between.iter().zip(&ends).find(|(_, ends)| ends.is_empty()) {
        let message = format!("no link joins `{via}` and `{}`", site.value);
        r.report(
            r.mistake(Code::TransitLinks, site.span, message)
                .related(r.place(transit.via.span), "traffic would go through here")
                .hint("a site lets through what comes and goes over links of its own"),
        );
        return;
    }
    let [to_one, to_other] = &ends;
    let families = |end: &EndDoc| Family::BOTH.map(|family| has(end, family));
    let common = to_one.iter().any(|one| {
        let mut same = to_other.iter().filter(|other| other.node.value == one.node.value);
        same.any(|other| families(one).iter().zip(families(other)).any(|(a, b)| *a && b))
    });
    if !common {
        let [one, other] = between.map(|site| &site.value);
        let message =
            format!("no border of `{via}` has links of one family to both `{one}` and `{other}`");
        r.report(
            r.mistake(Code::TransitLinks, transit.via.span, message)
                .hint("what comes in at a border leaves from there: borders do not pass it on"),
        );
    }
}

/// The ends at a site of its links to another one.
fn ends_towards<'d>(doc: &'d FabricDoc, site: &SiteId, other: &SiteId) -> Vec<&'d EndDoc> {
    let is_at = |end: &EndDoc, site: &SiteId| {
        doc.nodes.iter().any(|n| n.id.value == end.node.value && n.site.value == *site)
    };
    let both = doc.links.iter().flat_map(|link| [(&link.a, &link.b), (&link.b, &link.a)]);
    let towards = both.filter(|(near, far)| is_at(near, site) && is_at(far, other));
    towards.map(|(near, _)| near).collect()
}

fn has(end: &EndDoc, family: Family) -> bool {
    end.addresses.iter().any(|address| Family::of_net(address.value) == family)
}
