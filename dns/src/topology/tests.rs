//! Where clients are found, and how far an answer holds.

use super::*;
use crate::sample::{fabric, ip, site};

fn located(topology: &Topology, client: &str) -> (Option<String>, u8) {
    let client = match client.parse::<IpNet>() {
        Ok(net) => Client::new(ip("127.0.0.1"), Some(net)),
        Err(_) => Client::new(ip(client), None),
    };
    let Located { found, scope } = topology.locate(&client);
    let text = |(site, prefix)| format!("{} {prefix}", topology.site(site));
    (found.map(text), scope)
}

#[test]
fn the_longest_prefix_wins_and_the_scope_excludes_the_others() {
    let topology = Topology::new(&fabric(), None);
    for (client, expected, scope) in [
        ("10.1.2.3", Some("osl 10.1.0.0/16"), 16),
        ("10.2.0.0/24", Some("sto 10.2.0.0/16"), 16),
        // Half of this /24 belongs to another site.
        ("198.51.100.1", Some("osl 198.51.100.0/24"), 25),
        ("198.51.100.200", Some("sto 198.51.100.128/25"), 25),
        // The client does not say in which half it is: finer scope asks for more.
        ("198.51.100.0/24", Some("osl 198.51.100.0/24"), 25),
        ("198.51.0.0/16", None, 18),
        ("127.0.0.1", Some("osl 127.0.0.0/8"), 31),
        ("127.0.0.2", Some("fra 127.0.0.2/32"), 32),
        ("127.0.0.3", Some("osl 127.0.0.0/8"), 32),
        ("127.0.0.4", Some("osl 127.0.0.0/8"), 30),
        ("127.128.0.0", Some("osl 127.0.0.0/8"), 9),
        ("2001:db8:1:ff::1", Some("osl 2001:db8:1::/48"), 48),
        ("2001:db8:2::/56", Some("sto 2001:db8:2::/48"), 48),
        ("2001:db8:3::1", None, 48),
        ("2a00::/32", None, 5),
    ] {
        let (found, got) = located(&topology, client);
        assert_eq!((found.as_deref(), got), (expected, scope), "{client}");
    }
}

/// Every address inside the scope must be found like the client itself.
#[test]
fn a_scope_never_covers_a_client_of_another_site() {
    let topology = Topology::new(&fabric(), None);
    let net = |base: u32| Client::new(IpAddr::V4(base.into()), None);
    let probe = |address: u32| topology.locate(&net(address)).found.map(|(site, _)| site);
    let interesting = ["198.51.100.128", "127.0.0.2", "10.2.0.0", "128.0.0.0"];
    for start in interesting.map(|a| a.parse::<std::net::Ipv4Addr>().expect(a).to_bits()) {
        for address in start - 5..start + 5 {
            let Located { found, scope } = topology.locate(&net(address));
            let size = 1u64 << (32 - u32::from(scope));
            let first = u64::from(address) & !(size - 1);
            for step in 0..64 {
                let at = u32::try_from(first + step * (size - 1) / 63).expect("in the block");
                assert_eq!(probe(at), found.map(|f| f.0), "{address:x}/{scope} {at:x}");
            }
        }
    }
}

#[test]
fn distance_is_link_cost_then_rank() {
    let topology = Topology::new(&fabric(), None);
    let at = |id| topology.index(&site(id)).expect("a site");
    assert_eq!(topology.distance(at("osl"), at("osl")), (0, 2));
    assert_eq!(topology.distance(at("fra"), at("osl")), (30, 2));
    assert_eq!(topology.distance(at("lon"), at("sto")), (u32::MAX, 3));
    assert_eq!(topology.nearest_to_unknown(), Some(at("lon")));
    let home = Topology::new(&fabric(), Some(&site("fra")));
    assert_eq!(home.nearest_to_unknown(), Some(at("fra")));
}
