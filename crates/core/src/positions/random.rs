//! Draws that depend only on the seed, the specifier and the row, so that batching changes nothing.

/// Draws `count` of `from`, without replacement, in ascending order.
///
/// The generator is SplitMix64 (Steele, Lea, Flood 2014); it is implemented here because saved runs must draw the same
/// tokens in every later version, which no library promises.
pub(super) fn draw(mut from: Vec<usize>, count: usize, seed: u64, specifier: &str, row: usize) -> Vec<usize> {
    let mut state = seed;
    for byte in specifier.bytes().chain((row as u64).to_le_bytes()) {
        state = (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        state = mix(state);
    }
    for i in 0..count {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let left = (from.len() - i) as u64;
        // The high half of a 128-bit product: unbiased to 2^-64 of the range.
        let pick = ((u128::from(mix(state)) * u128::from(left)) >> 64) as usize;
        from.swap(i, i + pick);
    }
    from.truncate(count);
    from.sort_unstable();
    from
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number in [0, 1), for one step of one row.
pub(crate) fn uniform(seed: u64, row: usize, step: usize) -> f64 {
    let mut state = seed;
    for part in [row as u64, step as u64] {
        state = mix(state.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ part);
    }
    // An f64 between 1/2 and 1 holds 53 bits.
    (mix(state) >> 11) as f64 / (1u64 << 53) as f64
}
