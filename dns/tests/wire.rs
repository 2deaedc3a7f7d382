//! Real questions to a real server over UDP and TCP, asked with `dig` as clients do.

mod sample;
mod serve;

use std::io::Read;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use nett_dns::Limits;

use serve::{Running, dig, query};

#[test]
fn dig_gets_every_kind_of_answer_over_both_transports() {
    let server = Running::usual();
    let cases: &[(&str, &str, &str, &str)] = &[
        // name, type, status, answer section
        ("api.prod.shop", "A", "NOERROR", "30 IN A 192.0.2.1"),
        ("api.prod.shop", "AAAA", "NOERROR", "30 IN AAAA 2001:db8::1"),
        ("near.prod.shop", "A", "NOERROR", "30 IN A 192.0.2.1"),
        ("last.prod.shop", "A", "NOERROR", "30 IN A 192.0.2.1"),
        ("refuse.prod.shop", "A", "REFUSED", ""),
        ("fallback.prod.shop", "A", "NOERROR", "30 IN A 203.0.113.9"),
        ("fallback.prod.shop", "AAAA", "NOERROR", ""),
        ("v4.prod.shop", "A", "NOERROR", "30 IN A 192.0.2.1|30 IN A 192.0.2.11"),
        ("v4.prod.shop", "AAAA", "NOERROR", ""),
        ("sto.site.api.prod.shop", "A", "NOERROR", "30 IN A 192.0.2.2"),
        ("osl.site.drained.prod.shop", "A", "NOERROR", "30 IN A 192.0.2.1"),
        ("lon.site.api.prod.shop", "A", "NXDOMAIN", ""),
        ("all.site.drained.prod.shop", "A", "NOERROR", "30 IN A 192.0.2.2|30 IN A 192.0.2.3"),
        ("site.api.prod.shop", "A", "NOERROR", ""),
        ("prod.shop", "A", "NOERROR", ""),
        ("shop", "TXT", "NOERROR", ""),
        ("nope.prod.shop", "A", "NXDOMAIN", ""),
        ("api.prod.shop", "MX", "NOERROR", ""),
        ("ns1", "AAAA", "NOERROR", "3600 IN AAAA 2001:db8::53"),
        ("ns2.dc", "A", "NOERROR", "3600 IN A 192.0.2.54"),
        ("dc", "A", "NOERROR", ""),
        ("api.prod.shop", "ANY", "NOERROR", "3600 IN HINFO \"RFC8482\" \"\""),
    ];
    for (name, kind, status, expected) in cases {
        for transport in ["+notcp", "+tcp"] {
            let what = format!("{name} {kind} {transport}");
            let name = format!("{name}.steer.example.");
            let told = dig(&server, &["+norec", "+noedns", transport, &name, kind]);
            assert_eq!(told.status, *status, "{what}: {}", told.text);
            let wanted: Vec<String> = expected
                .split('|')
                .filter(|r| !r.is_empty())
                .map(|r| format!("{name} {r}"))
                .collect();
            assert_eq!(told.answer, wanted, "{what}: {}", told.text);
            let refused = *status == "REFUSED";
            assert_eq!(told.flags.contains(&"aa".to_owned()), !refused, "{what}");
            let soa = "steer.example. 10 IN SOA ns1.steer.example. dns.example. \
                       100 60 15 1209600 10";
            let negative = expected.is_empty() && !refused;
            let authority = if negative { vec![soa.to_owned()] } else { vec![] };
            assert_eq!(told.authority, authority, "{what}");
        }
    }
}

#[test]
fn the_apex_has_soa_ns_and_glue() {
    let server = Running::usual();
    let soa = dig(&server, &["+norec", "steer.example.", "SOA"]);
    assert_eq!(
        soa.answer,
        ["steer.example. 60 IN SOA ns1.steer.example. dns.example. 100 60 15 1209600 10"]
    );
    let ns = dig(&server, &["+norec", "steer.example.", "NS"]);
    assert_eq!(
        ns.answer,
        [
            "steer.example. 3600 IN NS ns1.steer.example.",
            "steer.example. 3600 IN NS ns2.dc.steer.example.",
            "steer.example. 3600 IN NS ns.elsewhere.example.",
        ]
    );
    assert_eq!(
        ns.additional,
        [
            "ns1.steer.example. 3600 IN A 192.0.2.53",
            "ns1.steer.example. 3600 IN AAAA 2001:db8::53",
            "ns2.dc.steer.example. 3600 IN A 192.0.2.54",
        ]
    );
    let outside = dig(&server, &["+norec", "www.example.", "A"]);
    assert_eq!(outside.status, "REFUSED");
    assert!(!outside.flags.contains(&"aa".to_owned()));
}

