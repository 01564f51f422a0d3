//! Checks the lines of docs/ARCHITECTURE.md that begin with "Invariant:" against the sources in the tree.
//!
//! They are in this crate because it depends on nothing: they run even when the other crates do not build.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod modules;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use modules::{MODULES, used};

/// The crates that each crate may depend on. `*` is all of them.
const CRATES: &[(&str, &[&str])] = &[
    ("sites", &[]),
    ("files", &[]),
    ("kernels", &[]),
    ("core", &["kernels", "sites", "files"]),
    ("dictionaries", &["core", "kernels", "sites", "files"]),
    ("graphs", &["core", "dictionaries", "view", "kernels", "sites", "files"]),
    ("store", &["sites", "files"]),
    ("view", &["sites", "store"]),
    ("serve", &[]),
    ("app", &["core", "dictionaries", "sites", "store", "view"]),
    ("cli", &["*"]),
    ("python", &["*"]),
];

/// Files outside `families/` that may name families, and why.
const NAMING_FILES: &[(&str, &str)] = &[
    ("core/src/source/demo.rs", "says in prose what the demo model is"),
    (
        "dictionaries/src/formats/",
        "formats of dictionaries are named after the models that they were published for",
    ),
    (
        "core/src/tokens/",
        "transformers' classes of tokenizers and GGUF's rules for cutting text are named after models",
    ),
];

/// Files of more than 500 lines, and why they are not split.
const LONG_FILES: &[(&str, &str)] = &[];

/// The crates with `unsafe`: memory maps and limits of a C library, and arithmetic.
const UNSAFE_CRATES: &[&str] = &["files", "kernels"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Names of the folders in `crates/`.
fn crates() -> Vec<String> {
    let folders = fs::read_dir(root().join("crates")).unwrap().map(|entry| entry.unwrap());
    let mut names: Vec<String> = folders
        .filter(|folder| folder.path().join("Cargo.toml").exists())
        .map(|folder| folder.file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Every Rust file below a folder, sorted.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    files_ending(folder, &["rs"])
}

/// Every file below a folder with one of these endings, sorted.
fn files_ending(folder: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_ending(&path, endings));
        } else if path.extension().is_some_and(|ending| endings.iter().any(|one| ending == *one)) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Whether a file holds a module's own tests, which may use any other module.
fn is_test(path: &Path) -> bool {
    path.ends_with("tests.rs") || path.components().any(|part| part.as_os_str() == "tests")
}

/// A path as the lists above write it.
fn short(path: &Path) -> String {
    path.strip_prefix(root().join("crates")).unwrap_or(path).to_string_lossy().replace('\\', "/")
}

/// The sources of every crate, with comments blanked.
fn sources() -> Vec<(String, Vec<Piece>)> {
    let files =
        crates().into_iter().flat_map(|name| rust_files(&root().join("crates").join(name).join("src")));
    files.map(|path| (short(&path), pieces(&read(&path)))).collect()
}

/// A piece of a source file outside comments.
#[derive(Debug, PartialEq)]
enum Piece {
    /// Code between literals.
    Code(String),
    /// The contents of a string literal.
    Text(String),
}

/// Splits a source into code and strings, and drops comments.
fn pieces(source: &str) -> Vec<Piece> {
    let mut found = Vec::new();
    let mut code = String::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        if rest.starts_with("//") {
            rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
        } else if rest.starts_with("/*") {
            rest = after_block_comment(rest);
        } else if let Some((text, after)) = string(rest, &code) {
            found.push(Piece::Code(std::mem::take(&mut code)));
            found.push(Piece::Text(text.to_owned()));
            rest = after;
        } else if let Some(length) = character(rest) {
            rest = &rest[length..];
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    found.push(Piece::Code(code));
    found
}

fn after_block_comment(text: &str) -> &str {
    let mut depth = 0;
    let mut at = 0;
    loop {
        let here = &text[at..];
        let step = if here.starts_with("/*") {
            depth += 1;
            2
        } else if here.starts_with("*/") {
            depth -= 1;
            2
        } else {
            here.chars().next().map_or(0, char::len_utf8)
        };
        at += step;
        if depth == 0 || step == 0 {
            return &text[at..];
        }
    }
}

/// A string literal at the start of `text`: its contents, and the text after it.
fn string<'a>(text: &'a str, before: &str) -> Option<(&'a str, &'a str)> {
    if let Some(inner) = text.strip_prefix('"') {
        let mut escaped = false;
        let end = inner.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        })?;
        return Some((&inner[..end], &inner[end + 1..]));
    }
    let in_a_word = before.ends_with(|c: char| c.is_alphanumeric() || c == '_') && !before.ends_with('b');
    let hashes = text.strip_prefix('r').filter(|_| !in_a_word)?;
    let inner = hashes.trim_start_matches('#');
    let close = format!("\"{}", &hashes[..hashes.len() - inner.len()]);
    let inner = inner.strip_prefix('"')?;
    let end = inner.find(&close)?;
    Some((&inner[..end], &inner[end + close.len()..]))
}

