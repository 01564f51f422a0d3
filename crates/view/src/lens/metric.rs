//! The meaning of colour: the number of a cell, and its position between dark and bright.

use std::fmt;
use std::str::FromStr;

use super::report::{LayerPosition, LensReport};
use crate::error::{Error, ErrorKind};
use crate::text::printable;

/// What a cell's colour represents. Bright always means sure, near, or first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Metric {
    /// The layer's probability of the final layer's top token.
    #[default]
    Final,
    /// Probability of the cell's own top token.
    Own,
    /// Rank of the token that actually comes next, from 1.
    Rank,
    /// Entropy, nats.
    Entropy,
    /// KL(final ‖ layer), nats.
    Kl,
    /// Probability of the tracked token.
    Tracked,
}

/// The number of a cell.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value {
    /// A number; it may be infinite.
    Number(f64),
    /// There is none (the rank of the token after the last one).
    Absent,
    /// NaN: something went wrong on the way.
    Nan,
}

/// Maps numbers to 0 (dark) … 1 (bright).
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scale {
    /// The number drawn darkest, after the logarithm if there is one.
    pub(crate) dark: f64,
    /// The number drawn brightest.
    pub(crate) bright: f64,
    /// Whether the scale is in powers of ten.
    pub(crate) log10: bool,
    /// Positions and labels of ticks, from dark to bright.
    pub(crate) ticks: Vec<(f64, String)>,
}

impl Metric {
    /// All metrics, in the order offered.
    pub const ALL: [Self; 6] = [Self::Final, Self::Own, Self::Rank, Self::Entropy, Self::Kl, Self::Tracked];

    /// The name as typed on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Final => "final",
            Self::Own => "p",
            Self::Rank => "rank",
            Self::Entropy => "entropy",
            Self::Kl => "kl",
            Self::Tracked => "tracked",
        }
    }

    /// Its description, for a legend.
    #[must_use]
    pub fn words(self, report: &LensReport) -> String {
        match (self, &report.settings.tracked) {
            (Self::Final, _) => "probability of the final layer's top token".into(),
            (Self::Own, _) => "probability of the cell's own top token".into(),
            (Self::Rank, _) => "rank of the actual next token".into(),
            (Self::Entropy, _) => "entropy of the prediction, in nats".into(),
            (Self::Kl, _) => "KL(final ‖ layer), in nats".into(),
            (Self::Tracked, Some(token)) => format!("probability of “{}”", printable(&token.text)),
            (Self::Tracked, None) => "probability of a tracked token (none was asked for)".into(),
        }
    }

    pub(crate) fn value(self, cell: &LayerPosition, report: &LensReport) -> Value {
        let own = cell.top.first().map_or(f64::NAN, |c| c.logprob);
        let number = match self {
            Self::Final => cell.logprob_of_final_top.exp(),
            Self::Own => own.exp(),
            Self::Rank => match cell.rank_of_next {
                Some(rank) => rank as f64,
                None if own.is_nan() => f64::NAN,
                None => return Value::Absent,
            },
            Self::Entropy => cell.entropy,
            Self::Kl => cell.kl_to_final,
            Self::Tracked => match cell.tracked {
                Some(logprob) => logprob.exp(),
                // A null although it was tracked: it was not a number.
                None if report.settings.tracked.is_some() => f64::NAN,
                None => return Value::Absent,
            },
        };
        if number.is_nan() { Value::Nan } else { Value::Number(number) }
    }

    pub(crate) fn scale(self, report: &LensReport) -> Scale {
        match self {
            Self::Final | Self::Own | Self::Tracked => Scale {
                dark: 0.0,
                bright: 1.0,
                log10: false,
                ticks: [0, 25, 50, 75, 100].map(|p| (f64::from(p) / 100.0, format!("{p}%"))).into(),
            },
            // Beyond rank 10 000 a token is lost, however large the vocabulary.
            Self::Rank => powers_of_ten(4.0, 0.0, ["≥10k", "1k", "100", "10", "1"]),
            Self::Entropy => falling((report.model.vocab_size.max(2) as f64).ln()),
            // Fixed ends: pictures are comparable, and one distant layer does not flatten the others.
            Self::Kl => powers_of_ten(2.0, -2.0, ["≥100", "10", "1", "0.1", "≤0.01"]),
        }
    }

    /// The number as text, for a cell or a line.
    pub(crate) fn format(self, value: Value) -> String {
        match (value, self) {
            (Value::Absent, _) => "-".into(),
            (Value::Nan, _) => "NaN".into(),
            (Value::Number(x), Self::Final | Self::Own | Self::Tracked) => percent(x),
            (Value::Number(x), Self::Rank) if x >= 1e6 => format!("{:.0}M", x / 1e6),
            (Value::Number(x), Self::Rank) if x >= 1e4 => format!("{:.0}k", x / 1e3),
            (Value::Number(x), Self::Rank) => format!("{x:.0}"),
            (Value::Number(x), _) if x.is_infinite() => "inf".into(),
            (Value::Number(x), _) if x.abs() >= 9.995 => format!("{x:.1}"),
            (Value::Number(x), _) => format!("{x:.2}"),
        }
    }
}

