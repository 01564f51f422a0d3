//! `serve`: a page in the browser, on this machine only.
//!
//! The page sends command lines. Each is parsed and run as if typed, with the model that is already loaded. So the page
//! shows what the command writes, and can name that command.

mod asked;
mod desk;
mod python;
mod python_runs;
mod words;

use std::io::Write;

use easyroutine_serve::{Options, Page, Server, Token};
use easyroutine_view::app;

use crate::args::{Args, Format, Serve};
use crate::failure::Failure;
use desk::Desk;

pub(crate) fn run(args: &Args, serve: &Serve) -> Result<(), Failure> {
    if args.format != Format::Auto || !args.output.is_empty() {
        return Err(Failure::usage("serve writes nothing: leave --format and -o out")
            .hint("the page has buttons that save what it shows"));
    }
    if let Some(missing) = serve.features.iter().find(|path| !path.exists()) {
        return Err(Failure::usage(format!("--features: there is no {}", missing.display()))
            .hint("`easyroutine features -o FOLDER` writes one"));
    }
    let token = match &serve.token {
        Some(text) => Token::new(text).map_err(|e| Failure::usage(format!("--token: {e}")))?,
        None => Token::random().map_err(|e| Failure::failed(e.to_string()))?,
    };
    let port = serve.port.unwrap_or(0);
    let server = Server::bind(Options { port, token, framed_by: serve.framed_by.clone() });
    let server = server.map_err(|error| {
        let failure = Failure::failed(error.to_string());
        match error.error.kind() {
            std::io::ErrorKind::AddrInUse => failure.hint("name another, or leave --port out for a free one"),
            _ => failure,
        }
    })?;
    // Scripts read the address here. Ctrl-C ends the program at once, since there is nothing to save.
    let mut out = std::io::stdout().lock();
    let written = writeln!(out, "{}", server.address()).and_then(|()| out.flush());
    drop(out);
    written.map_err(|e| Failure::failed(format!("standard output: {e}")))?;
    let first = desk::First {
        model: serve.model.clone(),
        loading: serve.loading.clone(),
        base: serve.base.clone(),
        features: serve.features.clone(),
    };
    server
        .run(PAGES, move |doing| {
            let mut desk = Desk::open(first, doing);
            move |question, reply: &_| desk.answer(&question, reply)
        })
        .map_err(|e| Failure::failed(format!("the server stopped: {e}")))
}

/// The files of the page, with their media types.
const PAGES: &[Page] = &{
    let mut pages = [Page { path: "", media_type: "", content: "" }; app::FILES.len()];
    let mut at = 0;
    while at < pages.len() {
        let app::File { path, media_type, content } = app::FILES[at];
        pages[at] = Page { path, media_type, content };
        at += 1;
    }
    pages
};
