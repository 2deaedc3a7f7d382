//! The one home of the environment variables that `nettctl` reads.

/// Path of the agent's socket.
pub(super) const SOCKET: &str = "NETT_SOCKET";
/// URL of a nats-server of the site.
pub(super) const NATS: &str = "NETT_NATS";
/// The site to ask.
pub(super) const SITE: &str = "NETT_SITE";
/// Path of the operator's nkey seed.
pub(super) const KEY: &str = "NETT_KEY";
/// The operator's name in `fabric.toml`.
pub(super) const OPERATOR: &str = "NETT_OPERATOR";
pub(super) const TLS_CA: &str = "NETT_TLS_CA";
pub(super) const TLS_CERT: &str = "NETT_TLS_CERT";
pub(super) const TLS_KEY: &str = "NETT_TLS_KEY";
/// Any value but the empty one: no colour (no-color.org).
pub(super) const NO_COLOR: &str = "NO_COLOR";
