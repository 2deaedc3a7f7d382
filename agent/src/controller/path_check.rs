//! Asks the own kernel about the packet of a path, hop by hop, and says whether it agrees with what
//! was computed. Only hops of this node can be asked; it never changes anything.
//!
//! Crash story: nothing is kept.

use crate::api::types::{HopDoc, KernelWord, PathDoc};
use crate::kernel::{Asked, Found, Lookup};

/// The kernel's main table (RT_TABLE_MAIN, linux/rtnetlink.h).
const MAIN: u32 = 254;

/// Fills in what the kernel of `node` says.
pub(super) async fn check(path: &mut PathDoc, node: &str) {
    let (Ok(from), Ok(to)) = (path.from.parse(), path.to.parse()) else { return };
    for hop in path.hops.iter_mut().filter(|hop| hop.node == node) {
        let Some(interface) = hop.interface.clone() else { continue };
        let asked = Asked { from, to, interface, mark: hop.mark };
        let found = match Lookup::open() {
            Ok(mut lookup) => lookup.ask(&asked).await,
            Err(error) => Err(error),
        };
        hop.kernel = Some(match found {
            Ok(found) => KernelWord { agrees: agrees(hop, &found), said: words(&found) },
            Err(error) => KernelWord { agrees: false, said: format!("not asked: {error}") },
        });
    }
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
