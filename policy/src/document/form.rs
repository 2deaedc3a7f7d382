//! The forms of single values: text in, value or flaw out.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use super::code::Code;
use crate::fact::Gate;
use crate::id::{IdError, Selector, SiteId};

/// Why a text does not have its form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flaw {
    pub code: Code,
    pub message: String,
    pub hint: Option<String>,
    /// The text may be a secret: it is not shown.
    pub secret: bool,
}

impl Flaw {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, secret: false }
    }

    /// Keeps the text itself out of the diagnostic, which may be pasted anywhere.
    #[must_use]
    pub fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// An id with one way in.
pub fn id<T: FromStr<Err = IdError>>(text: &str) -> Result<T, Flaw> {
    text.parse().map_err(|error: IdError| Flaw::new(Code::BadId, error.to_string()))
}

/// A plain name with the form of a site id: names of fabrics, regions, ports.
pub fn name(text: &str) -> Result<String, Flaw> {
    id::<SiteId>(text).map(|_| text.to_owned())
}

/// A person's name: letters, digits and `._@-`, 1 to 63 of them.
pub fn person(text: &str) -> Result<String, Flaw> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._@-".contains(c);
    if text.is_empty() || text.len() > 63 || !text.chars().all(allowed) {
        let message = format!("`{text}` is not a name");
        let hint = "1 to 63 letters, digits, `.`, `_`, `@` or `-`";
        return Err(Flaw::new(Code::BadId, message).hint(hint));
    }
    Ok(text.to_owned())
}

/// Free text that is shown to people and compared: not empty, one line, at most 255 bytes.
pub fn words(text: &str) -> Result<String, Flaw> {
    if text.trim().is_empty() || text.len() > 255 || text.contains(char::is_control) {
        let message = "expected 1 to 255 bytes of text on one line";
        return Err(Flaw::new(Code::BadValue, message));
    }
    Ok(text.to_owned())
}

pub fn selector(text: &str) -> Result<Selector, Flaw> {
    text.parse().map_err(|error: IdError| {
        Flaw::new(Code::BadSelector, error.to_string())
            .hint("write a service id, or whole parts and a star: `shop/*`, `shop/prod/*`, `*`")
    })
}

/// A prefix whose host bits are zero.
pub fn cidr(text: &str) -> Result<IpNet, Flaw> {
    let net = interface_address(text)?;
    if net.trunc() != net {
        let message = format!("`{text}` has bits set behind its prefix length");
        let hint = format!("did you mean `{}`?", net.trunc());
        return Err(Flaw::new(Code::CidrHostBits, message).hint(hint));
    }
    Ok(net)
}

/// An address with its prefix length.
pub fn interface_address(text: &str) -> Result<IpNet, Flaw> {
    text.parse().map_err(|_| {
        let flaw =
            Flaw::new(Code::BadCidr, format!("`{text}` is not an address with a prefix length"));
        match text.parse::<IpAddr>() {
            Ok(address) => {
                let length = if address.is_ipv4() { 24 } else { 64 };
                flaw.hint(format!("add its length, such as `{address}/{length}`"))
            }
            Err(_) => flaw.hint("write it like `10.1.0.0/16` or `fd00:a::/32`"),
        }
    })
}

/// An address a host can have: not unspecified, multicast or broadcast.
pub fn address(text: &str) -> Result<IpAddr, Flaw> {
    let address: IpAddr = text.parse().map_err(|_| {
        let flaw = Flaw::new(Code::BadAddress, format!("`{text}` is not an IP address"));
        match text.parse::<IpNet>() {
            Ok(net) => flaw.hint(format!("did you mean `{}`, without a length?", net.addr())),
            Err(_) => flaw.hint("write it like `10.1.1.2` or `fd00:a:1::2`"),
        }
    })?;
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    if address.is_unspecified() || address.is_multicast() || broadcast {
        let message = format!("`{text}` is not the address of a single host");
        return Err(Flaw::new(Code::BadAddress, message));
    }
    Ok(address)
}

/// `300ms`, `30s`, `5min`, `1h`, `2d`; whole numbers, at most 366 days.
pub fn duration(text: &str) -> Result<Duration, Flaw> {
    let flaw = || {
        Flaw::new(Code::BadDuration, format!("`{text}` is not a duration"))
            .hint("a whole number and one of ms, s, min, h, d, such as `300ms` or `5min`")
    };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "m" => return Err(flaw().hint(format!("did you mean `{number}min`?"))),
        _ => return Err(flaw()),
    };
    let number: u64 = number.parse().map_err(|_| flaw())?;
    let limit = 366 * 86_400_000;
    match number.checked_mul(unit_ms) {
        Some(ms) if ms <= limit => Ok(Duration::from_millis(ms)),
        _ => Err(Flaw::new(Code::BadDuration, format!("`{text}` is longer than 366 days"))),
    }
}

