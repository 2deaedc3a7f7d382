//! Asks the own kernel about the packet of a path, hop by hop, and says whether it agrees with what
//! was computed. Only hops of this node can be asked; it never changes anything.
//!
//! Crash story: nothing is kept.

use crate::api::types::{HopDoc, KernelWord, PathDoc};
use crate::kernel::{Asked, Found, KernelError, Lookup, Taken};

/// The kernel's main table (RT_TABLE_MAIN, linux/rtnetlink.h).
const MAIN: u32 = 254;

/// Fills in what the kernel of `node` says.
pub(super) async fn check(path: &mut PathDoc, node: &str) {
    let (Ok(from), Ok(to)) = (path.from.parse(), path.to.parse()) else { return };
    for hop in path.hops.iter_mut().filter(|hop| hop.node == node) {
        let Some(interface) = hop.interface.clone() else { continue };
        let asked = Asked { from, to, interface, mark: hop.mark };
        hop.kernel = Some(match word(hop, &asked).await {
            Ok(word) => word,
            Err(error) => KernelWord { agrees: false, said: format!("not asked: {error}") },
        });
    }
}

async fn word(hop: &HopDoc, asked: &Asked) -> Result<KernelWord, KernelError> {
    let mut lookup = Lookup::open()?;
    let found = lookup.ask(asked).await?;
    let said = words(&found);
    if agrees(hop, &found) || asked.to.is_ipv4() {
        return Ok(KernelWord { agrees: agrees(hop, &found), said });
    }
    // In IPv6 the route may be another one that shares the nexthop; the way is the packet's own.
    let taken = match shares_nexthop(hop, &found) {
        true => lookup.taken(asked).await?,
        false => None,
    };
    Ok(match taken.filter(|taken| goes_by(hop, taken)) {
        Some(Taken { gateway, interface }) => {
            let said = format!("{said}, by way of {gateway} {interface}");
            KernelWord { agrees: true, said }
        }
        None => KernelWord { agrees: false, said },
    })
}

fn shares_nexthop(hop: &HopDoc, found: &Found) -> bool {
    let Found::Route { nexthop: Some(id), .. } = found else { return false };
    hop.nexthop == Some(*id) || hop.ways.iter().any(|way| way.nexthop == *id)
}

fn goes_by(hop: &HopDoc, taken: &Taken) -> bool {
    let Taken { gateway, interface } = taken;
    let gateway = gateway.to_string();
    hop.ways.iter().any(|way| way.gateway == gateway && way.interface == *interface)
}

fn agrees(hop: &HopDoc, found: &Found) -> bool {
    match (found, hop.fate.as_str()) {
        (Found::Refused(_), fate) => fate == "unreachable",
        (Found::Route { table, .. }, _) if hop.table.is_none() => *table == MAIN,
        (Found::Route { table, destination, nexthop }, _) => {
            hop.table == Some(*table)
                && hop.destination.as_deref() == Some(destination.to_string().as_str())
                && hop.nexthop == *nexthop
        }
    }
}

fn words(found: &Found) -> String {
    match found {
        Found::Refused(errno) => format!("no way ({errno})"),
        Found::Route { table, destination, nexthop: Some(id) } => {
            format!("{destination} table {table} nhid {id}")
        }
        Found::Route { table, destination, nexthop: None } => {
            format!("{destination} table {table}")
        }
    }
}
