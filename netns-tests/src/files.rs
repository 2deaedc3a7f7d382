//! The files of the lab: `fabric.toml`, `services.toml` and one `agent.toml` per node, as an
//! operator would write them.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::keys::Keys;
use crate::services;
use crate::topology::{Link, NET_BUS, NET_CORE, SITES, Shape, Site, UPLINK_BORDER, VIP_RANGES};

/// The steering zone.
pub const ZONE: &str = "steer.example.";

/// Who may do what in the lab. `mira` operates, `jon` also approves, `kim` reports facts, too.
pub const OPERATORS: [(&str, &[&str]); 3] = [
    ("mira", &["operator"]),
    ("jon", &["operator", "approver"]),
    ("kim", &["operator", "approver", "gate"]),
];

/// The ports of the lab's nats-servers and agents, each in a namespace of its own.
pub const NATS_PORT: u16 = 4222;
pub const LEAF_PORT: u16 = 7422;
pub const HTTP_PORT: u16 = 9780;
pub const DNS_PORT: u16 = 53;

/// Leases of a lab with three voters: short, so that stories need not wait for long.
const LEASE: &str = "lease = { duration = \"6s\", wait = \"9s\" }\n";

/// The sites whose borders vote, where there are so many, by their numbers.
const VOTERS: u8 = 3;

/// Where the pieces of a lab lie below its directory.
#[derive(Debug, Clone)]
pub struct Layout {
    pub root: PathBuf,
}

/// The kind of node an agent runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Border,
    Route,
}

/// A node with an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    pub site: Site,
    pub role: Role,
    /// Which border, or which route node, of its site: 1 or 2.
    pub number: u8,
}

// === impl Layout ===

impl Layout {
    pub fn fabric(&self) -> PathBuf {
        self.root.join("fabric.toml")
    }

    pub fn services(&self) -> PathBuf {
        self.root.join("services.toml")
    }

    pub fn keys(&self) -> PathBuf {
        self.root.join("keys")
    }

    pub fn tls(&self) -> PathBuf {
        self.root.join("tls")
    }

    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    pub fn log(&self, process: &str) -> PathBuf {
        self.logs().join(format!("{process}.log"))
    }

    /// What the hosts keep: configuration, state, sockets.
    pub fn hosts(&self) -> PathBuf {
        self.root.join("hosts")
    }

    /// Files of one host.
    pub fn host(&self, name: &str) -> PathBuf {
        self.hosts().join(name)
    }

    pub fn agent_config(&self, node: &str) -> PathBuf {
        self.host(node).join("agent.toml")
    }

    pub fn socket(&self, node: &str) -> PathBuf {
        self.host(node).join("agent.sock")
    }

    pub fn state(&self, node: &str) -> PathBuf {
        self.host(node).join("state")
    }
}

// === impl Node ===

impl Node {
    /// Every node of a lab with two sites, in the order of the fabric file.
    pub fn all() -> Vec<Self> {
        Self::of_shape(Shape::TWO)
    }

    pub fn of_shape(shape: Shape) -> Vec<Self> {
        let pairs = |site: &Site| {
            let site = *site;
            shape.numbers().flat_map(move |number| Self::pair(site, number))
        };
        shape.sites.iter().flat_map(pairs).collect()
    }

    /// The first border and the first route node of a site.
    pub fn of_site(site: Site) -> [Self; 2] {
        Self::pair(site, 1)
    }

    fn pair(site: Site, number: u8) -> [Self; 2] {
        let node = |name, role| Self { name, site, role, number };
        [
            node(site.nth_border(number), Role::Border),
            node(site.nth_route_node(number), Role::Route),
        ]
    }

    /// The addresses between border and route node.
    pub fn addresses(&self) -> [String; 2] {
        match self.role {
            Role::Border => self.site.border_core(self.number),
            Role::Route => self.site.route_core(self.number),
        }
    }

    /// Where its name server listens; that of a border is reached from the internet, too.
    pub fn name_server(&self) -> Vec<String> {
        let mut all = self.addresses().to_vec();
        if self.role == Role::Border {
            all.extend(self.site.uplink(self.number, UPLINK_BORDER));
        }
        all
    }
}

/// The names of all keys of the lab.
pub fn key_names(shape: Shape) -> Vec<String> {
    let people = OPERATORS.iter().map(|(name, _)| (*name).to_owned());
    let nodes = Node::of_shape(shape).into_iter().map(|n| n.name);
    let leaves = shape.sites.iter().map(|s| leaf_name(*s));
    let others = ["admin", "system"].map(str::to_owned);
    people.chain(nodes).chain(leaves).chain(others).collect()
}

/// The name of a site's leafnode key.
pub fn leaf_name(site: Site) -> String {
    format!("leaf-{}", site.id)
}

/// The address of a site's nats-server.
pub fn bus_address(site: Site) -> String {
    let [v4, _] = site.addresses(NET_BUS, 2);
    v4
}

/// The client URL of a site's nats-server.
pub fn nats_url(site: Site) -> String {
    format!("tls://{}:{NATS_PORT}", bus_address(site))
}

