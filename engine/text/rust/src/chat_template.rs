//! Chat templates as Hugging Face's `apply_chat_template` renders them: Jinja2 with trim_blocks,
//! lstrip_blocks, loop controls, Python's string methods, its spelling of True, False and None, and
//! its JSON spacing.

use std::ffi::CString;
use std::mem::MaybeUninit;

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{escape_formatter, Environment, Error, ErrorKind};
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter, Serializer};

use crate::Result;

const NAME: &str = "chat_template";

pub struct ChatTemplate {
    environment: Environment<'static>,
}

impl ChatTemplate {
    pub fn new(source: &str) -> Result<Self> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_formatter(|out, state, value| match value.kind() {
            ValueKind::None => Ok(out.write_str("None")?),
            ValueKind::Bool => Ok(out.write_str(if value.is_true() { "True" } else { "False" })?),
            _ => escape_formatter(out, state, value),
        });
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", tojson);
        environment
            .add_template_owned(NAME, without_generation_tags(source))
            .map_err(|error| describe(&error))?;
        Ok(ChatTemplate { environment })
    }

    pub fn render(&self, context_json: &[u8]) -> Result<String> {
        let context: serde_json::Value =
            serde_json::from_slice(context_json).map_err(|error| error.to_string())?;
        self.environment
            .get_template(NAME)
            .and_then(|template| template.render(Value::from_serialize(&context)))
            .map_err(|error| describe(&error))
    }
}

/// What a template raises on purpose is said as it is; other errors name their line.
fn describe(error: &Error) -> String {
    let mut message = match (error.detail(), error.line()) {
        (Some(detail), _) if detail.starts_with(RAISED) => {
            return detail[RAISED.len()..].to_string()
        }
        (Some(detail), _) => format!("{}: {detail}", error.kind()),
        (None, _) => error.kind().to_string(),
    };
    if let Some(line) = error.line() {
        message.push_str(&format!(" (line {line})"));
    }
    message
}

const RAISED: &str = "\u{1}";

fn raise_exception(message: String) -> std::result::Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{message}")))
}

/// Local time in the C library's format, as Python's datetime.strftime.
fn strftime_now(format: String) -> std::result::Result<String, Error> {
    let failed = || Error::new(ErrorKind::InvalidOperation, "strftime_now: bad format");
    if format.is_empty() {
        return Ok(format);
    }
    let format = CString::new(format).map_err(|_| failed())?;
    let mut out = [0u8; 256];
    // SAFETY: the pointers are valid, and strftime writes at most out.len() bytes.
    let written = unsafe {
        let now = libc::time(std::ptr::null_mut());
        let mut local = MaybeUninit::<libc::tm>::zeroed();
        if libc::localtime_r(&now, local.as_mut_ptr()).is_null() {
            return Err(failed());
        }
        libc::strftime(out.as_mut_ptr().cast(), out.len(), format.as_ptr(), local.as_ptr())
    };
    if written == 0 {
        return Err(failed());
    }
    String::from_utf8(out[..written].to_vec()).map_err(|_| failed())
}

/// Python's json.dumps(value, ensure_ascii=False, indent=indent).
fn tojson(value: &Value, kwargs: Kwargs) -> std::result::Result<Value, Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    let sort_keys: Option<bool> = kwargs.get("sort_keys")?;
    let _ensure_ascii: Option<bool> = kwargs.get("ensure_ascii")?;
    kwargs.assert_all_used()?;
    let failed = |error: serde_json::Error| {
        Error::new(ErrorKind::BadSerialization, format!("tojson: {error}"))
    };
    let mut json = serde_json::to_value(value).map_err(failed)?;
    if sort_keys == Some(true) {
        json.sort_all_objects();
    }
    let spaces = " ".repeat(indent.unwrap_or(0));
    let text = match indent {
        Some(_) => dump(&json, PrettyFormatter::with_indent(spaces.as_bytes())),
        None => dump(&json, PythonFormatter(CompactFormatter)),
    };
    Ok(Value::from_safe_string(text.map_err(failed)?))
}

fn dump(json: &serde_json::Value, formatter: impl Formatter) -> serde_json::Result<String> {
    let mut out = Vec::new();
    json.serialize(&mut Serializer::with_formatter(&mut out, formatter))?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// One line, with a space after each comma and colon.
struct PythonFormatter(CompactFormatter);

impl Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first {
            Ok(())
        } else {
            writer.write_all(b", ")
        }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        self.begin_array_value(writer, first)
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
    ) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

/// `{% generation %}` marks the assistant's words for training masks and prints nothing itself.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else { break };
        let tag = &rest[start..start + length];
        let words = tag[2..].trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        let replacement = match words {
            "generation" => "if true",
            "endgeneration" => "endif",
            _ => words,
        };
        out.push_str(&rest[..start]);
        if replacement == words {
            out.push_str(tag);
        } else {
            out.push_str(&tag.replace(words, replacement));
        }
        rest = &rest[start + length..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_tags_print_nothing_and_keep_their_whitespace_control() {
        let source = "a {%- generation %} b {% endgeneration -%} c{% if x %}{% endif %}";
        assert_eq!(
            without_generation_tags(source),
            "a {%- if true %} b {% endif -%} c{% if x %}{% endif %}"
        );
    }

    #[test]
    fn json_is_spaced_as_in_python() {
        let template = ChatTemplate::new("{{ v | tojson }}|{{ v | tojson(indent=2) }}").unwrap();
        assert_eq!(
            template.render(br#"{"v": {"b": [1, "<\u00e9>"], "a": null}}"#).unwrap(),
            "{\"b\": [1, \"<é>\"], \"a\": null}|{\n  \"b\": [\n    1,\n    \"<é>\"\n  ],\n  \"a\": null\n}"
        );
    }

    #[test]
    fn a_raised_exception_is_the_whole_message() {
        let template = ChatTemplate::new("{{ raise_exception('no system role') }}").unwrap();
        assert_eq!(template.render(b"{}").unwrap_err(), "no system role");
    }
}
