//! Random fabrics: two to seven sites, one or two borders, up to two route nodes each, links
//! between all pairs, services of every kind. They go through the same compiler as real files.

use std::collections::BTreeMap;
use std::fmt::Write;

use fastrand::Rng;
use nett_policy::document::{SourceFile, compile};
use nett_policy::fabric::Fabric;
use nett_policy::service::Catalog;
use nkeys::{KeyPair, KeyPairType};

const SITES: [&str; 7] = ["osl", "svg", "trd", "bgo", "tos", "ham", "cph"];
/// The name of the site at this place.
fn site_name(at: usize) -> &'static str {
    SITES[at]
}

/// All operators may command and approve.
pub(crate) const OPERATORS: [&str; 3] = ["mira", "jon", "kim"];
/// Agents of the largest fabrics.
const MOST_AGENTS: usize = 30;

/// A fabric with the keys of its nodes and operators, by name.
pub(crate) struct Shape {
    pub(crate) fabric: Fabric,
    pub(crate) catalog: Catalog,
    pub(crate) keys: BTreeMap<String, KeyPair>,
    /// How far clocks are off at most, in millionths.
    pub(crate) drift: i64,
}

struct Node {
    name: String,
    site: usize,
    border: bool,
    number: u8,
}

/// Writes the two files of a fabric.
struct Writer<'r> {
    rng: &'r mut Rng,
    keys: BTreeMap<String, KeyPair>,
    nodes: Vec<Node>,
    sites: usize,
    text: String,
    leased: bool,
    /// One leased service that everybody may move, and no other.
    bare: bool,
    /// Services that answer with other addresses at each site, one of each kind.
    named: bool,
    drift: i64,
}

/// Three to five sites with voters, and services under a lease among the others.
pub(crate) fn leased_shape(rng: &mut Rng) -> Shape {
    let sites = if rng.u8(0..4) == 0 { rng.usize(4..=5) } else { 3 };
    Writer { leased: true, ..Writer::new(rng, sites) }.write()
}

/// Four sites, three of them with voters, and services under a lease among the others.
pub(crate) fn voters_shape(rng: &mut Rng) -> Shape {
    Writer { leased: true, ..Writer::new(rng, 4) }.write()
}

/// Three sites that each have a voter, and one leased service. Clocks differ by as much as the wait
/// has room for.
pub(crate) fn trap_shape(rng: &mut Rng) -> Shape {
    Writer { leased: true, bare: true, drift: 200_000, ..Writer::new(rng, 3) }.write()
}

/// Three sites, clients in prefixes within prefixes, and a service of each kind with addresses of
/// its own at each site.
pub(crate) fn named_shape(rng: &mut Rng) -> Shape {
    Writer { leased: true, named: true, ..Writer::new(rng, 3) }.write()
}

/// Most are small, so that many fit into a minute; all sizes occur.
pub(crate) fn shape(rng: &mut Rng) -> Shape {
    let sites = match rng.u8(0..20) {
        0..11 => 2,
        11..17 => 3,
        17..19 => 4,
        _ => rng.usize(5..=7),
    };
    Writer::new(rng, sites).write()
}

/// Distinct for distinct names.
fn pair(name: &str) -> KeyPair {
    let mut raw = [7; 32];
    raw[..name.len()].copy_from_slice(name.as_bytes());
    KeyPair::new_from_raw(KeyPairType::User, raw).expect("a key from 32 bytes")
}

impl<'r> Writer<'r> {
    fn new(rng: &'r mut Rng, sites: usize) -> Self {
        let (keys, nodes, text) = (BTreeMap::new(), Vec::new(), String::new());
        Self {
            rng,
            keys,
            nodes,
            sites,
            text,
            leased: false,
            bare: false,
            named: false,
            drift: 5000,
        }
    }

    fn write(mut self) -> Shape {
        self.head();
        self.nodes();
        self.links();
        self.operators();
        if self.named {
            self.clients();
        }
        if !self.leased {
            self.clusters();
        }
        let fabric = std::mem::take(&mut self.text);
        if self.named {
            self.named_services()
        } else {
            self.services()
        }
        let files = [("fabric.toml", fabric), ("services.toml", self.text)]
            .map(|(name, text)| SourceFile::new(name.to_owned(), text));
        let compiled = compile(&files[0], &files[1]);
        let (fabric, catalog) = compiled.unwrap_or_else(|problems| panic!("{problems:#?}"));
        Shape { fabric, catalog, keys: self.keys, drift: self.drift }
    }

    fn line(&mut self, line: &str) {
        writeln!(self.text, "{line}").expect("text grows");
    }

    fn key(&mut self, name: &str) -> String {
        let public = pair(name).public_key();
        self.keys.insert(name.to_owned(), pair(name));
        public
    }

