//! Records of whole blocks, so that the walk back need not compute them a second time.

use super::state::{Saved, Walk};
use crate::error::Result;
use crate::model::buffer::Buffer;
use crate::model::registers::Register;
use crate::pass::{Regs, Section};

/// Values that the records of a run may hold: 256 MiB. Larger runs keep the streams alone.
const MOST: usize = 64 << 20;

/// What a first run keeps of a section.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// The stream that enters it; `None` before the embedding.
    pub(super) stream: Option<Buffer>,
    /// Everything that its rules read.
    pub(super) record: Option<Record>,
}

/// Everything that the backward rules of a section read.
#[derive(Debug)]
pub(super) struct Record {
    tape: Vec<Saved>,
    /// The registers that no other section reads, by number.
    registers: Vec<(usize, Register)>,
}

impl Record {
    fn size(&self) -> usize {
        let saved = self.tape.iter().map(|saved| match saved {
            Saved::Nothing => 0,
            Saved::Rows(rows) => rows.size(),
            Saved::Keys(shared, own) => shared.size() + own.size(),
            Saved::Square(square) => square.len(),
        });
        let registers = self.registers.iter().map(|(_, register)| register.n_rows() * register.n_columns());
        saved.chain(registers).sum()
    }
}

/// Whether records of all sections fit, as far as those made so far tell.
pub(super) fn fit<'k>(kept: impl Iterator<Item = &'k Kept>, sections: usize) -> bool {
    let sizes: Vec<usize> = kept.filter_map(|kept| kept.record.as_ref()).map(Record::size).collect();
    sizes.iter().sum::<usize>() * sections <= MOST * sizes.len()
}

impl Walk<'_> {
    /// Runs a section forward, and takes what its rules read. Registers that sections share stay.
    pub(super) fn record(&mut self, section: &Section, shared: Regs) -> Result<Record> {
        let tape = self.tape(section)?;
        let taken = shared.others();
        let registers = taken.map(|number| (number, self.run.registers.take_numbered(number)));
        Ok(Record { tape, registers: registers.collect() })
    }

    /// Puts the registers of a section back; returns its tape.
    pub(super) fn restore(&mut self, record: Record) -> Vec<Saved> {
        for (number, register) in record.registers {
            self.run.registers.put_numbered(number, register);
        }
        record.tape
    }
}
