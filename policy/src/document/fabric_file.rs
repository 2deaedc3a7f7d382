//! `fabric.toml` as written: shapes and single values are checked, nothing is compared yet.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::code::Code;
use super::diagnostic::Span;
use super::failover_file::failover;
use super::form;
use super::link_file::{LinkDoc, link};
use super::read::{At, Reader, Section};
use super::safety_file::{SafetyDoc, freeze, safety};
use super::transit_file::{TransitDoc, transit};
use super::tree::Value;
use super::voters_file::{self, VotersDoc};
use super::zone_file::{self, ZoneDoc};
use crate::fabric::{BusKeys, Freeze, Lease, OperatorRole, Role, UnknownClient};
use crate::failover::FailoverMark;
use crate::id::{ClusterId, Generation, NodeId, Selector, SiteId};

/// Elements that could not be read at all are missing from the lists; `whole` says that none is,
/// so that a reference to nothing known is a mistake of its own.
#[derive(Debug)]
pub(super) struct FabricDoc {
    pub(super) head: Head,
    pub(super) zone: Option<ZoneDoc>,
    pub(super) sites: Vec<SiteDoc>,
    pub(super) sites_span: Option<Span>,
    pub(super) nodes: Vec<NodeDoc>,
    pub(super) clusters: Vec<ClusterDoc>,
    pub(super) clients: Vec<(At<IpNet>, At<SiteId>)>,
    pub(super) links: Vec<LinkDoc>,
    pub(super) transits: Vec<TransitDoc>,
    pub(super) operators: Vec<OperatorDoc>,
    pub(super) bus: BusKeys,
    pub(super) safety: Vec<SafetyDoc>,
    pub(super) freezes: Vec<Freeze>,
    pub(super) whole: bool,
}

#[derive(Debug, Default)]
pub(super) struct Head {
    pub(super) name: String,
    pub(super) generation: Option<Generation>,
    pub(super) vip_ranges: Vec<At<IpNet>>,
    pub(super) anchors: Vec<IpAddr>,
    pub(super) unknown_client: Option<UnknownClient>,
    pub(super) lease: Option<Lease>,
    pub(super) voters: Option<VotersDoc>,
    pub(super) failover: Option<FailoverMark>,
}

#[derive(Debug)]
pub(super) struct SiteDoc {
    pub(super) id: At<SiteId>,
    pub(super) region: Option<String>,
    pub(super) rank: Option<At<u32>>,
    pub(super) capacity: u32,
    pub(super) prefixes: Vec<At<IpNet>>,
    pub(super) prefixes_given: bool,
    /// False when a prefix may be missing because it could not be read.
    pub(super) prefixes_whole: bool,
    pub(super) nats: Vec<String>,
    pub(super) leaf: Vec<String>,
    pub(super) leaf_key: Option<At<String>>,
}

#[derive(Debug)]
pub(super) struct NodeDoc {
    pub(super) id: At<NodeId>,
    pub(super) site: At<SiteId>,
    pub(super) role: Role,
    pub(super) addresses: Vec<At<IpAddr>>,
    pub(super) core: Option<At<String>>,
    pub(super) outer: Option<At<String>>,
    pub(super) key: Option<At<String>>,
    pub(super) voter: Option<Span>,
}

#[derive(Debug)]
pub(super) struct ClusterDoc {
    pub(super) id: At<ClusterId>,
    pub(super) site: At<SiteId>,
}

#[derive(Debug)]
pub(super) struct OperatorDoc {
    pub(super) name: At<String>,
    pub(super) key: Option<At<String>>,
    pub(super) roles: Vec<OperatorRole>,
    pub(super) services: Vec<Selector>,
}

/// Reads the file; `None` when its syntax is broken.
pub(super) fn read(reader: &Reader<'_>) -> Option<FabricDoc> {
    let root = reader.parse()?;
    reader.section(&root, "the fabric file", |s| Some(root_of(reader, s)))
}

fn root_of(r: &Reader<'_>, s: &Section<'_, '_>) -> FabricDoc {
    let mut whole = true;
    let head = s.required("fabric").and_then(|v| r.section(v, "[fabric]", |s| Some(head(r, s))));
    let zone = s.required("zone").and_then(|v| r.section(v, "[zone]", |s| zone_file::zone(r, s)));
    let sites = s.required("site");
    let mut all = Elements { reader: r, whole: &mut whole };
    let doc = FabricDoc {
        head: head.unwrap_or_default(),
        zone,
        sites: all.read(sites, "[[site]]", site),
        sites_span: sites.map(|_| s.span_of("site")),
        nodes: all.read(s.optional("node"), "[[node]]", node),
        clusters: all.read(s.optional("cluster"), "[[cluster]]", cluster),
        clients: all.read(s.optional("client"), "[[client]]", client),
        links: all.read(s.optional("link"), "[[link]]", link),
        transits: all.read(s.optional("transit"), "[[transit]]", transit),
        operators: all.read(s.optional("operator"), "[[operator]]", operator),
        bus: s
            .optional("bus")
            .and_then(|v| r.section(v, "[bus]", |s| Some(bus(r, s))))
            .unwrap_or(NO_BUS_KEYS),
        safety: all.read(s.optional("safety"), "[[safety]]", safety),
        freezes: all.read(s.optional("freeze"), "[[freeze]]", freeze),
        whole: true,
    };
    s.later("notify", |v| {
        r.section(v, "[notify]", |s| notify(r, s));
    });
    FabricDoc { whole, ..doc }
}

