//! nf_tables messages: `nfgenmsg` and the attributes of tables, sets, chains, rules and counters
//! (linux/netfilter/nf_tables.h). Numbers are in network byte order.

use super::super::Count;
use super::super::netlink::attr::{Attributes, NESTED};
use super::super::netlink::attr::{Malformed, Message};
use super::super::netlink::socket::{NLM_F_CREATE, NLM_F_EXCL};
use super::expr::{Expressions, OBJECT_COUNTER};
use super::program::{Chain, Element, Form, Key, Rule, Set, TABLE};

pub(super) const NFGENMSG: usize = 4;
const SUBSYSTEM: u16 = 10;
pub(super) const NFPROTO_INET: u8 = 1;

pub(super) const NEWTABLE: u16 = 0;
pub(super) const GETTABLE: u16 = 1;
const DELTABLE: u16 = 2;
const DELCHAIN: u16 = 5;
pub(super) const NEWCHAIN: u16 = 3;
pub(super) const GETCHAIN: u16 = 4;
pub(super) const NEWRULE: u16 = 6;
pub(super) const GETRULE: u16 = 7;
pub(super) const NEWSET: u16 = 9;
pub(super) const GETSET: u16 = 10;
pub(super) const NEWSETELEM: u16 = 12;
pub(super) const GETSETELEM: u16 = 13;
pub(super) const DELSETELEM: u16 = 14;
pub(super) const NEWGEN: u16 = 15;
pub(super) const GETGEN: u16 = 16;
pub(super) const NEWOBJ: u16 = 18;
pub(super) const GETOBJ: u16 = 19;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

/// `NFT_TABLE_F_OWNER`: other processes cannot change the table while our socket lives.
pub(super) const TABLE_OWNER: u32 = 2;
/// `NFT_TABLE_F_PERSIST`: the table stays when our socket closes (kernel 6.9).
pub(super) const TABLE_PERSIST: u32 = 4;
const SET_INTERVAL: u32 = 4;
const SET_MAP: u32 = 8;
/// `NFT_DATA_VERDICT`: the type of what such a map leads to.
const DATA_VERDICT: u32 = 0xffff_ff00;
/// `NFT_SET_OBJECT`
const SET_OBJECT: u32 = 0x40;
pub(super) const ELEMENT_END: u32 = 1;
const CHAIN_ACCEPT: u32 = 1;
/// `NFTNL_UDATA_*_COMMENT`: 0 for tables, rules and elements.
pub(super) const COMMENT: u8 = 0;
const KEY_BYTE_ORDER: u8 = 0;
const HOST_ORDER: u32 = 1;
const NETWORK_ORDER: u32 = 2;
/// Of several values behind each other, which may differ.
const NO_ORDER: u32 = 0;
/// Elements of one message stay below the 64 KiB of an attribute.
pub(super) const ELEMENT_BYTES: usize = 60_000;

/// The type number of an nf_tables message.
pub(super) fn kind(message: u16) -> u16 {
    SUBSYSTEM << 8 | message
}

/// `nfgenmsg.res_id`: the lower half of the generation of the ruleset that a message of a dump is
/// from; 0 for a message without one.
pub(super) fn generation(payload: &[u8]) -> u16 {
    let header = payload.first_chunk::<NFGENMSG>();
    header.map_or(0, |[_, _, high, low]| u16::from_be_bytes([*high, *low]))
}

pub(super) fn message(what: u16, flags: u16) -> Message {
    Message::new(kind(what), flags, &[NFPROTO_INET, 0, 0, 0])
}

/// A message about our table: attribute 1 names it in every kind but `NEWGEN`.
pub(super) fn about_table(what: u16, flags: u16) -> Message {
    about(TABLE, what, flags)
}

/// A message about a table of that name.
pub(super) fn about(table: &str, what: u16, flags: u16) -> Message {
    let mut message = message(what, flags);
    message.put_text(1, table);
    message
}

/// Puts the messages of one transaction between begin and end.
pub(super) fn batch(inner: Vec<Message>) -> Vec<Message> {
    let [high, low] = SUBSYSTEM.to_be_bytes();
    let edge = |kind| Message::new(kind, 0, &[0, 0, high, low]);
    let mut all = vec![edge(BATCH_BEGIN)];
    all.extend(inner);
    all.push(edge(BATCH_END));
    all
}

