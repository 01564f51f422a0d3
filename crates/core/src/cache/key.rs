//! The keys of a cache.

use std::fmt;

use easyroutine_sites::{Point, Site};

/// The key of a value in a cache. It prints as users write it, and parses from that.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// An activation: `resid_out_5`.
    Point(Point),
    /// One statistic of the final norm's input: `last_layernorm.mean`.
    Statistic(Statistic),
    /// The mean of an activation over all examples: `avg_pattern_L3H2`.
    Mean(Point),
    /// The gradient of an output with respect to an activation: `resid_out_5_gradients`.
    Gradient(Point),
    /// Anything else that belongs to the rows, such as labels.
    Other(String),
}

/// The suffix of a gradient's key.
const GRADIENTS: &str = "_gradients";

/// The statistics of the final norm's input vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Statistic {
    /// The mean over D.
    Mean,
    /// The variance over D, divided by D, without eps.
    Variance,
    /// The mean of the squares over D.
    SecondMoment,
}

impl Statistic {
    /// All statistics, in the order of their columns.
    pub const ALL: [Statistic; 3] = [Statistic::Mean, Statistic::Variance, Statistic::SecondMoment];

    fn name(self) -> &'static str {
        match self {
            Statistic::Mean => "mean",
            Statistic::Variance => "variance",
            Statistic::SecondMoment => "second_moment",
        }
    }
}

impl Key {
    /// The keys of a captured point, in order.
    pub(crate) fn of(point: Point) -> Vec<Key> {
        match point.site() {
            Site::LastLayernorm => Statistic::ALL.map(Key::Statistic).to_vec(),
            _ => vec![Key::Point(point)],
        }
    }

    /// The activation, if the key is one.
    pub fn point(&self) -> Option<Point> {
        match self {
            Key::Point(point) => Some(*point),
            Key::Statistic(_) | Key::Mean(_) | Key::Gradient(_) | Key::Other(_) => None,
        }
    }

    /// Whether both axes of a row's value are positions: scores and patterns, and their gradients.
    pub fn is_pairwise(&self) -> bool {
        match self {
            Key::Point(point) | Key::Gradient(point) => point.site().is_pairwise(),
            Key::Statistic(_) | Key::Mean(_) | Key::Other(_) => false,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Point(point) => point.fmt(f),
            Key::Statistic(part) => write!(f, "{}.{}", Site::LastLayernorm.name(), part.name()),
            Key::Mean(point) => write!(f, "avg_{point}"),
            Key::Gradient(point) => write!(f, "{point}{GRADIENTS}"),
            Key::Other(name) => f.write_str(name),
        }
    }
}

impl PartialEq<str> for Key {
    fn eq(&self, text: &str) -> bool {
        Key::from(text).eq(self)
    }
}

impl From<Point> for Key {
    fn from(point: Point) -> Self {
        Key::Point(point)
    }
}

impl From<&Key> for Key {
    fn from(key: &Key) -> Self {
        key.clone()
    }
}

impl From<&str> for Key {
    fn from(text: &str) -> Self {
        if let Ok(point) = text.parse() {
            return Key::Point(point);
        }
        if let Some(point) = text.strip_prefix("avg_").and_then(|point| point.parse().ok()) {
            return Key::Mean(point);
        }
        if let Some(point) = text.strip_suffix(GRADIENTS).and_then(|point| point.parse().ok()) {
            return Key::Gradient(point);
        }
        let part = text.strip_prefix(Site::LastLayernorm.name()).and_then(|rest| rest.strip_prefix('.'));
        match Statistic::ALL.into_iter().find(|statistic| part == Some(statistic.name())) {
            Some(statistic) => Key::Statistic(statistic),
            None => Key::Other(text.to_owned()),
        }
    }
}

impl From<&String> for Key {
    fn from(text: &String) -> Self {
        text.as_str().into()
    }
}

impl From<String> for Key {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}
