//! Turns a [`Topology`] into namespaces, veth pairs, addresses and routes, in few processes.
//!
//! Order matters: sysctls of `default` are written before interfaces exist, so that each interface
//! is born with them (no duplicate address detection, no redirects, no reverse path filter).

use anyhow::{Context, Result, bail};

use crate::eventually::{eventually, patience};
use crate::netns::{Netns, batch};
use crate::topology::{End, Host, Shape, Topology, VIP_RANGES, Wire};

const EVERYWHERE: &[(&str, &str)] = &[
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv4/conf/all/accept_redirects", "0"),
    ("ipv4/conf/default/accept_redirects", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/all/accept_ra", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/all/keep_addr_on_down", "1"),
    ("ipv6/conf/default/keep_addr_on_down", "1"),
];

const FORWARDING: &[(&str, &str)] = &[
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv6/conf/default/forwarding", "1"),
    ("ipv4/fib_multipath_hash_policy", "1"),
    ("ipv6/fib_multipath_hash_policy", "1"),
    ("ipv4/nexthop_compat_mode", "0"),
];

/// On hosts with several gateways.
const SPREADING: &[(&str, &str)] = &[
    ("ipv4/fib_multipath_hash_policy", "1"),
    ("ipv6/fib_multipath_hash_policy", "1"),
    ("ipv4/conf/all/ignore_routes_with_linkdown", "1"),
    ("ipv6/conf/all/ignore_routes_with_linkdown", "1"),
    ("ipv6/conf/default/ignore_routes_with_linkdown", "1"),
];

/// The namespace of a host in a lab with this prefix.
pub(crate) fn namespace(prefix: &str, host: &str) -> String {
    format!("{prefix}-{host}")
}

/// Creates everything. A failure leaves a part behind, which the state file names.
pub(crate) fn create(prefix: &str, topology: &Topology, shape: Shape) -> Result<()> {
    let names = topology.hosts.iter().map(|h| namespace(prefix, &h.name));
    let add: Vec<String> = names.map(|n| format!("netns add {n}")).collect();
    batch("ip", &["-batch", "-"], &add).context("cannot create the lab's namespaces")?;
    in_parallel(&topology.hosts, |host| {
        let ns = Netns::named(namespace(prefix, &host.name));
        ns.sysctl(EVERYWHERE)?;
        if host.forwards {
            ns.sysctl(FORWARDING)?;
        }
        if !host.gateways.is_empty() {
            ns.sysctl(SPREADING)?;
        }
        Ok(())
    })?;
    let numbered = topology.wires.iter().zip((100..).step_by(2));
    let wires: Vec<String> = numbered.map(|(w, index)| veth(prefix, w, index)).collect();
    batch("ip", &["-batch", "-"], &wires).context("cannot create the lab's wires")?;
    in_parallel(&topology.hosts, |host| {
        let ends = topology.wires.iter().flat_map(|w| [&w.a, &w.b]);
        let own: Vec<&End> = ends.filter(|e| e.host == host.name).collect();
        let ns = Netns::named(namespace(prefix, &host.name));
        ns.ip_batch(&host_lines(host, &own))
    })?;
    in_parallel(&topology.hosts, |host| {
        let ns = Netns::named(namespace(prefix, &host.name));
        eventually(patience(), "every interface is up", || all_up(&ns))?;
        // A route by an interface without carrier is none on hosts that spread.
        if host.gateways.is_empty() { Ok(()) } else { spread(&ns, host) }
    })?;
    Netns::named(namespace(prefix, "inet")).nft(&watch_script(shape))
}

/// Spreads a host's traffic over its gateways; what answers a flow goes back to the gateway that
/// the flow came from.
fn spread(ns: &Netns, host: &Host) -> Result<()> {
    let (mut ways, mut marks) = ([String::new(), String::new()], String::new());
    for (number, gateway) in host.gateways.iter().enumerate() {
        let (dev, mark) = (format!("eth{number}"), number + 1);
        for (family, ways) in ["", "-6 "].iter().zip(&mut ways) {
            let via = &gateway[usize::from(!family.is_empty())];
            *ways += &format!(" nexthop via {via} dev {dev}");
            let table = 100 + mark;
            ns.ip(&format!("{family}route add default via {via} dev {dev} table {table}"))?;
            ns.ip(&format!("{family}rule add fwmark {mark} lookup {table} pref 100"))?;
        }
        marks += &format!("iifname \"{dev}\" ct direction original ct mark set {mark}\n");
    }
    for (family, ways) in ["", "-6 "].iter().zip(&ways) {
        ns.ip(&format!("{family}route add default{ways}"))?;
    }
    ns.nft(&format!(
        "table inet back {{\n\
         chain come {{ type filter hook prerouting priority -150\n{marks} }}\n\
         chain go {{ type route hook output priority -150\n\
         ct direction reply meta mark set ct mark\n }}\n}}\n"
    ))
}

