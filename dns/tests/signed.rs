//! The signed zone, as validators and checkers of other makers see it.

mod peers;
mod sample;
mod serve;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::Message;
use hickory_proto::rr::{Record, RecordType};
use nett_dns::dnssec::{Keys, SigningStats, ZoneKey};
use nett_dns::{Changes, Deadlines, Keyring, Limits, Serial, Transfers, Zone, ZoneSource, publish};
use nett_policy::fabric::{Secondary, Transfer};
use nett_policy::id::Epoch;
use nett_policy::lower::answers::{Answers, ServiceAnswers};
use nett_policy::service::Ttl;
use tempfile::TempDir;

use peers::{Peer, Primary, dig_at, own_address, path, place, place_for_bind, run, write};
use serve::{Running, query};

const DAY: u64 = 86_400;

/// Keys as `dnssec-keygen` makes them.
struct Made {
    dir: TempDir,
    names: Vec<String>,
}

impl Made {
    fn one() -> Self {
        Self::of(&[&["-f", "KSK"]])
    }

    fn split() -> Self {
        Self::of(&[&["-f", "KSK"], &[]])
    }

    fn of(kinds: &[&[&str]]) -> Self {
        let dir = TempDir::new().expect("a directory");
        let make = |kind: &&[&str]| {
            let head = ["-q", "-a", "ECDSAP256SHA256", "-K", path(dir.path())];
            let made = run("dnssec-keygen", &[&head, *kind, &["steer.example"]].concat());
            made.trim().to_owned()
        };
        let names = kinds.iter().map(make).collect();
        Self { dir, names }
    }

    fn text(&self, at: usize, ending: &str) -> String {
        let file = self.dir.path().join(format!("{}.{ending}", self.names[at]));
        std::fs::read_to_string(file).expect("written by dnssec-keygen")
    }

    fn key(&self, at: usize) -> Arc<ZoneKey> {
        let (public, private) = (self.text(at, "key"), self.text(at, "private"));
        Arc::new(ZoneKey::read("steer.example.", &public, Some(&private)).expect("a key"))
    }

    fn keys(&self, stats: &Arc<SigningStats>) -> Arc<Keys> {
        let rest = (self.names.len() > 1).then(|| self.key(1));
        let validity = Duration::from_secs(14 * DAY);
        let keys =
            Keys::new("steer.example.", (self.key(0), rest), Vec::new(), validity, stats.clone());
        Arc::new(keys.expect("both sign"))
    }
}

fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("after 1970").as_secs()
}

/// Smaller than BIND's limit for records of one name.
fn services() -> Answers {
    let mut services = sample::usual();
    let wide = services.get_mut(&"shop/prod/wide".parse().expect("an id")).expect("usual");
    sample::fixed(wide).sites[0].addresses.truncate(90);
    services
}

fn zone(
    made: &Made,
    stats: &Arc<SigningStats>,
    services: &Answers,
    secondary: Option<SocketAddr>,
) -> Zone {
    let fabric = sample::fabric();
    let zone = Zone::build(ZoneSource {
        zone: &fabric.zone,
        fabric: &fabric,
        home: Some(&sample::site("osl")),
        serial: Serial(100),
        services,
    });
    let to = secondary.into_iter().map(|a| Secondary { address: Some(a), tsig: None }).collect();
    let transfer = Transfer { from: None, site: None, to };
    let transfers = Arc::new(Transfers::new(&transfer, Keyring::default(), true));
    let zone = zone.expect("valid names").with_transfers(transfers);
    let zone = zone.with_keys(made.keys(stats), now());
    assert!(zone.is_behind());
    let zone = zone.caught_up(Serial(101), usize::MAX, now());
    assert!(!zone.is_behind());
    zone
}

struct Site {
    made: Made,
    stats: Arc<SigningStats>,
    server: Running,
}

fn start(made: Made, secondary: Option<SocketAddr>) -> Site {
    let stats = Arc::<SigningStats>::default();
    let zone = zone(&made, &stats, &services(), secondary);
    let server = Running::over(zone, SocketAddr::new(own_address(), 0), Limits::default());
    Site { made, stats, server }
}

