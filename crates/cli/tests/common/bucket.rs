//! An in-memory bucket with as much of S3 as a store needs, for this machine only.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// How the bucket treats the conditions of a put.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Conditions {
    Kept,
    Ignored,
}

type Objects = Arc<Mutex<BTreeMap<String, (Vec<u8>, u64)>>>;

/// Serves `s3://bucket` until the test ends, and returns its address.
pub(crate) fn serve(conditions: Conditions) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let objects = Objects::default();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let objects = objects.clone();
            std::thread::spawn(move || while answer(&stream, &objects, conditions).is_some() {});
        }
    });
    address
}

struct Request {
    method: String,
    key: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

/// Reads one request and answers it; `None` if the other side has gone.
fn answer(mut stream: &TcpStream, objects: &Objects, conditions: Conditions) -> Option<()> {
    let request = request(stream)?;
    let (status, headers, body) = respond(&request, objects, conditions);
    let length = if request.method == "HEAD" { None } else { Some(body.len()) };
    let mut head = format!("HTTP/1.1 {status}\r\n{headers}");
    if let Some(length) = length {
        head += &format!("Content-Length: {length}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).ok()?;
    if length.is_some() { stream.write_all(&body).ok() } else { Some(()) }
}

fn request(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        Some(line.trim_end().to_owned())
    };
    let first = line()?;
    let mut headers = BTreeMap::new();
    loop {
        let header = line()?;
        let Some((name, value)) = header.split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").map_or(0, |n: &String| n.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let mut words = first.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        // In a query a plus is a space.
        (decoded(name), decoded(&value.replace('+', " ")))
    };
    let key = decoded(path.trim_start_matches("/bucket").trim_start_matches('/'));
    Some(Request { method, key, query: query.split('&').map(pair).collect(), headers, body })
}

fn respond(request: &Request, objects: &Objects, conditions: Conditions) -> (&'static str, String, Vec<u8>) {
    let mut objects = objects.lock().unwrap();
    let header = |name: &str| request.headers.get(name).map(String::as_str);
    let found = objects.get(&request.key).cloned();
    let tag = |version: u64| format!("\"{version}\"");
    let refused = |status| (status, String::new(), b"<Error><Message>no</Message></Error>".to_vec());
    match request.method.as_str() {
        "PUT" => {
            let is_refused = match (header("if-none-match"), header("if-match")) {
                (Some(_), _) => found.is_some(),
                (_, Some(wanted)) => found.is_none_or(|(_, version)| tag(version) != wanted),
                _ => false,
            };
            if is_refused && conditions == Conditions::Kept {
                return refused("412 Precondition Failed");
            }
            let source = header("x-amz-copy-source").map(|source| decoded(source.trim_start_matches('/')));
            let copied = source.map(|source| objects[source.trim_start_matches("bucket/")].0.clone());
            let xml =
                copied.as_ref().map_or("", |_| "<CopyObjectResult><ETag>\"0\"</ETag></CopyObjectResult>");
            let version = objects.values().map(|(_, version)| version + 1).max().unwrap_or(1);
            let content = copied.unwrap_or_else(|| request.body.clone());
            objects.insert(request.key.clone(), (content, version));
            ("200 OK", format!("ETag: {}\r\n", tag(version)), xml.into())
        }
        "POST" if request.query.contains_key("delete") => {
            let asked = String::from_utf8(request.body.clone()).unwrap();
            let mut xml = String::new();
            for part in asked.split("<Key>").skip(1) {
                let key = part.split("</Key>").next().unwrap();
                objects.remove(key);
                xml += &format!("<Deleted><Key>{key}</Key></Deleted>");
            }
            ("200 OK", String::new(), format!("<DeleteResult>{xml}</DeleteResult>").into_bytes())
        }
        "GET" if request.query.contains_key("list-type") => {
            ("200 OK", String::new(), listing(&objects, &request.query).into_bytes())
        }
        "GET" | "HEAD" => {
            let Some((content, version)) = found else { return refused("404 Not Found") };
            let (status, range, part) = match header("range").map(|range| bounds(range, content.len())) {
                None => ("200 OK", String::new(), content.clone()),
                Some((start, end)) if start < end => {
                    let range = format!("Content-Range: bytes {start}-{}/{}\r\n", end - 1, content.len());
                    ("206 Partial Content", range, content[start..end].to_vec())
                }
                Some(_) => return refused("416 Range Not Satisfiable"),
            };
            let length = match request.method.as_str() {
                "HEAD" => format!("Content-Length: {}\r\n", content.len()),
                _ => String::new(),
            };
            let time = "Last-Modified: Tue, 24 Nov 2026 06:50:00 GMT\r\n";
            (status, format!("ETag: {}\r\n{time}{range}{length}", tag(version)), part)
        }
        _ => refused("501 Not Implemented"),
    }
}

fn listing(objects: &BTreeMap<String, (Vec<u8>, u64)>, query: &BTreeMap<String, String>) -> String {
    let prefix = query.get("prefix").map_or("", String::as_str);
    let (mut folders, mut xml) = (BTreeSet::new(), String::new());
    for (key, (content, version)) in objects.iter().filter(|(key, _)| key.starts_with(prefix)) {
        match key[prefix.len()..].split_once('/').filter(|_| query.contains_key("delimiter")) {
            Some((folder, _)) => drop(folders.insert(format!("{prefix}{folder}/"))),
            None => {
                xml += &format!(
                    "<Contents><Key>{key}</Key><LastModified>2026-11-24T06:50:00.000Z</LastModified>\
                     <ETag>\"{version}\"</ETag><Size>{}</Size></Contents>",
                    content.len()
                );
            }
        }
    }
    for folder in folders {
        xml += &format!("<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>");
    }
    format!("<ListBucketResult><IsTruncated>false</IsTruncated>{xml}</ListBucketResult>")
}

/// The existing part of `bytes=0-9`.
fn bounds(range: &str, length: usize) -> (usize, usize) {
    let (start, end) = range.trim_start_matches("bytes=").split_once('-').unwrap();
    (start.parse().unwrap(), (end.parse::<usize>().unwrap() + 1).min(length))
}

fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, after @ ..] = rest {
        let hex = (*first == b'%').then(|| std::str::from_utf8(&after[..2]).unwrap());
        bytes.push(hex.map_or(*first, |hex| u8::from_str_radix(hex, 16).unwrap()));
        rest = if hex.is_some() { &after[2..] } else { after };
    }
    String::from_utf8(bytes).unwrap()
}
