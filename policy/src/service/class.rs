//! Which services always move together: a class is made of what decides where its services can be,
//! which is mode, sites in order, category and backends. A service whose flows are to stay where
//! they are is a class of its own, since its group is never another one. Names are made once for a
//! catalogue.

use std::fmt::Write;

use super::{Mode, Service};
use crate::id::SiteId;

/// Two services have the same name exactly when they belong to one class.
pub(super) fn name(service: &Service) -> String {
    let mut words: Vec<&str> = Vec::new();
    match &service.mode {
        Mode::ActivePassive { primary, standby } => {
            words.extend(["passive", primary.as_str()]);
            words.extend(standby.iter().map(|s| s.site.as_str()));
        }
        Mode::ActiveActive { active, readmit: _ } => {
            words.push("active");
            words.extend(active.iter().map(SiteId::as_str));
        }
    }
    let category = format!("{:?}", service.category);
    words.push(&category);
    let backends: Vec<String> = service.backends.keys().map(|s| backends(service, s)).collect();
    words.extend(backends.iter().map(String::as_str));
    if service.resilient().is_some() {
        words.extend(["resilient", service.id.as_str()]);
    }
    words.join(" ")
}

/// What a service is delivered to at a site.
pub(crate) fn backends(service: &Service, site: &SiteId) -> String {
    let mut text = site.to_string();
    let there = service.backends.get(site).into_iter().flatten();
    let mut members: Vec<_> = there.map(|b| (b.address, b.weight, &b.cluster)).collect();
    members.sort_unstable();
    for (address, weight, cluster) in members {
        write!(text, " {address}*{weight}").expect("strings take everything");
        if let Some(cluster) = cluster {
            write!(text, "@{cluster}").expect("strings take everything");
        }
    }
    text
}
