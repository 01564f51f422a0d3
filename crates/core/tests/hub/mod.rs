//! Downloads from a server on this machine that speaks the hub's file routes.
#![cfg(feature = "hub")]

mod place;
mod refusals;
mod resume;
mod server;

use std::fs;
use std::path::Path;

use easyroutine::ErrorKind;
use easyroutine::source::{AdapterChoice, FilesKind, ResolveOptions};

use self::place::{Place, cut, once, small_model, weights};
use self::server::{COMMIT, Hub};

#[test]
fn a_download_fills_the_cache_in_the_layout_of_the_python_package() {
    let place = Place::new(small_model("org/name"));
    let files = place.resolve("org/name", &once()).unwrap();
    let root = "hub/models--org--name";
    let snapshot = place.folder.path().join(root).join("snapshots").join(COMMIT);
    assert_eq!(files.kind, FilesKind::Folder(snapshot.clone()));
    assert_eq!((files.name.as_str(), files.commit.as_deref()), ("org/name", Some(COMMIT)));
    let fetched = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    let mut expected = vec![format!("{root}/refs/main")];
    for name in fetched {
        let etag = place.server.hub().file(name).etag.clone();
        expected.push(format!("{root}/blobs/{etag}"));
        expected.push(format!("{root}/snapshots/{COMMIT}/{name}"));
        assert_eq!(fs::read_link(snapshot.join(name)).unwrap(), Path::new("../../blobs").join(etag));
        assert!(place.has(&files, name), "{name}");
    }
    expected.sort();
    assert_eq!(place.folder.tree(), expected);
    assert_eq!(fs::read_to_string(place.folder.path().join(root).join("refs/main")).unwrap(), COMMIT);
}

#[test]
fn chat_templates_beside_the_models_own_come_along() {
    let place = Place::new(small_model("org/name"));
    let name = "additional_chat_templates/rag.jinja";
    place.server.hub().put(name, b"{{ messages }}".to_vec());
    let files = place.resolve("org/name", &once()).unwrap();
    assert!(place.has(&files, name));
}

#[test]
fn a_model_in_the_cache_needs_no_request() {
    let place = Place::new(small_model("org/name"));
    let first = place.resolve("org/name", &once()).unwrap();
    assert!(!place.server.requests().is_empty());
    for reference in ["org/name", "org/name@main", &format!("org/name@{COMMIT}")] {
        assert_eq!(place.resolve(reference, &once()).unwrap(), first, "{reference}");
    }
    let offline = ResolveOptions { offline: true, ..once() };
    assert_eq!(place.resolve("org/name", &offline).unwrap(), first);
    assert_eq!(place.server.requests(), []);
}

#[test]
fn offline_no_request_is_made() {
    for variables in [&[][..], &[("HF_HUB_OFFLINE", "1")], &[("TRANSFORMERS_OFFLINE", "Yes")]] {
        let place = Place::with(small_model("org/name"), variables);
        let options = ResolveOptions { offline: variables.is_empty(), ..once() };
        let (kind, message, hint) = place.fails("org/name", &options);
        assert_eq!(kind, ErrorKind::Offline);
        let why = if variables.is_empty() { "--offline" } else { "HF_HUB_OFFLINE" };
        assert!(message.contains("`org/name` at `main`") && message.contains(why), "{message}");
        assert!(hint.contains("hf download org/name"), "{hint}");
        assert_eq!(place.server.requests(), []);
    }
}

#[test]
fn a_sharded_model_is_fetched_by_its_index() {
    let index = br#"{"weight_map": {"a": "model-2.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"}}"#;
    let hub = Hub::new(
        "org/name",
        [
            ("config.json", b"{}".to_vec()),
            ("tokenizer.json", b"{}".to_vec()),
            ("model.safetensors.index.json", index.to_vec()),
            ("model-1.safetensors", weights(1, 1000)),
            ("model-2.safetensors", weights(2, 2000)),
            ("other.safetensors", weights(3, 3000)),
        ],
    );
    let place = Place::new(hub);
    cut(&place, "model-2.safetensors", 10);
    place.fails("org/name", &once());
    let (kind, message, _) = place.fails("org/name", &ResolveOptions { offline: true, ..once() });
    assert_eq!(kind, ErrorKind::Offline);
    assert!(message.contains("without `model-2.safetensors`, and"), "{message}");
    place.server.requests();
    let files = place.resolve("org/name", &once()).unwrap();
    assert!(place.has(&files, "model-1.safetensors") && place.has(&files, "model-2.safetensors"));
    for (name, times) in [("model-1.safetensors", 0), ("model-2.safetensors", 1), ("other.safetensors", 0)] {
        assert_eq!(place.server.gets_of(name), times, "{name}");
    }
}

