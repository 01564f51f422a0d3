//! The database: one row per run, columns for what queries look for, shared values stored once.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use rusqlite::types::Value as Sql;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params, params_from_iter};
use serde_json::Value as Json;

use super::unusable;
use crate::error::Result;
use crate::metadata::Metadata;
use crate::query::Criteria;

/// Changes whenever the tables change: an older database is discarded.
const VERSION: i64 = 1;

const TABLES: &str = "
    CREATE TABLE folders (path TEXT PRIMARY KEY, modified TEXT) WITHOUT ROWID;
    CREATE TABLE texts (id INTEGER PRIMARY KEY, text TEXT UNIQUE);
    CREATE TABLE runs (
        id INTEGER PRIMARY KEY, path TEXT UNIQUE, folder TEXT, experiment TEXT, model TEXT, save_time TEXT,
        config INTEGER, positions INTEGER, interventions INTEGER, size INTEGER, modified INTEGER, rest TEXT);
    CREATE INDEX runs_folder ON runs (folder);
    CREATE INDEX runs_model ON runs (model);
    CREATE INDEX runs_time ON runs (save_time);
    CREATE TABLE tags (tag TEXT, run INTEGER, PRIMARY KEY (tag, run)) WITHOUT ROWID;
    CREATE INDEX tags_run ON tags (run);
    CREATE TABLE facts (name TEXT, value TEXT, run INTEGER, PRIMARY KEY (name, value, run)) WITHOUT ROWID;
    CREATE INDEX facts_run ON facts (run);
";

/// Record keys whose values many runs share.
const SHARED: [&str; 3] = ["extraction_config", "target_token_positions", "interventions"];

/// Shows whether a file has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) size: i64,
    pub(super) modified: i64,
}

impl Stamp {
    pub(super) const UNKNOWN: Stamp = Stamp { size: -1, modified: 0 };
}

pub(super) struct Table {
    connection: Connection,
    texts: HashMap<String, i64>,
}

impl Table {
    pub(super) fn open(file: &Path) -> Result<Self> {
        let open = || -> rusqlite::Result<Connection> {
            // It may be a link, which is not followed.
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
                | OpenFlags::SQLITE_OPEN_CREATE
                | OpenFlags::SQLITE_OPEN_NO_MUTEX
                | OpenFlags::SQLITE_OPEN_NOFOLLOW;
            let connection = Connection::open_with_flags(file, flags)?;
            // A checksum reveals a torn database, which is then rebuilt: it needs no journal and no sync.
            connection.execute_batch(
                "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE;",
            )?;
            let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
            if version == 0 {
                connection.execute_batch(TABLES)?;
                connection.pragma_update(None, "user_version", VERSION)?;
            }
            connection.execute_batch("BEGIN")?;
            Ok(connection)
        };
        let connection = open().map_err(unusable)?;
        let version: i64 =
            connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(unusable)?;
        if version != VERSION {
            return Err(unusable(format!("it is of version {version}")));
        }
        Ok(Table { connection, texts: HashMap::new() })
    }

    /// Whether a folder is unchanged since it was read.
    pub(super) fn is_fresh(&self, folder: &str, modified: i128) -> Result<bool> {
        let sql = "SELECT 1 FROM folders WHERE path = ? AND modified = ?";
        let found =
            self.connection.query_row(sql, params![folder, modified.to_string()], |_| Ok(())).optional();
        Ok(found.map_err(unusable)?.is_some())
    }

    pub(super) fn set_folder(&self, folder: &str, modified: Option<i128>) -> Result<()> {
        let sql = "INSERT OR REPLACE INTO folders VALUES (?, ?)";
        let modified = modified.map(|modified| modified.to_string());
        self.connection.execute(sql, params![folder, modified]).map(|_| ()).map_err(unusable)
    }

    /// Removes folders, of the experiment or of all, that no longer exist.
    pub(super) fn forget_others(&self, experiment: Option<&str>, folders: &[String]) -> Result<bool> {
        let list = || -> rusqlite::Result<Vec<String>> {
            let mut found = self.connection.prepare("SELECT path FROM folders")?;
            found.query_map([], |row| row.get(0))?.collect()
        };
        let in_scope = |path: &String| experiment.is_none_or(|name| path.split('/').next() == Some(name));
        let gone: Vec<String> = list()
            .map_err(unusable)?
            .into_iter()
            .filter(|path| in_scope(path) && !folders.contains(path))
            .collect();
        for folder in &gone {
            self.keep(folder, &[])?;
            self.connection.execute("DELETE FROM folders WHERE path = ?", [folder]).map_err(unusable)?;
        }
        Ok(!gone.is_empty())
    }

