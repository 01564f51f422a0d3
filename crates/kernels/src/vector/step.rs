//! What a micro-kernel is asked to do, checked before it does it.

/// Columns of a panel, and of a tile.
pub(crate) const PANEL: usize = 32;

/// The most rows of a tile: 12 rows of 32 columns fill 24 of the 32 registers of AVX-512.
pub(crate) const TILE_ROWS: usize = 12;

/// Where a step takes the sums that it adds to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// They are zero; what the tile holds is of no account.
    Zero,
    /// From the tile, where another step has left them.
    Tile,
}

/// One step of a product: to a tile of `rows` rows of [`PANEL`] sums, contiguous, add x times the panel.
/// Each sum takes its `inputs` products one after the other in ascending order, so that a step can be cut anywhere
/// without a change of any bit.
///
/// # Shapes
/// x: `[rows, inputs]`, `x_stride` values from row to row.
/// panel: `[inputs, PANEL]`, `panel_stride` values from row to row. For bf16 `[inputs / 2, PANEL, 2]`, without gaps:
/// two inputs of a column stand side by side, as the instruction for bf16 wants them.
pub(crate) struct Step<'a, T> {
    pub(crate) start: Start,
    pub(crate) rows: usize,
    pub(crate) inputs: usize,
    pub(crate) x: &'a [T],
    pub(crate) x_stride: usize,
    pub(crate) panel: &'a [T],
    pub(crate) panel_stride: usize,
}

impl<T> Step<'_, T> {
    /// Whether all that the step reads and writes lies within its slices.
    fn fits(&self, tile: &[f32]) -> bool {
        let reach =
            |rows: usize, stride: usize, cols: usize| (rows - 1).checked_mul(stride)?.checked_add(cols);
        (1..=TILE_ROWS).contains(&self.rows)
            && self.inputs > 0
            && tile.len() >= self.rows * PANEL
            && reach(self.rows, self.x_stride, self.inputs).is_some_and(|end| end <= self.x.len())
            && reach(self.inputs, self.panel_stride, PANEL).is_some_and(|end| end <= self.panel.len())
    }

    /// Checks the bounds, which the micro-kernels rely on.
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
    /// If the step reaches beyond a slice, or inputs do not come in pairs without gaps.
    #[inline]
    pub(super) fn check_pairs(&self, tile: &[f32]) {
        self.check(tile);
        assert!(self.inputs.is_multiple_of(2) && self.panel_stride == PANEL, "bf16 inputs come in pairs");
    }
}
