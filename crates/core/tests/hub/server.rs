//! A small server on this machine that speaks the hub's file routes, and can misbehave on request.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};

/// The commit of every repository here.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// One request as received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) authorization: Option<String>,
}

/// A file of the repository.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    pub(crate) bytes: Vec<u8>,
    pub(crate) etag: String,
    /// Where `resolve` redirects instead of sending the bytes; `/store/NAME` has them.
    pub(crate) redirect: Option<String>,
}

/// The server's contents and behaviour.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hub {
    pub(crate) id: String,
    pub(crate) revisions: BTreeSet<String>,
    pub(crate) files: BTreeMap<String, Served>,
    /// Additional names in the list of files.
    pub(crate) also_listed: Vec<String>,
    /// Only this token gets the files; everyone gets the list.
    pub(crate) gated_for: Option<String>,
    pub(crate) ignores_ranges: bool,
    /// The next GET of such a file ends after this many bytes of the body.
    pub(crate) cuts: VecDeque<(String, usize)>,
    /// After a cut the connection stays open this long, silent.
    pub(crate) silence: Duration,
    /// Statuses of the next answers.
    pub(crate) statuses: VecDeque<u16>,
    /// A GET of this file changes its etag first.
    pub(crate) changes_on_get: Option<String>,
    /// Bodies have no length: they end with the connection.
    pub(crate) ends_by_closing: bool,
    /// Bytes sent beyond what was announced; only where bodies have no length.
    pub(crate) surplus: usize,
    /// Bodies are sent one byte at a time, with this pause after each.
    pub(crate) drip: Option<Duration>,
    /// The list route's answer, if not the list.
    pub(crate) listing: Option<String>,
}

impl Hub {
    /// A repository with these files; those ending in `.safetensors` or `.gguf` are in LFS.
    pub(crate) fn new<const N: usize>(id: &str, files: [(&str, Vec<u8>); N]) -> Self {
        let mut hub =
            Hub { id: id.into(), revisions: ["main".into(), COMMIT.into()].into(), ..Hub::default() };
        for (name, bytes) in files {
            hub.put(name, bytes);
        }
        hub
    }

    /// Adds or replaces a file.
    pub(crate) fn put(&mut self, name: &str, bytes: Vec<u8>) {
        let lfs = name.ends_with(".safetensors") || name.ends_with(".gguf");
        let etag = if lfs { sha256(&bytes) } else { git_hash(&bytes) };
        self.files.insert(name.into(), Served { bytes, etag, redirect: None });
    }

    pub(crate) fn file(&mut self, name: &str) -> &mut Served {
        self.files.get_mut(name).expect("a file of the repository")
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// git's hash of a file.
pub(crate) fn git_hash(bytes: &[u8]) -> String {
    let blob = [format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat();
    sha1::Sha1::digest(blob).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A running server; it stops with the test program.
pub(crate) struct Server {
    pub(crate) address: String,
    hub: Arc<Mutex<Hub>>,
    log: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub(crate) fn start(hub: Hub) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let server = Server { address, hub: Arc::new(Mutex::new(hub)), log: Arc::default() };
        let (hub, log) = (server.hub.clone(), server.log.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (hub, log) = (hub.clone(), log.clone());
                // Some tests hang up in the middle of an answer.
                thread::spawn(move || drop(serve(stream, &hub, &log)));
            }
        });
        server
    }

    /// Changes how the server behaves from now on.
    pub(crate) fn hub(&self) -> MutexGuard<'_, Hub> {
        self.hub.lock().expect("no panic in the server")
    }

    /// The requests since the last call.
    pub(crate) fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut *self.log.lock().expect("no panic in the server"))
    }

    /// The number of requests for a file's bytes since the last call of `requests`, which keeps them.
    pub(crate) fn gets_of(&self, name: &str) -> usize {
        let log = self.log.lock().expect("no panic in the server");
        log.iter()
            .filter(|request| request.method == "GET" && request.path.ends_with(&format!("/{name}")))
            .count()
    }
}

fn serve(stream: TcpStream, hub: &Mutex<Hub>, log: &Mutex<Vec<Request>>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut words = first.split(' ');
    let mut request = Request {
        method: words.next().unwrap_or_default().into(),
        path: words.next().unwrap_or_default().into(),
        range: None,
        authorization: None,
    };
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "range" => request.range = Some(value.trim().into()),
            "authorization" => request.authorization = Some(value.trim().into()),
            _ => {}
        }
    }
    log.lock().expect("no panic").push(request.clone());
    let (answer, silence, drip) = {
        let mut hub = hub.lock().expect("no panic");
        (answer(&mut hub, &request), hub.silence, hub.drip)
    };
    answer.send(&stream, request.method == "HEAD", drip)?;
    if answer.cut.is_some() {
        thread::sleep(silence);
    }
    Ok(())
}

