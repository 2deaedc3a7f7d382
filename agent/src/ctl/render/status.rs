//! Sites, nodes and links.

use std::time::Duration;

use nett_policy::saturation::Saturated;

use super::table::{Cell, Table, Tone, facts};
use super::{FRESH_MS, Style, age_note, or_dash, short, task};
use crate::api::types::{
    ApiResponse, BfdDoc, FloodDoc, HeldDoc, LeasesDoc, LinkDoc, LinkEndDoc, LocalDoc, NodeDoc,
    RateLimitedDoc, RevokedDoc, SaturatedDoc, SiteDoc, StatusDoc, VoterDoc,
};

/// Which part of a status to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::ctl) enum Look {
    /// All sites, and the nodes of the answering one.
    Here,
    /// All sites and all nodes.
    AllSites,
    /// One site and its nodes.
    Site(String),
}

pub(super) fn status_text(
    status: &StatusDoc,
    answer: &ApiResponse,
    look: &Look,
    style: Style,
) -> String {
    let StatusDoc {
        fabric,
        generation,
        fabric_hash,
        sites,
        services,
        open_tasks,
        conflicts,
        asks,
        refused,
        rate_limited,
        floods,
        revoked,
        leases,
        local,
    } = status;
    let mut out = format!(
        "fabric {fabric} generation {generation} hash {}, seen from {} at {}\n\n",
        short(fabric_hash),
        answer.node,
        answer.as_of
    );
    let shown = |site: &&SiteDoc| !matches!(look, Look::Site(id) if *id != site.id);
    let rows: Vec<SiteDoc> = sites.iter().filter(shown).cloned().collect();
    out += &sites_text(&rows, style);
    let wanted = |site: &&SiteDoc| match look {
        Look::Here => site.id == answer.site,
        Look::AllSites => true,
        Look::Site(id) => site.id == *id,
    };
    let nodes: Vec<NodeDoc> =
        sites.iter().filter(wanted).flat_map(|site| site.nodes.iter().cloned()).collect();
    if !nodes.is_empty() {
        out.push('\n');
        out += &nodes_text(&nodes, style);
    }
    out += &format!(
        "\nservices {services}, open tasks {}, refused requests {refused}\n",
        open_tasks.len()
    );
    if !conflicts.is_empty() {
        let names: Vec<&str> = conflicts.iter().map(|c| c.subject.as_str()).collect();
        out += &format!("SPLIT DECISIONS: {} (see nettctl conflicts)\n", names.join(", "));
    }
    out.extend(asks.iter().map(|line| format!("TO DO: {line}\n")));
    out.extend(revoked.iter().map(revoked_line));
    if !open_tasks.is_empty() {
        out.push('\n');
        out += &task::list(open_tasks, style);
    }
    if !local.is_empty() {
        out.push('\n');
        out += &local_text(local);
    }
    if let Some(leases) = leases {
        out.push('\n');
        out += &leases_text(leases, style);
    }
    if !rate_limited.is_empty() {
        out.push('\n');
        out += &limited_text(rate_limited, style);
    }
    if !floods.is_empty() {
        out.push('\n');
        out += &floods_text(floods, style);
    }
    out
}

fn local_text(local: &[LocalDoc]) -> String {
    let line = |doc: &LocalDoc| {
        let LocalDoc { task, verb, subject, person, at, state } = doc;
        match verb.is_empty() {
            true => format!("LOCAL: {task}: {state} ({at})\n"),
            false => format!("LOCAL: {task}: {verb} {subject} by {person} at {at}: {state}\n"),
        }
    };
    local.iter().map(line).collect()
}

fn leases_text(leases: &LeasesDoc, style: Style) -> String {
    let LeasesDoc {
        duration_ms,
        wait_ms,
        voters,
        fences_known,
        pending,
        gate,
        terms,
        counts,
        runs,
        rises,
        refused,
    } = leases;
    let mut out = format!("leases of {} s, wait {} s", duration_ms / 1000, wait_ms / 1000);
    let file = terms.as_ref().map_or(0, |terms| terms.generation);
    if file > 0 {
        out += &format!("; voters of generation {file}");
    }
    if *counts != file {
        out += &format!(", this node counts by generation {counts}");
    }
    out.push('\n');
    let mut table = Table::new(&["VOTER", "NODE", "ANSWERED", "RUNS", "FOR"]);
    for voter in voters {
        let VoterDoc { site, node, answered_ms, generation, steady_ms, rejoining, change } = voter;
        let age =
            answered_ms.map_or_else(|| "never".to_owned(), |ms| format!("{} s ago", ms / 1000));
        let runs = generation.map_or_else(|| "-".to_owned(), |generation| generation.to_string());
        let steady = steady_ms.map_or_else(|| "-".to_owned(), |ms| format!("{} s", ms / 1000));
        let notes = [change.as_deref(), rejoining.then_some("reads the others before it votes")];
        let notes: Vec<&str> = notes.into_iter().flatten().collect();
        let note = (!notes.is_empty()).then(|| format!("({})", notes.join("; ")));
        let cells =
            vec![site.clone().into(), node.clone().into(), age.into(), runs.into(), steady.into()];
        table.noted(cells, note);
    }
    out += &table.text(style);
    if let Some(refused) = refused {
        out += &format!("REFUSED: {refused}\n");
    }
    if let (Some(runs), Some(rises)) = (runs, rises) {
        out += &format!("this voter runs generation {runs} and does not rise: {rises}\n");
    }
    if !pending.is_empty() {
        out += &format!("this voter reads {} before it votes\n", pending.join(", "));
    }
    if !fences_known {
        out += "this node lost its disk, and serves nothing leased until it has read the log\n";
    }
    if let Some(gate) = gate {
        out += &format!("GATE: {gate}\n");
    }
    out
}

