//! The fabric: sites, nodes, links and people, consistent by construction.
//!
//! A [`Fabric`] comes only out of [`crate::document`], which reports every mistake of a file at
//! once; later code needs no check. Collections keep the order of the file, because places in it
//! are identities: link N has the routing table 7100+N and nexthop ids derived from N.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use crate::failover::FailoverMark;
use crate::id::{ClusterId, Generation, IdError, LinkId, NodeId, RuleId, Selector, SiteId, WallMs};
use crate::lease::electorate::Electorates;

mod ways;

#[derive(Debug, Clone, PartialEq)]
pub struct Fabric {
    pub name: String,
    pub generation: Generation,
    /// SHA-256 of the file's meaning: equal files with other comments or layout have equal hashes.
    pub hash: String,
    /// Every VIP lies in one of these.
    pub vip_ranges: Vec<IpNet>,
    pub anchors: Vec<IpAddr>,
    pub unknown_client: UnknownClient,
    /// T and W as they are used: where this generation of voters changes them, the shorter T and
    /// the longer W of both.
    pub lease: Lease,
    pub voter_step: VoterStep,
    /// What failover traffic is marked with on links that say nothing of it.
    pub failover: Option<FailoverMark>,
    pub zone: Zone,
    /// In file order; `rank` is unique.
    pub sites: Vec<Site>,
    /// In file order. A node's *place* is its index here plus one.
    pub nodes: Vec<Node>,
    pub clusters: Vec<Cluster>,
    pub clients: Vec<ClientPrefix>,
    /// In file order, at most 127. A link's *index* is its index here plus one.
    pub links: Vec<Link>,
    /// A pair of sites is in at most one of them.
    pub transits: Vec<Transit>,
    pub operators: Vec<Operator>,
    pub bus: BusKeys,
    pub safety: Vec<SafetyRule>,
    pub freezes: Vec<Freeze>,
}

/// How long what a voter said holds, and how long its votes must be known where nobody confirmed a
/// withdrawal. See [`crate::lease`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// T, 5 s or more.
    pub duration: Duration,
    /// W: at least T x 1.01 + 1 s, which covers clocks whose rates differ by 1 %.
    pub wait: Duration,
}

/// Which generation of voters the file is of, and how that differs from the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VoterStep {
    /// 1 or more; 1 has no change, all others have one.
    pub generation: Generation,
    pub change: VoterChange,
    /// As written, whatever it was before.
    pub lease: Lease,
}

/// What one generation of voters changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VoterChange {
    /// There was none before.
    First,
    /// This node votes from now on.
    Added(NodeId),
    /// This node votes no longer.
    Removed(NodeId),
    /// T and W were these before; the voters stay.
    Lease(Lease),
}

/// Where clients in no `[[client]]` prefix and no site prefix belong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownClient {
    Primary,
    Nearest,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    /// Fully qualified, lower case, with the final dot.
    pub name: String,
    /// RNAME of the SOA record, as a domain name with the final dot (RFC 1035 section 3.3.13).
    pub hostmaster: String,
    pub ns: Vec<NameServer>,
    pub transfer: Transfer,
    /// How the zone is signed; unsigned without it.
    pub dnssec: Option<Dnssec>,
    /// Within these the TTLs of all services are.
    pub ttl: TtlBounds,
}

/// The least and the greatest TTL of any record of a service, in whole seconds from 1 s to one day.
/// Never `floor > ceiling`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TtlBounds {
    pub floor: Duration,
    pub ceiling: Duration,
}

impl Default for TtlBounds {
    /// Those of a single TTL: no bounds.
    fn default() -> Self {
        Self { floor: Duration::from_secs(1), ceiling: Duration::from_secs(86_400) }
    }
}

/// Who copies the zone (RFC 5936, RFC 1995), and from where.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Transfer {
    /// The node whose name server the secondaries copy from: serials of two name servers do not
    /// agree. Given wherever `to` is not empty.
    pub from: Option<NodeId>,
    /// The site whose clients the copy is made for; that of the name server when absent.
    pub site: Option<SiteId>,
    pub to: Vec<Secondary>,
}

/// A secondary; all that is given must fit, and something is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secondary {
    /// It asks from this address, and is told of changes at this port.
    pub address: Option<SocketAddr>,
    /// Name of the TSIG key it signs with, with the final dot.
    pub tsig: Option<String>,
}

