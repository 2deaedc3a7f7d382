//! Bytes against bytes: nexthops as iproute2 6.1 sends them (captured with strace), routes and
//! rules as another codec reads them.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER_PERMISSIVE;
use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAttribute, RouteType};
use netlink_packet_route::rule::{RuleAction as Action, RuleAttribute};
use nett_policy::fabric::Family;
use nett_policy::id::Weight;
use nett_policy::lower::object::{
    Nexthop, NexthopId, RouteKey, RouteTarget, Rule, RuleAction, Table,
};

use super::attr::Message;
use super::{nexthop, route, rule};

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).expect("hex")
}

fn single(gateway: &str) -> Nexthop {
    Nexthop::Single { gateway: gateway.parse().expect("an address"), interface: "d0".to_owned() }
}

fn group(weight: u32) -> Nexthop {
    let weight = Weight::new(weight).expect("1 to 256");
    Nexthop::Group {
        family: Family::V4,
        members: BTreeMap::from([(NexthopId(1_315_246_096), weight)]),
        buckets: None,
    }
}

#[test]
fn nexthops_are_sent_as_iproute2_sends_them() {
    // ip nexthop add id 1315246096 via 192.0.2.2 dev d0 onlink proto 217
    let v4 = "0200d900 04000000 08000100 1010654e 08000600 c0000202 08000500 03000000";
    // ip nexthop add id 1315246097 via fd00::2 dev d0 onlink proto 217
    let v6 = "0a00d900 04000000 08000100 1110654e
              14000600 fd000000 00000000 00000000 00000002 08000500 03000000";
    // ip nexthop add id 1315258368 group 1315246096,3 proto 217
    let three = "0000d900 00000000 08000100 0040654e 0c000200 1010654e 02000000";
    for (id, nexthop, bytes) in [
        (1_315_246_096, single("192.0.2.2"), v4),
        (1_315_246_097, single("fd00::2"), v6),
        (1_315_258_368, group(3), three),
    ] {
        let message = nexthop::put(0, 217, NexthopId(id), &nexthop, 3);
        assert_eq!(message.payload(), hex(bytes), "{nexthop}");
    }
    // ip nexthop del id 1315258368
    let delete = hex("00000000 00000000 08000100 0040654e");
    assert_eq!(nexthop::delete(NexthopId(1_315_258_368)).payload(), delete);
}

#[test]
fn nexthops_are_read_as_linux_lists_them() {
    // The answer to: ip nexthop list id 1315258368. Linux 6.18.
    let listed =
        hex("0000d900 00000000 08000100 0040654e 06000300 00000000 0c000200 1010654e 02000000
         08000e00 00000080");
    let row = nexthop::decode(nexthop::RTM_NEWNEXTHOP, &listed);
    let Nexthop::Group { members, .. } = group(3) else { unreachable!("it is a group") };
    let expected = nexthop::Row {
        id: NexthopId(1_315_258_368),
        protocol: 217,
        family: None,
        form: nexthop::Form::Group(members, None),
    };
    assert_eq!(row, Ok(Some(expected)));
    // The same with group type 1, resilient, but no word of its buckets; and of a type that is not
    // known.
    let mut resilient = listed.clone();
    resilient[20] = 1;
    let row = nexthop::decode(nexthop::RTM_NEWNEXTHOP, &resilient);
    assert_eq!(row.map(|r| r.map(|r| r.form)), Ok(Some(nexthop::Form::Other)));
    // And cut off in the middle of its members.
    assert!(nexthop::decode(nexthop::RTM_NEWNEXTHOP, &listed[..30]).is_err());
}

/// What the codec of netlink-packet-route makes of our bytes.
fn independently(message: &mut Message, kind: u16) -> RouteNetlinkMessage {
    let mut header = NetlinkHeader::default();
    header.message_type = kind;
    RouteNetlinkMessage::deserialize(&header, message.payload()).expect("well formed")
}

#[test]
fn routes_mean_the_same_to_another_codec() {
    for (destination, target) in [
        ("198.51.100.1/32", RouteTarget::Nexthop(NexthopId(0x4E65_4000))),
        ("fd99::/48", RouteTarget::Unreachable),
        ("0.0.0.0/0", RouteTarget::Nexthop(NexthopId(0x4E65_1010))),
        ("::/0", RouteTarget::Unreachable),
    ] {
        let destination = destination.parse().expect("a prefix");
        let key = RouteKey { table: Table(7000), destination, metric: u32::MAX };
        let mut message = route::put(0, 217, &key, target);
        let RouteNetlinkMessage::NewRoute(read) = independently(&mut message, route::RTM_NEWROUTE)
        else {
            panic!("not a new route");
        };
        assert_eq!(read.header.destination_prefix_length, destination.prefix_len());
        assert_eq!(u8::from(read.header.protocol), 217);
        let nexthop = match target {
            RouteTarget::Nexthop(id) => {
                assert_eq!(read.header.kind, RouteType::Unicast);
                Some(RouteAttribute::NhId(id.0))
            }
            RouteTarget::Unreachable => {
                assert_eq!(read.header.kind, RouteType::Unreachable);
                None
            }
        };
        let expected = [RouteAttribute::Table(7000), RouteAttribute::Priority(u32::MAX)];
        for attribute in expected.into_iter().chain(nexthop) {
            assert!(read.attributes.contains(&attribute), "{attribute:?} in {read:?}");
        }
        let back = route::decode(route::RTM_NEWROUTE, message.payload());
        let row = route::Row { key, protocol: 217, target: Some(target) };
        assert_eq!(back, Ok(Some(row)));
    }
}

#[test]
fn rules_mean_the_same_to_another_codec() {
    let rule = Rule {
        priority: 4400,
        family: Family::V6,
        iif: Some("wan0".to_owned()),
        fwmark: Some((0x1000, 0x3000)),
        from: Some("fd01::/32".parse().expect("a prefix")),
        to: Some("fd99::/48".parse().expect("a prefix")),
        action: RuleAction::Lookup { table: Table(7004), suppress_prefixlength: Some(0) },
    };
    let mut message = rule::message(rule::RTM_NEWRULE, 0, 217, &rule);
    let RouteNetlinkMessage::NewRule(read) = independently(&mut message, rule::RTM_NEWRULE) else {
        panic!("not a new rule");
    };
    assert_eq!(read.header.action, Action::ToTable);
    assert_eq!((read.header.dst_len, read.header.src_len), (48, 32));
    for attribute in [
        RuleAttribute::Priority(4400),
        RuleAttribute::Iifname("wan0".to_owned()),
        RuleAttribute::FwMark(0x1000),
        RuleAttribute::FwMask(0x3000),
        RuleAttribute::Table(7004),
        RuleAttribute::SuppressPrefixLen(0),
        RuleAttribute::Source("fd01::".parse().expect("an address")),
        RuleAttribute::Destination("fd99::".parse().expect("an address")),
    ] {
        assert!(read.attributes.contains(&attribute), "{attribute:?} in {read:?}");
    }
    let row = rule::decode(rule::RTM_NEWRULE, message.payload()).expect("well formed");
    assert_eq!(row.and_then(|r| r.rule), Some(rule));
}
