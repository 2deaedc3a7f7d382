//! A point in time as users see it: RFC 3339 in UTC.

use std::fmt;
use std::str::FromStr;

use nett_policy::id::WallMs;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Wall-clock time with millisecond resolution, written as RFC 3339 with `Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp(pub WallMs);

/// A text that is no RFC 3339 time from 1970 on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a time such as 2026-11-21T09:30:00Z")]
pub struct StampError(String);

impl Stamp {
    /// Milliseconds since the Unix epoch.
    pub fn ms(self) -> u64 {
        self.0.0
    }

    pub fn from_ms(ms: u64) -> Self {
        Self(WallMs(ms))
    }
}

impl From<WallMs> for Stamp {
    fn from(at: WallMs) -> Self {
        Self(at)
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = i64::try_from(self.ms()).unwrap_or(i64::MAX);
        match jiff::Timestamp::from_millisecond(ms) {
            Ok(at) => f.pad(&at.to_string()),
            // Beyond the year 9999 there is no RFC 3339 form.
            Err(_) => f.pad("9999-12-31T23:59:59Z"),
        }
    }
}

impl FromStr for Stamp {
    type Err = StampError;

    fn from_str(text: &str) -> Result<Self, StampError> {
        let bad = || StampError(text.to_owned());
        let at: jiff::Timestamp = text.parse().map_err(|_| bad())?;
        let ms = u64::try_from(at.as_millisecond()).map_err(|_| bad())?;
        Ok(Self::from_ms(ms))
    }
}

impl Serialize for Stamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Stamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_survives_its_text() {
        for ms in [0, 1_795_253_400_000, 1_795_253_400_123] {
            let text = Stamp::from_ms(ms).to_string();
            assert_eq!(text.parse::<Stamp>().expect(&text).ms(), ms, "{text}");
        }
        assert_eq!(Stamp::from_ms(1_795_253_400_000).to_string(), "2026-11-21T09:30:00Z");
        assert!("1969-12-31T23:59:59Z".parse::<Stamp>().is_err());
        assert!("yesterday".parse::<Stamp>().is_err());
    }
}
