//! Policy rules: `struct fib_rule_hdr` and `FRA_*` of linux/fib_rules.h.
//!
//! Never a replace: the kernel does not know it for rules and adds duplicates instead.

use std::net::IpAddr;

use ipnet::IpNet;
use nett_policy::lower::object::{Rule, RuleAction, Table};

use super::attr::{
    Attributes, Malformed, Message, address_bytes, read_address, read_text, read_u8, read_u32,
};
use super::{family_number, family_of};

pub(crate) const RTM_NEWRULE: u16 = 32;
pub(crate) const RTM_DELRULE: u16 = 33;
const RTM_GETRULE: u16 = 34;

const HEADER: usize = 12;
const FRA_DST: u16 = 1;
const FRA_SRC: u16 = 2;
const FRA_IIFNAME: u16 = 3;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_PROTOCOL: u16 = 21;
/// `FRA_SUPPRESS_IFGROUP` and `FRA_SUPPRESS_PREFIXLEN` when they are not set.
const NOT_SET: u32 = u32::MAX;
const FRA_PAD: u16 = 18;
const FRA_SUPPRESS_IFGROUP: u16 = 13;
const FRA_L3MDEV: u16 = 19;
const FRA_IP_PROTO: u16 = 22;

const FR_ACT_TO_TBL: u8 = 1;
const FR_ACT_UNREACHABLE: u8 = 7;
const FIB_RULE_INVERT: u32 = 2;

/// A rule as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) priority: u32,
    pub(crate) protocol: u8,
    /// `None` for rules with selectors or actions that Nett never writes.
    pub(crate) rule: Option<Rule>,
}

/// The same bytes name the rule for adding (with EXCL) and for deleting.
pub(crate) fn message(kind: u16, flags: u16, protocol: u8, rule: &Rule) -> Message {
    let Rule { priority, family, iif, fwmark, from, to, action } = rule;
    let length = |net: &Option<IpNet>| net.map_or(0, |n| n.prefix_len());
    let code = match action {
        RuleAction::Lookup { .. } => FR_ACT_TO_TBL,
        RuleAction::Unreachable => FR_ACT_UNREACHABLE,
    };
    // family, dst_len, src_len, tos, table, res1, res2, action, flags
    let header = [family_number(*family), length(to), length(from), 0, 0, 0, 0, code, 0, 0, 0, 0];
    let mut message = Message::new(kind, flags, &header);
    message.put_u32(FRA_PRIORITY, *priority);
    message.put_u8(FRA_PROTOCOL, protocol);
    if let Some(net) = to {
        message.put(FRA_DST, &address_bytes(net.network()));
    }
    if let Some(net) = from {
        message.put(FRA_SRC, &address_bytes(net.network()));
    }
    if let Some(name) = iif {
        message.put_text(FRA_IIFNAME, name);
    }
    if let Some((value, mask)) = fwmark {
        message.put_u32(FRA_FWMARK, *value);
        message.put_u32(FRA_FWMASK, *mask);
    }
    if let RuleAction::Lookup { table, suppress_prefixlength } = action {
        message.put_u32(FRA_TABLE, table.0);
        if let Some(length) = suppress_prefixlength {
            message.put_u32(FRA_SUPPRESS_PREFIXLEN, *length);
        }
    }
    message
}

pub(crate) fn dump(family: nett_policy::fabric::Family) -> Message {
    let mut header = [0; HEADER];
    header[0] = family_number(family);
    Message::new(RTM_GETRULE, 0, &header)
}

#[derive(Default)]
struct Seen {
    priority: u32,
    protocol: u8,
    table: u32,
    to: Option<IpAddr>,
    from: Option<IpAddr>,
    iif: Option<String>,
    mark: u32,
    mask: Option<u32>,
    suppress: Option<u32>,
    other: bool,
}

impl Seen {
    fn take(&mut self, kind: u16, value: &[u8]) -> Result<(), Malformed> {
        match kind {
            FRA_DST => self.to = Some(read_address(value)?),
            FRA_SRC => self.from = Some(read_address(value)?),
            FRA_IIFNAME => self.iif = Some(read_text(value)),
            FRA_PRIORITY => self.priority = read_u32(value)?,
            FRA_FWMARK => self.mark = read_u32(value)?,
            FRA_FWMASK => self.mask = Some(read_u32(value)?),
            FRA_TABLE => self.table = read_u32(value)?,
            FRA_PROTOCOL => self.protocol = read_u8(value)?,
            FRA_SUPPRESS_PREFIXLEN => {
                self.suppress = Some(read_u32(value)?).filter(|length| *length != NOT_SET);
            }
            FRA_SUPPRESS_IFGROUP => self.other |= read_u32(value)? != NOT_SET,
            FRA_PAD => {}
            FRA_L3MDEV => self.other |= read_u8(value)? != 0,
            FRA_IP_PROTO => self.other |= read_u8(value)? != 0,
            _ => self.other = true,
        }
        Ok(())
    }
}

pub(crate) fn decode(kind: u16, payload: &[u8]) -> Result<Option<Row>, Malformed> {
    if kind != RTM_NEWRULE && kind != RTM_DELRULE {
        return Ok(None);
    }
    let header = payload.first_chunk::<HEADER>();
    let header = header.ok_or(Malformed("a rule header"))?;
    let [number, to_len, from_len, tos, table, _, _, code, f0, f1, f2, f3] = *header;
    let Some(family) = family_of(number) else {
        return Ok(None);
    };
    let mut seen = Seen { table: u32::from(table), ..Seen::default() };
    for attribute in Attributes::after(payload, HEADER)? {
        let (kind, value) = attribute?;
        seen.take(kind, value)?;
    }
    let net = |address: Option<IpAddr>, length: u8| match (address, length) {
        (None, 0) => Ok(None),
        (None, _) => Err(Malformed("a rule prefix")),
        (Some(a), _) => IpNet::new(a, length).map(Some).map_err(|_| Malformed("a rule prefix")),
    };
    let action = match code {
        FR_ACT_TO_TBL => Some(RuleAction::Lookup {
            table: Table(seen.table),
            suppress_prefixlength: seen.suppress,
        }),
        FR_ACT_UNREACHABLE => Some(RuleAction::Unreachable),
        _ => None,
    };
    let inverted = u32::from_ne_bytes([f0, f1, f2, f3]) & FIB_RULE_INVERT != 0;
    let (to, from) = (net(seen.to, to_len)?, net(seen.from, from_len)?);
    let plain = !seen.other && !inverted && tos == 0;
    let rule = action.filter(|_| plain).map(|action| Rule {
        priority: seen.priority,
        family,
        iif: seen.iif,
        fwmark: seen.mask.map(|mask| (seen.mark, mask)),
        from,
        to,
        action,
    });
    Ok(Some(Row { priority: seen.priority, protocol: seen.protocol, rule }))
}
