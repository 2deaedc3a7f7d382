//! The same questions to this server, to Knot and to NSD, which serve the same records: what they
//! say must be the same, in response code, flags and sections.
//!
//! Questions are drawn from a fixed seed; `NETT_QUESTIONS` asks for more of them. Where the three
//! differ on purpose, the reason stands beside the exception. Opcodes other than QUERY are left
//! out: to some of them a peer says nothing at all.

mod rivals;
mod sample;
mod serve;

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};

use rivals::{Peer, STEERED};
use serve::{Dug, Running, dig_at};

const PATIENCE: Duration = Duration::from_secs(10);
const USUAL_QUESTIONS: u32 = 4000;

/// A small generator (splitmix64): the same questions on every run.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("below a usize")
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

const SERVICES: [&str; 9] =
    ["api", "ramp", "near", "last", "refuse", "fallback", "drained", "v4", "wide"];
const OTHERS: [&str; 12] = [
    "steer.example.",
    "ns1.steer.example.",
    "ns2.dc.steer.example.",
    "dc.steer.example.",
    "prod.shop.steer.example.",
    "shop.steer.example.",
    "nothing.steer.example.",
    "a.b.c.d.e.f.steer.example.",
    "example.",
    ".",
    "xsteer.example.",
    "steer.example.org.",
];
const TYPES: [u16; 20] =
    [1, 28, 16, 2, 6, 5, 12, 15, 33, 43, 46, 47, 48, 50, 52, 64, 65, 257, 1000, 65_534];

fn draw_name(draw: &mut Draw) -> String {
    let service = draw.of(&SERVICES);
    let name = match draw.below(8) {
        0 | 1 => format!("{service}.prod.shop.steer.example."),
        2 => {
            let site = draw.of(&["osl", "sto", "fra", "all", "lon", "nowhere"]);
            format!("{site}.site.{service}.prod.shop.steer.example.")
        }
        3 => format!("site.{service}.prod.shop.steer.example."),
        4 => format!("x.{service}.prod.shop.steer.example."),
        5 => format!("r{}.prod.shop.steer.example.", draw.below(1000)),
        _ => (*draw.of(&OTHERS)).to_owned(),
    };
    // Upper and lower case as they come.
    let fold = |c: char| if draw.one_in(4) { c.to_ascii_uppercase() } else { c };
    name.chars().map(fold).collect()
}

fn draw_question(draw: &mut Draw) -> Message {
    let mut message = Message::new(draw.below(65536) as u16, MessageType::Query, OpCode::Query);
    let (name, kind) = loop {
        let (name, kind) = (draw_name(draw), *draw.of(&TYPES));
        let lower = name.to_ascii_lowercase();
        let first = lower.split('.').next().expect("a label");
        let is_service =
            lower.ends_with(".prod.shop.steer.example.") && lower.matches('.').count() == 5;
        if !(is_service && STEERED.contains(&first) && matches!(kind, 1 | 28)) {
            break (name, kind);
        }
    };
    let mut query = Query::query(Name::from_ascii(&name).expect("a name"), RecordType::from(kind));
    if draw.one_in(40) {
        query.set_query_class(DNSClass::HS);
    }
    message.add_query(query);
    let meta = &mut message.metadata;
    meta.recursion_desired = draw.one_in(2);
    meta.checking_disabled = draw.one_in(4);
    meta.authentic_data = draw.one_in(4);
    if !draw.one_in(3) {
        let mut edns = Edns::new();
        edns.set_max_payload(*draw.of(&[0, 512, 1000, 1232, 4096, 65535]));
        edns.set_dnssec_ok(draw.one_in(2));
        if draw.one_in(12) {
            edns.set_version(1 + draw.below(255) as u8);
        }
        if draw.one_in(4) {
            let data = vec![7; draw.below(30)];
            edns.options_mut().insert(EdnsOption::Unknown(65_100, data));
        }
        message.set_edns(edns);
    }
    message
}

fn ask(socket: &UdpSocket, server: SocketAddr, packet: &[u8]) -> Message {
    socket.connect(server).expect("connected");
    socket.send(packet).expect("sent");
    let mut buffer = vec![0; 65536];
    let length = socket.recv(&mut buffer).unwrap_or_else(|e| panic!("{server}: {e}: {packet:?}"));
    Message::from_vec(&buffer[..length]).expect("a message")
}

