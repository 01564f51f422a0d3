//! The server against hostile and broken clients: raw bytes on a socket.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use easyroutine_serve::{Options, Page, Reply, Server, Token};
use serde_json::{Value, json};

const TOKEN: &str = "test-token-0123456789abcdef";
const PAGES: &[Page] = &[
    Page { path: "", media_type: "text/html; charset=utf-8", content: "<!doctype html>page" },
    Page { path: "app.js", media_type: "text/javascript; charset=utf-8", content: "1;" },
];

/// Starts an echo server; the answer to `{"wait": true}` lasts until the client goes, which `gone` then reports.
fn start(framed_by: &[&str]) -> (u16, mpsc::Receiver<()>) {
    let options = Options {
        port: 0,
        token: Token::new(TOKEN).unwrap(),
        framed_by: framed_by.iter().map(|origin| (*origin).to_owned()).collect(),
    };
    let server = Server::bind(options).unwrap();
    let address = server.address();
    let port = address.split(':').nth(2).unwrap().split('/').next().unwrap().parse().unwrap();
    let (told, gone) = mpsc::channel();
    thread::spawn(move || {
        server.run(PAGES, move |_| {
            move |question: Value, reply: &Reply| {
                if question.get("wait").is_some() {
                    reply.doing("waiting");
                    while !reply.is_abandoned() {
                        thread::sleep(Duration::from_millis(5));
                    }
                    told.send(()).unwrap();
                }
                reply.send(&json!({"event": "result", "data": question}));
            }
        })
    });
    (port, gone)
}

fn send(port: u16, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // A server that refuses early may close before everything is sent.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn get(port: u16, path: &str, headers: &str) -> String {
    send(port, format!("GET {path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n").as_bytes())
}

fn host(port: u16) -> String {
    format!("Host: 127.0.0.1:{port}\r\n")
}

