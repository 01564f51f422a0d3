//! The file size limit (`ulimit -f`), which the system enforces by a signal.

/// Turns the signal into an error of the write: a command then ends with a message instead of the signal, and clears
/// away what it began.
#[cfg(unix)]
pub(crate) fn survive_the_size_of_files() {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use signal_hook::consts::SIGXFSZ;
    use signal_hook::flag;

    // The flag is never read. If it can't be registered, the system's default applies.
    let _ = flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)));
}

/// Other systems have no such signal.
#[cfg(not(unix))]
pub(crate) fn survive_the_size_of_files() {}