impl Site {
    fn change(&self, service: &str, answers: Option<ServiceAnswers>) {
        let current = self.server.zone.load_full();
        let service = service.parse().expect("an id");
        let changes = Changes::from([(&service, answers.as_ref())]);
        let next = current.with(&changes, current.serial().next());
        publish(&self.server.zone, next).expect("newer");
    }

    fn move_to(&self, service: &str, site: &str) {
        let mut moved = sample::answers(service, sample::weighted(&[(site, 1)]));
        moved.epoch = Epoch(8);
        self.change(service, Some(moved));
    }

    fn catch_up(&self) {
        let current = self.server.zone.load_full();
        let next = current.caught_up(current.serial().next(), usize::MAX, now());
        publish(&self.server.zone, next).expect("newer");
    }

    /// The public halves of the keys of the key set.
    fn anchors(&self) -> String {
        self.made.text(0, "key")
    }

    fn unbound(&self) -> Peer {
        let peer = Peer::unbound(self.server.address, &self.anchors());
        peer.until(&["ns1.steer.example", "A", "+rec"], "192.0.2.53");
        peer
    }

    /// The zone as a file, from our server by AXFR.
    fn copy(&self, from: SocketAddr, source: SocketAddr, file: &std::path::Path) {
        let text = dig_at(
            from,
            &[
                "steer.example",
                "AXFR",
                "+nocmd",
                "+nostats",
                "+onesoa",
                "-b",
                &source.ip().to_string(),
            ],
        );
        assert!(text.lines().count() > 300, "{text}");
        std::fs::write(file, text).expect("a file");
    }
}

/// Asks a resolver; status, whether the answer is validated, and the data.
fn ask(peer: &Peer, name: &str, kind: &str) -> (String, bool, Vec<String>) {
    let name = format!("{name}steer.example");
    let text = dig_at(peer.address, &[&name, kind, "+rec", "+dnssec"]);
    let after = |mark: &str, end: char| {
        let rest = text.split_once(mark).unwrap_or_else(|| panic!("{text}")).1;
        rest.split(end).next().unwrap_or_default().to_owned()
    };
    let validated = after(";; flags:", ';').split_whitespace().any(|f| f == "ad");
    let answer = text.split(";; ANSWER SECTION:").nth(1).and_then(|t| t.split("\n\n").next());
    let data = answer.unwrap_or_default().lines().filter(|l| !l.contains("RRSIG"));
    let data = data.filter_map(|l| l.split_once(kind)).map(|(_, d)| d.trim().to_owned());
    (after("status: ", ','), validated, data.filter(|d| !d.is_empty()).collect())
}

fn one(text: &str) -> Vec<String> {
    vec![text.to_owned()]
}

