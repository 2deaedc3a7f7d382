//! Ways: of a packet, of what would be lost, and what is kept apart.

use super::table::{Cell, Table, Tone};
use super::{Style, age_note, or_dash};
use crate::api::types::{
    CountDoc, DrainedDoc, HopDoc, PairDoc, PathDoc, SeparationDoc, ServiceLossDoc, SimulationDoc,
    WayDoc,
};

pub(super) fn path(path: &PathDoc) -> String {
    let PathDoc { from, to, hops, verdict } = path;
    let mut out = format!("{from} -> {to}\n");
    for (hop, nth) in hops.iter().zip(1..) {
        out += &hop_text(hop, nth);
    }
    out + &format!("{verdict}\n")
}

fn hop_text(hop: &HopDoc, nth: usize) -> String {
    let HopDoc { node, interface, mark, rule, table, destination, nexthop, ways, .. } = hop;
    let come = interface.as_ref().map(|i| format!(", in by {i}")).unwrap_or_default();
    let mark = if *mark == 0 { String::new() } else { format!(", mark {mark:#x}") };
    let mut out = format!("{nth}. {node}{come}{mark}\n");
    let mut line = |name: &str, text: String| out += &format!("   {name:<8}{text}\n");
    line("rule", rule.clone().unwrap_or_else(|| "none of Nett's: the main table".to_owned()));
    if let (Some(table), Some(destination)) = (table, destination) {
        let target = nexthop.map_or("unreachable".to_owned(), |id| format!("nhid {id}"));
        line("route", format!("{destination} table {table} {target}"));
    }
    let way = |way: &WayDoc| {
        let WayDoc { nexthop, gateway, interface, weight } = way;
        format!("{gateway} dev {interface} (id {nexthop}, weight {weight})")
    };
    if !ways.is_empty() {
        line("ways", ways.iter().map(way).collect::<Vec<_>>().join(" or "));
    }
    let passes = if hop.passes { "passes" } else { "stops it" };
    line("guard", format!("counts it as {} and {passes}", hop.guard));
    if let Some(mark) = &hop.failover {
        line("marked", format!("as failover traffic: {mark}"));
    }
    if let Some(kernel) = &hop.kernel {
        let word = if kernel.agrees { "agrees" } else { "DIFFERS" };
        line("kernel", format!("{word}: {}", kernel.said));
    }
    out
}

pub(super) fn simulation(doc: &SimulationDoc, style: Style) -> String {
    let SimulationDoc { lose, nodes_lost, links_lost, pairs, services, repairs, findings } = doc;
    let mut out = format!(
        "without {lose}: nodes {}, links {}\n\n",
        or_dash(&nodes_lost.join(", ")),
        or_dash(&links_lost.join(", "))
    );
    let mut table = Table::new(&["BETWEEN", "LINKS", "LEFT", "CAPACITY", "LEFT"]);
    for PairDoc { a, b, links_before, links_after, bps_before, bps_after } in pairs {
        table.row(vec![
            format!("{a} {b}").into(),
            links_before.to_string().into(),
            links_after.to_string().into(),
            bits(*bps_before).into(),
            bits(*bps_after).into(),
        ]);
    }
    out += &table.text(style);
    if !services.is_empty() {
        let mut table = Table::new(&["SERVICE", "STOPS AT", "STAYS AT", "NEXT", "CUT OFF FOR"]);
        for ServiceLossDoc { service, stops_at, stays_at, next, cut_off } in services {
            table.row(vec![
                service.clone().into(),
                or_dash(&stops_at.join(",")).into(),
                or_dash(&stays_at.join(",")).into(),
                or_dash(next.as_deref().unwrap_or_default()).into(),
                or_dash(&cut_off.join(",")).into(),
            ]);
        }
        out += &format!("\n{}", table.text(style));
    }
    if !repairs.is_empty() {
        let repairs = repairs.iter().map(|r| format!("{} ({})", r.node, r.operations));
        let repairs = repairs.collect::<Vec<_>>().join(", ");
        out += &format!("\nrepaired by themselves (kernel operations): {repairs}\n");
    }
    if !findings.is_empty() {
        out += "\n";
    }
    findings.iter().for_each(|finding| out += &format!("- {finding}\n"));
    out
}

fn bits(bps: u64) -> String {
    let units = [(1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k"), (1, "")];
    let found = units.iter().find(|(unit, _)| bps >= *unit);
    found.map_or_else(|| "-".to_owned(), |(unit, letter)| format!("{}{letter}", bps / unit))
}

pub(super) fn separation(doc: &SeparationDoc, style: Style) -> String {
    let SeparationDoc { holds, since, rows, unheard } = doc;
    let mut table = Table::new(&["NODE", "CLASS", "PEER", "PACKETS", "EXPECTED", "COUNTED BY"]);
    for CountDoc { node, class, peer, packets, expected_zero, rule, age_ms } in rows {
        let tone = match (expected_zero, packets) {
            (true, 0) => Tone::Good,
            (true, _) => Tone::Bad,
            (false, _) => Tone::Plain,
        };
        let cells = vec![
            node.clone().into(),
            class.clone().into(),
            or_dash(peer.as_deref().unwrap_or_default()).into(),
            Cell::new(packets.to_string(), tone),
            if *expected_zero { "0" } else { "any" }.into(),
            rule.clone().into(),
        ];
        table.noted(cells, age_note(Some(*age_ms)));
    }
    let mut out = table.text(style);
    if !unheard.is_empty() {
        let when = if since.is_some() { "not told for so long" } else { "not told" };
        out += &format!("\n{when}: {}\n", unheard.join(", "));
    }
    let stopped = rows.iter().any(|row| row.expected_zero && row.packets > 0);
    out + match (holds, stopped) {
        (true, _) => "\nseparated: every counter that is to be zero is zero\n",
        (false, true) => "\nNOT SEPARATED: the guard had to stop packets\n",
        (false, false) => "\nNOT PROVEN: not all nodes have told what they count\n",
    }
}

pub(super) fn drained(doc: &DrainedDoc, style: Style) -> String {
    if doc.rows.is_empty() {
        return "nothing is drained\n".to_owned();
    }
    let mut table = Table::new(&["DRAINED", "STATE", "PPS", "MEASURED"]);
    for row in &doc.rows {
        let tone = if row.state == "drained" { Tone::Good } else { Tone::Warn };
        table.row(vec![
            row.object.clone().into(),
            Cell::new(row.state.clone(), tone),
            row.pps.to_string().into(),
            row.measured.clone().into(),
        ]);
    }
    table.text(style)
}
