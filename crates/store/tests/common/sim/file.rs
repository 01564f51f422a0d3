//! Files of the file system in memory: written, synced, replaced and read.

use std::io::{self, Write};

use easyroutine_store::fs::{Locked, NewFile, Source};

use super::{Node, Sim, SimHeld, State};

pub(super) struct SimFile {
    pub(super) sim: Sim,
    pub(super) node: usize,
    pub(super) _held: Option<SimHeld>,
}

impl SimFile {
    fn content<T>(&self, state: &mut State, act: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        match &mut state.nodes[self.node] {
            Node::File { content, .. } => act(content),
            Node::Folder { .. } | Node::Link => unreachable!("a file"),
        }
    }
}

impl Write for SimFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.sim.call()?;
        self.content(&mut state, |content| content.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl NewFile for SimFile {
    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.sim.call()?;
        if state.sync()
            && let Node::File { content, kept } = &mut state.nodes[self.node]
        {
            *kept = content.clone();
        }
        Ok(())
    }
}

impl Locked for SimFile {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut state = self.sim.state();
        Ok(self.content(&mut state, |content| content.clone()))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.sim.call()?;
        self.content(&mut state, |content| *content = bytes.to_vec());
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct Memory(pub(super) Vec<u8>);

impl Source for Memory {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = offset as usize;
        out.copy_from_slice(self.0.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}
