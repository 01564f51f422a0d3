//! Zeroed memory aligned to cache lines, on large pages where the system has them.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// A cache line, so that no vector load straddles two.
pub(crate) const LINE: usize = 64;

/// Rows whose stride is a multiple of this many bytes compete for the same sets of the first-level cache.
pub(crate) const CACHE_PERIOD: usize = 4096;

/// The size of a large page on x86-64 and most ARM systems.
const LARGE_PAGE: usize = 2 << 20;

/// A block of zeroed memory, read as `f32` or as bf16 bits.
pub(crate) struct Aligned {
    /// The allocator's pointer and the layout it was asked for.
    block: NonNull<u8>,
    layout: Layout,
    /// Start and size of the aligned part.
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the block is owned memory that nothing else points to, as in a `Box<[u8]>`.
unsafe impl Send for Aligned {}
// SAFETY: shared access only reads.
unsafe impl Sync for Aligned {}

impl Aligned {
    /// A block of at least `bytes` zero bytes, on large pages if rounding up to them adds at most a sixth. A block on
    /// large pages is not touched here: each page is faulted in by the thread that first writes it.
    ///
    /// # Panics
    /// If no memory can be that large. If the system is out of memory, the process aborts, as with a `Vec`.
    pub(crate) fn zeroed(bytes: usize) -> Aligned {
        let large = bytes > 0
            && bytes.checked_next_multiple_of(LARGE_PAGE).is_some_and(|whole| whole - bytes <= bytes / 6);
        let align = if large { LARGE_PAGE } else { LINE };
        // Over-allocate and align by hand: for an aligned layout the allocator clears memory itself, which costs half a
        // second for a model of 135 million weights, on one thread, before any page could be large.
        let sizes = bytes.max(LINE).checked_next_multiple_of(align);
        let sizes = sizes.and_then(|bytes| Some((bytes, bytes.checked_add(align)?)));
        let layout = sizes.and_then(|(bytes, room)| Some((bytes, Layout::array::<u8>(room).ok()?)));
        let Some((bytes, layout)) = layout else {
            panic!("{bytes} bytes are more than an address space holds")
        };
        // SAFETY: the layout's size is not zero.
        let block = unsafe { alloc_zeroed(layout) };
        let Some(block) = NonNull::new(block) else { handle_alloc_error(layout) };
        // SAFETY: the offset is at most `align`, and the block exceeds `bytes` by that much.
        let start = unsafe { block.add(block.as_ptr().align_offset(align).min(align)) };
        if large {
            advise_large_pages(start, bytes);
        }
        Aligned { block, layout, start, bytes }
    }

    /// Size in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The values as `T`.
    pub(crate) fn values<T: Plain>(&self) -> &[T] {
        let len = self.bytes() / size_of::<T>();
        // SAFETY: the block is initialised, aligned for T, holds `len` of them, and any bits are a `Plain` value.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), len) }
    }

    /// The values as `T`, mutable.
    pub(crate) fn values_mut<T: Plain>(&mut self) -> &mut [T] {
        let len = self.bytes() / size_of::<T>();
        // SAFETY: as in `values`; `&mut self` makes the access the only one.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), len) }
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout in `zeroed`, freed once.
        unsafe { dealloc(self.block.as_ptr(), self.layout) }
    }
}

/// Requests large pages for the whole large pages within a block: faulting in small pages costs more than writing their
/// contents.
pub(crate) fn advise_large_pages_within(start: *const u8, bytes: usize) {
    let before = start.align_offset(LARGE_PAGE);
    let Some(rest) = bytes.checked_sub(before) else { return };
    let whole = rest / LARGE_PAGE * LARGE_PAGE;
    if whole > 0
        && let Some(first) = NonNull::new(start.wrapping_add(before).cast_mut())
    {
        advise_large_pages(first, whole);
    }
}

/// A type for which all bit patterns are valid, with alignment no wider than a cache line.
///
/// # Safety
/// Exactly that.
pub(crate) unsafe trait Plain: Copy + Send + Sync + 'static {}

// SAFETY: any 32 bits are an f32.
unsafe impl Plain for f32 {}
// SAFETY: any 16 bits are a u16.
unsafe impl Plain for u16 {}
// SAFETY: any 8 bits are a u8.
unsafe impl Plain for u8 {}

/// Reinterprets memory as values of another type.
///
/// # Panics
/// If it does not begin and end on a boundary of the new type.
pub(crate) fn cast<T: Plain, U: Plain>(values: &[T]) -> &[U] {
    // SAFETY: any bits are a `Plain` value.
    let (before, cast, after) = unsafe { values.align_to() };
    assert!(before.is_empty() && after.is_empty(), "memory that is not a whole number of values");
    cast
}

/// As [`cast`], mutable.
///
/// # Panics
/// As [`cast`].
pub(crate) fn cast_mut<T: Plain, U: Plain>(values: &mut [T]) -> &mut [U] {
    // SAFETY: any bits are a `Plain` value, of either type.
    let (before, cast, after) = unsafe { values.align_to_mut() };
    assert!(before.is_empty() && after.is_empty(), "memory that is not a whole number of values");
    cast
}

/// Requests large pages, for fewer page faults at first touch and fewer TLB misses.
#[cfg(target_os = "linux")]
fn advise_large_pages(start: NonNull<u8>, bytes: usize) {
    use std::ffi::{c_int, c_void};
    const MADV_HUGEPAGE: c_int = 14;
    unsafe extern "C" {
        fn madvise(address: *mut c_void, length: usize, advice: c_int) -> c_int;
    }
    // SAFETY: the range is our own page-aligned memory, and the advice changes no contents. A refusal does no harm.
    unsafe { madvise(start.as_ptr().cast(), bytes, MADV_HUGEPAGE) };
}

#[cfg(not(target_os = "linux"))]
fn advise_large_pages(_start: NonNull<u8>, _bytes: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_zero_aligned_and_at_least_as_long_as_asked() {
        for bytes in [0, 1, 63, 4096, LARGE_PAGE, 3 * LARGE_PAGE + 1] {
            let mut block = Aligned::zeroed(bytes);
            assert!(block.bytes() >= bytes);
            assert_eq!(block.values::<f32>().as_ptr().addr() % LINE, 0);
            assert!(block.values::<u16>().iter().all(|bits| *bits == 0));
            if let Some(last) = block.values_mut::<f32>().last_mut() {
                *last = 1.0;
            }
            assert_eq!(block.values::<f32>().last(), Some(&1.0));
        }
    }

    /// Buffers are created before it is known whether they will hold anything.
    #[test]
    fn an_empty_block_takes_no_large_page() {
        assert!(Aligned::zeroed(0).layout.size() <= 2 * LINE);
    }
}
