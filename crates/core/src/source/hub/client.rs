//! Requests to the hub: redirects, the token, and the meaning of its answers.

use std::io::Read;
use std::time::Duration;

use ureq::http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use ureq::{Agent, Body};

use super::super::environment::{Environment, Token};
use super::super::printable;
use super::pace::Paced;
use super::retry::Failure;
use crate::error::{Error, ErrorKind, Result};

/// A client for one model on one hub.
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<Token>,
    id: String,
    silence: Duration,
}

/// The hub's information on a file before it is fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Metadata {
    /// Identifies the content: a SHA-256 for LFS files, a git hash for others.
    pub(super) etag: String,
    pub(super) size: Option<u64>,
}

/// A final answer, and what the hub said on the way to it.
pub(super) struct Answer {
    pub(super) response: Response<Body>,
    pub(super) metadata: Option<Metadata>,
}

/// Longer than the file list of any known repository; longer ones are refused.
const LONGEST_LISTING: u64 = 32 << 20;
const MOST_REDIRECTS: usize = 10;

impl Client {
    pub(super) fn new(environment: &Environment, id: &str, silence: Duration) -> Result<Self> {
        let endpoint = environment.endpoint.clone();
        let uri = endpoint.parse::<Uri>().ok();
        if !uri.is_some_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some())
        {
            return Err(Error::input(format!(
                "HF_ENDPOINT is `{}`, which is not an address",
                printable(&endpoint)
            ))
            .hint("an address begins with https:// or http://"));
        }
        if environment
            .token
            .as_ref()
            .is_some_and(|token| !token.secret().bytes().all(|b| b.is_ascii_graphic()))
        {
            return Err(Error::input("the Hugging Face token holds characters that no token has")
                .hint("check HF_TOKEN, or the file that HF_TOKEN_PATH names"));
        }
        let agent = Agent::config_builder()
            // Both are handled here: a status says more than an error, and redirects decide about the token.
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("easyroutine/", env!("CARGO_PKG_VERSION")))
            // Lengths and ranges count the file's own bytes.
            .accept_encoding("identity")
            .timeout_connect(Some(silence))
            .timeout_recv_response(Some(silence))
            // Per read, not for the whole body: a large file may take hours.
            .timeout_per_read(Some(silence))
            .build()
            .new_agent();
        Ok(Client { agent, endpoint, token: environment.token.clone(), id: id.to_owned(), silence })
    }

    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The response of the route that lists a revision's files.
    pub(super) fn listing_text(&self, revision: &str) -> Result<Vec<u8>, Failure> {
        let url = format!("{}/api/models/{}/revision/{}", self.endpoint, self.id, encode(revision, ""));
        let mut answer = self.send(&Method::GET, &url, None)?;
        self.check(&answer.response, &format!("revision `{revision}`"))?;
        let body = answer.response.body_mut().with_config().limit(LONGEST_LISTING).reader();
        let mut text = Vec::new();
        Paced::new(body, self.silence)
            .read_to_end(&mut text)
            .map_err(|e| self.failed(&ureq::Error::from(e)))?;
        Ok(text)
    }

    /// The hub's information on a file.
    pub(super) fn metadata(&self, commit: &str, file: &str) -> Result<Metadata, Failure> {
        let answer = self.send(&Method::HEAD, &self.file_url(commit, file), None)?;
        if !answer.response.status().is_redirection() {
            self.check(&answer.response, &format!("file `{}`", printable(file)))?;
        }
        answer.metadata.ok_or_else(|| {
            let error = Error::new(ErrorKind::Network, format!("{} gives `{file}` no etag", self.endpoint));
            Failure::Lasting(error.hint("is HF_ENDPOINT the address of a Hugging Face hub?"))
        })
    }

    /// The bytes of a file from an offset on; the server may still start at 0 (status 200 instead of 206).
    pub(super) fn bytes(&self, commit: &str, file: &str, from: u64) -> Result<Answer, Failure> {
        let answer = self.send(&Method::GET, &self.file_url(commit, file), (from > 0).then_some(from))?;
        if answer.response.status() != StatusCode::RANGE_NOT_SATISFIABLE {
            self.check(&answer.response, &format!("file `{}`", printable(file)))?;
        }
        Ok(answer)
    }

    /// A connection failure, before or within a response.
    pub(super) fn failed(&self, error: &ureq::Error) -> Failure {
        let message = format!("no connection to {}: {error}", self.endpoint);
        let refused = |e: &std::io::Error| e.kind() == std::io::ErrorKind::ConnectionRefused;
        let error_out = Error::new(ErrorKind::Network, message)
            .hint("check the network; with `--offline` only models in the cache are used");
        match error {
            ureq::Error::Io(e) if refused(e) => Failure::Lasting(error_out),
            ureq::Error::Io(_) | ureq::Error::Timeout(_) | ureq::Error::Protocol(_) => {
                Failure::passing(error_out)
            }
            _ => Failure::Lasting(error_out),
        }
    }

    fn file_url(&self, commit: &str, file: &str) -> String {
        format!("{}/{}/resolve/{commit}/{}", self.endpoint, self.id, encode(file, "/"))
    }

    /// Sends a request and follows redirects. The token goes only to the hub itself. A HEAD request ends at the first
    /// redirect to another host, since the hub has then said all it knows.
    fn send(&self, method: &Method, url: &str, from: Option<u64>) -> Result<Answer, Failure> {
        let mut url = url.to_owned();
        let mut seen = Seen::default();
        let mut token = self.token.as_ref();
        for _ in 0..=MOST_REDIRECTS {
            let mut request = Request::builder().method(method).uri(&url);
            if let Some(token) = token {
                request = request.header("authorization", format!("Bearer {}", token.secret()));
            }
            if let Some(from) = from {
                request = request.header("range", format!("bytes={from}-"));
            }
            let request = request
                .body(())
                .map_err(|e| self.unusable(&format!("a redirect that leads nowhere ({e})")))?;
            let response = self.agent.run(request).map_err(|e| self.failed(&e))?;
            seen.add(response.headers(), response.status(), origin(&url) == origin(&self.endpoint));
            if !is_redirect(response.status()) {
                return Ok(Answer { response, metadata: seen.metadata() });
            }
            let location = header(response.headers(), "location").unwrap_or_default();
            let next = join(&url, location)
                .ok_or_else(|| self.unusable(&format!("a redirect to `{}`", printable(location))))?;
            if origin(&next) != origin(&url) {
                token = None;
                let metadata = seen.metadata().filter(|metadata| metadata.size.is_some());
                if method == Method::HEAD && metadata.is_some() {
                    return Ok(Answer { response, metadata });
                }
            }
            url = next;
        }
        Err(self.unusable("redirects without end"))
    }

    fn unusable(&self, what: &str) -> Failure {
        Failure::Lasting(Error::new(ErrorKind::Network, format!("{} answers with {what}", self.endpoint)))
    }

    /// The meaning of a status other than success; the hub says more in `X-Error-Code` and `X-Error-Message`.
    fn check(&self, response: &Response<Body>, what: &str) -> Result<(), Failure> {
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let (id, endpoint) = (&self.id, &self.endpoint);
        let text = |name| header(response.headers(), name).map(printable).unwrap_or_default();
        let (code, message) = (text("x-error-code"), text("x-error-message"));
        let access = |message: String| Error::new(ErrorKind::Gated, message);
        let absent = |message: String| Error::new(ErrorKind::NotFound, message);
        let lasting = match (status.as_u16(), code.as_str()) {
            (_, "GatedRepo") => self.gated(),
            (_, "RevisionNotFound") => absent(format!("`{id}` has no {what}"))
                .hint(format!("its branches, tags and commits are at {endpoint}/{id}/commits/main")),
            (_, "EntryNotFound") => absent(format!("`{id}` has no {what}")),
            (401, _) if message.contains("Invalid credentials") => {
                access(format!("{endpoint} does not accept the token that was sent"))
                    .hint("check HF_TOKEN, or make a new token at https://huggingface.co/settings/tokens")
            }
            (_, "RepoNotFound") | (401 | 404, _) => {
                absent(format!("{endpoint} has no model `{id}` that you may see"))
                    .hint("check the name; for a private model set HF_TOKEN to a token that may read it")
            }
            (403, _) => access(format!("{endpoint} does not give out `{id}` ({what}): {message}"))
                .hint("the token of HF_TOKEN may lack the right to read it"),
            (number @ (408 | 429 | 500..), _) => {
                let error = Error::new(
                    ErrorKind::Network,
                    format!("{endpoint} answers with status {number} for {what}"),
                )
                .hint("try again later; with `--offline` only models in the cache are used");
                let seconds = header(response.headers(), "retry-after").and_then(|text| text.parse().ok());
                return Err(Failure::Passing(error, Duration::from_secs(seconds.unwrap_or(0))));
            }
            (number, _) => Error::new(
                ErrorKind::Network,
                format!("{endpoint} answers with status {number} for {what} {message}").trim_end().to_owned(),
            ),
        };
        Err(Failure::Lasting(lasting))
    }

    fn gated(&self) -> Error {
        let page = format!("{}/{}", self.endpoint, self.id);
        let todo = match self.token {
            None => format!("accept the licence at {page}, then set HF_TOKEN to a token of that account"),
            Some(_) => format!("accept the licence at {page} with the account that HF_TOKEN belongs to"),
        };
        Error::new(ErrorKind::Gated, format!("`{}` is gated: its licence must be accepted first", self.id))
            .hint(todo)
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// What the responses along a chain of redirects say of a file. The hub's own statement on the linked file takes
/// precedence; after a redirect to a store, the etag is the store's.
#[derive(Default)]
struct Seen {
    linked_etag: Option<String>,
    hub_etag: Option<String>,
    store_etag: Option<String>,
    size: Option<u64>,
}

impl Seen {
    fn add(&mut self, headers: &HeaderMap, status: StatusCode, from_hub: bool) {
        let number = |name| header(headers, name).and_then(|text| text.parse().ok());
        let etag = header(headers, "etag").and_then(clean_etag);
        if from_hub {
            let linked = header(headers, "x-linked-etag").and_then(clean_etag);
            self.linked_etag = self.linked_etag.take().or(linked);
            self.hub_etag = etag.or(self.hub_etag.take());
            self.size = self.size.or(number("x-linked-size"));
        } else {
            self.store_etag = etag.or(self.store_etag.take());
        }
        // The length of a redirect or of a part is not the file's.
        if status == StatusCode::OK {
            self.size = self.size.or(number("content-length"));
        }
    }

    fn metadata(&self) -> Option<Metadata> {
        let etag = self.linked_etag.as_ref().or(self.hub_etag.as_ref()).or(self.store_etag.as_ref())?;
        Some(Metadata { etag: etag.clone(), size: self.size })
    }
}

/// An etag without its quotes and prefix, if it is valid as a file name.
fn clean_etag(etag: &str) -> Option<String> {
    let etag = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
    let fit = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let good = (1..=128).contains(&etag.len()) && !etag.starts_with('.') && etag.bytes().all(fit);
    good.then(|| etag.to_owned())
}

/// Scheme, host and port.
fn origin(url: &str) -> Option<(String, String, Option<u16>)> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let port = uri.port_u16().or(match scheme.as_str() {
        "https" => Some(443),
        "http" => Some(80),
        _ => None,
    });
    Some((scheme, uri.host()?.to_ascii_lowercase(), port))
}