#[test]
fn every_part_of_a_split_gguf_file_is_fetched() {
    let gguf = |seed| [b"GGUF".to_vec(), weights(seed, 500)].concat();
    let [first, second] = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"];
    let place = Place::new(Hub::new("org/one", [(first, gguf(1)), (second, gguf(2))]));
    cut(&place, second, 10);
    place.fails("org/one", &once());
    let (_, message, _) = place.fails("org/one", &ResolveOptions { offline: true, ..once() });
    assert!(message.contains("without `m-00002-of-00002.gguf`"), "{message}");
    let files = place.resolve("org/one", &once()).unwrap();
    assert!(files.path().ends_with(first) && files.path().with_file_name(second).is_file());

    let all = [(first, gguf(1)), (second, gguf(2)), ("q8.gguf", gguf(3)), ("x-00001-of-00002.gguf", gguf(4))];
    let place = Place::new(Hub::new("org/many", all));
    let files = place.resolve(&format!("org/many:{second}"), &once()).unwrap();
    assert!(files.path().ends_with(second) && files.path().with_file_name(first).is_file());
    let (_, message, _) = place.fails("org/many:x-00001-of-00002.gguf", &once());
    assert!(message.contains("has no file `x-00002-of-00002.gguf`"), "{message}");
}

#[test]
fn a_gguf_file_is_taken_where_it_is_the_only_one_or_named() {
    let gguf = |seed| [b"GGUF".to_vec(), weights(seed, 500)].concat();
    let place = Place::new(Hub::new("org/one", [("model.gguf", gguf(1)), ("README.md", b"#".to_vec())]));
    let files = place.resolve("org/one", &once()).unwrap();
    assert!(matches!(&files.kind, FilesKind::Gguf(path) if path.ends_with(format!("{COMMIT}/model.gguf"))));
    assert_eq!((files.name.as_str(), files.commit.as_deref()), ("org/one", Some(COMMIT)));
    place.server.requests();
    assert_eq!(place.resolve("org/one", &once()).unwrap(), files);
    assert_eq!(place.server.requests(), []);

    let many = Hub::new("org/many", [("q4.gguf", gguf(1)), ("q8.gguf", gguf(2)), ("more/f16.gguf", gguf(3))]);
    let place = Place::new(many);
    let (kind, message, hint) = place.fails("org/many", &once());
    assert_eq!(kind, ErrorKind::InvalidReference);
    assert!(message.contains("`more/f16.gguf`, `q4.gguf`, `q8.gguf`"), "{message}");
    assert!(hint.contains("org/many:more/f16.gguf"), "{hint}");
    for (reference, name) in
        [("org/many:q8.gguf", "q8.gguf"), ("org/many@main:more/f16.gguf", "more/f16.gguf")]
    {
        let files = place.resolve(reference, &once()).unwrap();
        let same = fs::read(files.path()).unwrap() == place.server.hub().file(name).bytes;
        assert!(same && files.path().ends_with(name), "{reference}");
        place.server.requests();
        assert_eq!(place.resolve(reference, &once()).unwrap(), files);
        assert_eq!(place.server.requests(), [], "{reference}");
    }
}

#[test]
fn revisions_are_asked_for_by_name_and_kept_as_refs() {
    let mut hub = small_model("gpt2");
    hub.revisions.extend(["v1.0".into(), "refs%2Fpr%2F1".into()]);
    let place = Place::new(hub);
    let by_option = ResolveOptions { revision: Some("v1.0".into()), ..once() };
    let files = place.resolve("gpt2", &by_option).unwrap();
    assert_eq!((files.name.as_str(), files.commit.as_deref()), ("gpt2", Some(COMMIT)));
    place.resolve("gpt2@refs/pr/1", &once()).unwrap();
    place.resolve(&format!("gpt2@{COMMIT}"), &once()).unwrap();
    let refs: Vec<_> = place.folder.tree().into_iter().filter(|name| name.contains("/refs/")).collect();
    assert_eq!(refs, ["hub/models--gpt2/refs/refs/pr/1", "hub/models--gpt2/refs/v1.0"]);
    assert_eq!(place.server.gets_of("model.safetensors"), 1, "one commit, one download");
    let place = Place::new(small_model("gpt2"));
    place.resolve(&format!("gpt2@{COMMIT}"), &once()).unwrap();
    assert!(!place.folder.path().join("hub/models--gpt2/refs").exists(), "a commit needs no ref");
}

