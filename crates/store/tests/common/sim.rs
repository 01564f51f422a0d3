//! An in-memory file system that loses unsynced changes at a power cut, and whose calls can fail.
//!
//! [`Survival`] chooses what a cut may leave: any part of an unsynced file, and any of a folder's changes since its
//! last sync. A rename between folders is never lost from both, but syncing one folder keeps only that folder's
//! entries.

mod file;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use easyroutine_store::fs::{Entry, EntryKind, FileSystem, Held, Hold, Locked, NewFile, Source, is_a_link};

use file::{Memory, SimFile};

/// Which unsynced changes survive a power cut.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Survival {
    /// Nothing.
    Nothing,
    /// Everything.
    All,
    /// Names, but not file contents: the classic effect of delayed allocation.
    Names,
    /// Contents, but not names.
    Content,
    /// Everything except one change of a name.
    AllBut(usize),
    /// A choice for each change, seeded.
    Some(u64),
}

#[derive(Debug, Clone)]
enum Node {
    Folder { entries: BTreeMap<String, usize>, kept: BTreeMap<String, usize> },
    File { content: Vec<u8>, kept: Vec<u8> },
    Link,
}

/// An entry added or removed since its folder was last synced.
#[derive(Debug, Clone)]
struct Change {
    folder: usize,
    name: String,
    /// The present node, or none.
    node: Option<usize>,
    /// A removal that must not survive without this addition.
    after: Option<usize>,
    /// The removal of a folder by a rename.
    is_folder: bool,
    serial: usize,
}

#[derive(Debug, Clone)]
struct State {
    nodes: Vec<Node>,
    changes: Vec<Change>,
    serial: usize,
    calls: usize,
    syncs: usize,
    /// Number of holders of a node; -1 for an exclusive one.
    holds: BTreeMap<usize, i32>,
    /// The call from which on everything fails: power is cut.
    cut_at: Option<usize>,
    /// The one call that fails.
    fail_at: Option<usize>,
    /// The sync that does nothing.
    pretended_sync: Option<usize>,
}

#[derive(Debug, Clone)]
pub(crate) struct Sim(Arc<Mutex<State>>);

