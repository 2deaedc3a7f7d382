//! Every parser of the name server against changed inputs; `make fuzz` runs it long.

mod sample;
mod serve;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use nett_dns::client::read_subnet;
use nett_dns::dnssec::{Keys, ZoneKey};
use nett_dns::tsig::{Algorithm, Keyring, TsigKey, read_keys};
use nett_dns::{
    Ask, Outcome, Profile, Serial, Stats, Transfers, Transport, Zone, answer, answer_any,
    answer_from_prepared, answer_in_full, copy_messages, publish,
};
use nett_fixtures::fuzz::fuzz;
use nett_policy::fabric::{Secondary, Transfer};
use ring::hmac;

use serve::query;

fn number(what: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

/// Questions of every kind, with every option.
fn questions() -> Vec<Vec<u8>> {
    let names = [
        "near.prod.shop.steer.example",
        "wide.prod.shop.steer.example",
        "refuse.prod.shop.steer.example",
        "all.site.ramp.prod.shop.steer.example",
        "reflect.steer.example",
        "steer.example",
        "nothing.steer.example",
        "version.bind",
        "example.org",
    ];
    use RecordType::{A, ANY, DNSKEY, HTTPS, IXFR, NSEC, TXT};
    let kinds = [A, TXT, ANY, IXFR, HTTPS, DNSKEY, NSEC];
    let mut all = Vec::new();
    for name in names {
        for kind in kinds {
            all.push(query(name, kind, None));
            let mut packet = query(name, kind, None);
            packet[11] = 1;
            let options: [&[u8]; 5] = [
                &[0, 8, 0, 7, 0, 1, 24, 0, 10, 2, 0],
                &[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8],
                &[0, 3, 0, 0],
                &[0, 11, 0, 0],
                &[0, 12, 0, 2, 0, 0],
            ];
            let data = options.concat();
            packet.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, data.len() as u8]);
            packet.extend_from_slice(&data);
            all.push(packet);
        }
    }
    all
}

/// A key of nobody.
const PUBLIC: &str = "steer.example. IN DNSKEY 257 3 13 \
    QuQmJJfIa+WW5mUahYY63Jj3oygf1oBfimW490QlfCs7 \
    uBi6KMzZ4AXvxb2ISUKVTJiRNCowOFPDf8153xr5PQ==";
const PRIVATE: &str = "PrivateKey: kp1rfJt56YlzDyAY1EKd5Lyp79RaTup5jF+J3SPpSP4=";

fn zone_key() -> Arc<ZoneKey> {
    Arc::new(ZoneKey::read("steer.example.", PUBLIC, Some(PRIVATE)).expect("a key"))
}

fn signed_zone() -> Zone {
    let validity = Duration::from_secs(14 * 86_400);
    let keys = Keys::new("steer.example.", (zone_key(), None), vec![], validity, Arc::default());
    let keys = Arc::new(keys.expect("it signs"));
    serve::zone(1).with_keys(keys, 1_800_000_000).caught_up(Serial(2), usize::MAX, 1_800_000_000)
}

#[test]
fn messages() {
    messages_to("dns-message", &serve::zone(1));
}

#[test]
fn messages_to_a_signed_zone() {
    messages_to("dns-message-signed", &signed_zone());
}

fn messages_to(target: &str, zone: &Zone) {
    let strict = Profile { cookies_required: true, ..serve::profile() };
    let profiles = [serve::profile(), strict, Profile::default()];
    let transports = [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Https];
    fuzz(target, &questions(), |packet| {
        let mut seen = Vec::new();
        let profile = &profiles[packet.len() % 3];
        for transport in transports {
            let source = sample::ip("10.1.2.3");
            let ask = Ask { packet, source, transport, now: 1, profile };
            let (mut out, mut quick) = (Vec::new(), Vec::new());
            let outcome = answer_in_full(zone, &ask, &mut out);
            assert_eq!(answer(zone, &ask, &mut quick), outcome);
            if let Some(prepared) = answer_from_prepared(zone, &ask, &mut quick) {
                assert_eq!((prepared, &quick), (outcome, &out));
            }
            let Outcome::Reply { rcode, truncated, steered, sender } = outcome else {
                assert!(packet.len() < 12 || packet[2] & 0x80 != 0);
                continue;
            };
            assert!(transport != Transport::Udp || out.len() <= 1232);
            let message = Message::from_vec(&out).expect("another decoder reads it");
            assert_eq!(message.metadata.truncation, truncated);
            assert_eq!(out[..2], packet[..2]);
            let sections = (message.answers.len(), message.authorities.len());
            let options = message.edns.map(|e| e.options().as_ref().len());
            let steered = steered.map(|s| (s.client.is_some(), s.target.is_some()));
            seen.push((u16::from(rcode), truncated, steered, sender as u8, sections, options));
        }
        number(seen)
    });
}

