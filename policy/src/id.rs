//! Names and small numbers with one way in: each is parsed and validated once, at the edge.
//!
//! Every part of a name is `[a-z0-9-]{1,63}` and does not begin or end with `-`, so that one id is
//! valid as a NATS subject token, a DNS label (RFC 1035 section 2.3.1) and a metric label.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Why a text is not a valid id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("`{0}` is empty or longer than 63 characters")]
    Length(String),
    #[error("`{0}` has a character other than a-z, 0-9 and `-`, or begins or ends with `-`")]
    Character(String),
    #[error("`{0}` must have the form project/environment/instance")]
    ServiceParts(String),
    #[error("`{0}` must have the form site/cluster")]
    ClusterParts(String),
    #[error("`{0}` is not an id of the form site-ulid")]
    EntryParts(String),
    #[error("weight {0} is not in 1 to 256")]
    Weight(u32),
}

/// Checks one part of a name.
fn part(text: &str) -> Result<(), IdError> {
    if text.is_empty() || text.len() > 63 {
        return Err(IdError::Length(text.to_owned()));
    }
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if !text.bytes().all(allowed) || text.starts_with('-') || text.ends_with('-') {
        return Err(IdError::Character(text.to_owned()));
    }
    Ok(())
}

/// Copies of an id share their text: the same few names are in every part of a large state.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let check: fn(&str) -> Result<(), IdError> = $check;
                check(text)?;
                Ok(Self(text.into()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name!(
    /// A site: a datacenter, and a failure domain.
    SiteId,
    part
);
name!(
    /// A node: one machine or namespace that runs an agent.
    NodeId,
    part
);
name!(
    /// An inter-site link.
    LinkId,
    part
);
name!(
    /// A safety rule.
    RuleId,
    part
);
name!(
    /// A service: `project/environment/instance`.
    ServiceId,
    |text| {
        let parts: Vec<&str> = text.split('/').collect();
        if parts.len() != 3 {
            return Err(IdError::ServiceParts(text.to_owned()));
        }
        parts.into_iter().try_for_each(part)
    }
);
name!(
    /// A cluster of backends inside a site: `site/cluster`.
    ClusterId,
    |text| {
        let parts: Vec<&str> = text.split('/').collect();
        if parts.len() != 2 {
            return Err(IdError::ClusterParts(text.to_owned()));
        }
        parts.into_iter().try_for_each(part)
    }
);
name!(
    /// The id of a log entry or of a signed request: `SITE.ULID`, the ULID in lower case.
    ///
    /// A task has the id of the command that opened it.
    EntryId,
    |text| {
        let bad = || IdError::EntryParts(text.to_owned());
        let (site, ulid) = text.rsplit_once('.').ok_or_else(bad)?;
        part(site)?;
        let digits = |b: u8| b.is_ascii_digit() || b.is_ascii_lowercase();
        if ulid.len() != 26 || !ulid.bytes().all(digits) {
            return Err(bad());
        }
        Ok(())
    }
);

impl ServiceId {
    /// The id as one NATS subject token: `/` is written `~`.
    pub fn token(&self) -> String {
        self.0.replace('/', "~")
    }

    /// `INSTANCE.ENVIRONMENT.PROJECT`, the owner name below the zone's apex.
    pub fn dns_name(&self) -> String {
        let parts: Vec<&str> = self.0.rsplit('/').collect();
        parts.join(".")
    }
}

impl EntryId {
    /// The id as one NATS subject token: `site-ulid`.
    pub fn token(&self) -> String {
        self.0.replace('.', "-")
    }

    /// The site that gave the id.
    pub fn site(&self) -> SiteId {
        let (site, _) = self.0.rsplit_once('.').expect("an entry id has a dot");
        SiteId(site.into())
    }
}

/// A pattern over service ids: an exact id, or a prefix of parts followed by `*`
/// (`shop/*`, `shop/prod/*`, `*`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selector(String);

impl Selector {
    pub fn matches(&self, service: &ServiceId) -> bool {
        match self.0.strip_suffix('*') {
            Some(prefix) => service.as_str().starts_with(prefix),
            None => self.0 == service.as_str(),
        }
    }

    /// True when the selector can only ever name one service.
    pub fn is_exact(&self) -> bool {
        !self.0.ends_with('*')
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Selector {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if text != "*" {
            match text.strip_suffix("/*") {
                Some(prefix) if prefix.split('/').count() <= 2 => {
                    prefix.split('/').try_for_each(part)?;
                }
                Some(_) => return Err(IdError::ServiceParts(text.to_owned())),
                None => drop(text.parse::<ServiceId>()?),
            }
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A share of traffic, 1 to 256: the range of a nexthop group member in the portable encoding of
/// the kernel (`struct nexthop_grp.weight`, linux/nexthop.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u16);

impl Weight {
    pub const ONE: Self = Self(1);

    pub fn new(value: u32) -> Result<Self, IdError> {
        match u16::try_from(value) {
            Ok(weight @ 1..=256) => Ok(Self(weight)),
            _ => Err(IdError::Weight(value)),
        }
    }

    pub fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number that orders effective commands of one subject. Only goes up; 0 is "never moved".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl Epoch {
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The generation of a fabric file, or of the voters in it. Only goes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

impl Generation {
    /// The one before; 0 has none and stays.
    pub fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Wall-clock time in milliseconds since the Unix epoch, as written in entries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallMs(pub u64);

/// SHA-256 as lower-case hexadecimal digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    use sha2::Digest;
    data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_one_way_in() {
        assert!("osl".parse::<SiteId>().is_ok());
        for bad in ["", "Osl", "osl.", "-osl", "osl-", "o/s", "å"] {
            assert!(bad.parse::<SiteId>().is_err(), "{bad}");
        }
        let service: ServiceId = "shop/prod/api".parse().expect("valid");
        assert_eq!(service.token(), "shop~prod~api");
        assert_eq!(service.dns_name(), "api.prod.shop");
        assert!("shop/prod".parse::<ServiceId>().is_err());
        assert!("osl.01jd3m5w7r8v3qyb2s9t4k6e1h".parse::<EntryId>().is_ok());
        assert!("osl-01jd3m5w7r8v3qyb2s9t4k6e1h".parse::<EntryId>().is_err());
    }

    #[test]
    fn selectors_match_by_whole_parts() {
        let service: ServiceId = "shop/prod/api".parse().expect("valid");
        for (text, expected) in [
            ("*", true),
            ("shop/*", true),
            ("shop/prod/*", true),
            ("sho/*", false),
            ("shop/prod/api", true),
        ] {
            assert_eq!(text.parse::<Selector>().expect(text).matches(&service), expected, "{text}");
        }
        for bad in ["shop*", "shop/prod", "shop/prod/api/*", ""] {
            assert!(bad.parse::<Selector>().is_err(), "{bad}");
        }
    }

    #[test]
    fn weights_are_one_to_256() {
        assert!(Weight::new(0).is_err());
        assert_eq!(Weight::new(256).expect("valid").get(), 256);
        assert!(Weight::new(257).is_err());
    }
}
