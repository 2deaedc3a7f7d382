//! `nettctl undrain`: the same objects as `drain`.

use nett_policy::log::entry::Verb;

use super::drain;
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::session::Session;
use crate::ctl::submit;

pub(in crate::ctl) type Sub = drain::Sub;

pub(super) fn verb(sub: &Sub) -> Verb {
    Verb::Undrain { object: sub.object() }
}

pub(super) async fn run(sub: Sub, session: &mut Session) -> Result<Exit, CtlError> {
    submit::command(session, verb(&sub), &sub.change()).await
}
