//! One file a command.

pub(crate) mod attn;
pub(crate) mod attribute;
pub(crate) mod check;
pub(crate) mod dict;
pub(crate) mod dict_page;
pub(crate) mod dla;
pub(crate) mod edges;
pub(crate) mod env;
pub(crate) mod export;
pub(crate) mod extract;
pub(crate) mod features;
pub(crate) mod generate;
pub(crate) mod grad;
pub(crate) mod graph;
pub(crate) mod info;
pub(crate) mod jacobian;
pub(crate) mod lens;
pub(crate) mod ls;
pub(crate) mod run;
pub(crate) mod runs;
pub(crate) mod saved;
pub(crate) mod shell;
pub(crate) mod show;
pub(crate) mod sweep;
pub(crate) mod tokens;
pub(crate) mod tune;
