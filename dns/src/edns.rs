//! The OPT record: what a question may carry in it, and what an answer puts into its own.
//!
//! Reading follows RFC 6891: options nobody knows are passed over, an option cut short is an error
//! of the whole message. Writing adds an option only where the question asked for it, except for
//! the extended error (RFC 8914), which any question with EDNS may get. The whole record stays
//! below 180 bytes before padding, so that it fits beside the longest question in 512 bytes.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use ipnet::IpNet;

use crate::client::{CLIENT_SUBNET, read_subnet};
use crate::cookie::{CLIENT_COOKIE, COOKIE};
use crate::message::Malformed;

/// What this server can take, and the most it sends over UDP (DNS flag day 2020: no fragments).
pub(crate) const UDP_PAYLOAD: u16 = 1232;
/// The most bytes of a name server identifier.
pub const LONGEST_NSID: usize = 64;

const DNSSEC_OK: u16 = 0x8000;
/// Option codes of the IANA registry "DNS EDNS0 Option Codes".
const NSID: u16 = 3;
const KEEPALIVE: u16 = 11;
const PADDING: u16 = 12;
const EXTENDED_ERROR: u16 = 15;
/// Answers are padded to a multiple of this (RFC 8467 section 4.1).
const PADDED_BLOCK: usize = 468;

/// The OPT record of a question (RFC 6891).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Edns<'a> {
    pub(crate) version: u8,
    pub(crate) payload: u16,
    pub(crate) dnssec_ok: bool,
    /// The data of the client subnet option as it came, and what it means.
    pub(crate) subnet: Option<&'a [u8]>,
    pub(crate) network: Option<IpNet>,
    /// The data of the cookie option: a client cookie, and perhaps a server cookie (RFC 7873).
    pub(crate) cookie: Option<&'a [u8]>,
    pub(crate) wants_nsid: bool,
    pub(crate) wants_keepalive: bool,
    pub(crate) wants_padding: bool,
}

/// Why an answer is what it is, beyond its response code (RFC 8914).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ExtendedError {
    code: u16,
    /// At most 40 bytes, with the number.
    text: &'static str,
    /// Put behind the text.
    seconds: Option<u32>,
}

/// What the OPT record of an answer says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OptAnswer<'a> {
    pub(crate) rcode: ResponseCode,
    /// Scope of the client subnet option.
    pub(crate) scope: u8,
    /// Client and server cookie.
    pub(crate) cookie: Option<&'a [u8]>,
    pub(crate) nsid: Option<&'a [u8]>,
    /// How long an idle connection stays open, in units of 100 ms (RFC 7828).
    pub(crate) keepalive: Option<u16>,
    pub(crate) error: Option<ExtendedError>,
    /// Whether the transport hides everything but the length (RFC 7830).
    pub(crate) encrypted: bool,
}

// === impl ExtendedError ===

impl ExtendedError {
    pub(crate) const ALL_DOWN: Self = Self::of(0, "no site is in service");
    pub(crate) const NOT_READY: Self = Self::of(14, "signing");
    pub(crate) const PROHIBITED: Self = Self::of(18, "");
    pub(crate) const NOT_AUTHORITATIVE: Self = Self::of(20, "");

    const fn of(code: u16, text: &'static str) -> Self {
        Self { code, text, seconds: None }
    }

    /// The site has been cut off for so long.
    pub(crate) fn isolated(seconds: u32) -> Self {
        Self { seconds: Some(seconds), ..Self::of(3, "view=isolated age=") }
    }
}

// === impl Edns ===

impl<'a> Edns<'a> {
    /// Reads the fields of an OPT record: its class, TTL and data.
    pub(crate) fn read(payload: u16, ttl: [u8; 4], data: &'a [u8]) -> Result<Self, Malformed> {
        let [_, version, flags, _] = ttl;
        let mut edns = Self {
            version,
            payload,
            dnssec_ok: flags & 0x80 != 0,
            subnet: None,
            network: None,
            cookie: None,
            wants_nsid: false,
            wants_keepalive: false,
            wants_padding: false,
        };
        // Options of a version nobody knows have a form nobody knows.
        if version != 0 {
            return Ok(edns);
        }
        let mut rest = data;
        while !rest.is_empty() {
            let ([c0, c1, l0, l1], tail) = rest.split_first_chunk().ok_or(Malformed)?;
            let length = usize::from(u16::from_be_bytes([*l0, *l1]));
            let (data, tail) = tail.split_at_checked(length).ok_or(Malformed)?;
            rest = tail;
            edns.option(u16::from_be_bytes([*c0, *c1]), data)?;
        }
        Ok(edns)
    }