/// A duration that is not zero.
pub fn some_time(text: &str) -> Result<Duration, Flaw> {
    match duration(text)? {
        Duration::ZERO => Err(Flaw::new(Code::BadDuration, "this duration cannot be zero")),
        time => Ok(time),
    }
}

/// Bits per second: `10G`, `100M`, `500k`, `1T` (powers of 1000) or a plain number.
pub fn capacity(text: &str) -> Result<u64, Flaw> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor: Option<u64> = match unit {
        "" => Some(1),
        "k" => Some(1_000),
        "M" => Some(1_000_000),
        "G" => Some(1_000_000_000),
        "T" => Some(1_000_000_000_000),
        _ => None,
    };
    let number: Option<u64> = number.parse().ok();
    let bits = number.zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
    bits.filter(|bits| *bits > 0).ok_or_else(|| {
        Flaw::new(Code::BadCapacity, format!("`{text}` is not a capacity"))
            .hint("bits per second: a whole number and k, M, G or T, such as `10G`")
    })
}

/// `data-ready`, or `data-lag <= 5s`.
pub fn gate(text: &str) -> Result<String, Flaw> {
    match text.parse::<Gate>() {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(Flaw::new(Code::BadGate, format!("`{text}` is not a gate")).hint(
            "a word such as `data-ready`, or a fact, one of <= < == > >= and a number with its \
             unit, such as `data-lag <= 5s`",
        )),
    }
}

/// `20000/s`: events per second.
pub fn rate(text: &str) -> Result<u64, Flaw> {
    let number = text.strip_suffix("/s").and_then(|n| n.parse().ok());
    number.filter(|n| *n > 0).ok_or_else(|| {
        Flaw::new(Code::BadRate, format!("`{text}` is not a rate"))
            .hint("a whole number per second, such as `20000/s`")
    })
}

/// An RFC 3339 time (section 5.6) as seconds since the Unix epoch; fractions are dropped.
pub fn time(text: &str) -> Result<i64, Flaw> {
    seconds(text).ok_or_else(|| {
        Flaw::new(Code::BadTime, format!("`{text}` is not a time"))
            .hint("RFC 3339 with a time zone, such as `2026-12-20T00:00:00Z`")
    })
}

fn seconds(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    if !text.is_ascii() || bytes.len() < 20 {
        return None;
    }
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = text.get(from..to)?;
        let all = digits.bytes().all(|b| b.is_ascii_digit());
        all.then(|| digits.parse().ok()).flatten()
    };
    let marks = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    if marks.iter().any(|(at, mark)| bytes[*at] != *mark)
        || !matches!(bytes[10], b'T' | b't' | b' ')
    {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=days).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut rest = &text[19..];
    if let Some(fraction) = rest.strip_prefix('.') {
        let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 {
            return None;
        }
        rest = &fraction[digits..];
    }
    let offset = match (rest.as_bytes(), rest.len()) {
        ([b'Z' | b'z'], _) => 0,
        ([sign @ (b'+' | b'-'), ..], 6) => {
            let at = text.len() - 6;
            let (hours, minutes) = (number(at + 1, at + 3)?, number(at + 4, at + 6)?);
            if bytes[at + 3] != b':' || hours > 23 || minutes > 59 {
                return None;
            }
            let offset = hours * 3600 + minutes * 60;
            if *sign == b'-' { -offset } else { offset }
        }
        _ => return None,
    };
    // Days since 1970-01-01, counting years from March (proleptic Gregorian calendar).
    let from_march = (month + 9) % 12;
    let shifted = year - i64::from(month <= 2);
    let leaps = shifted.div_euclid(4) - shifted.div_euclid(100) + shifted.div_euclid(400);
    let day_number = 365 * shifted + leaps + (153 * from_march + 2) / 5 + day - 1 - 719_468;
    Some(day_number * 86_400 + hour * 3600 + minute * 60 + second - offset)
}