/// One thread per host: most of the time goes into starting `ip`.
fn in_parallel(hosts: &[Host], job: impl Fn(&Host) -> Result<()> + Sync) -> Result<()> {
    std::thread::scope(|scope| {
        let job = &job;
        let threads: Vec<_> = hosts.iter().map(|h| scope.spawn(move || job(h))).collect();
        threads.into_iter().try_for_each(|t| t.join().expect("the jobs return their errors"))
    })
}

/// The kernel activates an interface's queue a moment after both ends are up, and drops what is
/// sent before.
fn all_up(ns: &Netns) -> Result<()> {
    let links: Vec<serde_json::Value> = serde_json::from_str(&ns.ip("-j link show")?)?;
    let is_down = |l: &&serde_json::Value| l["ifname"] != "lo" && l["operstate"] != "UP";
    match links.iter().find(is_down) {
        Some(link) => bail!("{}: {} is {}", ns.name(), link["ifname"], link["operstate"]),
        None => Ok(()),
    }
}

/// The two ends get different interface indexes on purpose: the kernel tells a carrier change at
/// once when an interface's index differs from its peer's, else with up to a second's delay
/// (`linkwatch_urgent_event` in net/core/link_watch.c), and indexes count per namespace.
fn veth(prefix: &str, wire: &Wire, index: u32) -> String {
    let Wire { a, b } = wire;
    format!(
        "link add name {} index {index} netns {} type veth peer name {} index {} netns {}",
        a.interface,
        namespace(prefix, &a.host),
        b.interface,
        index + 1,
        namespace(prefix, &b.host)
    )
}

fn host_lines(host: &Host, ends: &[&End]) -> Vec<String> {
    let mut lines = vec!["link set lo up".to_owned()];
    if host.switches {
        lines.push("link add name switch type bridge mcast_snooping 0".to_owned());
        lines.push("link set dev switch up".to_owned());
    }
    for end in ends {
        if host.switches {
            lines.push(format!("link set dev {} master switch", end.interface));
        }
        for address in &end.addresses {
            lines.push(address_line(address, &end.interface));
        }
        lines.push(format!("link set dev {} up", end.interface));
    }
    for address in &host.loopback {
        let length = if address.contains(':') { 128 } else { 32 };
        lines.push(address_line(&format!("{address}/{length}"), "lo"));
    }
    for route in &host.routes {
        lines.push(route_line("add", route));
    }
    lines
}

fn address_line(address: &str, interface: &str) -> String {
    let nodad = if address.contains(':') { " nodad" } else { "" };
    format!("address add {address} dev {interface}{nodad}")
}

pub(crate) fn route_line(verb: &str, route: &crate::topology::Route) -> String {
    let crate::topology::Route { to, via, dev } = route;
    format!("route {verb} {to} via {via} dev {dev}")
}

/// Counters for what must never come out of a border's uplink. Packets to VIPs and private
/// addresses end here, as they would at a provider; those to another site's public addresses are
/// counted and go on.
fn watch_script(shape: Shape) -> String {
    let sites = shape.sites;
    let [vip4, vip6] = VIP_RANGES;
    let mut counters = String::new();
    let mut rules = String::new();
    for site in sites {
        let id = site.id;
        let from = shape.numbers().map(|n| format!("\"{}\"", site.inet_interface(n)));
        let from = format!("iifname {{ {} }}", from.collect::<Vec<_>>().join(", "));
        for kind in ["vip", "private", "public"] {
            counters += &format!("  counter {kind}_{id} {{ }}\n");
        }
        rules += &format!("    {from} ip daddr {vip4} counter name vip_{id} drop\n");
        rules += &format!("    {from} ip6 daddr {vip6} counter name vip_{id} drop\n");
        let private4 = "{ 10.0.0.0/8, 172.16.0.0/12 }";
        rules += &format!("    {from} ip daddr {private4} counter name private_{id} drop\n");
        rules += &format!("    {from} ip6 daddr fc00::/7 counter name private_{id} drop\n");
        for other in sites.iter().filter(|s| *s != site) {
            let [public4, public6] = other.public_prefixes();
            rules += &format!("    {from} ip daddr {public4} counter name public_{id}\n");
            rules += &format!("    {from} ip6 daddr {public6} counter name public_{id}\n");
        }
    }
    format!(
        "table inet watch {{\n{counters}  chain incoming {{\n    \
         type filter hook prerouting priority -300; policy accept;\n{rules}  }}\n}}\n"
    )
}
