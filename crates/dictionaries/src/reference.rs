//! From what a user calls a dictionary to one that is open: a path, or a place on the hub.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use easyroutine::source::{Environment, HubPart, Location, ResolveOptions, Snapshot};
use easyroutine::{Error, ErrorKind, Result};

use crate::dictionary::{Dictionary, Options};
use crate::formats::{self, Elsewhere};

impl Dictionary {
    /// Opens a path, or `org/name[@revision][:PATH]` on the Hugging Face hub: the folder of a dictionary in the repository, or
    /// a file of it. Only the files that belong to it are downloaded, into the cache that models use, checked as models are.
    /// What is whole in the cache needs no request.
    ///
    /// # Errors
    /// Those of [`Dictionary::open`]; nothing, or several dictionaries, at the path; `Offline` where it is not whole in the
    /// cache and nothing is downloaded; the hub's as of [`easyroutine::source::resolve_in`].
    pub fn open_reference(
        reference: &str,
        options: &Options,
        finding: &ResolveOptions,
        environment: &Environment,
    ) -> Result<Dictionary> {
        match Location::parse(reference, environment)? {
            Location::Path(path) => {
                let elsewhere = elsewhere(&path, finding, environment)?;
                formats::open(&path, options, &elsewhere)
            }
            Location::Hub(part) => of_hub(&part, options, finding, environment).map_err(|error| match error.kind() {
                ErrorKind::NotFound | ErrorKind::Offline if part.path().is_empty() => error.at(format_args!(
                    "there is no file or folder `{reference}` here, so it was taken for a repository on the hub"
                )),
                // It names the place itself.
                ErrorKind::Offline => error,
                _ => error.at(&part),
            }),
        }
    }
}

fn of_hub(
    part: &HubPart,
    options: &Options,
    finding: &ResolveOptions,
    environment: &Environment,
) -> Result<Dictionary> {
    let open = |snapshot: &Snapshot| {
        let path = snapshot.folder.join(part.path());
        let elsewhere = elsewhere(&path, finding, environment)?;
        let dictionary = formats::open(&path, options, &elsewhere)?;
        Ok(dictionary.of_commit(&snapshot.commit))
    };
    let offline = finding.offline || environment.offline;
    // A folder above may hold more on the hub than here, so it is asked for.
    let is_here = |snapshot: &Snapshot| formats::is_own_place(&snapshot.folder.join(part.path()));
    let mut refused: Option<Error> = None;
    if let Some(snapshot) = part.cached(environment).filter(is_here) {
        match open(&snapshot) {
            Err(error) if !offline => refused = Some(error),
            opened => return opened,
        }
    }
    let choose = |names: &_, snapshot: &Path| formats::needed(names, part.path(), snapshot);
    match (part.fetch(&choose, finding, environment), refused) {
        (Ok(snapshot), _) => open(&snapshot),
        // What is here is wrong, and the hub cannot mend it.
        (Err(error), Some(refused)) if error.kind() == ErrorKind::Network => Err(refused),
        (Err(error), _) => Err(error),
    }
}

/// The files that a configuration names by addresses on the hub, brought to this machine.
fn elsewhere(path: &Path, finding: &ResolveOptions, environment: &Environment) -> Result<Elsewhere> {
    let folder = if path.is_file() { path.parent().unwrap_or(path) } else { path };
    // By repository and revision: one list of files each.
    let mut wanted: BTreeMap<(String, String), Vec<(String, HubPart)>> = BTreeMap::new();
    for (address, part) in formats::addresses(folder) {
        let of = (part.id().to_owned(), part.revision().to_owned());
        wanted.entry(of).or_default().push((address, part));
    }
    let mut found = Elsewhere::new();
    for parts in wanted.values() {
        let files = || parts.iter().map(|(_, part)| part.path().to_owned());
        let is_whole = |snapshot: &Snapshot| files().all(|file| snapshot.folder.join(file).is_file());
        let Some((_, first)) = parts.first() else { continue };
        let snapshot = match first.cached(environment).filter(is_whole) {
            Some(snapshot) => snapshot,
            None => first
                .fetch(&|_, _| Ok(files().collect()), finding, environment)
                .map_err(|e| e.at("config.yaml"))?,
        };
        let at = |(address, part): &(String, HubPart)| -> (String, PathBuf) {
            (address.clone(), snapshot.folder.join(part.path()))
        };
        found.extend(parts.iter().map(at));
    }
    Ok(found)
}
