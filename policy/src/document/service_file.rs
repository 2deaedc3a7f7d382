//! `services.toml` as written: shapes and single values are checked, nothing is compared yet.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::code::Code;
use super::diagnostic::Span;
use super::fabric_check::Unique;
use super::form;
use super::party_file::parties;
use super::read::{At, Reader, Section};
use super::tree::Value;
use crate::fabric::DEFAULT_STICKY;
use crate::id::{ClusterId, ServiceId, SiteId, Weight};
use crate::service::{
    AllDown, Category, Drain, Handover, Health, Party, Port, Prefer, Readmit, Resilient, Shift,
    Trigger, Ttl,
};

#[derive(Debug)]
pub(super) struct ServiceDoc {
    pub(super) id: At<ServiceId>,
    pub(super) category: Category,
    pub(super) sites: SitesDoc,
    pub(super) vips: Vec<At<IpAddr>>,
    pub(super) backends: BackendsDoc,
    pub(super) backends_span: Span,
    /// Something in `backends` could not be read: what is missing there may be that.
    pub(super) backends_whole: bool,
    pub(super) addresses: Vec<(At<SiteId>, Vec<At<IpAddr>>)>,
    pub(super) isolation: IsolationDoc,
    pub(super) handover: Handover,
    pub(super) trigger: Trigger,
    pub(super) approvals: At<u8>,
    pub(super) residency: Vec<At<String>>,
    pub(super) ramp: RampDoc,
    pub(super) shift: At<Shift>,
    pub(super) sticky: Duration,
    pub(super) prefer: Prefer,
    pub(super) all_down: AllDown,
    pub(super) ttl: Ttl,
    pub(super) ports: Vec<Port>,
    pub(super) health: Option<Health>,
    pub(super) hold_down: Duration,
    pub(super) drain: Option<Drain>,
    pub(super) gates: BTreeMap<String, Vec<String>>,
    pub(super) external: Vec<At<Party>>,
    pub(super) load: u32,
    pub(super) rto: Option<Duration>,
    pub(super) rpo: Option<Duration>,
}

/// What names the sites of a service; which of it belongs to which mode is checked later.
#[derive(Debug)]
pub(super) struct SitesDoc {
    pub(super) active_active: bool,
    pub(super) primary: Option<At<SiteId>>,
    pub(super) standby: Vec<(At<SiteId>, u32)>,
    pub(super) standby_span: Option<Span>,
    pub(super) active: Vec<At<SiteId>>,
    pub(super) active_span: Option<Span>,
    pub(super) readmit: Option<At<Readmit>>,
    /// False when a site may be missing because it could not be read.
    pub(super) whole: bool,
    pub(super) span: Span,
}

/// By site, in file order.
pub(super) type BackendsDoc = Vec<(At<SiteId>, Vec<BackendDoc>)>;

#[derive(Debug)]
pub(super) struct BackendDoc {
    pub(super) address: At<IpAddr>,
    pub(super) cluster: Option<At<ClusterId>>,
    pub(super) weight: Weight,
}

