//! What is rejected, what is never sent, and what the errors say.

use easyroutine::ErrorKind;
use easyroutine::source::resolve_in;

use super::place::{Place, cut, once, retrying, small_model};
use super::server::{COMMIT, Hub, Server};
use crate::common::folder::Folder;

#[test]
fn a_gated_model_names_its_page_and_the_token() {
    let mut hub = small_model("org/name");
    hub.gated_for = Some("hf_good".into());
    let place = Place::new(hub);
    let (kind, message, hint) = place.fails("org/name", &retrying(3));
    assert_eq!(kind, ErrorKind::Gated);
    assert!(message.contains("`org/name` is gated"), "{message}");
    assert!(
        hint.contains(&format!("{}/org/name", place.server.address)) && hint.contains("HF_TOKEN"),
        "{hint}"
    );

    let with_token = |token| {
        let variables = [("HF_ENDPOINT", place.server.address.as_str()), ("HF_TOKEN", token)];
        resolve_in("org/name", &once(), &place.folder.environment(&variables))
    };
    let error = with_token("hf_other").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Gated);
    let said = format!("{error} {error:?} {:?}", error.hint_text());
    assert!(said.contains("account") && !said.contains("hf_other"), "{said}");
    place.server.requests();
    with_token("hf_good").unwrap();
    let all_signed = place
        .server
        .requests()
        .iter()
        .all(|request| request.authorization.as_deref() == Some("Bearer hf_good"));
    assert!(all_signed);
}

#[test]
fn the_token_is_not_sent_to_another_host() {
    let store = Server::start(small_model("org/name"));
    let place = Place::with(small_model("org/name"), &[("HF_TOKEN", "hf_secret")]);
    place.server.hub().file("model.safetensors").redirect =
        Some(format!("{}/store/model.safetensors", store.address));
    // Back to the hub: the token was dropped on the way and is not sent again.
    place.server.hub().file("tokenizer.json").redirect =
        Some(format!("{}/org/name/resolve/{COMMIT}/back", store.address));
    store.hub().put("back", Vec::new());
    store.hub().file("back").redirect = Some(format!("{}/store/tokenizer.json", place.server.address));
    let files = place.resolve("org/name", &once()).unwrap();
    assert!(place.has(&files, "model.safetensors") && place.has(&files, "tokenizer.json"));
    let elsewhere = store.requests();
    assert_eq!(elsewhere.iter().filter(|request| request.method == "GET").count(), 2, "{elsewhere:?}");
    assert!(elsewhere.iter().all(|request| request.authorization.is_none()), "{elsewhere:?}");
    for request in place.server.requests() {
        assert_eq!(request.authorization.is_some(), !request.path.starts_with("/store/"), "{request:?}");
    }
}

#[test]
fn redirects_on_the_same_host_are_followed_and_their_parts_resumed() {
    for location in ["/store/model.safetensors", "../../../../store/model.safetensors"] {
        let place = Place::new(small_model("org/name"));
        place.server.hub().file("model.safetensors").redirect = Some(location.into());
        cut(&place, "model.safetensors", 5000);
        if location.starts_with("..") {
            // Resolving dots is the server's task, and this one does not: still an error, not a hang.
            assert_eq!(place.fails("org/name", &retrying(2)).0, ErrorKind::NotFound);
            continue;
        }
        let files = place.resolve("org/name", &retrying(2)).unwrap();
        assert!(place.has(&files, "model.safetensors"));
        assert!(
            place.server.requests().iter().any(|request| request.range.as_deref() == Some("bytes=5000-"))
        );
    }
}

#[test]
fn redirects_without_end_or_to_nowhere_are_errors() {
    for location in
        [format!("/org/name/resolve/{COMMIT}/config.json"), "file:///etc/passwd".into(), String::new()]
    {
        let place = Place::new(small_model("org/name"));
        place.server.hub().file("config.json").redirect = Some(location.clone());
        let (kind, message, _) = place.fails("org/name", &retrying(2));
        assert_eq!(kind, ErrorKind::Network, "{location}: {message}");
        assert!(place.server.requests().len() < 30, "{location}");
    }
}

#[test]
fn what_the_hub_does_not_have_is_named() {
    let place = Place::new(small_model("org/name"));
    let cases = [
        ("org/other", "no model `org/other`", "HF_TOKEN"),
        ("org/name@nope", "`org/name` has no revision `nope`", "branches"),
        ("org/name:x.gguf", "`org/name` has no file `x.gguf`", ""),
    ];
    for (reference, expected, expected_hint) in cases {
        let (kind, message, hint) = place.fails(reference, &retrying(3));
        assert_eq!(kind, ErrorKind::NotFound, "{reference}");
        assert!(message.contains(expected) && hint.contains(expected_hint), "{message} / {hint}");
    }
    assert_eq!(place.server.requests().len(), cases.len(), "what is not there is asked for once");
    assert_eq!(place.folder.tree(), [""; 0]);
}