fn revoked_line(revoked: &RevokedDoc) -> String {
    format!("REVOKED: {} ({})\n", revoked.sentence(), revoked.key)
}

fn floods_text(floods: &[FloodDoc], style: Style) -> String {
    let header = ["FLOOD OF", "IN THE NAME OF", "REFUSED", "DROPPED", "WHY", "LAST", "ANSWERS TO"];
    let mut table = Table::new(&header);
    for FloodDoc { kind, from, reply_to, refused, dropped, why, age_ms } in floods {
        table.row(vec![
            format!("{kind}s").into(),
            from.clone().into(),
            number(*refused),
            number(*dropped),
            why.clone().into(),
            format!("{} s ago", age_ms / 1000).into(),
            or_dash(reply_to).into(),
        ]);
    }
    table.text(style)
}

fn limited_text(limited: &[RateLimitedDoc], style: Style) -> String {
    let mut table = Table::new(&["RATE LIMITED", "WITHHELD", "LAST"]);
    for RateLimitedDoc { network, withheld, age_ms } in limited {
        table.row(vec![
            network.clone().into(),
            number(*withheld),
            format!("{} s ago", age_ms / 1000).into(),
        ]);
    }
    table.text(style)
}

pub(super) fn sites_text(sites: &[SiteDoc], style: Style) -> String {
    let mut header = vec!["SITE", "NODES", "LINKS", "DRIFT", "DNS", "STATE"];
    if style.wide {
        header.splice(1..1, ["REGION", "RANK"]);
    }
    let mut table = Table::new(&header);
    for site in sites {
        let reporting = site.nodes.iter().filter(|n| is_fresh(n.age_ms)).count();
        let mut cells: Vec<Cell> = vec![
            site.id.clone().into(),
            count(reporting, site.nodes.len()),
            links(site.links_up, site.links_down),
            number(site.drift),
            or_dash(&text_of(site.dns_serial)).into(),
            site_state(site),
        ];
        if style.wide {
            let region = or_dash(site.region.as_deref().unwrap_or_default());
            cells.splice(1..1, [region.into(), site.rank.to_string().into()]);
        }
        table.row(cells);
    }
    table.text(style)
}

pub(super) fn nodes_text(nodes: &[NodeDoc], style: Style) -> String {
    let mut header =
        vec!["NODE", "SITE", "ROLE", "BUS", "LINKS", "DRIFT", "DNS", "FABRIC", "STATE"];
    if style.wide {
        header.extend(["VERSION", "HEADS"]);
    }
    let mut table = Table::new(&header);
    for node in nodes {
        let seen = node.age_ms.is_some();
        let bus = if node.bus_connected { "up" } else { "down" };
        let mut cells: Vec<Cell> = vec![
            node.id.clone().into(),
            node.site.clone().into(),
            node.role.clone().into(),
            Cell::state(if seen { bus } else { "unknown" }),
            links(node.links_up, node.links_down),
            number(node.drift),
            or_dash(&text_of(node.dns_serial)).into(),
            fabric_cell(node),
            node_state(node),
        ];
        if style.wide {
            cells.push(or_dash(node.version.as_deref().unwrap_or_default()).into());
            cells.push(or_dash(&heads(node)).into());
        }
        table.noted(cells, age_note(node.age_ms));
    }
    table.text(style)
}

