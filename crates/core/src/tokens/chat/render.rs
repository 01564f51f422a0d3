//! One bounded rendering: whatever a template says, it ends and uses little memory.
//!
//! - Work: minijinja charges each instruction, each visited item and each produced byte to a budget of steps (its
//!   `fuel`), so the budget bounds both time and memory. It grows with the size of the input.
//! - Output: truncated as it grows.
//! - Depth: templates are limited in size ([`rewrite`]), values in namespaces in depth ([`environment`]), and
//!   everything runs on a separate thread with a stack large enough for these limits.
//! - Time: the caller waits until a deadline, which loops and macros check too ([`rewrite`]): operations that cost time
//!   but no steps, such as a look-up by a string of megabytes, also end there.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use minijinja::ErrorKind as Jinja;
use minijinja::value::Value as JinjaValue;
use serde_json::{Map, Value};

use super::day::LocalTime;
use super::environment::{Clock, environment};
use super::python::refuse;
use super::rewrite::rewrite;
use super::values::Variables;
use crate::error::{Error, ErrorKind, Result};

/// Steps for any template: a hundred times what the longest known ones need for a long conversation.
const STEPS: u64 = 2_000_000;
/// Bytes of output per byte of input, and bytes always allowed.
const OUTPUT: (usize, usize) = (16, 4 << 20);
/// Far more than the steps take.
const DEADLINE: Duration = if cfg!(test) { Duration::from_secs(3) } else { Duration::from_secs(30) };
/// Extra time for the thread to notice that the deadline has passed.
const LEEWAY: Duration = Duration::from_secs(2);
/// Memory is used only as far as the stack grows.
const STACK: usize = 256 << 20;

/// The result of a rendering.
#[derive(Debug)]
pub(super) struct Rendered {
    pub(super) text: String,
    pub(super) asked_for_time: bool,
    /// The variables that the template looked up.
    pub(super) read: BTreeSet<String>,
}

/// Renders `template` with the variables of `context`.
///
/// # Errors
/// If the template is invalid, refuses, or exceeds a limit (it is named).
pub(super) fn render(template: &str, context: Map<String, Value>, now: LocalTime) -> Result<Rendered> {
    let template = template.to_owned();
    let (send, receive) = sync_channel(1);
    let until = Instant::now() + DEADLINE;
    let work = move || {
        // Fails if the caller has stopped waiting.
        let _ = send.send(rendered(&template, context, now, until));
    };
    thread::Builder::new().name("chat template".to_owned()).stack_size(STACK).spawn(work).map_err(|e| {
        Error::new(ErrorKind::Memory, format!("there is no memory for a chat template's stack: {e}"))
    })?;
    receive.recv_timeout(DEADLINE + LEEWAY).unwrap_or_else(|e| {
        Err(wrong(match e {
            RecvTimeoutError::Timeout => too_long(),
            RecvTimeoutError::Disconnected => "the template engine failed on it".to_owned(),
        }))
    })
}

fn too_long() -> String {
    format!("it takes longer than {} s", DEADLINE.as_secs())
}

fn rendered(template: &str, context: Map<String, Value>, now: LocalTime, until: Instant) -> Result<Rendered> {
    let source = rewrite(template).map_err(wrong)?;
    let given = size(&context) + template.len();
    let clock = Clock::new(now);
    let mut environment = environment(&clock)?;
    environment.add_filter("end_in_time", move |_: JinjaValue| match Instant::now() < until {
        true => Ok(false),
        false => Err(refuse(too_long())),
    });
    let steps = STEPS + given as u64;
    environment.set_fuel(Some(steps));
    let most = given.saturating_mul(OUTPUT.0).saturating_add(OUTPUT.1);
    let mut out = Capped { text: Vec::new(), most, is_full: false };
    let variables = Arc::new(Variables::of_json(&context));
    let rendered = environment.template_from_str(&source).and_then(|compiled| {
        compiled.render_captured_to(JinjaValue::from_dyn_object(Arc::clone(&variables)), &mut out).map(|_| ())
    });
    match rendered {
        Ok(()) => {}
        Err(_) if out.is_full => return Err(wrong(format!("it writes more than {most} bytes"))),
        Err(e) if e.kind() == Jinja::OutOfFuel => {
            return Err(wrong(format!("it takes more than {steps} steps"))
                .hint("no template needs so many: it is wrong, or meant to do harm"));
        }
        Err(e) => {
            let detail = e.detail().map_or_else(|| e.kind().to_string(), str::to_owned);
            let place = e.line().map(|line| format!("line {line}: ")).unwrap_or_default();
            return Err(wrong(format!("{place}{detail}")).because(e));
        }
    }
    let text = String::from_utf8(out.text).map_err(|e| wrong(format!("it writes no text: {e}")))?;
    Ok(Rendered { text, asked_for_time: clock.was_asked(), read: variables.read() })
}

fn wrong(what: String) -> Error {
    Error::new(ErrorKind::Tokenizer, format!("the chat template: {what}"))
}

/// Size of the input in bytes, plus one per value.
fn size(values: &Map<String, Value>) -> usize {
    fn of(value: &Value) -> usize {
        1 + match value {
            Value::String(text) => text.len(),
            Value::Array(values) => values.iter().map(of).sum(),
            Value::Object(values) => size(values),
            _ => 8,
        }
    }
    values.iter().map(|(name, value)| name.len() + of(value)).sum()
}

/// Output text with a length limit.
struct Capped {
    text: Vec<u8>,
    most: usize,
    is_full: bool,
}

impl Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.most - self.text.len() {
            self.is_full = true;
            return Err(io::Error::other("too much output"));
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rendering_for_which_nobody_waits_ends_by_itself() {
        let loops = "{% for i in range(100000) %}{% for j in range(100000) %}{% set x = d[k] %}{% endfor %}{% endfor %}";
        let template = format!("{{% set k = 'a' * 8000000 %}}{{% set d = {{k: 1}} %}}{loops}");
        let began = Instant::now();
        let ended = rendered(&template, Map::new(), LocalTime::now(), began + Duration::from_millis(200));
        assert!(ended.unwrap_err().to_string().contains("takes longer than"));
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }

    #[test]
    fn looking_at_the_clock_changes_no_blank() {
        let template = "a\n  {% for i in [1, 2] %}\n  b{{ i }}\n{%- endfor -%}\n c {% if 1 +%}\n d\n{% endif +%}\n {% set x = 1 -%}\n e";
        let text = rendered(template, Map::new(), LocalTime::now(), Instant::now() + DEADLINE).unwrap().text;
        // Jinja2 3.1's output with `trim_blocks` and `lstrip_blocks`.
        assert_eq!(text, "a\n  b1  b2c \n d\n\ne");
    }
}
