//! A cache of digests, keyed by the identity of files.
//!
//! One small file per entry: `DEVICE-INODE.json`. A file that was written to has a new time, so its entry no longer
//! matches. Nothing here is trusted: an entry that does not parse, does not match or has the wrong checksum is computed
//! again.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use easyroutine_files::FileIdentity;
use serde_json::{Value, json};

/// Limit on an entry's length.
const LONGEST: u64 = 4096;

/// A modification time this close to the present may stand for two contents: file system clocks tick in steps of up to
/// two seconds.
const UNSURE: i128 = 2_000_000_000;

/// The digest of a file, if it is known.
pub(super) fn look_up(folder: &Path, identity: &FileIdentity) -> Option<String> {
    let mut text = String::new();
    File::open(place(folder, identity)).ok()?.take(LONGEST).read_to_string(&mut text).ok()?;
    let entry: Value = serde_json::from_str(&text).ok()?;
    let digest = entry.get("blake3")?.as_str()?;
    (entry == written(identity, digest)).then(|| digest.to_owned())
}

/// Stores a digest for the next time. If that fails, it will be computed again, and nothing else is lost.
pub(super) fn keep(folder: &Path, identity: &FileIdentity, digest: &str) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as i128;
    if now - identity.changed.max(identity.modified) < UNSURE {
        return;
    }
    let write = || -> std::io::Result<()> {
        fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(written(identity, digest).to_string().as_bytes())?;
        file.persist(place(folder, identity))?;
        Ok(())
    };
    drop(write());
}

fn place(folder: &Path, identity: &FileIdentity) -> PathBuf {
    folder.join(format!("{:x}-{:x}.json", identity.device, identity.inode))
}

fn written(identity: &FileIdentity, digest: &str) -> Value {
    let FileIdentity { device, inode, bytes, modified, changed } = identity;
    // As strings: nanoseconds since 1970 exceed what JSON readers keep.
    let file = [modified, changed].map(i128::to_string);
    let said =
        json!({"device": device, "inode": inode, "bytes": bytes, "modified": file[0], "changed": file[1]});
    let check = blake3::hash(format!("{said}{digest}").as_bytes()).to_hex();
    json!({"schema": "easyroutine.digest/1", "file": said, "blake3": digest, "check": check.as_str()})
}
