//! Signatures of transactions: what holds, what does not, and what is said about it.

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType as Kind};

use super::*;

const NOW: u64 = 1_800_000_000;

fn key(algorithm: Algorithm) -> TsigKey {
    TsigKey::new("far.example.", algorithm, b"sixteen bytes or more").expect("a key")
}

fn ring(algorithm: Algorithm) -> Keyring {
    Keyring::new([key(algorithm)])
}

fn question() -> Vec<u8> {
    let mut message = Message::new(0x4711, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii("a.example.").expect("a name"), Kind::SOA));
    message.to_vec().expect("small")
}

/// Signs as a client does: nothing was there before.
fn signed(algorithm: Algorithm, time: u64) -> Vec<u8> {
    let mut message = question();
    let key = key(algorithm);
    let name = algorithm.name();
    let variables =
        Variables { key: &key.name, algorithm: &name, time, fudge: FUDGE, error: 0, other: &[] };
    let tag = key.mac(&[&message, &variables.bytes()]);
    append(&mut message, &variables, tag.as_ref());
    message
}

fn error_of(verdict: Verdict) -> u16 {
    match verdict {
        Verdict::Failed(failure) => failure.error,
        Verdict::Unsigned => panic!("unsigned"),
        Verdict::Malformed => panic!("malformed"),
        Verdict::Signed { .. } => 0,
    }
}

#[test]
fn every_algorithm_signs_and_judges() {
    for algorithm in Algorithm::ALL {
        let packet = signed(algorithm, NOW);
        let Verdict::Signed { message, .. } = ring(algorithm).judge(&packet, NOW + 299) else {
            panic!("{algorithm:?}");
        };
        assert_eq!(message, question());
        assert_eq!(Algorithm::from_name(algorithm.as_str()), Some(algorithm));
    }
    assert_eq!(Algorithm::from_name("hmac-md5.sig-alg.reg.int."), None);
}

#[test]
fn a_forwarded_message_is_answered_under_its_new_id() {
    let mut packet = signed(Algorithm::HmacSha256, NOW);
    packet[..2].copy_from_slice(&[0xab, 0xcd]);
    let Verdict::Signed { message, .. } = ring(Algorithm::HmacSha256).judge(&packet, NOW) else {
        panic!("the signature is about the first id");
    };
    assert_eq!(message[..2], [0xab, 0xcd]);
    assert_eq!(message[2..], question()[2..]);
}

#[test]
fn each_bit_of_a_signed_message_counts() {
    let packet = signed(Algorithm::HmacSha256, NOW);
    let keys = ring(Algorithm::HmacSha256);
    for at in 0..packet.len() * 8 {
        // The case of a key's name, and the id that the record holds another copy of, may change.
        let mut changed = packet.clone();
        changed[at / 8] ^= 1 << (at % 8);
        if let Verdict::Signed { message, .. } = keys.judge(&changed, NOW) {
            assert_eq!(message[2..], question()[2..], "bit {at}");
        }
    }
}

#[test]
fn mistakes_are_told_apart() {
    let keys = ring(Algorithm::HmacSha256);
    let packet = signed(Algorithm::HmacSha256, NOW);
    assert_eq!(error_of(keys.judge(&packet, NOW + 301)), BAD_TIME);
    assert_eq!(error_of(keys.judge(&packet, NOW - 301)), BAD_TIME);
    assert_eq!(error_of(Keyring::default().judge(&packet, NOW)), BAD_KEY);
    assert_eq!(error_of(ring(Algorithm::HmacSha512).judge(&packet, NOW)), BAD_KEY);
    let other = TsigKey::new("far.example.", Algorithm::HmacSha256, &[7; 32]).expect("a key");
    assert_eq!(error_of(Keyring::new([other]).judge(&packet, NOW)), BAD_SIG);
    // The MAC is what is wrong, whatever the clock says.
    let other = TsigKey::new("far.example.", Algorithm::HmacSha256, &[7; 32]).expect("a key");
    assert_eq!(error_of(Keyring::new([other]).judge(&packet, 0)), BAD_SIG);
    assert!(matches!(keys.judge(&question(), NOW), Verdict::Unsigned));
}

#[test]
fn a_short_mac_is_refused_by_its_length() {
    let keys = ring(Algorithm::HmacSha256);
    let cut = |length: usize| {
        let mut message = question();
        let key = key(Algorithm::HmacSha256);
        let name = Algorithm::HmacSha256.name();
        let (time, fudge) = (NOW, FUDGE);
        let variables =
            Variables { key: &key.name, algorithm: &name, time, fudge, error: 0, other: &[] };
        let tag = key.mac(&[&message, &variables.bytes()]);
        append(&mut message, &variables, &tag.as_ref()[..length]);
        message
    };
    assert_eq!(error_of(keys.judge(&cut(32), NOW)), 0);
    assert_eq!(error_of(keys.judge(&cut(16), NOW)), BAD_TRUNC);
    assert!(matches!(keys.judge(&cut(15), NOW), Verdict::Malformed));
    assert!(matches!(keys.judge(&cut(0), NOW), Verdict::Malformed));
}

