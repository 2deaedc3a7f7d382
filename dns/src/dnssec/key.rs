//! Keys of the zone, as `dnssec-keygen` writes them: ECDSA on P-256 with SHA-256 (RFC 6605).
//!
//! Text in, keys out; nothing of a private key is part of a message. Signing is done by `ring`.

use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};

use super::SignedSet;
use super::set::Unsigned;
use super::stats::SigningStats;
use crate::name::LowerName;

/// ECDSAP256SHA256 (RFC 6605 section 2).
pub(super) const ALGORITHM: u8 = 13;
const SEP: u16 = 1;
const ZONE: u16 = 0x100;
/// How far back a signature holds, for validators whose clocks are late.
const SKEW: u64 = 3600;

/// Why a key cannot be used. The operator must act.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ZoneKeyMistake {
    #[error("there is no DNSKEY record in it")]
    NoRecord,
    #[error("it is a key of `{0}`")]
    OtherZone(String),
    #[error("it is of algorithm {0}; only 13 (ECDSAP256SHA256) is supported")]
    Algorithm(String),
    #[error("it is not a zone key, or it is revoked (flags {0})")]
    Flags(u16),
    #[error("the public key is not 64 bytes of base64")]
    Public,
    #[error("the private key is not 1 to 32 bytes of base64")]
    Private,
    #[error("the private key does not belong to the public one")]
    Pair,
}

/// One key; it signs if its private half is here.
pub struct ZoneKey {
    flags: u16,
    public: Vec<u8>,
    pair: Option<EcdsaKeyPair>,
}

/// The keys of a zone and how they are used. Shared by all snapshots.
pub struct Keys {
    zone: LowerName,
    /// Signs the key set.
    key_set: Arc<ZoneKey>,
    /// Signs everything else.
    zone_data: Arc<ZoneKey>,
    published: Vec<Arc<ZoneKey>>,
    validity: u64,
    random: SystemRandom,
    stats: Arc<SigningStats>,
}

// === impl ZoneKey ===

impl ZoneKey {
    /// Reads the text of a `.key` file and, for a key that signs, of its `.private` file.
    ///
    /// # Errors
    /// The texts are not those of a key of this zone.
    pub fn read(zone: &str, public: &str, private: Option<&str>) -> Result<Self, ZoneKeyMistake> {
        let lines = public.lines().map(|l| l.split(';').next().unwrap_or_default());
        let record = lines.map(|l| l.split_whitespace().collect::<Vec<_>>());
        let record = record.into_iter().find(|fields| fields.contains(&"DNSKEY"));
        let record = record.ok_or(ZoneKeyMistake::NoRecord)?;
        let (head, data) = record
            .split_at(record.iter().position(|f| *f == "DNSKEY").ok_or(ZoneKeyMistake::NoRecord)?);
        let owner = head.first().copied().unwrap_or_default();
        let name = |text: &str| LowerName::parse(text).ok();
        let same = name(owner).zip(name(zone)).is_some_and(|(a, b)| a.wire() == b.wire());
        if !same {
            return Err(ZoneKeyMistake::OtherZone(owner.to_owned()));
        }
        let [_, flags, protocol, algorithm, key @ ..] = data else {
            return Err(ZoneKeyMistake::NoRecord);
        };
        if *algorithm != "13" || *protocol != "3" {
            return Err(ZoneKeyMistake::Algorithm((*algorithm).to_owned()));
        }
        let flags: u16 = flags.parse().map_err(|_| ZoneKeyMistake::NoRecord)?;
        if flags & !SEP != ZONE {
            return Err(ZoneKeyMistake::Flags(flags));
        }
        let public = BASE64.decode(key.concat().as_bytes()).ok().filter(|k| k.len() == 64);
        let public = public.ok_or(ZoneKeyMistake::Public)?;
        let pair = private.map(|text| pair(text, &public)).transpose()?;
        Ok(Self { flags, public, pair })
    }

    /// A new key that is written nowhere.
    #[cfg(test)]
    pub(super) fn generate() -> Self {
        use ring::signature::KeyPair as _;
        let (random, form) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let made = EcdsaKeyPair::generate_pkcs8(form, &random).expect("random numbers");
        let pair = EcdsaKeyPair::from_pkcs8(form, made.as_ref(), &random).expect("just made");
        let public = pair.public_key().as_ref()[1..].to_vec();
        Self { flags: ZONE | SEP, public, pair: Some(pair) }
    }

    /// RDATA of the DNSKEY record (RFC 4034 section 2.1).
    pub(super) fn record(&self) -> Vec<u8> {
        let [f0, f1] = self.flags.to_be_bytes();
        [&[f0, f1, 3, ALGORITHM][..], &self.public].concat()
    }

