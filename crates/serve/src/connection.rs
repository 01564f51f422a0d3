//! One request and its response.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::Value;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::guard::{Guard, Refusal};
use crate::page::Page;
use crate::queue::Line;

/// Size limit for a question. Prompts are texts.
const LARGEST: usize = 4 << 20;
/// Time limit for a question to arrive.
const SLOWEST: Duration = Duration::from_secs(10);

/// Shared by all connections.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) guard: Guard,
    pub(crate) pages: &'static [Page],
    pub(crate) line: Line,
    pub(crate) policy: HeaderValue,
}

/// Responds to a request. Errors never repeat any of the request.
pub(crate) async fn answer(
    site: Arc<Site>,
    request: Request<Incoming>,
) -> Result<Response<Content>, Infallible> {
    let mut response = route(&site, request).await;
    let headers = response.headers_mut();
    headers.insert("content-security-policy", site.policy.clone());
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    // A cached page would show what another version of the program wrote.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

async fn route(site: &Site, request: Request<Incoming>) -> Response<Content> {
    let path = match site.guard.admit(request.headers(), request.uri().path()) {
        Ok(Some(path)) => path,
        Ok(None) => return moved(request.uri().path()),
        Err(refusal) => return refused(refusal),
    };
    if path == "ask" {
        if request.method() != Method::POST {
            return not_allowed("POST");
        }
        return ask(site, request).await;
    }
    let Some(page) = site.pages.iter().find(|page| page.path == path) else {
        return plain(StatusCode::NOT_FOUND, "There is no such page.");
    };
    match *request.method() {
        Method::GET | Method::HEAD => {
            let content = Content::Whole(Some(Bytes::from_static(page.content.as_bytes())));
            typed(StatusCode::OK, page.media_type, content)
        }
        _ => not_allowed("GET, HEAD"),
    }
}

async fn ask(site: &Site, request: Request<Incoming>) -> Response<Content> {
    // A form on another page cannot send JSON: for that, a browser asks first.
    let is_json = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"application/json");
    if !request.headers().get(CONTENT_TYPE).is_some_and(is_json) {
        return plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, "A question is application/json.");
    }
    if request.body().size_hint().lower() > LARGEST as u64 {
        return too_large();
    }
    let body = Limited::new(request.into_body(), LARGEST).collect();
    let bytes = match tokio::time::timeout(SLOWEST, body).await {
        Err(_) => return plain(StatusCode::REQUEST_TIMEOUT, "The question took too long to arrive."),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => return too_large(),
        Ok(Err(_)) => return plain(StatusCode::BAD_REQUEST, "The question did not arrive whole."),
        Ok(Ok(body)) => body.to_bytes(),
    };
    let question = match serde_json::from_slice::<Value>(&bytes) {
        Ok(question) if question.is_object() => question,
        _ => return plain(StatusCode::BAD_REQUEST, "A question is one JSON object."),
    };
    match site.line.ask(question) {
        Some(lines) => typed(StatusCode::OK, "application/x-ndjson", Content::Lines(lines)),
        None => plain(StatusCode::SERVICE_UNAVAILABLE, "Too many questions wait for an answer."),
    }
}

/// The body of a response.
#[derive(Debug)]
pub(crate) enum Content {
    Whole(Option<Bytes>),
    Lines(UnboundedReceiver<Bytes>),
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Content::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Content::Lines(lines) => {
                lines.poll_recv(context).map(|line| line.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Content::Lines(_) => SizeHint::default(),
        }
    }
}

fn typed(status: StatusCode, media_type: &'static str, content: Content) -> Response<Content> {
    let mut response = Response::new(content);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<Content> {
    typed(status, "text/plain; charset=utf-8", Content::Whole(Some(Bytes::from_static(text.as_bytes()))))
}

fn refused(refusal: Refusal) -> Response<Content> {
    match refusal {
        Refusal::Host => plain(StatusCode::MISDIRECTED_REQUEST, "This server has another name."),
        Refusal::Origin => plain(StatusCode::FORBIDDEN, "This server answers only its own page."),
        Refusal::Token => plain(
            StatusCode::FORBIDDEN,
            "The address lacks the token of this server, or has that of an earlier one.\n\
             Open the address that `easyroutine serve` printed; what follows # may be kept.",
        ),
    }
}

fn too_large() -> Response<Content> {
    plain(StatusCode::PAYLOAD_TOO_LARGE, "The question is larger than 4 MiB.")
}

fn not_allowed(methods: &'static str) -> Response<Content> {
    let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "The page does not take this method.");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}

/// The same address with the slash that its files are relative to. The path is the token, which has been compared.
fn moved(path: &str) -> Response<Content> {
    let mut response = plain(StatusCode::PERMANENT_REDIRECT, "");
    if let Ok(to) = HeaderValue::from_str(&format!("{path}/")) {
        response.headers_mut().insert(hyper::header::LOCATION, to);
    }
    response
}
