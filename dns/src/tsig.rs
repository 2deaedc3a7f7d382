//! Transaction signatures (RFC 8945): who asks, and that nobody changed the message on the way.
//!
//! Only messages between this server and its secondaries carry them, but any question may, so any
//! answer can be signed. The message is checked before its question is looked at, the answer is
//! signed after it is whole, and both see the bytes of the wire only. Nothing is kept between
//! messages: a replay inside the permitted five minutes repeats a question, which changes nothing.
//!
//! HMAC comes from `ring`. HMAC-MD5 is refused as RFC 8945 section 6 asks; a shortened MAC is
//! answered with BADTRUNC, because no secondary needs one.

mod file;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use ring::hmac;

pub use self::file::{KeyFileMistake, Mistake, read_keys};
use crate::message::HEADER_LEN;
use crate::name::{LowerName, NameError};

/// Seconds that two clocks may differ (RFC 8945 section 10).
const FUDGE: u16 = 300;
/// CLASS ANY (RFC 8945 section 4.2).
const CLASS_ANY: u16 = 255;
/// Fewer bytes are no secret (RFC 8945 section 8 advises the length of the hash).
const LEAST_SECRET: usize = 16;
/// The least length of a MAC that is not an error of form (RFC 8945 section 5.2.2.1).
const LEAST_MAC: usize = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// For peers that have nothing better.
    HmacSha1,
    HmacSha256,
    HmacSha384,
    HmacSha512,
}

/// Why a key is not one. The operator must make another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TsigKeyError {
    #[error("`{name}` cannot be the name of a key: {source}")]
    Name { name: String, source: NameError },
    #[error("the secret of `{0}` is shorter than 16 bytes")]
    Short(String),
}

/// A shared secret and its name.
pub struct TsigKey {
    name: LowerName,
    algorithm: Algorithm,
    secret: hmac::Key,
}

/// The keys this server knows, by name.
#[derive(Debug, Clone, Default)]
pub struct Keyring {
    keys: BTreeMap<Box<[u8]>, Arc<TsigKey>>,
}

/// What the signature of a message says.
pub(crate) enum Verdict {
    Unsigned,
    /// The record, or the message around it, has not the form it must have.
    Malformed,
    /// The message without its signature, under the id it came with.
    Signed {
        message: Vec<u8>,
        session: Session,
    },
    Failed(Box<Failure>),
}

/// The signing half of a signed exchange: answers carry on from the question's MAC.
pub(crate) struct Session {
    key: Arc<TsigKey>,
    previous: Vec<u8>,
    /// The first answer covers all of the record, those after it only its times.
    is_first: bool,
}

/// A signature that does not hold, and what the answer says about it.
pub(crate) struct Failure {
    error: u16,
    key: LowerName,
    algorithm: LowerName,
    time: u64,
    fudge: u16,
    /// For BADTIME, whose answer is signed so that the clock it names can be believed.
    session: Option<Session>,
}

/// A TSIG record as it stands in a message.
struct Record<'a> {
    /// Where it begins.
    at: usize,
    key: LowerName,
    algorithm: LowerName,
    time: u64,
    fudge: u16,
    mac: &'a [u8],
    original_id: [u8; 2],
    error: u16,
    other: &'a [u8],
}

/// What a MAC covers besides the message.
struct Variables<'a> {
    key: &'a LowerName,
    algorithm: &'a LowerName,
    time: u64,
    fudge: u16,
    error: u16,
    other: &'a [u8],
}

struct Malformed;

const BAD_SIG: u16 = 16;
const BAD_KEY: u16 = 17;
const BAD_TIME: u16 = 18;
const BAD_TRUNC: u16 = 22;

// === impl Algorithm ===

impl Algorithm {
    const ALL: [Self; 4] = [Self::HmacSha1, Self::HmacSha256, Self::HmacSha384, Self::HmacSha512];

    /// The algorithm of this name, as in RFC 8945 section 6, with or without a final dot.
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.strip_suffix('.').unwrap_or(name);
        Self::ALL.into_iter().find(|a| a.as_str().eq_ignore_ascii_case(name))
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::HmacSha1 => "hmac-sha1",
            Self::HmacSha256 => "hmac-sha256",
            Self::HmacSha384 => "hmac-sha384",
            Self::HmacSha512 => "hmac-sha512",
        }
    }

    fn name(self) -> LowerName {
        LowerName::parse(self.as_str()).expect("one plain label")
    }

    fn of_ring(self) -> hmac::Algorithm {
        match self {
            Self::HmacSha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Self::HmacSha256 => hmac::HMAC_SHA256,
            Self::HmacSha384 => hmac::HMAC_SHA384,
            Self::HmacSha512 => hmac::HMAC_SHA512,
        }
    }

    /// Bytes of a whole MAC.
    fn mac_len(self) -> usize {
        self.of_ring().digest_algorithm().output_len()
    }
}