/// Type, length, value, as libnftnl writes userdata.
fn userdata(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u8::try_from(value.len()).expect("userdata is bounded where it is made");
    let mut bytes = vec![kind, length];
    bytes.extend_from_slice(value);
    bytes
}

fn comment(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.truncate(253);
    bytes.push(0);
    userdata(COMMENT, &bytes)
}

/// The comment in userdata, if it has one.
pub(super) fn read_comment(mut bytes: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = bytes {
        let value = rest.get(..usize::from(*length))?;
        if *kind == COMMENT {
            return Some(super::super::netlink::attr::read_text(value));
        }
        bytes = &rest[usize::from(*length)..];
    }
    None
}

// === what is written ===

pub(super) fn named_table(table: &str, text: &str, table_flags: u32, exclusive: bool) -> Message {
    let exclusive = if exclusive { NLM_F_EXCL } else { 0 };
    let mut message = about(table, NEWTABLE, NLM_F_CREATE | exclusive);
    message.put_be32(2, table_flags);
    message.put(6, &comment(text));
    message
}

pub(super) fn delete(table: &str) -> Message {
    about(table, DELTABLE, 0)
}

pub(super) fn delete_chain(table: &str, chain: &str) -> Message {
    let mut message = about(table, DELCHAIN, 0);
    message.put_text(3, chain);
    message
}

/// The byte order of a set's key, as userdata.
pub(super) fn key_order(order: u32) -> Vec<u8> {
    userdata(KEY_BYTE_ORDER, &order.to_ne_bytes())
}

impl Key {
    /// Type number of nft (datatype.h), length in bytes, byte order.
    pub(super) fn shape(self) -> (u32, u32, u32) {
        match self {
            Self::Interface => (41, 16, HOST_ORDER),
            Self::V4 => (7, 4, NETWORK_ORDER),
            Self::V6 => (8, 16, NETWORK_ORDER),
            Self::Number => (19, 4, HOST_ORDER),
            // The types of what is put together, each in 6 bits (CONCAT of nft's datatype.h).
            Self::NumberBy => (19 << 6 | 41, 20, NO_ORDER),
            Self::V4By => (7 << 6 | 41, 20, NO_ORDER),
            Self::V6By => (8 << 6 | 41, 32, NO_ORDER),
            Self::Passing => (41 << 6 | 41, 32, NO_ORDER),
        }
    }
}

impl Form {
    /// Flags of a set of this form.
    pub(super) fn flags(self) -> u32 {
        match self {
            Self::Plain | Self::Counted => 0,
            Self::Interval => SET_INTERVAL,
            Self::Counters => SET_OBJECT,
            Self::Chains => SET_MAP,
        }
    }
}

pub(super) fn new_set(table: &str, set: &Set, id: u32) -> Message {
    let (key_type, length, order) = set.key.shape();
    let mut message = about(table, NEWSET, NLM_F_CREATE | NLM_F_EXCL);
    message.put_text(2, set.name);
    message.put_be32(3, set.form.flags());
    message.put_be32(4, key_type);
    message.put_be32(5, length);
    if set.form == Form::Chains {
        message.put_be32(6, DATA_VERDICT);
    }
    message.put_be32(10, id);
    if set.form == Form::Counters {
        message.put_be32(15, OBJECT_COUNTER);
    }
    message.put(13, &key_order(order));
    if set.form == Form::Counted {
        // NFTA_SET_EXPR: each element gets a counter of its own.
        message.nest(17, |m| {
            m.put_text(1, "counter");
            m.nest(2, |m| {
                m.put_be64(1, 0);
                m.put_be64(2, 0);
            });
        });
    }
    message
}

fn element(m: &mut Message, element: &Element) {
    m.nest(1, |m| {
        m.nest(1, |m| m.put(1, &element.key));
        if element.end {
            m.put_be32(3, ELEMENT_END);
        }
        if let Some(counter) = &element.counter {
            m.put_text(9, counter);
        }
        if let Some(text) = &element.comment {
            m.put(6, &comment(text));
        }
    });
}

