//! A file system on which something else happens between two calls, as with concurrent processes.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use easyroutine_store::Store;
use easyroutine_store::fs::{Entry, FileSystem, Held, Hold, Locked, NewFile, Source};

type Act = Box<dyn FnOnce() + Send>;

/// Counts calls; acts before one of them, and fails all from another on.
pub(crate) struct Interleaved {
    files: Arc<dyn FileSystem>,
    calls: AtomicUsize,
    act: Mutex<Option<(usize, Act)>>,
    dies_at: usize,
    has_locks: bool,
}

impl Interleaved {
    pub(crate) fn new(files: impl FileSystem + 'static) -> Self {
        let (calls, act) = (AtomicUsize::new(0), Mutex::new(None));
        Interleaved { files: Arc::new(files), calls, act, dies_at: usize::MAX, has_locks: true }
    }

    /// Acts before a call.
    pub(crate) fn before(self, call: usize, act: impl FnOnce() + Send + 'static) -> Self {
        Interleaved { act: Mutex::new(Some((call, Box::new(act)))), ..self }
    }

    /// From this call on the process is dead.
    pub(crate) fn dies_at(self, call: usize) -> Self {
        Interleaved { dies_at: call, ..self }
    }

    /// As on a network file system without locks.
    pub(crate) fn with_locks(self, has_locks: bool) -> Self {
        Interleaved { has_locks, ..self }
    }

    pub(crate) fn store(self: &Arc<Self>) -> Store {
        Store::on(self.clone()).unwrap()
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    fn files(&self) -> io::Result<&dyn FileSystem> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let act = self.act.lock().unwrap().take_if(|(at, _)| *at == call);
        if let Some((_, act)) = act {
            act();
        }
        if call >= self.dies_at { Err(io::Error::other("the process is dead")) } else { Ok(&*self.files) }
    }
}

impl std::fmt::Debug for Interleaved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.files.fmt(f)
    }
}

impl FileSystem for Interleaved {
    fn create_dir(&self, path: &str) -> io::Result<()> {
        self.files()?.create_dir(path)
    }

    fn create_file(&self, path: &str) -> io::Result<Box<dyn NewFile>> {
        self.files()?.create_file(path)
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        self.files()?.sync_dir(path)
    }

    fn rename_new(&self, from: &str, to: &str) -> io::Result<()> {
        self.files()?.rename_new(from, to)
    }

    fn replace(&self, from: &str, to: &str) -> io::Result<()> {
        self.files()?.replace(from, to)
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        self.files()?.remove_file(path)
    }

    fn remove_dir(&self, path: &str) -> io::Result<()> {
        self.files()?.remove_dir(path)
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn Source>> {
        self.files()?.open(path)
    }

    fn list(&self, path: &str) -> io::Result<Vec<Entry>> {
        self.files()?.list(path)
    }

    fn entry(&self, path: &str) -> io::Result<Entry> {
        self.files()?.entry(path)
    }

    fn lock(&self, path: &str) -> io::Result<Box<dyn Locked>> {
        self.files()?.lock(path)
    }

    fn hold(&self, path: &str, how: Hold) -> io::Result<Option<Box<dyn Held>>> {
        let files = self.files()?;
        if self.has_locks {
            return files.hold(path, how);
        }
        files.entry(path).map(|_| Some(Box::new(()) as Box<dyn Held>))
    }

    fn local_path(&self) -> Option<&Path> {
        self.files.local_path()
    }
}