/// Everything a resolver may want to have proved.
fn validates(made: Made) {
    let site = start(made, None);
    let peer = site.unbound();
    let good = |name: &str, kind: &str| {
        let (status, validated, data) = ask(&peer, name, kind);
        assert_eq!(
            (status.as_str(), validated),
            ("NOERROR", true),
            "{name} {kind}\n{}",
            peer.log()
        );
        data
    };
    assert_eq!(good("api.prod.shop.", "A"), one("192.0.2.1"));
    assert_eq!(good("API.Prod.shop.", "AAAA"), one("2001:db8::1"));
    assert_eq!(good("fallback.prod.shop.", "A"), one("203.0.113.9"));
    assert_eq!(good("fra.site.api.prod.shop.", "A"), one("192.0.2.3"));
    assert_eq!(good("all.site.drained.prod.shop.", "A").len(), 2);
    assert!(good("api.prod.shop.", "TXT")[0].contains("site=osl state=active"));
    for kind in ["SOA", "NS", "DNSKEY", "CDS", "CDNSKEY"] {
        assert!(!good("", kind).is_empty(), "{kind}");
    }
    assert_eq!(good("ns2.dc.", "A"), one("192.0.2.54"));
    let port = good("_smtp._tcp.ports.prod.shop.", "SRV");
    assert_eq!(port, one("0 0 25 ports.prod.shop.steer.example."));
    assert_eq!(good("ports.prod.shop.", "HTTPS").len(), 1);
    // No data: at names with records, and at names with nothing but others below.
    for (name, kind) in [
        ("api.prod.shop.", "MX"),
        ("", "MX"),
        ("osl.site.api.prod.shop.", "SRV"),
        ("fallback.prod.shop.", "AAAA"),
        ("prod.shop.", "A"),
        ("shop.", "TXT"),
        ("dc.", "A"),
        ("site.api.prod.shop.", "A"),
        ("reflect.", "DS"),
    ] {
        assert_eq!(good(name, kind), Vec::<String>::new(), "{name} {kind}");
    }
    for name in [
        "nothing.",
        "a.nothing.",
        "nothing.prod.shop.",
        "nothing.site.api.prod.shop.",
        "x.api.prod.shop.",
        "x.osl.site.api.prod.shop.",
        "0.",
        "zzz.",
        "*.prod.shop.",
        "xreflect.",
        "a\\000b.prod.shop.",
    ] {
        let (status, validated, _) = ask(&peer, name, "A");
        assert_eq!((status.as_str(), validated), ("NXDOMAIN", true), "{name}\n{}", peer.log());
    }
    // An answer about its asker is in no signed zone, and provably so.
    let (status, validated, data) = ask(&peer, "reflect.", "TXT");
    assert_eq!((status.as_str(), validated), ("NOERROR", false), "{}", peer.log());
    assert!(data[0].contains("client="), "{data:?}");
    for (name, kind, code) in [("reflect.", "A", "NOERROR"), ("x.reflect.", "A", "NXDOMAIN")] {
        let (status, validated, _) = ask(&peer, name, kind);
        assert_eq!((status.as_str(), validated), (code, false), "{name}\n{}", peer.log());
    }
    // A move, at once; then what is said about it.
    let before = site.stats.signatures();
    site.move_to("shop/prod/api", "sto");
    assert_eq!(good("api.prod.shop.", "A"), one("192.0.2.2"));
    assert_eq!(site.stats.signatures(), before, "a move signs nothing");
    assert!(good("api.prod.shop.", "TXT")[0].contains("epoch=7"));
    site.catch_up();
    assert!(good("api.prod.shop.", "TXT")[0].contains("epoch=8"));
    assert_eq!(ask(&peer, "nothing.prod.shop.", "A").0, "NXDOMAIN");
}

#[test]
fn unbound_validates_a_zone_with_one_key() {
    validates(Made::one());
}

#[test]
fn unbound_validates_a_zone_with_two_keys() {
    validates(Made::split());
}

