//! Rotary embeddings in both spellings: `rope_parameters` of transformers 5; `rope_theta`, `rope_scaling` (with
//! `rope_type` or `type`) and the families' own keys of transformers 4. Rules and defaults: transformers
//! 5.23, `modeling_rope_utils.py` (`convert_rope_params_to_dict`, `standardize_rope_params` and the functions in
//! `ROPE_INIT_FUNCTIONS`).

use super::sizes::Sizes;
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;

/// How a config class names and limits its rotary embedding.
pub(super) struct RopeKeys {
    /// Top-level key of the base.
    pub(super) theta: &'static str,
    /// Base if nothing names it.
    pub(super) default_theta: f64,
    /// The part of a head that rotates.
    pub(super) part: Part,
    /// Peculiarities of LongRoPE.
    pub(super) longrope: LongRopeKeys,
    /// Keys of the rope's own object that other code reads, or that text does not use.
    pub(super) others: &'static [&'static str],
    /// The object (JSON) for a config without one.
    pub(super) absent: &'static str,
}

/// The part of a head that rotates.
#[derive(Clone, Copy)]
pub(super) enum Part {
    /// All of it. The default type ignores `partial_rotary_factor`; the others refuse a value below one.
    Whole,
    /// The fraction under this top-level key, unless the rope's own object has it. An odd number of columns is rounded
    /// up, after the frequencies are computed.
    Fraction(&'static str, f64),
    /// As above, but an odd number of columns does not run: the class cuts the head before it rounds.
    EvenFraction(&'static str, f64),
}

impl Part {
    fn key(self) -> &'static str {
        match self {
            Part::Whole => FRACTION,
            Part::Fraction(key, _) | Part::EvenFraction(key, _) => key,
        }
    }
}

/// A class's peculiarities in LongRoPE.
#[derive(Clone, Copy)]
pub(super) enum LongRopeKeys {
    /// As for every type: the original context defaults to `max_position_embeddings`.
    Usual,
    /// The only type besides the default one; `su` and `yarn` mean it too, and the original context is the top-level
    /// key or this default.
    Only(usize),
}

impl RopeKeys {
    /// Keys of most classes: the whole head, `rope_theta`, 10000.
    pub(super) const USUAL: RopeKeys = RopeKeys {
        theta: "rope_theta",
        default_theta: 10_000.0,
        part: Part::Whole,
        longrope: LongRopeKeys::Usual,
        others: &[],
        absent: "{}",
    };
}

/// Keys of ropes with three positions (`mrope`), which coincide for text.
pub(super) const SECTIONS: &[&str] = &["mrope_section", "mrope_interleaved"];

const FRACTION: &str = "partial_rotary_factor";

/// Every key that some rope type has. A key that the chosen type does not use is ignored, as in transformers; any other
/// key is refused.
const KEYS: &[&str] = &[
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "factor",
    "high_freq_factor",
    "long_factor",
    "low_freq_factor",
    "mscale",
    "mscale_all_dim",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "rope_theta",
    "rope_type",
    "short_factor",
    "truncate",
    "type",
];

/// The rope's own object: transformers prefers a non-empty `rope_scaling`.
pub(super) fn object_of(config: &Config, keys: &RopeKeys) -> Result<Config> {
    let scaling = config.object("rope_scaling")?.filter(|o| !o.as_map().is_empty());
    let parameters = if scaling.is_some() { None } else { config.object("rope_parameters")? };
    config.has("rope_parameters");
    match scaling.or(parameters) {
        Some(object) => Ok(object),
        None => Config::parse_as("config.json", keys.absent.as_bytes()),
    }
}

/// The model's single rotary table, columns paired by halves.
pub(super) fn rope(config: &Config, sizes: &Sizes, keys: &RopeKeys) -> Result<Rope> {
    let object = object_of(config, keys)?;
    for key in keys.others {
        object.has(key);
    }
    let original = match keys.longrope {
        LongRopeKeys::Usual => config.optional_size("original_max_position_embeddings")?,
        LongRopeKeys::Only(default) => Some(config.size_or("original_max_position_embeddings", default)?),
    };
    // A top-level key applies if the rope's own object lacks it.
    config.has(keys.theta);
    let theta = match object.has("rope_theta") {
        true => object.positive_or("rope_theta", keys.default_theta)?,
        false => config.positive_or(keys.theta, keys.default_theta)?,
    };
    let part = keys.part;
    config.has(part.key());
    let (fraction, place) = match (object.has(FRACTION), part) {
        (true, Part::Whole) => (object.optional_positive(FRACTION)?.unwrap_or(1.0), (&object, FRACTION)),
        (true, Part::Fraction(_, default) | Part::EvenFraction(_, default)) => {
            (object.positive_or(FRACTION, default)?, (&object, FRACTION))
        }
        (false, Part::Whole) => (config.optional_positive(FRACTION)?.unwrap_or(1.0), (config, FRACTION)),
        (false, Part::Fraction(key, default) | Part::EvenFraction(key, default)) => {
            (config.positive_or(key, default)?, (config, key))
        }
    };
    let turned = Turned { columns: (sizes.d_head as f64 * fraction) as usize, part, place };
    let sectioned = keys.others == SECTIONS;
    Given { sizes, longrope: keys.longrope, theta, turned, original, bounds: None, sectioned }.read(&object)
}

/// The rotary table of one object in `rope_parameters`, for classes with one table per layer type.
pub(super) fn nested_rope(object: &Config, sizes: &Sizes, default_theta: f64) -> Result<Rope> {
    let fraction = object.optional_positive(FRACTION)?.unwrap_or(1.0);
    let columns = (sizes.d_head as f64 * fraction) as usize;
    Given {
        sizes,
        longrope: LongRopeKeys::Usual,
        theta: object.positive_or("rope_theta", default_theta)?,
        turned: Turned { columns, part: Part::Whole, place: (object, FRACTION) },
        original: None,
        // `truncate` has no effect in the nested spelling: transformers looks for it in the outer object.
        bounds: Some(RampBounds::Whole),
        sectioned: false,
    }
    .read(object)
}

/// The model's longest row: `max_position_embeddings`, or the scaled original context.
pub(super) fn reach(rope: &Rope, context: usize) -> usize {
    let stretched = match rope.scaling {
        RopeScaling::Linear { factor } => context as f64 * factor,
        RopeScaling::Dynamic { factor, original } | RopeScaling::Yarn { factor, original, .. } => {
            original as f64 * factor
        }
        RopeScaling::None
        | RopeScaling::Llama3 { .. }
        | RopeScaling::Proportional { .. }
        | RopeScaling::LongRope { .. } => 0.0,
    };
    // `as` saturates; the bound keeps later sums of positions within 32 bits.
    context.max((stretched as usize).min(crate::config::LARGEST_SIZE as usize))
}

/// The columns of a head that rotate, and the key that says so.
struct Turned<'a> {
    columns: usize,
    part: Part,
    place: (&'a Config, &'static str),
}