/// What must be equal: code, flags, and the records of the sections as sets.
#[derive(Debug, PartialEq)]
struct Said {
    rcode: u16,
    flags: String,
    question: Vec<String>,
    answer: BTreeSet<String>,
    authority: BTreeSet<String>,
    edns: Option<(u8, bool)>,
}

fn said(message: &Message, asked: &Message) -> Said {
    let meta = &message.metadata;
    let row = |record: &Record| {
        // Peers point from the data into the question, and get its case.
        let data = record.data.to_string().to_ascii_lowercase();
        let name = record.name.to_lowercase();
        format!("{name} {} {} {data}", record.ttl, record.record_type())
    };
    // Knot and NSD send what fits of a set that does not, and this server nothing.
    let records = |list: &[Record]| match meta.truncation {
        true => BTreeSet::new(),
        false => list.iter().map(row).collect(),
    };
    Said {
        rcode: meta.response_code.into(),
        flags: format!(
            "aa={} tc={} rd={} ra={} ad={} cd={}",
            meta.authoritative,
            meta.truncation,
            meta.recursion_desired,
            meta.recursion_available,
            meta.authentic_data,
            // RFC 4035 section 3.1.6 wants CD copied; the peers clear it.
            meta.checking_disabled || asked.metadata.checking_disabled,
        ),
        // NSD returns no question of a class it does not serve.
        question: match asked.queries[0].query_class() {
            DNSClass::IN => message.queries.iter().map(ToString::to_string).collect(),
            _ => Vec::new(),
        },
        answer: records(&message.answers),
        authority: records(&message.authorities),
        // Whether DO comes back with BADVERS is open (RFC 8906 section 8.2.9).
        edns: message.edns.as_ref().map(|e| {
            let bad_version = asked.edns.as_ref().is_some_and(|asked| asked.version() > 0);
            (e.version(), e.flags().dnssec_ok && !bad_version)
        }),
    }
}

#[test]
fn knot_and_nsd_say_the_same() {
    let count = std::env::var("NETT_QUESTIONS").ok();
    let count = count.map_or(USUAL_QUESTIONS, |text| text.parse().expect("a number"));
    let ours = Running::usual();
    let peers = [Peer::knot(), Peer::nsd()];
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut draw = Draw(8906);
    let mut differences = Vec::new();
    for _ in 0..count {
        let question = draw_question(&mut draw);
        let packet = question.to_vec().expect("a small message");
        let our = said(&ask(&socket, ours.address, &packet), &question);
        for peer in &peers {
            let their = said(&ask(&socket, peer.address, &packet), &question);
            if our != their {
                let query = &question.queries[0];
                differences.push(format!("{query}\n  ours  {our:?}\n  {:5} {their:?}", peer.name));
            }
        }
    }
    let shown: Vec<_> = differences.iter().take(12).map(String::as_str).collect();
    assert!(differences.is_empty(), "{} of {count}:\n{}", differences.len(), shown.join("\n"));
}

/// Servers that share a secret take each other's cookies, as RFC 9018 promises.
#[test]
fn knot_and_nsd_take_our_cookies_and_we_theirs() {
    let ours = Running::usual();
    let peers = [Peer::knot(), Peer::nsd()];
    let cookie_of = |dug: &Dug| {
        let line = dug.text.lines().find_map(|l| l.strip_prefix("; COOKIE: ")).map(str::to_owned);
        let line = line.unwrap_or_else(|| panic!("no cookie: {}", dug.text));
        line.split(' ').next().expect("a cookie").to_owned()
    };
    let ask = |at: SocketAddr, cookie: &str| {
        let cookie = format!("+cookie={cookie}");
        let from = ["-b", "127.0.0.1", "+nobadcookie", &cookie, "steer.example.", "SOA"];
        dig_at(at, &from)
    };
    let given = cookie_of(&ask(ours.address, "0123456789abcdef"));
    for peer in &peers {
        let told = ask(peer.address, &given);
        assert_eq!(told.status, "NOERROR", "{}: {}", peer.name, told.text);
        assert_eq!(cookie_of(&told), given, "{} does not know our cookie", peer.name);
        let theirs = cookie_of(&ask(peer.address, "fedcba9876543210"));
        let told = ask(ours.address, &theirs);
        assert_eq!(cookie_of(&told), theirs, "we do not know the cookie of {}", peer.name);
    }
}
