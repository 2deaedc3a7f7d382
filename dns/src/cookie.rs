//! DNS cookies (RFC 7873): a client that returns what it was given is where it says it is.
//!
//! Server cookies have the interoperable form of RFC 9018, so that name servers of one address
//! that share a secret take each other's. Nothing is kept per client. A secret that was replaced
//! is good until the next one is replaced, which is longer than a cookie lives.
//!
//! Secrets are never shown or logged. After a crash a secret that came from no file is a new one;
//! clients are then given new cookies with their next answer.

use std::hash::Hasher;
use std::net::IpAddr;

use arc_swap::ArcSwap;
use siphasher::sip::SipHasher24;

/// The EDNS option code (RFC 7873 section 4).
pub(crate) const COOKIE: u16 = 10;
/// Bytes of a client cookie.
pub(crate) const CLIENT_COOKIE: usize = 8;
/// Bytes of client cookie and server cookie together, as this server gives them.
const WHOLE: usize = 24;
/// RFC 9018 section 4.3, in seconds: how old a cookie may be, how far ahead its clock, and from
/// what age on it is replaced although it is good.
const OLDEST: u32 = 3600;
const AHEAD: u32 = 300;
const RENEWED: u32 = 1800;
/// Version 1 and three reserved bytes.
const VERSION: [u8; 4] = [1, 0, 0, 0];

/// A key of 128 bits for SipHash-2-4.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret([u8; 16]);

/// The secrets of a server: what it signs with, and what it still takes.
pub struct Cookies {
    secrets: ArcSwap<Secrets>,
}

#[derive(Clone, Copy)]
struct Secrets {
    current: Secret,
    previous: Option<Secret>,
}

/// What the cookie of a question says about its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sender {
    /// No cookie: the address may be forged, and there is no way to ask.
    #[default]
    Unproven,
    /// A client cookie without a good server cookie: the answer brings one.
    Asking,
    /// A good server cookie: the address is the sender's.
    Proven,
}

/// The judgement of one cookie, and the one to answer with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Judged {
    pub(crate) sender: Sender,
    pub(crate) answer: [u8; WHOLE],
}

// === impl Secret ===

impl Secret {
    pub fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

// === impl Cookies ===

impl Cookies {
    /// `previous` is what other servers may still sign with, or this one did.
    pub fn new(current: Secret, previous: Option<Secret>) -> Self {
        Self { secrets: ArcSwap::from_pointee(Secrets { current, previous }) }
    }

    /// Signs with `next` from now on; what was signed with the secret before it stays good.
    pub fn rotate(&self, next: Secret) {
        let previous = Some(self.secrets.load().current);
        self.secrets.store(std::sync::Arc::new(Secrets { current: next, previous }));
    }

    /// Judges the data of a cookie option, of 8 or of 16 to 40 bytes, that came from `source` at
    /// `now`, in seconds since 1970, modulo 2^32.
    pub(crate) fn judge(&self, data: &[u8], source: IpAddr, now: u32) -> Judged {
        let secrets = self.secrets.load();
        let client = data.first_chunk().copied().unwrap_or_default();
        let made = |at| make(secrets.current, client, VERSION, source, at);
        let given = data.try_into().ok().filter(|given: &[u8; WHOLE]| given[8] == VERSION[0]);
        let Some(given) = given else {
            return Judged { sender: Sender::Asking, answer: made(now) };
        };
        // Reserved bytes are signed and not looked at (RFC 9018 section 4.2).
        let version = [given[8], given[9], given[10], given[11]];
        let at = u32::from_be_bytes([given[12], given[13], given[14], given[15]]);
        let age = now.wrapping_sub(at);
        let in_time = age <= OLDEST || at.wrapping_sub(now) <= AHEAD;
        let by =
            |secret: Secret| in_time && same(&make(secret, client, version, source, at), &given);
        if by(secrets.current) {
            // One from the future is young.
            let young = (age <= RENEWED || age > OLDEST) && version == VERSION;
            let answer = if young { given } else { made(now) };
            return Judged { sender: Sender::Proven, answer };
        }
        let sender = match secrets.previous.is_some_and(by) {
            true => Sender::Proven,
            false => Sender::Asking,
        };
        Judged { sender, answer: made(now) }
    }
}

impl std::fmt::Debug for Cookies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cookies")
    }
}

/// Client cookie, version, reserved bytes, time and their hash with the address (RFC 9018 section
/// 4.4).
fn make(
    secret: Secret,
    client: [u8; CLIENT_COOKIE],
    version: [u8; 4],
    source: IpAddr,
    at: u32,
) -> [u8; WHOLE] {
    let mut whole = [0; WHOLE];
    whole[..8].copy_from_slice(&client);
    whole[8..12].copy_from_slice(&version);
    whole[12..16].copy_from_slice(&at.to_be_bytes());
    let mut hasher = SipHasher24::new_with_key(&secret.0);
    let (signed, hash) = whole.split_at_mut(16);
    hasher.write(signed);
    match source.to_canonical() {
        IpAddr::V4(address) => hasher.write(&address.octets()),
        IpAddr::V6(address) => hasher.write(&address.octets()),
    }
    hash.copy_from_slice(&hasher.finish().to_le_bytes());
    whole
}

