//! Domain names in wire form, lower-cased for comparison, on the stack.
//!
//! Questions are looked up by the bytes of their name, so this is the only place that folds case
//! (RFC 4343: ASCII only) and the only place that reads labels. It never follows a compression
//! pointer: in the first name of a message nothing lies before it that a pointer could mean.

use nett_policy::id::ServiceId;

/// The longest name in wire form, with the root label (RFC 1035 section 2.3.4).
pub(crate) const MAX_NAME: usize = 255;
/// 127 labels of one byte each, and the root.
const MAX_LABELS: usize = 128;

/// Why bytes or text are not a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("the name ends before its root label")]
    Short,
    #[error("the name is longer than 255 bytes")]
    TooLong,
    #[error("a label is empty, longer than 63 bytes or not a plain label")]
    Label,
}

/// A whole name, lower-cased.
#[derive(Clone)]
pub(crate) struct LowerName {
    /// Wire form with the root label.
    bytes: [u8; MAX_NAME],
    len: usize,
    /// Where each label begins; the last one is the root.
    starts: [u8; MAX_LABELS],
    labels: usize,
}

/// The labels of a name below an apex, without the root.
#[derive(Clone, Copy)]
pub(crate) struct Relative<'a> {
    bytes: &'a [u8],
    labels: usize,
}

impl LowerName {
    fn new() -> Self {
        Self { bytes: [0; MAX_NAME], len: 0, starts: [0; MAX_LABELS], labels: 0 }
    }

    pub(crate) fn root() -> Self {
        Self { len: 1, labels: 1, ..Self::new() }
    }

    fn push(&mut self, label: &[u8]) -> Result<(), NameError> {
        let length = u8::try_from(label.len()).map_err(|_| NameError::Label)?;
        if length > 63 {
            return Err(NameError::Label);
        }
        let end = self.len + 1 + label.len();
        // A name that does not end here still needs its root label.
        let room = MAX_NAME - usize::from(length != 0);
        if end > room {
            return Err(NameError::TooLong);
        }
        self.starts[self.labels] = u8::try_from(self.len).expect("below 255, checked above");
        self.labels += 1;
        self.bytes[self.len] = length;
        let place = &mut self.bytes[self.len + 1..end];
        place.copy_from_slice(label);
        place.make_ascii_lowercase();
        self.len = end;
        Ok(())
    }

    /// Reads the name at the start of `wire`; also gives its length there.
    pub(crate) fn read(wire: &[u8]) -> Result<(Self, usize), NameError> {
        let mut name = Self::new();
        let mut at = 0;
        loop {
            let length = usize::from(*wire.get(at).ok_or(NameError::Short)?);
            if length > 63 {
                return Err(NameError::Label);
            }
            let label = wire.get(at + 1..at + 1 + length).ok_or(NameError::Short)?;
            name.push(label)?;
            at += 1 + length;
            if length == 0 {
                return Ok((name, at));
            }
        }
    }

    /// Reads `a.b.c` or `a.b.c.`; there are no escapes, because no name of ours needs one.
    pub(crate) fn parse(text: &str) -> Result<Self, NameError> {
        let mut name = Self::new();
        let text = text.strip_suffix('.').unwrap_or(text);
        if !text.is_empty() {
            for label in text.split('.') {
                if label.is_empty() {
                    return Err(NameError::Label);
                }
                name.push(label.as_bytes())?;
            }
        }
        name.push(b"")?;
        Ok(name)
    }

    pub(crate) fn wire(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The part of the name below `apex`, or `None` when it is not in that zone.
    pub(crate) fn below(&self, apex: &Self) -> Option<Relative<'_>> {
        let cut = self.len.checked_sub(apex.len)?;
        if self.bytes[cut..self.len] != *apex.wire() {
            return None;
        }
        let starts = &self.starts[..self.labels];
        let at = starts.iter().position(|s| usize::from(*s) == cut)?;
        Some(Relative { bytes: &self.bytes[..cut], labels: at })
    }
}

/// Appends `project/environment/instance` as the labels `instance.environment.project`, in wire
/// form without a root label: the key of the service. Ids are valid labels in lower case.
pub(crate) fn push_key(service: &ServiceId, key: &mut Vec<u8>) {
    for label in service.as_str().as_bytes().rsplit(|byte| *byte == b'/') {
        key.push(u8::try_from(label.len()).expect("a part of an id has at most 63 characters"));
        key.extend_from_slice(label);
    }
}

impl<'a> Relative<'a> {
    /// Labels in lower case whose form was checked, and how many they are.
    pub(crate) fn of_labels(bytes: &'a [u8], labels: usize) -> Self {
        Self { bytes, labels }
    }

    pub(crate) fn count(&self) -> usize {
        self.labels
    }

    /// The labels in wire form, without a root label: a key of the zone's tables.
    pub(crate) fn key(&self) -> &'a [u8] {
        self.bytes
    }

    /// The first label, without its length.
    pub(crate) fn first(&self) -> &'a [u8] {
        match self.bytes.split_first() {
            Some((length, rest)) => &rest[..usize::from(*length)],
            None => &[],
        }
    }

    /// Everything but the first label.
    pub(crate) fn parent(&self) -> Option<Self> {
        let length = usize::from(*self.bytes.first()?) + 1;
        Some(Self { bytes: &self.bytes[length..], labels: self.labels - 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> LowerName {
        LowerName::parse(text).expect(text)
    }

    #[test]
    fn case_is_folded_and_labels_are_found() {
        let (read, used) = LowerName::read(b"\x03ApI\x02No\x00rest").expect("a name");
        assert_eq!(used, 8);
        assert_eq!(read.wire(), name("api.no.").wire());
        let apex = name("no");
        let below = read.below(&apex).expect("in the zone");
        assert_eq!((below.count(), below.first()), (1, &b"api"[..]));
        assert_eq!(below.parent().expect("the apex").key(), b"");
    }

    #[test]
    fn a_zone_ends_at_a_label() {
        let apex = name("steer.example.");
        assert!(name("xsteer.example").below(&apex).is_none());
        assert!(name("example").below(&apex).is_none());
        assert_eq!(name("STEER.example").below(&apex).expect("apex").count(), 0);
        // The bytes of the apex inside one long label are not the apex.
        let inside = [b"\x0fa\x05steer\x07example".as_slice(), b"\0"].concat();
        let (inside, _) = LowerName::read(&inside).expect("one label of 15 bytes");
        assert!(inside.below(&apex).is_none());
    }

    #[test]
    fn lengths_have_limits() {
        let label = "a".repeat(63);
        assert!(LowerName::parse(&format!("{label}a")).is_err());
        let long = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        assert_eq!(name(&long).wire().len(), 255);
        assert_eq!(LowerName::parse(&format!("{long}a")).err(), Some(NameError::TooLong));
        let dots = "a.".repeat(127);
        assert_eq!(name(&dots).labels, 128);
        assert!(LowerName::parse(&format!("{dots}a.")).is_err());
        for bad in [&b"\xc0\x0c"[..], b"\x40a\0", b"\x80a\0"] {
            assert_eq!(LowerName::read(bad).err(), Some(NameError::Label));
        }
        for short in [&b""[..], b"\x01", b"\x01a", b"\x3fabc"] {
            assert_eq!(LowerName::read(short).err(), Some(NameError::Short));
        }
    }
}