    fn head(&mut self) {
        self.line("[fabric]\nname = \"simulated\"\ngeneration = 1");
        self.line("vip_ranges = [\"10.99.0.0/16\", \"fd00:99::/48\"]");
        if self.leased {
            // 5 s (1 + rho) / (1 - rho) + 1 s: 9 s for clocks that are 20 % off.
            let wait = if self.bare { 9 } else { 7 };
            self.line(&format!("lease = {{ duration = \"5s\", wait = \"{wait}s\" }}"));
        }
        self.line("[zone]\nname = \"steer.example.\"\nhostmaster = \"dns.example.\"");
        self.line("ns = [{ name = \"ns1.steer.example.\", addresses = [\"10.1.0.53\"] }]");
        let (admin, system) = (self.key("bus admin"), self.key("bus system"));
        self.line(&format!("[bus]\nadmin = \"{admin}\"\nsystem = \"{system}\"\nca = \"ca.crt\""));
        for (nth, name) in SITES.iter().enumerate().take(self.sites) {
            let leaf = self.key(&format!("leaf {name}"));
            let n = nth + 1;
            self.line(&format!(
                "[[site]]\nid = \"{name}\"\nregion = \"no\"\nrank = {n}\ncapacity = 100\n\
                 prefixes = [\"10.{n}.0.0/16\", \"fd00:{n}::/32\"]\n\
                 nats = [\"tls://nats.{name}.example:4222\"]\n\
                 leaf = [\"tls://nats.{name}.example:7422\"]\nleaf_key = \"{leaf}\""
            ));
        }
    }

    fn nodes(&mut self) {
        let most = MOST_AGENTS / self.sites;
        for site in 0..self.sites {
            let borders = if most > 2 { self.rng.usize(1..=2) } else { 1 };
            let routes = self.rng.usize(0..=2.min(most - borders));
            for nth in 0..borders + routes {
                let border = nth < borders;
                let kind = if border { 'b' } else { 'r' };
                let name = format!("{}-{kind}{nth}", site_name(site));
                let number = u8::try_from(nth + 2).expect("four at most");
                self.nodes.push(Node { name, site, border, number });
            }
        }
        for at in 0..self.nodes.len() {
            let Node { name, site, border, number } = &self.nodes[at];
            let (name, site, border, number) = (name.clone(), *site, *border, *number);
            let key = self.key(&name);
            let (id, n) = (site_name(site), site + 1);
            let role = if border { "border" } else { "route" };
            let inner = if border { "core = \"core\"" } else { "core = \"lan\"\nouter = \"up\"" };
            self.line(&format!(
                "[[node]]\nid = \"{name}\"\nsite = \"{id}\"\nrole = \"{role}\"\n{inner}\n\
                 addresses = [\"10.{n}.1.{number}\", \"fd00:{n}:1::{number}\"]\nkey = \"{key}\""
            ));
            // An odd number of voters, the first node of each of the first sites.
            let voters = if self.sites == 5 { 5 } else { 3 };
            if self.leased && site < voters && number == 2 {
                self.line("voter = true");
            }
        }
    }

    /// One or two links between each pair of sites, from border to border.
    fn links(&mut self) {
        let mut number = 0;
        let mut interfaces: BTreeMap<String, usize> = BTreeMap::new();
        for a in 0..self.sites {
            for b in a + 1..self.sites {
                for nth in 0..self.rng.usize(1..=2) {
                    let mut end = |site: usize, last: usize| {
                        let borders: Vec<&Node> =
                            self.nodes.iter().filter(|n| n.site == site && n.border).collect();
                        let node = borders[nth % borders.len()].name.clone();
                        let used = interfaces.entry(node.clone()).or_default();
                        *used += 1;
                        format!(
                            "{{ node = \"{node}\", interface = \"wan{used}\", addresses = \
                             [\"172.31.{number}.{last}/30\", \"fd00:f0:{number}::{last}/64\"] }}"
                        )
                    };
                    let (one, other) = (end(a, 1), end(b, 2));
                    let (id, cost) =
                        (format!("{}-{}-{nth}", site_name(a), site_name(b)), 10 + 10 * nth);
                    self.line(&format!(
                        "[[link]]\nid = \"{id}\"\ncost = {cost}\ncapacity = \"1G\"\n\
                         a = {one}\nb = {other}"
                    ));
                    number += 1;
                }
            }
        }
    }

    fn operators(&mut self) {
        for name in OPERATORS {
            let key = self.key(name);
            self.line(&format!(
                "[[operator]]\nname = \"{name}\"\nkey = \"{key}\"\n\
                 roles = [\"operator\", \"approver\"]"
            ));
        }
    }

    /// Two of backends at each site.
    fn clusters(&mut self) {
        for site in SITES.iter().take(self.sites) {
            for cluster in ["k1", "k2"] {
                self.line(&format!("[[cluster]]\nid = \"{site}/{cluster}\"\nsite = \"{site}\""));
            }
        }
    }