impl Turned<'_> {
    /// The rotary columns of a type of rope.
    fn columns(&self, d_head: usize, kind: &str) -> Result<usize> {
        let (object, key) = self.place;
        let whole = matches!(self.part, Part::Whole);
        if whole && kind != "default" && self.columns != d_head {
            return Err(object.unsupported(key, &format!("1 with rope type {kind}")));
        }
        let columns = if whole { d_head } else { self.columns };
        // YaRN and LongRoPE of transformers fail at an odd number, except that one number of YaRN's ramp serves two pairs.
        let fails = kind == "longrope" || kind == "yarn" && self.columns != 3;
        let rounds = matches!(self.part, Part::Fraction(..)) && !fails;
        let taken = if rounds { columns.checked_next_multiple_of(2).unwrap_or(columns) } else { columns };
        if taken > d_head || taken == 0 || !taken.is_multiple_of(2) {
            let even = if rounds { "a number" } else { "an even number" };
            let first = if rounds { 1 } else { 2 };
            let last = d_head / 2 * 2;
            let wanted = format!("{even} of rotary columns from {first} to {last}, not {columns}");
            return Err(if object.has(key) {
                object.wrong(key, &wanted)
            } else {
                object.unsupported(key, &wanted)
            });
        }
        Ok(columns)
    }
}

/// Values from outside the rope's own object.
struct Given<'a> {
    sizes: &'a Sizes,
    longrope: LongRopeKeys,
    theta: f64,
    turned: Turned<'a>,
    original: Option<usize>,
    bounds: Option<RampBounds>,
    sectioned: bool,
}

