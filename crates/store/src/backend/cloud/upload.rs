//! New objects: small ones in one request, shards in parts while they are written.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write};

use object_store::path::Path as Key;
use object_store::{MultipartUpload, ObjectStoreExt};
use tokio::task::JoinHandle;

use super::Cloud;
use crate::backend::Upload;
use crate::error::{Error, ErrorKind, Result};

/// Bytes per part; all but the last must have this size, and S3 accepts 10,000 parts.
const PART: usize = 16 << 20;
/// Parts in flight at a time.
const AT_ONCE: usize = 4;

/// An object being uploaded.
pub(super) struct CloudUpload<'a> {
    cloud: &'a Cloud,
    path: String,
    key: Key,
    /// Shards have unique names, so they go in parts. Anything else is created only where nothing exists.
    in_parts: bool,
    rest: Vec<u8>,
    begun: Option<Box<dyn MultipartUpload>>,
    sent: VecDeque<JoinHandle<object_store::Result<()>>>,
}

impl<'a> CloudUpload<'a> {
    pub(super) fn new(cloud: &'a Cloud, path: &str) -> Result<Self> {
        let (key, in_parts) = (cloud.key(path)?, path.contains("/data/"));
        let (rest, begun, sent) = (Vec::new(), None, VecDeque::new());
        Ok(CloudUpload { cloud, path: path.to_owned(), key, in_parts, rest, begun, sent })
    }

    fn failed(&self, error: object_store::Error) -> Error {
        self.cloud.failed("write", &self.path, error)
    }

    fn send(&mut self, part: Vec<u8>) -> Result<()> {
        let mut upload = match self.begun.take() {
            Some(upload) => upload,
            None => {
                let (objects, key) = (self.cloud.objects.clone(), self.key.clone());
                let begun = self.cloud.wait(async move { objects.put_multipart(&key).await })?;
                begun.map_err(|e| self.failed(e))?
            }
        };
        let part = upload.put_part(part.into());
        self.begun = Some(upload);
        self.sent.push_back(self.cloud.runtime.spawn(part));
        if self.sent.len() >= AT_ONCE { self.arrived() } else { Ok(()) }
    }

    /// Waits for the oldest part.
    fn arrived(&mut self) -> Result<()> {
        let Some(part) = self.sent.pop_front() else { return Ok(()) };
        match self.cloud.wait(part)? {
            Ok(result) => result.map_err(|e| self.failed(e)),
            Err(error) => Err(Error::new(ErrorKind::Io, format!("{}: {error}", self.cloud.show(&self.path)))),
        }
    }
}

impl Write for CloudUpload<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.rest.extend_from_slice(bytes);
        while self.in_parts && self.rest.len() >= PART {
            let rest = self.rest.split_off(PART);
            let part = std::mem::replace(&mut self.rest, rest);
            self.send(part).map_err(io::Error::other)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Upload for CloudUpload<'_> {
    fn finish(mut self: Box<Self>) -> Result<()> {
        let rest = std::mem::take(&mut self.rest);
        if self.begun.is_none() {
            return self.cloud.create(&self.path, &rest);
        }
        if !rest.is_empty() {
            self.send(rest)?;
        }
        while !self.sent.is_empty() {
            self.arrived()?;
        }
        let Some(mut upload) = self.begun.take() else { return Ok(()) };
        let done = self.cloud.wait(async move {
            let done = upload.complete().await;
            if done.is_err() {
                let _ = upload.abort().await;
            }
            done
        })?;
        done.map(drop).map_err(|e| self.failed(e))
    }
}

impl Drop for CloudUpload<'_> {
    fn drop(&mut self) {
        let Some(mut upload) = self.begun.take() else { return };
        self.sent.iter().for_each(JoinHandle::abort);
        // Parts that are never joined cost money until they are aborted; if that fails, the bucket's rules must do it.
        let _ = self.cloud.wait(async move { upload.abort().await });
    }
}

impl fmt::Debug for CloudUpload<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "upload of {}", self.path)
    }
}