pub fn fabric(shape: Shape, keys: &Keys, layout: &Layout) -> Result<String> {
    let Shape { sites, links, nodes: _ } = shape;
    let ns: Vec<String> =
        sites.iter().map(|s| format!("\"{}\"", s.addresses(NET_CORE, 2)[0])).collect();
    let mut text = format!(
        "[fabric]\nname = \"lab\"\ngeneration = 1\nvip_ranges = {VIP_RANGES:?}\n\
         unknown_client = \"primary\"\n{}\n\
         [zone]\nname = \"{ZONE}\"\nhostmaster = \"dns.example.\"\n\
         ns = [{{ name = \"ns1.{ZONE}\", addresses = [{}] }}]\n\
         ttl = {{ floor = \"2s\", ceiling = \"4s\" }}\n\n",
        if sites.len() >= 3 { LEASE } else { "" },
        ns.join(", ")
    );
    for site in sites {
        site_table(&mut text, *site, keys)?;
    }
    for node in Node::of_shape(shape) {
        node_table(&mut text, &node, keys)?;
        if sites.len() >= 3 && node.role == Role::Border && node.site.number <= VOTERS {
            // Closes the table that was just written.
            text.truncate(text.trim_end().len());
            text += "\nvoter = true\n\n";
        }
    }
    let home = SITES[0].id;
    for prefix in ["198.51.100.0/24", "2001:db8:cc::/64"] {
        writeln!(text, "[[client]]\nprefix = \"{prefix}\"\nsite = \"{home}\"\n")?;
    }
    for link in links {
        let Link { id, interface, ends, borders: _ } = link;
        writeln!(text, "[[link]]\nid = \"{id}\"\ncost = 10\ncapacity = \"10G\"")?;
        for (end, (at, (_, addresses))) in ["a", "b"].iter().zip(ends.iter().enumerate()) {
            let node = link.node(at);
            writeln!(
                text,
                "{end} = {{ node = \"{node}\", interface = \"{interface}\", \
                 addresses = {addresses:?} }}"
            )?;
        }
        writeln!(text, "bfd = {{ tx = \"300ms\", rx = \"300ms\", multiplier = 3 }}\n")?;
    }
    for (name, roles) in OPERATORS {
        let key = keys.public(name)?;
        writeln!(text, "[[operator]]\nname = \"{name}\"\nkey = \"{key}\"")?;
        writeln!(text, "roles = {roles:?}\n")?;
    }
    let (admin, system) = (keys.public("admin")?, keys.public("system")?);
    let ca = layout.tls().join("ca.crt");
    writeln!(text, "[bus]\nadmin = \"{admin}\"\nsystem = \"{system}\"\nca = {ca:?}")?;
    Ok(text)
}

fn site_table(text: &mut String, site: Site, keys: &Keys) -> Result<()> {
    let Site { id, region, number, .. } = site;
    let address = bus_address(site);
    writeln!(
        text,
        "[[site]]\nid = \"{id}\"\nregion = \"{region}\"\nrank = {number}\ncapacity = 100\n\
         prefixes = {:?}\nnats = [\"{}\"]\nleaf = [\"tls://{address}:{LEAF_PORT}\"]\n\
         leaf_key = \"{}\"\n",
        site.prefixes(),
        nats_url(site),
        keys.public(&leaf_name(site))?
    )?;
    Ok(())
}

fn node_table(text: &mut String, node: &Node, keys: &Keys) -> Result<()> {
    let interfaces = match node.role {
        Role::Border => "role = \"border\"\ncore = \"core\"",
        Role::Route => "role = \"route\"\ncore = \"lan\"\nouter = \"up\"",
    };
    let (name, site) = (&node.name, node.site.id);
    writeln!(
        text,
        "[[node]]\nid = \"{name}\"\nsite = \"{site}\"\n{interfaces}\naddresses = {:?}\n\
         key = \"{}\"\n",
        node.addresses(),
        keys.public(name)?
    )?;
    Ok(())
}

pub fn services(sites: &[Site]) -> String {
    services::of(sites).map(|service| service.toml(sites)).collect()
}

/// The `agent.toml` of a node.
pub fn agent(node: &Node, keys: &Keys, layout: &Layout) -> String {
    let name = &node.name;
    let tls = |end: &str| layout.tls().join(format!("{name}.{end}"));
    let dns: Vec<String> = node
        .name_server()
        .iter()
        .map(|a| match a.contains(':') {
            true => format!("[{a}]:{DNS_PORT}"),
            false => format!("{a}:{DNS_PORT}"),
        })
        .collect();
    let path = |p: &Path| format!("{p:?}");
    format!(
        "node = \"{name}\"\nfabric = {}\nservices = {}\nstate_dir = {}\nkey_file = {}\n\
         socket = {}\n\n\
         [nats]\nca = {}\ncert = {}\nkey = {}\n\n\
         [dns]\nlisten = {dns:?}\n\n\
         [http]\nlisten = \"127.0.0.1:{HTTP_PORT}\"\n",
        path(&layout.fabric()),
        path(&layout.services()),
        path(&layout.state(name)),
        path(&keys.seed(name)),
        path(&layout.socket(name)),
        path(&layout.tls().join("ca.crt")),
        path(&tls("crt")),
        path(&tls("key")),
    )
}