/// How the zone is signed. Keys are named by their files, without directory and ending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dnssec {
    pub keys: ZoneKeys,
    /// Keys that are in the key set and sign nothing: the next ones, or the last.
    pub publish: Vec<String>,
    /// How long a signature holds, a day or more.
    pub validity: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ZoneKeys {
    /// One key signs everything.
    One(String),
    Split {
        /// Signs the key set, and is what the parent zone refers to.
        ksk: String,
        /// Signs everything else.
        zsk: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameServer {
    pub name: String,
    pub addresses: Vec<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    pub id: SiteId,
    pub region: Option<String>,
    /// 1 is highest; breaks ties between commands of equal epoch and orders the leafnode tree.
    pub rank: u32,
    /// How much it can serve, in the unit of `load` of the services.
    pub capacity: u32,
    pub prefixes: Vec<IpNet>,
    /// Client URLs of the site's nats-server.
    pub nats: Vec<String>,
    /// Leafnode URLs of the site's nats-server.
    pub leaf: Vec<String>,
    /// Public nkey of the site's leafnode connection.
    pub leaf_key: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Has the ends of inter-site links.
    Border,
    /// Stands between the site's hosts and its borders.
    Route,
    /// Votes, forwards nothing.
    Witness,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub id: NodeId,
    pub site: SiteId,
    pub role: Role,
    /// Addresses towards the other nodes of the site; the gateway others use to reach it.
    pub addresses: Vec<IpAddr>,
    /// The interface towards the site (border: towards the route nodes; route node: towards hosts).
    pub core: String,
    /// Route nodes: the interface towards the site's borders. Empty on borders, whose outer
    /// interfaces are the ends of their links.
    pub outer: Option<String>,
    /// Public nkey (`U...`) of the node's agent.
    pub key: String,
    pub voter: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    pub id: ClusterId,
    pub site: SiteId,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientPrefix {
    pub prefix: IpNet,
    pub site: SiteId,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub id: LinkId,
    /// Lower is preferred; links of equal cost share the load.
    pub cost: u32,
    /// Bits per second.
    pub capacity_bps: Option<u64>,
    pub risk: Vec<String>,
    /// How its ends watch it; only by carrier and addresses without it.
    pub bfd: Option<Bfd>,
    /// What failover traffic is marked with on this link; as the fabric says where it is absent.
    pub failover: Option<FailoverMark>,
    pub a: LinkEnd,
    pub b: LinkEnd,
}

/// What each end of a link tells the other at the start of a BFD session (RFC 5880 section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bfd {
    /// The least time between two packets that it sends; 3 ms to 60 s.
    pub tx: Duration,
    /// The least time between two packets that it can take; 3 ms to 60 s.
    pub rx: Duration,
    /// How many packets in a row must be missing until the far end gives the link up; 1 to 255.
    pub multiplier: u8,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkEnd {
    pub node: NodeId,
    pub interface: String,
    /// Own addresses with prefix length; at most one per family is used as the far end's gateway.
    pub addresses: Vec<IpNet>,
    /// The next hop towards the far end, where a provider routes in between; else the far end's
    /// own address of that family.
    pub gateway: Vec<IpAddr>,
}

/// A site lets the traffic of two others through, while no link of their own carries it. Without
/// one no site does. A border of `via` has links to both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transit {
    pub via: SiteId,
    /// In the order of ids; neither is `via`.
    pub between: [SiteId; 2],
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    pub name: String,
    /// Public nkey (`U...`).
    pub key: String,
    pub roles: Vec<OperatorRole>,
    /// Which services the operator may touch; everything when empty.
    pub services: Vec<Selector>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OperatorRole {
    Operator,
    Approver,
    Gate,
    Viewer,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BusKeys {
    pub admin: Option<String>,
    pub system: Option<String>,
    pub ca: Option<String>,
}

/// What must hold after every change, unless somebody passes over it by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SafetyRule {
    pub id: RuleId,
    pub owner: String,
    pub limit: Limit,
}

/// What a safety rule says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Limit {
    /// So many of these stay in service.
    AtLeast { least: u32, of: Vec<Part> },
    /// At most this share of these sites is drained, in percent, 0 to 99; of all when empty.
    DrainedShare { percent: u8, of: Vec<SiteId> },
    /// So many tasks move something at once, about these services; about any when empty.
    TasksAtOnce { most: u32, services: Vec<Selector> },
    /// No pair of sites has more traffic than this share, in percent, of the links that are left
    /// between them.
    LinkLoad {
        percent: u32,
        /// How much, in percent, of what a site delivers inside itself is for services.
        local_share: u8,
    },
    /// The services at each of these sites weigh at most this share of its capacity, in percent; at
    /// every site when empty.
    SiteLoad { percent: u32, of: Vec<SiteId> },
    /// Each of these sites, or every one when empty, keeps links of so many groups that fail
    /// independently of each other.
    RiskGroups { least: u32, of: Vec<SiteId> },
    /// Changes are allowed only while somebody outside says so by this fact.
    Switch { fact: String, services: Vec<Selector>, except: Vec<String> },
}

/// Something that is in service or is not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Site(SiteId),
    Node(NodeId),
    Link(LinkId),
}

/// A time in which nothing is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freeze {
    pub from: WallMs,
    /// The first moment in which changes are allowed again.
    pub to: WallMs,
    /// Every service when empty.
    pub services: Vec<Selector>,
    /// Verbs that are allowed all the same.
    pub except: Vec<String>,
    /// Whom to ask.
    pub owner: Option<String>,
}