#[test]
fn delv_validates() {
    let site = start(Made::one(), None);
    let key = site.anchors();
    let record = key.lines().find(|l| !l.starts_with(';')).expect("a record");
    let fields: Vec<&str> = record.split_whitespace().collect();
    let at = fields.iter().position(|f| *f == "DNSKEY").expect("a key");
    let text = format!(
        "trust-anchors {{ steer.example. static-key {} \"{}\"; }};\n",
        fields[at + 1..at + 4].join(" "),
        fields[at + 4..].concat()
    );
    let file = write(site.made.dir.path(), "anchors", &text);
    let delv = |name: &str, kind: &str| {
        let server = format!("@{}", site.server.address.ip());
        let port = site.server.address.port().to_string();
        let arguments =
            [&server, "-p", &port, "-a", path(&file), "+root=steer.example", name, kind];
        run("delv", &arguments)
    };
    let good = delv("api.prod.shop.steer.example", "A");
    assert!(good.contains("; fully validated") && good.contains("192.0.2.1"), "{good}");
    for (name, kind) in [("api.prod.shop", "MX"), ("prod.shop", "A"), ("nothing.shop", "A")] {
        let text = delv(&format!("{name}.steer.example"), kind);
        assert!(text.contains("; negative response, fully validated"), "{name}: {text}");
    }
    // Whose lease is over has no addresses, provably.
    let deadlines = Arc::<Deadlines>::default();
    let over = ["api", "fallback"].map(|n| format!("shop/prod/{n}").parse().expect("an id"));
    deadlines.set(over.into_iter().map(|service| (service, Instant::now())).collect());
    let current = site.server.zone.load_full();
    let next = current.with(&Changes::from([]), current.serial().next());
    publish(&site.server.zone, next.with_deadlines(deadlines)).expect("newer");
    for (name, kind) in [("api", "A"), ("api", "AAAA"), ("fallback", "A"), ("fallback", "AAAA")] {
        let text = delv(&format!("{name}.prod.shop.steer.example"), kind);
        assert!(text.contains("; negative response, fully validated"), "{name} {kind}: {text}");
    }
    let text = delv("api.prod.shop.steer.example", "TXT");
    assert!(text.contains("; fully validated"), "{text}");
    // `reflect` is a zone of its own, provably without signatures: so is what it does not have.
    for (name, kind) in [("reflect", "A"), ("reflect", "MX"), ("x.reflect", "A")] {
        let text = delv(&format!("{name}.steer.example"), kind);
        assert!(text.contains("; negative response, unsigned answer"), "{name}: {text}");
    }
    for kind in ["TXT", "NS", "SOA"] {
        let text = delv("reflect.steer.example", kind);
        assert!(text.contains("; unsigned answer"), "{kind}: {text}");
    }
}

/// The whole zone, by checkers that know nothing of how it was made.
fn checks(site: &Site, file: &std::path::Path) {
    let verified = run("ldns-verify-zone", &["-k", path(&anchor_file(site)), path(file)]);
    assert!(verified.contains("Zone is verified and complete"), "{verified}");
    let verified = run("dnssec-verify", &["-o", "steer.example", "-z", path(file)]);
    assert!(verified.contains("Zone fully signed"), "{verified}");
    let checked = run("kzonecheck", &["-d", "on", "-o", "steer.example", path(file)]);
    assert_eq!(checked.trim(), "", "{checked}");
    run("named-checkzone", &["-i", "local", "-k", "fail", "steer.example", path(file)]);
}

fn anchor_file(site: &Site) -> std::path::PathBuf {
    site.made.dir.path().join(format!("{}.key", site.made.names[0]))
}

#[test]
fn checkers_find_nothing_in_a_copy() {
    for made in [Made::one(), Made::split()] {
        let own = place();
        let site = start(made, Some(own));
        let file = site.made.dir.path().join("copy.zone");
        site.copy(site.server.address, own, &file);
        checks(&site, &file);
        // A service comes, one goes, one moves.
        let new = sample::answers("shop/test/new", sample::weighted(&[("fra", 1)]));
        site.change("shop/test/new", Some(new));
        site.change("shop/prod/near", None);
        site.move_to("shop/prod/api", "sto");
        // What is signed fits together also before it is signed anew.
        site.copy(site.server.address, own, &file);
        checks(&site, &file);
        let text = std::fs::read_to_string(&file).expect("a file");
        assert!(text.contains("near.prod.shop") && !text.contains("new.test.shop"));
        site.catch_up();
        site.copy(site.server.address, own, &file);
        checks(&site, &file);
        let text = std::fs::read_to_string(&file).expect("a file");
        assert!(!text.contains("near.prod.shop") && text.contains("new.test.shop"));
    }
}

