//! Between `nettctl bus` and the bus's own provisioning: the one place that calls it.

use std::path::Path;

use nett_policy::id::SiteId;

use super::cmd::bus::Files;
use super::exit::{CtlError, Exit};
use super::session::Session;

pub(super) async fn init(
    _session: &mut Session,
    _site: Option<SiteId>,
    _files: &Files,
) -> Result<Exit, CtlError> {
    Err(later("bus init"))
}

pub(super) fn render(
    _session: &mut Session,
    _site: Option<SiteId>,
    _files: &Files,
    _out: &Path,
) -> Result<Exit, CtlError> {
    Err(later("bus render"))
}

pub(super) async fn check(
    _session: &mut Session,
    _site: Option<SiteId>,
    _files: &Files,
) -> Result<Exit, CtlError> {
    Err(later("bus check"))
}

fn later(name: &str) -> CtlError {
    CtlError::Later { name: name.to_owned() }
}