/// One link as one of its two nodes sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkView<'a> {
    /// 1 to 127.
    pub index: u8,
    pub link: &'a Link,
    pub near: &'a LinkEnd,
    pub far: &'a LinkEnd,
    pub far_site: &'a SiteId,
}

impl LinkView<'_> {
    /// The gateway towards the far end in the family of `like`, if the link carries that family.
    pub fn gateway(&self, family: Family) -> Option<IpAddr> {
        let stated = self.near.gateway.iter().copied().find(|a| Family::of(*a) == family);
        let far = || self.far.addresses.iter().map(|n| n.addr()).find(|a| Family::of(*a) == family);
        stated.or_else(far)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub fn of_net(net: IpNet) -> Self {
        Self::of(net.addr())
    }

    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// `0.0.0.0/0` or `::/0`.
    pub fn default_route(self) -> IpNet {
        let zero: IpAddr = match self {
            Self::V4 => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
            Self::V6 => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        };
        IpNet::new(zero, 0).expect("0 is a valid prefix length")
    }
}

/// The time a service's established flows get before the old site stops accepting it, when the
/// service does not say: DATAPLANE calls it the connection idle time.
pub const DEFAULT_STICKY: Duration = Duration::from_secs(300);

// === impl Part ===

impl FromStr for Part {
    type Err = IdError;

    /// A site by its bare id; `node:ID` or `link:ID`.
    fn from_str(text: &str) -> Result<Self, IdError> {
        match text.split_once(':') {
            None => text.parse().map(Self::Site),
            Some(("site", id)) => id.parse().map(Self::Site),
            Some(("node", id)) => id.parse().map(Self::Node),
            Some(("link", id)) => id.parse().map(Self::Link),
            Some(_) => Err(IdError::Character(text.to_owned())),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Site(site) => write!(f, "{site}"),
            Self::Node(node) => write!(f, "node:{node}"),
            Self::Link(link) => write!(f, "link:{link}"),
        }
    }
}

// === impl Transit ===

impl Transit {
    /// How many sites may go through one.
    pub const MOST: u8 = 16;

    /// The other one of the pair.
    pub fn other_end(&self, site: &SiteId) -> Option<&SiteId> {
        let [one, other] = &self.between;
        match (one == site, other == site) {
            (true, _) => Some(other),
            (_, true) => Some(one),
            (false, false) => None,
        }
    }
}

// === impl Lease ===

impl Lease {
    /// How often a node asks the voters: several asks fit into one lease.
    pub fn round(&self) -> Duration {
        (self.duration / 6).min(Duration::from_secs(2))
    }
}

impl Default for VoterStep {
    /// The first generation, with the usual times.
    fn default() -> Self {
        Self { generation: Generation(1), change: VoterChange::First, lease: Lease::default() }
    }
}

