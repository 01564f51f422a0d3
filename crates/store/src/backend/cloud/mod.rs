//! The protocol on object storage: S3, Google Cloud Storage, Azure, through the crate object_store.
//!
//! Object storage has no folders and no renames, but it has puts that fail if an object exists, and puts that fail if
//! an object has changed. These two carry the protocol: see docs/design/store.md.

mod connect;
mod moving;
mod source;
mod upload;

use std::future::Future;
use std::path::Path;
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;
use std::{io, thread};

use futures_util::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path as Key;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, UpdateVersion};
use tokio::runtime::{Builder, Runtime};
use uuid::Uuid;

use super::{Backend, Change, Durability, Left, MaybeHeld, Upload, split};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{Entry, EntryKind, Hold, Source};
use crate::names::{INTERNAL, METADATA};
use source::CloudSource;
use upload::CloudUpload;

/// The object that claims a run's folder, since there are no folders to create.
const CLAIMED: &str = ".claimed";
/// Asked for credentials if none are set; it answers on the provider's own machines.
const METADATA_SERVER: &str = "169.254.169.254";
/// Where a client's settings come from, for errors.
const VARIABLES: &str = "say how in the provider's variables: AWS_*, GOOGLE_* or AZURE_*";
/// The hint after a refusal.
const RIGHTS: &str = "the account in the provider's variables (AWS_*, GOOGLE_* or AZURE_*) needs the rights to list, read, write and delete here";
/// Retries after a concurrent change.
const MOST_TRIES: u32 = 200;
/// Concurrent requests.
const AT_ONCE: usize = 16;

/// A store under a prefix of a bucket.
#[derive(Debug, Clone)]
pub(crate) struct Cloud {
    objects: Arc<dyn ObjectStore>,
    /// Prepended to every path; may be empty.
    prefix: String,
    /// The store's name in errors: `s3://bucket/prefix`.
    url: String,
    runtime: &'static Runtime,
}

impl Cloud {
    /// A store in an existing bucket, with credentials and region from the environment.
    pub(crate) fn connect(url: &str) -> Result<Self> {
        let (objects, prefix) = connect::connect(url)?;
        Cloud::over(objects, prefix, url.trim_end_matches('/').to_owned())
    }

    /// A store that lives as long as the process.
    pub(crate) fn in_memory() -> Result<Self> {
        Cloud::over(Arc::new(InMemory::new()), String::new(), "memory://".to_owned())
    }

    pub(super) fn over(objects: Arc<dyn ObjectStore>, prefix: String, url: String) -> Result<Self> {
        Ok(Cloud { objects, prefix, url, runtime: runtime()? })
    }

    /// The key of a path.
    fn key(&self, path: &str) -> Result<Key> {
        let whole = if self.prefix.is_empty() { path.to_owned() } else { format!("{}/{path}", self.prefix) };
        Key::parse(whole).map_err(|e| Error::input(format!("{}: {e}", self.show(path))))
    }

    /// The path of a key.
    fn path(&self, key: &Key) -> String {
        let below = key.as_ref().strip_prefix(&self.prefix).unwrap_or(key.as_ref());
        below.trim_start_matches('/').to_owned()
    }

    /// A path's name in errors.
    fn show(&self, path: &str) -> String {
        format!("{}/{path}", self.url)
    }

