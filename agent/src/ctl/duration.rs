//! Durations and points in time as operators write them.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::api::types::Stamp;

/// `60s`, `5m`, `1h30m`, `2d`; above zero.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{text}` is not a duration such as 90s, 5m or 1h30m");
    // Days have no place in an absolute duration elsewhere; for an operator a day is 24 hours.
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u16>().ok());
    let parsed: Option<SignedDuration> = match days {
        Some(days) => Some(SignedDuration::from_hours(i64::from(days) * 24)),
        None => text.parse().ok(),
    };
    let found = Duration::try_from(parsed.ok_or_else(bad)?).map_err(|_| bad())?;
    if found.is_zero() {
        return Err(bad());
    }
    Ok(found)
}

/// A time (RFC 3339), or how long ago.
pub(super) fn since(text: &str) -> Result<Stamp, String> {
    if let Ok(stamp) = text.parse() {
        return Ok(stamp);
    }
    let ago = duration(text)
        .map_err(|_| format!("`{text}` is neither 2026-11-21T09:30:00Z nor an age such as 1h"))?;
    let now = now_ms();
    let ago = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
    Ok(Stamp::from_ms(now.saturating_sub(ago)))
}

/// A time to come (RFC 3339), or in how long.
pub(super) fn until(text: &str) -> Result<Stamp, String> {
    if let Ok(stamp) = text.parse() {
        return Ok(stamp);
    }
    let later = duration(text)
        .map_err(|_| format!("`{text}` is neither 2026-11-21T09:30:00Z nor a time such as 4h"))?;
    let later = u64::try_from(later.as_millis()).unwrap_or(u64::MAX);
    Ok(Stamp::from_ms(now_ms().saturating_add(later)))
}

/// The wall clock in milliseconds since the Unix epoch.
pub(super) fn now_ms() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_what_an_operator_would_write() {
        for (text, seconds) in [("60s", 60), ("5m", 300), ("1h30m", 5400), ("2d", 172_800)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "60", "0s", "-5s", "soon", "d", "99999999d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn since_takes_a_time_or_an_age() {
        let exact = since("2026-11-21T09:30:00Z").expect("a time");
        assert_eq!(exact.to_string(), "2026-11-21T09:30:00Z");
        let hour = since("1h").expect("an age");
        let ago = now_ms() - hour.ms();
        assert!((3_600_000..3_660_000).contains(&ago), "{ago}");
        assert!(since("noon").is_err());
    }
}
