//! Which stored tensors serve as embedding and unembedding.

use crate::arch::{Arch, UnembedMatrix};
use crate::error::{Error, ErrorKind, Result};
use crate::names::Names;
use crate::weights::{Checkpoint, Loader};

/// A module's name, from its weight's.
pub(super) fn module_of(weight: &str) -> &str {
    weight.strip_suffix(".weight").unwrap_or(weight)
}

/// Which stored tensors serve as embedding and unembedding: prefix and name.
pub(super) struct Tables {
    pub(super) embed: (&'static str, String),
    pub(super) unembed: (&'static str, String),
    /// Whether one matrix serves as both.
    pub(super) is_one: bool,
    /// A warning if the config and the files disagree.
    pub(super) warning: Option<String>,
}

/// Finds the tables. A tied pair may be stored under either name. If the config ties them but the file holds two that
/// differ, both are used, as in transformers (`modeling_utils.py`, `tie_weights`).
pub(super) fn tables(loader: &Loader<'_>, arch: &Arch) -> Result<Tables> {
    let Loader { checkpoint, names, .. } = loader;
    let [embed, own] = [names.embed, names.unembed].map(|module| format!("{module}.weight"));
    let (embed, own) = ((names.prefix, embed), ("", own));
    let has = |(prefix, name): &(&str, String)| checkpoint.has(prefix, name);
    let tables = |embed: &(_, String), unembed: &(_, String)| Tables {
        is_one: embed == unembed
            && !checkpoint.has_update(names.prefix, names.embed)
            && !checkpoint.has_update("", names.unembed),
        embed: embed.clone(),
        unembed: unembed.clone(),
        warning: None,
    };
    if let Some(reason) = arch.lacks_unembedding() {
        let mut found = tables(&embed, &own);
        if has(&own) {
            checkpoint.pass_over(own.0, &own.1);
            checkpoint.pass_over(own.0, &format!("{}.bias", names.unembed));
            found.warning = Some(format!(
                "`{}` is skipped: {reason}; if it should have one, name a class that ends in ForCausalLM in \
                 `architectures`",
                own.1
            ));
        }
        return Ok(found);
    }
    if arch.unembed.matrix == UnembedMatrix::Own {
        return Ok(tables(&embed, &own));
    }
    if !has(&own) {
        if checkpoint.is_replaced(embed.0, &embed.1) {
            let message =
                format!("the adapter replaces only `{}`, of a pair that the model ties", names.embed);
            return Err(Error::new(ErrorKind::Unsupported, message)
                .hint("an adapter that replaces the unembedding too says what both are"));
        }
        return Ok(tables(&embed, &embed));
    }
    if !has(&embed) {
        return Ok(tables(&own, &own));
    }
    let shape = [arch.vocabulary, arch.embed.width];
    let [Some(copy), Some(one)] =
        [checkpoint.tensor(own.0, &own.1, &shape)?, checkpoint.tensor(embed.0, &embed.1, &shape)?]
    else {
        return Ok(tables(&embed, &own));
    };
    if copy.same_as(&one) {
        checkpoint.pass_over(own.0, &own.1);
        return Ok(tables(&embed, &embed));
    }
    let warning = format!(
        "config.json ties `{0}` to the embedding, but the file holds a different matrix of that name: both are used as \
         they are stored, as transformers does",
        names.unembed
    );
    Ok(Tables { warning: Some(warning), ..tables(&embed, &own) })
}

/// Adds a hint if the unembedding is among the missing tensors.
pub(super) fn with_hint(error: Error, arch: &Arch, names: &Names, checkpoint: &Checkpoint) -> Error {
    let needs_own = arch.lacks_unembedding().is_none() && arch.unembed.matrix == UnembedMatrix::Own;
    if !needs_own || checkpoint.has("", &format!("{}.weight", names.unembed)) {
        return error;
    }
    error.hint(
        "config.json does not tie the unembedding to the embedding: where the model was trained so, it should say \
         `\"tie_word_embeddings\": true`; where it has no unembedding at all, `architectures` should name its class",
    )
}
