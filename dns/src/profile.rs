//! What one name server says about itself, and what it expects of clients: the same for every
//! message, on every transport.
//!
//! It decides nothing about names. Everything but the secrets of cookies and whether the site is
//! cut off is fixed when the server starts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::cookie::Cookies;

/// The default says nothing and expects nothing.
#[derive(Debug, Default)]
pub struct Profile {
    /// The name server identifier (RFC 5001), at most [`crate::edns::LONGEST_NSID`] bytes.
    pub nsid: Option<Box<[u8]>>,
    /// What `version.bind` and `version.server` in class CH are answered with; else REFUSED.
    pub version: Option<String>,
    /// What `hostname.bind` and `id.server` in class CH are answered with (RFC 4892); else REFUSED.
    pub hostname: Option<String>,
    /// Without them cookies are passed over like any option nobody knows.
    pub cookies: Option<Arc<Cookies>>,
    /// Whether a question over UDP that has a client cookie needs a good server cookie.
    pub cookies_required: bool,
    /// How long an idle connection may stay open, as told to clients that ask (RFC 7828).
    pub tcp_idle: Duration,
    /// Since when the site of this server is cut off from all others, in seconds since 1970; 0
    /// while it is not. See [`Profile::set_isolated`].
    pub isolated_since: AtomicU64,
}

// === impl Profile ===

impl Profile {
    /// While the site is cut off from all others its answers may be old. They then carry an
    /// extended error (RFC 8914) and, where they are text, a string saying so and for how long.
    /// `since` is in seconds since 1970.
    pub fn set_isolated(&self, since: Option<u64>) {
        self.isolated_since.store(since.unwrap_or(0), Ordering::Relaxed);
    }

    /// For how many seconds the site has been cut off, if it is. `now` is in seconds since 1970,
    /// modulo 2^32.
    pub(crate) fn isolated_for(&self, now: u32) -> Option<u32> {
        let since = self.isolated_since.load(Ordering::Relaxed);
        let cut = u32::try_from(since & u64::from(u32::MAX)).expect("cut to 32 bits");
        let age = now.wrapping_sub(cut);
        // A clock that was set back tells an age of nothing, and not of a century.
        (since > 0).then_some(if age > u32::MAX / 2 { 0 } else { age })
    }

    /// In units of 100 ms.
    pub(crate) fn keepalive(&self) -> u16 {
        u16::try_from(self.tcp_idle.as_millis() / 100).unwrap_or(u16::MAX)
    }
}