#[test]
fn names_that_would_leave_the_snapshot_are_refused() {
    let outside = [
        "../../../../evil.safetensors",
        "/tmp/evil.safetensors",
        "a/../../evil.safetensors",
        "..\\evil.safetensors",
    ];
    for name in outside {
        let index = serde_json::json!({ "weight_map": { "a": name } }).to_string();
        let mut hub = small_model("org/name");
        hub.files.remove("model.safetensors");
        hub.put("model.safetensors.index.json", index.into_bytes());
        hub.also_listed = vec![name.into()];
        let place = Place::new(hub);
        let (kind, message, _) = place.fails("org/name", &once());
        assert_eq!(kind, ErrorKind::Format, "{name}");
        assert!(message.contains("evil.safetensors") && message.contains("tensor `a`"), "{message}");
        assert!(place.folder.tree().iter().all(|file| file.starts_with("hub/") && !file.contains("evil")));
    }
    for etag in ["../../evil", "..", ""] {
        let place = Place::new(small_model("org/name"));
        place.server.hub().file("config.json").etag = etag.into();
        assert_eq!(place.fails("org/name", &once()).0, ErrorKind::Network, "{etag}");
        assert!(place.folder.tree().iter().all(|file| !file.contains("evil")));
    }
    let mut hub = small_model("org/name");
    hub.listing = Some(r#"{"sha": "../../../evil", "siblings": []}"#.into());
    let place = Place::new(hub);
    assert_eq!(place.fails("org/name", &once()).0, ErrorKind::Network);
    assert_eq!(place.folder.tree(), [""; 0]);
}

#[test]
fn repositories_that_cannot_be_read_are_refused_by_what_they_hold() {
    let config = || ("config.json", b"{}".to_vec());
    let cases = [
        (
            Hub::new("org/name", [config(), ("pytorch_model.bin", vec![0])]),
            "`pytorch_model.bin`, a pickle file",
        ),
        (Hub::new("org/name", [config(), ("model.pt", vec![0])]), "`model.pt`, a pickle file"),
        (Hub::new("org/name", [("model.safetensors", vec![0])]), "no config.json"),
        (
            Hub::new("org/name", [config(), ("consolidated.safetensors", vec![0])]),
            "only `consolidated.safetensors`",
        ),
        (Hub::new("org/name", [config()]), "no weights"),
    ];
    for (hub, expected) in cases {
        let place = Place::new(hub);
        let (kind, message, hint) = place.fails("org/name", &once());
        assert_eq!(kind, ErrorKind::Unsupported, "{message}");
        assert!(message.contains(expected) && !hint.is_empty(), "{message} / {hint}");
        assert_eq!(place.server.requests().len(), 1, "nothing but the list is fetched");
        assert_eq!(place.folder.tree(), [""; 0]);
    }
}

#[test]
fn a_server_that_is_not_there_is_a_network_error() {
    let folder = Folder::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let endpoint = format!("http://127.0.0.1:{port}");
    for (endpoint, kind, expected) in [
        (endpoint.as_str(), ErrorKind::Network, "127.0.0.1"),
        ("ftp://hub.test", ErrorKind::Input, "HF_ENDPOINT is `ftp://hub.test`"),
        ("nonsense", ErrorKind::Input, "HF_ENDPOINT is `nonsense`"),
    ] {
        let environment = folder.environment(&[("HF_ENDPOINT", endpoint)]);
        let error = resolve_in("org/name", &once(), &environment).unwrap_err();
        assert_eq!(error.kind(), kind, "{endpoint}");
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.hint_text().unwrap().contains("--offline"), kind == ErrorKind::Network);
    }
}

#[test]
fn a_server_that_sends_too_much_or_nonsense_is_refused() {
    let place = Place::new(small_model("org/name"));
    place.server.hub().ends_by_closing = true;
    place.server.hub().surplus = 10;
    let (kind, message, _) = place.fails("org/name", &retrying(3));
    assert_eq!(kind, ErrorKind::Network);
    assert!(message.contains("more of"), "{message}");
    assert_eq!(place.incomplete(), [""; 0]);
    for listing in ["<html>", "[]", r#"{"sha": 5}"#, &format!(r#"{{"sha": "{COMMIT}"}}"#)] {
        let mut hub = small_model("org/name");
        hub.listing = Some(listing.into());
        let (kind, _, hint) = Place::new(hub).fails("org/name", &once());
        assert_eq!(kind, ErrorKind::Network, "{listing}");
        assert!(hint.contains("HF_ENDPOINT"), "{hint}");
    }
}

#[test]
fn a_token_is_never_printed() {
    let place = Place::with(small_model("org/name"), &[("HF_TOKEN", "hf_secret")]);
    assert!(!format!("{:?}", place.environment).contains("secret"));
    let place = Place::with(small_model("org/name"), &[("HF_TOKEN", "hf_sec\nret: x")]);
    let (kind, message, hint) = place.fails("org/name", &once());
    assert_eq!(kind, ErrorKind::Input);
    assert!(!message.contains("sec\n") && hint.contains("HF_TOKEN"), "{message}");
}
