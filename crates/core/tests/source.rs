//! Paths, names and the Hugging Face cache, without any network.

use std::fs;

use easyroutine::source::{Environment, FilesKind, ModelFiles, ResolveOptions, demos, resolve_in};
use easyroutine::{Error, ErrorKind};

use crate::common::folder::Folder;

const COMMIT: &str = "89abcdef0123456789abcdef0123456789abcdef";

fn offline() -> ResolveOptions {
    ResolveOptions { offline: true, ..ResolveOptions::default() }
}

fn resolve(folder: &Folder, reference: &str) -> Result<ModelFiles, Error> {
    resolve_in(reference, &offline(), &folder.environment(&[]))
}

fn fails(folder: &Folder, reference: &str) -> (ErrorKind, String, String) {
    let error = resolve(folder, reference).expect_err(reference);
    (error.kind(), error.to_string(), error.hint_text().unwrap_or_default().to_owned())
}

/// The path of something in the folder, as a user would give it.
fn at(folder: &Folder, name: &str) -> String {
    folder.path().join(name).display().to_string()
}

#[test]
fn a_folder_and_a_gguf_file_are_taken_by_their_paths() {
    let folder = Folder::new();
    folder.write("single/config.json", "{}");
    folder.write("single/model.safetensors", "");
    folder.write("sharded.v1/config.json", "{}");
    folder.write("sharded.v1/model.safetensors.index.json", r#"{"weight_map": {"a": "x/1.safetensors"}}"#);
    folder.write("sharded.v1/x/1.safetensors", "");
    folder.write("Q4.K.gguf", "GGUF....");
    for (name, stem) in
        [("single", "single"), ("single/", "single"), ("single/.", "single"), ("sharded.v1", "sharded.v1")]
    {
        let files = resolve(&folder, &at(&folder, name)).unwrap();
        assert!(matches!(files.kind, FilesKind::Folder(_)));
        assert_eq!((files.name.as_str(), &files.commit), (stem, &None), "{name}");
    }
    let files = resolve(&folder, &at(&folder, "Q4.K.gguf")).unwrap();
    assert_eq!(files.kind, FilesKind::Gguf(folder.path().join("Q4.K.gguf")));
    assert_eq!(files.name, "Q4.K");
    folder.write("big-00002-of-00003.gguf", "GGUF....");
    assert_eq!(resolve(&folder, &at(&folder, "big-00002-of-00003.gguf")).unwrap().name, "big");
    assert_eq!(resolve(&folder, "~/single").unwrap().path(), folder.path().join("single"));
}

#[test]
fn a_path_says_what_is_missing() {
    let folder = Folder::new();
    folder.write("empty/notes.txt", "");
    folder.write("weights/model.safetensors", "");
    folder.write("config/config.json", "{}");
    folder.write("shards/config.json", "{}");
    folder.write(
        "shards/model.safetensors.index.json",
        r#"{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}"#,
    );
    folder.write("shards/2.safetensors", "");
    folder.write("pickle/config.json", "{}");
    folder.write("pickle/pytorch_model.bin", "");
    folder.write("ggufs/a.gguf", "GGUF");
    folder.write("index/config.json", "{}");
    folder.write("index/model.safetensors.index.json", "{}");
    folder.write("text.gguf", "this is not a model");
    folder.write("model.safetensors", "");
    folder.write("model.pt", "");
    use ErrorKind::{Format, NotFound, Unsupported};
    for (name, kind, expected, expected_hint) in [
        ("empty", NotFound, "without `config.json`, `model.safetensors`", "a model's folder has"),
        ("weights", NotFound, "without `config.json`", ""),
        ("config", NotFound, "without `model.safetensors`", ""),
        ("shards", NotFound, "without `1.safetensors`", ""),
        ("pickle", Unsupported, "`pytorch_model.bin`, a pickle file, which is never read", "save_pretrained"),
        ("ggufs", NotFound, "but `a.gguf`", "ggufs/a.gguf"),
        ("index", Format, "without a `weight_map`", ""),
        ("absent", NotFound, "there is no file or folder", "org/name"),
        ("absent.gguf", NotFound, "there is no file or folder", ""),
        ("text.gguf", Format, "is not a GGUF file", ""),
        ("model.safetensors", Format, "is not a GGUF file", "the folder"),
        ("model.pt", Unsupported, "pickle", "save_pretrained"),
    ] {
        let (found, message, hint) = fails(&folder, &at(&folder, name));
        assert_eq!(found, kind, "{name}: {message}");
        assert!(message.contains(expected) && hint.contains(expected_hint), "{name}: {message} / {hint}");
    }
}

#[test]
fn what_looks_like_a_path_never_becomes_a_name() {
    let folder = Folder::new();
    for reference in [
        "./gpt2",
        "../gpt2",
        "/gpt2",
        "~/gpt2",
        ".",
        "a/b/c",
        "org//name",
        "model.gguf",
        "org/x.GGUF",
        "a\\b",
        "C:/m",
    ] {
        let (kind, message, _) = fails(&folder, reference);
        if reference == "." {
            assert!(message.contains("without"), "{message}");
            continue;
        }
        assert_eq!(kind, ErrorKind::NotFound, "{reference}: {message}");
        assert!(message.contains("no file or folder"), "{reference}: {message}");
    }
    assert_eq!(folder.tree(), [""; 0], "looking writes nothing");
    let (_, message, hint) = fails(&folder, "src");
    assert!(message.contains("the folder src is without"), "an existing folder is a path: {message}");
    assert!(hint.contains("not looked for"), "{hint}");
}

#[test]
fn names_that_cannot_be_are_refused() {
    let folder = Folder::new();
    let long = "a".repeat(97);
    for reference in [
        "",
        "a b",
        "org/",
        "é/x",
        "org/na..me",
        "org/..",
        "a--b",
        "-a",
        "a.",
        "name.git",
        "a\u{1b}[31m",
        &long,
        "org/name@",
        "org/name@../x",
        "org/name@a//b",
        "org/name@/a",
        "org/name@a b",
        "org/name@.hidden",
        "org/name:",
        "org/name:../x.gguf",
        "org/name:/x.gguf",
        "org/name:a/../../x.gguf",
        "org/name:Q4",
        "https://huggingface.co/org/name",
        "hf://org/name",
    ] {
        let (kind, message, _) = fails(&folder, reference);
        assert_eq!(kind, ErrorKind::InvalidReference, "{reference}: {message}");
        assert!(!message.contains('\u{1b}'));
    }
    assert!(fails(&folder, "https://huggingface.co/org/name/tree/main").2.contains("`org/name`"));
    assert!(fails(&folder, "hf://org/name").2.contains("`org/name`"));
}

#[test]
fn a_revision_is_given_once_and_not_to_a_path() {
    let folder = Folder::new();
    let with = |reference: &str, revision: &str| {
        let options = ResolveOptions { revision: Some(revision.into()), ..offline() };
        resolve_in(reference, &options, &folder.environment(&[])).unwrap_err()
    };
    assert!(with("org/name@a", "b").to_string().contains("two revisions: `a`"));
    assert!(with("./x", "b").to_string().contains("a path has no revision"));
    assert!(with("org/name@a", "a").to_string().contains("`org/name` at `a`"));
    assert_eq!(with("org/name", "../..").kind(), ErrorKind::InvalidReference);
}

/// A model as the Python package leaves it in its cache, with a line end in `refs/main`, as git writes it.
fn cached(folder: &Folder, files: &[(&str, &str)]) {
    let root = "hub/models--org--name";
    folder.write(&format!("{root}/refs/main"), format!("{COMMIT}\n"));
    folder.write(&format!("{root}/refs/feature/x"), COMMIT);
    folder.write(&format!("{root}/refs/bad"), "../../../elsewhere");
    let snapshot = format!("{root}/snapshots/{COMMIT}");
    fs::create_dir_all(folder.path().join(&snapshot)).expect("a folder");
    for (number, (name, text)) in files.iter().enumerate() {
        folder.write(&format!("{root}/blobs/{number}"), text);
        #[cfg(unix)]
        std::os::unix::fs::symlink(format!("../../blobs/{number}"), folder.path().join(&snapshot).join(name))
            .expect("a link");
        #[cfg(not(unix))]
        folder.write(&format!("{snapshot}/{name}"), text);
    }
}

#[test]
fn a_cache_of_the_python_package_is_read() {
    let folder = Folder::new();
    cached(&folder, &[("config.json", "{}"), ("model.safetensors", ""), ("tokenizer.json", "{}")]);
    let snapshot = folder.path().join("hub/models--org--name/snapshots").join(COMMIT);
    let expected = ModelFiles {
        kind: FilesKind::Folder(snapshot.clone()),
        name: "org/name".into(),
        commit: Some(COMMIT.into()),
        adapter: None,
    };
    for reference in ["org/name", "org/name@main", "org/name@feature/x", &format!("org/name@{COMMIT}")] {
        assert_eq!(resolve(&folder, reference).unwrap(), expected, "{reference}");
    }
    assert_eq!(
        resolve(&folder, &snapshot.display().to_string()).unwrap(),
        expected,
        "a snapshot by its path"
    );
    folder.write("elsewhere/config.json", "{}");
    folder.write("elsewhere/model.safetensors", "");
    for revision in ["bad", "absent"] {
        let (kind, message, hint) = fails(&folder, &format!("org/name@{revision}"));
        assert_eq!(kind, ErrorKind::Offline);
        assert!(
            message.contains(&format!("at `{revision}` is not in the cache")) && hint.contains(COMMIT),
            "{hint}"
        );
    }
}

#[test]
fn a_cached_model_with_a_gap_names_it() {
    let folder = Folder::new();
    let index = r#"{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}"#;
    cached(&folder, &[("model.safetensors.index.json", index), ("2.safetensors", "")]);
    let (kind, message, _) = fails(&folder, "org/name");
    assert_eq!(kind, ErrorKind::Offline);
    assert!(message.contains("without `config.json`, `1.safetensors`"), "{message}");
    // The link remains when someone removes a blob by hand.
    fs::remove_file(folder.path().join("hub/models--org--name/blobs/1")).unwrap();
    assert_eq!(cfg!(unix), fails(&folder, "org/name").1.contains("`2.safetensors`"));
}

#[test]
fn a_cached_model_of_pickle_weights_is_refused() {
    let folder = Folder::new();
    cached(&folder, &[("config.json", "{}"), ("pytorch_model.bin", "")]);
    let (kind, message, _) = fails(&folder, "org/name");
    assert_eq!(kind, ErrorKind::Unsupported);
    assert!(message.contains("org/name") && message.contains("pytorch_model.bin"), "{message}");
}

#[test]
fn cached_gguf_files_are_taken_alone_or_by_name() {
    let folder = Folder::new();
    cached(&folder, &[("a.gguf", "GGUF a")]);
    assert!(resolve(&folder, "org/name").unwrap().path().ends_with("a.gguf"));
    let folder = Folder::new();
    cached(&folder, &[("a.gguf", "GGUF a"), ("b.gguf", "GGUF b")]);
    assert!(resolve(&folder, "org/name:b.gguf").unwrap().path().ends_with("b.gguf"));
    assert_eq!(fails(&folder, "org/name").0, ErrorKind::InvalidReference);
    assert!(fails(&folder, "org/name:c.gguf").1.contains("without `c.gguf`"));
}

#[test]
fn a_demo_model_is_found_in_its_folder_or_says_how_to_get_it() {
    let folder = Folder::new();
    for demo in demos() {
        let (kind, message, hint) = fails(&folder, demo.name);
        assert_eq!(kind, ErrorKind::NotFound);
        assert!(
            message.contains(demo.file) && hint.contains("make demo") && hint.contains(demo.hub_id),
            "{hint}"
        );
        let path = folder.write(&format!(".cache/easyroutine/models/{}", demo.file), "GGUF");
        assert_eq!(resolve(&folder, demo.name).unwrap().kind, FilesKind::Gguf(path));
        let elsewhere = folder.environment(&[("EASYROUTINE_CACHE", "~/own")]);
        let error = resolve_in(demo.name, &offline(), &elsewhere).unwrap_err();
        assert!(error.to_string().contains(&at(&folder, "own/models")), "{error}");
    }
    assert!(
        fails(&folder, "unknown").2.contains("`smollm2`"),
        "a short name that is nothing lists the demo models"
    );
    assert_eq!(
        fails(&folder, "smollm2@main2").0,
        ErrorKind::InvalidReference,
        "a demo model has no revisions"
    );
}

fn environment(variables: &[(&str, &str)]) -> Environment {
    Environment::from_variables(&|name| {
        variables.iter().find(|variable| variable.0 == name).map(|variable| variable.1.into())
    })
}

#[test]
fn the_cache_is_where_the_variables_of_the_python_package_say() {
    let home = ("HOME", "/home/u");
    for (variables, expected) in [
        (&[home][..], "/home/u/.cache/huggingface/hub"),
        (&[home, ("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
        (&[home, ("XDG_CACHE_HOME", "/x"), ("HF_HOME", "~/hf")], "/home/u/hf/hub"),
        (&[home, ("HF_HOME", "/hf"), ("HUGGINGFACE_HUB_CACHE", "/old")], "/old"),
        (&[home, ("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HUB_CACHE", "/new")], "/new"),
        (&[home, ("HF_HUB_CACHE", ""), ("HF_HOME", "")], "/home/u/.cache/huggingface/hub"),
        (&[home, ("DISK", "/d"), ("HF_HUB_CACHE", "$DISK/${DISK}x/$none")], "/d//dx/$none"),
    ] {
        assert_eq!(environment(variables).hub_cache.to_str(), Some(expected), "{variables:?}");
    }
}

#[test]
fn offline_is_said_in_the_words_of_the_python_package() {
    for (variables, expected) in [
        (&[][..], false),
        (&[("HF_HUB_OFFLINE", "1")], true),
        (&[("HF_HUB_OFFLINE", "ON")], true),
        (&[("HF_HUB_OFFLINE", "yes")], true),
        (&[("HF_HUB_OFFLINE", "True")], true),
        (&[("HF_HUB_OFFLINE", "0")], false),
        (&[("HF_HUB_OFFLINE", "offline")], false),
        (&[("TRANSFORMERS_OFFLINE", "1")], true),
        (&[("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "1")], false),
    ] {
        assert_eq!(environment(variables).offline, expected, "{variables:?}");
    }
}

#[test]
fn the_token_comes_from_a_variable_or_a_file() {
    let folder = Folder::new();
    let file = folder.write("hf/token", "hf_file\n").display().to_string();
    let other = folder.write("other", " hf_other ").display().to_string();
    let hf_home = ("HF_HOME", file.trim_end_matches("/token"));
    let token = |text| easyroutine::source::Token::new(text);
    for (variables, expected) in [
        (&[hf_home][..], token("hf_file")),
        (&[hf_home, ("HF_TOKEN_PATH", &other)], token("hf_other")),
        (&[hf_home, ("HF_TOKEN", " hf_variable\n")], token("hf_variable")),
        (&[hf_home, ("HF_TOKEN", "  ")], token("hf_file")),
        (&[hf_home, ("HF_TOKEN", "a"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")], None),
        (&[("HF_HOME", "/nowhere")], None),
    ] {
        assert_eq!(environment(variables).token, expected, "{variables:?}");
    }
    assert_eq!(environment(&[]).endpoint, "https://huggingface.co");
    assert_eq!(environment(&[("HF_ENDPOINT", "http://mirror.test/hf//")]).endpoint, "http://mirror.test/hf");
}
