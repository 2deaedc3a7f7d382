//! What one name server says about itself, and what it expects of clients: the same for every
//! message, on every transport.
//!
//! It decides nothing about names. Everything but the secrets of cookies and whether the site is
//! cut off is fixed when the server starts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
    /// True while the site of this server is cut off from all others, so that its answers may be
    /// old. They then carry an extended error (RFC 8914) saying so.
    pub isolated: AtomicBool,
}

// === impl Profile ===

impl Profile {
    pub(crate) fn is_isolated(&self) -> bool {
        self.isolated.load(Ordering::Relaxed)
    }

    /// In units of 100 ms.
    pub(crate) fn keepalive(&self) -> u16 {
        u16::try_from(self.tcp_idle.as_millis() / 100).unwrap_or(u16::MAX)
    }
}