    fn option(&mut self, code: u16, data: &'a [u8]) -> Result<(), Malformed> {
        match code {
            CLIENT_SUBNET => {
                if self.subnet.is_some() {
                    return Err(Malformed);
                }
                self.network = read_subnet(data).map_err(|_| Malformed)?;
                self.subnet = Some(data);
            }
            // Of several cookies the first counts (RFC 7873 section 5.2).
            COOKIE => match data.len() {
                CLIENT_COOKIE | 16..=40 => self.cookie = self.cookie.or(Some(data)),
                _ => return Err(Malformed),
            },
            NSID => self.wants_nsid = true,
            KEEPALIVE => self.wants_keepalive = true,
            PADDING => self.wants_padding = true,
            _ => {}
        }
        Ok(())
    }

    /// Appends the OPT record of the answer to this question to `out`, a whole message but for it.
    pub(crate) fn write_answer(&self, answer: &OptAnswer<'_>, out: &mut Vec<u8>) {
        let OptAnswer { rcode, scope, cookie, nsid, keepalive, error, encrypted } = *answer;
        out.push(0);
        out.extend_from_slice(&u16::from(RecordType::OPT).to_be_bytes());
        out.extend_from_slice(&UDP_PAYLOAD.to_be_bytes());
        out.extend_from_slice(&[rcode.high(), 0]);
        let flags = if self.dnssec_ok { DNSSEC_OK } else { 0 };
        out.extend_from_slice(&flags.to_be_bytes());
        let at = out.len();
        out.extend_from_slice(&[0; 2]);
        if let Some(subnet) = self.subnet {
            write_option(out, CLIENT_SUBNET, &[subnet]);
            // Who does not want to be located gets a scope of 0.
            let scope_at = out.len() - subnet.len() + 3;
            out[scope_at] = if self.network.is_some() { scope } else { 0 };
        }
        if let Some(cookie) = cookie {
            write_option(out, COOKIE, &[cookie]);
        }
        if let Some(nsid) = nsid.filter(|_| self.wants_nsid) {
            write_option(out, NSID, &[nsid]);
        }
        if let Some(timeout) = keepalive.filter(|_| self.wants_keepalive) {
            write_option(out, KEEPALIVE, &[&timeout.to_be_bytes()]);
        }
        if let Some(ExtendedError { code, text, seconds }) = error {
            let mut digits = [0; DIGITS];
            let number = seconds.map(|n| decimal(n, &mut digits)).unwrap_or_default();
            write_option(out, EXTENDED_ERROR, &[&code.to_be_bytes(), text.as_bytes(), number]);
        }
        if encrypted && self.wants_padding {
            pad(out);
        }
        let length = u16::try_from(out.len() - at - 2).expect("options are short, padding ends");
        out[at..at + 2].copy_from_slice(&length.to_be_bytes());
    }
}

/// The digits of the largest number of 32 bits.
const DIGITS: usize = 10;

fn decimal(mut number: u32, digits: &mut [u8; DIGITS]) -> &[u8] {
    let mut at = DIGITS;
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(number % 10).expect("one digit");
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

fn write_option(out: &mut Vec<u8>, code: u16, data: &[&[u8]]) {
    let length: usize = data.iter().map(|part| part.len()).sum();
    let length = u16::try_from(length).expect("every option of ours is short");
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
    data.iter().for_each(|part| out.extend_from_slice(part));
}

/// Makes the message a multiple of the block long, or as long as a message can be.
fn pad(out: &mut Vec<u8>) {
    const HEAD: usize = 4;
    let padded = (out.len() + HEAD).next_multiple_of(PADDED_BLOCK).min(usize::from(u16::MAX));
    let Some(zeros) = padded.checked_sub(out.len() + HEAD) else { return };
    write_option(out, PADDING, &[&[0; PADDED_BLOCK][..zeros]]);
}