impl Sim {
    pub(crate) fn new() -> Self {
        let root = Node::Folder { entries: BTreeMap::new(), kept: BTreeMap::new() };
        Sim(Arc::new(Mutex::new(State {
            nodes: vec![root],
            changes: Vec::new(),
            serial: 0,
            calls: 0,
            syncs: 0,
            holds: BTreeMap::new(),
            cut_at: None,
            fail_at: None,
            pretended_sync: None,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// An independent copy, with no holds; calls and syncs are counted from zero.
    pub(crate) fn copy(&self) -> Sim {
        let mut state = self.state().clone();
        (state.calls, state.syncs) = (0, 0);
        state.holds.clear();
        Sim(Arc::new(Mutex::new(state)))
    }

    pub(crate) fn cut_at(self, call: usize) -> Sim {
        self.state().cut_at = Some(call);
        self
    }

    pub(crate) fn fail_at(self, call: usize) -> Sim {
        self.state().fail_at = Some(call);
        self
    }

    pub(crate) fn pretend_sync(self, sync: usize) -> Sim {
        self.state().pretended_sync = Some(sync);
        self
    }

    /// Places a link, which survives power cuts.
    pub(crate) fn link(&self, path: &str) {
        let mut state = self.state();
        state.make(path, Node::Link).unwrap();
        let change = state.changes.pop().unwrap();
        keep(&mut state.nodes, &change);
    }

    pub(crate) fn calls(&self) -> usize {
        self.state().calls
    }

    pub(crate) fn syncs(&self) -> usize {
        self.state().syncs
    }

    /// Number of unsynced changes of names.
    pub(crate) fn unsynced(&self) -> usize {
        self.state().changes.len()
    }

    /// The disk after a power cut.
    pub(crate) fn after_cut(&self, survival: Survival) -> Sim {
        let mut state = self.state().clone();
        let mut random = match survival {
            Survival::Some(seed) => seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            _ => 1,
        };
        let mut choose = move |n: u64| {
            // xorshift64
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % n
        };
        let mut survived = Vec::new();
        for (number, change) in state.changes.clone().into_iter().enumerate() {
            let allowed = change.after.is_none_or(|addition| {
                survived.contains(&addition) || !state.changes.iter().any(|c| c.serial == addition)
            });
            let survives = match survival {
                Survival::Nothing | Survival::Content => false,
                Survival::All | Survival::Names => true,
                Survival::AllBut(lost) => number != lost,
                Survival::Some(_) => choose(2) == 0,
            };
            // A folder is never in two places, nor in none.
            let survives = match change.after {
                Some(addition) if change.is_folder && state.changes.iter().any(|c| c.serial == addition) => {
                    survived.contains(&addition)
                }
                _ => survives,
            };
            if survives && allowed {
                survived.push(change.serial);
                keep(&mut state.nodes, &change);
            }
        }
        for node in &mut state.nodes {
            match node {
                Node::Folder { entries, kept } => *entries = kept.clone(),
                Node::File { content, kept } => {
                    let torn = |content: &[u8], choice| match choice {
                        0 => content.to_vec(),
                        1 => content[..content.len() / 2].to_vec(),
                        2 => vec![0; content.len()],
                        _ => Vec::new(),
                    };
                    if content != kept {
                        match survival {
                            Survival::All | Survival::Content | Survival::AllBut(_) => {}
                            Survival::Nothing | Survival::Names => *content = kept.clone(),
                            Survival::Some(_) => *content = torn(content, choose(4)),
                        }
                    }
                    *kept = content.clone();
                }
                Node::Link => {}
            }
        }
        state.changes.clear();
        state.holds.clear();
        (state.cut_at, state.fail_at, state.pretended_sync, state.calls, state.syncs) =
            (None, None, None, 0, 0);
        Sim(Arc::new(Mutex::new(state)))
    }

    /// Counts a call that changes something, and fails it if it is due.
    fn call(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        let number = state.calls;
        state.calls += 1;
        if state.cut_at.is_some_and(|cut| number >= cut) {
            return Err(io::Error::other("the power is gone"));
        }
        if state.fail_at == Some(number) {
            return Err(io::Error::other("no space left on device"));
        }
        Ok(state)
    }
}

fn keep(nodes: &mut [Node], change: &Change) {
    let Node::Folder { kept, .. } = &mut nodes[change.folder] else { unreachable!("changes are of folders") };
    match change.node {
        Some(node) => kept.insert(change.name.clone(), node),
        None => kept.remove(&change.name),
    };
}

impl State {
    fn find(&self, path: &str) -> io::Result<usize> {
        let mut at = 0;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let entries = match &self.nodes[at] {
                Node::Folder { entries, .. } => entries,
                Node::File { .. } => return Err(io::ErrorKind::NotADirectory.into()),
                Node::Link => return Err(is_a_link(path)),
            };
            at = *entries.get(name).ok_or(io::ErrorKind::NotFound)?;
        }
        Ok(at)
    }

    fn place(&self, path: &str) -> io::Result<(usize, String)> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.find(folder)?, name.to_owned()))
    }

    fn entries(&mut self, folder: usize) -> io::Result<&mut BTreeMap<String, usize>> {
        match &mut self.nodes[folder] {
            Node::Folder { entries, .. } => Ok(entries),
            Node::File { .. } => Err(io::ErrorKind::NotADirectory.into()),
            Node::Link => Err(is_a_link("a folder")),
        }
    }

    fn change(
        &mut self,
        folder: usize,
        name: &str,
        node: Option<usize>,
        after: Option<usize>,
    ) -> io::Result<usize> {
        match node {
            Some(node) => self.entries(folder)?.insert(name.to_owned(), node),
            None => self.entries(folder)?.remove(name),
        };
        self.serial += 1;
        let serial = self.serial;
        let is_folder = after.is_some_and(|addition| {
            let added = self.changes.iter().find(|c| c.serial == addition).and_then(|c| c.node);
            added.is_some_and(|node| matches!(self.nodes[node], Node::Folder { .. }))
        });
        self.changes.push(Change { folder, name: name.to_owned(), node, after, is_folder, serial });
        Ok(serial)
    }

    fn make(&mut self, path: &str, node: Node) -> io::Result<usize> {
        let (folder, name) = self.place(path)?;
        if self.entries(folder)?.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.nodes.push(node);
        let made = self.nodes.len() - 1;
        self.change(folder, &name, Some(made), None)?;
        Ok(made)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let node = self.find(from)?;
        let ((old, old_name), (new, new_name)) = (self.place(from)?, self.place(to)?);
        let addition = self.change(new, &new_name, Some(node), None)?;
        // Within one folder both are one change: the model ties the removal to the addition.
        self.change(old, &old_name, None, Some(addition))?;
        Ok(())
    }

    fn sync(&mut self) -> bool {
        self.syncs += 1;
        self.pretended_sync != Some(self.syncs - 1)
    }
}

impl FileSystem for Sim {
    fn create_dir(&self, path: &str) -> io::Result<()> {
        let folder = Node::Folder { entries: BTreeMap::new(), kept: BTreeMap::new() };
        self.call()?.make(path, folder).map(|_| ())
    }