#[test]
fn text_shows_every_site_and_the_client_itself() {
    let server = Running::usual();
    let txt = dig(&server, &["+norec", "ramp.prod.shop.steer.example.", "TXT"]);
    assert_eq!(
        txt.answer,
        ["ramp.prod.shop.steer.example. 30 IN TXT \
          \"site=osl state=active weight=75 health=up epoch=7\" \
          \"site=sto state=active weight=25 health=up epoch=7\" \
          \"site=fra state=standby weight=0 health=up epoch=7\""]
    );
    let one = dig(&server, &["sto.site.ramp.prod.shop.steer.example.", "TXT"]);
    assert_eq!(
        one.answer,
        ["sto.site.ramp.prod.shop.steer.example. 30 IN TXT \
          \"site=sto state=active weight=25 health=up epoch=7\""]
    );
    let reflect = dig(&server, &["reflect.steer.example.", "TXT"]);
    assert_eq!(
        reflect.answer,
        ["reflect.steer.example. 0 IN TXT \"client=127.0.0.1\" \"subnet=none\" \
          \"site=osl\" \"prefix=127.0.0.0/8\""]
    );
    let subnet = dig(&server, &["+subnet=198.51.100.128/25", "reflect.steer.example.", "TXT"]);
    assert_eq!(
        subnet.answer,
        ["reflect.steer.example. 0 IN TXT \"client=127.0.0.1\" \
          \"subnet=198.51.100.128/25\" \"site=sto\" \"prefix=198.51.100.128/25\""]
    );
    assert!(subnet.text.contains("CLIENT-SUBNET: 198.51.100.128/25/25"));
}

#[test]
fn the_client_subnet_decides_and_its_scope_is_told() {
    let server = Running::usual();
    for (name, subnet, address, scope) in [
        // The same for everybody: scope 0.
        ("api", "10.3.0.0/24", "192.0.2.1", "10.3.0.0/24/0"),
        ("near", "10.3.0.0/24", "192.0.2.3", "10.3.0.0/24/16"),
        ("near", "198.51.100.0/25", "192.0.2.1", "198.51.100.0/25/25"),
        ("near", "198.51.100.128/25", "192.0.2.2", "198.51.100.128/25/25"),
        ("near", "2001:db8:2::/56", "192.0.2.2", "2001:db8:2::/56/48"),
        // Not to be located: the address of the packet counts, for everybody.
        ("near", "0.0.0.0/0", "192.0.2.1", "0.0.0.0/0/0"),
    ] {
        let name = format!("{name}.prod.shop.steer.example.");
        let told = dig(&server, &[&format!("+subnet={subnet}"), &name, "A"]);
        assert_eq!(told.answer, [format!("{name} 30 IN A {address}")], "{subnet}");
        let option = format!("CLIENT-SUBNET: {scope}");
        assert!(told.text.contains(&option), "{name} {subnet}: {}", told.text);
    }
    let ramp = "ramp.prod.shop.steer.example.";
    let told = dig(&server, &["+subnet=10.3.0.0/20", ramp, "A"]);
    assert!(told.text.contains("CLIENT-SUBNET: 10.3.0.0/20/24"), "{}", told.text);
    let told = dig(&server, &["+subnet=2001:db8::/48", ramp, "AAAA"]);
    assert!(told.text.contains("CLIENT-SUBNET: 2001:db8::/48/56"), "{}", told.text);
    let without = dig(&server, &["near.prod.shop.steer.example.", "A"]);
    assert!(!without.text.contains("CLIENT-SUBNET"));
}

#[test]
fn the_source_address_decides_without_a_subnet() {
    let server = Running::usual();
    let name = "near.prod.shop.steer.example.";
    for (source, address) in [("127.0.0.1", "192.0.2.1"), ("127.0.0.2", "192.0.2.3")] {
        let told = dig(&server, &["-b", source, name, "A"]);
        assert_eq!(told.answer, [format!("{name} 30 IN A {address}")], "{source}");
    }
    let pairs = server.stats.answers();
    let count = |client: &str, target: &str| {
        let is = |(c, t, _): &&(Option<_>, Option<_>, u64)| {
            (c, t) == (&Some(sample::site(client)), &Some(sample::site(target)))
        };
        pairs.iter().find(is).map(|p| p.2)
    };
    assert_eq!((count("osl", "osl"), count("fra", "fra")), (Some(1), Some(1)));
}