    /// The known stamps of a folder's runs.
    pub(super) fn stamps(&self, folder: &str) -> Result<BTreeMap<String, Stamp>> {
        let read = || -> rusqlite::Result<BTreeMap<String, Stamp>> {
            let mut found =
                self.connection.prepare("SELECT path, size, modified FROM runs WHERE folder = ?")?;
            found
                .query_map([folder], |row| {
                    Ok((row.get(0)?, Stamp { size: row.get(1)?, modified: row.get(2)? }))
                })?
                .collect()
        };
        read().map_err(unusable)
    }

    pub(super) fn put(&mut self, path: &str, folder: &str, stamp: Stamp, metadata: &Metadata) -> Result<()> {
        self.drop_run(path)?;
        let mut rest = metadata.fields().clone();
        if let Some(store) = rest.get_mut("_store").and_then(Json::as_object_mut) {
            store.shift_remove("manifest");
        }
        let mut shared = [0; 3];
        for (id, key) in shared.iter_mut().zip(SHARED) {
            *id = self.text(&rest.shift_remove(key).unwrap_or_default().to_string())?;
        }
        let experiment = path.split('/').next().unwrap_or_default();
        let write = || -> rusqlite::Result<()> {
            let sql = "INSERT INTO runs (path, folder, experiment, model, save_time, config, positions, interventions,
                size, modified, rest) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
            let (model, time, rest) =
                (metadata.model_name(), metadata.save_time(), Json::Object(rest.clone()).to_string());
            let values = params![
                path,
                folder,
                experiment,
                model,
                time,
                shared[0],
                shared[1],
                shared[2],
                stamp.size,
                stamp.modified,
                rest
            ];
            self.connection.prepare_cached(sql)?.execute(values)?;
            let id = self.connection.last_insert_rowid();
            let mut tags = self.connection.prepare_cached("INSERT OR IGNORE INTO tags VALUES (?, ?)")?;
            for tag in metadata.tags() {
                tags.execute(params![tag, id])?;
            }
            let mut facts = self.connection.prepare_cached("INSERT OR IGNORE INTO facts VALUES (?, ?, ?)")?;
            for (name, value) in metadata.user() {
                if let Some(value) = plain(value) {
                    facts.execute(params![name, value, id])?;
                }
            }
            Ok(())
        };
        write().map_err(unusable)
    }

    /// Removes the runs of a folder that are not in `paths`.
    pub(super) fn keep(&self, folder: &str, paths: &[String]) -> Result<()> {
        let kept: std::collections::BTreeSet<&str> = paths.iter().map(String::as_str).collect();
        for path in self.stamps(folder)?.keys().filter(|path| !kept.contains(path.as_str())) {
            self.drop_run(path)?;
        }
        Ok(())
    }

    /// Paths of runs that may meet the criteria, as far as the table knows.
    pub(super) fn candidates(
        &self,
        experiment: Option<&str>,
        criteria: &Criteria<'_>,
    ) -> Result<Vec<String>> {
        let mut sql = "SELECT path, rest, config, positions, interventions FROM runs WHERE 1".to_owned();
        let mut values: Vec<Sql> = Vec::new();
        let mut and = |part: &str, value: &[&str]| {
            sql.push_str(part);
            values.extend(value.iter().map(|text| Sql::Text((*text).to_owned())));
        };
        let query = criteria.query();
        for (column, wanted) in [("experiment", experiment), ("save_time", query.save_time.as_deref())] {
            if let Some(wanted) = wanted {
                and(&format!(" AND {column} = ?"), &[wanted]);
            }
        }
        let names = query.model_names();
        if !names.is_empty() {
            and(&format!(" AND model IN ({})", vec!["?"; names.len()].join(", ")), &names);
        }
        for tag in &query.tags {
            and(" AND id IN (SELECT run FROM tags WHERE tag = ?)", &[tag]);
        }
        for (name, value) in &query.custom_keys {
            if let Some(value) = plain(value) {
                and(" AND id IN (SELECT run FROM facts WHERE name = ? AND value = ?)", &[name, &value]);
            }
        }
        let texts = self.all_texts()?;
        let fitting = |holds: &dyn Fn(Option<&Json>) -> bool| -> Vec<i64> {
            texts.iter().filter(|(_, value)| holds(Some(value))).map(|(id, _)| *id).collect()
        };
        let shared = [
            fitting(&|value| criteria.config_holds(value)),
            fitting(&|value| criteria.positions_hold(value)),
            fitting(&|value| criteria.interventions_hold(value)),
        ];
        let read = || -> rusqlite::Result<Vec<String>> {
            let mut found = self.connection.prepare(&sql)?;
            let mut rows = found.query(params_from_iter(&values))?;
            let mut paths = Vec::new();
            while let Some(row) = rows.next()? {
                let ids: [i64; 3] = [row.get(2)?, row.get(3)?, row.get(4)?];
                if !ids.iter().zip(&shared).all(|(id, fitting)| fitting.binary_search(id).is_ok()) {
                    continue;
                }
                let holds = query.condition.as_ref().is_none_or(|condition| {
                    let rest = row.get_ref(1).ok().and_then(|rest| rest.as_str().ok());
                    // The file decides what the table cannot.
                    metadata(rest.unwrap_or_default(), ids, &texts).is_none_or(|m| condition.may_hold(&m))
                });
                if holds {
                    paths.push(row.get(0)?);
                }
            }
            Ok(paths)
        };
        read().map_err(unusable)
    }

    fn drop_run(&self, path: &str) -> Result<()> {
        let drop = || -> rusqlite::Result<()> {
            let id: Option<i64> = self
                .connection
                .prepare_cached("SELECT id FROM runs WHERE path = ?")?
                .query_row([path], |row| row.get(0))
                .optional()?;
            let Some(id) = id else { return Ok(()) };
            for sql in [
                "DELETE FROM tags WHERE run = ?",
                "DELETE FROM facts WHERE run = ?",
                "DELETE FROM runs WHERE id = ?",
            ] {
                self.connection.prepare_cached(sql)?.execute([id])?;
            }
            Ok(())
        };
        drop().map_err(unusable)
    }

    /// The id of a shared string.
    fn text(&mut self, text: &str) -> Result<i64> {
        if let Some(id) = self.texts.get(text) {
            return Ok(*id);
        }
        let find = || -> rusqlite::Result<i64> {
            self.connection.execute("INSERT OR IGNORE INTO texts (text) VALUES (?)", [text])?;
            self.connection.query_row("SELECT id FROM texts WHERE text = ?", [text], |row| row.get(0))
        };
        let id = find().map_err(unusable)?;
        self.texts.insert(text.to_owned(), id);
        Ok(id)
    }

    /// Every shared string with its id, ascending.
    fn all_texts(&self) -> Result<Vec<(i64, Json)>> {
        let read = || -> rusqlite::Result<Vec<(i64, String)>> {
            let mut found = self.connection.prepare("SELECT id, text FROM texts ORDER BY id")?;
            found.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        };
        let texts = read().map_err(unusable)?;
        texts.into_iter().map(|(id, text)| Ok((id, serde_json::from_str(&text).map_err(unusable)?))).collect()
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // A failed commit leaves a database whose checksum does not match.
        let _ = self.connection.execute_batch("COMMIT");
    }
}

fn metadata(rest: &str, ids: [i64; 3], texts: &[(i64, Json)]) -> Option<Metadata> {
    let Ok(Json::Object(mut fields)) = serde_json::from_str(rest) else { return None };
    for (key, id) in SHARED.iter().zip(ids) {
        let at = texts.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        fields.insert((*key).to_owned(), texts[at].1.clone());
    }
    Some(Metadata::new(fields))
}

/// A value for comparison by equality, in one spelling: `1.0` is `1`.
fn plain(value: &Json) -> Option<String> {
    match value {
        Json::Array(_) | Json::Object(_) => None,
        Json::Number(number) => Some(match number.as_i128() {
            Some(whole) => whole.to_string(),
            None => {
                let number = number.as_f64()?;
                if number.fract() == 0.0 && number.abs() < 1e18 {
                    (number as i128).to_string()
                } else {
                    number.to_string()
                }
            }
        }),
        other => Some(other.to_string()),
    }
}
