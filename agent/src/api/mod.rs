//! What `nettctl` and an agent say to each other: shapes, bytes and the local socket.
//!
//! The same bytes travel over the agent's socket and over NATS (`nett.l.rpc.SITE.NODE.api`), so
//! [`codec`] knows nothing of either. Nothing here decides anything: a [`server::Backend`] does.
//!
//! Crash story: no state outlives a connection. A client that loses its connection asks again; a
//! command sent twice has the same id and gets the recorded answer.

pub mod client;
pub mod codec;
pub mod schema;
pub mod server;
pub mod types;