    fn create_file(&self, path: &str) -> io::Result<Box<dyn NewFile>> {
        let mut state = self.call()?;
        let node = state.make(path, Node::File { content: Vec::new(), kept: Vec::new() })?;
        state.holds.insert(node, ALONE);
        let held = Some(SimHeld { sim: self.clone(), node, count: ALONE });
        Ok(Box::new(SimFile { sim: self.clone(), node, _held: held }))
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        let mut state = self.call()?;
        let folder = state.find(path)?;
        if state.sync() {
            let (synced, rest): (Vec<Change>, Vec<Change>) =
                state.changes.drain(..).partition(|change| change.folder == folder);
            synced.iter().for_each(|change| keep(&mut state.nodes, change));
            state.changes = rest;
        }
        Ok(())
    }

    fn rename_new(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.call()?;
        if state.find(to).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.rename(from, to)
    }

    fn replace(&self, from: &str, to: &str) -> io::Result<()> {
        self.call()?.rename(from, to)
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        let mut state = self.call()?;
        let node = state.find(path)?;
        if matches!(state.nodes[node], Node::Folder { .. }) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let (folder, name) = state.place(path)?;
        state.change(folder, &name, None, None).map(|_| ())
    }

    fn remove_dir(&self, path: &str) -> io::Result<()> {
        let mut state = self.call()?;
        let node = state.find(path)?;
        if !state.entries(node)?.is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        let (folder, name) = state.place(path)?;
        state.change(folder, &name, None, None).map(|_| ())
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn Source>> {
        let state = self.state();
        match &state.nodes[state.find(path)?] {
            Node::File { content, .. } => Ok(Arc::new(Memory(content.clone()))),
            Node::Folder { .. } => Err(io::ErrorKind::IsADirectory.into()),
            Node::Link => Err(is_a_link(path)),
        }
    }

    fn list(&self, path: &str) -> io::Result<Vec<Entry>> {
        let mut state = self.state();
        let folder = state.find(path)?;
        let entries: Vec<(String, usize)> =
            state.entries(folder)?.iter().map(|(n, i)| (n.clone(), *i)).collect();
        Ok(entries.into_iter().map(|(name, node)| entry(name, &state.nodes[node])).collect())
    }

    fn entry(&self, path: &str) -> io::Result<Entry> {
        let state = self.state();
        Ok(entry(path.rsplit('/').next().unwrap().to_owned(), &state.nodes[state.find(path)?]))
    }

    fn lock(&self, path: &str) -> io::Result<Box<dyn Locked>> {
        let mut state = self.call()?;
        let node = match state.find(path) {
            Ok(node) if matches!(state.nodes[node], Node::Link) => return Err(is_a_link(path)),
            Ok(node) => node,
            Err(_) => state.make(path, Node::File { content: Vec::new(), kept: Vec::new() })?,
        };
        Ok(Box::new(SimFile { sim: self.clone(), node, _held: None }))
    }

    fn hold(&self, path: &str, how: Hold) -> io::Result<Option<Box<dyn Held>>> {
        let mut state = self.state();
        let node = state.find(path)?;
        if matches!(state.nodes[node], Node::Link) {
            return Err(is_a_link(path));
        }
        let held = state.holds.entry(node).or_default();
        let count = match (how, *held) {
            (Hold::Alone, 0) => ALONE,
            (Hold::Together, 0..) => 1,
            (Hold::Alone, _) => return Ok(None),
            (Hold::Together, _) => return Err(io::Error::other("is held alone")),
        };
        *held += count;
        Ok(Some(Box::new(SimHeld { sim: self.clone(), node, count })))
    }
}

const ALONE: i32 = -1;

#[derive(Debug)]
struct SimHeld {
    sim: Sim,
    node: usize,
    count: i32,
}

impl Held for SimHeld {}

impl Drop for SimHeld {
    fn drop(&mut self) {
        if let Some(held) = self.sim.state().holds.get_mut(&self.node) {
            *held -= self.count;
        }
    }
}

fn entry(name: String, node: &Node) -> Entry {
    match node {
        Node::Folder { .. } => Entry { name, kind: EntryKind::Folder, size: 0, modified: 0 },
        Node::File { content, .. } => {
            Entry { name, kind: EntryKind::File, size: content.len() as u64, modified: 0 }
        }
        Node::Link => Entry { name, kind: EntryKind::Link, size: 0, modified: 0 },
    }
}
