//! The lab as data: hosts, wires, addresses, routes. Nothing here touches the machine.
//!
//! ```text
//!   outside ── inet ─┬─ up0 osl-b1 ══ wan0, wan1 ══ svg-b1 up0 ─┬─ inet
//!                        core │                        │ core
//!                          up │                        │ up
//!                         osl-r1                     svg-r1
//!               usr │  lan │  bus │        usr │  lan │  bus │
//!              osl-c1  osl-s1  osl-n1     svg-c1  svg-s1  svg-n1
//! ```
//! A third site, trd, may stand beside them, with a link (wan2, wan3) to each, and a fourth, bgo,
//! with links (wan4, wan5) to the first two.
//!
//! A lab in pairs has two borders and two route nodes at each site, on one switch:
//!
//! ```text
//!    up0 osl-b1 ══ wan0 ══ svg-b1 up0        b1 ══ wan1 ══ b2 across, and b2 ══ wan2 ══ b1
//!    up0 osl-b2 ══ wan0 ══ svg-b2 up0
//!          └── core ── osl-sw ── up ──┬── osl-r1 ── eth0 of every host
//!                                     └── osl-r2 ── eth1 of every host
//! ```
//! Hosts spread over both route nodes and answer by the one that asked; between borders and route
//! nodes BIRD keeps the site's own routes, with BFD, as a site's own routing would.
//! Every network of a site has the same number at every site, so that an address tells its place:
//! `10.SITE.NET.HOST` and `fd00:LETTER:NET::HOST`.

/// The ranges every VIP lies in.
pub const VIP_RANGES: [&str; 2] = ["10.99.0.0/16", "fd00:99::/48"];

/// The host behind `inet`, and its addresses.
pub const OUTSIDE: &str = "outside";
pub const OUTSIDE_V4: &str = "198.51.100.2";
pub const OUTSIDE_V6: &str = "2001:db8:cc::2";

/// Networks of a site: between border and route node, of services, of the bus, of clients.
pub const NET_CORE: u8 = 1;
pub const NET_SERVICE: u8 = 20;
pub const NET_BUS: u8 = 30;
pub const NET_CLIENT: u8 = 40;

/// The host numbers on the uplink of a border: of `inet`, and of the border itself.
pub const UPLINK_INET: u8 = 1;
pub const UPLINK_BORDER: u8 = 2;

/// A site of the lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Site {
    pub id: &'static str,
    /// Second number of its IPv4 addresses, and its rank.
    pub number: u8,
    /// Second group of its IPv6 addresses.
    pub letter: char,
    pub region: &'static str,
}

const OSL: Site = Site { id: "osl", number: 1, letter: 'a', region: "no" };
const SVG: Site = Site { id: "svg", number: 2, letter: 'b', region: "no" };
const TRD: Site = Site { id: "trd", number: 3, letter: 'c', region: "no" };
const BGO: Site = Site { id: "bgo", number: 4, letter: 'd', region: "no" };

/// The sites of every lab; most stories need no more.
pub const SITES: [Site; 2] = [OSL, SVG];

/// Which sites a lab has, and how they are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub sites: &'static [Site],
    pub links: &'static [Link],
    /// How many borders a site has, and how many route nodes: 1, or 2.
    pub nodes: u8,
}

