//! Serial numbers of zone snapshots, compared on a circle (RFC 1982 with SERIAL_BITS 32).
//!
//! A secondary only transfers a zone whose serial is *newer* in this sense, so everything that
//! hands out serials goes through here. The agent keeps the last number on disk and never goes
//! back, also over a crash.

use std::cmp::Ordering;
use std::fmt;

/// A zone's serial number.
///
/// There is no total order: of two serials exactly 2^31 apart neither is newer (RFC 1982 section
/// 3.2), which is why only [`PartialOrd`] is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Serial(pub u32);

impl Serial {
    /// The serial of snapshot `number`: the low 32 bits. Snapshots counted one by one have serials
    /// that only go up, also where the number passes 2^32.
    pub fn of_snapshot(number: u64) -> Self {
        let [_, _, _, _, a, b, c, d] = number.to_be_bytes();
        Self(u32::from_be_bytes([a, b, c, d]))
    }

    /// The serial after this one; 0 follows 2^32 - 1.
    pub fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }

    /// True when a secondary that has `other` would take this one.
    pub fn is_newer_than(self, other: Self) -> bool {
        self > other
    }
}

impl PartialOrd for Serial {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        const HALF: u32 = 1 << 31;
        match self.0.wrapping_sub(other.0) {
            0 => Some(Ordering::Equal),
            HALF => None,
            ahead if ahead < HALF => Some(Ordering::Greater),
            _ => Some(Ordering::Less),
        }
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_circle_of_rfc_1982() {
        for (a, b, expected) in [
            (1, 0, Some(Ordering::Greater)),
            (0, 1, Some(Ordering::Less)),
            (7, 7, Some(Ordering::Equal)),
            (0, u32::MAX, Some(Ordering::Greater)),
            (44, u32::MAX - 100, Some(Ordering::Greater)),
            (1 << 31, 0, None),
            (0, 1 << 31, None),
            ((1 << 31) - 1, 0, Some(Ordering::Greater)),
            ((1 << 31) + 1, 0, Some(Ordering::Less)),
        ] {
            assert_eq!(Serial(a).partial_cmp(&Serial(b)), expected, "{a} {b}");
        }
    }

    #[test]
    fn snapshots_in_a_row_only_go_up() {
        let edge = u64::from(u32::MAX);
        for number in [0, 1, edge - 1, edge, edge + 1, u64::MAX - 1] {
            let (this, next) = (Serial::of_snapshot(number), Serial::of_snapshot(number + 1));
            assert!(next.is_newer_than(this), "{number}");
            assert_eq!(this.next(), next, "{number}");
        }
    }
}
