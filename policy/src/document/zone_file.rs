//! `[zone]` of the fabric file: the names of the zone, who copies it, and what signs it.
//!
//! Single values are checked here; that a node or site exists is compared by `fabric_check.rs`.
//! Secrets never stand in this file: it names keys, and the nodes that use them have the files.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::code::Code;
use super::form::{self, Flaw};
use super::read::{At, Reader, Section};
use super::service_file::time_to_live;
use super::tree::Value;
use crate::fabric::{Dnssec, NameServer, Secondary, Transfer, TtlBounds, Zone, ZoneKeys};
use crate::id::{NodeId, SiteId};

/// Where a secondary listens for NOTIFY when no port is given.
const DNS_PORT: u16 = 53;
/// How long signatures hold when the file does not say.
const VALIDITY: Duration = Duration::from_secs(14 * 86_400);
/// Shorter ones would run out before anybody could act on a failure.
const LEAST_VALIDITY: Duration = Duration::from_secs(86_400);

#[derive(Debug)]
pub(super) struct ZoneDoc {
    pub(super) zone: Zone,
    pub(super) transfer_from: Option<At<NodeId>>,
    pub(super) transfer_site: Option<At<SiteId>>,
}

pub(super) fn zone(r: &Reader<'_>, s: &Section<'_, '_>) -> Option<ZoneDoc> {
    let name = s.required("name").and_then(|v| r.parse_text(v, form::domain));
    let hostmaster = s.required("hostmaster").and_then(|v| r.parse_text(v, form::domain));
    let zone = name.as_ref().map(|n| n.value.as_str());
    let ns = s
        .required("ns")
        .map(|v| r.items(v, |v| r.section(v, "ns", |s| name_server(r, s, zone))))
        .unwrap_or_default();
    let to = s.optional("transfer").map(|v| secondaries(r, v));
    let from = match &to {
        Some(_) => s.required("transfer_from"),
        None => s.optional("transfer_from"),
    };
    let transfer_from: Option<At<NodeId>> = from.and_then(|v| r.parse_text(v, form::id));
    let transfer_site: Option<At<SiteId>> =
        s.optional("transfer_site").and_then(|v| r.parse_text(v, form::id));
    let ttl = s.optional("ttl").map(|v| r.section(v, "ttl", |s| ttl_bounds(r, s)));
    let dnssec = s.optional("dnssec").map(|v| r.section(v, "dnssec", |s| dnssec(r, s)));
    Some(ZoneDoc {
        zone: Zone {
            name: name?.value,
            hostmaster: hostmaster?.value,
            ns,
            transfer: Transfer {
                from: transfer_from.as_ref().map(|n| n.value.clone()),
                site: transfer_site.as_ref().map(|s| s.value.clone()),
                to: to.unwrap_or_default(),
            },
            dnssec: dnssec.flatten(),
            ttl: ttl.flatten().unwrap_or_default(),
        },
        transfer_from,
        transfer_site,
    })
}

/// What is not given is no bound.
fn ttl_bounds(r: &Reader<'_>, s: &Section<'_, '_>) -> Option<TtlBounds> {
    let [floor, ceiling] =
        ["floor", "ceiling"].map(|k| s.optional(k).map(|v| r.parse_text(v, time_to_live)));
    let none = TtlBounds::default();
    let of = |given: &Option<Option<At<Duration>>>, usual| match given {
        None => Some(usual),
        Some(read) => read.as_ref().map(|ttl| ttl.value),
    };
    let bounds = TtlBounds { floor: of(&floor, none.floor)?, ceiling: of(&ceiling, none.ceiling)? };
    if bounds.floor > bounds.ceiling {
        let message = "the zone's floor of TTLs is above its ceiling";
        let span = floor.flatten().map_or(s.span, |ttl| ttl.span);
        r.report(
            r.mistake(Code::OutOfRange, span, message)
                .hint("no TTL lies between the two: lower `floor` or raise `ceiling`"),
        );
    }
    Some(bounds)
}

/// A name server whose name lies in the zone can only be found through glue.
fn name_server(r: &Reader<'_>, s: &Section<'_, '_>, zone: Option<&str>) -> Option<NameServer> {
    let name = s.required("name").and_then(|v| r.parse_text(v, form::domain));
    let addresses: Vec<At<IpAddr>> = s
        .optional("addresses")
        .map(|v| r.items(v, |v| r.parse_text(v, form::address)))
        .unwrap_or_default();
    let name = name?;
    let inside = zone.is_some_and(|z| name.value == z || name.value.ends_with(&format!(".{z}")));
    if inside && addresses.is_empty() {
        let message = format!("`{}` lies in the zone and has no address", name.value);
        r.report(
            r.mistake(Code::NsWithoutAddress, name.span, message)
                .hint("add `addresses`, or use a name outside the zone"),
        );
    }
    Some(NameServer {
        name: name.value,
        addresses: addresses.into_iter().map(|a| a.value).collect(),
    })
}