/// A lowered TTL is signed as it is told, and the move behind it too.
#[test]
fn checkers_find_nothing_in_a_copy_with_a_lowered_ttl() {
    let own = place();
    let site = start(Made::one(), Some(own));
    let file = site.made.dir.path().join("copy.zone");
    let at = |place, lowered| {
        let mut answers = sample::answers("shop/test/slow", sample::weighted(&[(place, 1)]));
        sample::fixed(&mut answers).ttl =
            Ttl { ceiling: Duration::from_secs(600), floor: Duration::from_secs(5) };
        sample::standing(&mut answers).lowered = lowered;
        site.change("shop/test/slow", Some(answers));
    };
    let told = || {
        site.copy(site.server.address, own, &file);
        checks(&site, &file);
        let text = std::fs::read_to_string(&file).expect("a file");
        let own = |line: &&str| line.starts_with("slow.test.shop.") && line.contains("\tA\t");
        let line = text.lines().find(own).expect("an address").to_owned();
        let fields: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        (fields[1].clone(), fields[4].clone())
    };
    at("osl", false);
    site.catch_up();
    assert_eq!(told(), ("600".to_owned(), "192.0.2.1".to_owned()));
    let signatures = site.stats.signatures();
    for (place, lowered, ttl, address) in [
        ("osl", true, "5", "192.0.2.1"),
        ("sto", true, "5", "192.0.2.2"),
        ("sto", false, "600", "192.0.2.2"),
    ] {
        at(place, lowered);
        assert_eq!(told(), (ttl.to_owned(), address.to_owned()));
    }
    assert_eq!(site.stats.signatures(), signatures, "nothing was signed for it");
    site.catch_up();
    told();
}

