//! Digests that are known already, by the identity of their files.
//!
//! One small file for each: `DEVICE-INODE.json`. A file that was written to has another time, so what is kept of it no
//! longer fits. Nothing here is trusted: what does not parse, does not fit or has another checksum is computed again.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use easyroutine_files::FileIdentity;
use serde_json::{Value, json};

/// No entry is longer.
const LONGEST: u64 = 4096;

/// A time of change this close to the present may stand for two contents: clocks of file systems tick in steps, of up to
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

/// Keeps a digest for the next time. Where that fails it is computed again, which is all that is lost.
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
    // As texts: nanoseconds since 1970 are more than JSON's readers keep.
    let file = [modified, changed].map(i128::to_string);
    let said =
        json!({"device": device, "inode": inode, "bytes": bytes, "modified": file[0], "changed": file[1]});
    let check = blake3::hash(format!("{said}{digest}").as_bytes()).to_hex();
    json!({"schema": "easyroutine.digest/1", "file": said, "blake3": digest, "check": check.as_str()})
}