const NO_BUS_KEYS: BusKeys = BusKeys { admin: None, system: None, ca: None };

/// Reads arrays of tables and remembers whether an element was lost.
struct Elements<'a, 'f> {
    reader: &'a Reader<'f>,
    whole: &'a mut bool,
}

impl<'f> Elements<'_, 'f> {
    fn read<T>(
        &mut self,
        value: Option<&Value>,
        name: &str,
        element: fn(&Reader<'f>, &Section<'_, 'f>) -> Option<T>,
    ) -> Vec<T> {
        let Some(value) = value else {
            return Vec::new();
        };
        if !value.is_list() {
            *self.whole = false;
        }
        let r = self.reader;
        r.items(value, |v| {
            let read = r.section(v, name, |s| element(r, s));
            *self.whole &= read.is_some();
            read
        })
    }
}

fn head(r: &Reader<'_>, s: &Section<'_, '_>) -> Head {
    let head = Head {
        name: s
            .required("name")
            .and_then(|v| r.parse_text(v, form::name))
            .map(|n| n.value)
            .unwrap_or_default(),
        generation: s
            .required("generation")
            .and_then(|v| r.integer(v, 1..=u64::MAX >> 1))
            .map(|g| Generation(g.value)),
        vip_ranges: s
            .required("vip_ranges")
            .map(|v| r.items(v, |v| r.parse_text(v, form::cidr)))
            .unwrap_or_default(),
        anchors: Vec::new(),
        unknown_client: s
            .optional("unknown_client")
            .and_then(|v| r.choice(v, UNKNOWN_CLIENT))
            .map(|c| c.value),
        lease: s.optional("lease").and_then(|v| r.section(v, "lease", |s| lease(r, s))),
        voters: s
            .optional("voters")
            .and_then(|v| r.section(v, "voters", |s| voters_file::voters(r, s))),
        failover: failover(r, s),
    };
    let mut anchors = Vec::new();
    s.later("anchors", |v| {
        anchors = r.items(v, |v| r.parse_text(v, form::address));
    });
    Head { anchors: anchors.into_iter().map(|a| a.value).collect(), ..head }
}

const UNKNOWN_CLIENT: &[(&str, UnknownClient)] =
    &[("primary", UnknownClient::Primary), ("nearest", UnknownClient::Nearest)];

/// The wait covers a clock that runs 1 % slow and one second of delivery.
pub(super) fn lease(r: &Reader<'_>, s: &Section<'_, '_>) -> Option<Lease> {
    let duration = s.required("duration").and_then(|v| r.parse_text(v, form::some_time));
    let wait = s.required("wait").and_then(|v| r.parse_text(v, form::some_time));
    let (duration, wait) = (duration?, wait?);
    if duration.value < LEAST_LEASE {
        let message = format!("a lease of {} ms is too short", duration.value.as_millis());
        let hint = format!("nodes ask several times in it: at least {} s", LEAST_LEASE.as_secs());
        r.report(r.mistake(Code::OutOfRange, duration.span, message).hint(hint));
    }
    let least = least_wait(duration.value);
    if wait.value < least {
        let message = format!(
            "a wait of {} ms is too short for a lease of {} ms",
            wait.value.as_millis(),
            duration.value.as_millis()
        );
        let hint = format!("at least the duration x 1.01 + 1 s: `{}ms`", least.as_millis());
        r.report(r.mistake(Code::LeaseWaitTooShort, wait.span, message).hint(hint));
    }
    Some(Lease { duration: duration.value, wait: wait.value })
}

/// The shortest wait that covers a lease.
pub(super) fn least_wait(duration: Duration) -> Duration {
    duration + duration / 100 + Duration::from_secs(1)
}

const LEAST_LEASE: Duration = Duration::from_secs(5);

