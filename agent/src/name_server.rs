//! The name server over the zone. It starts with the first snapshot that is served: an agent that
//! does not know its answers yet must be silent, since an empty zone would say that names do not
//! exist, and resolvers remember that.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use nett_dns::{Limits, Server, ServerError, ServerHandle, Stats, Zone};

/// Not yet started, or running until it is dropped.
pub struct NameServer {
    listen: Vec<SocketAddr>,
    limits: Limits,
    stats: Arc<Stats>,
    handle: Option<ServerHandle>,
}

// === impl NameServer ===

impl NameServer {
    /// Serves nothing, ever, when `listen` is empty.
    pub fn new(listen: Vec<SocketAddr>, limits: Limits, stats: Arc<Stats>) -> Self {
        Self { listen, limits, stats, handle: None }
    }

    /// Starts serving the zone, unless it does so already.
    pub fn start(&mut self, zone: &Arc<ArcSwap<Zone>>) -> Result<(), ServerError> {
        if self.handle.is_none() && !self.listen.is_empty() {
            let (limits, stats) = (self.limits.clone(), self.stats.clone());
            self.handle = Some(Server::start(&self.listen, zone.clone(), limits, stats)?);
        }
        Ok(())
    }
}
