//! Which path answers what.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Method, Request, Response, StatusCode};
use tokio::time::timeout;

use super::Inside;
use crate::api::codec::encode_answer;
use crate::api::types::{ApiError, ApiRequest, ApiResponse, ErrorCode, Outcome};
use crate::telemetry::{Answer, Duty, Scrape, TEXT_FORMAT};

pub(super) struct Pages<B> {
    pub(super) backend: std::sync::Arc<B>,
    pub(super) scrape: Scrape,
    /// How long the controller may take.
    pub(super) patience: Duration,
}

type Page = Response<Full<Bytes>>;

enum Route {
    Metrics,
    Health,
    Ready,
    Ask(Box<ApiRequest>),
}

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

// === impl Pages ===

impl<B: Inside> Pages<B> {
    pub(super) async fn answer(&self, request: &Request<Incoming>) -> Page {
        let Some(route) = route(request.uri().path()) else {
            return page(StatusCode::NOT_FOUND, TEXT, "there is no such page\n");
        };
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let mut refused =
                page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "this server only answers questions\n");
            refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refused;
        }
        if !request.body().is_end_stream() {
            return page(StatusCode::PAYLOAD_TOO_LARGE, TEXT, "a question has no body here\n");
        }
        match route {
            Route::Metrics => self.metrics().await,
            Route::Health => self.health().await,
            Route::Ready => self.ready(),
            Route::Ask(question) => self.ask(*question).await,
        }
    }

    async fn metrics(&self) -> Page {
        let begun = Instant::now();
        let snapshot = timeout(self.patience, self.backend.measure()).await.ok().flatten();
        let answer = Answer { snapshot, after: begun.elapsed() };
        page(StatusCode::OK, TEXT_FORMAT, self.scrape.text(&answer))
    }

    /// Well is who answers: the cheapest question goes the whole way to the controller and back.
    async fn health(&self) -> Page {
        let question = ApiRequest::Identify { key: None };
        let why = match timeout(self.patience, self.backend.call(question)).await {
            Ok(ApiResponse { outcome: Outcome::Ok(_), .. }) => {
                return page(StatusCode::OK, TEXT, "ok\n");
            }
            Ok(ApiResponse { outcome: Outcome::Error(error), .. }) => error.message,
            Err(_) => late(self.patience),
        };
        page(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{why}\n"))
    }

    /// One line per duty. The bus is shown and not waited for.
    fn ready(&self) -> Page {
        let mut lines = String::new();
        let mut ready = true;
        for duty in Duty::ALL {
            let fulfilled = self.scrape.metrics.is_fulfilled(duty);
            ready &= fulfilled || !duty.is_required();
            let word = match (fulfilled, duty.is_required()) {
                (true, _) => "done",
                (false, true) => "waiting",
                (false, false) => "waiting (not required)",
            };
            lines.push_str(&format!("{}: {word}\n", duty.as_str()));
        }
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        page(status, TEXT, lines)
    }

    async fn ask(&self, question: ApiRequest) -> Page {
        let answer = match timeout(self.patience, self.backend.call(question)).await {
            Ok(answer) => answer,
            Err(_) => ApiResponse::transport_error(ApiError::new(
                ErrorCode::Timeout,
                late(self.patience),
                "look at its log and its load",
            )),
        };
        let status = match &answer.outcome {
            Outcome::Ok(_) => StatusCode::OK,
            Outcome::Error(error) => status(error.code),
        };
        page(status, JSON, encode_answer(&answer))
    }
}

fn route(path: &str) -> Option<Route> {
    Some(match path {
        "/metrics" => Route::Metrics,
        "/healthz" => Route::Health,
        "/readyz" => Route::Ready,
        "/v1/status" => Route::Ask(Box::new(ApiRequest::Status {})),
        "/v1/services" => Route::Ask(Box::new(ApiRequest::Services { selector: None })),
        "/v1/tasks" => Route::Ask(Box::new(ApiRequest::Tasks {})),
        _ => return None,
    })
}

fn late(patience: Duration) -> String {
    format!("the agent had no answer within {} ms", patience.as_millis())
}

fn status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::BadRequest | ErrorCode::Version => StatusCode::BAD_REQUEST,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::Busy | ErrorCode::NotReady => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::Timeout => StatusCode::GATEWAY_TIMEOUT,
        ErrorCode::Unsupported => StatusCode::NOT_IMPLEMENTED,
        ErrorCode::TooLarge | ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn page(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Page {
    let mut page = Response::new(Full::new(body.into()));
    *page.status_mut() = status;
    let headers = page.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    page
}
