//! Explanations agree with answers, and say why.

use super::*;
use crate::sample::{fabric, ip, usual};
use crate::zone::ZoneSource;

fn zone() -> Zone {
    let fabric = fabric();
    let services = usual();
    Zone::build(ZoneSource {
        zone: &fabric.zone,
        fabric: &fabric,
        home: None,
        serial: Serial(12),
        services: &services,
    })
    .expect("valid names")
}

fn explain(name: &str, client: Option<&str>, subnet: Option<&str>) -> String {
    let zone = zone();
    let subnet = subnet.map(|s| s.parse().expect("a prefix"));
    zone.explain(name, client.map(ip), subnet).to_string()
}

#[test]
fn explanations_read_well() {
    let near = explain("near.prod.shop.steer.example", Some("10.4.0.7"), None);
    assert_eq!(
        near,
        "name      near.prod.shop.steer.example (zone serial 12)\n\
         service   shop/prod/near\n\
         spread    nearest of fra,osl,sto\n\
         client    lon, by source address 10.4.0.7 in 10.4.0.0/16\n\
         site      fra\n\
         answer    192.0.2.3 2001:db8::3 (ttl 30)\n\
         scope     /16 around the client\n\
         because   nearest to the client's site lon, link cost 5\n"
    );
    let subnet =
        explain("near.prod.shop.steer.example", Some("10.4.0.7"), Some("198.51.100.200/25"));
    assert!(
        subnet.contains("client    sto, by client subnet 198.51.100.128/25 in 198.51.100.128/25"),
        "{subnet}"
    );
    assert!(subnet.ends_with("because   the client's own site serves\n"));
}

#[test]
fn every_kind_of_name_says_why() {
    for (name, expected) in [
        ("api.prod.shop.steer.example", "only this site gets traffic"),
        ("ramp.prod.shop.steer.example", "in 4"),
        ("last.prod.shop.steer.example", "no site gets traffic: first"),
        ("refuse.prod.shop.steer.example", "no site gets traffic: REFUSED"),
        ("fallback.prod.shop.steer.example", "the fallback address"),
        ("sto.site.api.prod.shop.steer.example", "asks for this site"),
        ("all.site.api.prod.shop.steer.example", "not drained"),
        ("near.prod.shop.steer.example", "osl, which stands in for unknown"),
        ("prod.shop.steer.example", "no data"),
        ("nope.shop.steer.example", "NXDOMAIN"),
        ("steer.example", "zone"),
        ("example.org", "REFUSED"),
        ("a..b", "label"),
    ] {
        let text = explain(name, Some("8.8.8.8"), None);
        assert!(text.contains(expected), "{name}: {text}");
    }
    let nobody = explain("ramp.prod.shop.steer.example", None, None);
    assert!(nobody.contains("depends on the client"), "{nobody}");
}

/// The explanation is of the answer that is really given.
#[test]
fn explanations_agree_with_answers() {
    use hickory_proto::op::{Message, MessageType, OpCode, Query};
    use hickory_proto::rr::{Name, RData, RecordType};

    let zone = zone();
    let clients = ["10.1.0.1", "10.2.9.9", "10.4.0.1", "8.8.8.8", "198.51.100.130", "2a00::1"];
    let hosts = ["", "sto.site.", "all.site."];
    for service in usual().keys() {
        for (client, host) in clients.iter().flat_map(|c| hosts.map(|h| (ip(c), h))) {
            let name = format!("{host}{}.steer.example.", service.dns_name());
            let mut addresses = Vec::new();
            for kind in [RecordType::A, RecordType::AAAA] {
                let mut message = Message::new(1, MessageType::Query, OpCode::Query);
                message.add_query(Query::query(Name::from_ascii(&name).expect("a name"), kind));
                let packet = message.to_vec().expect("a small message");
                let transport = crate::Transport::Tcp;
                let profile = &crate::Profile::default();
                let ask =
                    crate::Ask { packet: &packet, source: client, transport, now: 0, profile };
                let mut out = Vec::new();
                crate::answer(&zone, &ask, &mut out);
                let answer = Message::from_vec(&out).expect("a message");
                addresses.extend(answer.answers.iter().map(|r| match &r.data {
                    RData::A(a) => IpAddr::V4(a.0),
                    RData::AAAA(a) => IpAddr::V6(a.0),
                    other => panic!("no address: {other:?}"),
                }));
            }
            let mut explained = zone.explain(&name, Some(client), None).addresses;
            addresses.sort();
            explained.sort();
            explained.dedup();
            assert_eq!(explained, addresses, "{name} for {client}");
        }
    }
}