impl Scale {
    /// The position of a number, 0 dark to 1 bright; clamped.
    pub(crate) fn position(&self, number: f64) -> f64 {
        // The smallest positive number keeps the logarithm of 0 finite.
        let x = if self.log10 { number.max(f64::MIN_POSITIVE).log10() } else { number };
        ((x - self.dark) / (self.bright - self.dark)).clamp(0.0, 1.0)
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Metric {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|m| m.name() == name).ok_or_else(|| {
            let all = Self::ALL.map(Self::name).join(", ");
            Error::new(ErrorKind::Name, format!("no metric `{}`; there are {all}", printable(name)))
        })
    }
}

/// From `most` (dark) down to 0 (bright).
fn falling(most: f64) -> Scale {
    let label = |x: f64| if x >= 9.95 || x == 0.0 { format!("{x:.0}") } else { format!("{x:.1}") };
    let ticks = (0..=4).map(|i| (f64::from(i) / 4.0, label(most * (1.0 - f64::from(i) / 4.0)))).collect();
    Scale { dark: most, bright: 0.0, log10: false, ticks }
}

/// From 10^`dark` to 10^`bright`, labelled at equal distances.
fn powers_of_ten(dark: f64, bright: f64, labels: [&str; 5]) -> Scale {
    let ticks = labels.iter().enumerate().map(|(i, label)| (i as f64 / 4.0, (*label).to_owned())).collect();
    Scale { dark, bright, log10: true, ticks }
}

fn percent(p: f64) -> String {
    match p * 100.0 {
        x if x <= 0.0 => "0%".into(),
        x if x < 0.5 => "<1%".into(),
        x if x > 99.5 && x < 100.0 => ">99%".into(),
        x => format!("{x:.0}%"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_found_by_its_name() {
        for metric in Metric::ALL {
            assert_eq!(metric.name().parse::<Metric>().unwrap(), metric);
        }
        let error = "rnak\u{1b}".parse::<Metric>().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Name);
        assert!(error.to_string().starts_with("no metric `rnak␛`; there are final, p"), "{error}");
    }

    #[test]
    fn numbers_are_short() {
        for (metric, number, text) in [
            (Metric::Final, 0.774, "77%"),
            (Metric::Final, 0.001, "<1%"),
            (Metric::Final, 0.9999, ">99%"),
            (Metric::Own, 1.0, "100%"),
            (Metric::Rank, 1.0, "1"),
            (Metric::Rank, 9_999.0, "9999"),
            (Metric::Rank, 48_213.0, "48k"),
            (Metric::Entropy, 3.4159, "3.42"),
            (Metric::Kl, 12.34, "12.3"),
            (Metric::Kl, f64::INFINITY, "inf"),
        ] {
            assert_eq!(metric.format(Value::Number(number)), text);
        }
    }

    #[test]
    fn bright_is_sure_near_and_first() {
        let report = LensReport::from_json(include_str!("../../tests/data/small.json")).unwrap();
        for (metric, dark, bright) in [
            (Metric::Final, 0.0, 1.0),
            (Metric::Own, 0.0, 1.0),
            (Metric::Tracked, 0.0, 1.0),
            (Metric::Rank, 20_000.0, 1.0),
            (Metric::Entropy, 50.0, 0.0),
            (Metric::Kl, f64::INFINITY, 0.0),
        ] {
            let scale = metric.scale(&report);
            assert_eq!((scale.position(dark), scale.position(bright)), (0.0, 1.0), "{metric}");
            assert_eq!(scale.ticks.len(), 5);
        }
        assert_eq!(Metric::Rank.scale(&report).position(100.0), 0.5);
        assert_eq!(Metric::Kl.scale(&report).position(1.0), 0.5);
    }
}
