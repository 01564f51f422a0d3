//! Dictionaries from a hub: a server on this machine that speaks its file routes.

#[path = "../../core/tests/common/folder.rs"]
#[allow(dead_code, reason = "the tests of models use more of it")]
mod folder;
#[path = "../../core/tests/hub/server.rs"]
#[allow(dead_code, reason = "the tests of models use more of it")]
mod server;

use std::path::Path;
use std::time::Duration;

use easyroutine::ErrorKind;
use easyroutine::source::{Environment, ResolveOptions, Retries};
use easyroutine_dictionaries::{Dictionary, Options};

use crate::common::Case;
use folder::Folder;
use server::{Hub, Server};

const REPOSITORY: &str = "org/saes";

struct Place {
    server: Server,
    environment: Environment,
    folder: Folder,
}

impl Place {
    fn new(hub: Hub, variables: &[(&str, &str)]) -> Place {
        let (server, folder) = (Server::start(hub), Folder::new());
        let endpoint = [("HF_ENDPOINT", server.address.as_str())];
        let environment = folder.environment(&[&endpoint, variables].concat());
        Place { server, environment, folder }
    }

    fn open(&self, reference: &str, options: &Options) -> easyroutine::Result<Dictionary> {
        Dictionary::open_reference(reference, options, &once(false), &self.environment)
    }

    fn fails(&self, reference: &str) -> (ErrorKind, String) {
        let error = self.open(reference, &Options::default()).unwrap_err();
        (error.kind(), format!("{error} {}", error.hint_text().unwrap_or_default()))
    }

    /// The files whose bytes were asked for since the last look.
    fn fetched(&self) -> Vec<String> {
        let requests = self.server.requests().into_iter().filter(|request| request.method == "GET");
        let mut names: Vec<String> = requests
            .filter_map(|r| Some(r.path.split_once("/resolve/")?.1.split_once('/')?.1.to_owned()))
            .collect();
        names.sort();
        names
    }
}

fn once(offline: bool) -> ResolveOptions {
    let retries = Retries { attempts: 1, first_pause: Duration::from_millis(1), ..Retries::default() };
    ResolveOptions { offline, retries, ..ResolveOptions::default() }
}

/// Adds the files of a fixture to a repository, below a folder.
fn add(hub: &mut Hub, case: &Case, below: &str) {
    fn walk(folder: &Path, root: &Path, each: &mut dyn FnMut(String, Vec<u8>)) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, root, each);
            } else {
                let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
                if !matches!(name.as_str(), "expect.json" | "reference.safetensors") {
                    each(name, std::fs::read(&path).unwrap());
                }
            }
        }
    }
    let join = |name: String| if below.is_empty() { name } else { format!("{below}/{name}") };
    walk(&case.folder, &case.folder, &mut |name, bytes| hub.put(&join(name), bytes));
}

#[test]
fn every_format_is_read_from_the_hub_as_from_a_folder() {
    for case in crate::common::cases() {
        let mut hub = Hub::new(REPOSITORY, [("README.md", b"#".to_vec()), ("other/big.bin", vec![0; 9])]);
        // Gemma Scope and Qwen-Scope say in the names of folders what they are.
        let below = format!("sets/{}", case.name);
        add(&mut hub, &case, &below);
        let place = Place::new(hub, &[]);
        let reference = format!("{REPOSITORY}:{below}");
        let expected = case.dictionary();
        let found = place.open(&reference, &case.options()).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        assert_eq!(found.certificate().to_json(), expected.certificate().to_json(), "{}", case.name);
        assert_eq!(found.digest().unwrap(), expected.digest().unwrap(), "{}", case.name);
        assert_eq!(found.commit(), Some(server::COMMIT));
        let fetched = place.fetched();
        assert!(!fetched.is_empty() && fetched.iter().all(|name| name.starts_with("sets/")), "{fetched:?}");
        // What is whole in the cache needs no request where the folder of the dictionary itself is named.
        let last = fetched.last().and_then(|name| name.rsplit_once('/')).unwrap();
        let own = format!("{REPOSITORY}:{}", last.0);
        let opened = Dictionary::open_reference(&own, &case.options(), &once(true), &place.environment);
        opened.unwrap_or_else(|e| panic!("{}: {own}: {e}", case.name));
        assert_eq!(place.server.requests(), [], "{}", case.name);
    }
}

