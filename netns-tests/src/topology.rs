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
//! A third site, trd, may stand beside them, with a link (wan2, wan3) to each.
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

/// The sites of every lab; most stories need no more.
pub const SITES: [Site; 2] = [OSL, SVG];

/// Which sites a lab has, and how they are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub sites: &'static [Site],
    pub links: &'static [Link],
}

/// An inter-site link: interface `wanN` at both borders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    pub id: &'static str,
    pub interface: &'static str,
    /// Where it ends, with addresses and prefix lengths there, IPv4 first.
    pub ends: [(Site, [&'static str; 2]); 2],
}

const OSL_SVG_1: Link = Link {
    id: "osl-svg-1",
    interface: "wan0",
    ends: [(OSL, ["172.31.0.1/30", "fd00:f0::1/64"]), (SVG, ["172.31.0.2/30", "fd00:f0::2/64"])],
};
const OSL_SVG_2: Link = Link {
    id: "osl-svg-2",
    interface: "wan1",
    ends: [(OSL, ["172.31.0.5/30", "fd00:f1::1/64"]), (SVG, ["172.31.0.6/30", "fd00:f1::2/64"])],
};
const OSL_TRD: Link = Link {
    id: "osl-trd-1",
    interface: "wan2",
    ends: [(OSL, ["172.31.0.9/30", "fd00:f2::1/64"]), (TRD, ["172.31.0.10/30", "fd00:f2::2/64"])],
};
const SVG_TRD: Link = Link {
    id: "svg-trd-1",
    interface: "wan3",
    ends: [(SVG, ["172.31.0.13/30", "fd00:f3::1/64"]), (TRD, ["172.31.0.14/30", "fd00:f3::2/64"])],
};

/// The links between the first two sites.
pub const LINKS: [Link; 2] = [OSL_SVG_1, OSL_SVG_2];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Without the lab's prefix, for example `osl-b1`.
    pub name: String,
    pub forwards: bool,
    /// Addresses without prefix length on `lo`.
    pub loopback: Vec<String>,
    pub routes: Vec<Route>,
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
    pub const TWO: Self = Self { sites: &SITES, links: &LINKS };
    /// Each site has a link to each other one; the first two have two.
    pub const THREE: Self =
        Self { sites: &[OSL, SVG, TRD], links: &[OSL_SVG_1, OSL_SVG_2, OSL_TRD, SVG_TRD] };

    /// The lab with this number of sites.
    pub fn of(sites: u8) -> Option<Self> {
        match sites {
            2 => Some(Self::TWO),
            3 => Some(Self::THREE),
            _ => None,
        }
    }
}

// === impl Site ===

impl Site {
    pub fn named(id: &str) -> Option<Self> {
        Shape::THREE.sites.iter().copied().find(|s| s.id == id)
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

    pub fn border(&self) -> String {
        format!("{}-b1", self.id)
    }

    pub fn route_node(&self) -> String {
        format!("{}-r1", self.id)
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

    /// The addresses of the border's end of its uplink; `inet` has host number 1.
    pub fn uplink(&self, host: u8) -> [String; 2] {
        let Self { number, .. } = self;
        [format!("198.18.{number}.{host}"), format!("2001:db8:ff:{number}::{host}")]
    }

    /// The interface of `inet` towards this site.
    pub fn inet_interface(&self) -> String {
        format!("to-{}", self.id)
    }

    fn hosts(&self, loopback: Vec<String>) -> [Host; 5] {
        let border = self.addresses(NET_CORE, 2);
        let router = self.addresses(NET_CORE, 3);
        let mut at_border = defaults(&self.uplink(1), "up0");
        let mut at_router = defaults(&border, "up");
        for (prefix, at) in self.prefixes().iter().zip([0, 1, 0, 1]) {
            at_border.push(Route::new(prefix, &router[at], "core"));
        }
        let service_host = self.addresses(NET_SERVICE, 2);
        for (prefix, via) in self.public_prefixes().iter().zip(&service_host) {
            at_router.push(Route::new(prefix, via, "lan"));
        }
        let leaf = |name: String, net: u8, loopback: Vec<String>| Host {
            name,
            forwards: false,
            loopback,
            routes: defaults(&self.addresses(net, 1), "eth0"),
        };
        [
            Host { name: self.border(), forwards: true, loopback: Vec::new(), routes: at_border },
            Host {
                name: self.route_node(),
                forwards: true,
                loopback: Vec::new(),
                routes: at_router,
            },
            leaf(self.client(), NET_CLIENT, Vec::new()),
            leaf(self.service_host(), NET_SERVICE, loopback),
            leaf(self.bus_host(), NET_BUS, Vec::new()),
        ]
    }

    fn wires(&self) -> [Wire; 5] {
        let stub = |interface: &str, net: u8, host: String| Wire {
            a: End::new(&self.route_node(), interface, self.addresses(net, 1), [24, 64]),
            b: End::new(&host, "eth0", self.addresses(net, 2), [24, 64]),
        };
        let core = |host: &str, interface: &str, number: u8| {
            End::new(host, interface, self.addresses(NET_CORE, number), [24, 64])
        };
        [
            Wire { a: core(&self.border(), "core", 2), b: core(&self.route_node(), "up", 3) },
            stub("lan", NET_SERVICE, self.service_host()),
            stub("bus", NET_BUS, self.bus_host()),
            stub("usr", NET_CLIENT, self.client()),
            Wire {
                a: End::new("inet", &self.inet_interface(), self.uplink(1), [30, 64]),
                b: End::new(&self.border(), "up0", self.uplink(2), [30, 64]),
            },
        ]
    }
}

// === impl Link ===

impl Link {
    fn wire(&self) -> Wire {
        let [a, b] = self.ends.map(|(site, addresses)| End {
            host: site.border(),
            interface: self.interface.to_owned(),
            addresses: addresses.map(str::to_owned).to_vec(),
        });
        Wire { a, b }
    }
}

impl Route {
    pub fn new(to: &str, via: &str, dev: &str) -> Self {
        Self { to: to.to_owned(), via: via.to_owned(), dev: dev.to_owned() }
    }
}

impl End {
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

/// The routes by which `inet` reaches the VIPs over one site's uplink.
pub fn vip_routes(site: Site) -> [Route; 2] {
    let [v4, v6] = site.uplink(2);
    let dev = site.inet_interface();
    [Route::new(VIP_RANGES[0], &v4, &dev), Route::new(VIP_RANGES[1], &v6, &dev)]
}

// === impl Topology ===

impl Topology {
    /// `loopback` says what each site's service host answers for.
    pub fn new(shape: Shape, loopback: impl Fn(Site) -> Vec<String>) -> Self {
        let mut hosts = Vec::new();
        let mut wires: Vec<Wire> = shape.links.iter().map(Link::wire).collect();
        let mut inet_routes = vip_routes(SITES[0]).to_vec();
        for site in shape.sites {
            hosts.extend(site.hosts(loopback(*site)));
            wires.extend(site.wires());
            let vias = site.uplink(2);
            for (prefix, via) in site.public_prefixes().iter().zip(&vias) {
                inet_routes.push(Route::new(prefix, via, &site.inet_interface()));
            }
        }
        let towards_outside = ["198.51.100.1".to_owned(), "2001:db8:cc::1".to_owned()];
        let outside = [OUTSIDE_V4.to_owned(), OUTSIDE_V6.to_owned()];
        hosts.push(Host {
            name: "inet".to_owned(),
            forwards: true,
            loopback: Vec::new(),
            routes: inet_routes,
        });
        hosts.push(Host {
            name: OUTSIDE.to_owned(),
            forwards: false,
            loopback: Vec::new(),
            routes: defaults(&towards_outside, "eth0"),
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
        let lab = Topology::new(Shape::THREE, |s| vec![s.public(10)[0].clone()]);
        let hosts: BTreeSet<&str> = lab.hosts.iter().map(|h| h.name.as_str()).collect();
        assert_eq!(hosts.len(), lab.hosts.len());
        let (mut interfaces, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        for end in lab.wires.iter().flat_map(|w| [&w.a, &w.b]) {
            assert!(hosts.contains(end.host.as_str()), "{}", end.host);
            assert!(interfaces.insert((&end.host, &end.interface)), "{end:?}");
            for address in &end.addresses {
                assert!(addresses.insert(address), "{address}");
            }
        }
    }

    #[test]
    fn every_route_leaves_by_an_interface_its_host_has() {
        let lab = Topology::new(Shape::THREE, |_| Vec::new());
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