/// Resolves a `Location` header against the address that sent it (RFC 3986, section 5.2, without dot segments, which
/// the server resolves); `None` if it cannot be requested, or would give up encryption.
fn join(base: &str, location: &str) -> Option<String> {
    let (scheme, rest) = base.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let path = &rest[authority.len()..];
    let joined = if location.starts_with("http://") || location.starts_with("https://") {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.is_empty() || location.split(['/', '?']).next()?.contains(':') {
        return None;
    } else {
        let folder = path.split(['?', '#']).next()?.rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    };
    let downgrade = scheme == "https" && !joined.starts_with("https:");
    origin(&joined).filter(|_| !downgrade).map(|_| joined)
}

/// Percent-encodes everything except letters, digits, `-._~` and `keep` (RFC 3986, section 2).
fn encode(text: &str, keep: &str) -> String {
    use std::fmt::Write;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || keep.as_bytes().contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_joined_as_addresses_are() {
        let base = "https://hub.test/a/resolve/main/f?x=1";
        for (location, joined) in [
            ("https://cdn.test/k?s=1", Some("https://cdn.test/k?s=1")),
            ("//cdn.test/k", Some("https://cdn.test/k")),
            ("/b", Some("https://hub.test/b")),
            ("g", Some("https://hub.test/a/resolve/main/g")),
            ("", None),
            ("file:///etc/passwd", None),
            ("javascript:1", None),
            ("https://", None),
            ("http://hub.test/b", None),
        ] {
            assert_eq!(join(base, location).as_deref(), joined, "{location}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        assert_eq!(origin("https://Hub.test/a"), origin("https://hub.test:443/b"));
        for other in [
            "http://hub.test/",
            "https://hub.test:8443/",
            "https://hub.test@evil.test/",
            "https://sub.hub.test/",
        ] {
            assert_ne!(origin("https://hub.test/"), origin(other), "{other}");
        }
    }

    #[test]
    fn an_etag_that_could_leave_the_folder_is_none() {
        assert_eq!(clean_etag("W/\"abc-1\""), Some("abc-1".into()));
        for bad in ["\"../x\"", "\"a/b\"", "\"..\"", "\"\"", "a\\b", &"a".repeat(129)] {
            assert_eq!(clean_etag(bad), None, "{bad}");
        }
    }
}