/// The secondaries; one address with one key stands in the list once.
fn secondaries(r: &Reader<'_>, value: &Value) -> Vec<Secondary> {
    let mut seen = BTreeMap::new();
    let read = |v: &Value| {
        let read = r.section(v, "transfer", |s| secondary(r, s))?;
        let key = (read.address, read.tsig.clone());
        if let Some(first) = seen.insert(key, v.span) {
            let message = "this secondary stands twice";
            r.report(
                r.mistake(Code::DuplicateAddress, v.span, message)
                    .related(r.place(first), "first here"),
            );
        }
        Some(read)
    };
    r.items(value, read)
}

/// An address, a key, or both; with neither everybody would be meant.
fn secondary(r: &Reader<'_>, s: &Section<'_, '_>) -> Option<Secondary> {
    let tsig = s.optional("tsig");
    let to = match tsig {
        Some(_) => s.optional("to"),
        None => s.required("to"),
    };
    let given = (to.is_some(), tsig.is_some());
    let to = to.and_then(|v| r.parse_text(v, notified));
    let tsig = tsig.and_then(|v| r.parse_text(v, key_name));
    let whole = given == (to.is_some(), tsig.is_some()) && (given.0 || given.1);
    whole.then_some(Secondary { address: to.map(|a| a.value), tsig: tsig.map(|t| t.value) })
}

/// An address, with a port where it is not the usual one.
fn notified(text: &str) -> Result<SocketAddr, Flaw> {
    match text.parse::<SocketAddr>() {
        Ok(socket) if socket.port() != 0 => form::address(&socket.ip().to_string()).map(|_| socket),
        Ok(_) => Err(Flaw::new(Code::BadAddress, format!("`{text}` has the port 0"))
            .hint("leave the port out for 53")),
        Err(_) => form::address(text).map(|address| SocketAddr::new(address, DNS_PORT)),
    }
}

/// The name of a TSIG key: a domain name, whose final dot may be left out.
fn key_name(text: &str) -> Result<String, Flaw> {
    let dotted = match text.ends_with('.') {
        true => text.to_owned(),
        false => format!("{text}."),
    };
    form::domain(&dotted).map_err(|_| {
        Flaw::new(Code::BadDomain, format!("`{text}` is not the name of a TSIG key"))
            .hint("the name `tsig-keygen NAME` was given, in lower case, such as `osl-to-far`")
    })
}

/// Either one key for everything, or one for the key set and one for the rest.
fn dnssec(r: &Reader<'_>, s: &Section<'_, '_>) -> Option<Dnssec> {
    let key = |v: &Value| r.parse_text(v, key_file);
    let [csk, ksk, zsk] = ["csk", "ksk", "zsk"].map(|name| s.optional(name));
    let publish = s.optional("publish").map(|v| r.items(v, key)).unwrap_or_default();
    let validity = s.optional("validity").map(|v| r.parse_text(v, form::duration));
    let validity = validity.map_or(Some(VALIDITY), |v| {
        let v = v?;
        if v.value < LEAST_VALIDITY {
            let message = "signatures that hold for less than a day";
            r.report(
                r.mistake(Code::OutOfRange, v.span, message)
                    .hint("at least `1d`: they are renewed when a third of the time is left"),
            );
            return None;
        }
        Some(v.value)
    });
    let keys = match (csk, ksk, zsk) {
        (Some(csk), None, None) => key(csk).map(|k| (ZoneKeys::One(k.value.clone()), vec![k])),
        (None, Some(ksk), Some(zsk)) => key(ksk).zip(key(zsk)).map(|(k, z)| {
            let keys = ZoneKeys::Split { ksk: k.value.clone(), zsk: z.value.clone() };
            (keys, vec![k, z])
        }),
        _ => {
            let message = "a zone is signed by `csk`, or by `ksk` and `zsk`";
            r.report(
                r.mistake(Code::DnssecKeys, s.span, message)
                    .hint("`csk` alone is the simple way; other keys go into `publish`"),
            );
            None
        }
    };
    let (keys, signing) = keys?;
    let mut seen = BTreeMap::new();
    for key in signing.iter().chain(&publish) {
        if let Some(first) = seen.insert(key.value.as_str(), key.span) {
            let message = format!("the key `{}` stands twice", key.value);
            r.report(
                r.mistake(Code::DnssecKeys, key.span, message)
                    .related(r.place(first), "first here"),
            );
        }
    }
    let publish = publish.iter().map(|k| k.value.clone()).collect();
    Some(Dnssec { keys, publish, validity: validity? })
}

/// A key file's name without directory and ending, as `dnssec-keygen` prints it.
fn key_file(text: &str) -> Result<String, Flaw> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
    if text.is_empty() || text.len() > 255 || !text.chars().all(allowed) {
        let message = format!("`{text}` is not the name of a key file");
        return Err(Flaw::new(Code::BadValue, message).hint(
            "the name that `dnssec-keygen` prints, such as `Ksteer.example.+013+12345`; \
             the directory is `dns.key_dir` of each agent",
        ));
    }
    for ending in [".key", ".private"] {
        if let Some(stem) = text.strip_suffix(ending) {
            let message = format!("`{text}` ends in `{ending}`");
            return Err(Flaw::new(Code::BadValue, message).hint(format!("did you mean `{stem}`?")));
        }
    }
    Ok(text.to_owned())
}
