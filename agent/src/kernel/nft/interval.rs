//! Prefixes as elements of an interval set, and back.
//!
//! The kernel refuses overlapping intervals, so a prefix inside another one is only named in the
//! comment of the outermost, from which the readback recovers it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::super::netlink::attr::{address_bytes, read_address};
use super::program::Element;

/// Longest comment of an element: 256 bytes of userdata less type, length and final NUL.
const COMMENT: usize = 253;
const COVERS: &str = "covers ";

/// Start and end elements in ascending order; `None` when a comment gets too long.
pub(super) fn elements(nets: impl Iterator<Item = IpNet>) -> Option<Vec<Element>> {
    let all: BTreeSet<IpNet> = nets.map(|n| n.trunc()).collect();
    let mut outermost: Vec<(IpNet, Vec<String>)> = Vec::new();
    // Ascending by address, and at one address the longer range first.
    let mut sorted: Vec<IpNet> = all.into_iter().collect();
    sorted.sort_by_key(|n| (n.network(), n.prefix_len()));
    for net in sorted {
        match outermost.last_mut() {
            Some((outer, inner)) if outer.contains(&net) => inner.push(net.to_string()),
            _ => outermost.push((net, Vec::new())),
        }
    }
    let mut elements = Vec::new();
    for (net, inner) in outermost {
        let comment = (!inner.is_empty()).then(|| format!("{COVERS}{}", inner.join(" ")));
        if comment.as_ref().is_some_and(|c| c.len() > COMMENT) {
            return None;
        }
        elements.push(Element {
            key: address_bytes(net.network()),
            end: false,
            counter: None,
            comment,
        });
        elements.extend(behind(net).map(|key| Element {
            key,
            end: true,
            counter: None,
            comment: None,
        }));
    }
    Some(elements)
}

/// The first address behind the prefix; `None` at the end of the address space.
fn behind(net: IpNet) -> Option<Vec<u8>> {
    let mut bytes = address_bytes(net.broadcast());
    for byte in bytes.iter_mut().rev() {
        let (sum, carried) = byte.overflowing_add(1);
        *byte = sum;
        if !carried {
            return Some(bytes);
        }
    }
    None
}

/// The prefixes; `None` when the elements are not intervals as [`elements`] makes them.
pub(super) fn prefixes(mut elements: Vec<Element>) -> Option<BTreeSet<IpNet>> {
    elements.sort_by(|a, b| (&a.key, !a.end).cmp(&(&b.key, !b.end)));
    let mut nets = BTreeSet::new();
    let mut rest = elements.iter().peekable();
    while let Some(start) = rest.next() {
        if start.end {
            return None;
        }
        let end = rest.next_if(|e| e.end).map(|e| e.key.clone());
        let address = read_address(&start.key).ok()?;
        let net = prefix(address, end)?;
        nets.insert(net);
        for inner in start.comment.iter().flat_map(|c| c.strip_prefix(COVERS)) {
            for word in inner.split(' ') {
                nets.insert(word.parse().ok()?);
            }
        }
    }
    Some(nets)
}

/// The prefix that begins at `address` and ends before `end`.
fn prefix(address: IpAddr, end: Option<Vec<u8>>) -> Option<IpNet> {
    let bits = if address.is_ipv4() { 32 } else { 128 };
    (0..=bits)
        .filter_map(|length| IpNet::new(address, length).ok())
        .find(|net| net.network() == address && behind(*net) == end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(list: &[&str]) -> BTreeSet<IpNet> {
        list.iter().map(|n| n.parse().expect("a prefix")).collect()
    }

    #[test]
    fn prefixes_come_back_whatever_their_order_and_nesting() {
        for list in [
            &["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "11.0.0.0/8"][..],
            &["10.0.0.0/25", "10.0.0.128/25"],
            &["0.0.0.0/0"],
            &["255.0.0.0/8", "10.0.0.1/32"],
            &["::/0"],
            &["fd00::/8", "fd00:1::/32", "ff00::/8"],
            &[],
        ] {
            let wanted = nets(list);
            let mut elements = elements(wanted.iter().copied()).expect("fits");
            elements.reverse();
            assert_eq!(prefixes(elements), Some(wanted), "{list:?}");
        }
    }

    #[test]
    fn a_range_that_is_no_prefix_is_noticed() {
        let mut elements = elements(nets(&["10.0.0.0/24"]).into_iter()).expect("fits");
        elements[1].key = vec![10, 0, 0, 200];
        assert_eq!(prefixes(elements), None);
    }

    #[test]
    fn too_many_nested_prefixes_are_refused() {
        let inner = (0..30).map(|n| format!("10.200.{n}.0/24"));
        let all = inner.chain(["10.0.0.0/8".to_owned()]);
        let all = all.map(|n| n.parse::<IpNet>().expect("a prefix"));
        assert_eq!(elements(all), None);
    }
}
