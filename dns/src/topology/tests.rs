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
    assert_eq!(topology.distance(at("osl"), at("osl")), (0, 0));
    assert_eq!(topology.distance(at("fra"), at("osl")), (30, 3));
    // Neither has a link to lon: the better rank is nearer.
    assert_eq!(topology.distance(at("lon"), at("osl")), (u32::MAX, 2));
    assert_eq!(topology.distance(at("lon"), at("sto")), (u32::MAX, 3));
    assert_eq!(topology.nearest_to_unknown(), Some(at("lon")));
    let home = Topology::new(&fabric(), Some(&site("fra")));
    assert_eq!(home.nearest_to_unknown(), Some(at("fra")));
}

/// osl with links of one cost to sto and fra, and of a higher one to lon.
fn star() -> Topology {
    let mut fabric = fabric();
    for link in &mut fabric.links {
        link.cost = 30;
    }
    let mut lon = fabric.links[1].clone();
    lon.id = "osl-lon".parse().expect("a link id");
    lon.b.node = "lon-b1".parse().expect("a node id");
    lon.cost = 40;
    fabric.links.push(lon);
    Topology::new(&fabric, None)
}

/// The order of the others as seen from osl, by these times in microseconds.
fn order(topology: &Topology, rtts: &[(&str, u64)]) -> (Topology, Vec<String>) {
    let rtts = rtts.iter().map(|(to, us)| ((site("osl"), site(to)), Duration::from_micros(*us)));
    let next = topology.with_rtts(&rtts.collect());
    let others = next.order_from(&site("osl")).into_iter().map(|(site, _)| site.to_string());
    let others = others.filter(|site| site != "osl").collect();
    (next, others)
}

#[test]
fn measured_times_decide_between_equal_costs_where_they_differ_by_a_tenth() {
    let by_rank = star();
    // Nothing or one thing measured is no comparison.
    assert_eq!(order(&by_rank, &[]).1, ["sto", "fra", "lon"]);
    assert_eq!(order(&by_rank, &[("fra", 1_000)]).1, ["sto", "fra", "lon"]);
    // Not a tenth nearer, just a tenth, more than a tenth.
    assert_eq!(order(&by_rank, &[("sto", 100_000), ("fra", 91_000)]).1, ["sto", "fra", "lon"]);
    assert_eq!(order(&by_rank, &[("sto", 100_000), ("fra", 90_000)]).1, ["sto", "fra", "lon"]);
    let (turned, others) = order(&by_rank, &[("sto", 100_000), ("fra", 89_000)]);
    assert_eq!(others, ["fra", "sto", "lon"]);
    assert!(!turned.has_order_of(&by_rank));
    // What was before is not remembered: a server that starts now has the same order.
    for rtts in [vec![], vec![("sto", 85_000), ("fra", 89_000)]] {
        let (again, others) = order(&turned, &rtts);
        assert_eq!(others, ["sto", "fra", "lon"]);
        assert!(again.has_order_of(&by_rank));
    }
    // A tenth of nothing is nothing: within one building rank decides.
    assert_eq!(order(&by_rank, &[("sto", 250), ("fra", 60)]).1, ["sto", "fra", "lon"]);
    // A cheaper link stays nearer, however slow.
    let slow = [("sto", 500_000), ("fra", 400_000), ("lon", 1_000)];
    assert_eq!(order(&turned, &slow).1, ["fra", "sto", "lon"]);
}

proptest::proptest! {
    /// Whatever was before, the same times lead to the same order, and nobody in it stands behind
    /// a site that is further by more than the margin.
    #[test]
    fn an_order_follows_from_the_times_alone(
        first in proptest::array::uniform3(1u64..50_000),
        second in proptest::array::uniform3(1u64..50_000),
    ) {
        let named = |us: [u64; 3]| [("sto", us[0]), ("fra", us[1]), ("lon", us[2])];
        let (begun, _) = order(&star(), &named(first));
        let (after, others) = order(&begun, &named(second));
        let (fresh, _) = order(&star(), &named(second));
        proptest::prop_assert!(after.has_order_of(&fresh));
        let us = |name: &str| {
            let at = ["sto", "fra", "lon"].iter().position(|n| *n == name);
            Duration::from_micros(second[at.expect("one of them")])
        };
        proptest::prop_assert!(!is_nearer(us(&others[1]), us(&others[0])), "{others:?} {second:?}");
        proptest::prop_assert_eq!(others[2].as_str(), "lon");
    }
}

/// In ranks A, B, C, by milliseconds, where they are known.
#[test]
fn who_was_not_measured_stands_in_nobodys_way() {
    let order = |rtts: [Option<u64>; 3]| {
        let mut tied = [0, 1, 2];
        by_time(&mut tied, |to| rtts[to].map(Duration::from_millis));
        tied.map(|to| ["A", "B", "C"][to]).concat()
    };
    assert_eq!(order([Some(100), Some(50), Some(1)]), "CBA");
    assert_eq!(order([Some(100), None, Some(1)]), "CBA", "A and C change places");
    assert_eq!(order([None, Some(100), Some(1)]), "ACB");
    assert_eq!(order([Some(100), Some(95), Some(91)]), "ABC", "all within a tenth of the next");
    assert_eq!(order([Some(100), Some(95), Some(80)]), "CAB");
    assert_eq!(order([None, None, None]), "ABC");
}