#[test]
fn client_subnets() {
    let seeds = [
        vec![0, 1, 24, 0, 192, 0, 2],
        vec![0, 2, 56, 0, 0x20, 1, 0x0d, 0xb8, 0, 2, 0],
        vec![0, 0, 0, 0],
    ];
    fuzz("dns-subnet", &seeds, |data| match read_subnet(data) {
        Ok(network) => {
            // What is read is written back as it came.
            if let Some(network) = network {
                assert_eq!(network.prefix_len(), data[2]);
                assert_eq!(network.trunc(), network);
            }
            number((true, network.map(|n| n.prefix_len())))
        }
        Err(error) => number((false, error as u8)),
    });
}

#[test]
fn names_as_text() {
    let zone = serve::zone(1);
    let names = ["api.prod.shop.steer.example.", "osl.site.near.prod.shop", "reflect", "..", ""];
    let seeds: Vec<Vec<u8>> = names.iter().map(|name| name.as_bytes().to_vec()).collect();
    fuzz("dns-name", &seeds, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let told = zone.explain(&text, Some(sample::ip("10.1.2.3")), None);
        number((told.service.is_some(), told.target.is_some(), told.addresses.len()))
    });
}

const SECRET: &[u8] = b"sixteen bytes or more of a secret";
const KEY: &[u8] = b"\x03far\x07example\0";

/// Two snapshots of a zone that anybody may copy who has the key.
fn copied_zone() -> Arc<Zone> {
    let key = TsigKey::new("far.example.", Algorithm::HmacSha256, SECRET).expect("a key");
    let to = vec![Secondary { address: None, tsig: Some("far.example.".to_owned()) }];
    let transfer = Transfer { to, ..Transfer::default() };
    let transfers = Arc::new(Transfers::new(&transfer, Keyring::new([key]), true));
    let zone = ArcSwap::from_pointee(serve::zone(1).with_transfers(transfers));
    let moved = sample::answers("shop/prod/api", sample::weighted(&[("sto", 1)]));
    let changes = nett_dns::Changes::from([(&moved.fixed.service, Some(&moved))]);
    let current = zone.load_full();
    let next = current.with(&changes, current.serial().next());
    publish(&zone, next).expect("newer");
    zone.load_full()
}

/// The message with a signature (RFC 8945 section 4.2) by an implementation that is not the
/// server's; nothing where the count of records would not fit.
fn signed(message: &[u8]) -> Option<Vec<u8>> {
    let more = u16::from_be_bytes(*message.get(10..12)?.first_chunk()?).checked_add(1)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let algorithm = b"\x0bhmac-sha256\0";
    let times = [&now.to_be_bytes()[2..], &[1, 44]].concat();
    let variables = [KEY, &[0, 255, 0, 0, 0, 0], algorithm, &times, &[0; 4]].concat();
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
    let mac = hmac::sign(&key, &[message, &variables].concat());
    let data = [algorithm, &times[..], &[0, 32], mac.as_ref(), message.get(..2)?, &[0; 4]].concat();
    let length = u16::try_from(data.len()).expect("short").to_be_bytes();
    let record = [KEY, &[0, 250, 0, 255, 0, 0, 0, 0], &length, &data].concat();
    let mut whole = [message, &record].concat();
    whole[10..12].copy_from_slice(&more.to_be_bytes());
    Some(whole)
}

