//! Services.

use super::table::{Cell, Table, facts};
use super::{Style, age_note, be, or_dash};
use crate::api::types::{DefinitionDoc, LeaseDoc, ServiceDoc, ServiceLine, ServiceSite};

pub(super) fn list(services: &[ServiceLine], style: Style) -> String {
    let mut header = vec!["SERVICE", "CAT", "TRAFFIC", "EPOCH", "HEALTH", "TASK"];
    if style.wide {
        header.splice(2..2, ["MODE", "PRIMARY"]);
    }
    let mut table = Table::new(&header);
    for service in services {
        let health: Vec<String> =
            service.health.iter().map(|(site, health)| format!("{site}={health}")).collect();
        let mut cells: Vec<Cell> = vec![
            service.id.clone().into(),
            service.category.clone().into(),
            if service.unprotected {
                format!("{} UNPROTECTED", service.spread).into()
            } else {
                service.spread.clone().into()
            },
            service.epoch.to_string().into(),
            or_dash(&health.join(" ")).into(),
            or_dash(service.task.as_deref().unwrap_or_default()).into(),
        ];
        if style.wide {
            let primary = or_dash(service.primary.as_deref().unwrap_or_default());
            cells.splice(2..2, [service.mode.clone().into(), primary.into()]);
        }
        table.noted(cells, age_note(Some(service.age_ms)));
    }
    table.text(style)
}

pub(super) fn show(service: &ServiceDoc, style: Style) -> String {
    let ServiceDoc {
        id,
        definition,
        spread,
        accept,
        answers,
        epoch,
        last_task,
        open_task,
        sites,
        lease,
    } = service;
    let mut out = facts(&[
        ("service", id.clone()),
        ("traffic", spread.text()),
        ("accepted by", or_dash(&accept.join(", "))),
        ("dns answers", answers.text()),
        ("epoch", epoch.to_string()),
        ("open task", open_task.clone().unwrap_or_default()),
        ("last task", last_task.clone().unwrap_or_default()),
    ]);
    if let Some(lease) = lease {
        out.push('\n');
        out += &lease_text(lease);
    }
    out.push('\n');
    let mut table = Table::new(&["SITE", "STATE", "WEIGHT", "HEALTH", "BACKENDS"]);
    for site in sites {
        let cells = vec![
            site.site.clone().into(),
            Cell::state(&site.state),
            format!("{} %", site.weight).into(),
            Cell::state(&site.health),
            backends(site).into(),
        ];
        table.noted(cells, site.age_ms.and_then(|age| age_note(Some(age))));
    }
    out += &table.text(style);
    out.push('\n');
    out + &definition_text(definition)
}

fn lease_text(lease: &LeaseDoc) -> String {
    let LeaseDoc { standing, why, claim, epoch, target, voters, needed, left_ms, unprotected } =
        lease;
    let claim = claim.clone().unwrap_or_else(|| "the definition".to_owned());
    let target = target.as_deref().map_or_else(String::new, |site| format!(" for {site}"));
    let off = match unprotected.is_empty() {
        true => String::new(),
        false => format!("{} said to be off", be(unprotected, ["is", "are"])),
    };
    facts(&[
        ("lease here", format!("{standing}: {why}")),
        ("claim", format!("{claim}{target}, epoch {epoch}")),
        ("votes", format!("{voters}, {needed} needed")),
        ("unprotected", off),
        ("time left", left_ms.map(|ms| format!("{} s", ms / 1000)).unwrap_or_default()),
    ])
}

/// How many answer, or how many there are where none is probed.
fn backends(site: &ServiceSite) -> String {
    match site.age_ms {
        Some(_) => format!("{}/{}", site.backends_up, site.backends),
        None => format!("{} not probed", site.backends),
    }
}

fn definition_text(definition: &DefinitionDoc) -> String {
    let DefinitionDoc {
        category,
        mode,
        primary,
        sites,
        vips,
        handover,
        isolation,
        trigger,
        approvals,
        residency,
        prefer,
        all_down,
        ttl_ms,
        ttl_floor_ms,
        hold_down_ms,
        ramp,
        readmit,
    } = definition;
    let steps: Vec<String> = ramp.iter().map(|share| format!("{share} %")).collect();
    let mut ttl = milliseconds(*ttl_ms);
    if let Some(floor) = ttl_floor_ms {
        ttl += &format!(", {} while a task is open", milliseconds(*floor));
    }
    facts(&[
        ("category", category.clone()),
        ("mode", mode.clone()),
        ("primary", primary.clone().unwrap_or_default()),
        ("sites", sites.join(", ")),
        ("vips", vips.join(", ")),
        ("handover", handover.clone()),
        ("isolation", isolation.clone()),
        ("trigger", trigger.clone()),
        ("approvals", approvals.to_string()),
        ("residency", residency.join(", ")),
        ("prefer", prefer.clone()),
        ("all down", all_down.clone()),
        ("ttl", ttl),
        ("hold-down", milliseconds(*hold_down_ms)),
        ("ramp", steps.join(", ")),
        ("readmit", readmit.clone().unwrap_or_default()),
    ])
}

fn milliseconds(ms: u64) -> String {
    if ms.is_multiple_of(1000) { format!("{} s", ms / 1000) } else { format!("{ms} ms") }
}
