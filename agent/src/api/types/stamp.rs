//! A point in time as users see it: RFC 3339 in UTC. Documents have milliseconds, always, so that
//! texts sort as times do; people are shown whole seconds.

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

impl Stamp {
    fn timestamp(self) -> jiff::Timestamp {
        // Beyond the year 9999 there is no RFC 3339 form.
        i64::try_from(self.ms())
            .ok()
            .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
            .unwrap_or(jiff::Timestamp::MAX)
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:.0}", self.timestamp()))
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
        serializer.collect_str(&format_args!("{:.3}", self.timestamp()))
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
    fn a_stamp_survives_its_document() {
        for ms in [0, 1_795_253_400_000, 1_795_253_400_250] {
            let text = serde_json::to_string(&Stamp::from_ms(ms)).expect("JSON");
            let read: Stamp = serde_json::from_str(&text).expect("a stamp");
            assert_eq!(read.ms(), ms, "{text}");
        }
        let stamp = Stamp::from_ms(1_795_253_400_250);
        assert_eq!(stamp.to_string(), "2026-11-21T09:30:00Z");
        let text = serde_json::to_string(&stamp).expect("JSON");
        assert_eq!(text, "\"2026-11-21T09:30:00.250Z\"");
        assert!("1969-12-31T23:59:59Z".parse::<Stamp>().is_err());
        assert!("yesterday".parse::<Stamp>().is_err());
    }
}
