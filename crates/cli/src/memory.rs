//! Refuses what cannot fit into memory, before it begins.

use easyroutine::Dtype;
use easyroutine::cache::readable;
use easyroutine::load::Opened;

use crate::failure::Failure;

/// Bytes of a model's packed weights.
pub(crate) fn packed_bytes(parameters: usize, dtype: Dtype) -> u64 {
    let width = if dtype == Dtype::F32 { 4 } else { 2 };
    (parameters as u64).saturating_mul(width)
}

/// Refuses a model whose weights exceed free memory.
///
/// # Errors
/// If there is too little memory (with a hint), or the files name a tensor that they do not hold.
pub(crate) fn check(model: &Opened, dtype: Dtype) -> Result<(), Failure> {
    let needed = model.weight_bytes(dtype)?;
    let rounded = model.weight_bytes(Dtype::Bf16)?;
    check_free(needed, "the weights").map_err(|failure| {
        let would_do = rounded < needed && available().is_some_and(|free| rounded < free);
        let hint = format!("--dtype bf16 needs {}", readable(rounded));
        if would_do { failure.hint(hint) } else { failure }
    })
}

/// Refuses a task that needs more than free memory.
///
/// # Errors
/// If there is too little memory.
pub(crate) fn check_free(needed: u64, what: &str) -> Result<(), Failure> {
    match available().filter(|free| *free < needed) {
        Some(free) => {
            Err(Failure::memory(format!("{what} need {} but {} are free", readable(needed), readable(free))))
        }
        None => Ok(()),
    }
}

/// Memory available to this process without swapping, if the system says.
fn available() -> Option<u64> {
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
