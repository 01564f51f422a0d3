//! The socket, and the threads behind it.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hyper::header::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::runtime::Builder;
use tokio::sync::Semaphore;

use crate::connection::{Site, answer};
use crate::guard::{Guard, Token};
use crate::page::Page;
use crate::queue::{Doing, Line, Reply, line};

/// Limit on open connections; a browser opens six.
const MOST_CONNECTIONS: usize = 64;
/// Time limit for a request's headers, and for an idle connection.
const SLOWEST_HEADERS: Duration = Duration::from_secs(10);
/// Size limit for headers in bytes.
const LARGEST_HEADERS: usize = 32 << 10;

/// Options of a server.
#[derive(Debug)]
pub struct Options {
    /// The port; 0 chooses a free one.
    pub port: u16,
    /// The token of the address.
    pub token: Token,
    /// Origins whose pages may frame the page: `http://localhost:8888`. Empty means none.
    pub framed_by: Vec<String>,
}

/// A port that cannot be bound.
#[derive(Debug)]
pub struct BindError {
    /// The requested port.
    pub port: u16,
    /// The system's error.
    pub error: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.error.kind() {
            io::ErrorKind::AddrInUse => write!(f, "port {} is taken by another program", self.port),
            _ => write!(f, "port {}: {}", self.port, self.error),
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// A server that listens but does not answer yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    token: Token,
    policy: HeaderValue,
}

impl Server {
    /// Binds the port, on loopback only.
    ///
    /// # Errors
    /// If the port is in use, or not allowed for this user.
    pub fn bind(options: Options) -> Result<Self, BindError> {
        let failed = |error| BindError { port: options.port, error };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port)).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let policy = policy(&options.framed_by).map_err(failed)?;
        Ok(Server { listener, address, token: options.token, policy })
    }

    /// The address of the page, with the token.
    pub fn address(&self) -> String {
        format!("http://{}/{}/", self.address, self.token.as_str())
    }

    /// Answers until the process ends. `pages` are the files that a browser loads. `answerer` is called on a separate
    /// thread; the function that it returns answers the questions there, one after another.
    ///
    /// # Errors
    /// If the system refuses a thread, or the socket breaks.
    pub fn run<A>(
        self,
        pages: &'static [Page],
        answerer: impl FnOnce(&Doing) -> A + Send + 'static,
    ) -> io::Result<()>
    where
        A: FnMut(Value, &Reply),
    {
        let (line, desk) = line();
        thread::Builder::new().name("answers".to_owned()).spawn(move || desk.work(answerer))?;
        self.accept(pages, line)
    }

    fn accept(self, pages: &'static [Page], line: Line) -> io::Result<()> {
        let guard = Guard::new(self.token, self.address.port());
        let site = Arc::new(Site { guard, pages, line, policy: self.policy });
        let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
        let tasks = tokio::task::LocalSet::new();
        tasks.block_on(&runtime, async {
            let listener = tokio::net::TcpListener::from_std(self.listener)?;
            let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
            loop {
                let Ok(place) = Arc::clone(&places).acquire_owned().await else { return Ok(()) };
                let stream = match listener.accept().await {
                    Ok((stream, _)) => stream,
                    // The client has gone, or there is no file descriptor for it; go on with others.
                    Err(_) => {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                };
                let site = Arc::clone(&site);
                tokio::task::spawn_local(async move {
                    let service = service_fn(move |request| answer(Arc::clone(&site), request));
                    // An error of a connection concerns only that connection.
                    let _ = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(SLOWEST_HEADERS)
                        .max_buf_size(LARGEST_HEADERS)
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                    drop(place);
                });
            }
        })
    }
}

/// The page may load only its own files, send nothing elsewhere, and be framed only by the given origins.
fn policy(framed_by: &[String]) -> io::Result<HeaderValue> {
    let is_origin = |origin: &&String| origin.starts_with("http://") || origin.starts_with("https://");
    let is_plain = |origin: &&String| {
        origin
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, ':' | '/' | '.' | '-' | '*' | '[' | ']'))
    };
    if let Some(bad) = framed_by.iter().find(|origin| !is_origin(origin) || !is_plain(origin)) {
        let text = format!("{bad:?} is not an origin such as http://localhost:8888");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let frames = if framed_by.is_empty() { "'none'".to_owned() } else { framed_by.join(" ") };
    let text = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors {frames}"
    );
    HeaderValue::from_str(&text).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))
}