/// An inter-site link: interface `wanN` at both borders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    pub id: &'static str,
    pub interface: &'static str,
    /// Where it ends, with addresses and prefix lengths there, IPv4 first.
    pub ends: [(Site, [&'static str; 2]); 2],
    /// At which border of each of the sites.
    pub borders: [u8; 2],
}

const OSL_SVG_1: Link = Link {
    id: "osl-svg-1",
    interface: "wan0",
    ends: [(OSL, ["172.31.0.1/30", "fd00:f0::1/64"]), (SVG, ["172.31.0.2/30", "fd00:f0::2/64"])],
    borders: [1, 1],
};
const OSL_SVG_2: Link = Link {
    id: "osl-svg-2",
    interface: "wan1",
    ends: [(OSL, ["172.31.0.5/30", "fd00:f1::1/64"]), (SVG, ["172.31.0.6/30", "fd00:f1::2/64"])],
    borders: [1, 1],
};
const OSL_TRD: Link = Link {
    id: "osl-trd-1",
    interface: "wan2",
    ends: [(OSL, ["172.31.0.9/30", "fd00:f2::1/64"]), (TRD, ["172.31.0.10/30", "fd00:f2::2/64"])],
    borders: [1, 1],
};
const SVG_TRD: Link = Link {
    id: "svg-trd-1",
    interface: "wan3",
    ends: [(SVG, ["172.31.0.13/30", "fd00:f3::1/64"]), (TRD, ["172.31.0.14/30", "fd00:f3::2/64"])],
    borders: [1, 1],
};
const OSL_BGO: Link = Link {
    id: "osl-bgo-1",
    interface: "wan4",
    ends: [(OSL, ["172.31.0.25/30", "fd00:f6::1/64"]), (BGO, ["172.31.0.26/30", "fd00:f6::2/64"])],
    borders: [1, 1],
};
const SVG_BGO: Link = Link {
    id: "svg-bgo-1",
    interface: "wan5",
    ends: [(SVG, ["172.31.0.29/30", "fd00:f7::1/64"]), (BGO, ["172.31.0.30/30", "fd00:f7::2/64"])],
    borders: [1, 1],
};

const PAIR_1: Link = Link { id: "osl-svg-1", ..OSL_SVG_1 };
const PAIR_2: Link = Link { id: "osl-svg-2", interface: "wan0", borders: [2, 2], ..OSL_SVG_2 };
const PAIR_3: Link = Link {
    id: "osl-svg-3",
    interface: "wan1",
    ends: [(OSL, ["172.31.0.17/30", "fd00:f4::1/64"]), (SVG, ["172.31.0.18/30", "fd00:f4::2/64"])],
    borders: [1, 2],
};
const PAIR_4: Link = Link {
    id: "osl-svg-4",
    interface: "wan2",
    ends: [(OSL, ["172.31.0.21/30", "fd00:f5::1/64"]), (SVG, ["172.31.0.22/30", "fd00:f5::2/64"])],
    borders: [2, 1],
};

/// The links between the first two sites.
pub const LINKS: [Link; 2] = [OSL_SVG_1, OSL_SVG_2];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Without the lab's prefix, for example `osl-b1`.
    pub name: String,
    pub forwards: bool,
    /// All its interfaces are ports of one bridge.
    pub switches: bool,
    /// Addresses without prefix length on `lo`.
    pub loopback: Vec<String>,
    pub routes: Vec<Route>,
    /// The gateways behind `eth0`, `eth1`, ..., each with one address of each family, where there
    /// are several: the host spreads over them, and answers by the one that asked.
    pub gateways: Vec<[String; 2]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub to: String,
    pub via: String,
    pub dev: String,
}

/// A veth pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wire {
    pub a: End,
    pub b: End,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    pub host: String,
    pub interface: String,
    /// With prefix length.
    pub addresses: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    pub hosts: Vec<Host>,
    pub wires: Vec<Wire>,
}

// === impl Shape ===

impl Shape {
    pub const TWO: Self = Self { sites: &SITES, links: &LINKS, nodes: 1 };
    /// Each site has a link to each other one; the first two have two.
    pub const THREE: Self = Self {
        sites: &[OSL, SVG, TRD],
        links: &[OSL_SVG_1, OSL_SVG_2, OSL_TRD, SVG_TRD],
        nodes: 1,
    };
    /// The three, which vote, and a fourth one without a voter.
    pub const FOUR: Self = Self {
        sites: &[OSL, SVG, TRD, BGO],
        links: &[OSL_SVG_1, OSL_SVG_2, OSL_TRD, SVG_TRD, OSL_BGO, SVG_BGO],
        nodes: 1,
    };
    /// Two sites with two borders and two route nodes each; every border has a link to both of the
    /// other site.
    pub const PAIRS: Self =
        Self { sites: &SITES, links: &[PAIR_1, PAIR_2, PAIR_3, PAIR_4], nodes: 2 };

    /// The lab with this number of sites, and of borders and route nodes at each.
    pub fn of(sites: u8, nodes: u8) -> Option<Self> {
        match (sites, nodes) {
            (2, 1) => Some(Self::TWO),
            (3, 1) => Some(Self::THREE),
            (4, 1) => Some(Self::FOUR),
            (2, 2) => Some(Self::PAIRS),
            _ => None,
        }
    }

