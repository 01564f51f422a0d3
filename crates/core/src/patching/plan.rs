//! The cells of a sweep, checked against model and row.

use std::collections::{BTreeMap, BTreeSet};

use easyroutine_sites::{Access, Point, Scope, Site};

use super::experts;
use super::values::Values;
use super::{Along, By, Grid, Metric, Sweep};
use crate::error::{Error, Result};
use crate::model::Model;

/// The cells of a sweep.
pub(crate) struct Plan {
    /// The layer of each row of the grid.
    layers: Vec<usize>,
    pub(crate) labels: Vec<String>,
    /// Layers by columns, row by row.
    pub(crate) cells: Vec<Planned>,
    is_of_experts: bool,
}

/// The change of one cell.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) point: Point,
    /// Ascending; of an expert those whose tokens go through it, of a site that the layer lacks none.
    pub(crate) positions: Vec<usize>,
    /// Whether the layer has the site.
    is_there: bool,
}

impl Planned {
    /// Whether anything changes: nothing does at an expert that no token goes through, nor at a site that is not there.
    pub(crate) fn changes(&self) -> bool {
        !self.positions.is_empty()
    }
}

impl Plan {
    pub(crate) fn new(model: &Model, row: &[u32], sweep: &Sweep) -> Result<Self> {
        model.unembedding()?;
        let layers = sweep.along.layers(model, &sweep.layers)?;
        let columns = sweep.along.columns(model, &layers, row.len())?;
        let is_of_experts = matches!(sweep.along, Along::Experts { .. });
        let routes = if is_of_experts { experts::routes(model, row, &layers)? } else { BTreeMap::new() };
        let mut cells = Vec::with_capacity(layers.len() * columns.len());
        for layer in &layers {
            for column in &columns {
                let point = column.point(*layer);
                if sweep.along.may_lack(model, point) {
                    cells.push(Planned { point, positions: Vec::new(), is_there: false });
                    continue;
                }
                model.arch().check_point(point)?;
                let mut positions = column.positions.clone();
                if is_of_experts {
                    let through = routes.get(&point).map_or(&[][..], Vec::as_slice);
                    positions.retain(|position| through.binary_search(position).is_ok());
                }
                cells.push(Planned { point, positions, is_there: true });
            }
        }
        let labels = columns.into_iter().map(|column| column.label).collect();
        Ok(Plan { layers, labels, cells, is_of_experts })
    }

    /// The cells that change anything.
    pub(crate) fn changing(&self) -> impl Iterator<Item = usize> {
        (0..self.cells.len()).filter(|cell| self.cells[*cell].changes())
    }

    /// What is put at these points, which are those of cells or lead up to them; `None` for zeros.
    pub(crate) fn values(
        &self,
        model: &Model,
        row: &[u32],
        by: &By,
        points: BTreeSet<Point>,
    ) -> Result<Option<Values>> {
        by.check_lengths(row)?;
        if !self.is_of_experts {
            return by.values(model, row, points);
        }
        let wanted = self.cells.iter().filter(|cell| points.contains(&cell.point));
        experts::values(model, by, wanted.map(|cell| (cell.point, cell.positions.as_slice())).collect())
    }

    /// The grid of a number for each cell.
    pub(crate) fn grid(self, values: Vec<f64>, unchanged: f64, base: Option<f64>, metric: Metric) -> Grid {
        let n_columns = self.labels.len();
        let rows = || self.cells.chunks(n_columns);
        let counts = |row: &[Planned]| row.iter().map(|cell| cell.positions.len()).collect();
        let name = |cell: &Planned| if cell.is_there { cell.point.to_string() } else { String::new() };
        let values: Vec<f64> =
            self.cells.iter().zip(values).map(|(cell, x)| if cell.is_there { x } else { f64::NAN }).collect();
        Grid {
            features: Vec::new(),
            routed: if self.is_of_experts { rows().map(counts).collect() } else { Vec::new() },
            activations: rows().map(|row| row.iter().map(name).collect()).collect(),
            values: values.chunks(n_columns).map(<[f64]>::to_vec).collect(),
            layers: self.layers,
            columns: self.labels,
            unchanged,
            base,
            metric,
        }
    }
}

/// A column of a grid.
struct Column {
    site: Site,
    of: Of,
    /// Ascending.
    positions: Vec<usize>,
    label: String,
}

/// The part of a layer that a column changes.
#[derive(Clone, Copy)]
enum Of {
    Layer,
    Head(usize),
    Expert(usize),
}

impl Column {
    fn point(&self, layer: usize) -> Point {
        match self.of {
            Of::Layer => Point::layer_of(self.site, layer),
            Of::Head(head) => Point::head_of(self.site, layer, head),
            Of::Expert(expert) => Point::expert_of(self.site, layer, expert),
        }
    }
}

impl Along {
    /// The sites whose columns show what each layer adds: attention, recurrence and MLP, as far as the model has them.
    pub fn parts(model: &Model) -> Vec<Site> {
        let arch = model.arch();
        let has = |site: &Site| (0..arch.layers.len()).any(|layer| arch.has(*site, layer));
        [Site::AttnOut, Site::MixerOut, Site::MlpOut].into_iter().filter(has).collect()
    }

