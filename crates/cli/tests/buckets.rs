//! Runs in a bucket, used as by a user: the program with a server of the test's own.
#![cfg(feature = "cloud")]

use crate::common;

#[path = "common/bucket.rs"]
mod bucket;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

use assert_cmd::Command;
use bucket::{Conditions, serve};
use common::{easyroutine, tiny};
use serde_json::{Value, json};

const STORE: &str = "s3://bucket/a prefix/runs";

/// The program, with the bucket's address.
fn program(address: &str, args: &[&str]) -> Command {
    let mut command = easyroutine(args);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
        command.env_remove(name);
    }
    command.env("AWS_ENDPOINT_URL", address).env("AWS_ALLOW_HTTP", "true").env("AWS_REGION", "eu-central-1");
    command.env("AWS_ACCESS_KEY_ID", "id").env("AWS_SECRET_ACCESS_KEY", "secret");
    command
}

fn extract<'a>(model: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let all = [
        "extract",
        "--token-ids",
        "[[1,2,3],[4,5,6],[7,8,9]]",
        "-m",
        model,
        "-a",
        "resid_out_*",
        "-o",
        STORE,
    ];
    [&all[..], more].concat()
}

fn runs(address: &str, args: &[&str]) -> Value {
    let all = [&["runs", "-b", STORE, "--format", "json"], args].concat();
    serde_json::from_slice(&program(address, &all).assert().success().get_output().stdout).unwrap()
}

#[test]
fn a_run_in_a_bucket_is_saved_found_changed_moved_and_removed() {
    let (address, model) = (serve(Conditions::Kept), tiny("llama"));
    let missing =
        program(&address, &["runs", "-b", STORE, "ls"]).assert().code(1).get_output().stderr.clone();
    assert!(String::from_utf8(missing).unwrap().contains("a prefix/runs: there is no store"));
    let saved = program(&address, &extract(&model, &["--tag", "first"])).assert().success();
    let path = String::from_utf8(saved.get_output().stdout.clone()).unwrap();
    assert!(path.starts_with("s3://bucket/a prefix/runs/default/llama/"), "{path}");
    assert_eq!(runs(&address, &["query", "--tag", "first"])["runs"].as_array().unwrap().len(), 1);
    runs(&address, &["tag", "-1", "good"]);
    runs(&address, &["mv", "-1", "other"]);
    runs(&address, &["rename", "other", "third"]);
    let shown = runs(&address, &["show", "-1"]);
    assert!(shown["path"].as_str().unwrap().starts_with("third/llama/"), "{shown}");
    assert_eq!(shown["metadata"]["_store"]["tags"], json!(["good"]));
    let loaded = runs(&address, &["load", "-1", "resid_out_1", "--rows", "1"]);
    let folder = tempfile::tempdir().unwrap();
    let local = format!("{}/", folder.path().display());
    program(&address, &[&extract(&model, &[])[..8], &[&local]].concat()).assert().success();
    let here =
        common::json(&["runs", "-b", &local, "load", "-1", "resid_out_1", "--rows", "1", "--format", "json"]);
    assert_eq!((&loaded["values"], &loaded["shape"]), (&here["values"], &here["shape"]));
    program(&address, &["runs", "-b", STORE, "verify"]).assert().success();
    runs(&address, &["rm", "-1"]);
    assert_eq!(runs(&address, &["ls"])["runs"], json!([]));
}

#[test]
fn several_processes_make_one_run_in_a_bucket() {
    let (address, model) = (serve(Conditions::Kept), tiny("llama"));
    std::thread::scope(|scope| {
        for part in ["1/3", "2/3", "3/3"] {
            let (address, model) = (&address, &model);
            let flags = ["--unit", "1", "--run", "job", "--part", part];
            scope.spawn(move || program(address, &extract(model, &flags)).assert().success());
        }
    });
    let listed = runs(&address, &["ls"]);
    assert_eq!(listed["runs"].as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(listed["runs"][0]["metadata"]["_store"]["n_examples"], json!(3));
    program(&address, &["runs", "-b", STORE, "verify"]).assert().success();
}

#[test]
fn a_bucket_that_can_keep_no_promise_is_refused() {
    let model = tiny("llama");
    let refused = |address: &str, code: i32| {
        let failed = program(address, &extract(&model, &[])).assert().code(code);
        String::from_utf8(failed.get_output().stderr.clone()).unwrap()
    };
    let message = refused(&serve(Conditions::Ignored), 1);
    assert!(message.contains("replaces objects although it is told not to"), "{message}");
    assert!(message.contains("hint: the storage must keep to `If-None-Match: *`"), "{message}");
    let message = refused("localhost:9000", 2);
    assert!(message.contains("AWS_ENDPOINT_URL: `localhost:9000` is not a URL"), "{message}");
}

#[test]
fn a_bucket_without_rights_says_which_account_needs_which() {
    // A server that knows the account and lets it do nothing.
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", server.local_addr().unwrap());
    std::thread::spawn(move || {
        for connection in server.incoming() {
            let mut connection = connection.unwrap();
            let mut request = BufReader::new(connection.try_clone().unwrap()).lines();
            while request.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            let _ = connection
                .write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    });
    let model = tiny("llama");
    for words in [vec!["runs", "-b", STORE, "ls"], extract(&model, &[])] {
        let output = program(&address, &words).assert().code(1).get_output().stderr.clone();
        let said = String::from_utf8(output).unwrap();
        assert!(said.contains("403") && said.contains("needs the rights to list, read, write"), "{said}");
    }
}