    fn failed(&self, action: &str, path: &str, error: object_store::Error) -> Error {
        let kind = match error {
            object_store::Error::NotFound { .. } => ErrorKind::NotFound,
            object_store::Error::AlreadyExists { .. } => ErrorKind::Exists,
            object_store::Error::Precondition { .. } => ErrorKind::Conflict,
            object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. } => {
                ErrorKind::Unsupported
            }
            _ => ErrorKind::Io,
        };
        let is_refused = matches!(
            error,
            object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. }
        );
        let said = one_line(&error);
        let error = Error::new(kind, format!("{}: cannot {action}: {said}", self.show(path)));
        match is_refused {
            // The account of the machine itself was asked for, since the variables name none.
            _ if said.contains(METADATA_SERVER) => error.hint(VARIABLES),
            true => error.hint(RIGHTS),
            false => error,
        }
    }

    /// Waits for work on the runtime. Not `block_on`: the caller may be a task of another runtime.
    fn wait<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T> {
        let (done, result) = mpsc::sync_channel(1);
        self.runtime.spawn(async move {
            // The receiver is gone only if the process is ending.
            let _ = done.send(work.await);
        });
        result.recv().map_err(|_| Error::new(ErrorKind::Io, format!("{}: a request was given up", self.url)))
    }

    fn get(&self, path: &str) -> Result<(Vec<u8>, UpdateVersion)> {
        let (objects, key) = (self.objects.clone(), self.key(path)?);
        let got = self.wait(async move {
            let found = objects.get(&key).await?;
            let version =
                UpdateVersion { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
            Ok((found.bytes().await?.to_vec(), version))
        })?;
        got.map_err(|e| self.failed("read", path, e))
    }

    /// Creates an object where none exists. If an answer is lost, the client retries and finds its own object: such
    /// objects hold something that no other writer writes.
    fn create(&self, path: &str, content: &[u8]) -> Result<()> {
        match self.put(path, content, PutMode::Create) {
            Err(error) if error.kind() == ErrorKind::Exists => {
                if self.get(path).is_ok_and(|(found, _)| found == content) { Ok(()) } else { Err(error) }
            }
            done => done,
        }
    }

    fn put(&self, path: &str, content: &[u8], mode: PutMode) -> Result<()> {
        let (objects, key) = (self.objects.clone(), self.key(path)?);
        let (payload, options) = (PutPayload::from(content.to_vec()), PutOptions::from(mode));
        let put = self.wait(async move { objects.put_opts(&key, payload, options).await })?;
        put.map(drop).map_err(|e| self.failed("write", path, e))
    }

    /// Every object below a path.
    fn below(&self, path: &str) -> Result<Vec<ObjectMeta>> {
        let (objects, key) = (self.objects.clone(), self.key(path)?);
        let found = self.wait(async move { objects.list(Some(&key)).try_collect().await })?;
        found.map_err(|e| self.failed("list", path, e))
    }

    /// Deletes objects; a missing one is no error.
    fn delete(&self, paths: Vec<String>) -> Result<()> {
        let keys = paths.iter().map(|path| self.key(path)).collect::<Result<Vec<_>>>()?;
        let objects = self.objects.clone();
        let first = paths.first().cloned().unwrap_or_default();
        let deleted = self.wait(async move {
            let keys = futures_util::stream::iter(keys.into_iter().map(Ok)).boxed();
            let mut results = objects.delete_stream(keys);
            while let Some(result) = results.next().await {
                match result {
                    Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        })?;
        deleted.map_err(|e| self.failed("delete", &first, e))
    }

    fn is_there(&self, path: &str) -> Result<bool> {
        let (objects, key) = (self.objects.clone(), self.key(path)?);
        match self.wait(async move { objects.head(&key).await })? {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(self.failed("look at", path, error)),
        }
    }

    /// Whether anything exists below a path.
    fn is_folder(&self, path: &str) -> Result<bool> {
        let (objects, key) = (self.objects.clone(), self.key(path)?);
        match self.wait(async move { objects.list(Some(&key)).next().await })? {
            None => Ok(false),
            Some(Ok(_)) => Ok(true),
            Some(Err(error)) => Err(self.failed("list", path, error)),
        }
    }

    fn no_folder(&self, path: &str) -> Error {
        Error::new(ErrorKind::NotFound, format!("{}: is not there", self.show(path)))
    }

    /// Refuses to write into an unclaimed run: one that was moved away must not come back in part.
    fn is_claimed(&self, path: &str) -> Result<()> {
        let Some(run) = run_of(path) else { return Ok(()) };
        if self.is_there(&format!("{run}/{CLAIMED}"))? {
            return Ok(());
        }
        Err(self.no_folder(run).hint("the run was removed, or its experiment renamed, while it was written"))
    }

    /// Retries what fails only because another writer was faster.
    fn retried<T>(&self, path: &str, mut work: impl FnMut() -> Result<T>) -> Result<T> {
        for tries in 1.. {
            match work() {
                Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Exists) => {
                    if tries == MOST_TRIES {
                        return Err(error);
                    }
                    // So that writers do not retry in step.
                    let jitter = u64::from(Uuid::new_v4().into_bytes()[0]);
                    thread::sleep(Duration::from_millis(jitter * u64::from(tries.min(8)) / 16));
                }
                done => return done,
            }
        }
        Err(Error::new(ErrorKind::Conflict, format!("{}: changes all the time", self.show(path))))
    }
}

impl Backend for Cloud {
    fn claim(&self, folder: &str) -> Result<()> {
        if self.is_there(&format!("{folder}/{METADATA}"))? {
            return Err(Error::new(ErrorKind::Exists, format!("{}: is there already", self.show(folder))));
        }
        self.create(&format!("{folder}/{CLAIMED}"), format!("{}\n", Uuid::new_v4()).as_bytes())
    }

    fn upload(&self, path: &str) -> Result<Box<dyn Upload + '_>> {
        self.is_claimed(path)?;
        Ok(Box::new(CloudUpload::new(self, path)?))
    }

    /// A put is durable already.
    fn settle(&self, folder: &str) -> Result<()> {
        if self.is_folder(folder)? { Ok(()) } else { Err(self.no_folder(folder)) }
    }

    fn publish(&self, path: &str, content: &[u8]) -> Result<()> {
        self.is_claimed(path)?;
        self.create(path, content)?;
        // A move takes the claim first, then looks at what is there: either it found the record, or the record is taken
        // back here.
        self.is_claimed(path).inspect_err(|_| {
            let _ = self.delete(vec![path.to_owned()]);
        })
    }

    fn put_new(&self, path: &str, content: &[u8]) -> Result<()> {
        self.is_claimed(path)?;
        self.create(path, content)
    }

    fn update(&self, path: &str, change: Change<'_>) -> Result<()> {
        self.retried(path, || {
            let (content, version) = self.get(path)?;
            let changed = match change(&content) {
                Ok(changed) => changed,
                // A refusal is not a race, whatever its kind.
                Err(error) => return Ok(Err(error)),
            };
            self.put(path, &changed, PutMode::Update(version)).map(Ok)
        })?
    }

    fn open(&self, path: &str) -> Result<Arc<dyn Source>> {
        let (objects, key) = (self.objects.clone(), self.key(path)?);
        let opened = self.wait(source::open(objects, key))?;
        let opened = opened.map_err(|e| self.failed("open", path, e))?;
        Ok(Arc::new(CloudSource::new(self.clone(), path.to_owned(), opened)))
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>> {
        let (objects, key) = (self.objects.clone(), self.key(folder)?);
        let found = self.wait(async move { objects.list_with_delimiter(Some(&key)).await })?;
        let found = found.map_err(|e| self.failed("list", folder, e))?;
        let folders = found.common_prefixes.iter().map(|key| Entry {
            name: key.filename().unwrap_or_default().to_owned(),
            kind: EntryKind::Folder,
            size: 0,
            modified: 0,
        });
        let mut entries: Vec<Entry> = folders.chain(found.objects.iter().map(entry_of)).collect();
        if entries.is_empty() && !folder.is_empty() {
            return Err(self.no_folder(folder));
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn entry(&self, path: &str) -> Result<Entry> {
        let (objects, key) = (self.objects.clone(), self.key(path)?);
        match self.wait(async move { objects.head(&key).await })? {
            Ok(found) => return Ok(entry_of(&found)),
            Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(self.failed("look at", path, error)),
        }
        let name = split(path).1.to_owned();
        let folder = |modified| Entry { name, kind: EntryKind::Folder, size: 0, modified };
        // A run and its contents change when one of their objects does; folders above are many objects.
        if run_of(&format!("{path}/")).is_none() {
            return if self.is_folder(path)? { Ok(folder(0)) } else { Err(self.no_folder(path)) };
        }
        let newest = self.below(path)?.iter().map(|object| entry_of(object).modified).max();
        newest.map(folder).ok_or_else(|| self.no_folder(path))
    }

    fn move_folder(&self, from: &str, to: &str) -> Result<()> {
        self.move_objects(from, to)
    }

    fn retire(&self, folder: &str) -> Result<()> {
        self.delete_objects(folder)
    }

    /// Without the claim nothing can be published: a writer that checked the claim earlier checks again after writing
    /// the record, and takes the record back. So a record found here belongs to a run that is kept, and a later one
    /// does not count.
    fn sweep(&self, run: &str, is_garbage: &dyn Fn(&str) -> Result<bool>) -> Result<bool> {
        let claim = format!("{run}/{CLAIMED}");
        self.delete(vec![claim.clone()])?;
        match is_garbage(run) {
            Ok(true) => self
                .delete_objects(run)
                .or_else(|e| if e.kind() == ErrorKind::NotFound { Ok(()) } else { Err(e) })
                .map(|()| true),
            kept => self.create(&claim, format!("{}\n", Uuid::new_v4()).as_bytes()).and(kept),
        }
    }

    /// Objects are deleted in place, so there is no trash.
    fn empty_trash(&self, _delete: bool) -> Result<Vec<Left>> {
        Ok(Vec::new())
    }

    fn hold(&self, _path: &str, _how: Hold) -> Result<MaybeHeld> {
        Ok(Some(Box::new(())))
    }

    fn delete_folder(&self, folder: &str) -> Result<()> {
        self.delete_objects(folder)
    }

    /// No storage deletes conditionally: another object may be put between the check and the deletion.
    fn delete_if(&self, path: &str, is_meant: &dyn Fn(&[u8]) -> bool) -> Result<()> {
        match self.get(path) {
            Ok((found, _)) if is_meant(&found) => self.delete_file(path),
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn delete_file(&self, path: &str) -> Result<()> {
        self.delete(vec![path.to_owned()])
    }

    fn tick(&self, least: u64) -> Result<u64> {
        let path = format!("{INTERNAL}/clock");
        self.retried(&path, || {
            let (content, mode) = match self.get(&path) {
                Ok((content, version)) => (content, PutMode::Update(version)),
                Err(error) if error.kind() == ErrorKind::NotFound => (Vec::new(), PutMode::Create),
                Err(error) => return Err(error),
            };
            let next = super::next_tick(&content, least)?;
            self.put(&path, super::tick_text(next).as_bytes(), mode)?;
            Ok(next)
        })
    }

    /// A bucket keeps what it accepted: there is no weaker promise.
    fn with_durability(&self, _durability: Durability) -> Arc<dyn Backend> {
        Arc::new(self.clone())
    }

    fn durability(&self) -> Durability {
        Durability::Full
    }

    fn readers(&self, files: usize) -> usize {
        files.clamp(1, AT_ONCE)
    }

    fn local_path(&self) -> Option<&Path> {
        None
    }
}

/// One runtime for the whole process. It is never dropped, since that would panic within another runtime.
fn runtime() -> Result<&'static Runtime> {
    static RUNTIME: OnceLock<io::Result<Runtime>> = OnceLock::new();
    let started = RUNTIME.get_or_init(|| {
        Builder::new_multi_thread().worker_threads(2).thread_name("easyroutine-store").enable_all().build()
    });
    started
        .as_ref()
        .map_err(|e| Error::new(ErrorKind::Io, format!("object storage: cannot start threads: {e}")))
}

/// The run that a path belongs to: its first three names.
fn run_of(path: &str) -> Option<&str> {
    path.match_indices('/').nth(2).map(|(end, _)| &path[..end])
}

fn entry_of(object: &ObjectMeta) -> Entry {
    let time = object.last_modified;
    Entry {
        name: object.location.filename().unwrap_or_default().to_owned(),
        kind: EntryKind::File,
        size: object.size,
        modified: i128::from(time.timestamp()) * 1_000_000_000 + i128::from(time.timestamp_subsec_nanos()),
    }
}

/// The client's error with its causes, on one line; of an XML page, the sentence in it.
fn one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    let sentence = text.split_once("<Message>").and_then(|(_, rest)| rest.split_once("</Message>"));
    let sentence = sentence.map(|(sentence, _)| sentence.to_owned());
    if let (Some(sentence), Some(begin)) = (sentence, text.find('<')) {
        text.replace_range(begin.., &sentence);
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
