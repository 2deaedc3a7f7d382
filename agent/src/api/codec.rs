//! Bytes of calls and answers: one JSON document, the same on every transport.
//!
//! On the socket a document is one line (JSON as written here holds no line break); over NATS it
//! is the payload.

use super::types::{
    ApiCall, ApiError, ApiRequest, ApiResponse, CommandReply, ErrorCode, Outcome, VERSION,
};

/// The largest call, in bytes, on every transport: the payload limit of the site's nats-server
/// (BUS `max_payload`).
pub const MAX_CALL: usize = 256 * 1024;

/// The largest answer a client reads from the socket, in bytes.
pub const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// The answer was no JSON document of the API.
#[derive(Debug, thiserror::Error)]
#[error("the answer is not a document of the API, version {VERSION}")]
pub struct DecodeError(#[source] serde_json::Error);

/// The call as bytes, without a line break.
pub fn encode_call(request: &ApiRequest) -> Vec<u8> {
    let call = ApiCall { v: VERSION, request: request.clone() };
    serde_json::to_vec(&call).expect("keys of the API's types are strings")
}

/// Reads a call; the error is what the client is to be told.
pub fn decode_call(bytes: &[u8]) -> Result<ApiRequest, ApiError> {
    if bytes.len() > MAX_CALL {
        return Err(too_large_call());
    }
    // The version first: a call of another version is not judged by this one's fields.
    let bad = |error: serde_json::Error| {
        ApiError::new(
            ErrorCode::BadRequest,
            format!("the call is not a request of the API: {error}"),
            "`nettctl schema` prints the shapes; nettctl and agent may be of different releases",
        )
    };
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(bad)?;
    let version = value.get("v").and_then(serde_json::Value::as_u64);
    match version {
        Some(v) if v != u64::from(VERSION) => Err(ApiError::new(
            ErrorCode::Version,
            format!("the call has version {v} of the API, this agent speaks {VERSION}"),
            "use the nettctl of the agent's release",
        )),
        _ => {
            let call: ApiCall = serde_json::from_value(value).map_err(bad)?;
            Ok(call.request)
        }
    }
}

/// What a client with a call above [`MAX_CALL`] is told.
pub fn too_large_call() -> ApiError {
    ApiError::new(
        ErrorCode::TooLarge,
        format!("the call is larger than {MAX_CALL} bytes"),
        "name fewer objects, or use a selector",
    )
}

/// The answer as bytes, without a line break.
pub fn encode_answer(answer: &ApiResponse) -> Vec<u8> {
    serde_json::to_vec(answer).expect("keys of the API's types are strings")
}

/// The answer as at most `limit` bytes: a larger one becomes an error that says so. For NATS,
/// whose server refuses larger payloads.
pub fn encode_answer_within(answer: &ApiResponse, limit: usize) -> Vec<u8> {
    let bytes = encode_answer(answer);
    if bytes.len() <= limit {
        return bytes;
    }
    let error = ApiError::new(
        ErrorCode::TooLarge,
        format!("the answer has {} bytes, the bus carries {limit}", bytes.len()),
        "ask for less (a selector, --since, --limit), or ask over the agent's socket",
    );
    encode_answer(&ApiResponse { outcome: Outcome::Error(error), ..answer.clone() })
}

/// The answer to a command as at most `limit` bytes, for NATS: of a larger one everything is said
/// but the message, which says why.
pub fn encode_reply_within(reply: CommandReply, limit: usize) -> Vec<u8> {
    let encode = |reply: &CommandReply| {
        serde_json::to_vec(reply).expect("keys of the API's types are strings")
    };
    let bytes = encode(&reply);
    if bytes.len() <= limit {
        return bytes;
    }
    let message = format!(
        "too-large: the answer has {} bytes, the bus carries {limit}; ask over the agent's socket",
        bytes.len()
    );
    encode(&CommandReply { message, ..reply })
}

pub fn decode_answer(bytes: &[u8]) -> Result<ApiResponse, DecodeError> {
    serde_json::from_slice(bytes).map_err(DecodeError)
}

#[cfg(test)]
mod tests {
    use super::super::types::{Payload, Stamp, TaskLine, TaskStateDoc};
    use super::*;

    #[test]
    fn a_call_survives_its_bytes() {
        for request in [
            ApiRequest::Status {},
            ApiRequest::Task { id: "osl.01jd3m5w7r8v3qyb2s9t4k6e1h".to_owned() },
            ApiRequest::Command {
                subject: "nett.l.cmd.osl.drain.site.svg".to_owned(),
                envelope: serde_json::json!({"v": 1, "text": "line\nbreak"}),
            },
        ] {
            let bytes = encode_call(&request);
            assert!(!bytes.contains(&b'\n'), "one line on the socket");
            assert_eq!(decode_call(&bytes), Ok(request));
        }
    }

    #[test]
    fn a_bad_call_is_told_what_is_wrong() {
        let code = |text: &str| decode_call(text.as_bytes()).map_err(|e| e.code);
        assert_eq!(code("{"), Err(ErrorCode::BadRequest));
        assert_eq!(code("[]"), Err(ErrorCode::BadRequest));
        assert_eq!(code(r#"{"v":2,"request":{"op":"new"}}"#), Err(ErrorCode::Version));
        for unknown in [
            r#"{"v":1,"request":{"op":"nonsense"}}"#,
            r#"{"v":1,"request":{"op":"status","all":true}}"#,
            r#"{"v":1,"request":{"op":"task","id":"x","extra":1}}"#,
            r#"{"v":1,"request":{"op":"status"},"extra":1}"#,
            r#"{"v":1,"request":{"op":"plan","verb":{"verb":"failback","services":"*","to":"x"}}}"#,
        ] {
            assert_eq!(code(unknown), Err(ErrorCode::BadRequest), "{unknown}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(code(&deep), Err(ErrorCode::BadRequest));
        let large = " ".repeat(MAX_CALL + 1);
        assert_eq!(code(&large), Err(ErrorCode::TooLarge));
    }

    #[test]
    fn a_reply_above_the_limit_says_what_became_of_the_command() {
        let task = Some("osl.01jd3m5w7r8v3qyb2s9t4k6e1h".to_owned());
        let message = "x".repeat(5000);
        let reply = CommandReply { accepted: true, task, message, ..CommandReply::default() };
        let bytes = encode_reply_within(reply.clone(), 1000);
        assert!(bytes.len() <= 1000);
        let read: CommandReply = serde_json::from_slice(&bytes).expect("a reply");
        assert!(read.message.starts_with("too-large: the answer has 5"), "{read:?}");
        assert_eq!(read, CommandReply { message: read.message.clone(), ..reply.clone() });
        let whole = encode_reply_within(reply.clone(), 10_000);
        assert_eq!(serde_json::from_slice::<CommandReply>(&whole).expect("a reply"), reply);
    }

    #[test]
    fn an_answer_above_the_limit_becomes_an_error_below_it() {
        let line = TaskLine {
            id: "osl.01jd3m5w7r8v3qyb2s9t4k6e1h".to_owned(),
            verb: "drain".to_owned(),
            subject: "site svg".to_owned(),
            person: "mira".to_owned(),
            state: TaskStateDoc::Running,
            progress: "1/3".to_owned(),
            opened_at: Stamp::from_ms(0),
        };
        let payload = Payload::Tasks { tasks: vec![line; 100] };
        let answer = ApiResponse::new("osl", "osl-b1", Stamp::from_ms(0), payload.into());
        let bytes = encode_answer_within(&answer, 1000);
        assert!(bytes.len() <= 1000);
        let read = decode_answer(&bytes).expect("an answer");
        assert!(
            matches!(&read.outcome, Outcome::Error(e) if e.code == ErrorCode::TooLarge),
            "{read:?}"
        );
        assert_eq!(
            decode_answer(&encode_answer_within(&answer, 1_000_000)).expect("an answer"),
            answer
        );
    }
}
