//! Why a name gets the answer it gets: the same lookup and the same choice as for a question, told
//! in words.
//!
//! Nothing is decided here. If this and an answer ever differ, this is the bug.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use nett_policy::id::{ServiceId, SiteId};
use nett_policy::lower::answers::SiteState;
use nett_policy::service::AllDown;

use crate::client::Client;
use crate::entry::Entry;
use crate::name::LowerName;
use crate::serial::Serial;
use crate::steer::{Target, Why};
use crate::topology::{Located, Topology};
use crate::zone::{Found, NS_TTL, Zone};

/// The explanation of one name for one client. Prints as lines for an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    pub name: String,
    pub serial: Serial,
    /// What kind of name it is.
    pub kind: NameKind,
    pub service: Option<ServiceId>,
    /// The client's site and the prefix that says so; `None` for an unknown client.
    pub client_site: Option<(SiteId, IpNet)>,
    /// From where the client was judged.
    pub found_by: FoundBy,
    /// The service's spread as text.
    pub spread: Option<String>,
    /// The site whose addresses are answered.
    pub target: Option<SiteId>,
    /// Both families.
    pub addresses: Vec<IpAddr>,
    /// Seconds.
    pub ttl: u32,
    /// All clients of this many leading bits get the same answer; 0 is everybody.
    pub scope: u8,
    /// The site from which the nearest was looked for, where that made the answer.
    pub nearest_from: Option<SiteId>,
    pub why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameKind {
    Apex,
    NameServer,
    Reflect,
    Service,
    /// `SITE.site.` below a service.
    Site,
    /// `all.site.` below a service.
    AllSites,
    /// `_NAME._tcp.` or `_NAME.` below a service.
    Port,
    /// Only names below it exist: no data.
    Empty,
    /// NXDOMAIN.
    Missing,
    /// Not in the zone: REFUSED.
    Outside,
    /// Not a domain name at all.
    Invalid,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundBy {
    Subnet(IpNet),
    Source(IpAddr),
    /// No client was given: the answer is that of an unknown client.
    Nothing,
}

// === impl Zone ===

impl Zone {
    /// Explains `name` for a question from `client` that carries `subnet`.
    pub fn explain(
        &self,
        name: &str,
        client: Option<IpAddr>,
        subnet: Option<IpNet>,
    ) -> Explanation {
        let found_by = match (subnet, client) {
            (Some(subnet), _) => FoundBy::Subnet(subnet.trunc()),
            (None, Some(source)) => FoundBy::Source(source.to_canonical()),
            (None, None) => FoundBy::Nothing,
        };
        let source = client.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let client = Client::new(source, subnet.map(|n| n.trunc()));
        let located = match found_by {
            FoundBy::Nothing => Located { found: None, scope: 0 },
            FoundBy::Subnet(_) | FoundBy::Source(_) => self.topology().locate(&client),
        };
        let mut told = Explanation {
            name: name.to_owned(),
            serial: self.serial(),
            kind: NameKind::Invalid,
            service: None,
            client_site: located
                .found
                .map(|(site, prefix)| (self.topology().site(site).clone(), prefix)),
            found_by,
            spread: None,
            target: None,
            addresses: Vec::new(),
            ttl: 0,
            scope: 0,
            nearest_from: None,
            why: String::new(),
        };
        match LowerName::parse(name) {
            Ok(name) => told.tell(self, self.find(&name), &client, &located),
            Err(error) => told.why = error.to_string(),
        }
        told
    }
}

// === impl Explanation ===

impl Explanation {
    fn tell(&mut self, zone: &Zone, found: Found<'_>, client: &Client, located: &Located) {
        let (kind, why) = match found {
            Found::Apex(hosts) | Found::Host(hosts) => {
                self.addresses = hosts.to_vec();
                self.ttl = NS_TTL;
                match found {
                    Found::Apex(_) => (NameKind::Apex, "the fabric's zone"),
                    _ => (NameKind::NameServer, "the fabric's zone.ns"),
                }
            }
            Found::Reflect => (NameKind::Reflect, "TXT shows the client as it was seen"),
            Found::Empty => (NameKind::Empty, "only names below it exist: no data"),
            Found::Missing => (NameKind::Missing, "no such name: NXDOMAIN"),
            Found::Outside => (NameKind::Outside, "not in the zone: REFUSED"),
            Found::Site(entry, at) => {
                self.service(entry, entry.ttls().lasting);
                self.site(entry, at);
                (NameKind::Site, "the name asks for this site")
            }
            Found::AllSites(entry) => {
                self.service(entry, entry.ttls().told);
                let eligible = entry.sites().filter(|s| s.state != SiteState::Drained);
                for address in eligible.flat_map(|s| s.addresses) {
                    if !self.addresses.contains(address) {
                        self.addresses.push(*address);
                    }
                }
                (NameKind::AllSites, "every site that is not drained, in order")
            }
            Found::Service(entry) | Found::Port(entry, ..) => {
                self.service(entry, entry.ttls().steered);
                self.steered(zone.topology(), entry, client, located);
                self.kind = match found {
                    Found::Port(..) => NameKind::Port,
                    _ => NameKind::Service,
                };
                if zone.is_over(entry.fixed()) {
                    (self.target, self.addresses) = (None, Vec::new());
                    self.why = "the lease is over, or stopped by a move that nobody confirmed: \
                                no addresses"
                        .to_owned();
                }
                return;
            }
        };
        self.kind = kind;
        self.why = why.to_owned();
    }

    fn service(&mut self, entry: Entry<'_>, ttl: u32) {
        self.service = Some(entry.fixed().service.clone());
        self.spread = Some(entry.standing().spread.to_string());
        self.ttl = ttl;
    }

    fn site(&mut self, entry: Entry<'_>, at: usize) {
        if let Some(site) = entry.fixed().sites.get(at) {
            self.target = Some(site.site.clone());
            self.addresses = site.addresses.clone();
        }
    }

    fn steered(
        &mut self,
        topology: &Topology,
        entry: Entry<'_>,
        client: &Client,
        located: &Located,
    ) {
        // Without any client a weighted choice would be that of 0.0.0.0: show all instead.
        if self.found_by == FoundBy::Nothing && !entry.plan().is_the_same_for_all() {
            self.why = "the answer depends on the client: give --client or --subnet".to_owned();
            return;
        }
        let choice = entry.plan().choose(topology, client, located);
        self.scope = choice.scope;
        match choice.target {
            Target::Site(at) => self.site(entry, at),
            Target::Address(address) => self.addresses = vec![address],
            Target::Refused => {}
        }
        if let Why::Cheapest { from, cost: 1.. } = choice.why {
            self.nearest_from = Some(topology.site(from).clone());
        }
        self.why = why(topology, entry, &choice.why, located);
    }
}

fn why(topology: &Topology, entry: Entry<'_>, why: &Why, located: &Located) -> String {
    match why {
        Why::OnlySite => "only this site gets traffic".to_owned(),
        Why::Share { weight, of, block } => {
            format!("clients of {block} fall into its share of {weight} in {of}")
        }
        Why::OwnSite => "the client's own site serves".to_owned(),
        Why::Cheapest { from, cost } => {
            let from = topology.site(*from);
            let who = match located.found {
                Some(_) => format!("the client's site {from}"),
                None => format!("{from}, which stands in for unknown clients"),
            };
            match cost {
                0 => format!("it is {who}"),
                &u32::MAX => format!("no link leads from {who}; it has the best rank"),
                cost => format!("nearest to {who}, link cost {cost}"),
            }
        }
        Why::FirstInOrder => "first of the serving sites in failover order".to_owned(),
        Why::AllDown => match entry.fixed().all_down {
            AllDown::LastOrder => "no site gets traffic: first in failover order".to_owned(),
            AllDown::Refuse => "no site gets traffic: REFUSED".to_owned(),
            AllDown::Fallback(_) => "no site gets traffic: the fallback address".to_owned(),
        },
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "name      {} (zone serial {})", self.name, self.serial)?;
        if let Some(service) = &self.service {
            writeln!(f, "service   {service}")?;
        }
        if let Some(spread) = &self.spread {
            writeln!(f, "spread    {spread}")?;
        }
        let by = match &self.found_by {
            FoundBy::Subnet(subnet) => format!("client subnet {subnet}"),
            FoundBy::Source(source) => format!("source address {source}"),
            FoundBy::Nothing => "no client given".to_owned(),
        };
        match &self.client_site {
            Some((site, prefix)) => writeln!(f, "client    {site}, by {by} in {prefix}")?,
            None => writeln!(f, "client    unknown, by {by}")?,
        }
        if let Some(target) = &self.target {
            writeln!(f, "site      {target}")?;
        }
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        if !addresses.is_empty() {
            writeln!(f, "answer    {} (ttl {})", addresses.join(" "), self.ttl)?;
            match self.scope {
                0 => writeln!(f, "scope     everybody")?,
                bits => writeln!(f, "scope     /{bits} around the client")?,
            }
        }
        writeln!(f, "because   {}", self.why)
    }
}

#[cfg(test)]
mod tests;
