//! JSON as it is accepted from outside: one reading only, bounded in size and depth.
//!
//! Two readers of the same signed bytes must see the same message. So repeated names in an object,
//! fractions and integers beyond 2^53-1 (which RFC 8785 would round) are refused here, before
//! anything is verified or interpreted.

use std::cell::Cell;
use std::fmt;

use nett_policy::id::WallMs;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::{OpenError, WireError};

/// The largest message accepted and made, in bytes, apart from entries of a log.
pub const MAX_BYTES: usize = 256 * 1024;

/// The largest entry of a log, in bytes; the servers' `max_payload` is the same. What moves a
/// hundred thousand services names each of them.
pub const MAX_ENTRY_BYTES: usize = 4 * 1024 * 1024;

/// The deepest nesting of objects and lists. The deepest that Nett writes itself is 8.
const MAX_DEPTH: u8 = 16;

/// The most values in a message, so that it takes up a few megabytes at most when it is read: an
/// object of one number is eight bytes long and takes up some hundred.
const MAX_VALUES: usize = 16 * 1024;

/// The same for an entry of a log, which an agent has signed.
const MAX_ENTRY_VALUES: usize = 1024 * 1024;

/// RFC 8785 section 3.2.2.3 writes numbers as IEEE 754 doubles, exact up to here.
const MAX_EXACT: u64 = (1 << 53) - 1;

/// Parses one JSON object.
pub(super) fn parse(bytes: &[u8]) -> Result<Map<String, Value>, OpenError> {
    parse_within(bytes, MAX_BYTES)
}

/// As [`parse`], with another limit.
pub(super) fn parse_within(bytes: &[u8], limit: usize) -> Result<Map<String, Value>, OpenError> {
    if bytes.len() > limit {
        return Err(OpenError::TooLarge { size: bytes.len(), limit });
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let left = Cell::new(if limit <= MAX_BYTES { MAX_VALUES } else { MAX_ENTRY_VALUES });
    let value = Strict { depth: MAX_DEPTH, left: &left }
        .deserialize(&mut reader)
        .map_err(OpenError::Json)?;
    reader.end().map_err(OpenError::Json)?;
    match value {
        Value::Object(map) => Ok(map),
        _ => Err(OpenError::Json(serde_json::Error::custom("an object is expected"))),
    }
}

/// Reads a document from an already checked value.
pub(super) fn read<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, OpenError> {
    serde_json::from_value(value).map_err(OpenError::Json)
}

/// The canonical form of RFC 8785.
pub(super) fn canonical(map: &Map<String, Value>) -> Result<Vec<u8>, WireError> {
    serde_json_canonicalizer::to_vec(map).map_err(WireError::Encode)
}

/// A document as an object, ready to be signed.
pub(super) fn object<T: serde::Serialize>(document: &T) -> Result<Map<String, Value>, WireError> {
    match serde_json::to_value(document).map_err(WireError::Encode)? {
        Value::Object(map) => Ok(map),
        _ => unreachable!("every envelope is a struct"),
    }
}

/// RFC 3339 in UTC with milliseconds: `2026-11-21T09:30:00.000Z`.
pub(super) fn write_time(field: &'static str, at: WallMs) -> Result<String, WireError> {
    let out_of_range = || WireError::Time { field, ms: at.0 };
    let ms = i64::try_from(at.0).map_err(|_| out_of_range())?;
    let time = jiff::Timestamp::from_millisecond(ms).map_err(|_| out_of_range())?;
    Ok(format!("{time:.3}"))
}

/// The one accepted spelling of each instant, so that signed bytes and meaning agree.
pub(super) fn read_time(field: &'static str, text: &str) -> Result<WallMs, OpenError> {
    let bad = || OpenError::Value {
        field,
        value: text.to_owned(),
        expected: "a time in UTC with milliseconds, like 2026-11-21T09:30:00.000Z",
    };
    let time: jiff::Timestamp = text.parse().map_err(|_| bad())?;
    let at = WallMs(u64::try_from(time.as_millisecond()).map_err(|_| bad())?);
    match write_time(field, at) {
        Ok(spelled) if spelled == text => Ok(at),
        _ => Err(bad()),
    }
}

/// A value in which no name repeats, no number is inexact and nothing is nested too deep.
#[derive(Clone, Copy)]
struct Strict<'a> {
    depth: u8,
    /// How many values there may be yet.
    left: &'a Cell<usize>,
}

impl Strict<'_> {
    fn inner<E: Error>(self) -> Result<Self, E> {
        let depth = self.depth.checked_sub(1);
        let deep = || E::custom(format_args!("nested deeper than {MAX_DEPTH} levels"));
        Ok(Self { depth: depth.ok_or_else(deep)?, left: self.left })
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let left = self.left.get().checked_sub(1);
        self.left.set(left.ok_or_else(|| D::Error::custom("too many values in one message"))?);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without fractions or repeated names")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        if value > MAX_EXACT {
            return Err(E::custom(format_args!("{value} is larger than 2^53-1")));
        }
        Ok(Value::from(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut list = Vec::new();
        while let Some(value) = seq.next_element_seed(inner)? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut object = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            if object.contains_key(&name) {
                return Err(A::Error::custom(format_args!("`{name}` is there twice")));
            }
            let value = map.next_value_seed(inner)?;
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_short_to_write_and_long_to_hold_is_refused() {
        let many = |count: usize| format!("{{\"a\":[{}1]}}", "1,".repeat(count));
        assert!(parse(many(MAX_VALUES - 3).as_bytes()).is_ok());
        let refused = parse(many(MAX_VALUES).as_bytes()).expect_err("too many").message();
        assert!(refused.contains("too many values"), "{refused}");
        assert!(parse_within(many(MAX_VALUES).as_bytes(), MAX_ENTRY_BYTES).is_ok());
    }
}
