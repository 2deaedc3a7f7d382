//! ICMP echo messages (RFC 792, RFC 4443 section 4): made and recognised, nothing else.

use std::net::IpAddr;

/// Identifies one probe's echoes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Echo {
    pub(super) identifier: u16,
    pub(super) sequence: u16,
}

const REQUEST_V4: u8 = 8;
const REPLY_V4: u8 = 0;
const REQUEST_V6: u8 = 128;
const REPLY_V6: u8 = 129;

impl Echo {
    /// The message for a raw socket. The kernel fills in the checksum of ICMPv6 (RFC 3542
    /// section 3.1); that of ICMPv4 is computed here.
    pub(super) fn request(self, to: IpAddr) -> [u8; 16] {
        let mut message = [0u8; 16];
        message[0] = if to.is_ipv4() { REQUEST_V4 } else { REQUEST_V6 };
        message[4..6].copy_from_slice(&self.identifier.to_be_bytes());
        message[6..8].copy_from_slice(&self.sequence.to_be_bytes());
        message[8..].copy_from_slice(b"nett-vfy");
        if to.is_ipv4() {
            let sum = checksum(&message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        message
    }

    /// True when `packet`, as a raw socket delivers it, is the reply to this request. IPv4 raw
    /// sockets deliver the IP header as well.
    pub(super) fn is_answered_by(self, packet: &[u8], from: IpAddr) -> bool {
        let (message, reply) = if from.is_ipv4() {
            let header = packet.first().map_or(0, |b| usize::from(b & 0x0f) * 4);
            (packet.get(header..).unwrap_or_default(), REPLY_V4)
        } else {
            (packet, REPLY_V6)
        };
        let word = |at: usize| {
            message.get(at..at + 2).and_then(|b| b.try_into().ok()).map(u16::from_be_bytes)
        };
        message.first() == Some(&reply)
            && word(4) == Some(self.identifier)
            && word(6) == Some(self.sequence)
    }
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        [high] => u32::from(*high) << 8,
        _ => 0,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_a_valid_checksum() {
        let message =
            Echo { identifier: 7, sequence: 9 }.request("10.0.0.1".parse().expect("valid"));
        assert_eq!(checksum(&message), 0, "the sum over a message with its checksum is zero");
    }

    #[test]
    fn only_its_own_reply_answers_it() {
        let v4: IpAddr = "10.0.0.1".parse().expect("valid");
        let echo = Echo { identifier: 7, sequence: 9 };
        let mut reply = vec![0x45; 20];
        reply.extend(echo.request(v4));
        assert!(!echo.is_answered_by(&reply, v4), "a request is no reply");
        reply[20] = REPLY_V4;
        assert!(echo.is_answered_by(&reply, v4));
        assert!(!Echo { sequence: 8, ..echo }.is_answered_by(&reply, v4));
        assert!(!echo.is_answered_by(&reply[..22], v4), "cut short");
        assert!(!echo.is_answered_by(&[], v4));
    }
}
