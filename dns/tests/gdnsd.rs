//! The same steering in gdnsd: a map of client networks to sites, sites that are down, an order of
//! sites, and weights. Generated questions go to both, and what they answer to each client is the
//! same: the site, the time to live, and for how many clients. Where the two differ on purpose, the
//! difference has a test of its own; `docs/TESTING.md` lists them.

mod naive;
mod peers;
mod sample;
mod serve;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use ipnet::IpNet;
use naive::{Question, State, Told};
use nett_dns::{Limits, Serial, Zone, ZoneSource};
use nett_policy::fabric::{Fabric, Family};
use nett_policy::id::{ServiceId, SiteId};
use nett_policy::lower::answers::ServiceAnswers;
use nett_policy::service::{AllDown, Mode, Prefer, Readmit, Service, Ttl};
use nett_policy::traffic::Spread;
use peers::Peer;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use serve::Running;

const SITES: [&str; 3] = ["osl", "sto", "fra"];
const WEIGHTS: [(&str, u32); 3] = [("osl", 6), ("sto", 3), ("fra", 1)];

/// A name that both serve.
struct Case {
    /// The first label of the name, and gdnsd's name of the resource.
    label: String,
    prefer: Prefer,
    spread: Spread,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (word, prefer) in [("near", Prefer::Nearest), ("order", Prefer::Primary)] {
        for chosen in 1..8u8 {
            let up: Vec<&str> =
                (0..3).filter(|n| chosen & (1 << n) != 0).map(|n| SITES[n]).collect();
            let label = format!("{word}-{}", up.join("-"));
            cases.push(Case { label, prefer, spread: sample::nearest(&up) });
        }
    }
    let none =
        |label: &str, prefer| Case { label: label.to_owned(), prefer, spread: Spread::Nowhere };
    cases.extend([none("order-none", Prefer::Primary), none("near-none", Prefer::Nearest)]);
    cases
}

impl Case {
    fn id(&self) -> ServiceId {
        format!("shop/prod/{}", self.label).parse().expect("an id")
    }

    fn answers(&self) -> ServiceAnswers {
        let mut answers = sample::answers(self.id().as_str(), self.spread.clone());
        sample::fixed(&mut answers).prefer = self.prefer;
        answers
    }

    fn service(&self) -> Service {
        let file = |name: &str, text: &str| {
            nett_policy::document::SourceFile::new(name.to_owned(), text.to_owned())
        };
        let (_, catalog) = nett_policy::document::compile(
            &file("fabric.toml", include_str!("../../fixtures/fabrics/two-sites/fabric.toml")),
            &file("services.toml", include_str!("../../fixtures/fabrics/two-sites/services.toml")),
        )
        .expect("the fixture is valid");
        let mut service = catalog.iter().next().expect("a service").clone();
        service.id = self.id();
        service.mode = Mode::ActiveActive {
            active: SITES.map(sample::site).to_vec(),
            readmit: Readmit::Manual,
        };
        let address = |(n, id): (usize, &&str)| {
            let both = [format!("192.0.2.{n}"), format!("2001:db8::{n}")];
            (sample::site(id), both.map(|a| sample::ip(&a)).to_vec())
        };
        service.addresses = (1..).zip(&SITES).map(address).collect();
        (service.prefer, service.all_down) = (self.prefer, AllDown::LastOrder);
        service.ttl = Ttl::fixed(Duration::from_secs(30));
        service
    }

    fn is_up(&self, site: &str) -> bool {
        self.spread.has(&sample::site(site))
    }
}

fn prefixes(fabric: &Fabric) -> impl Iterator<Item = IpNet> {
    let of_sites = fabric.sites.iter().flat_map(|s| s.prefixes.iter().copied());
    of_sites.chain(fabric.clients.iter().map(|client| client.prefix))
}

/// The sites in the order in which clients of each site, and of none, are sent to them.
type Lists = BTreeMap<Option<SiteId>, Vec<SiteId>>;