#[derive(Debug)]
pub(super) struct IsolationDoc {
    pub(super) word: At<IsolationWord>,
    pub(super) fence: Option<Span>,
    /// Where make-before-break is asked for, not merely the default.
    pub(super) overlapping_handover: Option<Span>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IsolationWord {
    Static,
    Lease,
    Exclusive,
}

#[derive(Debug)]
pub(super) struct RampDoc {
    pub(super) steps: Vec<u8>,
    pub(super) dwell: Duration,
    pub(super) span: Option<Span>,
}

/// Reads the file; `None` when its syntax is broken.
pub(super) fn read(reader: &Reader<'_>) -> Option<Vec<ServiceDoc>> {
    let root = reader.parse()?;
    reader.section(&root, "the services file", |s| {
        let services = s
            .optional("service")
            .map(|v| reader.items(v, |v| reader.section(v, "[[service]]", |s| service(reader, s))));
        Some(services.unwrap_or_default())
    })
}

const CATEGORIES: &[(&str, Category)] =
    &[("A", Category::A), ("B", Category::B), ("C", Category::C)];
const TRIGGERS: &[(&str, Trigger)] =
    &[("manual", Trigger::Manual), ("approve", Trigger::Approve), ("auto", Trigger::Auto)];
const PREFERENCES: &[(&str, Prefer)] =
    &[("nearest", Prefer::Nearest), ("local", Prefer::Local), ("primary", Prefer::Primary)];
const HANDOVERS: &[(&str, Handover)] = &[
    ("make-before-break", Handover::MakeBeforeBreak),
    ("break-before-make", Handover::BreakBeforeMake),
];

fn service(r: &Reader<'_>, s: &Section<'_, '_>) -> Option<ServiceDoc> {
    let id = s.required("id").and_then(|v| r.parse_text(v, form::id));
    let category = s
        .required("category")
        .and_then(|v| r.choice(v, CATEGORIES))
        .map_or(Category::C, |c| c.value);
    let sites = sites(r, s);
    let vips = s.required("vips").map(|v| r.items(v, |v| r.parse_text(v, form::address)));
    let (backends, backends_whole) = backends(r, s);
    let addresses = s.optional("addresses").map(|v| addresses(r, v));
    let nothing = |v: &Value| v.list_len() == Some(0) && addresses.is_none();
    if s.optional("vips").is_some_and(nothing) {
        let message = "the service has no VIPs, and no `addresses` either";
        r.report(r.mistake(Code::NoVips, s.span_of("vips"), message));
    }
    let (handover, isolation) = handover(r, s, category);
    let choice = |key, table| s.optional(key).and_then(|v| r.choice(v, table));
    let trigger = choice("trigger", TRIGGERS);
    let time = |key, default: Duration| {
        let given = s.optional(key);
        let given = given.and_then(|v| r.parse_text(v, form::duration));
        given.map_or(default, |d| d.value)
    };
    let residency = s.optional("residency");
    let residency = residency.map(|v| r.items(v, |v| r.parse_text(v, form::name)));
    let ramp = ramp(r, s);
    let prefer = s.optional("prefer").and_then(|v| r.choice(v, PREFERENCES));
    let health = s.optional("health");
    let drain = s.optional("drain");
    let load = s.optional("load").and_then(|v| r.integer(v, 0..=1_000_000));
    let goal = |key| s.optional(key).and_then(|v| r.parse_text(v, form::duration));
    let (rto, rpo) = (goal("rto"), goal("rpo"));
    later(r, s);
    let doc = |id| ServiceDoc {
        id,
        category,
        sites,
        vips: vips.unwrap_or_default(),
        backends,
        backends_span: s.span_of("backends"),
        backends_whole,
        addresses: addresses.unwrap_or_default(),
        isolation,
        handover,
        trigger: trigger.map_or(Trigger::Approve, |t| t.value),
        approvals: approvals(r, s),
        residency: residency.unwrap_or_default(),
        ramp,
        shift: shift(r, s),
        sticky: time("sticky", DEFAULT_STICKY),
        prefer: prefer.map_or(Prefer::Nearest, |p| p.value),
        all_down: all_down(r, s),
        ttl: ttl(r, s),
        ports: ports(r, s),
        health: health.and_then(|v| r.section(v, "health", |s| Some(health_of(r, s)))),
        hold_down: time("hold_down", Duration::from_secs(600)),
        drain: drain.and_then(|v| r.section(v, "drain", |s| Some(drain_of(r, s)))),
        gates: gates(r, s),
        external: parties(r, s),
        load: load.map_or(0, |l| l.value),
        rto: rto.map(|t| t.value),
        rpo: rpo.map(|t| t.value),
    };
    // The rest is read before the id is missed, so that its mistakes show too.
    match id {
        Some(id) => Some(doc(id)),
        None => {
            let value = "a/a/a".parse().expect("a valid id");
            drop(doc(At { value, span: s.span }));
            None
        }
    }
}

fn sites(r: &Reader<'_>, s: &Section<'_, '_>) -> SitesDoc {
    let modes = [("active-passive", false), ("active-active", true)];
    let mode = s.optional("mode").and_then(|v| r.choice(v, &modes));
    let active_active = mode.is_some_and(|m| m.value);
    let (primary, standby) = (s.optional("primary"), s.optional("standby"));
    let active = s.optional("active");
    let needed = if active_active { active } else { primary };
    if needed.is_none() {
        let key = if active_active { "active" } else { "primary" };
        s.required(key);
    }
    let count = |v: Option<&Value>| v.map_or(Some(0), Value::list_len);
    let (standbys, actives) = (count(standby), count(active));
    let readmits = [("manual", Readmit::Manual), ("auto", Readmit::Auto)];
    let primary = primary.and_then(|v| r.parse_text(v, form::id));
    let standby_sites = standby.map(|v| r.items(v, |v| standby_of(r, v)));
    let standby_sites = standby_sites.unwrap_or_default();
    let active_sites = active.map(|v| r.items(v, |v| r.parse_text(v, form::id)));
    let active_sites = active_sites.unwrap_or_default();
    let lists = standbys == Some(standby_sites.len()) && actives == Some(active_sites.len());
    SitesDoc {
        active_active,
        whole: lists && (active_active || primary.is_some()),
        primary,
        standby: standby_sites,
        standby_span: standby.map(|_| s.span_of("standby")),
        active: active_sites,
        active_span: active.map(|_| s.span_of("active")),
        readmit: s.optional("readmit").and_then(|v| r.choice(v, &readmits)),
        span: s.span,
    }
}

fn standby_of(r: &Reader<'_>, value: &Value) -> Option<(At<SiteId>, u32)> {
    if !r.is_table(value) {
        return r.parse_text(value, form::id).map(|site| (site, 1));
    }
    r.section(value, "a standby", |s| {
        let site = s.required("site").and_then(|v| r.parse_text(v, form::id));
        let healthy = s.optional("min_healthy").and_then(|v| r.integer(v, 1..=65_535));
        Some((site?, healthy.map_or(1, |h| h.value)))
    })
}

/// The backends by site, and whether all of them could be read.
fn backends(r: &Reader<'_>, s: &Section<'_, '_>) -> (BackendsDoc, bool) {
    let Some(value) = s.required("backends") else {
        return (Vec::new(), false);
    };
    let mut whole = r.is_table(value);
    let all = r.entries(value, |key, value| {
        let site = site_key(r, key);
        whole &= site.is_some() && value.is_list();
        let backends = r.items(value, |v| {
            let backend = backend(r, v);
            whole &= backend.is_some();
            backend
        });
        Some((site?, backends))
    });
    (all, whole)
}

fn site_key(r: &Reader<'_>, key: At<&str>) -> Option<At<SiteId>> {
    match form::id(key.value) {
        Ok(value) => Some(At { value, span: key.span }),
        Err(flaw) => {
            r.report(r.mistake(flaw.code, key.span, flaw.message));
            None
        }
    }
}

fn backend(r: &Reader<'_>, value: &Value) -> Option<BackendDoc> {
    if !r.is_table(value) {
        let address = r.parse_text(value, form::address)?;
        return Some(BackendDoc { address, cluster: None, weight: Weight::ONE });
    }
    r.section(value, "a backend", |s| {
        let address = s.required("address").and_then(|v| r.parse_text(v, form::address));
        let cluster = s.optional("cluster");
        let cluster = cluster.and_then(|v| r.parse_text(v, form::id));
        let weight = s.optional("weight").and_then(|v| r.integer(v, 1..=256));
        Some(BackendDoc {
            address: address?,
            cluster,
            weight: weight.and_then(|w: At<u32>| Weight::new(w.value).ok()).unwrap_or(Weight::ONE),
        })
    })
}

fn addresses(r: &Reader<'_>, value: &Value) -> Vec<(At<SiteId>, Vec<At<IpAddr>>)> {
    r.entries(value, |key, value| {
        let site = site_key(r, key);
        let addresses = r.items(value, |v| r.parse_text(v, form::address));
        Some((site?, addresses))
    })
}

/// Category C may overlap the two sites; A and B hold state that must not be served twice, and so
/// must every service that only one site may serve.
fn handover(r: &Reader<'_>, s: &Section<'_, '_>, category: Category) -> (Handover, IsolationDoc) {
    let words = [
        ("static", IsolationWord::Static),
        ("lease", IsolationWord::Lease),
        ("exclusive", IsolationWord::Exclusive),
    ];
    let given = s.optional("isolation").and_then(|v| r.choice(v, &words));
    let word = given.unwrap_or(At { value: IsolationWord::Static, span: s.span });
    let fence = s.optional("fence");
    let fence = fence.and_then(|v| r.choice(v, &[("external", ())]));
    let handover = s.optional("handover").and_then(|v| r.choice(v, HANDOVERS));
    let overlapping = handover.filter(|h| h.value == Handover::MakeBeforeBreak);
    let default = match (category, word.value) {
        (Category::C, IsolationWord::Static) => Handover::MakeBeforeBreak,
        _ => Handover::BreakBeforeMake,
    };
    let isolation = IsolationDoc {
        word,
        fence: fence.map(|f| f.span),
        overlapping_handover: overlapping.map(|h| h.span),
    };
    (handover.map_or(default, |h| h.value), isolation)
}

fn approvals(r: &Reader<'_>, s: &Section<'_, '_>) -> At<u8> {
    let given = s.optional("approvals");
    let given = given.and_then(|v| r.integer(v, 0..=2));
    given.unwrap_or(At { value: 0, span: s.span })
}

fn ramp(r: &Reader<'_>, s: &Section<'_, '_>) -> RampDoc {
    let none = RampDoc { steps: vec![100], dwell: Duration::from_secs(30), span: None };
    let Some(value) = s.optional("ramp") else {
        return none;
    };
    let read = r.section(value, "ramp", |s| {
        let steps = s.optional("steps");
        let given = steps.map(|v| (r.items(v, |v| r.integer(v, 1..=100_u8)), v));
        let dwell = s.optional("dwell");
        let dwell = dwell.and_then(|v| r.parse_text(v, form::duration));
        let dwell = dwell.map_or(none.dwell, |d| d.value);
        let Some((steps, value)) = given else {
            return Some(RampDoc { dwell, steps: vec![100], span: None });
        };
        let all_read = value.list_len() == Some(steps.len());
        let steps: Vec<u8> = steps.into_iter().map(|s| s.value).collect();
        let ascending = steps.windows(2).all(|pair| pair[0] < pair[1]);
        let wrong = all_read && !(ascending && steps.last() == Some(&100));
        if wrong {
            let message = "the steps of a ramp must ascend to 100";
            r.report(
                r.mistake(Code::RampSteps, value.span, message)
                    .hint("percent of the traffic, such as `[10, 50, 100]`"),
            );
        }
        Some(RampDoc { steps, dwell, span: (!wrong).then_some(value.span) })
    });
    read.unwrap_or(none)
}

/// A word, or a table with the word as its kind.
fn shift(r: &Reader<'_>, s: &Section<'_, '_>) -> At<Shift> {
    let usual = At { value: Shift::Plain, span: s.span };
    let words = [("plain", Shift::Plain), ("resilient", Shift::Resilient(Resilient::USUAL))];
    let Some(value) = s.optional("shift") else {
        return usual;
    };
    if !r.is_table(value) {
        return r.choice(value, &words).unwrap_or(usual);
    }
    let read = r.section(value, "shift", |s| {
        let kind = s.required("kind").and_then(|v| r.choice(v, &words[1..]));
        let buckets = s.optional("buckets").and_then(|v| r.integer(v, 8..=1024_u16));
        let time = |key| s.optional(key).and_then(|v| r.parse_text(v, idle));
        let (idle, force) = (time("idle"), time("force"));
        kind?;
        Some(Shift::Resilient(Resilient {
            idle: idle.map_or(Resilient::USUAL.idle, |time| time.value),
            buckets: buckets.map_or(Resilient::USUAL.buckets, |count| count.value),
            force: force.map(|time| time.value),
        }))
    });
    read.map_or(usual, |shift| At { value: shift, span: value.span })
}

/// Timers of the kernel's groups: whole seconds are what people can compare with its listing.
fn idle(text: &str) -> Result<Duration, form::Flaw> {
    let time = form::some_time(text)?;
    if time.subsec_millis() != 0 || time > Duration::from_secs(3600) {
        let message = format!("whole seconds up to one hour are allowed, not `{text}`");
        return Err(form::Flaw::new(Code::OutOfRange, message));
    }
    Ok(time)
}

fn all_down(r: &Reader<'_>, s: &Section<'_, '_>) -> AllDown {
    let form = |text: &str| match text {
        "last-order" => Ok(AllDown::LastOrder),
        "refuse" => Ok(AllDown::Refuse),
        other => form::address(other).map(AllDown::Fallback).map_err(|_| {
            form::Flaw::new(Code::BadValue, format!("`{other}` is not a value allowed here"))
                .hint("use `last-order`, `refuse` or an address")
        }),
    };
    let given = s.optional("all_down").and_then(|v| r.parse_text(v, form));
    given.map_or(AllDown::LastOrder, |a| a.value)
}

const TTL: Ttl = Ttl { ceiling: Duration::from_secs(30), floor: Duration::from_secs(30) };

/// One time, or a table of the two between which it moves.
fn ttl(r: &Reader<'_>, s: &Section<'_, '_>) -> Ttl {
    let Some(value) = s.optional("ttl") else {
        return TTL;
    };
    if !r.is_table(value) {
        return r.parse_text(value, time_to_live).map_or(TTL, |t| Ttl::fixed(t.value));
    }
    let read = r.section(value, "ttl", |s| {
        let ceiling = s.required("ceiling").and_then(|v| r.parse_text(v, time_to_live));
        let floor = s.required("floor").and_then(|v| r.parse_text(v, time_to_live));
        let (ceiling, floor) = (ceiling?, floor?);
        if floor.value > ceiling.value {
            let message = "the floor of a TTL is above its ceiling";
            r.report(
                r.mistake(Code::OutOfRange, floor.span, message)
                    .hint("`floor` is what answers carry while a move is possible"),
            );
        }
        Some(Ttl { ceiling: ceiling.value, floor: floor.value })
    });
    read.unwrap_or(TTL)
}

/// RFC 2181 section 8 bounds a TTL; more than a day defeats steering, and it counts whole seconds.
pub(super) fn time_to_live(text: &str) -> Result<Duration, form::Flaw> {
    let ttl = form::some_time(text)?;
    if ttl.subsec_millis() != 0 || ttl > Duration::from_secs(86_400) {
        let message = format!("a TTL is whole seconds up to one day, not `{text}`");
        return Err(form::Flaw::new(Code::OutOfRange, message));
    }
    Ok(ttl)
}

fn ports(r: &Reader<'_>, s: &Section<'_, '_>) -> Vec<Port> {
    let Some(value) = s.optional("ports") else {
        return Vec::new();
    };
    let mut names = Unique::new(r, Code::DuplicateId, "the port");
    r.items(value, |v| {
        r.section(v, "a port", |s| {
            let name = s.required("name").and_then(|v| r.parse_text(v, port_name));
            if let Some(name) = &name {
                names.add(name.value.clone(), name.span);
            }
            let port = s.required("port").and_then(|v| r.integer(v, 1..=u16::MAX));
            Some(Port { name: name?.value, port: port?.value })
        })
    })
}

/// RFC 6335 section 5.1, as far as plain names go further than that: with a leading `_` it is a
/// label of DNS.
fn port_name(text: &str) -> Result<String, form::Flaw> {
    let name = form::name(text)?;
    let plain =
        name.len() <= 15 && !name.contains("--") && name.contains(|c: char| c.is_ascii_lowercase());
    if !plain {
        let message = format!("`{text}` is not the name of a port");
        let hint = "up to 15 of a-z, 0-9 and single `-`, with a letter, such as `https`";
        return Err(form::Flaw::new(Code::BadValue, message).hint(hint));
    }
    Ok(name)
}

fn health_of(r: &Reader<'_>, s: &Section<'_, '_>) -> Health {
    let count = |key, default| {
        let given = s.optional(key);
        let given = given.and_then(|v| r.integer(v, 1..=1000_u32));
        given.map_or(default, |c| c.value)
    };
    Health {
        tcp: s.optional("tcp").and_then(|v| r.integer(v, 1..=u16::MAX)).map(|p| p.value),
        interval: s
            .optional("interval")
            .and_then(|v| r.parse_text(v, form::some_time))
            .map_or(Duration::from_secs(1), |i| i.value),
        fall: count("fall", 3),
        rise: count("rise", 20),
    }
}

fn drain_of(r: &Reader<'_>, s: &Section<'_, '_>) -> Drain {
    let pps = s.optional("pps");
    let pps = pps.and_then(|v| r.integer(v, 1..=10_000_000));
    let dwell = s.optional("dwell");
    let dwell = dwell.and_then(|v| r.parse_text(v, form::some_time));
    Drain {
        pps: pps.map_or(Drain::USUAL.pps, |p| p.value),
        dwell: dwell.map_or(Drain::USUAL.dwell, |d| d.value),
    }
}

fn gates(r: &Reader<'_>, s: &Section<'_, '_>) -> BTreeMap<String, Vec<String>> {
    let mut gates = BTreeMap::new();
    let Some(value) = s.optional("gates") else {
        return gates;
    };
    r.section(value, "gates", |s| {
        for verb in ["failover", "failback"] {
            let Some(value) = s.optional(verb) else {
                continue;
            };
            let names = r.items(value, |v| r.parse_text(v, form::gate));
            let names = names.into_iter().map(|n| n.value).collect();
            gates.insert(verb.to_owned(), names);
        }
        Some(())
    });
    gates
}

fn later(r: &Reader<'_>, s: &Section<'_, '_>) {
    s.later("surge_limit", |v| {
        r.parse_text(v, form::rate);
    });
    s.later("breaker", |v| {
        r.section(v, "breaker", |s| {
            let moves = s.required("moves");
            let moves = moves.and_then(|v| r.integer(v, 1..=1000_u32));
            let per = s.required("per");
            moves.zip(per.and_then(|v| r.parse_text(v, form::some_time)))
        });
    });
}