// === impl TsigKey ===

impl TsigKey {
    /// # Errors
    /// The name is no domain name, or the secret is shorter than 16 bytes.
    pub fn new(name: &str, algorithm: Algorithm, secret: &[u8]) -> Result<Self, TsigKeyError> {
        if secret.len() < LEAST_SECRET {
            return Err(TsigKeyError::Short(name.to_owned()));
        }
        let parsed = LowerName::parse(name)
            .map_err(|source| TsigKeyError::Name { name: name.to_owned(), source })?;
        let secret = hmac::Key::new(algorithm.of_ring(), secret);
        Ok(Self { name: parsed, algorithm, secret })
    }

    fn mac(&self, parts: &[&[u8]]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.secret);
        parts.iter().for_each(|part| context.update(part));
        context.sign()
    }
}

impl std::fmt::Debug for TsigKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TsigKey").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

// === impl Keyring ===

impl Keyring {
    /// Of two keys of one name the last one counts.
    pub fn new(keys: impl IntoIterator<Item = TsigKey>) -> Self {
        let keys = keys.into_iter().map(|key| (key.name.wire().into(), Arc::new(key)));
        Self { keys: keys.collect() }
    }

    /// Whether a key of this name is there; names are compared without regard to case.
    pub fn has(&self, name: &str) -> bool {
        LowerName::parse(name).is_ok_and(|name| self.keys.contains_key(name.wire()))
    }

    pub(crate) fn get(&self, name: &LowerName) -> Option<&Arc<TsigKey>> {
        self.keys.get(name.wire())
    }

    /// Judges the signature of a message; `now` is in seconds since 1970.
    ///
    /// Key, MAC, time and length are checked in the order of RFC 8945 section 5.2.
    pub(crate) fn judge(&self, packet: &[u8], now: u64) -> Verdict {
        let record = match Record::find(packet) {
            Ok(None) => return Verdict::Unsigned,
            Err(Malformed) => return Verdict::Malformed,
            Ok(Some(record)) => record,
        };
        let key =
            self.get(&record.key).filter(|k| k.algorithm.name().wire() == record.algorithm.wire());
        let Some(key) = key else {
            return Verdict::Failed(record.failure(BAD_KEY, None));
        };
        let whole = key.algorithm.mac_len();
        if record.mac.len() > whole || record.mac.len() < LEAST_MAC.max(whole / 2) {
            return Verdict::Malformed;
        }
        let mut message = record.message_of(packet);
        let expected = key.mac(&[&message, &record.variables().bytes()]);
        if !equal(&expected.as_ref()[..record.mac.len()], record.mac) {
            return Verdict::Failed(record.failure(BAD_SIG, None));
        }
        let key = Arc::clone(key);
        let session = Session { key, previous: record.mac.to_vec(), is_first: true };
        if now.abs_diff(record.time) > u64::from(record.fudge) {
            return Verdict::Failed(record.failure(BAD_TIME, Some(session)));
        }
        if record.mac.len() < whole {
            return Verdict::Failed(record.failure(BAD_TRUNC, Some(session)));
        }
        // Who forwards a message may give it another id (RFC 8945 section 4.2), and waits for that.
        message[..2].copy_from_slice(&packet[..2]);
        Verdict::Signed { message, session }
    }
}

/// Compares in a time that does not tell where the first difference is.
fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |all, (x, y)| all | (x ^ y)) == 0
}

// === impl Record ===

impl<'a> Record<'a> {
    /// The TSIG record of a message: the last of all its records, or there is none.
    fn find(packet: &'a [u8]) -> Result<Option<Self>, Malformed> {
        let (header, _) = packet.split_first_chunk::<HEADER_LEN>().ok_or(Malformed)?;
        let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let mut at = HEADER_LEN;
        for _ in 0..count(4) {
            at = after_name(packet, at)? + 4;
        }
        let records = u32::from(count(6)) + u32::from(count(8)) + u32::from(count(10));
        for left in (0..records).rev() {
            let fields = after_name(packet, at)?;
            let fixed = packet.get(fields..).and_then(|rest| rest.first_chunk::<10>());
            let [k0, k1, c0, c1, t0, t1, t2, t3, l0, l1] = *fixed.ok_or(Malformed)?;
            let data_at = fields + 10;
            let end = data_at + usize::from(u16::from_be_bytes([l0, l1]));
            let data = packet.get(data_at..end).ok_or(Malformed)?;
            if RecordType::from(u16::from_be_bytes([k0, k1])) == RecordType::TSIG {
                let is_last = left == 0 && count(10) > 0 && end == packet.len();
                let plain = u16::from_be_bytes([c0, c1]) == CLASS_ANY && [t0, t1, t2, t3] == [0; 4];
                return match is_last && plain {
                    true => Self::read(packet, at, data).map(Some),
                    false => Err(Malformed),
                };
            }
            at = end;
        }
        Ok(None)
    }

