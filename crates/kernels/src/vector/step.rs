//! The input of a micro-kernel, checked before it runs.

/// Columns of a panel, and of a tile.
pub(crate) const PANEL: usize = 32;

/// The most rows of a tile: 12 rows of 32 columns fill 24 of the 32 registers of AVX-512.
pub(crate) const TILE_ROWS: usize = 12;

/// The sums that a step adds to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// Zero; the tile's contents are ignored.
    Zero,
    /// The tile's contents, left by an earlier step.
    Tile,
}

/// One step of a product: adds x times the panel to a contiguous tile of `rows` rows of [`PANEL`] sums. Each sum adds
/// its `inputs` products in ascending order, so a step can be split anywhere without changing a bit.
///
/// # Shapes
/// x: `[rows, inputs]`, `x_stride` values from row to row. panel: `[inputs, PANEL]`, `panel_stride` values from row to
/// row. For bf16 `[inputs / 2, PANEL, 2]`, without gaps: two inputs of a column are adjacent, as the bf16 instruction
/// expects.
pub(crate) struct Step<'a, T> {
    pub(crate) start: Start,
    pub(crate) rows: usize,
    pub(crate) inputs: usize,
    pub(crate) x: &'a [T],
    pub(crate) x_stride: usize,
    pub(crate) panel: &'a [T],
    pub(crate) panel_stride: usize,
    /// Memory to prefetch meanwhile.
    pub(crate) next: Prefetch,
}

/// Memory to prefetch while a step multiplies, spread over the step's turns: weights come from far away, and requesting
/// all at once would fill the few buffers that the processor has for lines in flight. It is never read, so it may be
/// any memory.
#[derive(Clone, Copy)]
pub(crate) struct Prefetch {
    start: *const u8,
    bytes: usize,
}

impl Prefetch {
    pub(crate) const NONE: Prefetch = Prefetch { start: std::ptr::null(), bytes: 0 };

    #[inline(always)]
    pub(crate) fn of<T>(values: &[T]) -> Prefetch {
        Prefetch { start: values.as_ptr().cast(), bytes: size_of_val(values) }
    }

    /// Part `part` of `parts` nearly equal parts.
    #[inline(always)]
    pub(crate) fn part(self, part: usize, parts: usize) -> Prefetch {
        let (start, end) = (part * self.bytes / parts, (part + 1) * self.bytes / parts);
        Prefetch { start: self.start.wrapping_add(start), bytes: end - start }
    }

    /// The start, and the bytes that each of `turns` turns fetches.
    #[inline(always)]
    pub(super) fn in_turns(self, turns: usize) -> (*const u8, usize) {
        (self.start, self.bytes.div_ceil(turns.max(1)))
    }
}

impl<T> Step<'_, T> {
    /// Whether the step reads and writes only within its slices.
    fn fits(&self, tile: &[f32]) -> bool {
        let reach =
            |rows: usize, stride: usize, cols: usize| (rows - 1).checked_mul(stride)?.checked_add(cols);
        (1..=TILE_ROWS).contains(&self.rows)
            && self.inputs > 0
            && tile.len() >= self.rows * PANEL
            && reach(self.rows, self.x_stride, self.inputs).is_some_and(|end| end <= self.x.len())
            && reach(self.inputs, self.panel_stride, PANEL).is_some_and(|end| end <= self.panel.len())
    }

    /// Checks the bounds that the micro-kernels rely on.
    ///
    /// # Panics
    /// If the step reaches beyond a slice.
    #[inline]
    pub(super) fn check(&self, tile: &[f32]) {
        assert!(self.fits(tile), "a step of a product reaches beyond its slices");
    }

    /// Checks the bounds of a step on bf16.
    ///
    /// # Panics
    /// If the step reaches beyond a slice, or inputs are not in pairs without gaps.
    #[inline]
    pub(super) fn check_pairs(&self, tile: &[f32]) {
        self.check(tile);
        assert!(self.inputs.is_multiple_of(2) && self.panel_stride == PANEL, "bf16 inputs come in pairs");
    }
}