    /// The sites of its columns.
    pub fn sites(&self) -> &[Site] {
        match self {
            Along::Positions { site, .. } | Along::Heads { site, .. } => std::slice::from_ref(site),
            Along::Sites { sites, .. } => sites,
            Along::Experts { .. } => &[Site::ExpertOut],
        }
    }

    /// The positions that it names.
    pub fn positions(&self) -> &[usize] {
        let (Along::Positions { positions, .. }
        | Along::Heads { positions, .. }
        | Along::Sites { positions, .. }
        | Along::Experts { positions, .. }) = self;
        positions
    }

    /// Whether a cell is left empty because its layer lacks the site and has another of these.
    fn may_lack(&self, model: &Model, point: Point) -> bool {
        matches!(self, Along::Sites { .. }) && model.arch().lacks(point).is_some()
    }

    /// The rows of the grid: the layers that have any of the sites.
    fn layers(&self, model: &Model, asked: &[usize]) -> Result<Vec<usize>> {
        let arch = model.arch();
        if let Some(layer) = asked.iter().find(|layer| **layer >= arch.layers.len()) {
            let last = arch.layers.len() - 1;
            return Err(Error::input(format!("no layer {layer}; the model has 0 to {last}")));
        }
        let Some(first) = asked.first() else { return Err(Error::input("no layers to sweep over")) };
        let sites = self.sites();
        let has = |layer: &usize| sites.iter().any(|site| arch.has(*site, *layer));
        let with: Vec<usize> = asked.iter().copied().filter(has).collect();
        if !with.is_empty() {
            return Ok(with);
        }
        let others: Vec<String> = (0..arch.layers.len()).filter(has).map(|layer| layer.to_string()).collect();
        let of_experts = matches!(self, Along::Experts { .. });
        let named: Vec<String> = sites.iter().map(|site| format!("`{}`", site.name())).collect();
        let names = if of_experts { "experts".to_owned() } else { named.join(" or ") };
        if !others.is_empty() {
            return Err(Error::input(format!("none of these layers has {names}"))
                .hint(format!("layers with {names}: {}", others.join(", "))));
        }
        if of_experts {
            return Err(
                Error::input("this model has no experts").hint("sweep along positions, heads or sites")
            );
        }
        // What a layer says of a site that it lacks holds for all of them.
        let why = sites.first().and_then(|site| arch.points_of(*site, *first).err());
        Err(why.unwrap_or_else(|| Error::input(format!("no layer of this model has {names}"))))
    }

    fn columns(&self, model: &Model, layers: &[usize], length: usize) -> Result<Vec<Column>> {
        let mut positions = self.positions().to_vec();
        positions.sort_unstable();
        positions.dedup();
        let column =
            |site, of, positions: &[usize], label| Column { site, of, positions: positions.to_vec(), label };
        let columns: Vec<Column> = match self {
            Along::Positions { site, .. } => {
                check_site(*site, Scope::Layer)?;
                positions.iter().map(|p| column(*site, Of::Layer, &[*p], format!("position {p}"))).collect()
            }
            Along::Heads { site, .. } => {
                check_site(*site, Scope::Head)?;
                let heads = 0..model.arch().n_heads;
                heads.map(|head| column(*site, Of::Head(head), &positions, format!("head {head}"))).collect()
            }
            Along::Sites { sites, .. } => sites
                .iter()
                .map(|site| {
                    let label = site.name().to_owned();
                    Ok(column(check_site(*site, Scope::Layer)?, Of::Layer, &positions, label))
                })
                .collect::<Result<_>>()?,
            Along::Experts { experts, .. } => {
                let count = layers.iter().filter_map(|layer| model.arch().layers[*layer].experts()).max();
                let mut numbers = experts.clone().unwrap_or_else(|| (0..count.unwrap_or(0)).collect());
                let mut seen = BTreeSet::new();
                numbers.retain(|number| seen.insert(*number));
                numbers
                    .into_iter()
                    .map(|n| column(Site::ExpertOut, Of::Expert(n), &positions, format!("expert {n}")))
                    .collect()
            }
        };
        if let Some(position) = positions.iter().find(|p| **p >= length) {
            return Err(Error::input(format!(
                "position {position} is outside the row, which has {length} tokens"
            )));
        }
        if columns.is_empty() || positions.is_empty() {
            let what = "a sweep changes something: it needs positions, and heads, sites or experts";
            return Err(Error::input(what));
        }
        Ok(columns)
    }
}

/// Checks that a site has this scope and vectors that can be changed.
fn check_site(site: Site, scope: Scope) -> Result<Site> {
    let is_column = |site: &Site| {
        let is_whole_vector = site.access() == Access::Changes && !site.is_pairwise();
        is_whole_vector
            && site.canonical() == *site
            && match scope {
                Scope::Head => site.scope() == Scope::Head,
                _ => matches!(site.scope(), Scope::Layer | Scope::LetteredLayer),
            }
    };
    if is_column(&site) {
        return Ok(site);
    }
    let what = if scope == Scope::Head { "heads" } else { "positions or sites" };
    let names: Vec<&str> = Site::ALL.iter().filter(|site| is_column(site)).map(|site| site.name()).collect();
    Err(Error::input(format!("`{}` is not a column of a grid along {what}", site.name()))
        .hint(format!("what can be: {}", names.join(", "))))
}