#[test]
fn the_record_must_be_the_last() {
    let keys = ring(Algorithm::HmacSha256);
    let mut packet = signed(Algorithm::HmacSha256, NOW);
    packet.push(0);
    assert!(matches!(keys.judge(&packet, NOW), Verdict::Malformed));
    let mut packet = signed(Algorithm::HmacSha256, NOW);
    // One more record behind it.
    packet[11] += 1;
    packet.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    assert!(matches!(keys.judge(&packet, NOW), Verdict::Malformed));
}

#[test]
fn no_bytes_make_it_panic() {
    let keys = ring(Algorithm::HmacSha256);
    let packet = signed(Algorithm::HmacSha256, NOW);
    for length in 0..packet.len() {
        let _ = keys.judge(&packet[..length], NOW);
        for with in [0, 1, 0x3f, 0xc0, 0xff] {
            let mut changed = packet.clone();
            changed[length] = with;
            if let Verdict::Failed(failure) = keys.judge(&changed, NOW) {
                failure.answer(&changed, NOW, &mut Vec::new());
            }
        }
    }
}

#[test]
fn a_failure_is_answered_in_form() {
    let keys = ring(Algorithm::HmacSha256);
    let packet = signed(Algorithm::HmacSha256, NOW);
    let Verdict::Failed(failure) = keys.judge(&packet, NOW + 1000) else {
        panic!("too late");
    };
    let mut out = Vec::new();
    assert_eq!(failure.answer(&packet, NOW + 1000, &mut out), ResponseCode::NotAuth);
    let record = Record::find(&out).ok().flatten().expect("a record");
    assert_eq!((record.error, record.time, record.mac.len()), (BAD_TIME, NOW, 32));
    assert_eq!(record.other, &(NOW + 1000).to_be_bytes()[2..]);
    let message = Message::from_vec(&out).expect("valid");
    assert_eq!(message.metadata.response_code, ResponseCode::NotAuth);
    assert_eq!(message.queries.len(), 1);

    let Verdict::Failed(failure) = Keyring::default().judge(&packet, NOW) else {
        panic!("no key");
    };
    failure.answer(&packet, NOW, &mut out);
    let record = Record::find(&out).ok().flatten().expect("a record");
    assert_eq!((record.error, record.mac.len()), (BAD_KEY, 0));
}

#[test]
fn key_files_are_read_as_bind_writes_them() {
    let text = "# by hand\nkey \"far.example\" {\n\talgorithm hmac-sha256;\n\tsecret \
                \"c2l4dGVlbiBieXRlcyBvciBtb3Jl\"; // base64\n};\n/* and */ key near { secret \
                \"c2l4dGVlbiBieXRlcyBvciBtb3Jl\"; algorithm HMAC-SHA512.; };";
    let keys = Keyring::new(read_keys(text).expect("two keys"));
    assert!(keys.has("far.example.") && keys.has("NEAR") && !keys.has("other"));
    let packet = signed(Algorithm::HmacSha256, NOW);
    assert_eq!(error_of(keys.judge(&packet, NOW)), 0);
}

#[test]
fn mistakes_in_key_files_have_a_line_and_no_secret() {
    for (text, line, part) in [
        ("key a {\n algorithm hmac-md5;", 2, "hmac-md5"),
        ("key a { algorithm hmac-sha256; secret \"!!!!\"; };", 1, "base64"),
        ("key a { algorithm hmac-sha256; secret \"c2hvcnQ=\"; };", 1, "16 bytes"),
        ("key a { algorithm hmac-sha256; };", 1, "`secret`"),
        ("key a { secret c2l4dGVlbiBieXRlcyBvciBtb3Jl; };", 1, "`algorithm`"),
        ("\n\nzone a { };", 3, "`key`"),
        ("key \"a", 1, "no end"),
        ("/* never", 1, "no end"),
        ("key a {", 1, "`}`"),
        ("key a..b { algorithm hmac-sha256; secret c2l4dGVlbiBieXRlcyBvciBtb3Jl; };", 1, "a..b"),
    ] {
        let mistake = read_keys(text).expect_err(text);
        assert_eq!(mistake.line, line, "{text}: {mistake}");
        assert!(mistake.to_string().contains(part), "{text}: {mistake}");
        assert!(!mistake.to_string().contains("c2l4"), "{mistake}");
    }
}