/// Compares without telling by its time where the first difference is.
fn same(a: &[u8; WHOLE], b: &[u8; WHOLE]) -> bool {
    a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        let digit = |at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("hex");
        std::array::from_fn(digit)
    }

    fn secret(hex: &str) -> Secret {
        Secret::new(bytes(hex))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// The test vectors of RFC 9018, appendix A.
    #[test]
    fn cookies_are_those_of_the_standard() {
        let first = Cookies::new(secret("e5e973e5a6b2a43f48e7dc849e37bfcf"), None);
        let asked = bytes::<8>("2464c4abcf10c957");
        let told = first.judge(&asked, ip("198.51.100.100"), 1_559_731_985);
        assert_eq!(told.sender, Sender::Asking);
        assert_eq!(told.answer, bytes("2464c4abcf10c957010000005cf79f111f8130c3eee29480"));

        // Good, and old enough to be replaced.
        let told = first.judge(&told.answer, ip("198.51.100.100"), 1_559_734_385);
        assert_eq!(told.sender, Sender::Proven);
        assert_eq!(told.answer, bytes("2464c4abcf10c957010000005cf7a871d4a564a1442aca77"));

        // Reserved bytes are signed as they come. Two hours old, it is no proof any more.
        let given = bytes::<24>("fc93fc62807ddb8601abcdef5cf78f71a314227b6679ebf5");
        let client = ip("203.0.113.203");
        assert_eq!(first.judge(&given, client, 1_559_727_985).sender, Sender::Proven);
        let told = first.judge(&given, client, 1_559_734_700);
        assert_eq!(told.sender, Sender::Asking);
        assert_eq!(told.answer, bytes("fc93fc62807ddb86010000005cf7a9acf73a7810aca2381e"));

        // After a change of secrets, over IPv6.
        let second = Cookies::new(secret("dd3bdf9344b678b185a6f5cb60fca715"), None);
        second.rotate(secret("445536bcd2513298075a5d379663c962"));
        let given = bytes::<24>("22681ab97d52c298010000005cf7c57926556bd0934c72f8");
        let told = second.judge(&given, ip("2001:db8:220:1:59de:d0f4:8769:82b8"), 1_559_741_961);
        assert_eq!(told.sender, Sender::Proven);
        assert_eq!(told.answer, bytes("22681ab97d52c298010000005cf7c609a6bb79d16625507a"));
    }

    #[test]
    fn a_cookie_is_good_for_one_client_and_one_hour() {
        let cookies = Cookies::new(secret("000102030405060708090a0b0c0d0e0f"), None);
        let (home, born) = (ip("192.0.2.1"), 10u32);
        let given = cookies.judge(&[7; 8], home, born).answer;
        let judge = |data: &[u8], from: &str, now: u32| cookies.judge(data, ip(from), now).sender;
        use Sender::{Asking, Proven};
        // The clock goes over its end without harm.
        let now = |ahead: i64| u32::try_from((i64::from(born) + ahead) & 0xffff_ffff).expect("cut");
        for (ahead, expected) in
            [(0, Proven), (3600, Proven), (3601, Asking), (-300, Proven), (-301, Asking)]
        {
            assert_eq!(judge(&given, "192.0.2.1", now(ahead)), expected, "{ahead}");
        }
        assert_eq!(judge(&given, "::ffff:192.0.2.1", born), Proven);
        assert_eq!(judge(&given, "192.0.2.2", born), Asking);
        for at in 0..given.len() {
            let mut wrong = given;
            wrong[at] ^= 1;
            assert_eq!(judge(&wrong, "192.0.2.1", born), Asking, "byte {at}");
        }
        assert_eq!(judge(&given[..23], "192.0.2.1", born), Asking);
        let long = [&given[..], &[0]].concat();
        assert_eq!(judge(&long, "192.0.2.1", born), Asking);
    }

    #[test]
    fn a_secret_is_good_for_one_change_longer() {
        let cookies = Cookies::new(Secret::new([1; 16]), None);
        let home = ip("192.0.2.1");
        let given = cookies.judge(&[7; 8], home, 0).answer;
        cookies.rotate(Secret::new([2; 16]));
        let told = cookies.judge(&given, home, 1);
        assert_eq!(told.sender, Sender::Proven);
        assert_ne!(told.answer, given, "the answer brings one of the new secret");
        cookies.rotate(Secret::new([3; 16]));
        assert_eq!(cookies.judge(&given, home, 1).sender, Sender::Asking);
        assert_eq!(cookies.judge(&told.answer, home, 1).sender, Sender::Proven);
        assert_eq!(format!("{cookies:?}{:?}", Secret::new([3; 16])), "CookiesSecret");
    }
}
