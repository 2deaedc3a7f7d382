//! The agent on each site's border and route nodes, and `nettctl`.

pub mod api;
pub mod ctl;
