//! Keeps the process alive when a mapped file is cut short while it is read.
//!
//! Touching a page beyond the end of a file, or one that its disk cannot deliver, cannot return an error: the system
//! sends SIGBUS to the thread. Reading by system calls instead would cost a call per row of weights, and a second copy
//! of each shard. So we handle the signal. If the address is in one of our maps, zeros replace the rest of that map,
//! the map is marked as broken, and the read goes on. Readers check the mark afterwards and return no result. Any other
//! address goes to the handler that was installed before ours.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// A watched map.
#[derive(Debug)]
struct Region {
    is_taken: AtomicBool,
    /// 0 while unused.
    start: AtomicUsize,
    end: AtomicUsize,
    is_broken: AtomicBool,
    next: *const Region,
}

// SAFETY: every field except `next` is atomic, and `next` never changes once the region is in the list.
unsafe impl Sync for Region {}

/// All regions ever made. They are reused, never freed: the handler may walk the list at any moment.
static REGIONS: AtomicPtr<Region> = AtomicPtr::new(ptr::null_mut());
static PAGE: AtomicUsize = AtomicUsize::new(4096);
/// The previous action of the signal.
static BEFORE: AtomicPtr<libc::sigaction> = AtomicPtr::new(ptr::null_mut());
/// Whether a signal that is not ours has already come.
static IS_DECLINED: AtomicBool = AtomicBool::new(false);

/// Watches a map for as long as it lives; must be dropped before the map.
#[derive(Debug)]
pub(crate) struct Guard(&'static Region);

impl Guard {
    pub(crate) fn new(map: &[u8]) -> Guard {
        take_signal();
        let region = free_region();
        region.is_broken.store(false, Ordering::Relaxed);
        region.end.store(map.as_ptr() as usize + map.len(), Ordering::Relaxed);
        region.start.store(map.as_ptr() as usize, Ordering::Release);
        Guard(region)
    }

    /// Whether part of the map could not be read and was replaced by zeros.
    pub(crate) fn is_broken(&self) -> bool {
        self.0.is_broken.load(Ordering::Acquire)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.start.store(0, Ordering::Release);
        self.0.is_taken.store(false, Ordering::Release);
    }
}

fn free_region() -> &'static Region {
    for region in regions() {
        if region.is_taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            return region;
        }
    }
    let region = Box::leak(Box::new(Region {
        is_taken: AtomicBool::new(true),
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        is_broken: AtomicBool::new(false),
        next: ptr::null(),
    }));
    let mut first = REGIONS.load(Ordering::Acquire);
    loop {
        region.next = first;
        match REGIONS.compare_exchange(first, ptr::from_mut(region), Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return region,
            Err(now) => first = now,
        }
    }
}

fn regions() -> impl Iterator<Item = &'static Region> {
    // SAFETY: regions in the list are leaked, so they live forever.
    let first = unsafe { REGIONS.load(Ordering::Acquire).cast_const().as_ref() };
    // SAFETY: as above.
    std::iter::successors(first, |region| unsafe { region.next.as_ref() })
}

/// Makes sure that the signal comes to us. Checked for each map, since another library may have taken it meanwhile.
fn take_signal() {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: the call has no preconditions.
    if let Ok(page) = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }) {
        PAGE.store(page, Ordering::Relaxed);
    }
    let handler = on_signal as extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) as usize;
    // SAFETY: the struct is plain data for which zeros are valid; the call only fills it.
    let current = unsafe {
        let mut current: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut current) != 0 {
            return;
        }
        current
    };
    if current.sa_sigaction == handler {
        return;
    }
    let mut ours = current;
    ours.sa_sigaction = handler;
    // Use the thread's signal stack if it has one. A second fault of a thread inside the handler is fatal.
    ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // The earlier value is leaked, because the handler may be reading it: one per change of the handler.
    BEFORE.store(Box::into_raw(Box::new(current)), Ordering::Release);
    IS_DECLINED.store(false, Ordering::Release);
    // SAFETY: the handler has the signature of SA_SIGINFO, and does only what is async-signal-safe: atomics, `mmap`,
    // `sigaction`, `raise`.
    unsafe {
        libc::sigemptyset(&raw mut ours.sa_mask);
        libc::sigaction(libc::SIGBUS, &raw const ours, ptr::null_mut());
    }
}

extern "C" fn on_signal(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo, and SIGBUS has an address.
    let (address, is_fault) = unsafe { ((*info).si_addr() as usize, (*info).si_code > 0) };
    if is_fault && put_zeros(address) {
        return;
    }
    decline(is_fault);
}

/// If `address` is in one of our maps, replaces the rest of that map, from the address's page on, by zeros.
fn put_zeros(address: usize) -> bool {
    let is_in = |region: &&Region| {
        let start = region.start.load(Ordering::Acquire);
        start != 0 && (start..region.end.load(Ordering::Relaxed)).contains(&address)
    };
    let Some(region) = regions().find(is_in) else { return false };
    let from = address & !(PAGE.load(Ordering::Relaxed) - 1);
    let length = region.end.load(Ordering::Relaxed) - from;
    // Before any zero can be seen.
    region.is_broken.store(true, Ordering::Release);
    // SAFETY: the range lies within one map that this process made and has not unmapped, since a thread is reading it.
    // The map is read-only and private to its owner, for whom zeros are bytes like any other.
    let put = unsafe {
        libc::mmap(
            from as *mut c_void,
            length,
            libc::PROT_READ,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
            -1,
            0,
        )
    };
    put != libc::MAP_FAILED
}

/// Passes the signal to the previous handler. If it comes back to us, passes it to the system, which ends the process.
fn decline(is_fault: bool) {
    let before = BEFORE.load(Ordering::Acquire);
    let is_second = IS_DECLINED.swap(true, Ordering::AcqRel);
    // SAFETY: `before` points to a leaked value; zeros with SIG_DFL are the default action. A fault recurs by itself
    // when the handler returns; a sent signal does not, so it is raised again.
    unsafe {
        if is_second || before.is_null() {
            let mut usual: libc::sigaction = std::mem::zeroed();
            usual.sa_sigaction = libc::SIG_DFL;
            libc::sigaction(libc::SIGBUS, &raw const usual, ptr::null_mut());
        } else {
            libc::sigaction(libc::SIGBUS, before, ptr::null_mut());
        }
        if !is_fault {
            libc::raise(libc::SIGBUS);
        }
    }
}
