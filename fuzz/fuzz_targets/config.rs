//! config.json of any family: read or rejected, never a panic; the sizes of a config that parses fit each other.
#![no_main]

use easyroutine::config::Config;
use easyroutine::families::read;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(config) = Config::parse(data) else { return };
    let Ok(reading) = read(&config, &[]) else { return };
    let arch = &reading.arch;
    assert!(arch.d_model > 0 && arch.d_head > 0 && arch.vocabulary > 0 && !arch.layers.is_empty());
    assert!(arch.n_heads.is_multiple_of(arch.n_kv_heads));
    assert!(reading.let_through.is_empty());
});
