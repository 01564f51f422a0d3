//! Activations that wait between two layers: in memory as far as it goes, else in a temporary file.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::registers::{Register, Registers};
use crate::error::{Error, ErrorKind, Result};
use crate::pass::Regs;

/// What waits of one batch.
#[derive(Debug, Default)]
pub(super) enum Parked {
    /// Nothing does.
    #[default]
    Nothing,
    /// Registers, by their numbers.
    InMemory(Vec<(usize, Register)>),
    /// Where registers of this number and shape begin in the file, one behind the other.
    InFile(u64, Vec<(usize, [usize; 2])>),
}

/// The place where activations wait.
#[derive(Debug)]
pub(super) struct Waiting {
    /// Bytes that memory still has for them.
    left: u64,
    folder: PathBuf,
    file: Option<File>,
    /// Where the file ends.
    end: u64,
    /// One row's bytes.
    row: Vec<u8>,
}

impl Waiting {
    /// So many bytes wait in memory, more of them in a file of this folder. The file has no name, or none for long: however
    /// the process ends, the system removes it.
    pub(super) fn new(memory: u64, folder: &Path) -> Waiting {
        Waiting { left: memory, folder: folder.to_owned(), file: None, end: 0, row: Vec::new() }
    }

    /// Takes registers out. `place` is where the batch waited before.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(super) fn park(
        &mut self,
        registers: &mut Registers,
        which: Regs,
        place: &mut Option<(u64, u64)>,
    ) -> Result<Parked> {
        let taken: Vec<(usize, Register)> = which.iter().map(|n| (n, registers.take_numbered(n))).collect();
        let bytes: u64 = taken.iter().map(|(_, register)| register.bytes()).sum();
        if bytes <= self.left || taken.iter().any(|(_, register)| !register.has_rows()) {
            self.left = self.left.saturating_sub(bytes);
            return Ok(Parked::InMemory(taken));
        }
        // A batch keeps its place in the file as long as it fits.
        let start = match place {
            Some((start, room)) if *room >= bytes => *start,
            _ => {
                let start = self.end;
                self.end += bytes;
                *place = Some((start, bytes));
                start
            }
        };
        let shapes = taken.iter().map(|(n, register)| (*n, [register.n_rows(), register.n_columns()]));
        let parked = Parked::InFile(start, shapes.collect());
        self.write(start, &taken).map_err(|error| self.error("write", error))?;
        // Their memory serves the next batch.
        taken.into_iter().for_each(|(n, register)| registers.put_numbered(n, register));
        Ok(parked)
    }

    /// Puts registers back.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub(super) fn restore(&mut self, parked: Parked, registers: &mut Registers) -> Result<()> {
        match parked {
            Parked::Nothing => Ok(()),
            Parked::InMemory(taken) => {
                for (n, register) in taken {
                    self.left = self.left.saturating_add(register.bytes());
                    registers.put_numbered(n, register);
                }
                Ok(())
            }
            Parked::InFile(start, shapes) => {
                self.read(start, &shapes, registers).map_err(|error| self.error("read", error))
            }
        }
    }

    fn write(&mut self, start: u64, registers: &[(usize, Register)]) -> io::Result<()> {
        if self.file.is_none() {
            self.file = Some(tempfile::tempfile_in(&self.folder)?);
        }
        let (Some(file), bytes) = (&mut self.file, &mut self.row) else { return Ok(()) };
        file.seek(SeekFrom::Start(start))?;
        let mut file = io::BufWriter::with_capacity(1 << 20, file);
        for (_, register) in registers {
            for row in 0..register.n_rows() {
                bytes.clear();
                bytes.extend(register.rows().row(row).iter().flat_map(|x| x.to_ne_bytes()));
                file.write_all(bytes)?;
            }
        }
        file.flush()
    }

    fn read(&mut self, start: u64, shapes: &[(usize, [usize; 2])], to: &mut Registers) -> io::Result<()> {
        let (Some(file), bytes) = (&mut self.file, &mut self.row) else { return Ok(()) };
        file.seek(SeekFrom::Start(start))?;
        let mut file = io::BufReader::with_capacity(1 << 20, file);
        for (n, [rows, columns]) in shapes {
            let mut out = to.numbered(*n).resize(*rows, *columns);
            bytes.resize(size_of::<f32>() * columns, 0);
            for row in 0..*rows {
                file.read_exact(bytes)?;
                let values = bytes.as_chunks().0.iter().map(|x| f32::from_ne_bytes(*x));
                out.row_mut(row).iter_mut().zip(values).for_each(|(out, x)| *out = x);
            }
        }
        Ok(())
    }

    fn error(&self, what: &str, error: io::Error) -> Error {
        let place = self.folder.display();
        let message =
            format!("{place}: cannot {what} the activations that wait there between two layers: {error}");
        Error::new(ErrorKind::Io, message)
            .hint("more memory (--memory), or a folder with more room: where the result goes, or TMPDIR")
            .because(error)
    }
}
