//! How much memory there is.

use easyroutine::load::{LoadOptions, Opened};

/// The same options with a bound on memory, where the weights need more than is free and none was given: the model is then
/// read layer by layer.
///
/// # Errors
/// A tensor that the files name but do not hold.
pub fn bounded(model: &Opened, mut options: LoadOptions) -> easyroutine::Result<LoadOptions> {
    if options.memory.is_none() {
        let needed = model.weight_bytes(options.dtype)?;
        // Something is left to the system, and to what is not counted.
        options.memory = available().filter(|free| *free < needed).map(|free| free - free / 10);
    }
    Ok(options)
}

/// The same for two models at once: each gets a half of what was given or is free, where both need more.
///
/// # Errors
/// As [`bounded`].
pub fn bounded_both(models: [&Opened; 2], mut options: LoadOptions) -> easyroutine::Result<LoadOptions> {
    options.memory = match options.memory {
        Some(memory) => Some(memory / 2),
        None => {
            let [a, b] = models.map(|model| model.weight_bytes(options.dtype));
            let needed = a? + b?;
            available().filter(|free| *free < needed).map(|free| (free - free / 10) / 2)
        }
    };
    Ok(options)
}

/// Memory available to this process without swapping, if the system says.
pub fn available() -> Option<u64> {
    [free(), address_space(), control_group()].into_iter().flatten().min()
}

fn free() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// What `ulimit -v` leaves; it counts mapped files too.
fn address_space() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/limits").ok()?;
    let limit: u64 = text
        .lines()
        .find_map(|l| l.strip_prefix("Max address space"))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()?;
    let pages: u64 =
        std::fs::read_to_string("/proc/self/statm").ok()?.split_whitespace().next()?.parse().ok()?;
    Some(limit.saturating_sub(pages * 4096))
}

/// What the container's limit leaves (control groups, version 2, then 1).
fn control_group() -> Option<u64> {
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let left = |limit: &str, used: &str| Some(number(limit)?.saturating_sub(number(used).unwrap_or(0)));
    left("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current").or_else(|| {
        left("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes")
    })
}
