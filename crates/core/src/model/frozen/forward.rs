//! A linear run.

use easyroutine_sites::{Point, Site};

use super::piece::Piece;
use super::{Bank, Frozen, Visitor};
use crate::error::Result;
use crate::model::reverse::copy;
use crate::pass::Reg;
use crate::stop::Stop;

impl Frozen<'_> {
    /// Carries what a visitor writes at `input_embeddings` and at each `mlp_out` through the pass, biases included.
    ///
    /// # Errors
    /// The visitor's errors; [`Interrupted`](crate::ErrorKind::Interrupted) if it was stopped.
    pub fn run(&self, copies: usize, visitor: &mut dyn Visitor, stop: Stop<'_>) -> Result<()> {
        let (rows, d_model) = (copies * self.n_tokens, self.model.arch.d_model);
        let mut bank = Bank::default();
        let embedded = bank.sum(Reg::Stream, rows, d_model);
        visitor.at(Point::model(Site::InputEmbeddings), embedded)?;
        for section in &self.sections {
            stop.check()?;
            for piece in section {
                self.step(piece, copies, &mut bank, visitor)?;
            }
        }
        Ok(())
    }

    fn step(&self, piece: &Piece, copies: usize, bank: &mut Bank, visitor: &mut dyn Visitor) -> Result<()> {
        let (cpu, rows) = (&self.model.cpu, copies * self.n_tokens);
        match piece {
            Piece::Visit { point, reg, width } => {
                if point.site() == Site::MlpOut {
                    let zeros = bank.zeros(rows, *width);
                    bank.put(*reg, zeros);
                }
                visitor.at(*point, bank.sum(*reg, rows, *width))?;
            }
            Piece::Copy { from, to } => {
                if let Some(copy) = bank.get(*from).map(copy) {
                    bank.put(*to, copy);
                }
            }
            Piece::Norm { scales, from, to } => {
                let Some(x) = bank.take(*from) else { return Ok(()) };
                let mut out = bank.room(rows, x.rows().n_columns());
                cpu.norm_frozen(scales.norm(), scales.bias.as_deref(), x.rows(), out.rows_mut());
                bank.put(*from, x);
                bank.put(*to, out);
            }
            Piece::NormInPlace { scales, reg } => {
                let Some(x) = bank.take(*reg) else { return Ok(()) };
                let mut out = bank.room(rows, x.rows().n_columns());
                cpu.norm_frozen(scales.norm(), scales.bias.as_deref(), x.rows(), out.rows_mut());
                bank.free(x);
                bank.put(*reg, out);
            }
            Piece::Map { map, from, to, adds } => {
                let Some(x) = bank.take(*from) else { return Ok(()) };
                let mut out = bank.room(rows, map.forward.outputs());
                cpu.matmul(x.rows(), &map.forward, map.bias.as_deref(), out.rows_mut());
                bank.put(*from, x);
                match adds {
                    true => {
                        cpu.add(out.rows(), bank.sum(*to, rows, map.forward.outputs()));
                        bank.free(out);
                    }
                    false => bank.put(*to, out),
                }
            }
            Piece::Attend { spec, patterns } => {
                let Some(values) = bank.take(Reg::Qkv) else { return Ok(()) };
                let mut z = bank.room(rows, spec.n_heads * spec.d_value);
                let sequences = self.sequences(copies);
                for (head, pattern) in patterns.iter().enumerate() {
                    let squares = pattern.repeat(copies);
                    cpu.attention_mix(spec, head, &squares, values.rows(), &sequences, z.rows_mut());
                }
                bank.free(values);
                bank.put(Reg::Z, z);
            }
            Piece::Scale { reg, by } => {
                let width = bank.get(*reg).map_or(0, |rows| rows.n_columns());
                cpu.scale(bank.sum(*reg, rows, width), *by);
            }
            Piece::Add { from, to } => {
                let Some(x) = bank.take(*from) else { return Ok(()) };
                cpu.add(x.rows(), bank.sum(*to, rows, x.rows().n_columns()));
                bank.put(*from, x);
            }
        }
        Ok(())
    }
}
