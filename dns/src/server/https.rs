//! DNS over HTTP/2 (RFC 8484): GET and POST of `/dns-query`, inside TLS.
//!
//! A request is one message and its answer one response; nothing else is served. Streams, headers,
//! bodies and time have limits, and a connection without requests is closed like an idle one of
//! TCP. Answers depend on who asks, so they may be kept by the client and by no cache between.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::server::TlsStream;

use crate::answer::{Outcome, Transport};
use crate::message::least_ttl;

use super::places::{Activity, Place};
use super::tcp::Shared;

const PATH: &str = "/dns-query";
const MEDIA_TYPE: &str = "application/dns-message";
const STREAMS: u32 = 32;
/// The longest question in base64 is far below this.
const HEADERS: u32 = 16 * 1024;
/// A connection that was told to end has this long.
const FAREWELL: Duration = Duration::from_secs(1);

/// Requests of one connection.
struct Under {
    way: u32,
    /// When one was answered last.
    last: Instant,
}

/// A question under way: over when it is answered, and when its stream was reset before that.
struct Way {
    under: Arc<Mutex<Under>>,
    activity: Activity,
}

impl Way {
    fn begin(under: Arc<Mutex<Under>>, activity: Activity) -> Self {
        activity.busy();
        under.lock().unwrap_or_else(PoisonError::into_inner).way += 1;
        Self { under, activity }
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        let mut under = self.under.lock().unwrap_or_else(PoisonError::into_inner);
        *under = Under { way: under.way - 1, last: Instant::now() };
        if under.way == 0 {
            self.activity.idle();
        }
    }
}

/// Serves one connection until it is idle or broken, or the server stops.
pub(super) async fn serve(
    stream: TlsStream<TcpStream>,
    source: IpAddr,
    shared: &Shared,
    place: &Place,
) {
    let idle = shared.limits.tcp_idle;
    let last = Arc::new(Mutex::new(Under { way: 0, last: Instant::now() }));
    let seen = || last.lock().unwrap_or_else(PoisonError::into_inner).last;
    let mut stopped = shared.stopped.clone();
    let service = service_fn(|request| {
        let (last, shared) = (Arc::clone(&last), shared.clone());
        let activity = place.activity().clone();
        async move {
            let _way = Way::begin(last, activity);
            Ok::<_, Infallible>(respond(request, source, &shared).await)
        }
    });
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).max_concurrent_streams(STREAMS).max_header_list_size(HEADERS);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    loop {
        let deadline = seen() + idle;
        tokio::select! {
            _ = &mut connection => return,
            _ = stopped.wait_for(|stopped| *stopped) => break,
            () = sleep_until(deadline) => if seen() + idle <= Instant::now() { break },
        }
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(FAREWELL, connection).await;
}

async fn respond(
    request: Request<Incoming>,
    source: IpAddr,
    shared: &Shared,
) -> Response<Full<Bytes>> {
    let question = match question(request, shared.limits.tcp_idle).await {
        Ok(question) => question,
        Err(status) => return refusal(status),
    };
    let ask = shared.answerer.ask(&question, source, Transport::Https);
    let mut out = Vec::new();
    let Outcome::Reply { .. } = shared.answerer.answer(&ask, &mut out) else {
        return refusal(StatusCode::BAD_REQUEST);
    };
    // RFC 8484 section 5.1.
    let keep = match least_ttl(&out) {
        Some(ttl @ 1..) => format!("private, max-age={ttl}"),
        Some(0) | None => "no-store".to_owned(),
    };
    Response::builder()
        .header(CONTENT_TYPE, MEDIA_TYPE)
        .header(CACHE_CONTROL, keep)
        .body(Full::new(out.into()))
        .expect("all parts are valid")
}

/// The message in a request, or the status that says what is wrong with it.
async fn question(request: Request<Incoming>, patience: Duration) -> Result<Vec<u8>, StatusCode> {
    if request.uri().path() != PATH {
        return Err(StatusCode::NOT_FOUND);
    }
    match *request.method() {
        Method::GET => {
            let query = request.uri().query().unwrap_or_default();
            let mut dns = query.split('&').filter_map(|pair| pair.strip_prefix("dns="));
            let text = dns.next().ok_or(StatusCode::BAD_REQUEST)?;
            BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| StatusCode::BAD_REQUEST)
        }
        Method::POST => {
            let kind = request.headers().get(CONTENT_TYPE);
            let is_message = kind.is_some_and(|kind| kind.as_bytes() == MEDIA_TYPE.as_bytes());
            // Read in any case: to some clients a body that is not looks like a broken stream.
            let body = Limited::new(request.into_body(), usize::from(u16::MAX));
            match timeout(patience, body.collect()).await {
                Ok(Ok(_)) if !is_message => Err(StatusCode::UNSUPPORTED_MEDIA_TYPE),
                Ok(Ok(body)) => Ok(body.to_bytes().into()),
                Ok(Err(_)) => Err(StatusCode::PAYLOAD_TOO_LARGE),
                Err(_) => Err(StatusCode::REQUEST_TIMEOUT),
            }
        }
        _ => Err(StatusCode::METHOD_NOT_ALLOWED),
    }
}

fn refusal(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    if status == StatusCode::METHOD_NOT_ALLOWED {
        let allowed = hyper::header::HeaderValue::from_static("GET, POST");
        response.headers_mut().insert(ALLOW, allowed);
    }
    response
}