pub(super) fn links_text(links: &[LinkDoc], style: Style) -> String {
    let mut header = vec!["LINK", "A", "STATE", "B", "STATE", "BFD", "COST", "RTT"];
    if style.wide {
        header.extend(["CAPACITY", "RISK"]);
    }
    let mut table = Table::new(&header);
    for link in links {
        let mut cells: Vec<Cell> = vec![
            link_name(link).into(),
            end_name(&link.a).into(),
            Cell::state(link.a.state.as_str()),
            end_name(&link.b).into(),
            Cell::state(link.b.state.as_str()),
            bfd_cell(link),
            link.cost.to_string().into(),
            rtt(link.a.rtt_us.or(link.b.rtt_us)).into(),
        ];
        if style.wide {
            cells.push(capacity(link.capacity_bps).into());
            cells.push(or_dash(&link.risk.join(",")).into());
        }
        let oldest = match (link.a.age_ms, link.b.age_ms) {
            (Some(a), Some(b)) => Some(a.max(b)),
            _ => None,
        };
        let mut notes: Vec<String> = age_note(oldest).into_iter().collect();
        for end in [&link.a, &link.b] {
            let said = end_notes(link, end).into_iter();
            notes.extend(said.map(|note| format!("({}: {note})", end_name(end))));
        }
        table.noted(cells, Some(notes.join(" ")).filter(|text| !text.is_empty()));
    }
    table.text(style)
}

/// What an end has to say beside its state.
fn end_notes(link: &LinkDoc, end: &LinkEndDoc) -> Vec<String> {
    let held = end.held.as_ref().map(|HeldDoc { losses, time_ms, left_ms }| {
        let seconds = |ms: &u64| ms.div_ceil(1000);
        let left = match left_ms {
            Some(left) => format!("{} s left", seconds(left)),
            None => format!("{} s from its return on", seconds(time_ms)),
        };
        format!("held down, flapped {losses} times, {left}")
    });
    let full = end.saturated.as_ref().map(|doc| {
        let SaturatedDoc { sent_bps, received_bps, took_us, usual_us, lost_percent } = doc;
        let saturated = Saturated {
            sent_bps: *sent_bps,
            received_bps: *received_bps,
            capacity_bps: link.capacity_bps,
            took: took_us.map(Duration::from_micros),
            usual: usual_us.map(Duration::from_micros),
            lost: *lost_percent,
        };
        saturated.to_string()
    });
    held.into_iter().chain(full).collect()
}

/// Everything about one node.
pub(super) fn node_text(node: &NodeDoc) -> String {
    let age = match node.age_ms {
        None => "never".to_owned(),
        Some(age) => format!("{age} ms ago"),
    };
    let generation = node.generation.map_or(String::new(), |generation| {
        let hash = short(node.fabric_hash.as_deref().unwrap_or_default());
        let differs =
            if node.fabric_matches { "" } else { " (differs from the answering agent's)" };
        format!("generation {generation} hash {hash}{differs}")
    });
    let bus = if node.bus_connected { "connected" } else { "not connected" };
    let unheard = node.unheard.as_ref();
    let unheard = unheard.map(|why| format!("; commands and questions are not heard: {why}"));
    facts(&[
        ("node", node.id.clone()),
        ("site", node.site.clone()),
        ("role", node.role.clone()),
        ("version", node.version.clone().unwrap_or_default()),
        ("reported", age),
        ("bus", format!("{bus}{}", unheard.unwrap_or_default())),
        ("links", format!("{} up, {} down", node.links_up, node.links_down)),
        ("drift", node.drift.to_string()),
        ("dns serial", text_of(node.dns_serial)),
        ("fabric", generation),
        ("heads", heads(node)),
        ("degraded", node.degraded.join(", ")),
    ])
}

/// Everything about one link.
pub(super) fn link_text(link: &LinkDoc) -> String {
    let end = |end: &LinkEndDoc| {
        let note = age_note(end.age_ms).map_or(String::new(), |note| format!(" {note}"));
        let rtt = end.rtt_us.map_or(String::new(), |us| format!(", round trip {}", rtt(Some(us))));
        let said = end_notes(link, end).into_iter();
        let why: String = said.map(|note| format!(", {note}")).collect();
        let LinkEndDoc { node, interface, site, state, .. } = end;
        format!("{node} {interface} at {site}: {}{why}{rtt}{note}", state.as_str())
    };
    let mut lines = vec![
        ("link", link.id.clone()),
        ("a", end(&link.a)),
        ("b", end(&link.b)),
        ("cost", link.cost.to_string()),
        ("capacity", capacity(link.capacity_bps)),
        ("risk", link.risk.join(", ")),
    ];
    let sessions = link.a.bfd.iter().chain(&link.b.bfd);
    lines.extend(sessions.map(|session| ("bfd", bfd_text(session))));
    facts(&lines)
}

