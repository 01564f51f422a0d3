//! A limit on the size of files (`ulimit -f`), which the system enforces by a signal.

/// Turns the signal into the error that a write then gives: a command ends with a message, not with the signal, and
/// clears away what it began.
#[cfg(unix)]
pub(crate) fn survive_the_size_of_files() {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use signal_hook::consts::SIGXFSZ;
    use signal_hook::flag;

    // Nobody reads the flag. Where it can't be registered, the system does what it does for others.
    let _ = flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)));
}

/// Elsewhere there is no such signal.
#[cfg(not(unix))]
pub(crate) fn survive_the_size_of_files() {}