fn elements(
    (table, set): (&str, &str),
    what: u16,
    flags: u16,
    elements: &[Element],
) -> Vec<Message> {
    let mut messages = Vec::new();
    let mut rest = elements;
    while !rest.is_empty() {
        let mut list = Message::fragment();
        let mut taken = 0;
        while taken < rest.len() && list.len() < ELEMENT_BYTES {
            element(&mut list, &rest[taken]);
            taken += 1;
        }
        rest = &rest[taken..];
        let mut message = about(table, what, flags);
        message.put_text(2, set);
        message.put(3 | NESTED, &list.into_bytes());
        messages.push(message);
    }
    messages
}

/// Elements that are there already are no error.
pub(super) fn add_elements(table: &str, set: &str, list: &[Element]) -> Vec<Message> {
    elements((table, set), NEWSETELEM, NLM_F_CREATE, list)
}

pub(super) fn delete_elements(set: &str, list: &[Element]) -> Vec<Message> {
    elements((TABLE, set), DELSETELEM, 0, list)
}

pub(super) fn counter_of(table: &str, name: &str, start: Count) -> Message {
    let mut message = about(table, NEWOBJ, NLM_F_CREATE | NLM_F_EXCL);
    message.put_text(2, name);
    message.put_be32(3, OBJECT_COUNTER);
    message.nest(4, |m| {
        m.put_be64(1, start.bytes);
        m.put_be64(2, start.packets);
    });
    message
}

pub(super) fn new_chain(table: &str, chain: &Chain) -> Message {
    chain_of(table, &chain.name, chain.base)
}

pub(super) fn chain_of(table: &str, name: &str, base: Option<(u32, i32)>) -> Message {
    let mut message = about(table, NEWCHAIN, NLM_F_CREATE | NLM_F_EXCL);
    message.put_text(3, name);
    if let Some((hook, priority)) = base {
        message.nest(4, |m| {
            m.put_be32(1, hook);
            m.put_be32(2, priority.cast_unsigned());
        });
        message.put_be32(5, CHAIN_ACCEPT);
        message.put_text(7, "filter");
    }
    message
}

/// At the end of the chain (linux/netlink.h).
const NLM_F_APPEND: u16 = 0x800;

pub(super) fn new_rule(table: &str, chain: &str, rule: &Rule) -> Message {
    let mut message = about(table, NEWRULE, NLM_F_CREATE | NLM_F_APPEND);
    message.put_text(2, chain);
    message.put(4 | NESTED, &rule.expressions);
    message.put(7, &comment(&rule.comment));
    message
}

/// A rule without a comment.
pub(super) fn rule_of(table: &str, chain: &str, rule: Expressions) -> Message {
    let mut message = about(table, NEWRULE, NLM_F_CREATE | NLM_F_APPEND);
    message.put_text(2, chain);
    message.put(4 | NESTED, &rule.into_bytes());
    message
}

/// The elements of one set, for a dump.
pub(super) fn get_elements(set: &str) -> Message {
    elements_of(TABLE, set)
}

pub(super) fn elements_of(table: &str, set: &str) -> Message {
    let mut message = about(table, GETSETELEM, 0);
    message.put_text(2, set);
    message
}

// === what is read ===

/// The attributes of a message as a lookup by kind; later ones win.
pub(super) struct Fields<'a>(Vec<(u16, &'a [u8])>);

impl<'a> Fields<'a> {
    pub(super) fn of_message(payload: &'a [u8]) -> Result<Self, Malformed> {
        let attributes = Attributes::after(payload, NFGENMSG)?;
        Ok(Self(attributes.collect::<Result<_, _>>()?))
    }

    pub(super) fn of(value: &'a [u8]) -> Result<Self, Malformed> {
        Ok(Self(Attributes::of(value).collect::<Result<_, _>>()?))
    }

    pub(super) fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.0.iter().rev().find(|(k, _)| *k == kind).map(|(_, v)| *v)
    }

    pub(super) fn text(&self, kind: u16) -> Option<String> {
        self.get(kind).map(super::super::netlink::attr::read_text)
    }

    pub(super) fn be32(&self, kind: u16) -> Option<u32> {
        let value = self.get(kind)?;
        super::super::netlink::attr::read_be32(value).ok()
    }

    /// True when attribute 1 of a message names our table in family inet.
    pub(super) fn is_about_table(&self, payload: &[u8]) -> bool {
        self.is_about(TABLE, payload)
    }

    pub(super) fn is_about(&self, table: &str, payload: &[u8]) -> bool {
        payload.first() == Some(&NFPROTO_INET) && self.text(1).as_deref() == Some(table)
    }
}
