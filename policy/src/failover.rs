//! Failover traffic: what crosses between sites because a service is away from home, and how it is
//! marked on its way over a link.
//!
//! A packet for a service is failover traffic when the site it leaves would, with the service at
//! home, not send it to that other site; so is what the other site answers. What crosses in any
//! case (a client at one site of a service that lives at another) is not, and neither is what
//! stays in a site.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::fabric::{Fabric, Link};
use crate::id::SiteId;
use crate::lower::object::{Guard, GuardElement, GuardSet};
use crate::service::{Mode, Service};
use crate::traffic::{Deliver, Spread, Traffic};

/// What failover traffic is marked with; at least one of the two is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FailoverMark {
    /// Differentiated services code point, 0 to 63 (RFC 2474 section 3).
    pub dscp: Option<u8>,
    /// Where the queueing discipline of the link puts it.
    pub class: Option<TcClass>,
}

/// A class of tc(8): major number in the upper 16 bits, minor in the lower, neither 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TcClass(u32);

/// The name of an interface, at most 15 bytes (IFNAMSIZ, linux/if.h), as a value that is copied.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WayOut([u8; 15]);

/// The code points that have names: RFC 2474 section 4.2.2, RFC 2597 section 6, RFC 3246
/// section 2.7, RFC 5865 section 2.1, RFC 8622 section 3.
const NAMES: [(&str, u8); 23] = [
    ("CS0", 0),
    ("LE", 1),
    ("CS1", 8),
    ("AF11", 10),
    ("AF12", 12),
    ("AF13", 14),
    ("CS2", 16),
    ("AF21", 18),
    ("AF22", 20),
    ("AF23", 22),
    ("CS3", 24),
    ("AF31", 26),
    ("AF32", 28),
    ("AF33", 30),
    ("CS4", 32),
    ("AF41", 34),
    ("AF42", 36),
    ("AF43", 38),
    ("CS5", 40),
    ("VA", 44),
    ("EF", 46),
    ("CS6", 48),
    ("CS7", 56),
];

/// The code point of this name, in capitals as the RFCs write it.
pub fn code_point(name: &str) -> Option<u8> {
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
}

/// What a link's failover traffic is marked with: as the link says, else as the fabric does.
pub fn mark_of(fabric: &Fabric, link: &Link) -> Option<FailoverMark> {
    link.failover.or(fabric.failover)
}

/// Where a service is while nothing moves it.
pub fn home(service: &Service) -> Traffic {
    Traffic::settled(match &service.mode {
        Mode::ActivePassive { primary, standby: _ } => Spread::one(primary.clone()),
        Mode::ActiveActive { active, readmit: _ } => {
            Spread::Nearest(active.iter().cloned().collect())
        }
    })
}

/// Whether what `from` sends to `to` for a service is failover traffic. A site that accepts and is
/// no home of the service gets connections that stay there, also when new ones go elsewhere.
pub fn is_failover(fabric: &Fabric, [home, now]: [&Traffic; 2], [from, to]: [&SiteId; 2]) -> bool {
    let sends = |traffic: &Traffic| match traffic.deliver(from, fabric) {
        Deliver::Remote(site) => site == *to,
        Deliver::Split(weights) => weights.has(to),
        Deliver::Local | Deliver::Drained => false,
    };
    let stays = now.accept.contains(to) && !home.accept.contains(to);
    from != to && !sends(home) && (sends(now) || stays)
}

// === impl FailoverMark ===

impl fmt::Display for FailoverMark {
    /// `dscp 10 class 1:20`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.dscp, self.class) {
            (Some(dscp), Some(class)) => write!(f, "dscp {dscp} class {class}"),
            (Some(dscp), None) => write!(f, "dscp {dscp}"),
            (None, Some(class)) => write!(f, "class {class}"),
            (None, None) => f.write_str("nothing"),
        }
    }
}

/// Not what [`FailoverMark`] prints, or not a class of tc(8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAMark;

impl FromStr for FailoverMark {
    type Err = NotAMark;

    fn from_str(text: &str) -> Result<Self, NotAMark> {
        let words: Vec<&str> = text.split(' ').collect();
        let code = |text: &str| text.parse::<u8>().ok().filter(|dscp| *dscp < 64).ok_or(NotAMark);
        match words[..] {
            ["dscp", dscp, "class", class] => {
                Ok(Self { dscp: Some(code(dscp)?), class: Some(class.parse()?) })
            }
            ["dscp", dscp] => Ok(Self { dscp: Some(code(dscp)?), class: None }),
            ["class", class] => Ok(Self { dscp: None, class: Some(class.parse()?) }),
            _ => Err(NotAMark),
        }
    }
}