    /// The key tag (RFC 4034 appendix B).
    pub fn tag(&self) -> u16 {
        let shift = |at: usize| if at.is_multiple_of(2) { 8 } else { 0 };
        let bytes = self.record();
        let sum: u32 = bytes.iter().enumerate().map(|(at, b)| u32::from(*b) << shift(at)).sum();
        let folded = (sum + (sum >> 16)) & 0xffff;
        u16::try_from(folded).expect("16 bits")
    }

    pub(super) fn is_entry_point(&self) -> bool {
        self.flags & SEP != 0
    }
}

/// The private half, which must belong to the public one.
fn pair(private: &str, public: &[u8]) -> Result<EcdsaKeyPair, ZoneKeyMistake> {
    let line = private.lines().find_map(|l| l.strip_prefix("PrivateKey:"));
    let secret = BASE64.decode(line.unwrap_or_default().trim().as_bytes()).ok();
    let secret = secret.and_then(scalar).ok_or(ZoneKeyMistake::Private)?;
    // An uncompressed point (SEC 1 section 2.3.3).
    let point = [&[4][..], public].concat();
    EcdsaKeyPair::from_private_key_and_public_key(
        &ECDSA_P256_SHA256_FIXED_SIGNING,
        &secret,
        &point,
        &SystemRandom::new(),
    )
    .map_err(|_| ZoneKeyMistake::Pair)
}

/// The 32 bytes of a number that may be written without its leading zeros: BIND leaves them out,
/// RFC 6605 section 6 does not.
fn scalar(written: Vec<u8>) -> Option<[u8; 32]> {
    let mut scalar = [0; 32];
    let zeros = scalar.len().checked_sub(written.len())?;
    scalar[zeros..].copy_from_slice(&written);
    (!written.is_empty()).then_some(scalar)
}

impl std::fmt::Debug for ZoneKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ZoneKey").field("tag", &self.tag()).finish_non_exhaustive()
    }
}

// === impl Keys ===

impl Keys {
    /// `signing` is one key for everything, or the key of the key set and that of the rest; both
    /// have their private halves. `None` when one has not, or the name is none.
    pub fn new(
        zone: &str,
        signing: (Arc<ZoneKey>, Option<Arc<ZoneKey>>),
        published: Vec<Arc<ZoneKey>>,
        validity: Duration,
        stats: Arc<SigningStats>,
    ) -> Option<Self> {
        let (key_set, rest) = signing;
        let zone_data = rest.unwrap_or_else(|| Arc::clone(&key_set));
        let both_sign = key_set.pair.is_some() && zone_data.pair.is_some();
        let zone = LowerName::parse(zone).ok().filter(|_| both_sign)?;
        let random = SystemRandom::new();
        let validity = validity.as_secs();
        Some(Self { zone, key_set, zone_data, published, validity, random, stats })
    }

    pub(super) fn zone(&self) -> &LowerName {
        &self.zone
    }

    pub(super) fn stats(&self) -> &SigningStats {
        &self.stats
    }

    /// All keys of the key set, each once.
    pub(super) fn all(&self) -> Vec<&ZoneKey> {
        let mut all: Vec<&ZoneKey> = vec![&self.key_set, &self.zone_data];
        all.extend(self.published.iter().map(|k| &**k));
        let mut seen = std::collections::BTreeSet::new();
        all.retain(|key| seen.insert(key.record()));
        all
    }

    /// The keys that the parent zone is to refer to.
    pub(super) fn entry_points(&self) -> Vec<&ZoneKey> {
        let mut keys: Vec<&ZoneKey> =
            self.all().into_iter().filter(|k| k.is_entry_point()).collect();
        if keys.is_empty() {
            keys.push(&self.key_set);
        }
        keys
    }

    /// Signs a set of records from `now`, in seconds since 1970.
    pub(super) fn sign(&self, set: Unsigned, now: u64) -> SignedSet {
        let key = if set.is_key_set() { &self.key_set } else { &self.zone_data };
        // Signatures made together must not grow old together: a quarter of the time is spread.
        let spread = set.spread() % (self.validity / 4).max(1);
        let expires = now + self.validity - spread;
        let begins = now.saturating_sub(SKEW);
        let pair = key.pair.as_ref().expect("checked when the keys were put together");
        let signed = set.sign(&self.zone, key.tag(), (begins, expires), |data| {
            let signature = pair.sign(&self.random, data);
            signature.expect("the system has random numbers").as_ref().to_vec()
        });
        self.stats.signed();
        signed
    }

    /// Whether less than a third of a signature's time is left.
    pub(super) fn is_due(&self, set: &SignedSet, now: u64) -> bool {
        set.expires() < now + self.validity / 3
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("all", &self.all()).finish_non_exhaustive()
    }
}