fn lists(fabric: &Fabric) -> Lists {
    let nobody = "8.8.8.0/24".parse().expect("a prefix");
    let case = Case { label: "any".to_owned(), prefer: Prefer::Nearest, spread: Spread::Nowhere };
    let service = &case.service();
    let mut lists = Lists::new();
    for network in prefixes(fabric).chain([nobody]) {
        let mut left: BTreeSet<SiteId> = SITES.map(sample::site).into();
        let mut order = Vec::new();
        let mut at = None;
        while !left.is_empty() {
            let spread = &Spread::Nearest(left.clone());
            let state = State { fabric, home: None, service, spread, lowered: false, over: false };
            let family = Family::V4;
            let question = Question { source: network.addr(), subnet: Some(network), family };
            let told = state.told(&question).addresses;
            let next = left.iter().find(|site| state.addresses(site, family) == told);
            let next = next.expect("one of them").clone();
            left.remove(&next);
            order.push(next);
            at = state.site_of(network);
        }
        lists.insert(at, order);
    }
    lists
}

/// gdnsd's configuration: directory of its files, by name.
fn files(fabric: &Fabric, cases: &[Case]) -> BTreeMap<&'static str, String> {
    let lists = lists(fabric);
    let list = |site: Option<&SiteId>| {
        lists[&site.cloned()].iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    let of_sites = fabric.sites.iter().flat_map(|s| s.prefixes.iter().map(|p| (*p, &s.id)));
    let mut nets = String::new();
    for (prefix, site) in of_sites.chain(fabric.clients.iter().map(|c| (c.prefix, &c.site))) {
        writeln!(nets, "        {prefix} => [ {} ]", list(Some(site))).expect("text");
    }
    let unknown = list(None);
    let dcmap: String = (1..)
        .zip(SITES)
        .map(|(n, site)| {
            let (v4, v6) = (format!("192.0.2.{n}"), format!("2001:db8::{n}"));
            format!("{site} => {{ addrs_v4 => {{ a => {v4} }}, addrs_v6 => {{ a => {v6} }} }}, ")
        })
        .collect();
    let (mut near, mut order, mut states) = (String::new(), String::new(), String::new());
    let mut zone = String::from(
        "@ 60 SOA ns1 dns.example. ( 100 60 15 1209600 10 )\n@ 3600 NS ns1\n\
         ns1 3600 A 192.0.2.53\n",
    );
    for case in cases {
        let label = &case.label;
        let (plugin, text) = match case.prefer {
            Prefer::Primary => ("metafo", &mut order),
            Prefer::Nearest | Prefer::Local => ("geoip", &mut near),
        };
        let how = match plugin {
            "metafo" => "datacenters => [ osl, sto, fra ]",
            _ => "map => clients",
        };
        writeln!(text, "      {label} => {{ {how}, service_types => up, dcmap => {{ {dcmap} }} }}")
            .expect("text");
        for site in SITES.iter().filter(|site| !case.is_up(site)) {
            writeln!(states, "{plugin}/{label}/{site} => DOWN").expect("text");
        }
        writeln!(zone, "{label}.prod.shop 30 DYNA {plugin}!{label}").expect("text");
    }
    zone.push_str("ramp.prod.shop 30 DYNA weighted!ramp\n");
    let weights: String = (1..)
        .zip(WEIGHTS)
        .map(|(n, (site, w))| format!("{site} = [ 192.0.2.{n}, {w} ] "))
        .collect();
    let config = format!(
        "plugins => {{\n  geoip => {{\n    maps => {{\n      clients => {{\n        \
         datacenters => [ {unknown} ]\n        nets => {{\n{nets}        }}\n      }}\n    }}\n    \
         resources => {{\n{near}    }}\n  }}\n  metafo => {{\n    resources => {{\n{order}    \
         }}\n  }}\n  weighted => {{ ramp => {{ service_types => up, {weights} }} }}\n}}\n"
    );
    BTreeMap::from([("config", config), ("zones/steer.example", zone), ("admin_state", states)])
}

struct Both {
    fabric: Fabric,
    cases: Vec<(Case, Service)>,
    ours: Running,
    theirs: Peer,
    socket: UdpSocket,
}

impl Both {
    fn start() -> Self {
        let (fabric, cases) = (sample::fabric(), cases());
        let ramp = sample::answers("shop/prod/ramp", sample::weighted(&WEIGHTS));
        let services = sample::services(cases.iter().map(Case::answers).chain([ramp]));
        let zone = Zone::build(ZoneSource {
            zone: &fabric.zone,
            fabric: &fabric,
            home: None,
            serial: Serial(1),
            services: &services,
        });
        let listen = "127.0.0.1:0".parse().expect("an address");
        let ours = Running::over(zone.expect("valid names"), listen, Limits::default());
        let theirs = Peer::gdnsd(&files(&fabric, &cases));
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        let with_service = |case: Case| {
            let service = case.service();
            (case, service)
        };
        let cases = cases.into_iter().map(with_service).collect();
        Self { fabric, cases, ours, theirs, socket }
    }