/// What a zone that is copied makes of one message, over each transport.
fn copying(zone: &Arc<Zone>, packet: &[u8], profile: &Profile) -> u64 {
    let (source, stats) = (sample::ip("10.1.2.3"), Stats::default());
    let mut seen = Vec::new();
    for transport in [Transport::Udp, Transport::Tcp] {
        let ask = Ask { packet, source, transport, now: 1, profile };
        let mut out = Vec::new();
        if transport == Transport::Tcp
            && let Some(messages) = copy_messages(zone, &ask, &stats)
        {
            for message in &messages {
                Message::from_vec(message).expect("another decoder reads it");
            }
            seen.push((messages.len(), 0, 0, messages.concat().len()));
            continue;
        }
        let Outcome::Reply { rcode, .. } = answer_any(zone, &ask, &stats, &mut out) else {
            continue;
        };
        let message = Message::from_vec(&out).expect("another decoder reads it");
        assert_eq!(out[..2], packet[..2]);
        let records = message.answers.len() + 16 * message.additionals.len();
        seen.push((0, u16::from(rcode).into(), records, 0));
    }
    number(seen)
}

/// Questions for a copy, as secondaries ask, and one that is none.
fn copy_questions() -> Vec<Vec<u8>> {
    let zone = "steer.example";
    let mut all = vec![query(zone, RecordType::AXFR, None), query(zone, RecordType::SOA, None)];
    for serial in [0u32, 1, 2, 3, u32::MAX] {
        for payload in [None, Some(1232)] {
            let mut packet = query(zone, RecordType::IXFR, None);
            packet[9] = 1;
            packet
                .extend_from_slice(&[0xc0, 12, 0, 6, 0, 1, 0, 0, 0, 0, 0, 24, 0xc0, 12, 0xc0, 12]);
            packet.extend_from_slice(&serial.to_be_bytes());
            packet.extend_from_slice(&[0; 16]);
            if payload.is_some() {
                packet[11] = 1;
                packet.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0]);
            }
            all.push(packet);
        }
    }
    all
}

#[test]
fn requests_for_copies() {
    let (zone, profile) = (copied_zone(), serve::profile());
    let whole = signed(&copy_questions()[0]).expect("short");
    let copied = copy_messages(
        &zone,
        &Ask {
            packet: &whole,
            source: sample::ip("10.1.2.3"),
            transport: Transport::Tcp,
            now: 1,
            profile: &profile,
        },
        &Stats::default(),
    );
    assert!(copied.is_some(), "what is fuzzed is signed well");
    // The message is changed before it is signed, so all of it is looked at.
    fuzz("dns-transfer", &copy_questions(), |message| match signed(message) {
        Some(packet) => copying(&zone, &packet, &profile),
        None => number(message.len()),
    });
}

#[test]
fn transaction_signatures() {
    let (zone, profile) = (copied_zone(), serve::profile());
    let mut signed: Vec<Vec<u8>> = copy_questions().iter().filter_map(|q| signed(q)).collect();
    // As if forwarded under another id.
    let forwarded = |packet: &Vec<u8>| [&[0xab, 0xcd], &packet[2..]].concat();
    signed.extend(signed.clone().iter().map(forwarded));
    fuzz("dns-tsig", &signed, |packet| copying(&zone, packet, &profile));
}

#[test]
fn key_files() {
    let seeds = [
        "key \"a.b\" { algorithm hmac-sha256; secret \"c2l4dGVlbiBieXRlcyBvciBtb3Jl\"; };",
        "# word\n// word\n/* word */ key a { secret \"YQ==\"; algorithm hmac-sha512; };",
        "key { };",
    ];
    let seeds: Vec<Vec<u8>> = seeds.iter().map(|text| text.as_bytes().to_vec()).collect();
    fuzz("dns-tsig-file", &seeds, |bytes| match read_keys(&String::from_utf8_lossy(bytes)) {
        Ok(keys) => number((true, keys.len())),
        Err(mistake) => number((false, mistake.to_string())),
    });
}

#[test]
fn zone_key_files() {
    let seeds = [PUBLIC, "; of\nsteer.example. 3600 IN DNSKEY 256 3 13 YQ== ; x", "DNSKEY"];
    let seeds: Vec<Vec<u8>> = seeds.iter().map(|text| text.as_bytes().to_vec()).collect();
    fuzz("dns-zone-key", &seeds, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let public = ZoneKey::read("steer.example.", &text, None);
        let private = ZoneKey::read("steer.example.", PUBLIC, Some(&text));
        number((public.map(|k| k.tag()).map_err(|m| m.to_string()), private.is_ok()))
    });
}
