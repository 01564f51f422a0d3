//! A server, a cache and an environment that joins them, for one test.

use std::fs;
use std::time::Duration;

use easyroutine::source::{Environment, FilesKind, ModelFiles, ResolveOptions, Retries, resolve_in};
use easyroutine::{Error, ErrorKind};

use super::server::{Hub, Server};
use crate::common::folder::Folder;

/// One attempt, so that failures are not retried away.
pub(crate) fn once() -> ResolveOptions {
    retrying(1)
}

pub(crate) fn retrying(attempts: u32) -> ResolveOptions {
    let retries = Retries { attempts, first_pause: Duration::from_millis(1), ..Retries::default() };
    ResolveOptions { retries, ..ResolveOptions::default() }
}

/// Bytes that differ at every offset that a wrong resume could confuse.
pub(crate) fn weights(seed: u8, length: usize) -> Vec<u8> {
    (0..length as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8 ^ seed).collect()
}

pub(crate) fn small_model(id: &str) -> Hub {
    Hub::new(
        id,
        [
            ("config.json", b"{}".to_vec()),
            ("tokenizer.json", b"{\"version\":\"1.0\"}".to_vec()),
            ("tokenizer_config.json", b"{\"a\":1}".to_vec()),
            ("model.safetensors", weights(1, 300_000)),
            ("pytorch_model.bin", b"pickle".to_vec()),
            ("README.md", b"# model".to_vec()),
        ],
    )
}

/// A server, a cache and the environment that joins them.
pub(crate) struct Place {
    pub(crate) server: Server,
    pub(crate) folder: Folder,
    pub(crate) environment: Environment,
}

impl Place {
    pub(crate) fn new(hub: Hub) -> Self {
        Self::with(hub, &[])
    }

    pub(crate) fn with(hub: Hub, variables: &[(&str, &str)]) -> Self {
        let server = Server::start(hub);
        let folder = Folder::new();
        // With a trailing slash, which the routes must not double.
        let endpoint = format!("{}/", server.address);
        let variables: Vec<_> =
            variables.iter().copied().chain([("HF_ENDPOINT", endpoint.as_str())]).collect();
        let environment = folder.environment(&variables);
        Place { server, folder, environment }
    }

    pub(crate) fn resolve(&self, reference: &str, options: &ResolveOptions) -> Result<ModelFiles, Error> {
        resolve_in(reference, options, &self.environment)
    }

    pub(crate) fn fails(&self, reference: &str, options: &ResolveOptions) -> (ErrorKind, String, String) {
        let error = self.resolve(reference, options).expect_err(reference);
        (error.kind(), error.to_string(), error.hint_text().unwrap_or_default().to_owned())
    }

    /// Whether the file of the snapshot matches the server's.
    pub(crate) fn has(&self, files: &ModelFiles, name: &str) -> bool {
        let FilesKind::Folder(snapshot) = &files.kind else { return false };
        fs::read(snapshot.join(name)).is_ok_and(|bytes| bytes == self.server.hub().file(name).bytes)
    }

    pub(crate) fn incomplete(&self) -> Vec<String> {
        self.folder.tree().into_iter().filter(|name| name.ends_with(".incomplete")).collect()
    }
}

pub(crate) fn cut(place: &Place, name: &str, at: usize) {
    place.server.hub().cuts.push_back((name.into(), at));
}