#[test]
fn what_is_in_the_cache_already_is_not_fetched_again() {
    let place = Place::new(small_model("org/name"));
    let files = place.resolve("org/name", &once()).unwrap();
    fs::remove_file(files.path().join("config.json")).unwrap();
    place.server.requests();
    assert_eq!(place.resolve("org/name", &once()).unwrap(), files);
    // The list, and the headers of the one file whose blob is still there.
    let requests: Vec<_> = place.server.requests().into_iter().map(|request| request.method).collect();
    assert_eq!(requests, ["GET", "HEAD"]);
    assert!(place.has(&files, "config.json"));
}

#[test]
fn a_missing_tokenizer_is_asked_for_once() {
    let mut hub = small_model("org/name");
    hub.files.remove("tokenizer.json");
    let place = Place::new(hub);
    let files = place.resolve("org/name", &once()).unwrap();
    place.server.requests();
    assert_eq!(place.resolve("org/name", &once()).unwrap(), files);
    assert_eq!(place.server.requests(), []);
    // Another program fetched only the weights: nothing says that there is no tokenizer.
    fs::remove_dir_all(place.folder.path().join("hub/models--org--name/.no_exist")).unwrap();
    place.server.hub().put("tokenizer.json", b"{}".to_vec());
    let offline = ResolveOptions { offline: true, ..once() };
    assert_eq!(place.resolve("org/name", &offline).unwrap(), files);
    assert!(!files.path().join("tokenizer.json").exists());
    place.resolve("org/name", &once()).unwrap();
    assert!(place.has(&files, "tokenizer.json"));
}

#[test]
fn a_repository_that_is_only_an_adapter_brings_the_base_that_it_names() {
    let base = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/tiny/llama");
    let config = format!(r#"{{"peft_type": "LORA", "base_model_name_or_path": {base:?}}}"#);
    let files = [("adapter_config.json", config.into_bytes()), ("adapter_model.safetensors", weights(1, 64))];
    let place = Place::new(Hub::new("org/name", files));
    let found = place.resolve("org/name", &once()).unwrap();
    assert_eq!(found.path().canonicalize().unwrap(), Path::new(base).canonicalize().unwrap());
    let adapter = found.adapter.unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        assert!(adapter.join(file).is_file(), "{file}");
    }
}

#[test]
fn an_adapter_beside_a_model_on_the_hub_is_for_the_base_that_it_names() {
    let base = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/tiny/llama");
    let files = |base: &str| {
        let config = format!(r#"{{"peft_type": "LORA", "base_model_name_or_path": {base:?}}}"#);
        let own =
            [("adapter_config.json", config.into_bytes()), ("adapter_model.safetensors", weights(1, 64))];
        let mut hub = small_model("org/name");
        own.into_iter().for_each(|(name, bytes)| hub.put(name, bytes));
        hub
    };
    // As in transformers: the named base, not the model beside the adapter.
    let place = Place::new(files(base));
    let found = place.resolve("org/name", &once()).unwrap();
    assert_eq!((found.path(), found.name.as_str()), (Path::new(base), "org/name"));
    let folder = found.adapter.clone().unwrap();
    assert!(folder.join("model.safetensors").is_file() && folder.join("adapter_config.json").is_file());
    let without = ResolveOptions { adapter: AdapterChoice::Without, ..once() };
    assert_eq!(place.resolve("org/name", &without).unwrap().path(), folder);
    // A folder's adapter is for the weights beside it, and so is one that names its own repository.
    let named = place.resolve(folder.to_str().unwrap(), &once()).unwrap();
    assert_eq!((named.path(), named.adapter.as_deref()), (&*folder, Some(&*folder)));
    let place = Place::new(files("org/name"));
    let found = place.resolve("org/name", &once()).unwrap();
    assert_eq!(found.adapter.as_deref(), Some(found.path()));
    // The error names a base that cannot be fetched, and the remedy.
    let place = Place::new(files("./nowhere"));
    let (kind, message, hint) = place.fails("org/name", &once());
    assert_eq!(kind, ErrorKind::NotFound);
    assert!(message.contains("has an adapter beside its model; its base model is `./nowhere`"), "{message}");
    assert!(hint.contains("--no-adapter reads its own model"), "{hint}");
}