    /// The places at a site for borders, and for route nodes.
    pub fn numbers(&self) -> std::ops::RangeInclusive<u8> {
        1..=self.nodes
    }
}

// === impl Site ===

impl Site {
    pub fn named(id: &str) -> Option<Self> {
        Shape::FOUR.sites.iter().copied().find(|s| s.id == id)
    }

    /// Both addresses of a host of this site, without prefix length, IPv4 first.
    pub fn addresses(&self, net: u8, host: u8) -> [String; 2] {
        let Self { number, letter, .. } = self;
        [format!("10.{number}.{net}.{host}"), format!("fd00:{letter}:{net}::{host}")]
    }

    /// The public addresses number `host` (below 62) that DNS may answer for this site.
    pub fn public(&self, host: u8) -> [String; 2] {
        let Self { number, letter, .. } = self;
        [format!("192.0.2.{}", (number - 1) * 64 + host), format!("2001:db8:{letter}::{host}")]
    }

    /// Private and public prefixes, IPv4 before IPv6 each.
    pub fn prefixes(&self) -> [String; 4] {
        let Self { number, letter, .. } = self;
        let [public4, public6] = self.public_prefixes();
        [format!("10.{number}.0.0/16"), format!("fd00:{letter}::/32"), public4, public6]
    }

    pub fn public_prefixes(&self) -> [String; 2] {
        let Self { number, letter, .. } = self;
        [format!("192.0.2.{}/26", (number - 1) * 64), format!("2001:db8:{letter}::/48")]
    }

    /// The first border.
    pub fn border(&self) -> String {
        self.nth_border(1)
    }

    pub fn nth_border(&self, number: u8) -> String {
        format!("{}-b{number}", self.id)
    }

    /// The first route node.
    pub fn route_node(&self) -> String {
        self.nth_route_node(1)
    }

    pub fn nth_route_node(&self, number: u8) -> String {
        format!("{}-r{number}", self.id)
    }

    /// The addresses of a border on the network between borders and route nodes.
    pub fn border_core(&self, number: u8) -> [String; 2] {
        self.addresses(NET_CORE, 2 * number)
    }

    /// The addresses of a route node on the network between borders and route nodes.
    pub fn route_core(&self, number: u8) -> [String; 2] {
        self.addresses(NET_CORE, 2 * number + 1)
    }

    /// The switch between several borders and route nodes.
    pub fn switch(&self) -> String {
        format!("{}-sw", self.id)
    }

    pub fn client(&self) -> String {
        format!("{}-c1", self.id)
    }

    pub fn service_host(&self) -> String {
        format!("{}-s1", self.id)
    }

    pub fn bus_host(&self) -> String {
        format!("{}-n1", self.id)
    }

    /// The addresses of the uplink of a border: of `inet` or of the border.
    pub fn uplink(&self, border: u8, host: u8) -> [String; 2] {
        let Self { number, .. } = self;
        let (low, net) = ((border - 1) * 4 + host, (border - 1) * 16 + number);
        [format!("198.18.{number}.{low}"), format!("2001:db8:ff:{net}::{host}")]
    }

    /// The interface of `inet` towards a border of this site.
    pub fn inet_interface(&self, border: u8) -> String {
        match border {
            1 => format!("to-{}", self.id),
            other => format!("to-{}{other}", self.id),
        }
    }