#[test]
fn edns_is_answered_with_our_own_size_and_version() {
    let server = Running::usual();
    let name = "api.prod.shop.steer.example.";
    let told = dig(&server, &["+bufsize=4096", "+dnssec", name, "A"]);
    assert!(told.text.contains("EDNS: version: 0, flags: do; udp: 1232"), "{}", told.text);
    let told = dig(&server, &["+noedns", name, "A"]);
    assert!(!told.text.contains("EDNS"), "{}", told.text);
    let told = dig(&server, &["+edns=1", "+noednsneg", name, "A"]);
    assert_eq!(told.status, "BADVERS");
    assert!(told.text.contains("EDNS: version: 0"), "{}", told.text);
    // NSID, cookies and options nobody knows do no harm.
    let told = dig(&server, &["+nsid", "+cookie", "+ednsopt=65001:abcd", name, "A"]);
    assert_eq!((told.status.as_str(), told.answer.len()), ("NOERROR", 1));
}

#[test]
fn what_does_not_fit_is_cut_and_then_asked_over_tcp() {
    let server = Running::usual();
    let name = "wide.prod.shop.steer.example.";
    let cut = dig(&server, &["+ignore", "+bufsize=65000", name, "A"]);
    assert!(cut.flags.contains(&"tc".to_owned()), "{}", cut.text);
    assert!(cut.answer.is_empty());
    assert!(cut.text.contains("udp: 1232"));
    let whole = dig(&server, &["+bufsize=65000", name, "A"]);
    assert_eq!(whole.answer.len(), 256);
    assert_eq!(server.stats.truncated(), 2);
    // 1232 is our limit and 512 that of those who say nothing.
    for (edns, most) in [(None, 512), (Some(100), 512), (Some(1000), 1000), (Some(9000), 1232)] {
        let mut packet = query("all.site.api.prod.shop.steer.example", RecordType::A, edns);
        packet[0] = 9;
        let answer = server.ask_udp(&packet);
        assert!(answer.len() <= most);
        let wide = query(name, RecordType::A, edns);
        let answer = server.ask_udp(&wide);
        assert!(Message::from_vec(&answer).expect("a message").metadata.truncation);
    }
}

#[test]
fn ports_are_named_with_the_addresses_of_the_clients_site() {
    let server = Running::usual();
    let service = "ports.prod.shop.steer.example.";
    let near = |address: &str, six: &str| {
        [format!("{service} 30 IN A {address}"), format!("{service} 30 IN AAAA {six}")]
    };
    let srv = dig(&server, &["_https._tcp.ports.prod.shop.steer.example.", "SRV"]);
    assert_eq!(srv.answer, [format!("_https._tcp.{service} 30 IN SRV 0 0 8443 {service}")]);
    // The client of loopback belongs to osl.
    assert_eq!(srv.additional, near("192.0.2.1", "2001:db8::1"), "{}", srv.text);
    assert!(srv.flags.contains(&"aa".to_owned()));
    let smtp = "_smtp._tcp.ports.prod.shop.steer.example.";
    let far = dig(&server, &["+subnet=10.3.0.0/24", smtp, "SRV"]);
    assert_eq!(far.answer, [format!("{smtp} 30 IN SRV 0 0 25 {service}")]);
    assert_eq!(far.additional, near("192.0.2.3", "2001:db8::3"));
    assert!(far.text.contains("CLIENT-SUBNET: 10.3.0.0/24/16"), "{}", far.text);
    let https = dig(&server, &[service, "HTTPS"]);
    assert_eq!(https.answer, [format!("{service} 30 IN HTTPS 1 . port=8443")]);
    assert_eq!(https.additional, near("192.0.2.1", "2001:db8::1"));
    let svcb = dig(&server, &["_smtp.ports.prod.shop.steer.example.", "SVCB"]);
    assert_eq!(svcb.answer, [format!("_smtp.{service} 30 IN SVCB 1 {service} port=25")]);
    // Names that exist, without such records.
    for (name, kind) in [
        ("_https._tcp.ports.prod.shop.steer.example.", "A"),
        ("_tcp.ports.prod.shop.steer.example.", "SRV"),
        ("_smtp.ports.prod.shop.steer.example.", "SRV"),
        ("api.prod.shop.steer.example.", "HTTPS"),
    ] {
        let told = dig(&server, &[name, kind]);
        assert_eq!((told.status.as_str(), told.answer.len()), ("NOERROR", 0), "{name} {kind}");
        assert_eq!(told.authority.len(), 1, "{name} {kind}");
    }
    let none = dig(&server, &["_https._tcp.api.prod.shop.steer.example.", "SRV"]);
    assert_eq!(none.status, "NXDOMAIN");
}