    /// The names about which both should say the same.
    fn compared(&self) -> impl Iterator<Item = &(Case, Service)> + Clone {
        self.cases.iter().filter(|(case, _)| case.label != "near-none")
    }

    fn ask(&self, at: SocketAddr, service: &ServiceId, question: &Question) -> Told {
        let packet = naive::question_packet(&self.fabric, service, question);
        self.socket.send_to(&packet, at).expect("sent");
        let mut buffer = [0; 4096];
        let (length, from) = self.socket.recv_from(&mut buffer).expect("an answer");
        assert_eq!(from, at);
        naive::read(&buffer[..length], question)
    }
}

/// Questions from a fixed seed.
fn questions(count: usize) -> impl Iterator<Item = Question> {
    let config = Config { rng_seed: RngSeed::Fixed(7871), ..Config::default() };
    let mut runner = TestRunner::new(config);
    (0..count).map(move |_| question().new_tree(&mut runner).expect("a question").current())
}

/// What gdnsd says is the scope: the fewest leading bits of the first address such that its map has
/// one list for all of them, whichever of the sites are up.
fn scope_of_lists(state: &State<'_>, lists: &Lists, network: IpNet) -> u8 {
    let host = |address: IpAddr| &lists[&state.site_of(IpNet::from(address))];
    let apart = |bits: &u8| {
        let block = IpNet::new(network.addr(), *bits).expect("a length").trunc();
        let inside = prefixes(state.fabric).filter(|p| block.contains(p) && p.prefix_len() > *bits);
        // Lists change at the edges of prefixes only.
        let edges = inside.flat_map(|p| [Some(p.network()), after(&p)]).flatten();
        let mut edges = edges.filter(|a| block.contains(a));
        let first = host(block.network());
        edges.all(|address| host(address) == first)
    };
    (0..=network.max_prefix_len()).find(apart).expect("an address has one list")
}

/// The first address behind a network.
fn after(network: &IpNet) -> Option<IpAddr> {
    match network.broadcast() {
        IpAddr::V4(a) => u32::from(a).checked_add(1).map(|n| IpAddr::V4(n.into())),
        IpAddr::V6(a) => u128::from(a).checked_add(1).map(|n| IpAddr::V6(n.into())),
    }
}

#[test]
fn clients_are_sent_to_the_same_sites() {
    let both = Both::start();
    let lists = lists(&both.fabric);
    let (mut alike, mut wide) = (0, 0);
    for (question, (case, service)) in questions(3000).zip(both.compared().cycle()) {
        let ours = both.ask(both.ours.address, &service.id, &question);
        let theirs = both.ask(both.theirs.address, &service.id, &question);
        let what = format!("{} {question:?}: {ours:?} {theirs:?}", case.label);
        let (fabric, spread) = (&both.fabric, &case.spread);
        let (home, lowered, over) = (None, false, false);
        let state = State { fabric, home, service, spread, lowered, over };
        assert_eq!(state.told(&question), ours, "{what}");
        assert_eq!(ours.ttls, theirs.ttls, "{what}");
        let network = question.subnet.expect("all have one");
        let by_client = case.prefer == Prefer::Nearest && network.prefix_len() > 0;
        // Of a network in which clients are found in several prefixes gdnsd takes the first
        // address, and this server the longest prefix that holds all of it.
        if state.alike(network) > network.prefix_len() {
            wide += 1;
        } else {
            assert_eq!(ours.addresses, theirs.addresses, "{what}");
            alike += 1;
        }
        // What is down does not change gdnsd's scope; here it is 0 where one site is left.
        if by_client {
            assert_eq!(theirs.scope, Some(scope_of_lists(&state, &lists, network)), "{what}");
            let one = case.spread.sites().len() == 1;
            assert_eq!(ours.scope == Some(0), one, "{what}");
            // It puts neighbours together that have the same list.
            assert!(one || ours.scope >= theirs.scope, "{what}");
        } else {
            assert_eq!((ours.scope, theirs.scope), (Some(0), Some(0)), "{what}");
        }
    }
    assert!(alike > 2000 && wide > 50, "{alike} {wide}");
}