// === impl TcClass ===

impl TcClass {
    /// As the kernel has it: `skb->priority`, which classful disciplines take for a class of
    /// theirs where its major number is their own.
    pub fn number(self) -> u32 {
        self.0
    }
}

impl FromStr for TcClass {
    type Err = NotAMark;

    /// `MAJOR:MINOR` in hexadecimal digits, as tc(8) writes it. The major number ffff belongs to
    /// the kernel (TC_H_ROOT, TC_H_INGRESS), the minor number 0 to the discipline itself.
    fn from_str(text: &str) -> Result<Self, NotAMark> {
        let number = |digits: &str| {
            let plain = digits.bytes().all(|b| b.is_ascii_hexdigit());
            u16::from_str_radix(digits, 16).ok().filter(|n| plain && *n > 0).ok_or(NotAMark)
        };
        let (major, minor) = text.split_once(':').ok_or(NotAMark)?;
        let (major, minor) = (number(major)?, number(minor)?);
        if major == u16::MAX {
            return Err(NotAMark);
        }
        Ok(Self(u32::from(major) << 16 | u32::from(minor)))
    }
}

impl fmt::Display for TcClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}:{:x}", self.0 >> 16, self.0 & 0xffff)
    }
}

// === impl WayOut ===

impl WayOut {
    /// Longer names cannot be; what is behind the 15th byte is left out.
    pub fn new(interface: &str) -> Self {
        let mut bytes = [0; 15];
        for (to, from) in bytes.iter_mut().zip(interface.bytes()) {
            *to = from;
        }
        Self(bytes)
    }

    /// Without the zeros behind it.
    pub fn name(&self) -> &[u8] {
        self.0.split(|byte| *byte == 0).next().unwrap_or_default()
    }
}

impl fmt::Display for WayOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.name()))
    }
}

impl fmt::Debug for WayOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

// === impl Guard ===

impl Guard {
    /// What a packet is marked with that leaves by an interface; as the chains of the table judge.
    pub fn failover_mark(&self, [from, to]: [IpAddr; 2], interface: &str) -> Option<FailoverMark> {
        let mark = self.failover.get(interface)?;
        let out = WayOut::new(interface);
        let ends = [(to, GuardSet::FailoverTo(out)), (from, GuardSet::FailoverFrom(out))];
        let found = ends.into_iter().any(|(address, set)| {
            let subject = self.subject(address);
            subject.is_some_and(|subject| self.refused.contains(&GuardElement { set, subject }))
        });
        found.then_some(*mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_two_numbers_as_tc_writes_them() {
        for (text, number) in [("1:20", 0x1_0020), ("fffe:ffff", 0xfffe_ffff), ("a:1", 0xa_0001)] {
            let class: TcClass = text.parse().expect("a class");
            assert_eq!((class.number(), class.to_string().as_str()), (number, text));
        }
        for text in
            ["", "1", "1:", ":20", "1:0", "0:1", "ffff:1", "1:20:3", "1:10000", "+1:2", "1:g"]
        {
            assert_eq!(text.parse::<TcClass>(), Err(NotAMark), "{text}");
        }
    }

    #[test]
    fn a_mark_reads_what_it_prints() {
        for text in ["dscp 10 class 1:20", "dscp 0", "dscp 63", "class 1:20"] {
            let mark: FailoverMark = text.parse().expect("a mark");
            assert_eq!(mark.to_string(), text);
        }
        for text in ["", "dscp 64", "dscp", "class 1", "class 1:20 dscp 10", "dscp 10 "] {
            assert_eq!(text.parse::<FailoverMark>(), Err(NotAMark), "{text}");
        }
    }

    #[test]
    fn names_of_code_points_are_those_of_the_rfcs() {
        let assured = (1..=4u8).flat_map(|class| (1..=3u8).map(move |drop| (class, drop)));
        for (class, drop) in assured {
            // RFC 2597 section 6: three bits of class, two of drop precedence.
            assert_eq!(code_point(&format!("AF{class}{drop}")), Some(8 * class + 2 * drop));
        }
        for class in 0..8u8 {
            assert_eq!(code_point(&format!("CS{class}")), Some(8 * class));
        }
        assert_eq!(
            (code_point("EF"), code_point("ef"), code_point("AF44")),
            (Some(46), None, None)
        );
    }
}
