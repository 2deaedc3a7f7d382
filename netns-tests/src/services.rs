//! The services of the lab as data: one of each kind the stories need.

use crate::topology::{NET_SERVICE, Site};

/// The UDP and TCP port on which the echo servers answer for every service.
pub const PORT: u16 = 443;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Service {
    pub id: &'static str,
    pub category: char,
    /// Last part of the VIPs and of the public addresses.
    pub number: u8,
    pub placing: Placing,
    pub handover: &'static str,
    pub approvals: u8,
    /// Whether DNS answers a public address per site instead of the VIPs.
    pub has_addresses: bool,
    /// `lease` and `exclusive` ones are in labs of three sites only.
    pub isolation: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placing {
    /// The other sites are its standbys, in the order of their rank.
    Primary(&'static str),
    ActiveActive,
}

const MAKE: &str = "make-before-break";
const BREAK: &str = "break-before-make";
const FROM_OSL: Placing = Placing::Primary("osl");
const FROM_SVG: Placing = Placing::Primary("svg");

pub const API: Service = Service {
    id: "shop/prod/api",
    category: 'C',
    number: 10,
    placing: FROM_OSL,
    handover: MAKE,
    approvals: 0,
    has_addresses: true,
    isolation: "static",
};
pub const PAY: Service = Service {
    id: "shop/prod/pay",
    category: 'B',
    number: 20,
    placing: FROM_OSL,
    handover: BREAK,
    approvals: 1,
    has_addresses: true,
    isolation: "static",
};
pub const WEB: Service = Service {
    id: "shop/prod/web",
    category: 'C',
    number: 30,
    placing: FROM_OSL,
    handover: MAKE,
    approvals: 0,
    has_addresses: false,
    isolation: "static",
};
pub const EDGE: Service = Service {
    id: "shop/prod/edge",
    category: 'C',
    number: 40,
    placing: Placing::ActiveActive,
    handover: MAKE,
    approvals: 0,
    has_addresses: true,
    isolation: "static",
};
pub const VAULT: Service = Service {
    id: "ops/prod/vault",
    category: 'C',
    number: 50,
    placing: FROM_SVG,
    handover: MAKE,
    approvals: 0,
    has_addresses: false,
    isolation: "static",
};

/// One site at a time, by the votes of three.
pub const LEDGER: Service = Service {
    id: "shop/prod/ledger",
    category: 'A',
    number: 60,
    placing: FROM_OSL,
    handover: BREAK,
    approvals: 0,
    has_addresses: false,
    isolation: "lease",
};
/// As that one, and never without a word of the other sites.
pub const ROOT: Service = Service {
    id: "ops/prod/root",
    category: 'A',
    number: 55,
    placing: FROM_SVG,
    handover: BREAK,
    approvals: 0,
    has_addresses: true,
    isolation: "exclusive",
};

pub const ALL: [Service; 7] = [API, PAY, WEB, EDGE, VAULT, LEDGER, ROOT];

/// The services of a lab with these sites.
pub fn of(sites: &[Site]) -> impl Iterator<Item = Service> {
    let enough = sites.len() >= 3;
    ALL.into_iter().filter(move |service| enough || service.isolation == "static")
}

impl Service {
    /// The VIPs, IPv4 first; the same at every site.
    pub fn vips(&self) -> [String; 2] {
        let n = self.number;
        [format!("10.99.0.{n}"), format!("fd00:99::{n}")]
    }

    /// What DNS answers for a site: its public addresses, else the VIPs.
    pub fn answers(&self, site: Site) -> [String; 2] {
        if self.has_addresses { site.public(self.number) } else { self.vips() }
    }

    /// `INSTANCE.ENVIRONMENT.PROJECT`, below the zone.
    pub fn dns_name(&self) -> String {
        let parts: Vec<&str> = self.id.rsplit('/').collect();
        format!("{}.{}", parts.join("."), crate::files::ZONE)
    }

    /// The table of this service in `services.toml`.
    pub fn toml(&self, sites: &[Site]) -> String {
        let Self {
            id,
            category,
            number: _,
            placing,
            handover,
            approvals,
            has_addresses,
            isolation,
        } = self;
        let place = match placing {
            Placing::Primary(primary) => {
                let others = sites.iter().map(|s| s.id).filter(|id| id != primary);
                let standby: Vec<&str> = others.collect();
                format!("mode = \"active-passive\"\nprimary = \"{primary}\"\nstandby = {standby:?}")
            }
            Placing::ActiveActive => {
                let ids: Vec<&str> = sites.iter().map(|s| s.id).collect();
                format!("mode = \"active-active\"\nactive = {ids:?}")
            }
        };
        let mut text = format!(
            "[[service]]\nid = \"{id}\"\ncategory = \"{category}\"\n{place}\nvips = {:?}\n",
            self.vips()
        );
        for site in sites {
            let backends = site.addresses(NET_SERVICE, 2);
            text += &format!("backends.{} = {backends:?}\n", site.id);
            if *has_addresses {
                text += &format!("addresses.{} = {:?}\n", site.id, self.answers(*site));
            }
        }
        text += &format!("handover = \"{handover}\"\nisolation = \"{isolation}\"\n");
        if *has_addresses && *isolation != "static" {
            text += "fence = \"external\"\n";
        }
        text += &format!("trigger = \"approve\"\napprovals = {approvals}\n");
        text += "sticky = \"1s\"\nhold_down = \"1s\"\nttl = \"5s\"\n";
        text + "ports = [{ name = \"https\", port = 443 }]\n\n"
    }
}

/// What a site's service host answers for: all VIPs, and the site's public addresses.
pub fn loopback(site: Site) -> Vec<String> {
    let mut addresses = Vec::new();
    for service in ALL {
        addresses.extend(service.vips());
        if service.has_addresses {
            addresses.extend(service.answers(site));
        }
    }
    addresses
}
