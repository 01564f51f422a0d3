//! Downloads one file into `blobs/ETAG` and links it from its snapshot.
//!
//! Bytes go to `ETAG.incomplete`, which an interrupted download leaves for the next one to continue. Once they are
//! complete and correct, a rename makes them `ETAG`. A lock on the etag lets one process fetch while others wait.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind as IoKind, Read, Seek, Write};
use std::path::{Path, PathBuf};

use sha1::Sha1;
use sha2::{Digest, Sha256};
use ureq::http::StatusCode;

use super::super::cache::Repository;
use super::super::{Progress, ResolveOptions, io_error, printable};
use super::client::{Answer, Client, Metadata};
use super::make_parent;
use super::pace::Paced;
use super::retry::{Failure, repeat, repeat_while_growing};
use crate::error::{Error, ErrorKind, Result};

/// The files of one commit, to fetch one after the other.
pub(super) struct Fetch<'a> {
    pub(super) client: &'a Client,
    pub(super) repository: &'a Repository,
    pub(super) commit: &'a str,
    pub(super) options: &'a ResolveOptions,
}

/// Restarts of a download whose file changed or whose bytes were wrong.
const NEW_STARTS: usize = 3;
/// Limit on a file whose length the server does not state: enough for configurations, not for weights.
const LONGEST_UNSIZED: u64 = 64 << 20;
const PIECE: usize = 256 << 10;

impl Fetch<'_> {
    /// Makes sure that a file is in the snapshot. The name has been checked.
    pub(super) fn file(&self, name: &str) -> Result<()> {
        let link = self.repository.snapshot(self.commit).join(name);
        if link.is_file() {
            return Ok(());
        }
        let mut last = None;
        for _ in 0..NEW_STARTS {
            let metadata = repeat(self.options.retries, || self.client.metadata(self.commit, name))?;
            match self.blob(name, &metadata)? {
                Outcome::Whole => return link_blob(&metadata.etag, &link, name),
                Outcome::Anew(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::new(ErrorKind::Network, format!("`{name}` could not be fetched"))))
    }

    fn blob(&self, name: &str, metadata: &Metadata) -> Result<Outcome> {
        let blobs = self.repository.blobs();
        let path = blobs.join(&metadata.etag);
        let here = || path.metadata().is_ok_and(|found| metadata.size.is_none_or(|size| size == found.len()));
        if here() {
            return Ok(Outcome::Whole);
        }
        let lock = Lock::wait(&self.repository.locks().join(format!("{}.lock", metadata.etag)))?;
        if here() {
            return Ok(Outcome::Whole);
        }
        let mut partial = Partial::open(&blobs, metadata, lock.held)?;
        let resumed = partial.length > 0;
        let received = repeat_while_growing(self.options.retries, || {
            let before = partial.length;
            let outcome = self.receive(name, metadata, &mut partial);
            (outcome, partial.length.saturating_sub(before))
        });
        match received {
            Ok(Received::All) => {}
            Ok(Received::OtherEtag) => {
                partial.discard()?;
                let message = format!("`{name}` has changed on the hub while it was fetched");
                return Ok(Outcome::Anew(Error::new(ErrorKind::Network, message).hint("try again")));
            }
            Err(error) => {
                partial.keep_or_discard(lock.held)?;
                return Err(error);
            }
        }
        if let Some(error) = partial.mismatch(name, metadata)? {
            partial.discard()?;
            // After resuming, the earlier part may have been wrong; a file that came in one piece would be wrong again.
            return if resumed { Ok(Outcome::Anew(error)) } else { Err(error) };
        }
        partial.finish(&path)?;
        Ok(Outcome::Whole)
    }

    /// Appends to what is there until it is complete or the connection breaks.
    fn receive(&self, name: &str, metadata: &Metadata, partial: &mut Partial) -> Result<Received, Failure> {
        if metadata.size.is_none_or(|size| partial.length > size) {
            partial.restart()?;
        }
        let total = metadata.size;
        let tell = |done| {
            if let Some(progress) = &self.options.progress {
                (progress.0)(&Progress { file: name, done, total });
            }
        };
        tell(partial.length);
        if Some(partial.length) == total {
            return Ok(Received::All);
        }
        let Answer { response, metadata: now } = self.client.bytes(self.commit, name, partial.length)?;
        if response.status().is_success() && now.is_some_and(|now| now.etag != metadata.etag) {
            return Ok(Received::OtherEtag);
        }
        match response.status() {
            StatusCode::PARTIAL_CONTENT if range_start(&response) == Some(partial.length) => {}
            StatusCode::OK => partial.restart()?,
            status => {
                partial.restart()?;
                let message =
                    format!("the server answers a request for a part of `{name}` with status {status}");
                return Err(Failure::passing(Error::new(ErrorKind::Network, message)));
            }
        }
        let most = total.unwrap_or(LONGEST_UNSIZED);
        let body = response.into_body().into_with_config().limit(u64::MAX).reader();
        let mut body = Paced::new(body, self.options.retries.silence);
        let mut piece = vec![0; PIECE];
        loop {
            let count = match body.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => count,
                Err(e) if e.kind() == IoKind::Interrupted => continue,
                Err(e) => return Err(cut(name, partial.length, total, &e.to_string())),
            };
            if partial.length + count as u64 > most {
                partial.restart()?;
                let message = format!("the server sends more of `{name}` than the {most} bytes it may have");
                return Err(Failure::Lasting(Error::new(ErrorKind::Network, message)));
            }
            partial.append(&piece[..count])?;
            tell(partial.length);
        }
        match total {
            Some(total) if partial.length < total => {
                Err(cut(name, partial.length, Some(total), "it ended early"))
            }
            _ => Ok(Received::All),
        }
    }
}

