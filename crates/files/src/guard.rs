//! A mapped file that is cut short while it is read does not end the process.
//!
//! A page beyond the end of a file, or one that its disk cannot give, is no error of a call that could be returned: the
//! system sends SIGBUS to the thread that touched it. Copying what is read by calls instead would cost a call for each row
//! of weights, and a second copy of each shard. So the signal is taken: where the address lies in one of our maps, zeros
//! are put in the place of the rest of it, the map is marked as broken, and the read goes on. Whoever reads asks for the
//! mark afterwards and gives no result. Any other address goes to whoever took the signal before us.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// A map that is watched.
#[derive(Debug)]
struct Region {
    is_taken: AtomicBool,
    /// 0 while there is no map.
    start: AtomicUsize,
    end: AtomicUsize,
    is_broken: AtomicBool,
    next: *const Region,
}

// SAFETY: all but `next` is atomic, and `next` is never changed once the region is in the list.
unsafe impl Sync for Region {}

/// All regions there ever were, each of which is used again: the handler may look through them at any moment.
static REGIONS: AtomicPtr<Region> = AtomicPtr::new(ptr::null_mut());
static PAGE: AtomicUsize = AtomicUsize::new(4096);
/// What was to be done with the signal before.
static BEFORE: AtomicPtr<libc::sigaction> = AtomicPtr::new(ptr::null_mut());
/// Whether a signal that is not ours came already.
static IS_DECLINED: AtomicBool = AtomicBool::new(false);

/// Watches a map for as long as it lives: it must be dropped before the map.
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

    /// Whether a part of the map could not be read, and zeros stand in its place.
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
    // SAFETY: regions in the list are leaked, so they live for ever.
    let first = unsafe { REGIONS.load(Ordering::Acquire).cast_const().as_ref() };
    // SAFETY: as above.
    std::iter::successors(first, |region| unsafe { region.next.as_ref() })
}

/// Makes sure that the signal comes to us; looked at for each map, since another library may have taken it meanwhile.
fn take_signal() {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: a call without conditions.
    if let Ok(page) = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }) {
        PAGE.store(page, Ordering::Relaxed);
    }
    let handler = on_signal as extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) as usize;
    // SAFETY: the struct is plain data, for which zeros are a value; the call only fills it.
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
    // On the thread's own stack for signals where it has one. The next fault of a thread that is in the handler is fatal.
    ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // An earlier value is leaked: the handler may be reading it. There are as many as there are changes of the handler.
    BEFORE.store(Box::into_raw(Box::new(current)), Ordering::Release);
    IS_DECLINED.store(false, Ordering::Release);
    // SAFETY: the handler takes what SA_SIGINFO promises, and does only what signals may: atomics, `mmap`, `sigaction`,
    // `raise`.
    unsafe {
        libc::sigemptyset(&raw mut ours.sa_mask);
        libc::sigaction(libc::SIGBUS, &raw const ours, ptr::null_mut());
    }
}

extern "C" fn on_signal(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: with SA_SIGINFO the kernel hands over a valid siginfo, and SIGBUS has an address.
    let (address, is_fault) = unsafe { ((*info).si_addr() as usize, (*info).si_code > 0) };
    if is_fault && put_zeros(address) {
        return;
    }
    decline(is_fault);
}

/// Puts zeros in the place of what a map has from the page of `address` on, if that is in one.
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
    // SAFETY: the range lies within one map that this process made and has not unmapped, since a thread is reading it; the
    // map is read-only, private to its owner, and its owner takes zeros for bytes like any other.
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

/// Leaves the signal to whoever had it before, and, should that come back to us, to the system, which ends the process.
fn decline(is_fault: bool) {
    let before = BEFORE.load(Ordering::Acquire);
    let is_second = IS_DECLINED.swap(true, Ordering::AcqRel);
    // SAFETY: `before` points to a leaked value; zeros with SIG_DFL are the default action. A fault comes again by itself
    // when the handler returns; a signal that was sent does not, so it is sent again.
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