/// Length of a character literal at the start of `text`; lifetimes do not count.
fn character(text: &str) -> Option<usize> {
    let inner = text.strip_prefix('\'')?;
    if let Some(escape) = inner.strip_prefix('\\') {
        // The escaped character may be a quote itself.
        let skipped = escape.chars().next()?.len_utf8();
        return Some(2 + skipped + escape[skipped..].find('\'')? + 1);
    }
    let length = inner.chars().next()?.len_utf8();
    inner[length..].starts_with('\'').then_some(length + 2)
}

fn code(pieces: &[Piece]) -> String {
    let code = pieces.iter().filter_map(|piece| match piece {
        Piece::Code(code) => Some(code.as_str()),
        Piece::Text(_) => None,
    });
    // Two quotes keep the words on both sides of a string apart.
    code.collect::<Vec<_>>().join("\"\"")
}

/// Whether `name` occurs in `text` as a word, in any case; `joins` says which characters belong to a word.
fn has_word(text: &str, name: &str, joins: impl Fn(char) -> bool) -> bool {
    let text = text.to_lowercase();
    text.match_indices(name).any(|(at, _)| {
        let after = &text[at + name.len()..];
        // A dot followed by a letter joins as well: `llama.cpp` is a program.
        let dotted = after.strip_prefix('.').is_some_and(|rest| rest.starts_with(char::is_alphanumeric));
        !text[..at].ends_with(&joins) && !after.starts_with(&joins) && !dotted
    })
}

/// The `model_type` of every family, from the sources of the families.
fn families() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for path in family_files() {
        let source = read(&path);
        let (_, after) = source.split_once("model_type: \"").unwrap_or_else(|| panic!("{}", path.display()));
        found.insert(after[..after.find('"').unwrap()].to_owned());
    }
    found
}

/// Files that define a family.
fn family_files() -> Vec<PathBuf> {
    let folder = root().join("crates/core/src/families");
    let defines = |path: &PathBuf| read(path).contains("const FAMILY: Family");
    rust_files(&folder).into_iter().filter(defines).collect()
}

#[test]
fn a_crate_depends_only_on_those_below_it() {
    for name in crates() {
        let (_, allowed) = CRATES.iter().find(|(listed, _)| *listed == name).unwrap_or_else(|| {
            panic!(
                "crates/{name} has no place in the order of crates: add it to CRATES and docs/ARCHITECTURE.md"
            )
        });
        let manifest = read(&root().join("crates").join(&name).join("Cargo.toml"));
        for line in manifest.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let Some((_, path)) = line.split_once("path = \"../") else {
                let by_name = line.starts_with("easyroutine") && line.contains('=');
                assert!(
                    !by_name,
                    "crates/{name}/Cargo.toml: give the path of a crate of this workspace: {line}"
                );
                continue;
            };
            let dependency = &path[..path.find('"').unwrap()];
            let listed = CRATES.iter().any(|(known, _)| *known == dependency);
            assert!(listed, "crates/{name}/Cargo.toml: crates/{dependency} is not known");
            let may = allowed.contains(&dependency) || allowed.contains(&"*");
            assert!(may, "crates/{name} may not use crates/{dependency}");
        }
    }
}

#[test]
fn sites_and_kernels_depend_on_nothing() {
    for name in ["sites", "kernels"] {
        let manifest = read(&root().join("crates").join(name).join("Cargo.toml"));
        let section =
            manifest.split("\n[").find(|part| part.starts_with("dependencies]")).unwrap_or_default();
        let lines: Vec<&str> =
            section.lines().skip(1).filter(|l| !l.is_empty() && !l.starts_with('#')).collect();
        assert!(lines.is_empty(), "crates/{name} depends on {lines:?}");
    }
}

#[test]
fn a_module_of_core_uses_only_those_it_may() {
    let folder = root().join("crates/core/src");
    for (module, allowed) in MODULES {
        let mut files = rust_files(&folder.join(module));
        files.extend(Some(folder.join(format!("{module}.rs"))).filter(|path| path.exists()));
        assert!(!files.is_empty(), "core has no module {module}");
        for path in files.into_iter().filter(|path| !is_test(path.strip_prefix(&folder).unwrap_or(path))) {
            let code = code(&pieces(&read(&path)));
            for (_, used) in code.match_indices("crate::").map(|(at, found)| code[at..].split_at(found.len()))
            {
                let end = used.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(used.len());
                let used = &used[..end];
                let is_module = folder.join(used).is_dir() || folder.join(format!("{used}.rs")).exists();
                assert!(is_module, "{}: name the module of `crate::{used}`", short(&path));
                let may = used == *module || allowed.contains(&used);
                assert!(may, "{}: module {module} may not use {used}", short(&path));
            }
        }
    }
}