    fn hosts(&self, shape: Shape, loopback: Vec<String>) -> Vec<Host> {
        let plain = |name: String| Host {
            name,
            forwards: true,
            switches: false,
            loopback: Vec::new(),
            routes: Vec::new(),
            gateways: Vec::new(),
        };
        let mut hosts = Vec::new();
        for number in shape.numbers() {
            let mut routes = defaults(&self.uplink(number, UPLINK_INET), "up0");
            if shape.nodes == 1 {
                let router = self.route_core(1);
                for (prefix, at) in self.prefixes().iter().zip([0, 1, 0, 1]) {
                    routes.push(Route::new(prefix, &router[at], "core"));
                }
            }
            hosts.push(Host { routes, ..plain(self.nth_border(number)) });
        }
        for number in shape.numbers() {
            let mut routes = match shape.nodes {
                1 => defaults(&self.border_core(1), "up"),
                _ => Vec::new(),
            };
            let service_host = self.addresses(NET_SERVICE, 2);
            for (prefix, via) in self.public_prefixes().iter().zip(&service_host) {
                routes.push(Route::new(prefix, via, "lan"));
            }
            hosts.push(Host { routes, ..plain(self.nth_route_node(number)) });
        }
        let leaf = |name: String, net: u8, loopback: Vec<String>| {
            let gateways = shape.numbers().map(|n| self.addresses(net, gateway(n)));
            let gateways: Vec<_> = gateways.collect();
            match gateways.as_slice() {
                [one] => {
                    Host { forwards: false, loopback, routes: defaults(one, "eth0"), ..plain(name) }
                }
                _ => Host { forwards: false, loopback, gateways, ..plain(name) },
            }
        };
        hosts.push(leaf(self.client(), NET_CLIENT, Vec::new()));
        hosts.push(leaf(self.service_host(), NET_SERVICE, loopback));
        hosts.push(leaf(self.bus_host(), NET_BUS, Vec::new()));
        if shape.nodes > 1 {
            hosts.push(Host { forwards: false, switches: true, ..plain(self.switch()) });
        }
        hosts
    }

    fn wires(&self, shape: Shape) -> Vec<Wire> {
        let end =
            |host: &str, interface: &str, addresses| End::new(host, interface, addresses, [24, 64]);
        let mut wires = Vec::new();
        match shape.nodes {
            1 => wires.push(Wire {
                a: end(&self.border(), "core", self.border_core(1)),
                b: end(&self.route_node(), "up", self.route_core(1)),
            }),
            _ => {
                for number in shape.numbers() {
                    let (border, router) = (self.nth_border(number), self.nth_route_node(number));
                    for (host, interface, addresses) in [
                        (border, "core", self.border_core(number)),
                        (router, "up", self.route_core(number)),
                    ] {
                        let port = End::bare(&self.switch(), &host);
                        wires.push(Wire { a: end(&host, interface, addresses), b: port });
                    }
                }
            }
        }
        for number in shape.numbers() {
            for (interface, net, host) in [
                ("lan", NET_SERVICE, self.service_host()),
                ("bus", NET_BUS, self.bus_host()),
                ("usr", NET_CLIENT, self.client()),
            ] {
                let router = self.nth_route_node(number);
                wires.push(Wire {
                    a: end(&router, interface, self.addresses(net, gateway(number))),
                    b: end(&host, &format!("eth{}", number - 1), self.addresses(net, 2)),
                });
            }
            let interface = self.inet_interface(number);
            wires.push(Wire {
                a: End::new("inet", &interface, self.uplink(number, UPLINK_INET), [30, 64]),
                b: End::new(
                    &self.nth_border(number),
                    "up0",
                    self.uplink(number, UPLINK_BORDER),
                    [30, 64],
                ),
            });
        }
        wires
    }
}

/// The host number of a route node on the networks of hosts, which have 2.
fn gateway(route_node: u8) -> u8 {
    2 * route_node - 1
}

// === impl Link ===

impl Link {
    fn wire(&self) -> Wire {
        let [a, b] = [0, 1].map(|end| End {
            host: self.node(end),
            interface: self.interface.to_owned(),
            addresses: self.ends[end].1.map(str::to_owned).to_vec(),
        });
        Wire { a, b }
    }

    /// The border at one of its ends, 0 or 1.
    pub fn node(&self, end: usize) -> String {
        self.ends[end].0.nth_border(self.borders[end])
    }
}

impl Route {
    pub fn new(to: &str, via: &str, dev: &str) -> Self {
        Self { to: to.to_owned(), via: via.to_owned(), dev: dev.to_owned() }
    }
}

impl End {
    /// A port of a switch, named after what is behind it.
    fn bare(switch: &str, behind: &str) -> Self {
        Self { host: switch.to_owned(), interface: behind.to_owned(), addresses: Vec::new() }
    }

    fn new(host: &str, interface: &str, addresses: [String; 2], lengths: [u8; 2]) -> Self {
        let with_length = addresses.iter().zip(lengths);
        Self {
            host: host.to_owned(),
            interface: interface.to_owned(),
            addresses: with_length.map(|(a, l)| format!("{a}/{l}")).collect(),
        }
    }
}

