//! JSON with positions.
//!
//! `serde_json` judges the syntax (and the nesting depth) first; only text it has accepted is then
//! walked again for the spans it does not keep, so the walk may rely on the form.

use super::code::Code;
use super::diagnostic::{Diagnostic, Span};
use super::tree::{Key, Kind, Source, Value};

pub(super) fn parse(source: &Source<'_>) -> Result<Value, Vec<Diagnostic>> {
    let text = source.file.text.as_str();
    if let Err(error) = serde_json::from_str::<serde_json::Value>(text) {
        let start = offset(text, error.line(), error.column());
        let span = Span { start, end: start + 1 };
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or_default();
        return Err(vec![source.diagnostic(Code::Syntax, span, message)]);
    }
    let mut walk = Walk { text, at: 0, repeated: Vec::new() };
    let value = walk.value();
    if walk.repeated.is_empty() {
        return Ok(value);
    }
    let repeated = walk.repeated.into_iter();
    Err(repeated
        .map(|key| {
            let message = format!("the key `{}` stands twice in one object", key.name);
            source.diagnostic(Code::Syntax, key.span, message)
        })
        .collect())
}

/// `serde_json` counts lines from 1 and columns in bytes, 0 being the line break before.
fn offset(text: &str, line: usize, column: usize) -> usize {
    let before: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    (before + column.saturating_sub(1)).min(text.len())
}

struct Walk<'t> {
    text: &'t str,
    at: usize,
    repeated: Vec<Key>,
}

impl Walk<'_> {
    fn peek(&mut self) -> u8 {
        let bytes = self.text.as_bytes();
        while bytes.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        bytes.get(self.at).copied().unwrap_or_default()
    }

    fn value(&mut self) -> Value {
        let first = self.peek();
        let start = self.at;
        let kind = match first {
            b'{' => self.table(),
            b'[' => self.list(),
            b'"' => Kind::Text(self.string()),
            _ => self.plain(),
        };
        // A table is marked by its opening brace: its body would underline whole files.
        let end = match kind {
            Kind::Table(_) => start + 1,
            _ => self.at,
        };
        Value { kind, span: Span { start, end } }
    }

    fn table(&mut self) -> Kind {
        self.at += 1;
        let mut entries: Vec<(Key, Value)> = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        while self.peek() == b'"' {
            let start = self.at;
            let name = self.string();
            let span = Span { start, end: self.at };
            let key = Key { name, span };
            if self.peek() == b':' {
                self.at += 1;
            }
            let value = self.value();
            if seen.insert(key.name.clone()) {
                entries.push((key, value));
            } else {
                self.repeated.push(key);
            }
            if self.peek() == b',' {
                self.at += 1;
            }
        }
        self.peek();
        self.at += 1;
        Kind::Table(entries)
    }

    fn list(&mut self) -> Kind {
        self.at += 1;
        let mut items = Vec::new();
        while !matches!(self.peek(), b']' | 0) {
            items.push(self.value());
            if self.peek() == b',' {
                self.at += 1;
            }
        }
        self.at += 1;
        Kind::List(items)
    }

    fn string(&mut self) -> String {
        let start = self.at;
        let bytes = self.text.as_bytes();
        self.at += 1;
        while let Some(byte) = bytes.get(self.at) {
            self.at += if *byte == b'\\' { 2 } else { 1 };
            if *byte == b'"' {
                break;
            }
        }
        serde_json::from_str(&self.text[start..self.at]).unwrap_or_default()
    }

    fn plain(&mut self) -> Kind {
        let start = self.at;
        let bytes = self.text.as_bytes();
        let ends = |b: &u8| b.is_ascii_whitespace() || matches!(b, b',' | b']' | b'}');
        while bytes.get(self.at).is_some_and(|b| !ends(b)) {
            self.at += 1;
        }
        match &self.text[start..self.at] {
            "true" => Kind::Bool(true),
            "false" => Kind::Bool(false),
            "null" => Kind::Null,
            number => number.parse().map_or_else(|_| Kind::Float(number.to_owned()), Kind::Integer),
        }
    }
}