    fn read(packet: &'a [u8], at: usize, data: &'a [u8]) -> Result<Self, Malformed> {
        let key = name_at(packet, at)?;
        let (algorithm, used) = LowerName::read(data).map_err(|_| Malformed)?;
        let (times, rest) = data[used..].split_first_chunk::<10>().ok_or(Malformed)?;
        let [t0, t1, t2, t3, t4, t5, f0, f1, m0, m1] = *times;
        let mac_len = usize::from(u16::from_be_bytes([m0, m1]));
        let (mac, rest) = rest.split_at_checked(mac_len).ok_or(Malformed)?;
        let ([i0, i1, e0, e1, o0, o1], other) = rest.split_first_chunk().ok_or(Malformed)?;
        if other.len() != usize::from(u16::from_be_bytes([*o0, *o1])) {
            return Err(Malformed);
        }
        Ok(Self {
            at,
            key,
            algorithm,
            time: u64::from_be_bytes([0, 0, t0, t1, t2, t3, t4, t5]),
            fudge: u16::from_be_bytes([f0, f1]),
            mac,
            original_id: [*i0, *i1],
            error: u16::from_be_bytes([*e0, *e1]),
            other,
        })
    }

    /// The message as it was before it was signed, under its first id.
    fn message_of(&self, packet: &[u8]) -> Vec<u8> {
        let mut message = packet[..self.at].to_vec();
        message[..2].copy_from_slice(&self.original_id);
        let additional = u16::from_be_bytes([message[10], message[11]]);
        let without = additional.checked_sub(1).expect("the record was counted there");
        message[10..12].copy_from_slice(&without.to_be_bytes());
        message
    }

    fn variables(&self) -> Variables<'_> {
        Variables {
            key: &self.key,
            algorithm: &self.algorithm,
            time: self.time,
            fudge: self.fudge,
            error: self.error,
            other: self.other,
        }
    }

    fn failure(&self, error: u16, session: Option<Session>) -> Box<Failure> {
        Box::new(Failure {
            error,
            key: self.key.clone(),
            algorithm: self.algorithm.clone(),
            time: self.time,
            fudge: self.fudge,
            session,
        })
    }
}

/// Where the name at `at` ends; a pointer ends it.
fn after_name(packet: &[u8], mut at: usize) -> Result<usize, Malformed> {
    loop {
        match *packet.get(at).ok_or(Malformed)? {
            0 => return Ok(at + 1),
            length @ 1..=63 => at += 1 + usize::from(length),
            0xc0.. => return Ok(at + 2),
            _ => return Err(Malformed),
        }
    }
}

/// The name at `at`. Pointers go back only (RFC 1035 section 4.1.4), so this ends.
fn name_at(packet: &[u8], at: usize) -> Result<LowerName, Malformed> {
    let mut plain = Vec::new();
    let (mut at, mut below) = (at, at);
    loop {
        match *packet.get(at).ok_or(Malformed)? {
            0 => {
                plain.push(0);
                return LowerName::read(&plain).map(|(name, _)| name).map_err(|_| Malformed);
            }
            length @ 1..=63 => {
                let end = at + 1 + usize::from(length);
                plain.extend_from_slice(packet.get(at..end).ok_or(Malformed)?);
                at = end;
            }
            high @ 0xc0.. => {
                let low = *packet.get(at + 1).ok_or(Malformed)?;
                at = usize::from(u16::from_be_bytes([high & 0x3f, low]));
                if at >= below {
                    return Err(Malformed);
                }
                below = at;
            }
            _ => return Err(Malformed),
        }
        if plain.len() > 255 {
            return Err(Malformed);
        }
    }
}

// === impl Variables ===

impl Variables<'_> {
    /// RFC 8945 section 4.3.3.
    fn bytes(&self) -> Vec<u8> {
        let Self { key, algorithm, time, fudge, error, other } = self;
        let mut bytes = key.wire().to_vec();
        bytes.extend_from_slice(&CLASS_ANY.to_be_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(algorithm.wire());
        push_times(&mut bytes, *time, *fudge);
        bytes.extend_from_slice(&error.to_be_bytes());
        bytes.extend_from_slice(&length_of(other));
        bytes.extend_from_slice(other);
        bytes
    }
}