    fn services(&mut self) {
        let count = if self.bare { 1 } else { self.rng.usize(2..=5) };
        for nth in 1..=count {
            let mut sites: Vec<usize> = (0..self.sites).collect();
            self.rng.shuffle(&mut sites);
            let names: Vec<String> =
                sites.iter().map(|s| format!("\"{}\"", site_name(*s))).collect();
            let isolation = match self.leased {
                false => None,
                true if self.bare => Some("lease"),
                true => {
                    [None, Some("lease"), Some("lease"), Some("exclusive")][self.rng.usize(0..4)]
                }
            };
            let isolation = isolation.or((self.leased && nth == 1).then_some("lease"));
            let (category, more) = match self.rng.u8(0..4) {
                _ if isolation.is_some() => {
                    let word = isolation.unwrap_or_default();
                    let approvals = if self.bare { 0 } else { self.rng.u8(0..=1) };
                    ("B", format!("isolation = \"{word}\"\napprovals = {approvals}"))
                }
                0 => ("C", format!("mode = \"active-active\"\nactive = [{}]", names.join(", "))),
                1 | 2 => {
                    let drain =
                        if nth % 2 == 0 { "drain = { pps = 2, dwell = \"2s\" }" } else { "" };
                    ("C", format!("handover = \"make-before-break\"\n{drain}"))
                }
                _ => {
                    let approvals = self.rng.u8(0..=2);
                    let handover = "handover = \"break-before-make\"";
                    ("B", format!("{handover}\napprovals = {approvals}"))
                }
            };
            self.line(&format!(
                "[[service]]\nid = \"shop/prod/s{nth}\"\ncategory = \"{category}\""
            ));
            if category == "B" || !more.contains("active-active") {
                let standby = names[1..].join(", ");
                self.line(&format!("primary = {}\nstandby = [{standby}]", names[0]));
            }
            self.line(&format!("{more}\nsticky = \"1s\""));
            self.line(&format!("vips = [\"10.99.0.{nth}\", \"fd00:99::{nth}\"]"));
            // Of the others that are never closed before they are open elsewhere.
            let keeps_flows = !self.leased && category == "C" && nth % 2 == 1;
            if keeps_flows {
                self.line("shift = { kind = \"resilient\", idle = \"1s\" }");
            }
            for site in 0..self.sites {
                let (id, n) = (site_name(site), site + 1);
                let backend = |cluster: usize| {
                    let (host, cluster) = (100 * cluster + nth, format!("{id}/k{cluster}"));
                    format!(
                        "{{ address = \"10.{n}.20.{host}\", cluster = \"{cluster}\" }}, \
                         {{ address = \"fd00:{n}:20::{host}\", cluster = \"{cluster}\" }}"
                    )
                };
                let all = match keeps_flows {
                    true => format!("{}, {}", backend(1), backend(2)),
                    false => format!("\"10.{n}.20.{nth}\", \"fd00:{n}:20::{nth}\""),
                };
                self.line(&format!("backends.{id} = [{all}]"));
            }
            self.line("ports = [{ name = \"https\", port = 443 }]");
        }
    }

    fn clients(&mut self) {
        for (prefix, site) in [
            ("198.51.100.0/24", 0),
            ("198.51.100.128/25", 1),
            ("203.0.112.0/20", 2),
            ("203.0.113.0/24", 1),
            ("2001:db8:77::/48", 1),
            ("2001:db8:77:8000::/49", 2),
        ] {
            let site = site_name(site);
            self.line(&format!("[[client]]\nprefix = \"{prefix}\"\nsite = \"{site}\""));
        }
    }

    fn named_services(&mut self) {
        let passive = "primary = \"osl\"\nstandby = [\"svg\", \"trd\"]";
        let active = "mode = \"active-active\"\nactive = [\"svg\", \"osl\", \"trd\"]";
        let break_first = "handover = \"break-before-make\"\napprovals = 1";
        for (nth, (name, category, more)) in (1..).zip([
            ("api", "C", format!("{passive}\nttl = {{ ceiling = \"20s\", floor = \"5s\" }}")),
            ("pay", "B", format!("{passive}\n{break_first}\nall_down = \"192.0.2.200\"")),
            ("near", "C", format!("{active}\nall_down = \"refuse\"")),
            ("local", "C", format!("{active}\nprefer = \"local\"")),
            ("first", "C", format!("{active}\nprefer = \"primary\"\nttl = \"7s\"")),
            ("books", "B", format!("{passive}\nisolation = \"lease\"\nfence = \"external\"")),
        ]) {
            self.line(&format!(
                "[[service]]\nid = \"shop/prod/{name}\"\ncategory = \"{category}\"\n{more}"
            ));
            self.line("sticky = \"1s\"");
            self.line(&format!("vips = [\"10.99.0.{nth}\", \"fd00:99::{nth}\"]"));
            for site in 0..self.sites {
                let (id, n) = (site_name(site), site + 1);
                // One has addresses of one family, and the VIP of the other.
                let v6 =
                    if name == "local" { String::new() } else { format!("fd00:{n}:30::{nth}") };
                let both = [format!("10.{n}.30.{nth}"), v6].map(|a| format!("\"{a}\""));
                let own = both.iter().filter(|a| a.len() > 2).cloned().collect::<Vec<_>>();
                self.line(&format!(
                    "backends.{id} = [\"10.{n}.20.{nth}\", \"fd00:{n}:20::{nth}\"]\n\
                     addresses.{id} = [{}]",
                    own.join(", ")
                ));
            }
        }
    }
}
