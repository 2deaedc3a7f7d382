//! The same zone for everybody: as a zone file, as a catalogue of services, and as questions.
//!
//! Name number N is `sN.eE.pP` below the zone, with one A and one AAAA record at each of two sites.
//! Everything follows from the number, so two runs ask the same questions.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, anyhow};
use nett_policy::document::{SourceFile, compile};
use nett_policy::fabric::Fabric;
use nett_policy::service::{Catalog, Service};

pub(crate) const ZONE: &str = "steer.example.";
const FABRIC: &str = include_str!("../../fixtures/fabrics/two-sites/fabric.toml");
const SERVICES: &str = include_str!("../../fixtures/fabrics/two-sites/services.toml");

/// Where a name points to: the first site, or the second one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    First,
    Second,
}

/// Which names are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mix {
    /// 95 % names of the zone, A and AAAA alike, and 5 % that do not exist.
    Usual,
    Hits,
    Misses,
}

/// The name below the zone, without the zone.
pub(crate) fn name(n: u32) -> String {
    format!("s{n}.e{}.p{}", n % 4, n % 100)
}

pub(crate) fn v4(n: u32, side: Side) -> Ipv4Addr {
    let base: u32 = match side {
        Side::First => 0x0a40_0000,
        Side::Second => 0x0a80_0000,
    };
    Ipv4Addr::from(base + n)
}

pub(crate) fn v6(n: u32, side: Side) -> Ipv6Addr {
    let base: u128 = match side {
        Side::First => 0xfd00_0099 << 96,
        Side::Second => 0xfd00_009a << 96,
    };
    Ipv6Addr::from(base + u128::from(n))
}

/// The zone in the form all peers read; the first `moved` names point to the second site.
pub(crate) fn zone_file(names: u32, moved: u32, serial: u32) -> String {
    let mut text = format!(
        "$ORIGIN {ZONE}\n$TTL 30\n\
         @ 60 IN SOA ns1.{ZONE} dns.example. {serial} 60 15 1209600 10\n\
         @ 3600 IN NS ns1.{ZONE}\n@ 3600 IN NS ns2.{ZONE}\n\
         ns1 3600 IN A 192.0.2.53\nns2 3600 IN A 192.0.2.117\n"
    );
    for n in 0..names {
        let side = if n < moved { Side::Second } else { Side::First };
        let (name, four, six) = (name(n), v4(n, side), v6(n, side));
        writeln!(text, "{name} A {four}\n{name} AAAA {six}").expect("memory does not fail");
    }
    text
}

/// The fabric of two sites and one service for each name.
pub(crate) fn catalog(names: u32) -> anyhow::Result<(Fabric, Catalog)> {
    let file = |name: &str, text: &str| SourceFile::new(name.to_owned(), text.to_owned());
    let compiled = compile(&file("fabric.toml", FABRIC), &file("services.toml", SERVICES));
    let (fabric, catalog) = compiled.map_err(|all| anyhow!("the fixture: {}", all.len()))?;
    let model = catalog.iter().find(|s| s.primary().is_some());
    let model = model.context("the fixture has no service with a primary")?;
    let services = (0..names).map(|n| service(model, n)).collect::<anyhow::Result<Vec<_>>>()?;
    Ok((fabric, Catalog::new(services)))
}

fn service(model: &Service, n: u32) -> anyhow::Result<Service> {
    let mut service = model.clone();
    service.id = format!("p{}/e{}/s{n}", n % 100, n % 4).parse()?;
    let sides = [Side::First, Side::Second];
    for (site, side) in service.sites().into_iter().zip(sides) {
        let addresses = vec![IpAddr::V4(v4(n, side)), IpAddr::V6(v6(n, side))];
        service.addresses.insert(site, addresses);
    }
    Ok(service)
}

/// Questions in the form of dnsperf, in an order that no cache likes.
pub(crate) fn questions(names: u32, mix: Mix, count: u32) -> String {
    let mut text = String::new();
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    for at in 0..count {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let draw = u32::try_from(state >> 33).expect("31 bits");
        let miss = match mix {
            Mix::Usual => at % 20 == 0,
            Mix::Hits => false,
            Mix::Misses => true,
        };
        let kind = if draw & 1 == 0 { "A" } else { "AAAA" };
        let name = name((draw >> 1) % names);
        let before = if miss { "x" } else { "" };
        writeln!(text, "{before}{name}.{ZONE} {kind}").expect("memory does not fail");
    }
    text
}
