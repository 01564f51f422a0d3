//! Instruction sets, chosen at run time.

use std::fmt;
use std::str::FromStr;

/// The environment variable that forces a path.
const VARIABLE: &str = "EASYROUTINE_SIMD";

/// An instruction set. Results may differ between paths in the last bits, never within one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Simd {
    /// Safe Rust that the compiler vectorises for any processor.
    Portable,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 (F, BW, DQ, VL), and AVX-512 BF16 where the processor has it.
    Avx512,
}

impl Simd {
    const ALL: [Simd; 3] = [Simd::Portable, Simd::Avx2, Simd::Avx512];

    /// The path that `EASYROUTINE_SIMD` names, or the best one that this processor has.
    ///
    /// # Errors
    /// If the variable names no path, or one that this processor lacks.
    pub fn from_env() -> Result<Simd, String> {
        match std::env::var_os(VARIABLE).filter(|word| !word.is_empty()) {
            None => Ok(Simd::best()),
            Some(word) => Simd::chosen(&word.to_string_lossy()),
        }
    }

    fn chosen(word: &str) -> Result<Simd, String> {
        let simd: Simd = word.parse().map_err(|error| format!("{VARIABLE}: {error}"))?;
        if simd.is_available() {
            return Ok(simd);
        }
        Err(format!("{VARIABLE}: this processor lacks \"{simd}\"; it has {}", listed(&Simd::available())))
    }

    /// The best path that this processor has.
    pub fn best() -> Simd {
        Simd::Avx512.lowered()
    }

    /// The paths that this processor has, worst first.
    pub fn available() -> Vec<Simd> {
        Simd::ALL.into_iter().filter(|simd| simd.is_available()).collect()
    }

    /// Whether this processor has the path.
    pub fn is_available(self) -> bool {
        match self {
            Simd::Portable => true,
            Simd::Avx2 => has_avx2(),
            Simd::Avx512 => has_avx512(),
        }
    }

    /// This path, or the best lower one that the processor has.
    pub(crate) fn lowered(self) -> Simd {
        let below = Simd::ALL.into_iter().filter(|simd| *simd <= self && simd.is_available());
        below.max().unwrap_or(Simd::Portable)
    }

    fn word(self) -> &'static str {
        match self {
            Simd::Portable => "portable",
            Simd::Avx2 => "avx2",
            Simd::Avx512 => "avx512",
        }
    }
}

impl fmt::Display for Simd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Simd {
    type Err = String;

    fn from_str(word: &str) -> Result<Simd, String> {
        let found = Simd::ALL.into_iter().find(|simd| simd.word() == word);
        found.ok_or_else(|| format!("\"{word}\" is not a SIMD path; there are {}", listed(&Simd::ALL)))
    }
}

fn listed(paths: &[Simd]) -> String {
    let words: Vec<&str> = paths.iter().map(|simd| simd.word()).collect();
    words.join(", ")
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    has_avx2()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx2() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx512() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_is_read_back_from_its_name() {
        for simd in Simd::ALL {
            assert_eq!(simd.to_string().parse(), Ok(simd));
        }
    }

    #[test]
    fn a_word_that_is_no_path_is_an_error_that_names_the_choices() {
        let error = Simd::chosen("sse").unwrap_err();
        assert_eq!(error, "EASYROUTINE_SIMD: \"sse\" is not a SIMD path; there are portable, avx2, avx512");
    }

    #[test]
    fn a_path_is_chosen_only_where_the_processor_has_it() {
        for simd in Simd::ALL {
            assert_eq!(Simd::chosen(simd.word()).is_ok(), simd.is_available());
        }
        assert!(Simd::best().is_available());
    }
}
