//! The few nf_tables expressions of the program, as bytes, in the form the kernel lists them in.
//!
//! All work on register 1. Marks are in host byte order, addresses in network byte order.
//! Constants: linux/netfilter/nf_tables.h.

use nett_policy::lower::object::Mac;

use super::super::netlink::attr::{Attributes, Malformed, Message, NESTED};

const LIST_ELEM: u16 = 1;
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
const REGISTER: u32 = 1;
const REGISTER_VERDICT: u32 = 0;
/// Bytes of an interface name as a key.
pub(super) const IFNAME: usize = 16;
pub(super) const OBJECT_COUNTER: u32 = 1;

/// The expressions of one rule, left to right.
pub(super) struct Expressions(Message);

#[derive(Debug, Clone, Copy)]
pub(super) enum Meta {
    Priority = 2,
    Mark = 3,
    InputName = 6,
    OutputName = 7,
    InputType = 8,
    NetworkFamily = 15,
    Transport = 16,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Ct {
    State = 0,
    Direction = 1,
    Mark = 3,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Compare {
    Equal = 0,
    NotEqual = 1,
    AtMost = 3,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Verdict<'a> {
    Drop,
    Accept,
    Return,
    Goto(&'a str),
    Jump(&'a str),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Reject {
    TcpReset,
    /// ICMP administratively prohibited, in the family of the packet.
    Prohibited,
    /// ICMP host unreachable, in the family of the packet.
    Unreachable,
}

/// The direction of a packet within its connection.
#[derive(Debug, Clone, Copy)]
pub(super) enum Direction {
    Original = 0,
    Reply = 1,
}

/// Which address of a packet.
#[derive(Debug, Clone, Copy)]
pub(super) enum Side {
    Source,
    Destination,
}

// === impl Expressions ===

impl Expressions {
    pub(super) fn new() -> Self {
        Self(Message::fragment())
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0.into_bytes()
    }

    fn push(mut self, name: &str, fill: impl FnOnce(&mut Message)) -> Self {
        self.0.nest(LIST_ELEM, |m| {
            m.put_text(EXPR_NAME, name);
            m.nest(EXPR_DATA, fill);
        });
        self
    }

    fn load_meta(self, key: Meta) -> Self {
        self.push("meta", |m| {
            m.put_be32(2, key as u32);
            m.put_be32(1, REGISTER);
        })
    }

    fn load_ct(self, key: Ct) -> Self {
        self.push("ct", |m| {
            m.put_be32(1, REGISTER);
            m.put_be32(2, key as u32);
        })
    }

    fn compare(self, how: Compare, value: &[u8]) -> Self {
        self.push("cmp", |m| {
            m.put_be32(1, REGISTER);
            m.put_be32(2, how as u32);
            m.nest(3, |m| m.put(DATA_VALUE, value));
        })
    }

    /// `register = register & mask ^ xor`.
    fn bitwise(self, mask: u32, xor: u32) -> Self {
        self.push("bitwise", |m| {
            m.put_be32(1, REGISTER);
            m.put_be32(2, REGISTER);
            m.put_be32(3, 4);
            m.nest(4, |m| m.put_u32(DATA_VALUE, mask));
            m.nest(5, |m| m.put_u32(DATA_VALUE, xor));
        })
    }

    fn lookup(self, set: &str, inverted: bool) -> Self {
        self.push("lookup", |m| {
            m.put_text(1, set);
            m.put_be32(2, REGISTER);
            m.put_be32(5, u32::from(inverted));
        })
    }

    /// `iifname NAME`
    pub(super) fn interface_is(self, name: &str) -> Self {
        self.load_meta(Meta::InputName).compare(Compare::Equal, &interface_key(name.as_bytes()))
    }

    /// `ether saddr MAC`: only on interfaces with Ethernet headers.
    pub(super) fn sent_by(self, mac: Mac) -> Self {
        const ETHERNET: u16 = 1;
        self.load_meta(Meta::InputType)
            .compare(Compare::Equal, &ETHERNET.to_ne_bytes())
            .push("payload", |m| {
                m.put_be32(1, REGISTER);
                m.put_be32(2, 0);
                m.put_be32(3, 6);
                m.put_be32(4, 6);
            })
            .compare(Compare::Equal, &mac.0)
    }

    /// `iifname @SET`, `oifname != @SET`
    pub(super) fn interface_in(self, key: Meta, set: &str, inverted: bool) -> Self {
        self.load_meta(key).lookup(set, inverted)
    }

    /// `ct direction ...`
    pub(super) fn direction(self, direction: Direction) -> Self {
        self.load_ct(Ct::Direction).compare(Compare::Equal, &[direction as u8])
    }

    /// `ct mark & MASK == VALUE` or `!=`
    pub(super) fn ct_mark(self, mask: u32, how: Compare, value: u32) -> Self {
        self.load_ct(Ct::Mark).bitwise(mask, 0).compare(how, &value.to_ne_bytes())
    }

    /// `oifname NAME`
    pub(super) fn leaves_by(self, name: &str) -> Self {
        self.load_meta(Meta::OutputName).compare(Compare::Equal, &interface_key(name.as_bytes()))
    }

    /// `meta l4proto != tcp ct state & (established | related) == 0`: not answered yet, nor an
    /// error about something. Of TCP the segments say it themselves.
    pub(super) fn unanswered_datagram(self) -> Self {
        // NF_CT_STATE_BIT of IP_CT_ESTABLISHED and IP_CT_RELATED,
        // linux/netfilter/nf_conntrack_common.h.
        const KNOWN: u32 = 2 | 4;
        self.load_meta(Meta::Transport)
            .compare(Compare::NotEqual, &[6])
            .load_ct(Ct::State)
            .bitwise(KNOWN, 0)
            .compare(Compare::Equal, &0u32.to_ne_bytes())
    }

    /// `meta mark & MASK == VALUE` or `!=`
    pub(super) fn meta_mark(self, mask: u32, how: Compare, value: u32) -> Self {
        self.load_meta(Meta::Mark).bitwise(mask, 0).compare(how, &value.to_ne_bytes())
    }

    /// `meta mark set meta mark & ~MASK | VALUE`: only our bits are written.
    pub(super) fn set_meta_mark(self, mask: u32, value: u32) -> Self {
        self.load_meta(Meta::Mark).bitwise(!mask, value).push("meta", |m| {
            m.put_be32(2, Meta::Mark as u32);
            m.put_be32(3, REGISTER);
        })
    }

    /// `ct mark set ct mark & ~MASK | VALUE`: only our bits are written.
    pub(super) fn set_ct_mark(self, mask: u32, value: u32) -> Self {
        self.load_ct(Ct::Mark).bitwise(!mask, value).push("ct", |m| {
            m.put_be32(2, Ct::Mark as u32);
            m.put_be32(4, REGISTER);
        })
    }

    /// `ip daddr @SET` or `ip6 daddr @SET`
    pub(super) fn destination_in(self, six: bool, set: &str) -> Self {
        let (family, offset, length) = if six { (10u8, 24, 16) } else { (2, 16, 4) };
        self.load_meta(Meta::NetworkFamily)
            .compare(Compare::Equal, &[family])
            .push("payload", |m| {
                m.put_be32(1, REGISTER);
                m.put_be32(2, 1);
                m.put_be32(3, offset);
                m.put_be32(4, length);
            })
            .lookup(set, false)
    }

    /// `ip saddr`, `ip6 daddr` and so on, for a lookup.
    pub(super) fn address(self, side: Side, six: bool) -> Self {
        let (family, offset, length) = match (six, side) {
            (false, Side::Source) => (2u8, 12, 4),
            (false, Side::Destination) => (2, 16, 4),
            (true, Side::Source) => (10, 8, 16),
            (true, Side::Destination) => (10, 24, 16),
        };
        let packet = self.load_meta(Meta::NetworkFamily).compare(Compare::Equal, &[family]);
        packet.payload(1, offset, length)
    }

    /// What was loaded last is in the set.
    pub(super) fn in_set(self, set: &str) -> Self {
        self.lookup(set, false)
    }

    /// What was loaded last is not in the set.
    pub(super) fn not_in_set(self, set: &str) -> Self {
        self.lookup(set, true)
    }

    /// `oifname != ""`: the packet has a way out, which none has in prerouting.
    pub(super) fn leaves(self) -> Self {
        self.load_meta(Meta::OutputName).compare(Compare::NotEqual, &interface_key(b""))
    }

    /// The verdict that a map has for what was loaded last, if it has one.
    pub(super) fn verdict_of(self, map: &str) -> Self {
        self.push("lookup", |m| {
            m.put_text(1, map);
            m.put_be32(2, REGISTER);
            m.put_be32(3, REGISTER_VERDICT);
        })
    }

    /// `... . oifname @SET`: what was loaded last, of so many bytes, and the way out behind it.
    pub(super) fn leaving_in(self, bytes: usize, set: &str) -> Self {
        self.with_interface(Meta::OutputName, bytes).lookup(set, false)
    }

    /// `... . iifname @SET`, as [`Self::leaving_in`].
    pub(super) fn arriving_in(self, bytes: usize, set: &str) -> Self {
        self.with_interface(Meta::InputName, bytes).lookup(set, false)
    }

    /// `iifname . oifname != @SET`
    pub(super) fn passing_not_in(self, set: &str) -> Self {
        let came = self.load_meta(Meta::InputName);
        came.with_interface(Meta::OutputName, IFNAME).lookup(set, true)
    }

    fn with_interface(self, key: Meta, bytes: usize) -> Self {
        // NFT_REG_2, or NFT_REG32_01 behind a first one of 4 bytes.
        let behind = if bytes == 16 { 2 } else { 9 };
        self.push("meta", |m| {
            m.put_be32(2, key as u32);
            m.put_be32(1, behind);
        })
    }

    /// `ip ttl <= HOPS` or `ip6 hoplimit <= HOPS` (RFC 791 section 3.1, RFC 8200 section 3).
    pub(super) fn hops_at_most(self, six: bool, hops: u8) -> Self {
        let (family, offset) = if six { (10u8, 7) } else { (2, 8) };
        let packet = self.load_meta(Meta::NetworkFamily).compare(Compare::Equal, &[family]);
        packet.payload(1, offset, 1).compare(Compare::AtMost, &[hops])
    }

    /// `ip ttl set HOPS` or `ip6 hoplimit set HOPS`.
    pub(super) fn set_hops(self, six: bool, hops: u8) -> Self {
        let family = if six { 10u8 } else { 2 };
        let packet = self.load_meta(Meta::NetworkFamily).compare(Compare::Equal, &[family]);
        if six {
            let value = packet.push("immediate", |m| {
                m.put_be32(1, REGISTER);
                m.nest(2, |m| m.put(DATA_VALUE, &[hops]));
            });
            return value.write_payload(7, 1, false);
        }
        // The checksum is of words, so the protocol behind it is written back.
        let word = packet.payload(1, 8, 2).push("bitwise", |m| {
            m.put_be32(1, REGISTER);
            m.put_be32(2, REGISTER);
            m.put_be32(3, 2);
            m.nest(4, |m| m.put(DATA_VALUE, &[0, 0xff]));
            m.nest(5, |m| m.put(DATA_VALUE, &[hops, 0]));
        });
        word.write_payload(8, 2, true)
    }

    /// Writes the register to the network header; that of IPv4 has a checksum at its tenth byte:
    /// NFT_PAYLOAD_CSUM_INET.
    fn write_payload(self, offset: u32, length: u32, checksum: bool) -> Self {
        self.push("payload", |m| {
            m.put_be32(5, REGISTER);
            m.put_be32(2, 1);
            m.put_be32(3, offset);
            m.put_be32(4, length);
            m.put_be32(6, u32::from(checksum));
            m.put_be32(7, if checksum { 10 } else { 0 });
        })
    }

    /// `ip dscp set CODE` or `ip6 dscp set CODE`: the other bits stay (RFC 2474 section 3, RFC 8200
    /// section 3).
    pub(super) fn set_dscp(self, six: bool, code: u8) -> Self {
        let (family, keep, value) = match six {
            false => (2u8, [0xff, 0x03], [0, code << 2]),
            true => (10, [0xf0, 0x3f], [code >> 2, code << 6]),
        };
        let packet = self.load_meta(Meta::NetworkFamily).compare(Compare::Equal, &[family]);
        let field = packet.payload(1, 0, 2).push("bitwise", |m| {
            m.put_be32(1, REGISTER);
            m.put_be32(2, REGISTER);
            m.put_be32(3, 2);
            m.nest(4, |m| m.put(DATA_VALUE, &keep));
            m.nest(5, |m| m.put(DATA_VALUE, &value));
        });
        field.write_payload(0, 2, !six)
    }

    /// `meta priority set CLASS`
    pub(super) fn set_priority(self, class: u32) -> Self {
        let value = self.push("immediate", |m| {
            m.put_be32(1, REGISTER);
            m.nest(2, |m| m.put(DATA_VALUE, &class.to_ne_bytes()));
        });
        value.push("meta", |m| {
            m.put_be32(2, Meta::Priority as u32);
            m.put_be32(3, REGISTER);
        })
    }

    /// `meta mark & 0 ^ VALUE`: a constant for a lookup, whatever the mark is.
    pub(super) fn constant(self, value: u32) -> Self {
        self.load_meta(Meta::Mark).bitwise(0, value)
    }

    /// `tcp flags & rst == rst`
    pub(super) fn resets(self) -> Self {
        const RST: u8 = 0x04;
        let flags = self.tcp().payload(2, 13, 1);
        let masked = flags.push("bitwise", |m| {
            m.put_be32(1, REGISTER);
            m.put_be32(2, REGISTER);
            m.put_be32(3, 1);
            m.nest(4, |m| m.put(DATA_VALUE, &[RST]));
            m.nest(5, |m| m.put(DATA_VALUE, &[0]));
        });
        masked.compare(Compare::Equal, &[RST])
    }

    /// `icmp type KIND` or `icmpv6 type KIND`
    pub(super) fn icmp(self, six: bool, kind: u8) -> Self {
        let (family, protocol) = if six { (10u8, 58u8) } else { (2, 1) };
        let packet = self.load_meta(Meta::NetworkFamily).compare(Compare::Equal, &[family]);
        let packet = packet.load_meta(Meta::Transport).compare(Compare::Equal, &[protocol]);
        packet.payload(2, 0, 1).compare(Compare::Equal, &[kind])
    }

    /// Bytes behind the network header (base 1) or the transport header (base 2).
    fn payload(self, base: u32, offset: u32, length: u32) -> Self {
        self.push("payload", |m| {
            m.put_be32(1, REGISTER);
            m.put_be32(2, base);
            m.put_be32(3, offset);
            m.put_be32(4, length);
        })
    }

    /// `meta l4proto tcp`
    pub(super) fn tcp(self) -> Self {
        self.load_meta(Meta::Transport).compare(Compare::Equal, &[6])
    }

    /// `tcp flags & (fin | syn | rst | ack) == syn`: asks for a new connection (RFC 9293 section
    /// 3.10.7.2).
    pub(super) fn opens_connection(self) -> Self {
        const FIN_SYN_RST_ACK: u8 = 0x17;
        const SYN: u8 = 0x02;
        self.tcp()
            .push("payload", |m| {
                m.put_be32(1, REGISTER);
                m.put_be32(2, 2);
                m.put_be32(3, 13);
                m.put_be32(4, 1);
            })
            .push("bitwise", |m| {
                m.put_be32(1, REGISTER);
                m.put_be32(2, REGISTER);
                m.put_be32(3, 1);
                m.nest(4, |m| m.put(DATA_VALUE, &[FIN_SYN_RST_ACK]));
                m.nest(5, |m| m.put(DATA_VALUE, &[0]));
            })
            .compare(Compare::Equal, &[SYN])
    }

    /// `tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu`: segments of a connection
    /// that is being opened fit the way out; a smaller size stays as it is.
    pub(super) fn clamp_segments(self) -> Self {
        const SYN_RST: u8 = 0x06;
        const SYN: u8 = 0x02;
        const RT_TCPMSS: u32 = 3;
        const TO_NETWORK_ORDER: u32 = 1;
        const TCP_OPTION: u32 = 1;
        const MAXSEG: u8 = 2;
        self.tcp()
            .push("payload", |m| {
                m.put_be32(1, REGISTER);
                m.put_be32(2, 2);
                m.put_be32(3, 13);
                m.put_be32(4, 1);
            })
            .push("bitwise", |m| {
                m.put_be32(1, REGISTER);
                m.put_be32(2, REGISTER);
                m.put_be32(3, 1);
                m.nest(4, |m| m.put(DATA_VALUE, &[SYN_RST]));
                m.nest(5, |m| m.put(DATA_VALUE, &[0]));
            })
            .compare(Compare::Equal, &[SYN])
            .push("rt", |m| {
                m.put_be32(1, REGISTER);
                m.put_be32(2, RT_TCPMSS);
            })
            .push("byteorder", |m| {
                m.put_be32(1, REGISTER);
                m.put_be32(2, REGISTER);
                m.put_be32(3, TO_NETWORK_ORDER);
                m.put_be32(4, 2);
                m.put_be32(5, 2);
            })
            .push("exthdr", |m| {
                m.put_u8(2, MAXSEG);
                m.put_be32(3, 2);
                m.put_be32(4, 2);
                m.put_be32(6, TCP_OPTION);
                m.put_be32(7, REGISTER);
            })
    }

    /// `counter name NAME`
    pub(super) fn count(self, name: &str) -> Self {
        self.push("objref", |m| {
            m.put_be32(1, OBJECT_COUNTER);
            m.put_text(2, name);
        })
    }

    /// `counter name iifname map @MAP` or `oifname`: ends the rule where the map has no counter.
    pub(super) fn count_by(self, key: Meta, map: &str) -> Self {
        self.load_meta(key).push("objref", |m| {
            m.put_be32(3, REGISTER);
            m.put_text(4, map);
        })
    }

    pub(super) fn reject(self, with: Reject) -> Self {
        self.push("reject", |m| match with {
            Reject::TcpReset => m.put_be32(1, 1),
            Reject::Prohibited => {
                m.put_be32(1, 2);
                m.put_u8(2, 3);
            }
            Reject::Unreachable => {
                m.put_be32(1, 2);
                m.put_u8(2, 2);
            }
        })
    }

    pub(super) fn verdict(self, verdict: Verdict<'_>) -> Self {
        let (code, chain): (i32, _) = match verdict {
            Verdict::Drop => (0, None),
            Verdict::Accept => (1, None),
            Verdict::Jump(chain) => (-3, Some(chain)),
            Verdict::Goto(chain) => (-4, Some(chain)),
            Verdict::Return => (-5, None),
        };
        self.push("immediate", |m| {
            m.put_be32(1, REGISTER_VERDICT);
            m.nest(2, |m| {
                m.nest(DATA_VERDICT, |m| {
                    m.put_be32(VERDICT_CODE, code.cast_unsigned());
                    if let Some(chain) = chain {
                        m.put_text(VERDICT_CHAIN, chain);
                    }
                });
            });
        })
    }
}

/// An interface name as nf_tables compares it: 16 bytes, filled with zeros.
pub(super) fn interface_key(name: &[u8]) -> [u8; IFNAME] {
    let mut key = [0; IFNAME];
    let length = name.len().min(IFNAME - 1);
    key[..length].copy_from_slice(&name[..length]);
    key
}

/// True when the kernel's expressions are the expected ones, one by one and in order. The kernel
/// may list more attributes of an expression than were sent.
pub(super) fn same_expressions(actual: &[u8], expected: &[u8]) -> bool {
    let all = |bytes| Attributes::of(bytes).collect::<Result<Vec<_>, Malformed>>();
    match (all(actual), all(expected)) {
        (Ok(actual), Ok(expected)) => {
            actual.len() == expected.len()
                && actual.iter().zip(&expected).all(|(a, e)| covers(a.1, e.1))
        }
        _ => false,
    }
}

/// True when every attribute of `expected` is in `actual` with the same value.
fn covers(actual: &[u8], expected: &[u8]) -> bool {
    let mut rest = expected;
    while let Some(header) = rest.first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let raw = u16::from_ne_bytes([header[2], header[3]]);
        let value = &rest[4..length];
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        let found =
            Attributes::of(actual).filter_map(Result::ok).find(|(kind, _)| *kind == raw & !NESTED);
        let same = match found {
            Some((_, found)) if raw & NESTED != 0 => covers(found, value),
            Some((_, found)) => found == value,
            None => false,
        };
        if !same {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_value_or_order_is_another_rule_and_a_new_attribute_is_not() {
        let rule = |set| Expressions::new().destination_in(false, set).tcp().into_bytes();
        assert!(same_expressions(&rule("a"), &rule("a")));
        assert!(!same_expressions(&rule("b"), &rule("a")));
        let short = Expressions::new().tcp().into_bytes();
        assert!(!same_expressions(&short, &rule("a")));
        let more = Expressions(Message::fragment()).push("lookup", |m| {
            m.put_text(1, "a");
            m.put_be32(2, 1);
            m.put_be32(5, 0);
            m.put_be32(9, 7);
        });
        let plain = Expressions::new().lookup("a", false).into_bytes();
        assert!(same_expressions(&more.into_bytes(), &plain));
    }
}
