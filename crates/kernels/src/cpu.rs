//! The handle for all arithmetic.

use crate::pool::Pool;
use crate::shared::SharedRows;
use crate::vector::{Path, Work};
use crate::{RowsMut, Simd};
use std::ops::Range;
use std::sync::Arc;

/// Minimum values per task: below this, handing a task to another thread costs more than it gains.
const VALUES_PER_TASK: usize = 16 * 1024;

/// A processor: its instructions and a pool of threads. Clones share the threads, which end with the last clone.
///
/// Results depend on the instructions, never on the number of threads.
#[derive(Clone)]
pub struct Cpu {
    path: Path,
    pool: Arc<Pool>,
}

impl Cpu {
    /// Starts `threads` threads, at least one, counting the caller's. If the processor lacks the path, the best lower
    /// one is used; [`Cpu::simd`] says which.
    pub fn new(simd: Simd, threads: usize) -> Cpu {
        Cpu::with_path(Path::new(simd), threads)
    }

    pub(crate) fn with_path(path: Path, threads: usize) -> Cpu {
        Cpu { path, pool: Arc::new(Pool::new(threads)) }
    }

    /// The instructions in use.
    pub fn simd(&self) -> Simd {
        self.path.simd()
    }

    /// Whether products of bf16 use instructions for it, which are fast: about twice the speed of f32.
    pub fn multiplies_bf16(&self) -> bool {
        self.path.multiplies_bf16()
    }

    /// Number of working threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Calls `task` with every number below `tasks`, each once, on any thread; returns when all have ended.
    ///
    /// It may be called from several threads at once and from within a task; such calls run their tasks on the calling
    /// thread.
    ///
    /// # Panics
    /// With the panic of a task, after which no further task is started.
    pub fn for_each(&self, tasks: usize, task: impl Fn(usize) + Sync) {
        self.pool.for_each(tasks, &task);
    }

    /// Calls `f` with ranges that cover all rows, each row of `values` values.
    pub(crate) fn for_rows(&self, rows: usize, values: usize, f: impl Fn(Range<usize>) + Sync) {
        let least = VALUES_PER_TASK.div_ceil(values.max(1));
        // A few more tasks than threads, so that one late thread does not delay the rest.
        let even = rows.div_ceil(4 * self.threads());
        let rows_per_task = least.max(even).max(1);
        self.for_each(rows.div_ceil(rows_per_task), |task| {
            let start = task * rows_per_task;
            f(start..rows.min(start + rows_per_task));
        });
    }

    /// Calls `f` with each row of `x` and its index.
    pub(crate) fn for_each_row(&self, x: RowsMut<'_>, f: impl Fn(usize, &mut [f32]) + Sync) {
        let x = SharedRows::new(x);
        let cols = x.n_columns();
        self.for_rows(x.n_rows(), cols, |rows| {
            for row in rows {
                // SAFETY: `for_rows` gives each row to one task, once.
                f(row, unsafe { x.part(row, 0..cols) });
            }
        });
    }

    /// Runs the work with this processor's instructions.
    #[inline]
    pub(crate) fn run<W: Work>(&self, work: W) -> W::Out {
        self.path.run(work)
    }
}

impl std::fmt::Debug for Cpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cpu").field("simd", &self.simd()).field("threads", &self.threads()).finish()
    }
}