fn push_times(bytes: &mut Vec<u8>, time: u64, fudge: u16) {
    bytes.extend_from_slice(&time.to_be_bytes()[2..]);
    bytes.extend_from_slice(&fudge.to_be_bytes());
}

fn length_of(bytes: &[u8]) -> [u8; 2] {
    u16::try_from(bytes.len()).expect("a part of a message").to_be_bytes()
}

// === impl Session ===

impl Session {
    /// Name of the key the question was signed with.
    pub(crate) fn key(&self) -> &LowerName {
        &self.key.name
    }

    /// How many bytes [`Session::sign`] adds.
    pub(crate) fn length(&self) -> usize {
        let fixed = 10 + 10 + 6;
        let algorithm = self.key.algorithm;
        self.key.name.wire().len() + algorithm.name().wire().len() + fixed + algorithm.mac_len()
    }

    /// Signs the next message of the answer, whose id is that of the question.
    pub(crate) fn sign(&mut self, message: &mut Vec<u8>, now: u64) {
        self.sign_as(message, now, FUDGE, (0, &[]));
    }

    fn sign_as(
        &mut self,
        message: &mut Vec<u8>,
        time: u64,
        fudge: u16,
        (error, other): (u16, &[u8]),
    ) {
        let algorithm = self.key.algorithm.name();
        let variables =
            Variables { key: &self.key.name, algorithm: &algorithm, time, fudge, error, other };
        let covered = match self.is_first {
            true => variables.bytes(),
            false => {
                let mut times = Vec::new();
                push_times(&mut times, time, fudge);
                times
            }
        };
        let previous = length_of(&self.previous);
        let tag = self.key.mac(&[&previous, &self.previous, message, &covered]);
        append(message, &variables, tag.as_ref());
        self.previous = tag.as_ref().to_vec();
        self.is_first = false;
    }
}

/// Puts the record at the end of the message (RFC 8945 section 4.2).
fn append(message: &mut Vec<u8>, variables: &Variables<'_>, mac: &[u8]) {
    let Variables { key, algorithm, time, fudge, error, other } = variables;
    let id = [message[0], message[1]];
    message.extend_from_slice(key.wire());
    message.extend_from_slice(&u16::from(RecordType::TSIG).to_be_bytes());
    message.extend_from_slice(&CLASS_ANY.to_be_bytes());
    message.extend_from_slice(&[0; 4]);
    let mut data = algorithm.wire().to_vec();
    push_times(&mut data, *time, *fudge);
    data.extend_from_slice(&length_of(mac));
    data.extend_from_slice(mac);
    data.extend_from_slice(&id);
    data.extend_from_slice(&error.to_be_bytes());
    data.extend_from_slice(&length_of(other));
    data.extend_from_slice(other);
    message.extend_from_slice(&length_of(&data));
    message.extend_from_slice(&data);
    let additional = u16::from_be_bytes([message[10], message[11]]) + 1;
    message[10..12].copy_from_slice(&additional.to_be_bytes());
}

// === impl Failure ===

impl Failure {
    /// Turns the question at the front of `packet` into an answer that says what is wrong with its
    /// signature: NOTAUTH with a TSIG record (RFC 8945 section 5.2).
    pub(crate) fn answer(self, packet: &[u8], now: u64, out: &mut Vec<u8>) -> ResponseCode {
        let rcode = ResponseCode::NotAuth;
        let end = match after_name(packet, HEADER_LEN) {
            Ok(end) if packet[4..6] == [0, 1] => (end + 4).min(packet.len()),
            _ => HEADER_LEN,
        };
        out.clear();
        out.extend_from_slice(&packet[..end]);
        const KEPT: u8 = 0x79;
        out[2] = 0x80 | (packet[2] & KEPT);
        out[3] = (packet[3] & 0x10) | rcode.low();
        out[4..HEADER_LEN].fill(0);
        out[5] = u8::from(end > HEADER_LEN);
        let Self { error, key, algorithm, time, fudge, session } = self;
        let server_time = &now.to_be_bytes()[2..];
        match session {
            Some(mut session) if error == BAD_TIME => {
                session.sign_as(out, time, fudge, (error, server_time));
            }
            Some(mut session) => session.sign_as(out, now, FUDGE, (error, &[])),
            None => {
                let variables = Variables {
                    key: &key,
                    algorithm: &algorithm,
                    time: now,
                    fudge: FUDGE,
                    error,
                    other: &[],
                };
                append(out, &variables, &[]);
            }
        }
        rcode
    }
}
