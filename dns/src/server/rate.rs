//! Response rate limiting: a flood with forged sources must not become a flood at the victim.
//!
//! Each UDP thread counts for itself, so nothing is shared. What counts is equal answers to one
//! network: a resolver that caches asks a name once per TTL, and the same answer hundreds of times
//! a second is an attack or a fault. Names that do not exist count as one, since their number has
//! no end. Of the answers above the limit every second one goes out as a bare "ask over TCP", so
//! that a real client behind a forged address still gets through; the rest are not sent.
//!
//! The table has a fixed size and a secret hash. Two networks in one place push each other out and
//! start anew, which errs towards answering.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;
use std::time::Instant;

use hickory_proto::op::ResponseCode;

use crate::client::Client;
use crate::message::HEADER_LEN;

/// Places in the table of one thread, 16 bytes each.
const PLACES: u64 = 1 << 15;
/// One answer, in thousandths.
const ANSWER: u32 = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Send,
    /// Send without records and with TC.
    Slip,
    Drop,
}

pub(super) struct Rate {
    /// Equal answers a second to one network; also the size of a burst.
    per_second: u32,
    start: Instant,
    hasher: RandomState,
    places: Vec<Place>,
}

#[derive(Clone, Copy, Default)]
struct Place {
    tag: u32,
    /// Milliseconds since `start`, modulo 2^32.
    filled_at: u32,
    /// Thousandths of an answer.
    credit: u32,
    slip: bool,
}

impl Rate {
    pub(super) fn new(per_second: u32, start: Instant) -> Self {
        let places = usize::try_from(PLACES).expect("a small number");
        Self {
            // So that a burst in thousandths fits into 32 bits.
            per_second: per_second.clamp(1, 1_000_000),
            start,
            hasher: RandomState::new(),
            places: vec![Place::default(); places],
        }
    }

    /// Judges one answer. The host itself is never limited: its addresses cannot be forged.
    pub(super) fn judge(
        &mut self,
        to: IpAddr,
        rcode: ResponseCode,
        answer: &[u8],
        now: Instant,
    ) -> Verdict {
        let client = Client::new(to, None);
        if client.source.is_loopback() {
            return Verdict::Send;
        }
        let mut hash = self.hasher.build_hasher();
        match client.block().addr() {
            IpAddr::V4(a) => hash.write_u32(a.to_bits()),
            IpAddr::V6(a) => hash.write_u128(a.to_bits()),
        }
        hash.write_u16(rcode.into());
        if rcode == ResponseCode::NoError {
            hash_question(&mut hash, answer);
        }
        let hash = hash.finish();
        let at = usize::try_from(hash % PLACES).expect("a small number");
        let tag = u32::try_from(hash >> 32).expect("32 bits are left") | 1;
        let since = now.saturating_duration_since(self.start).as_millis();
        let now_ms = u32::try_from(since & u128::from(u32::MAX)).expect("masked");
        self.places[at].spend(tag, now_ms, self.per_second)
    }
}

impl Place {
    fn spend(&mut self, tag: u32, now_ms: u32, per_second: u32) -> Verdict {
        let full = per_second * ANSWER;
        if self.tag != tag {
            *self = Self { tag, filled_at: now_ms, credit: full, slip: false };
        }
        // A thousandth of an answer for each millisecond and answer a second.
        let elapsed = now_ms.wrapping_sub(self.filled_at);
        let earned = elapsed.saturating_mul(per_second);
        self.credit = self.credit.saturating_add(earned).min(full);
        self.filled_at = now_ms;
        if self.credit >= ANSWER {
            self.credit -= ANSWER;
            return Verdict::Send;
        }
        self.slip = !self.slip;
        match self.slip {
            true => Verdict::Slip,
            false => Verdict::Drop,
        }
    }
}

/// Hashes name and type, whatever the case of the letters. Of a name without such records all
/// types count as one, since anybody can think of 65536.
fn hash_question(hash: &mut impl Hasher, answer: &[u8]) {
    let question = answer.get(HEADER_LEN..).unwrap_or_default();
    let has_records = answer.get(6..8) != Some(&[0, 0]);
    let mut folded = [0; 255 + 2];
    let length = question_length(question).saturating_sub(if has_records { 0 } else { 2 });
    let length = length.min(folded.len());
    folded[..length].copy_from_slice(&question[..length]);
    folded[..length].make_ascii_lowercase();
    hash.write(&folded[..length]);
}

/// The length of name and type at the start of `question`, which this server wrote.
fn question_length(question: &[u8]) -> usize {
    // The walk goes by labels: a label may have any bytes in it.
    let mut end = 0;
    while let Some(length @ 1..) = question.get(end) {
        end += 1 + usize::from(*length);
    }
    (end + 3).min(question.len())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn answer_to(name: &[u8]) -> Vec<u8> {
        [&[0; 7][..], &[1], &[0; 4], name, &[0, 0, 1, 0, 1, 9, 9, 9]].concat()
    }

    #[test]
    fn equal_answers_to_one_network_have_a_rate() {
        let start = Instant::now();
        let mut rate = Rate::new(10, start);
        let mut judge = |to: &str, rcode, name: &[u8], ms| {
            let to = to.parse().expect("an address");
            let now = start + Duration::from_millis(ms);
            rate.judge(to, rcode, &answer_to(name), now)
        };
        let ok = ResponseCode::NoError;
        for host in 0..10 {
            let to = format!("192.0.2.{host}");
            assert_eq!(judge(&to, ok, b"\x01a", 0), Verdict::Send);
        }
        // The network has had its burst, in whatever case it asks.
        let verdicts = [0, 0, 0, 0].map(|ms| judge("192.0.2.99", ok, b"\x01A", ms));
        use Verdict::{Drop, Send, Slip};
        assert_eq!(verdicts, [Slip, Drop, Slip, Drop]);
        // Others, other names and the host itself are not affected.
        assert_eq!(judge("192.0.3.1", ok, b"\x01a", 0), Send);
        assert_eq!(judge("192.0.2.99", ok, b"\x01b", 0), Send);
        for _ in 0..100 {
            assert_eq!(judge("127.0.0.1", ok, b"\x01a", 0), Send);
        }
        // A tenth of a second later there is one more.
        assert_eq!(judge("192.0.2.1", ok, b"\x01a", 100), Send);
        assert_eq!(judge("192.0.2.1", ok, b"\x01a", 100), Slip);
        assert_eq!(judge("192.0.2.1", ok, b"\x01a", 60_000), Send);
    }

    #[test]
    fn names_that_do_not_exist_count_as_one() {
        let start = Instant::now();
        let mut rate = Rate::new(20, start);
        let to = "2001:db8::1".parse().expect("an address");
        let mut sent = 0;
        for n in 0..100u8 {
            let answer = answer_to(&[1, n.max(1)]);
            if rate.judge(to, ResponseCode::NXDomain, &answer, start) == Verdict::Send {
                sent += 1;
            }
        }
        assert_eq!(sent, 20);
    }
}