#[test]
fn no_family_is_named_outside_families() {
    let families = families();
    assert!(families.len() >= 20, "only {} families were found", families.len());
    let letter = char::is_alphanumeric;
    let mut named = BTreeSet::new();
    for (path, pieces) in sources() {
        if path.starts_with("core/src/families/") {
            continue;
        }
        let found = families.iter().find(|family| {
            pieces.iter().any(|piece| match piece {
                Piece::Code(code) => has_word(code, family, letter),
                // `llama-bpe` and `llama-gguf-split` are words of their own.
                Piece::Text(text) => has_word(text, family, |c| letter(c) || c == '-'),
            })
        });
        let Some(family) = found else { continue };
        let listed = NAMING_FILES.iter().any(|(place, _)| path.starts_with(place));
        assert!(
            listed,
            "{path} names the family `{family}`: what differs belongs into families/, as data of Arch"
        );
        named.insert(path);
    }
    for (place, _) in NAMING_FILES {
        let is_needed = named.iter().any(|path| path.starts_with(place));
        assert!(is_needed, "{place} names no family: take it off the list");
    }
}

#[test]
fn a_family_is_one_small_file() {
    let files = family_files();
    for path in &files {
        let lines = read(path).lines().count();
        assert!(lines <= 120, "{} has {lines} lines; 120 is the limit of a family", short(path));
    }
    let listed = read(&root().join("crates/core/src/families/mod.rs")).matches("::FAMILY,").count();
    assert_eq!(files.len(), listed, "files that define a family, and entries of the list of families");
}

#[test]
fn the_readme_lists_every_family() {
    let page = read(&root().join("README.md"));
    let (_, table) = page.split_once("| `model_type` |").expect("the table of models");
    let table = &table[..table.find("\n\n").unwrap()];
    let listed: BTreeSet<String> = table
        .lines()
        .filter_map(|line| line.split('|').nth(1))
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .map(str::to_owned)
        .collect();
    assert_eq!(listed, families());
}

#[test]
fn the_block_stays_readable() {
    let path = root().join("crates/core/src/pass/block.rs");
    let lines = read(&path).lines().count();
    assert!(lines <= 150, "{} has {lines} lines; 150 is the limit", short(&path));
}

#[test]
fn the_pass_has_no_circles() {
    for module in ["pass", "model"] {
        let folder = root().join("crates/core/src").join(module);
        let name = |path: &Path| path.file_stem().unwrap().to_string_lossy().into_owned();
        let files: Vec<PathBuf> = rust_files(&folder).into_iter().filter(|path| !is_test(path)).collect();
        let names: BTreeSet<String> =
            files.iter().map(|path| name(path)).filter(|name| name != "mod").collect();
        let mut uses: Vec<(String, BTreeSet<String>)> = Vec::new();
        for path in files.iter().filter(|path| name(path) != "mod") {
            let code = code(&pieces(&read(path)));
            // Items of a sibling are recorded under its name; items of the module itself are available to all.
            uses.push((name(path), &used(&code, module) & &names));
        }
        assert!(uses.iter().any(|(_, used)| !used.is_empty()), "{module}: no file uses another");
        // Repeatedly remove files that use none of the rest; what is left is a circle.
        while !uses.is_empty() {
            let left: BTreeSet<String> = uses.iter().map(|(name, _)| name.clone()).collect();
            let before = uses.len();
            uses.retain(|(_, used)| used.iter().any(|other| left.contains(other)));
            assert!(uses.len() < before, "{module}: these files use each other in a circle: {left:?}");
        }
    }
}

#[test]
fn arch_has_no_bool() {
    let mut files = rust_files(&root().join("crates/core/src/arch"));
    files.push(root().join("crates/core/src/arch.rs"));
    let text: String = files.iter().map(|file| read(file)).collect();
    let code = code(&pieces(&text));
    let mut types = 0;
    for keyword in ["struct ", "enum "] {
        for (at, _) in code.match_indices(keyword) {
            let definition = &code[at..];
            // The body of a definition ends at the first brace in the first column.
            let body = &definition[..definition.find("\n}").unwrap_or(definition.len())];
            let name = body[keyword.len()..].split_whitespace().next().unwrap_or_default();
            assert!(
                !has_word(body, "bool", char::is_alphanumeric),
                "{name}: an enum or an Option says what a bool means"
            );
            types += 1;
        }
    }
    assert!(types >= 10, "only {types} types were found in arch.rs");
}

