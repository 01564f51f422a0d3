//! The real file system.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use easyroutine_files::MappedFile;

use super::{Entry, EntryKind, FileSystem, Locked, NewFile, Source};

/// A folder of the operating system.
#[derive(Debug)]
pub struct OsFiles {
    root: PathBuf,
    reading: Reading,
}

/// How files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// From the page cache where they lie.
    Mapped,
    /// Call by call. What another machine writes to a mapped file is seen late or never.
    Called,
}

impl OsFiles {
    /// A folder that is there.
    ///
    /// # Errors
    /// It is not there, or no folder.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        if !fs::metadata(&root)?.is_dir() {
            return Err(io::Error::new(io::ErrorKind::NotADirectory, "is not a folder"));
        }
        let reading = if keeps_mapped_files(&root) { Reading::Mapped } else { Reading::Called };
        Ok(OsFiles { root, reading })
    }

    /// A folder that is made where it is not there, with those above it.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        let mut made = Vec::new();
        let missing =
            root.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists());
        for folder in missing.collect::<Vec<_>>().into_iter().rev() {
            match fs::create_dir(folder) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => made.push(folder.to_owned()),
            }
        }
        for folder in made {
            sync_folder(folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
        }
        OsFiles::open(root)
    }

    fn at(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.root.clone() } else { self.root.join(path) }
    }
}

impl FileSystem for OsFiles {
    fn create_dir(&self, path: &str) -> io::Result<()> {
        fs::create_dir(self.at(path))
    }

    fn create_file(&self, path: &str) -> io::Result<Box<dyn NewFile>> {
        // `create_new` never follows a link.
        let file = OpenOptions::new().write(true).create_new(true).open(self.at(path))?;
        Ok(Box::new(OsFile(file)))
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        sync_folder(&self.at(path))
    }

    fn rename_new(&self, from: &str, to: &str) -> io::Result<()> {
        rename_new(&self.at(from), &self.at(to))
    }

    fn replace(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.at(from), self.at(to))
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.at(path))
    }

    fn remove_dir(&self, path: &str) -> io::Result<()> {
        fs::remove_dir(self.at(path))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn Source>> {
        let place = self.at(path);
        let file = open_without_following(&place)?;
        let about = file.metadata()?;
        if !about.is_file() {
            let what = "is not a plain file; links are not followed";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let size = about.len();
        Ok(match self.reading {
            // A small file is read once: mapping it costs more than copying it.
            Reading::Mapped if size >= 64 << 10 => {
                Arc::new(Mapped(MappedFile::from_file(&file, place).map_err(io::Error::other)?))
            }
            _ => Arc::new(Called { file, size }),
        })
    }

    fn list(&self, path: &str) -> io::Result<Vec<Entry>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.at(path))? {
            let entry = entry?;
            // A name that is no text was not written by us, and can't be addressed.
            let name = entry.file_name().to_string_lossy().into_owned();
            found.push(Entry { name, kind: kind(entry.file_type()?), size: 0, modified: 0 });
        }
        Ok(found)
    }

    fn entry(&self, path: &str) -> io::Result<Entry> {
        let place = self.at(path);
        let about = fs::symlink_metadata(&place)?;
        let modified = about.modified()?;
        let nanoseconds = match modified.duration_since(UNIX_EPOCH) {
            Ok(after) => after.as_nanos() as i128,
            Err(before) => -(before.duration().as_nanos() as i128),
        };
        let name = path.rsplit('/').next().unwrap_or_default().to_owned();
        Ok(Entry { name, kind: kind(about.file_type()), size: about.len(), modified: nanoseconds })
    }

    fn lock(&self, path: &str) -> io::Result<Box<dyn Locked>> {
        let place = self.at(path);
        if fs::symlink_metadata(&place).is_ok_and(|about| !about.is_file()) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "is not a plain file; links are not followed",
            ));
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(place)?;
        file.lock()?;
        Ok(Box::new(OsLocked(file)))
    }

    fn local_path(&self) -> Option<&Path> {
        Some(&self.root)
    }
}