impl Given<'_> {
    fn read(&self, object: &Config) -> Result<Rope> {
        for key in KEYS {
            object.has(key);
        }
        let kind_key = if object.has("rope_type") || !object.has("type") { "rope_type" } else { "type" };
        let kind = match object.raw(kind_key) {
            None => "default",
            Some(value) => value.as_str().ok_or_else(|| object.wrong(kind_key, "the name of a rope type"))?,
        };
        let kind = match (self.longrope, kind) {
            (LongRopeKeys::Only(_), "su" | "yarn") => "longrope",
            (LongRopeKeys::Only(_), "default" | "longrope") | (LongRopeKeys::Usual, _) => kind,
            _ => return Err(object.unsupported(kind_key, "default, longrope")),
        };
        let columns = self.turned.columns(self.sizes.d_head, kind);
        let scaling = match kind {
            "default" => RopeScaling::None,
            "mrope" if self.sectioned => RopeScaling::None,
            "linear" => RopeScaling::Linear { factor: required(object, "factor")? },
            "dynamic" => self.dynamic(object)?,
            "llama3" => self.llama3(object)?,
            "yarn" => self.yarn(object)?,
            "longrope" => self.longrope(object)?,
            _ => return Err(object.unsupported(kind_key, "default, linear, dynamic, llama3, yarn, longrope")),
        };
        Ok(Rope {
            theta: self.theta,
            first: 0,
            rotary_dim: columns?,
            pairing: Pairing::Halves,
            turn: Turn::Forward,
            scaling,
        })
    }

    fn dynamic(&self, object: &Config) -> Result<RopeScaling> {
        if self.turned.columns <= 2 {
            // The exponent is dim / (dim - 2).
            return Err(object.unsupported("rope_type", "dynamic with more than 2 rotary columns"));
        }
        Ok(RopeScaling::Dynamic { factor: required(object, "factor")?, original: self.sizes.context })
    }

    fn original(&self, object: &Config) -> Result<usize> {
        let key = "original_max_position_embeddings";
        match self.original {
            Some(original) => Ok(original),
            None => object.size_or(key, self.sizes.context),
        }
    }

    fn llama3(&self, object: &Config) -> Result<RopeScaling> {
        let low_freq_factor = required(object, "low_freq_factor")?;
        let high_freq_factor = required(object, "high_freq_factor")?;
        if high_freq_factor <= low_freq_factor {
            return Err(
                object.wrong("high_freq_factor", &format!("more than low_freq_factor {low_freq_factor}"))
            );
        }
        Ok(RopeScaling::Llama3 {
            factor: required(object, "factor")?,
            low_freq_factor,
            high_freq_factor,
            original: self.original(object)?,
        })
    }

    fn yarn(&self, object: &Config) -> Result<RopeScaling> {
        let original = self.original(object)?;
        if self.theta <= 1.0 {
            return Err(object.wrong("rope_theta", "more than 1 with rope type yarn"));
        }
        let factor = match object.raw("factor") {
            None => return Err(object.missing("factor")),
            Some(_) => {
                object.optional_positive("factor")?.unwrap_or(self.sizes.context as f64 / original as f64)
            }
        };
        let nonzero = |key: &str| -> Result<Option<f64>> {
            Ok(object.optional_number(key)?.filter(|number| *number != 0.0))
        };
        let attention_factor = match object.optional_positive("attention_factor")? {
            Some(factor) => factor,
            None => match (nonzero("mscale")?, nonzero("mscale_all_dim")?) {
                (Some(m), Some(all)) => magnitude(factor, m) / magnitude(factor, all),
                _ => magnitude(factor, 1.0),
            },
        };
        if !(attention_factor as f32).is_finite() || attention_factor as f32 <= 0.0 {
            return Err(object.wrong("mscale", "a number that gives a factor above zero"));
        }
        let rotations = |key: &str, default: f64| match nonzero(key)? {
            None => Ok(default),
            Some(number) if number > 0.0 => Ok(number),
            Some(_) => Err(object.wrong(key, "a number above zero")),
        };
        let truncate = object.flag_or("truncate", true)?;
        Ok(RopeScaling::Yarn {
            factor,
            beta_fast: rotations("beta_fast", 32.0)?,
            beta_slow: rotations("beta_slow", 1.0)?,
            original,
            attention_factor,
            bounds: self.bounds.unwrap_or(if truncate { RampBounds::Whole } else { RampBounds::Exact }),
        })
    }

    fn longrope(&self, object: &Config) -> Result<RopeScaling> {
        let original = self.original(object)?;
        let context = self.sizes.context;
        let factor = object.optional_positive("factor")?.unwrap_or(context as f64 / original as f64);
        let attention_factor = match object.optional_positive("attention_factor")? {
            Some(given) => given,
            None if factor <= 1.0 => 1.0,
            None if original == 1 => {
                return Err(object.wrong("original_max_position_embeddings", "more than 1"));
            }
            None => (1.0 + factor.ln() / (original as f64).ln()).sqrt(),
        };
        let pairs = self.turned.columns / 2;
        let divisors = |key: &str| {
            let list = object.optional_numbers(key)?.ok_or_else(|| object.missing(key))?;
            if list.len() != pairs {
                let wanted = format!("{pairs} numbers, one for each pair of columns");
                return Err(object.wrong(key, &wanted));
            }
            if list.iter().any(|&d| !(d as f32 > 0.0 && (d as f32).is_finite())) {
                return Err(object.wrong(key, "numbers above zero"));
            }
            Ok(list)
        };
        let (short, long) = (divisors("short_factor")?, divisors("long_factor")?);
        Ok(RopeScaling::LongRope { short, long, original, attention_factor })
    }
}

/// A positive number that the type requires.
fn required(object: &Config, key: &str) -> Result<f64> {
    object.optional_positive(key)?.ok_or_else(|| object.missing(key))
}

/// YaRN's factor on cos and sin (`get_mscale` in `_compute_yarn_parameters`).
fn magnitude(scale: f64, weight: f64) -> f64 {
    if scale <= 1.0 { 1.0 } else { 0.1 * weight * scale.ln() + 1.0 }
}