impl Default for Lease {
    fn default() -> Self {
        Self { duration: Duration::from_secs(60), wait: Duration::from_secs(90) }
    }
}

// === impl Fabric ===

impl Fabric {
    pub fn site(&self, id: &SiteId) -> Option<&Site> {
        self.sites.iter().find(|s| s.id == *id)
    }

    pub fn node(&self, id: &NodeId) -> Option<&Node> {
        self.nodes.iter().find(|n| n.id == *id)
    }

    /// The node's place in the file, 1 to 127.
    pub fn place_of(&self, id: &NodeId) -> Option<u8> {
        let at = self.nodes.iter().position(|n| n.id == *id)?;
        u8::try_from(at + 1).ok()
    }

    pub fn operator_by_key(&self, key: &str) -> Option<&Operator> {
        self.operators.iter().find(|o| o.key == key)
    }

    pub fn rank(&self, site: &SiteId) -> u32 {
        self.site(site).map_or(u32::MAX, |s| s.rank)
    }

    pub fn nodes_of<'a>(&'a self, site: &'a SiteId, role: Role) -> impl Iterator<Item = &'a Node> {
        self.nodes.iter().filter(move |n| n.site == *site && n.role == role)
    }

    /// The sites at the two ends of a link.
    pub fn joined_by(&self, link: &Link) -> [&SiteId; 2] {
        [&link.a, &link.b]
            .map(|end| &self.node(&end.node).expect("checked: links join known nodes").site)
    }

    pub fn other_sites<'a>(&'a self, site: &'a SiteId) -> impl Iterator<Item = &'a Site> {
        self.sites.iter().filter(move |s| s.id != *site)
    }

    /// The sites that vote in this generation, and those that did in the one before.
    pub fn electorates(&self) -> Electorates {
        Electorates::of(self)
    }

    /// The nodes that vote, at most one for each site.
    pub fn voters(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|n| n.voter)
    }

    /// The nodes of a site that deliver or answer.
    pub fn serving_nodes<'a>(&'a self, site: &'a SiteId) -> impl Iterator<Item = &'a Node> {
        self.nodes.iter().filter(move |n| n.site == *site && n.role != Role::Witness)
    }

    /// The nodes of a site that hand packets to its backends: the route nodes, or the borders where
    /// there are none.
    pub fn handing_nodes<'a>(&'a self, site: &'a SiteId) -> impl Iterator<Item = &'a Node> {
        let routed = self.nodes_of(site, Role::Route).next().is_some();
        self.nodes_of(site, if routed { Role::Route } else { Role::Border })
    }

    /// The interfaces on which traffic from outside the node's part of the site arrives: link ends
    /// on a border, the border-facing interface on a route node. Sorted, without repeats.
    pub fn outer_interfaces(&self, node: &Node) -> Vec<String> {
        let mut names: Vec<String> = match node.role {
            Role::Border => self.links_of(&node.id).map(|v| v.near.interface.clone()).collect(),
            Role::Route => node.outer.iter().cloned().collect(),
            Role::Witness => Vec::new(),
        };
        names.sort();
        names.dedup();
        names
    }

    /// Of [`Self::outer_interfaces`], those by which packets come that go through to another site.
    pub fn through_interfaces(&self, node: &Node) -> Vec<String> {
        let leads = |site: &SiteId| self.links_of(&node.id).any(|view| view.far_site == site);
        let here = self.transits.iter().filter(|t| t.via == node.site);
        let ends: Vec<_> = here.filter(|t| t.between.iter().all(leads)).collect();
        let links = self.links_of(&node.id);
        let links = links.filter(|v| ends.iter().any(|t| t.between.contains(v.far_site)));
        links.map(|view| view.near.interface.clone()).collect()
    }

    /// The cheapest way between two sites, or `None` when no link joins them.
    pub fn link_cost(&self, from: &SiteId, to: &SiteId) -> Option<u32> {
        let site_of = |end: &LinkEnd| self.node(&end.node).map(|n| &n.site);
        let joins = |l: &&Link| {
            let (a, b) = (site_of(&l.a), site_of(&l.b));
            (a == Some(from) && b == Some(to)) || (a == Some(to) && b == Some(from))
        };
        self.links.iter().filter(joins).map(|l| l.cost).min()
    }
}