#[derive(Default)]
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// Where the body ends, although more was announced.
    cut: Option<usize>,
    unsized_body: bool,
}

impl Answer {
    fn status(status: u16) -> Self {
        Answer { status, ..Answer::default() }
    }

    fn error(status: u16, code: &str) -> Self {
        Answer { headers: vec![("X-Error-Code", code.into())], ..Answer::status(status) }
    }

    fn send(&self, mut stream: &TcpStream, head: bool, drip: Option<Duration>) -> std::io::Result<()> {
        let mut text = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", self.status);
        if !self.unsized_body {
            text.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        stream.write_all(format!("{text}\r\n").as_bytes())?;
        if !head {
            let body = &self.body[..self.cut.unwrap_or(self.body.len())];
            for piece in body.chunks(if drip.is_some() { 1 } else { body.len().max(1) }) {
                stream.write_all(piece)?;
                thread::sleep(drip.unwrap_or_default());
            }
        }
        stream.flush()
    }
}

fn answer(hub: &mut Hub, request: &Request) -> Answer {
    if let Some(status) = hub.statuses.pop_front() {
        return Answer::status(status);
    }
    if let Some(name) = request.path.strip_prefix("/store/") {
        return bytes(hub, name, request, Vec::new());
    }
    if let Some(rest) = request.path.strip_prefix("/api/models/") {
        return listing(hub, rest);
    }
    let Some((id, rest)) = request.path[1..].split_once("/resolve/") else { return Answer::status(404) };
    let (revision, name) = rest.split_once('/').unwrap_or((rest, ""));
    if id != hub.id {
        return Answer::error(401, "RepoNotFound");
    }
    let allowed =
        hub.gated_for.as_ref().is_none_or(|token| request.authorization == Some(format!("Bearer {token}")));
    if !allowed {
        return Answer::error(if request.authorization.is_some() { 403 } else { 401 }, "GatedRepo");
    }
    if !hub.revisions.contains(revision) {
        return Answer::error(404, "RevisionNotFound");
    }
    if request.method == "GET" && hub.changes_on_get.take_if(|changing| changing == name).is_some() {
        hub.file(name).etag = "changed".repeat(6);
    }
    let Some(file) = hub.files.get(name) else { return Answer::error(404, "EntryNotFound") };
    let mut headers = vec![("X-Repo-Commit", COMMIT.to_owned())];
    if let Some(location) = &file.redirect {
        headers.push(("X-Linked-Etag", format!("\"{}\"", file.etag)));
        headers.push(("X-Linked-Size", file.bytes.len().to_string()));
        headers.push(("Location", location.clone()));
        return Answer { headers, ..Answer::status(302) };
    }
    headers.push(("ETag", format!("\"{}\"", file.etag)));
    bytes(hub, name, request, headers)
}

fn listing(hub: &Hub, rest: &str) -> Answer {
    let Some((id, revision)) = rest.split_once("/revision/") else { return Answer::status(404) };
    if id != hub.id {
        return Answer::error(401, "RepoNotFound");
    }
    if !hub.revisions.contains(revision) {
        return Answer::error(404, "RevisionNotFound");
    }
    let names = hub.files.keys().chain(&hub.also_listed);
    let siblings: Vec<_> = names.map(|name| serde_json::json!({ "rfilename": name })).collect();
    let json = serde_json::json!({ "id": id, "sha": COMMIT, "siblings": siblings }).to_string();
    Answer { body: hub.listing.clone().unwrap_or(json).into(), ..Answer::status(200) }
}

fn bytes(hub: &mut Hub, name: &str, request: &Request, headers: Vec<(&'static str, String)>) -> Answer {
    let Some(file) = hub.files.get(name) else { return Answer::status(404) };
    let all = &file.bytes;
    let from = request.range.as_ref().filter(|_| !hub.ignores_ranges).map(|range| {
        range.trim_start_matches("bytes=").trim_end_matches('-').parse::<usize>().expect("an open range")
    });
    let mut answer = match from {
        Some(from) if from >= all.len() => return Answer::status(416),
        Some(from) => {
            let range = format!("bytes {from}-{}/{}", all.len() - 1, all.len());
            Answer {
                body: all[from..].to_vec(),
                headers: vec![("Content-Range", range)],
                ..Answer::status(206)
            }
        }
        None => Answer { body: all.clone(), ..Answer::status(200) },
    };
    answer.headers.extend(headers);
    if request.method == "GET" {
        answer.body.extend(vec![b'x'; hub.surplus]);
        answer.unsized_body = hub.ends_by_closing;
        let at = hub.cuts.iter().position(|(cut, _)| cut == name);
        answer.cut = at.and_then(|at| hub.cuts.remove(at)).map(|(_, length)| length.min(answer.body.len()));
    }
    answer
}
