//! Transformations of streams before the final norm.

use easyroutine_kernels::Rows;
use easyroutine_sites::{Point, Site};

use super::jacobian::Matrices;
use super::tuned::{Translators, entered};
use super::{LogitLens, Role};
use crate::error::{Error, Result};
use crate::model::Buffer;

/// A transformation of streams before the final norm.
#[derive(Debug)]
pub(super) enum Through {
    Tuned(Translators),
    Jacobian(Matrices),
}

impl LogitLens {
    /// The role of a site for this lens: whatever is transformed is a stream.
    ///
    /// # Errors
    /// If its values are not in the residual stream's basis.
    pub(super) fn role(&self, site: Site) -> Result<Role> {
        let reads = !(self.compressed_experts && site == Site::ExpertOut);
        let role = Role::of(site).filter(|_| reads).ok_or_else(|| {
            let what = format!("`{}` is not written in the residual stream's basis", site.name());
            let why = if reads { "" } else { ": this model's experts write compressed vectors" };
            Error::input(format!("{what}{why}, so no lens reads it"))
        })?;
        Ok(if self.through.is_some() { Role::Stream } else { role })
    }

    /// Refuses a point that the lens does not read, or for which it has no transformation.
    pub(super) fn check(&self, point: Point) -> Result<()> {
        self.role(point.site())?;
        match self.through.as_deref() {
            None => Ok(()),
            Some(Through::Tuned(_)) => entered(point).map(drop),
            Some(Through::Jacobian(matrices)) => matrices.of(point).map(drop),
        }
    }

    /// Vectors as input for the final norm; `None` if they are unchanged.
    ///
    /// # Shapes
    /// `vectors`: N by D; result: N by D.
    ///
    /// # Errors
    /// If the lens has no transformation for the point.
    pub(super) fn translated(&self, point: Point, vectors: Rows<'_>) -> Result<Option<Buffer>> {
        match self.through.as_deref() {
            None => Ok(None),
            Some(Through::Tuned(translators)) => translators.translate(&self.cpu, point, vectors).map(Some),
            Some(Through::Jacobian(matrices)) => matrices.transport(&self.cpu, point, vectors),
        }
    }
}