#[test]
fn shares_are_equal_and_drawn_otherwise() {
    const BLOCKS: u32 = 4000;
    let both = Both::start();
    let ramp: ServiceId = "shop/prod/ramp".parse().expect("an id");
    let ask = |at: SocketAddr, n: u32| {
        let client = IpAddr::V4((n << 8 | 0x5000_0000).into());
        let told = both.ask(at, &ramp, &Question::about(client, 24, Family::V4));
        assert_eq!(told.addresses.len(), 1);
        (told.addresses.first().copied().expect("one"), told.scope)
    };
    let asked = |at| -> Vec<_> { (0..BLOCKS).map(|n| ask(at, n)).collect() };
    let (ours, theirs) = (asked(both.ours.address), asked(both.theirs.address));
    for (n, (_, weight)) in (1..).zip(WEIGHTS) {
        let site = sample::ip(&format!("192.0.2.{n}"));
        let expected = f64::from(weight) / 10.0;
        for told in [&ours, &theirs] {
            let share = told.iter().filter(|t| t.0 == site).count() as f64 / f64::from(BLOCKS);
            assert!((share - expected).abs() < 0.04, "{site} {share} {expected}");
        }
    }
    // There every question draws, and an answer is for everybody who asks the same resolver; here
    // a block of clients has its site, and keeps it.
    assert_eq!(asked(both.ours.address), ours);
    assert_ne!(asked(both.theirs.address), theirs);
    assert!(ours.iter().all(|t| t.1 == Some(24)) && theirs.iter().all(|t| t.1 == Some(0)));
}

/// gdnsd then answers as if all were up, by the client; here it is the first in failover order for
/// everybody, unless the service says otherwise.
#[test]
fn with_nobody_up_the_order_decides_and_not_the_client() {
    let both = Both::start();
    let none: ServiceId = "shop/prod/near-none".parse().expect("an id");
    for (client, theirs) in [("10.1.0.9", 1), ("10.2.0.9", 2), ("10.3.0.9", 3), ("8.8.8.8", 1)] {
        let question = Question::about(sample::ip(client), 24, Family::V4);
        let told = |at| both.ask(at, &none, &question).addresses;
        let address = |n| BTreeSet::from([sample::ip(&format!("192.0.2.{n}"))]);
        assert_eq!(told(both.theirs.address), address(theirs), "{client}");
        assert_eq!(told(both.ours.address), address(1), "{client}");
    }
}

/// Clients near the edges of what is known, and anywhere; of all lengths.
fn question() -> impl Strategy<Value = Question> {
    let fabric = sample::fabric();
    let of_sites = fabric.sites.iter().flat_map(|s| s.prefixes.clone());
    let known: Vec<IpNet> = of_sites.chain(fabric.clients.iter().map(|c| c.prefix)).collect();
    let near =
        (proptest::sample::select(known), 0..4u8, any::<u128>()).prop_map(|(net, at, low)| {
            let bits =
                |n: u8, a: u128| -> u128 { if n == 128 { a } else { a & ((1u128 << n) - 1) } };
            match net {
                IpNet::V4(net) => {
                    let (first, last) = (u32::from(net.network()), u32::from(net.broadcast()));
                    let inside = first | (bits(32 - net.prefix_len(), low) as u32);
                    IpAddr::V4([first, last, inside, last.wrapping_add(1)][usize::from(at)].into())
                }
                IpNet::V6(net) => {
                    let (first, last) = (u128::from(net.network()), u128::from(net.broadcast()));
                    let inside = first | bits(128 - net.prefix_len(), low);
                    IpAddr::V6([first, last, inside, last.wrapping_add(1)][usize::from(at)].into())
                }
            }
        });
    let v4 = any::<u32>().prop_map(|bits| IpAddr::V4(bits.into()));
    let v6 = any::<u128>().prop_map(|bits| IpAddr::V6(((bits >> 8) | (0x24 << 120)).into()));
    let client = prop_oneof![4 => near, 1 => v4, 1 => v6];
    (client, any::<bool>(), 0..=100u8, any::<bool>()).prop_map(|(client, usual, part, v4)| {
        // The first addresses of shorter IPv6 prefixes are IPv4 addresses in disguise to gdnsd.
        let (least, block, width) = if client.is_ipv4() { (0, 24, 32) } else { (33, 56, 128) };
        let some = (least + u32::from(part) * (width - least) / 100) as u8;
        let bits = if usual { block } else { some };
        let family = if v4 { Family::V4 } else { Family::V6 };
        Question { source: sample::ip("127.0.0.1"), ..Question::about(client, bits, family) }
    })
}