#[test]
fn the_question_keeps_its_case() {
    let server = Running::usual();
    let packet = query("aPi.PrOd.sHoP.StEeR.eXaMpLe", RecordType::A, None);
    let answer = server.ask_udp(&packet);
    assert_eq!(answer[12..packet.len()], packet[12..]);
    let message = Message::from_vec(&answer).expect("a message");
    assert_eq!(message.answers.len(), 1);
    assert_eq!(message.answers[0].name.to_string(), "aPi.PrOd.sHoP.StEeR.eXaMpLe.");
    // RD and CD come back, RA and AD stay off (RFC 1035, RFC 4035 section 3.2.2).
    let mut packet = query("api.prod.shop.steer.example", RecordType::A, None);
    packet[2] = 0x01;
    packet[3] = 0xb0;
    let answer = server.ask_udp(&packet);
    assert_eq!((answer[2], answer[3]), (0x85, 0x10));
}

// === starting and stopping ===

#[test]
fn several_sockets_share_one_port_and_stop_together() {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().name().is_some_and(|name| name.starts_with("nett-dns")) {
            PANICS.fetch_add(1, Ordering::Relaxed);
        }
        before(info);
    }));
    let mut server = Running::with_limits(Limits { udp_threads: 3, ..Limits::default() });
    let good = query("api.prod.shop.steer.example", RecordType::A, None);
    // Each client port is hashed to one of the sockets; all of them must answer.
    for _ in 0..64 {
        assert!(server.ask_udp(&good).len() > good.len());
    }
    let mut stream = server.connect();
    serve::send(&mut stream, &good);
    serve::receive(&mut stream);
    let address = server.address;
    let started = Instant::now();
    server.stop();
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    assert_eq!(PANICS.load(Ordering::Relaxed), 0, "a thread of the server panicked");
    assert_eq!(stream.read(&mut [0; 16]).expect("the end"), 0);
    assert!(TcpStream::connect(address).is_err());
    let socket = UdpSocket::bind(address).expect("the port is free again");
    drop(socket);
}

#[test]
fn ipv6_is_served_from_the_address_that_was_asked() {
    let server = Running::on("[::1]:0".parse().expect("an address"), Limits::default());
    let reflect = dig(&server, &["reflect.steer.example.", "TXT"]);
    assert!(reflect.answer[0].contains("\"client=::1\""), "{}", reflect.text);
    let four = Running::on("127.0.0.9:0".parse().expect("an address"), Limits::default());
    let answer = dig(&four, &["api.prod.shop.steer.example.", "A"]);
    assert_eq!(answer.status, "NOERROR");
}

#[test]
fn wrong_addresses_are_refused_with_a_reason() {
    use nett_dns::ServerError;
    let any: SocketAddr = "0.0.0.0:0".parse().expect("an address");
    let error = serve::try_start(&[any]).expect_err("a wildcard");
    assert!(matches!(error, ServerError::Wildcard(_)));
    assert!(error.to_string().contains("dns.listen"), "{error}");
    assert!(matches!(serve::try_start(&[]), Err(ServerError::NoAddress)));
    let server = Running::usual();
    let error = serve::try_start(&[server.address]).expect_err("in use");
    assert!(matches!(error, ServerError::Bind { .. }), "{error}");
}

#[test]
fn counters_tell_code_and_transport() {
    let server = Running::usual();
    let ask = |name: &str| query(name, RecordType::A, None);
    server.ask_udp(&ask("api.prod.shop.steer.example"));
    server.ask_udp(&ask("nope.steer.example"));
    let mut stream = server.connect();
    serve::send(&mut stream, &ask("example.org"));
    serve::receive(&mut stream);
    let counted: Vec<_> = server.stats.queries().filter(|q| q.2 > 0).collect();
    assert_eq!(counted, [("noerror", "udp", 1), ("nxdomain", "udp", 1), ("refused", "tcp", 1)]);
    assert_eq!(server.stats.connections(), 1);
}
