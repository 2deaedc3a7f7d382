//! The kernel's own word on a packet, where several IPv6 routes share a nexthop.

use std::net::IpAddr;

use nett_agent::kernel::{Asked, Found, Lookup, Taken};

use crate::netns::Netns;

/// IPv6 keeps an entry for each nexthop and processor, which names the route that it was made for.
#[test]
fn the_way_is_the_packets_own_where_the_route_may_be_anothers() {
    let (node, far) = (Netns::new(), Netns::new());
    node.ip("link add out type veth peer name eth0");
    node.move_link("eth0", &far);
    far.ip("link set eth0 up");
    node.ip("link add in type veth peer name unused");
    for (name, net) in [("in", 1), ("out", 2)] {
        node.ip(&format!("addr add fd00:{net}::1/64 dev {name} nodad"));
        node.ip(&format!("link set {name} up"));
    }
    node.ip("link set unused up");
    node.run(&["sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"]).expect("sysctl");
    node.ip("-6 nexthop add id 10 via fd00:2::2 dev out");
    node.ip("-6 nexthop add id 11 via fd00:2::3 dev out");
    node.ip("nexthop add id 20 group 10/11");
    for (prefix, nexthop) in [("fd00:a::/32", 10), ("fd00:b::/32", 10), ("fd00:c::/32", 20)] {
        node.ip(&format!("-6 route add {prefix} nhid {nexthop}"));
    }
    let address = |text: &str| -> IpAddr { text.parse().expect("an address") };
    node.inside(async || {
        let mut lookup = Lookup::open().expect("a socket");
        for round in 0..8 {
            for to in ["fd00:a::1", "fd00:b::1", "fd00:c::1"] {
                let asked = Asked {
                    from: address(&format!("fd00:1::{}", 9 + round)),
                    to: address(to),
                    interface: "in".to_owned(),
                    mark: 0,
                };
                let found = lookup.ask(&asked).await.expect("answered");
                assert!(matches!(found, Found::Route { .. }), "{to}: {found:?}");
                let Taken { gateway, interface } =
                    lookup.taken(&asked).await.expect("answered").expect("it has a way");
                assert_eq!(interface, "out", "{to}");
                let ways: &[&str] = match to {
                    "fd00:c::1" => &["fd00:2::2", "fd00:2::3"],
                    _ => &["fd00:2::2"],
                };
                assert!(ways.iter().any(|way| gateway == address(way)), "{to}: {gateway}");
            }
        }
        let nowhere = Asked {
            from: address("fd00:1::9"),
            to: address("fd00:d::1"),
            interface: "in".to_owned(),
            mark: 0,
        };
        assert_eq!(lookup.taken(&nowhere).await.expect("answered"), None);
    });
}