fn defaults(gateways: &[String; 2], dev: &str) -> Vec<Route> {
    let [v4, v6] = gateways;
    vec![Route::new("0.0.0.0/0", v4, dev), Route::new("::/0", v6, dev)]
}

/// The routes by which `inet` reaches the VIPs over the uplink of one border.
pub fn vip_routes(site: Site, border: u8) -> [Route; 2] {
    let [v4, v6] = site.uplink(border, UPLINK_BORDER);
    let dev = site.inet_interface(border);
    [Route::new(VIP_RANGES[0], &v4, &dev), Route::new(VIP_RANGES[1], &v6, &dev)]
}

// === impl Topology ===

impl Topology {
    /// `loopback` says what each site's service host answers for.
    pub fn new(shape: Shape, loopback: impl Fn(Site) -> Vec<String>) -> Self {
        let mut hosts = Vec::new();
        let mut wires: Vec<Wire> = shape.links.iter().map(Link::wire).collect();
        let mut inet_routes = vip_routes(SITES[0], 1).to_vec();
        for site in shape.sites {
            hosts.extend(site.hosts(shape, loopback(*site)));
            wires.extend(site.wires(shape));
            let vias = site.uplink(1, UPLINK_BORDER);
            for (prefix, via) in site.public_prefixes().iter().zip(&vias) {
                inet_routes.push(Route::new(prefix, via, &site.inet_interface(1)));
            }
        }
        let towards_outside = ["198.51.100.1".to_owned(), "2001:db8:cc::1".to_owned()];
        let outside = [OUTSIDE_V4.to_owned(), OUTSIDE_V6.to_owned()];
        hosts.push(Host {
            name: "inet".to_owned(),
            forwards: true,
            switches: false,
            loopback: Vec::new(),
            routes: inet_routes,
            gateways: Vec::new(),
        });
        hosts.push(Host {
            name: OUTSIDE.to_owned(),
            forwards: false,
            switches: false,
            loopback: Vec::new(),
            routes: defaults(&towards_outside, "eth0"),
            gateways: Vec::new(),
        });
        wires.push(Wire {
            a: End::new("inet", "to-outside", towards_outside, [24, 64]),
            b: End::new(OUTSIDE, "eth0", outside, [24, 64]),
        });
        Self { hosts, wires }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_wire_end_is_a_known_host_and_no_interface_or_address_is_used_twice() {
        nothing_is_used_twice(Shape::FOUR);
        nothing_is_used_twice(Shape::PAIRS);
    }

    fn nothing_is_used_twice(shape: Shape) {
        let lab = Topology::new(shape, |s| vec![s.public(10)[0].clone()]);
        let hosts: BTreeSet<&str> = lab.hosts.iter().map(|h| h.name.as_str()).collect();
        assert_eq!(hosts.len(), lab.hosts.len());
        let (mut interfaces, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        for end in lab.wires.iter().flat_map(|w| [&w.a, &w.b]) {
            assert!(hosts.contains(end.host.as_str()), "{}", end.host);
            assert!(interfaces.insert((&end.host, &end.interface)), "{end:?}");
            let by_two_wires = |host: &Host| host.name == end.host && !host.gateways.is_empty();
            for address in &end.addresses {
                let fresh = addresses.insert(address);
                assert!(fresh || lab.hosts.iter().any(by_two_wires), "{address}");
            }
        }
    }

    #[test]
    fn every_route_leaves_by_an_interface_its_host_has() {
        let lab = Topology::new(Shape::FOUR, |_| Vec::new());
        for host in &lab.hosts {
            for route in &host.routes {
                let ends = lab.wires.iter().flat_map(|w| [&w.a, &w.b]);
                let found = ends.filter(|e| e.host == host.name).any(|e| e.interface == route.dev);
                assert!(found, "{}: {route:?}", host.name);
            }
        }
    }

    #[test]
    fn public_addresses_lie_in_the_public_prefix_of_their_site() {
        let [osl, svg] = SITES;
        assert_eq!(osl.public(10)[0], "192.0.2.10");
        assert_eq!(svg.public(10)[0], "192.0.2.74");
        assert_eq!(svg.public_prefixes()[0], "192.0.2.64/26");
    }
}
