//! What an operator sees of a running agent: its log, its metrics, whether it is ready.
//!
//! Metrics go to a registry that is passed in, never to a global one. Labels are closed sets or
//! names of the configuration, so a peer cannot make series.

pub mod event;
pub mod metric_name;
mod metrics;
mod ready;
mod scrape;
pub(crate) mod seldom;

pub use metrics::Metrics;
pub use ready::Duty;
pub use scrape::{Answer, Scrape, TEXT_FORMAT};

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Starts logging to standard error. A second call changes nothing.
pub fn start(log: &Log) {
    let filter = EnvFilter::try_new(&log.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A full disk below standard error must not end the agent: the line is lost.
    let builder = builder.log_internal_errors(false);
    // Already started by an earlier configuration of the same process.
    let _ = match log.format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}
