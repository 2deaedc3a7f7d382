//! Whoever asked the agent something, and the form in which each of them reads an answer.
//!
//! Nobody is waited for: an answer that cannot be delivered is dropped.
//!
//! Crash story: who asked hears nothing, and asks again.

use tokio::sync::oneshot;

use crate::api::codec::{MAX_CALL, encode_answer_within, encode_reply_within};
use crate::api::types::{ApiResponse, Outcome, Payload};
use crate::bus::Responder;

/// Whom an answer goes to, in which form.
pub(super) enum Asker {
    Api(oneshot::Sender<ApiResponse>),
    /// The reply document alone.
    Command(Responder),
    Rpc(Responder),
}

// === impl Asker ===

impl Asker {
    /// True when it is known that nobody waits any more.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self, Self::Api(reply) if reply.is_closed())
    }
}

/// An answer in the form its asker reads. Sending never holds the driver up.
pub(super) fn send(asker: Asker, response: ApiResponse) {
    match asker {
        // Whoever asked may have gone away.
        Asker::Api(reply) => drop(reply.send(response)),
        Asker::Rpc(reply) => {
            let bytes = encode_answer_within(&response, MAX_CALL.min(reply.room()));
            tokio::spawn(reply.answer(bytes));
        }
        Asker::Command(reply) => {
            let bytes = match response.outcome {
                Outcome::Ok(payload) => match *payload {
                    Payload::Command(command) => Ok(encode_reply_within(command, reply.room())),
                    other => serde_json::to_vec(&other),
                },
                Outcome::Error(error) => serde_json::to_vec(&error),
            };
            let bytes = bytes.expect("keys of the API's types are strings");
            tokio::spawn(reply.answer(bytes));
        }
    }
}