#[test]
fn only_the_files_of_the_dictionary_are_fetched_and_bad_ones_are_not_kept() {
    let case = Case::named("saelens_standard");
    let mut hub = Hub::new(REPOSITORY, [("README.md", b"#".to_vec())]);
    add(&mut hub, &case, "a");
    add(&mut hub, &Case::named("saelens_topk_rescaled"), "b");
    hub.put("a/optimizer.safetensors", vec![1; 64]);
    let place = Place::new(hub, &[]);
    let reference = format!("{REPOSITORY}@main:a/");
    let right = place.server.hub().file("a/sae_weights.safetensors").bytes.clone();
    place.server.hub().file("a/sae_weights.safetensors").bytes[100] ^= 1;
    let (kind, message) = place.fails(&reference);
    assert_eq!(kind, ErrorKind::Network);
    assert!(message.contains("sae_weights.safetensors"), "{message}");
    place.server.hub().file("a/sae_weights.safetensors").bytes = right;
    place.fetched();
    place.open(&reference, &Options::default()).unwrap();
    assert_eq!(place.fetched(), ["a/sae_weights.safetensors"]);
    let kept = place.folder.tree();
    assert!(kept.iter().any(|name| name.ends_with("a/cfg.json")), "{kept:?}");
    assert!(!kept.iter().any(|name| name.contains("optimizer") || name.contains("/b/")), "{kept:?}");
}

#[test]
fn what_is_not_there_is_named() {
    let mut hub = Hub::new(REPOSITORY, [("README.md", b"#".to_vec())]);
    add(&mut hub, &Case::named("saelens_standard"), "layer_1/a");
    add(&mut hub, &Case::named("saelens_standard"), "layer_1/b");
    let place = Place::new(hub, &[]);
    for (reference, kind, words) in [
        ("org/saes:layer_1/c", ErrorKind::NotFound, ["layer_1/c", "layer_1/a, layer_1/b"]),
        ("org/saes:layer_2", ErrorKind::NotFound, ["layer_2", "layer_1"]),
        ("org/saes", ErrorKind::Input, ["holds 2 dictionaries", "layer_1/a, layer_1/b"]),
        ("org/saes@v9:layer_1/a", ErrorKind::NotFound, ["v9", "org/saes"]),
        ("org/others:a", ErrorKind::NotFound, ["no model", "org/others"]),
        ("org/saes:../a", ErrorKind::InvalidReference, ["names no file or folder", "org/saes"]),
        ("https://huggingface.co/org/saes", ErrorKind::InvalidReference, ["address", "org/name"]),
        ("nowhere", ErrorKind::NotFound, ["nowhere", "nowhere"]),
    ] {
        let (found, message) = place.fails(reference);
        assert_eq!(found, kind, "{reference}: {message}");
        assert!(words.iter().all(|word| message.contains(word)), "{reference}: {message}");
    }
    let (kind, message) = place.fails("some/folder");
    assert_eq!(kind, ErrorKind::NotFound);
    assert!(message.contains("no file or folder `some/folder` here"), "{message}");
}

#[test]
fn offline_no_request_is_made_and_the_missing_dictionary_is_named() {
    let mut hub = Hub::new(REPOSITORY, []);
    add(&mut hub, &Case::named("saelens_standard"), "a");
    let place = Place::new(hub, &[("HF_HUB_OFFLINE", "1")]);
    let (kind, message) = place.fails("org/saes:a");
    assert_eq!(kind, ErrorKind::Offline);
    assert!(message.contains("`a` of `org/saes` at `main`"), "{message}");
    assert!(message.contains("HF_HUB_OFFLINE") && message.contains("hf download org/saes"), "{message}");
    assert_eq!(place.server.requests(), []);
}

#[test]
fn transcoders_that_a_set_names_on_the_hub_are_fetched_with_it() {
    let case = Case::named("circuit_tracer_plt");
    let mut hub = Hub::new(REPOSITORY, []);
    add(&mut hub, &case, "plt");
    let config = String::from_utf8(hub.file("plt/config.yaml").bytes.clone()).unwrap();
    let addressed = config.replace("layer_", &format!("hf://{REPOSITORY}/plt/layer_"));
    assert_ne!(config, addressed, "{config}");
    hub.put("set/config.yaml", addressed.into_bytes());
    let place = Place::new(hub, &[]);
    let found = place.open("org/saes:set", &case.options()).unwrap();
    assert_eq!(found.layers().len(), case.dictionary().layers().len());
    assert!(place.fetched().contains(&"plt/layer_0.safetensors".to_owned()));
    let offline =
        Dictionary::open_reference("org/saes:set", &case.options(), &once(true), &place.environment);
    offline.unwrap();
    assert_eq!(place.server.requests(), []);
}
