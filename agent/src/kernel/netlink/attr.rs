//! Netlink messages as bytes: a builder and a borrowing reader of type-length-value attributes.
//!
//! Nett reads a handful of attributes of each message, so a message with attributes of a newer
//! kernel stays readable. What the builder never does: echo bytes of a dumped message.
//! Layout: linux/netlink.h (`nlmsghdr`, `nlattr`); all lengths are multiples of 4.

/// Bytes of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;
/// Bytes of `struct nlattr`.
const ATTRIBUTE: usize = 4;
/// `NLA_F_NESTED`.
pub(crate) const NESTED: u16 = 0x8000;
/// `NLA_TYPE_MASK`: without the flags for nested and network byte order.
const TYPE_MASK: u16 = 0x3fff;

/// A message under construction. Length and sequence number are set when it is sent.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    bytes: Vec<u8>,
}

/// The bytes are not a message or attribute of the expected form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("bytes of {0} are not of the expected form")]
pub(crate) struct Malformed(pub(crate) &'static str);

/// The attributes in a payload, in order.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attributes<'a>(&'a [u8]);

// === impl Message ===

impl Message {
    /// `family_header` is what follows `nlmsghdr`: `rtmsg`, `nhmsg`, `nfgenmsg` ...
    pub(crate) fn new(kind: u16, flags: u16, family_header: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(family_header);
        let mut message = Self { bytes };
        message.pad();
        message
    }

    /// Attributes without a message around them.
    pub(crate) fn fragment() -> Self {
        Self { bytes: Vec::new() }
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub(crate) fn add_flags(&mut self, flags: u16) {
        let old = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]);
        self.bytes[6..8].copy_from_slice(&(old | flags).to_ne_bytes());
    }

    /// The message as the kernel reads it.
    pub(crate) fn finish(&mut self, sequence: u32) -> &[u8] {
        let length = u32::try_from(self.bytes.len()).expect("messages are far below 4 GiB");
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        &self.bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn put(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(ATTRIBUTE + value.len())
            .expect("values are bounded well below the 64 KiB of an attribute");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    pub(crate) fn put_u8(&mut self, kind: u16, value: u8) {
        self.put(kind, &[value]);
    }

    pub(crate) fn put_u32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_ne_bytes());
    }

    /// Network byte order, as all numbers of nf_tables are.
    pub(crate) fn put_be32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    pub(crate) fn put_be64(&mut self, kind: u16, value: u64) {
        self.put(kind, &value.to_be_bytes());
    }

    /// With the final NUL.
    pub(crate) fn put_text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.put(kind, &bytes);
    }

    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.put(kind | NESTED, &[]);
        fill(self);
        let length = u16::try_from(self.bytes.len() - start)
            .expect("nested lists are split below the 64 KiB of an attribute");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// The payload after `nlmsghdr`.
    #[cfg(test)]
    pub(crate) fn payload(&self) -> &[u8] {
        &self.bytes[HEADER..]
    }

    fn pad(&mut self) {
        let length = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(length, 0);
    }
}

// === impl Attributes ===

impl<'a> Attributes<'a> {
    /// The attributes behind a family header of `header` bytes.
    pub(crate) fn after(payload: &'a [u8], header: usize) -> Result<Self, Malformed> {
        let rest = payload.get(header.next_multiple_of(4)..);
        rest.map(Self).ok_or(Malformed("a message header"))
    }

    pub(crate) fn of(value: &'a [u8]) -> Self {
        Self(value)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(u16, &'a [u8]), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let bytes = std::mem::take(&mut self.0);
        let bad = Some(Err(Malformed("an attribute")));
        let Some(header) = bytes.first_chunk::<4>() else {
            return bad;
        };
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & TYPE_MASK;
        let Some(value) = bytes.get(ATTRIBUTE..length) else {
            return bad;
        };
        self.0 = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(Ok((kind, value)))
    }
}

// === values ===

pub(crate) fn read_u8(value: &[u8]) -> Result<u8, Malformed> {
    value.first().copied().ok_or(Malformed("a u8"))
}

pub(crate) fn read_u32(value: &[u8]) -> Result<u32, Malformed> {
    let bytes = value.first_chunk().ok_or(Malformed("a u32"))?;
    Ok(u32::from_ne_bytes(*bytes))
}

pub(crate) fn read_u64(value: &[u8]) -> Result<u64, Malformed> {
    let bytes = value.first_chunk().ok_or(Malformed("a u64"))?;
    Ok(u64::from_ne_bytes(*bytes))
}

pub(crate) fn read_be32(value: &[u8]) -> Result<u32, Malformed> {
    let bytes = value.first_chunk().ok_or(Malformed("a be32"))?;
    Ok(u32::from_be_bytes(*bytes))
}

pub(crate) fn read_be64(value: &[u8]) -> Result<u64, Malformed> {
    let bytes = value.first_chunk().ok_or(Malformed("a be64"))?;
    Ok(u64::from_be_bytes(*bytes))
}

/// Up to the first NUL; bytes that are not UTF-8 are shown as replacement characters.
pub(crate) fn read_text(value: &[u8]) -> String {
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

pub(crate) fn read_address(value: &[u8]) -> Result<std::net::IpAddr, Malformed> {
    if let Ok(v4) = <[u8; 4]>::try_from(value) {
        return Ok(v4.into());
    }
    let v6 = <[u8; 16]>::try_from(value).map_err(|_| Malformed("an address"))?;
    Ok(v6.into())
}

/// The address in network byte order: 4 or 16 bytes.
pub(crate) fn address_bytes(address: std::net::IpAddr) -> Vec<u8> {
    match address {
        std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
        std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_built_reads_back_in_order() {
        let mut message = Message::new(7, 5, &[1, 2]);
        message.put_u8(1, 9);
        message.nest(2, |m| m.put_text(3, "nett"));
        let read: Vec<_> = Attributes::after(message.payload(), 2)
            .expect("header")
            .map(|a| a.expect("well formed"))
            .collect();
        assert_eq!(read[0], (1, &[9u8][..]));
        assert_eq!(read[1].0, 2);
        let inner: Vec<_> = Attributes::of(read[1].1).map(Result::unwrap).collect();
        assert_eq!(read_text(inner[0].1), "nett");
        assert_eq!(message.finish(3).len() % 4, 0);
    }

    #[test]
    fn lengths_beyond_the_payload_end_the_walk_with_an_error() {
        for bytes in [&[8u8, 0, 1, 0][..], &[3, 0, 1, 0], &[0, 0, 0, 0], &[1]] {
            let all: Vec<_> = Attributes::of(bytes).collect();
            assert_eq!(all.len(), 1, "{bytes:?}");
            assert!(all[0].is_err(), "{bytes:?}");
        }
    }
}