fn kind(kind: fs::FileType) -> EntryKind {
    match kind {
        kind if kind.is_dir() => EntryKind::Folder,
        kind if kind.is_file() => EntryKind::File,
        _ => EntryKind::Other,
    }
}

struct OsFile(File);

impl Write for OsFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl NewFile for OsFile {
    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_all()
    }
}

struct OsLocked(File);

impl Locked for OsLocked {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        self.0.seek(SeekFrom::Start(0))?;
        // Nothing that is kept in a locked file is longer.
        (&mut self.0).take(1 << 16).read_to_end(&mut content)?;
        Ok(content)
    }

    fn write(&mut self, content: &[u8]) -> io::Result<()> {
        self.0.seek(SeekFrom::Start(0))?;
        self.0.write_all(content)?;
        self.0.set_len(content.len() as u64)
    }
}

#[derive(Debug)]
struct Mapped(MappedFile);

impl Source for Mapped {
    fn size(&self) -> u64 {
        self.0.bytes().len() as u64
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let found = start.checked_add(out.len()).and_then(|end| self.0.bytes().get(start..end));
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        self.check_unchanged()
    }

    fn mapped(&self) -> Option<&[u8]> {
        Some(self.0.bytes())
    }

    fn check_unchanged(&self) -> io::Result<()> {
        self.0.check_unchanged().map_err(io::Error::other)?;
        // Bytes between the new end and that of its page read as zeros, and nothing tells of them. A file that is gone, or
        // elsewhere, is still whole in the map.
        let is_cut = fs::symlink_metadata(self.0.path()).is_ok_and(|found| found.len() < self.size());
        if is_cut {
            Err(io::Error::other(format!("{}: was cut short", self.0.path().display())))
        } else {
            Ok(())
        }
    }
}

#[derive(Debug)]
struct Called {
    file: File,
    size: u64,
}

impl Source for Called {
    fn size(&self) -> u64 {
        self.size
    }

    #[cfg(unix)]
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, out, offset)
    }

    #[cfg(windows)]
    fn read_at(&self, mut offset: u64, mut out: &mut [u8]) -> io::Result<()> {
        while !out.is_empty() {
            match std::os::windows::fs::FileExt::seek_read(&self.file, out, offset)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => (out, offset) = (&mut out[read..], offset + read as u64),
            }
        }
        Ok(())
    }
}

#[cfg(unix)]
fn open_without_following(place: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    // Without waiting: a named pipe would wait for a writer for ever.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(place)
}

#[cfg(not(unix))]
fn open_without_following(place: &Path) -> io::Result<File> {
    if !fs::symlink_metadata(place)?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "is not a plain file; links are not followed",
        ));
    }
    File::open(place)
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Windows has no such call: NTFS writes its journal by itself.
#[cfg(not(unix))]
fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // File systems without the flag: NFS, some that run in user space.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => rename_new_by_link(from, to),
        done => done.map_err(io::Error::from),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    rename_new_by_link(from, to)
}

/// A link is made only where nothing is. Folders can't be linked: between the look and the rename another process
/// could make one, but a rename replaces only an empty folder.
fn rename_new_by_link(from: &Path, to: &Path) -> io::Result<()> {
    if fs::symlink_metadata(from)?.is_dir() {
        return match fs::symlink_metadata(to) {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(_) => fs::rename(from, to),
        };
    }
    fs::hard_link(from, to)?;
    fs::remove_file(from)
}

/// Whether the folder lies on a file system that only this machine changes. Numbers: `statfs(2)`.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn keeps_mapped_files(folder: &Path) -> bool {
    const LOCAL: &[u64] = &[
        0xEF53,      // ext2, ext3, ext4
        0x5846_5342, // xfs
        0x9123_683E, // btrfs
        0x0102_1994, // tmpfs
        0xF2F5_2010, // f2fs
        0x2FC1_2FC1, // zfs
        0x794C_7630, // overlayfs
    ];
    let Ok(found) = rustix::fs::statfs(folder) else { return false };
    LOCAL.contains(&(found.f_type as u64 & 0xFFFF_FFFF))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn keeps_mapped_files(_folder: &Path) -> bool {
    false
}
