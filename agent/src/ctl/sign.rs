//! From a request to the signed bytes of its envelope, and the subject they are for.

use nett_policy::log::entry::Request;
use nkeys::KeyPair;

use crate::bus::wire::{WireError, request_subject, seal_request};

/// A request as it is sent.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) subject: String,
    pub(super) envelope: Vec<u8>,
}

pub(super) fn seal(request: &Request, key: &KeyPair) -> Result<Sealed, WireError> {
    let subject = request_subject(request);
    let envelope = seal_request(request, &subject, key)?;
    Ok(Sealed { subject, envelope })
}