fn site(r: &Reader<'_>, s: &Section<'_, '_>) -> Option<SiteDoc> {
    let urls = |key| {
        let found = s.optional(key);
        let urls = found.map(|v| r.items(v, |v| r.parse_text(v, form::url)));
        let urls = urls.unwrap_or_default();
        urls.into_iter().map(|u| u.value).collect()
    };
    let id = s.required("id").and_then(|v| r.parse_text(v, form::id));
    let region = s.optional("region").and_then(|v| r.parse_text(v, form::name));
    let rank = s.required("rank").and_then(|v| r.integer(v, 1..=65_535));
    let capacity = s.optional("capacity").and_then(|v| r.integer(v, 1..=1_000_000));
    let prefixes = s.optional("prefixes");
    let prefixes_given = prefixes.is_some();
    let prefixes_count = prefixes.map_or(Some(0), Value::list_len);
    let prefixes =
        prefixes.map(|v| r.items(v, |v| r.parse_text(v, form::cidr))).unwrap_or_default();
    let (nats, leaf) = (urls("nats"), urls("leaf"));
    let leaf_key = s.optional("leaf_key").and_then(|v| r.parse_text(v, form::nkey));
    Some(SiteDoc {
        id: id?,
        region: region.map(|r| r.value),
        rank,
        capacity: capacity.map_or(CAPACITY, |c| c.value),
        prefixes_whole: prefixes_count == Some(prefixes.len()),
        prefixes,
        prefixes_given,
        nats,
        leaf,
        leaf_key,
    })
}

/// The capacity of a site that does not state one.
const CAPACITY: u32 = 100;

const ROLES: &[(&str, Role)] =
    &[("border", Role::Border), ("route", Role::Route), ("witness", Role::Witness)];

fn node(r: &Reader<'_>, s: &Section<'_, '_>) -> Option<NodeDoc> {
    let id = s.required("id").and_then(|v| r.parse_text(v, form::id::<NodeId>));
    let site = s.required("site").and_then(|v| r.parse_text(v, form::id));
    let role = s.required("role").and_then(|v| r.choice(v, ROLES));
    let witness = role.is_some_and(|r| r.value == Role::Witness);
    let needed = |key| {
        if witness { s.optional(key) } else { s.required(key) }
    };
    let addresses = needed("addresses")
        .map(|v| r.items(v, |v| r.parse_text(v, form::address)))
        .unwrap_or_default();
    let core = needed("core").and_then(|v| r.parse_text(v, form::interface));
    let outer = s.optional("outer").and_then(|v| r.parse_text(v, form::interface));
    let key = s.required("key").and_then(|v| r.parse_text(v, form::nkey));
    let voter = s.optional("voter");
    let votes = voter.and_then(|v| r.boolean(v)).unwrap_or(false);
    Some(NodeDoc {
        id: id?,
        site: site?,
        role: role?.value,
        addresses,
        core,
        outer,
        key,
        voter: votes.then(|| s.span_of("voter")),
    })
}

fn cluster(r: &Reader<'_>, s: &Section<'_, '_>) -> Option<ClusterDoc> {
    let id = s.required("id").and_then(|v| r.parse_text(v, form::id));
    let site = s.required("site").and_then(|v| r.parse_text(v, form::id));
    Some(ClusterDoc { id: id?, site: site? })
}

fn client(r: &Reader<'_>, s: &Section<'_, '_>) -> Option<(At<IpNet>, At<SiteId>)> {
    let prefix = s.required("prefix").and_then(|v| r.parse_text(v, form::cidr));
    let site = s.required("site").and_then(|v| r.parse_text(v, form::id));
    prefix.zip(site)
}

const OPERATOR_ROLES: &[(&str, OperatorRole)] = &[
    ("operator", OperatorRole::Operator),
    ("approver", OperatorRole::Approver),
    ("gate", OperatorRole::Gate),
    ("viewer", OperatorRole::Viewer),
];

fn operator(r: &Reader<'_>, s: &Section<'_, '_>) -> Option<OperatorDoc> {
    let name = s.required("name").and_then(|v| r.parse_text(v, form::person));
    let key = s.required("key").and_then(|v| r.parse_text(v, form::nkey));
    let mut roles: Vec<OperatorRole> = s
        .required("roles")
        .map(|v| r.items(v, |v| r.choice(v, OPERATOR_ROLES)))
        .unwrap_or_default()
        .into_iter()
        .map(|c| c.value)
        .collect();
    roles.sort_unstable();
    roles.dedup();
    let services = s
        .optional("services")
        .map(|v| r.items(v, |v| r.parse_text(v, form::selector)))
        .unwrap_or_default();
    Some(OperatorDoc {
        name: name?,
        key,
        roles,
        services: services.into_iter().map(|s| s.value).collect(),
    })
}

fn bus(r: &Reader<'_>, s: &Section<'_, '_>) -> BusKeys {
    let key = |key| {
        let found = s.optional(key).and_then(|v| r.parse_text(v, form::nkey));
        found.map(|k| k.value)
    };
    BusKeys {
        admin: key("admin"),
        system: key("system"),
        ca: s.optional("ca").and_then(|v| r.parse_text(v, form::words)).map(|c| c.value),
    }
}

const OCCASIONS: &[(&str, ())] =
    &[("proposal", ()), ("refusal", ()), ("waiting", ()), ("redundancy", ())];

fn notify(r: &Reader<'_>, s: &Section<'_, '_>) -> Option<()> {
    if let Some(v) = s.required("exec") {
        r.items(v, |v| r.parse_text(v, form::words));
    }
    if let Some(v) = s.optional("on") {
        r.items(v, |v| r.choice(v, OCCASIONS));
    }
    Some(())
}