#[test]
fn unsafe_code_is_in_two_crates() {
    for name in crates() {
        if UNSAFE_CRATES.contains(&name.as_str()) {
            continue;
        }
        let folder = root().join("crates").join(&name).join("src");
        for file in
            ["lib.rs", "main.rs"].map(|file| folder.join(file)).into_iter().filter(|path| path.exists())
        {
            let forbids = code(&pieces(&read(&file))).contains("#![forbid(unsafe_code)]");
            assert!(forbids, "{} must say #![forbid(unsafe_code)]", short(&file));
        }
    }
}

#[test]
fn the_python_package_has_unsafe_code_in_one_file() {
    let folder = root().join("python/src");
    let files = rust_files(&folder);
    assert!(files.len() >= 5, "only {} files in python/src", files.len());
    for path in files {
        let code = code(&pieces(&read(&path)));
        let has = has_word(&code, "unsafe", |c| c.is_alphanumeric() || c == '_');
        assert_eq!(has, path.ends_with("dlpack.rs"), "{}: unsafe code", path.display());
    }
}

#[test]
fn files_are_short() {
    for name in crates() {
        for path in rust_files(&root().join("crates").join(name)) {
            let lines = read(&path).lines().count();
            let excused = LONG_FILES.iter().any(|(file, _)| *file == short(&path));
            assert!(lines <= 500 || excused, "{} has {lines} lines: split it, or say why not", short(&path));
            assert!(lines > 500 || !excused, "{} has only {lines} lines: take it off the list", short(&path));
        }
    }
    let package = root().join("python");
    let sources = ["src", "easyroutine", "tests"].map(|folder| package.join(folder));
    for path in sources.iter().flat_map(|folder| files_ending(folder, &["rs", "py", "pyi"])) {
        let lines = read(&path).lines().count();
        assert!(lines <= 500, "{} has {lines} lines: split it", path.display());
    }
}

#[test]
fn no_file_of_tests_is_left_out() {
    for name in crates() {
        let tests = root().join("crates").join(&name).join("tests");
        let Ok(program) = fs::read_to_string(tests.join("main.rs")) else { continue };
        for entry in fs::read_dir(&tests).unwrap().map(|entry| entry.unwrap().path()) {
            let is_module = entry.extension().is_some_and(|end| end == "rs") || entry.join("mod.rs").exists();
            let module = entry.file_stem().unwrap().to_str().unwrap();
            let named = program.lines().any(|line| line == format!("mod {module};"));
            assert!(!is_module || module == "main" || named, "{}: no `mod` in main.rs", short(&entry));
        }
    }
}

#[test]
fn every_invariant_names_a_test_that_exists() {
    let page = read(&root().join("docs/ARCHITECTURE.md"));
    let tests = root().join("crates/sites/tests");
    let tests: String = rust_files(&tests).iter().map(|path| read(path)).collect();
    let invariants: Vec<&str> = page.lines().filter(|line| line.starts_with("Invariant:")).collect();
    assert!(invariants.len() >= 9, "{} invariants", invariants.len());
    for line in invariants {
        let name = line.rsplit('`').nth(1).unwrap_or_default();
        assert!(tests.contains(&format!("#[test]\nfn {name}()")), "no test `{name}` holds: {line}");
    }
}

#[test]
fn comments_and_strings_are_told_from_code() {
    let source = r##"let a = "x // \" y"; // llama
/* gpt2 /* nested */ still */ let c = '"'; let r = br#"raw " text"#; fn f<'a>(x: &'a str) {} let q = '\''; "end""##;
    let text: Vec<Piece> =
        pieces(source).into_iter().filter(|piece| matches!(piece, Piece::Text(_))).collect();
    assert_eq!(text, ["x // \\\" y", "raw \" text", "end"].map(|text| Piece::Text(text.to_owned())));
    let code = code(&pieces(source));
    assert!(
        code.contains("fn f<'a>(x: &'a str)") && !code.contains("llama") && !code.contains("nested"),
        "{code}"
    );

    let letter = char::is_alphanumeric;
    assert!(has_word("is_llama", "llama", letter) && has_word("Arch::Llama", "llama", letter));
    assert!(!has_word("llama3", "llama", letter) && !has_word("as llama.cpp does", "llama", letter));
    assert!(!has_word("option", "opt", letter) && has_word("if opt {", "opt", letter));
}
