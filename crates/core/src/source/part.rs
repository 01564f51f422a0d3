//! A part of a repository on the hub that is no model, such as a dictionary: the files that its reader names.
//!
//! The same cache, downloads and checks as for models. What is needed is decided by the reader, by the names that the
//! repository has and by the files that came already.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use super::cache::Repository;
use super::environment::Environment;
use super::reference::{self, HubReference};
use super::{ResolveOptions, printable};
use crate::error::{Error, ErrorKind, Result};

/// Where something that is no model lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A file or a folder of this machine.
    Path(PathBuf),
    /// A part of a repository on the hub.
    Hub(HubPart),
}

impl Location {
    /// Reads a path, or `org/name[@revision][:PATH]`. What is here is a path, and so is what can be no repository: a name
    /// without an owner, or one that begins like a path.
    ///
    /// # Errors
    /// Nothing, control characters, an address, a revision or a path that no repository has.
    pub fn parse(text: &str, environment: &Environment) -> Result<Location> {
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err(invalid(format!("`{}` is neither a path nor a place on the hub", printable(text))));
        }
        if text.contains("://") {
            return Err(invalid(format!("`{}` is an address", printable(text)))
                .hint("a place on the hub is `org/name:PATH` or `org/name@REVISION:PATH`"));
        }
        let path = environment.expand_home(text);
        let owned = |id: &str| id.matches('/').count() == 1 && !id.ends_with('/');
        let name = text.split(':').next().unwrap_or_default();
        let is_path = text.starts_with(['.', '/', '~'])
            || text.contains('\\')
            || !owned(name.split('@').next().unwrap_or_default())
            || path.symlink_metadata().is_ok();
        if is_path { Ok(Location::Path(path)) } else { HubPart::parse(text).map(Location::Hub) }
    }
}

/// A file or a folder of a repository on the hub; an empty path is all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubPart {
    repository: HubReference,
    path: String,
}

/// The files of one commit in the cache: perhaps not all that the hub has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The folder that stands for the repository.
    pub folder: PathBuf,
    /// The commit.
    pub commit: String,
}

/// Which files are needed: of the names of all files, and the folder of those that came already. It is asked until it names
/// none that is missing.
pub type Choose<'a> = &'a dyn Fn(&BTreeSet<String>, &Path) -> Result<Vec<String>>;

impl HubPart {
    /// Reads `org/name[@revision][:PATH]`.
    ///
    /// # Errors
    /// A name, a revision or a path that no repository has.
    pub fn parse(text: &str) -> Result<HubPart> {
        let (name, path) = text.split_once(':').unwrap_or((text, ""));
        let path = path.strip_suffix('/').unwrap_or(path);
        if !path.is_empty() && !reference::is_safe_name(path) {
            return Err(invalid(format!("`{}` names no file or folder of a repository", printable(text)))
                .hint("after `:` goes a path in the repository, as in `org/name:layer_12/width_16k`"));
        }
        Ok(HubPart { repository: reference::parse_hub(name, None)?, path: path.to_owned() })
    }

    /// `org/name`.
    pub fn id(&self) -> &str {
        &self.repository.id
    }

    /// Branch, tag or commit.
    pub fn revision(&self) -> &str {
        &self.repository.revision
    }

    /// The file or folder in the repository; empty for all of it.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What the cache has of the repository, without any request.
    pub fn cached(&self, environment: &Environment) -> Option<Snapshot> {
        let repository = Repository::new(&environment.hub_cache, &self.repository.id);
        let commit = repository.commit(&self.repository.revision)?;
        let folder = repository.snapshot(&commit);
        folder.is_dir().then_some(Snapshot { folder, commit })
    }

    /// Brings the files that are chosen into the cache, those that are not there.
    ///
    /// # Errors
    /// Those of `choose`; a file that the repository lacks; downloads are off; as [`super::resolve_in`] for the hub.
    pub fn fetch(
        &self,
        choose: Choose<'_>,
        options: &ResolveOptions,
        environment: &Environment,
    ) -> Result<Snapshot> {
        if options.offline || environment.offline || cfg!(not(feature = "hub")) {
            return Err(self.not_cached(options, environment));
        }
        self.download(choose, options, environment)
    }

    #[cfg(feature = "hub")]
    fn download(
        &self,
        choose: Choose<'_>,
        options: &ResolveOptions,
        environment: &Environment,
    ) -> Result<Snapshot> {
        let repository = Repository::new(&environment.hub_cache, &self.repository.id);
        let commit =
            super::hub::download_chosen(&repository, &self.repository, choose, options, environment)?;
        Ok(Snapshot { folder: repository.snapshot(&commit), commit })
    }

    #[cfg(not(feature = "hub"))]
    fn download(
        &self,
        _: Choose<'_>,
        options: &ResolveOptions,
        environment: &Environment,
    ) -> Result<Snapshot> {
        Err(self.not_cached(options, environment))
    }

    /// Why it cannot be used without the network.
    fn not_cached(&self, options: &ResolveOptions, environment: &Environment) -> Error {
        let HubReference { id, revision, .. } = &self.repository;
        let what = match self.path.as_str() {
            "" => format!("`{id}`"),
            path => format!("`{}` of `{id}`", printable(path)),
        };
        let cause = super::why_offline(options, environment);
        let place = environment.hub_cache.display();
        Error::new(
            ErrorKind::Offline,
            format!("{what} at `{revision}` is not whole in the cache {place}, and {cause}"),
        )
        .hint(format!("go online once, or run `hf download {id}` where there is a network"))
    }
}

impl fmt::Display for HubPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.repository.id)?;
        if self.repository.revision != reference::DEFAULT_REVISION {
            write!(f, "@{}", self.repository.revision)?;
        }
        if self.path.is_empty() { Ok(()) } else { write!(f, ":{}", self.path) }
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidReference, message)
}
