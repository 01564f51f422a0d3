//! Gradients through a linear run.

use easyroutine_sites::{Point, Site};

use super::piece::Piece;
use super::{Bank, Frozen, Visitor};
use crate::error::Result;
use crate::model::buffer::Buffer;
use crate::model::reverse::copy;
use crate::pass::Reg;
use crate::stop::Stop;

impl Frozen<'_> {
    /// Carries gradients that a visitor adds at places back to all earlier places. Nothing passes from an `mlp_out` to
    /// its MLP's input. `from` is the last block in which the visitor writes; `None` starts at `final_norm_out`.
    ///
    /// # Errors
    /// The visitor's errors; [`Interrupted`](crate::ErrorKind::Interrupted) if it was stopped.
    pub fn back(
        &self,
        copies: usize,
        from: Option<usize>,
        visitor: &mut dyn Visitor,
        stop: Stop<'_>,
    ) -> Result<()> {
        let mut bank = Bank::default();
        let end = from.map_or(self.sections.len(), |block| self.sections.len().min(block + 1));
        for section in self.sections[..end].iter().rev() {
            stop.check()?;
            for piece in section.iter().rev() {
                self.step_back(piece, copies, &mut bank, visitor)?;
            }
        }
        match bank.take(Reg::Stream) {
            Some(mut stream) => visitor.at(Point::model(Site::InputEmbeddings), stream.rows_mut()),
            None => Ok(()),
        }
    }

    fn step_back(
        &self,
        piece: &Piece,
        copies: usize,
        bank: &mut Bank,
        visitor: &mut dyn Visitor,
    ) -> Result<()> {
        let (cpu, rows) = (&self.model.cpu, copies * self.n_tokens);
        match piece {
            Piece::Visit { point, reg, width } => {
                if visitor.writes(*point) || bank.get(*reg).is_some() {
                    visitor.at(*point, bank.sum(*reg, rows, *width))?;
                }
                // The MLP itself is left out.
                if point.site() == Site::MlpOut
                    && let Some(g) = bank.take(*reg)
                {
                    bank.free(g);
                }
            }
            Piece::Copy { from, to } => {
                if let Some(g) = bank.take(*to) {
                    self.add(bank, *from, g);
                }
            }
            Piece::Norm { scales, from, to } => {
                if let Some(g) = bank.take(*to) {
                    let sum = bank.sum(*from, rows, g.rows().n_columns());
                    cpu.norm_frozen_back(scales.norm(), g.rows(), sum);
                    bank.free(g);
                }
            }
            Piece::NormInPlace { scales, reg } => {
                if let Some(g) = bank.take(*reg) {
                    let mut out = bank.zeros(rows, g.rows().n_columns());
                    cpu.norm_frozen_back(scales.norm(), g.rows(), out.rows_mut());
                    bank.free(g);
                    bank.put(*reg, out);
                }
            }
            Piece::Map { map, from, to, adds } => {
                let Some(g) = bank.take(*to) else { return Ok(()) };
                let mut out = bank.room(rows, map.backward.outputs());
                cpu.matmul(g.rows(), &map.backward, None, out.rows_mut());
                // The target of an addition keeps its gradient.
                if *adds {
                    bank.put(*to, g)
                } else {
                    bank.free(g)
                }
                self.add(bank, *from, out);
            }
            Piece::Attend { spec, patterns } => {
                let Some(dz) = bank.take(Reg::Z) else { return Ok(()) };
                let mut of_heads = bank.zeros(rows, spec.n_heads * spec.d_value);
                let sequences = self.sequences(copies);
                for (head, pattern) in patterns.iter().enumerate() {
                    let squares = pattern.repeat(copies);
                    cpu.attention_mix_keys(spec, head, &squares, dz.rows(), &sequences, of_heads.rows_mut());
                }
                let mut values = bank.zeros(rows, spec.n_kv_heads * spec.d_value);
                let group = spec.n_heads / spec.n_kv_heads;
                for row in 0..rows {
                    let (of_heads, mut shared) = (of_heads.rows(), values.rows_mut());
                    for (head, g) in of_heads.row(row).chunks_exact(spec.d_value).enumerate() {
                        let first = head / group * spec.d_value;
                        let shared = &mut shared.row_mut(row)[first..first + spec.d_value];
                        shared.iter_mut().zip(g).for_each(|(sum, g)| *sum += g);
                    }
                }
                bank.free(dz);
                bank.free(of_heads);
                bank.put(Reg::Qkv, values);
            }
            Piece::Scale { reg, by } => {
                if let Some(mut g) = bank.take(*reg) {
                    cpu.scale(g.rows_mut(), *by);
                    bank.put(*reg, g);
                }
            }
            Piece::Add { from, to } => {
                if let Some(g) = bank.get(*to).map(copy) {
                    self.add(bank, *from, g);
                }
            }
        }
        Ok(())
    }

    fn add(&self, bank: &mut Bank, reg: Reg, g: Buffer) {
        match bank.take(reg) {
            Some(mut sum) => {
                self.model.cpu.add(g.rows(), sum.rows_mut());
                bank.free(g);
                bank.put(reg, sum);
            }
            None => bank.put(reg, g),
        }
    }
}
