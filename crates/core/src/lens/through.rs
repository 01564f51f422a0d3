//! What streams go through before the final norm reads them.

use easyroutine_kernels::Rows;
use easyroutine_sites::{Point, Site};

use super::jacobian::Matrices;
use super::tuned::{Translators, entered};
use super::{LogitLens, Role};
use crate::error::Result;
use crate::model::Buffer;

/// What streams go through first.
#[derive(Debug)]
pub(super) enum Through {
    Tuned(Translators),
    Jacobian(Matrices),
}

impl LogitLens {
    /// What a vector is to this lens: what goes through something first is a stream.
    pub(super) fn role(&self, site: Site) -> Option<Role> {
        let role = Role::of(site);
        if self.through.is_some() { role.and(Some(Role::Stream)) } else { role }
    }

    /// Refuses a point that the lens has nothing for.
    pub(super) fn check(&self, point: Point) -> Result<()> {
        match self.through.as_deref() {
            None => Ok(()),
            Some(Through::Tuned(_)) => entered(point).map(drop),
            Some(Through::Jacobian(matrices)) => matrices.of(point).map(drop),
        }
    }

    /// Vectors as the final norm is to read them; `None` where they stay as they are.
    ///
    /// # Shapes
    /// `vectors`: N by D; result: N by D.
    ///
    /// # Errors
    /// A point that the lens has nothing for.
    pub(super) fn translated(&self, point: Point, vectors: Rows<'_>) -> Result<Option<Buffer>> {
        match self.through.as_deref() {
            None => Ok(None),
            Some(Through::Tuned(translators)) => translators.translate(&self.cpu, point, vectors).map(Some),
            Some(Through::Jacobian(matrices)) => matrices.transport(&self.cpu, point, vectors),
        }
    }
}
