//! The handle that all arithmetic goes through.

use crate::pool::Pool;
use crate::shared::SharedRows;
use crate::vector::{Path, Work};
use crate::{RowsMut, Simd};
use std::ops::Range;
use std::sync::Arc;

/// Values that one task should have at least: below, handing it to another thread costs more than it gains.
const VALUES_PER_TASK: usize = 16 * 1024;

/// The processor: which instructions, and how many threads. Clones share the threads, which end with the last of them.
///
/// All results depend on the instructions, never on the number of threads.
#[derive(Clone)]
pub struct Cpu {
    path: Path,
    pool: Arc<Pool>,
}

impl Cpu {
    /// Starts the threads: `threads` of them with the caller's, at least one. A path that the processor lacks is
    /// replaced by the best one below it; [`Cpu::simd`] tells.
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

    pub(crate) fn multiplies_bf16(&self) -> bool {
        self.path.multiplies_bf16()
    }

    /// How many threads work, the caller's included.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Calls `task` with every number below `tasks`, each once, on any thread; returns when all have ended.
    ///
    /// May be called from several threads at once and from within a task; such calls run their tasks themselves.
    ///
    /// # Panics
    /// With the panic of a task, after which no further task is started.
    pub fn for_each(&self, tasks: usize, task: impl Fn(usize) + Sync) {
        self.pool.for_each(tasks, &task);
    }

    /// Calls `f` with ranges that cover all rows, for rows of so many values.
    pub(crate) fn for_rows(&self, rows: usize, values: usize, f: impl Fn(Range<usize>) + Sync) {
        let least = VALUES_PER_TASK.div_ceil(values.max(1));
        // Some more tasks than threads, so that one late thread does not hold up all.
        let even = rows.div_ceil(4 * self.threads());
        let rows_per_task = least.max(even).max(1);
        self.for_each(rows.div_ceil(rows_per_task), |task| {
            let start = task * rows_per_task;
            f(start..rows.min(start + rows_per_task));
        });
    }

    /// Calls `f` with every row of `x` and its number.
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

    /// Does the work with this processor's instructions.
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