enum Outcome {
    Whole,
    Anew(Error),
}

enum Received {
    All,
    OtherEtag,
}

fn cut(name: &str, done: u64, total: Option<u64>, why: &str) -> Failure {
    let of = total.map_or_else(String::new, |total| format!(" of {total}"));
    let error =
        Error::new(ErrorKind::Network, format!("the connection broke at byte {done}{of} of `{name}`: {why}"))
            .hint("run the same command again: it continues where this one stopped");
    Failure::passing(error)
}

/// The first byte of a `Content-Range: bytes 10-19/20`.
fn range_start(response: &ureq::http::Response<ureq::Body>) -> Option<u64> {
    let range = response.headers().get("content-range")?.to_str().ok()?;
    range.trim().strip_prefix("bytes")?.trim_start().split_once('-')?.0.parse().ok()
}

/// The bytes received so far, and their hash if the etag is one.
struct Partial {
    file: File,
    path: PathBuf,
    length: u64,
    hash: Option<Sha256>,
}

impl Partial {
    fn open(blobs: &Path, metadata: &Metadata, alone: bool) -> Result<Self> {
        // Without working locks, each process has its own file, and no download can be resumed.
        let own = if alone { String::new() } else { format!(".{}", std::process::id()) };
        let path = blobs.join(format!("{}{own}.incomplete", metadata.etag));
        make_parent(&path)?;
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = file.map_err(|e| io_error(&path, "open", e))?;
        let is_hash = metadata.etag.len() == 64 && is_hex(&metadata.etag);
        let mut hash = is_hash.then(Sha256::new);
        let mut length = 0;
        let mut piece = vec![0; PIECE];
        loop {
            match file.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => {
                    length += count as u64;
                    if let Some(hash) = &mut hash {
                        hash.update(&piece[..count]);
                    }
                }
                Err(e) if e.kind() == IoKind::Interrupted => {}
                Err(e) => return Err(io_error(&path, "read", e)),
            }
        }
        Ok(Partial { file, path, length, hash })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| io_error(&self.path, "write", e))?;
        self.length += bytes.len() as u64;
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        Ok(())
    }

    fn restart(&mut self) -> Result<()> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.rewind());
        emptied.map_err(|e| io_error(&self.path, "empty", e))?;
        self.length = 0;
        self.hash = self.hash.as_ref().map(|_| Sha256::new());
        Ok(())
    }

    /// The error in the bytes, if the etag determines them: the SHA-256 of an LFS file, or git's SHA-1 of any other.
    fn mismatch(&mut self, name: &str, metadata: &Metadata) -> Result<Option<Error>> {
        let (kind, found) = match &self.hash {
            Some(hash) => ("SHA-256", hex(&hash.clone().finalize())),
            None if metadata.etag.len() == 40 && is_hex(&metadata.etag) => ("git hash", self.git_hash()?),
            None => return Ok(None),
        };
        if found.eq_ignore_ascii_case(&metadata.etag) {
            return Ok(None);
        }
        let message =
            format!("`{}` came damaged: its {kind} is {found}, not {}", printable(name), metadata.etag);
        Ok(Some(
            Error::new(ErrorKind::Network, message)
                .hint("try again; a proxy between here and the hub may change files"),
        ))
    }

    /// Git's hash of a file: over `blob`, its length, and its bytes.
    fn git_hash(&mut self) -> Result<String> {
        let mut hash = Sha1::new();
        hash.update(format!("blob {}\0", self.length));
        let read = self.file.rewind().and_then(|()| {
            let mut piece = vec![0; PIECE];
            loop {
                match self.file.read(&mut piece) {
                    Ok(0) => return Ok(()),
                    Ok(count) => hash.update(&piece[..count]),
                    Err(e) if e.kind() == IoKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
        });
        read.map_err(|e| io_error(&self.path, "read", e))?;
        Ok(hex(&hash.finalize()))
    }

    fn discard(self) -> Result<()> {
        fs::remove_file(&self.path).map_err(|e| io_error(&self.path, "remove", e))
    }

    fn keep_or_discard(self, keep: bool) -> Result<()> {
        if keep && self.length > 0 { Ok(()) } else { self.discard() }
    }

    fn finish(self, path: &Path) -> Result<()> {
        // Sync before the final name is given: a rename may reach the disk before the bytes do.
        self.file.sync_all().map_err(|e| io_error(&self.path, "write", e))?;
        fs::rename(&self.path, path).map_err(|e| io_error(path, "write", e))
    }
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The right to write one blob, in the form that `huggingface_hub` uses (flock on Unix).
struct Lock {
    /// False if the file system has no locks.
    held: bool,
    _file: File,
}

impl Lock {
    fn wait(path: &Path) -> Result<Self> {
        make_parent(path)?;
        let opened = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let file = opened.map_err(|e| io_error(path, "open", e))?;
        let held = match file.try_lock() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock) => {
                file.lock().map_err(|e| io_error(path, "lock", e))?;
                true
            }
            Err(TryLockError::Error(_)) => false,
        };
        Ok(Lock { held, _file: file })
    }
}

/// Links a file's place in the snapshot to a blob; relative, so that the cache can be moved.
fn link_blob(etag: &str, link: &Path, name: &str) -> Result<()> {
    make_parent(link)?;
    let depth = name.matches('/').count();
    let target = PathBuf::from("../".repeat(depth + 2)).join("blobs").join(etag);
    let temporary = beside(link);
    let made = symlink(&target, link, &temporary).and_then(|()| fs::rename(&temporary, link));
    made.map_err(|e| io_error(link, "link", e))
}

#[cfg(unix)]
fn symlink(target: &Path, _link: &Path, temporary: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, temporary)
}

/// Elsewhere links need rights that few users have, so the bytes are copied.
#[cfg(not(unix))]
fn symlink(target: &Path, link: &Path, temporary: &Path) -> std::io::Result<()> {
    let folder = link.parent().unwrap_or(Path::new(""));
    fs::copy(folder.join(target), temporary).map(|_| ())
}

/// Writes a small file atomically.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    make_parent(path)?;
    let temporary = beside(path);
    let written = fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
    written.map_err(|e| io_error(path, "write", e))
}

/// A name in the same folder that no other thread of any process uses.
fn beside(path: &Path) -> PathBuf {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.{number}.temporary", std::process::id()))
}