fn post(port: u16, body: &str) -> String {
    let head = format!(
        "POST /{TOKEN}/ask HTTP/1.1\r\n{}Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        host(port),
        body.len()
    );
    send(port, (head + body).as_bytes())
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

#[test]
fn pages_come_with_a_policy_that_allows_nothing_from_outside() {
    let (port, _) = start(&[]);
    for path in ["", "app.js"] {
        let answer = get(port, &format!("/{TOKEN}/{path}"), &host(port)).to_lowercase();
        assert_eq!(status(&answer), "200");
        for header in [
            "default-src 'none'; script-src 'self'; style-src 'self';",
            "frame-ancestors 'none'",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cache-control: no-store",
        ] {
            assert!(answer.contains(header), "{header}: {answer}");
        }
        assert!(!answer.contains("access-control"), "no other origin may read it");
    }
    let answer = get(port, &format!("/{TOKEN}"), &host(port));
    assert_eq!(status(&answer), "308");
    assert!(answer.contains(&format!("location: /{TOKEN}/\r\n")), "{answer}");
    assert_eq!(status(&get(port, &format!("/{TOKEN}/other.js"), &host(port))), "404");
    assert_eq!(status(&get(port, &format!("/{TOKEN}/../{TOKEN}/app.js"), &host(port))), "404");
    assert_eq!(status(&get(port, &format!("/{TOKEN}/ask"), &host(port))), "405");
}

#[test]
fn a_frame_is_for_the_origins_that_were_named() {
    let (port, _) = start(&["http://localhost:8888"]);
    let answer = get(port, &format!("/{TOKEN}/"), &host(port));
    assert!(answer.contains("frame-ancestors http://localhost:8888\r\n"), "{answer}");
    for bad in ["localhost:8888", "http://a; script-src *", "http://a b", "http://a\r\nx: y"] {
        let options = Options { port: 0, token: Token::new(TOKEN).unwrap(), framed_by: vec![bad.to_owned()] };
        assert!(Server::bind(options).is_err(), "{bad}");
    }
}

#[test]
fn without_token_host_or_own_origin_there_is_nothing() {
    let (port, _) = start(&[]);
    let page = format!("/{TOKEN}/");
    for path in ["/", "/app.js", "/favicon.ico", "/wrong-token-0123456789abcdef/"] {
        let answer = get(port, path, &host(port));
        assert_eq!(status(&answer), "403", "{path}");
        assert!(!answer.contains(TOKEN) && answer.contains("easyroutine serve"), "{answer}");
    }
    assert_eq!(status(&get(port, &page, &format!("Host: evil.example:{port}\r\n"))), "421");
    assert_eq!(status(&get(port, &page, "")), "421");
    assert_eq!(status(&get(port, &page, &(host(port) + &host(port)))), "421");
    let foreign = format!("{}Origin: http://evil.example\r\n", host(port));
    assert_eq!(status(&get(port, &page, &foreign)), "403");
    let own = format!("{}Origin: http://127.0.0.1:{port}\r\n", host(port));
    assert_eq!(status(&get(port, &page, &own)), "200");
}

#[test]
fn a_question_is_one_json_object_of_bounded_size() {
    let (port, _) = start(&[]);
    let answer = post(port, r#"{"prompt": "hi"}"#);
    assert_eq!(status(&answer), "200");
    assert!(answer.contains(r#"{"event":"waiting","ahead":0,"doing":""}"#), "{answer}");
    assert!(answer.contains(r#"{"event":"result","data":{"prompt":"hi"}}"#), "{answer}");
    for bad in ["", "[]", "3", "{", "nonsense", "\u{feff}{}", "{}{}"] {
        assert_eq!(status(&post(port, bad)), "400", "{bad:?}");
    }
    let deep = "{\"a\":".repeat(100_000);
    assert_eq!(status(&post(port, &deep)), "400");
    let form = format!(
        "POST /{TOKEN}/ask HTTP/1.1\r\n{}Content-Type: text/plain\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}",
        host(port)
    );
    assert_eq!(status(&send(port, form.as_bytes())), "415");

    // Refused because of the stated length, before a byte of it is read.
    let head = |length: &str| {
        format!(
            "POST /{TOKEN}/ask HTTP/1.1\r\n{}Content-Type: application/json\r\n{length}\r\nConnection: close\r\n\r\n",
            host(port)
        )
    };
    assert_eq!(status(&send(port, head("Content-Length: 99999999999").as_bytes())), "413");
    // A body without a stated length is cut off at the limit.
    let mut chunked = head("Transfer-Encoding: chunked").into_bytes();
    for _ in 0..5 {
        chunked.extend(b"100000\r\n");
        chunked.extend(vec![b' '; 1 << 20]);
        chunked.extend(b"\r\n");
    }
    chunked.extend(b"0\r\n\r\n");
    let answer = send(port, &chunked);
    assert!(answer.is_empty() || status(&answer) == "413", "{answer}");
    assert_eq!(status(&post(port, "{}")), "200", "the server goes on");
}

#[test]
fn malformed_requests_end_their_own_connection_alone() {
    let (port, _) = start(&[]);
    let long = format!("GET /{TOKEN}/ HTTP/1.1\r\n{}x: {}\r\n\r\n", host(port), "a".repeat(1 << 20));
    let many = format!("GET /{TOKEN}/ HTTP/1.1\r\n{}{}\r\n", host(port), "x: y\r\n".repeat(1000));
    let smuggled = format!(
        "POST /{TOKEN}/ask HTTP/1.1\r\n{}Content-Type: application/json\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}}}",
        host(port)
    );
    for request in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01"[..],
        b"GET\r\n\r\n",
        b"\0\0\0\0",
        b"GET / HTTP/9.9\r\n\r\n",
        long.as_bytes(),
        many.as_bytes(),
        smuggled.as_bytes(),
    ] {
        let answer = send(port, request);
        assert!(answer.is_empty() || matches!(status(&answer), "400" | "431" | "505"), "{answer}");
    }
    assert_eq!(status(&get(port, &format!("/{TOKEN}/"), &host(port))), "200");
}

#[test]
fn slow_clients_are_let_go_and_do_not_hold_others_up() {
    let (port, _) = start(&[]);
    let begin = Instant::now();
    let mut slow: Vec<TcpStream> = (0..8).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    for (i, stream) in slow.iter_mut().enumerate() {
        if i % 2 == 0 {
            stream.write_all(b"GET /").unwrap();
        } else {
            let head = format!(
                "POST /{TOKEN}/ask HTTP/1.1\r\n{}Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{{",
                host(port)
            );
            stream.write_all(head.as_bytes()).unwrap();
        }
    }
    assert_eq!(status(&get(port, &format!("/{TOKEN}/"), &host(port))), "200");
    assert!(begin.elapsed() < Duration::from_secs(5));
    for stream in &mut slow {
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.is_empty() || status(&answer) == "408", "{answer}");
    }
    assert!(begin.elapsed() < Duration::from_secs(25), "{:?}", begin.elapsed());
}

#[test]
fn a_browser_that_goes_away_ends_its_question_and_the_next_is_answered() {
    let (port, gone) = start(&[]);
    let body = r#"{"wait": true}"#;
    let head = format!(
        "POST /{TOKEN}/ask HTTP/1.1\r\n{}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        host(port),
        body.len()
    );
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    let mut some = [0; 64];
    assert!(stream.read(&mut some).unwrap() > 0);
    thread::sleep(Duration::from_millis(50));
    let next = thread::spawn(move || post(port, r#"{"next": 1}"#));
    thread::sleep(Duration::from_millis(50));
    drop(stream);
    gone.recv_timeout(Duration::from_secs(5)).expect("the question goes on though nobody waits for it");
    let answer = next.join().unwrap();
    assert!(answer.contains(r#""ahead":1,"doing":"waiting""#), "{answer}");
    assert!(answer.contains(r#""data":{"next":1}"#), "{answer}");
}

#[test]
fn a_port_that_is_taken_is_named() {
    let (port, _) = start(&[]);
    let options = Options { port, token: Token::new(TOKEN).unwrap(), framed_by: Vec::new() };
    let error = Server::bind(options).unwrap_err();
    assert_eq!(error.to_string(), format!("port {port} is taken by another program"));
}