/// Differences of a signed zone leave a zone that is whole.
fn follows(make: impl Fn(&Primary<'_>) -> Peer, own: SocketAddr) {
    let site = start(Made::one(), Some(own));
    let peer = make(&Primary { address: site.server.address, own, key: None });
    let soa = |n: u32| format!("ns1.steer.example. dns.example. {n} 60 15 1209600 10");
    peer.until(&["steer.example", "SOA"], &soa(101));
    let mut serial = 101;
    let mut settle = || {
        serial += 1;
        peer.until(&["steer.example", "SOA"], &soa(serial));
        site.catch_up();
        serial += 1;
        peer.until(&["steer.example", "SOA"], &soa(serial));
        let file = site.made.dir.path().join("copy.zone");
        site.copy(peer.address, own, &file);
        checks(&site, &file);
    };
    site.move_to("shop/prod/api", "sto");
    settle();
    let new = sample::answers("shop/test/new", sample::weighted(&[("fra", 1)]));
    site.change("shop/test/new", Some(new));
    settle();
    site.change("shop/prod/near", None);
    settle();
    let counts: BTreeMap<_, _> = site.server.stats.transfers.transfers().collect();
    let by_us = 0;
    assert_eq!((counts["whole"], counts["difference"]), (1 + by_us, 6), "{}", peer.log());
}

#[test]
fn knot_follows_a_signed_zone() {
    follows(Peer::knot, place());
}

#[test]
fn bind_follows_a_signed_zone() {
    follows(Peer::bind, place_for_bind());
}

fn asked(server: &Running, name: &str, kind: RecordType, dnssec_ok: bool) -> Message {
    let mut packet = query(name, kind, Some(1232));
    if dnssec_ok {
        let at = packet.len() - 4;
        packet[at] |= 0x80;
    }
    let mut stream = server.connect();
    serve::send(&mut stream, &packet);
    Message::from_vec(&serve::receive(&mut stream)).expect("valid")
}

/// With signatures or without, the answer is the same.
#[test]
fn both_sides_say_the_same() {
    let site = start(Made::one(), None);
    let mut names: Vec<String> =
        ["", "ns1.", "ns2.dc.", "prod.shop.", "none.", "reflect.", "x.reflect."]
            .map(|n| format!("{n}steer.example."))
            .to_vec();
    for service in services().keys() {
        for below in
            ["", "osl.site.", "all.site.", "site.", "none.", "_https._tcp.", "_smtp.", "_tcp."]
        {
            names.push(format!("{below}{}.steer.example.", service.dns_name()));
        }
    }
    let plain = |records: &[Record]| {
        let of_dnssec =
            |r: &&Record| !matches!(r.record_type(), RecordType::RRSIG | RecordType::NSEC);
        let text = |r: &Record| format!("{} {} {}", r.name, r.record_type(), r.data);
        let mut all: Vec<String> = records.iter().filter(of_dnssec).map(text).collect();
        all.sort();
        all
    };
    for name in &names {
        for kind in [
            RecordType::A,
            RecordType::AAAA,
            RecordType::TXT,
            RecordType::NS,
            RecordType::SOA,
            RecordType::MX,
            RecordType::SRV,
            RecordType::SVCB,
            RecordType::HTTPS,
        ] {
            let (without, with) =
                (asked(&site.server, name, kind, false), asked(&site.server, name, kind, true));
            assert_eq!(without.metadata.response_code, with.metadata.response_code, "{name}");
            assert_eq!(plain(&without.answers), plain(&with.answers), "{name} {kind}");
            assert_eq!(plain(&without.authorities), plain(&with.authorities), "{name} {kind}");
            if kind != RecordType::NS {
                let beside = (plain(&without.additionals), plain(&with.additionals));
                assert_eq!(beside.0, beside.1, "{name} {kind}");
            }
            let signed = |m: &Message| {
                let all = m.answers.iter().chain(&m.authorities);
                all.filter(|r| r.record_type() == RecordType::RRSIG).count()
            };
            assert_eq!(signed(&without), 0, "{name} {kind}");
            let is_refused = with.answers.is_empty() && with.authorities.is_empty();
            assert!(signed(&with) > 0 || name.contains("reflect.") || is_refused, "{name}");
        }
    }
}

#[test]
fn what_is_too_long_is_truncated() {
    let site = start(Made::one(), None);
    let mut packet = query("wide.prod.shop.steer.example", RecordType::A, Some(1232));
    let at = packet.len() - 4;
    packet[at] |= 0x80;
    let answer = Message::from_vec(&site.server.ask_udp(&packet)).expect("valid");
    assert!(answer.metadata.truncation && answer.answers.is_empty());
    let whole = asked(&site.server, "wide.prod.shop.steer.example", RecordType::A, true);
    assert_eq!(whole.answers.len(), 91);
}

/// Signatures are renewed before they run out, not all at once, and only when it is time.
#[test]
fn signatures_are_renewed_in_time() {
    let (made, stats) = (Made::one(), Arc::<SigningStats>::default());
    let begun = now();
    let mut zone = zone(&made, &stats, &services(), None);
    let all = stats.signatures();
    assert!(!zone.has_signing_work(begun + 5 * DAY));
    let mut by_day = Vec::new();
    for day in 1..=14 {
        let at = begun + day * DAY;
        let before = stats.signatures();
        if zone.has_signing_work(at) {
            zone = zone.caught_up(zone.serial().next(), usize::MAX, at);
        }
        by_day.push(stats.signatures() - before);
        assert!(!zone.has_signing_work(at));
        assert!(stats.earliest_expiry().expect("signed") > at + 4 * DAY, "day {day}");
    }
    assert_eq!(by_day[..5], [0; 5], "{by_day:?}");
    assert!(by_day.iter().sum::<u64>() >= all, "{by_day:?}");
    assert!(by_day.iter().all(|n| *n < all), "not all on one day: {by_day:?}");
}

/// Only so many at a time.
#[test]
fn many_services_are_signed_in_portions() {
    let made = Made::one();
    let stats = Arc::<SigningStats>::default();
    let fabric = sample::fabric();
    let many = sample::services(
        (0..100)
            .map(|n| sample::answers(&format!("shop/prod/s{n}"), sample::weighted(&[("osl", 1)]))),
    );
    let home = sample::site("osl");
    let source = ZoneSource {
        zone: &fabric.zone,
        fabric: &fabric,
        home: Some(&home),
        serial: Serial(1),
        services: &many,
    };
    let mut zone = Zone::build(source).expect("valid names").with_keys(made.keys(&stats), now());
    let mut left = vec![stats.waiting()];
    while zone.is_behind() {
        zone = zone.caught_up(zone.serial().next(), 30, now());
        left.push(stats.waiting());
    }
    assert_eq!(left, [100, 70, 40, 10, 0]);
    // A service has six sets of addresses, text, and NSEC; each site, and all of them, have two,
    // text, and NSEC. The rest is of the fabric, of SOA records, and of links between portions.
    assert!((2400..2600).contains(&stats.signatures()), "{}", stats.signatures());
}