/// A session in one line.
fn bfd_text(session: &BfdDoc) -> String {
    let BfdDoc {
        family,
        state,
        belief,
        diagnostic,
        remote_state,
        remote_diagnostic,
        interval_us,
        detection_us,
        trouble,
    } = session;
    let why = if state == "up" { String::new() } else { format!(" ({diagnostic})") };
    let remote = match (remote_state, remote_diagnostic) {
        (Some(state), Some(diagnostic)) if state != "up" => {
            format!("the far end says {state} ({diagnostic})")
        }
        (Some(state), _) => format!("the far end says {state}"),
        (None, _) => "the far end is not heard".to_owned(),
    };
    let millis = |us: &u64| format!("{} ms", *us as f64 / 1000.0);
    let timers =
        format!("sends every {}, down after {}", millis(interval_us), millis(detection_us));
    let trouble = trouble.as_ref().map_or(String::new(), |text| format!("; {text}"));
    format!("{family} {state}{why}, {belief}; {remote}; {timers}{trouble}")
}

/// The worst of the sessions at the answering agent's end; empty where there is none.
fn bfd_cell(link: &LinkDoc) -> Cell {
    let sessions = || link.a.bfd.iter().chain(&link.b.bfd);
    let state = |wanted: &str| sessions().find(|session| session.state == wanted);
    match ["down", "init", "admin-down", "up"].into_iter().find_map(state) {
        None => or_dash("").into(),
        Some(worst) => Cell::state(&worst.state),
    }
}

fn is_fresh(age_ms: Option<u64>) -> bool {
    age_ms.is_some_and(|age| age <= FRESH_MS)
}

fn count(present: usize, all: usize) -> Cell {
    let tone = if present == all { Tone::Plain } else { Tone::Bad };
    Cell::new(format!("{present}/{all}"), tone)
}

fn links(up: u32, down: u32) -> Cell {
    match down {
        0 => Cell::from(format!("{up} up")),
        _ => Cell::new(format!("{up} up, {down} down"), Tone::Bad),
    }
}

fn number(drift: u64) -> Cell {
    let tone = if drift == 0 { Tone::Plain } else { Tone::Warn };
    Cell::new(drift.to_string(), tone)
}

fn site_state(site: &SiteDoc) -> Cell {
    let mut words = Vec::new();
    let mut tone = Tone::Warn;
    if site.isolated {
        words.push("isolated".to_owned());
        tone = Tone::Bad;
    }
    let silent = site.nodes.iter().filter(|n| is_silent(n)).count();
    if silent > 0 {
        words.push(format!("{silent} silent"));
        tone = Tone::Bad;
    }
    if site.drained {
        words.push("drained".to_owned());
    }
    if site.fabric_mismatch > 0 {
        words.push(format!("fabric differs on {}", site.fabric_mismatch));
    }
    if !site.degraded.is_empty() {
        words.push(format!("degraded ({})", site.degraded.join(", ")));
    }
    if words.is_empty() {
        return Cell::state("ok");
    }
    Cell::new(words.join("; "), tone)
}

fn node_state(node: &NodeDoc) -> Cell {
    if node.age_ms.is_none() {
        return Cell::state("unknown");
    }
    if is_silent(node) {
        return Cell::new("silent".to_owned(), Tone::Bad);
    }
    let drained = if node.drained { "drained" } else { "" };
    if node.degraded.is_empty() {
        return Cell::state(if node.drained { drained } else { "ok" });
    }
    let comma = if node.drained { "; " } else { "" };
    let degraded = node.degraded.join(", ");
    Cell::new(format!("{drained}{comma}degraded ({degraded})"), Tone::Warn)
}

/// It has reported once, and not lately.
fn is_silent(node: &NodeDoc) -> bool {
    node.age_ms.is_some_and(|age| age > FRESH_MS)
}

fn fabric_cell(node: &NodeDoc) -> Cell {
    let Some(generation) = node.generation else {
        return Cell::from("-");
    };
    if node.fabric_matches {
        return Cell::from(generation.to_string());
    }
    Cell::new(format!("{generation} differs"), Tone::Bad)
}

fn heads(node: &NodeDoc) -> String {
    let heads: Vec<String> =
        node.heads.iter().map(|head| format!("{}:{}", head.site, head.seq)).collect();
    heads.join(" ")
}

fn link_name(link: &LinkDoc) -> String {
    let drained = if link.drained { " (drained)" } else { "" };
    format!("{}{drained}", link.id)
}

fn end_name(end: &LinkEndDoc) -> String {
    format!("{}:{}", end.node, end.interface)
}

fn rtt(us: Option<u64>) -> String {
    match us {
        None => "-".to_owned(),
        Some(us) => format!("{}.{:03} ms", us / 1000, us % 1000),
    }
}

fn capacity(bps: Option<u64>) -> String {
    match bps {
        None => "-".to_owned(),
        Some(bps) if bps.is_multiple_of(1_000_000_000) => format!("{}G", bps / 1_000_000_000),
        Some(bps) if bps.is_multiple_of(1_000_000) => format!("{}M", bps / 1_000_000),
        Some(bps) => format!("{bps} bit/s"),
    }
}

fn text_of(number: Option<u32>) -> String {
    number.map_or(String::new(), |n| n.to_string())
}