/// A fully qualified domain name in lower case with the final dot (RFC 1035 section 2.3.4).
pub fn domain(text: &str) -> Result<String, Flaw> {
    let flaw = |message: &str| Flaw::new(Code::BadDomain, format!("`{text}` {message}"));
    let Some(stem) = text.strip_suffix('.') else {
        return Err(match text.contains('@') {
            true => flaw("is a mail address, not a domain name")
                .hint(format!("write `{}.`", text.replace('@', "."))),
            false => flaw("does not end in a dot").hint(format!("did you mean `{text}.`?")),
        });
    };
    if text.len() > 254 {
        return Err(flaw("is longer than 254 characters"));
    }
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b);
    let good = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(allowed)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if !stem.split('.').all(good) {
        return Err(flaw("is not a domain name").hint(
            "labels of 1 to 63 of a-z, 0-9, `-` and `_`, joined and ended by dots: \
             `steer.example.`",
        ));
    }
    Ok(text.to_owned())
}

/// Where a nats-server listens: `nats://HOST:PORT` or `tls://HOST:PORT`; the port may be left out.
pub fn url(text: &str) -> Result<String, Flaw> {
    let flaw = |message: &str| {
        Flaw::new(Code::BadUrl, format!("`{text}` {message}"))
            .hint("write it like `tls://nats.osl.example:4222` or `nats://[fd00:a::4]:4222`")
    };
    let host = text
        .strip_prefix("tls://")
        .or_else(|| text.strip_prefix("nats://"))
        .ok_or_else(|| flaw("begins with neither `tls://` nor `nats://`"))?;
    if host.contains('@') {
        let message = "this URL carries a user name or password";
        return Err(Flaw::new(Code::BadUrl, message).hint("take it out: nkeys log in").secret());
    }
    let (host, port) = match host.strip_prefix('[').and_then(|h| h.split_once(']')) {
        Some((v6, port)) if v6.parse::<std::net::Ipv6Addr>().is_ok() => ("v6", port),
        Some(_) => return Err(flaw("has no IPv6 address in its brackets")),
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if host.is_empty() || !host.bytes().all(allowed) {
        return Err(flaw("has no valid host"));
    }
    let port = port.strip_prefix(':').map(str::parse::<u16>);
    match (port, text.ends_with(']') || !text[6..].contains(':')) {
        (None, true) => Ok(text.to_owned()),
        (Some(Ok(1..)), _) => Ok(text.to_owned()),
        _ => Err(flaw("has no valid port")),
    }
}

/// The name of a network interface, by the kernel's rule (`dev_valid_name`, net/core/dev.c).
pub fn interface(text: &str) -> Result<String, Flaw> {
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if text.is_empty() || text.len() > 15 || [".", ".."].contains(&text) || text.contains(bad) {
        let message = format!("`{text}` cannot be the name of an interface");
        let hint = "1 to 15 bytes without `/`, `:` and spaces";
        return Err(Flaw::new(Code::BadInterface, message).hint(hint));
    }
    Ok(text.to_owned())
}

/// A public user nkey: `U`, 56 characters of base32, ended by a CRC-16 (XMODEM, little endian).
pub fn nkey(text: &str) -> Result<String, Flaw> {
    let flaw = |message: &str| Flaw::new(Code::BadNkey, message);
    if text.starts_with("SU") {
        return Err(flaw("this is a seed, which is secret").secret().hint(
            "write the public key here, and make a new pair: this seed was in a shared file",
        ));
    }
    if !text.starts_with('U') {
        return Err(flaw("a public user nkey begins with `U`")
            .hint("`nett-agent keygen` prints the public key of a new pair"));
    }
    if text.len() != 56 {
        let message = format!("an nkey has 56 characters, this has {}", text.chars().count());
        return Err(flaw(&message));
    }
    let raw = data_encoding::BASE32_NOPAD
        .decode(text.as_bytes())
        .map_err(|_| flaw("an nkey has only the characters A to Z and 2 to 7"))?;
    let (body, sum) = raw.split_at(raw.len().saturating_sub(2));
    if crc16(body).to_le_bytes() != *sum {
        return Err(flaw("the checksum of this nkey is wrong")
            .hint("a character is mistyped: copy the key again"));
    }
    Ok(text.to_owned())
}

/// CRC-16/XMODEM: polynomial 0x1021, start 0.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        let mixed = crc ^ (u16::from(*byte) << 8);
        (0..8).fold(mixed, |c: u16, _| if c & 0x8000 == 0 { c << 1 } else { (c << 1) ^ 0x1021 })
    })
}

#[cfg(test)]
mod tests;
