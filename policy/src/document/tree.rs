//! A file as a tree of values that remember where they stand, the same for TOML and JSON.

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::code::Code;
use super::diagnostic::{Diagnostic, Place, Severity, Span};
use super::{SourceFile, json};

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Value {
    pub(super) kind: Kind,
    pub(super) span: Span,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    Text(String),
    Integer(i128),
    Float(String),
    Bool(bool),
    /// JSON only.
    Null,
    /// A TOML date or time in its own text.
    Time(String),
    List(Vec<Value>),
    /// In file order, each key once.
    Table(Vec<(Key, Value)>),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) span: Span,
}

/// A file with the beginnings of its lines.
#[derive(Debug)]
pub(super) struct Source<'f> {
    pub(super) file: &'f SourceFile,
    lines: Vec<usize>,
}

// === impl Source ===

impl<'f> Source<'f> {
    pub(super) fn new(file: &'f SourceFile) -> Self {
        let breaks = file.text.bytes().enumerate().filter(|(_, b)| *b == b'\n');
        let lines = std::iter::once(0).chain(breaks.map(|(at, _)| at + 1)).collect();
        Self { file, lines }
    }

    pub(super) fn place(&self, span: Span) -> Place {
        let text = &self.file.text;
        let mut start = span.start.min(text.len());
        while !text.is_char_boundary(start) {
            start -= 1;
        }
        let line = self.lines.partition_point(|begin| *begin <= start);
        let begin = self.lines[line - 1];
        let source = text[begin..].lines().next().unwrap_or_default();
        Place {
            file: self.file.name.clone(),
            line,
            column: text[begin..start].chars().count() + 1,
            span: Span { start, end: span.end.clamp(start, text.len()) },
            source: source.to_owned(),
        }
    }

    pub(super) fn diagnostic(
        &self,
        code: Code,
        span: Span,
        message: impl Into<String>,
    ) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            code,
            place: Some(self.place(span)),
            file: self.file.name.clone(),
            message: message.into(),
            hint: None,
            related: Vec::new(),
        }
    }

    /// The file's tree, or its syntax errors (the first on each line, at most ten).
    pub(super) fn parse(&self) -> Result<Value, Vec<Diagnostic>> {
        if self.file.name.ends_with(".json") {
            return json::parse(self);
        }
        let (table, errors) = DeTable::parse_recoverable(&self.file.text);
        if errors.is_empty() {
            let span = Span { start: 0, end: self.file.text.lines().next().map_or(0, str::len) };
            let kind = from_table(table.get_ref());
            return Ok(Value { kind, span });
        }
        let mut found: Vec<Diagnostic> = errors
            .iter()
            .map(|e| {
                let span = e.span().map(Span::from).unwrap_or_default();
                self.diagnostic(Code::Syntax, span, e.message())
            })
            .collect();
        found.sort_by_key(Diagnostic::line);
        found.dedup_by_key(|d| d.line());
        found.truncate(10);
        Err(found)
    }
}

impl From<std::ops::Range<usize>> for Span {
    fn from(range: std::ops::Range<usize>) -> Self {
        Self { start: range.start, end: range.end }
    }
}

// === impl Value ===

impl Value {
    pub(super) fn is_list(&self) -> bool {
        matches!(self.kind, Kind::List(_))
    }

    pub(super) fn list_len(&self) -> Option<usize> {
        match &self.kind {
            Kind::List(items) => Some(items.len()),
            _ => None,
        }
    }

    /// What it is, for messages.
    pub(super) fn describe(&self) -> &'static str {
        match self.kind {
            Kind::Text(_) => "a string",
            Kind::Integer(_) => "an integer",
            Kind::Float(_) => "a number with a fraction",
            Kind::Bool(_) => "a boolean",
            Kind::Null => "null",
            Kind::Time(_) => "a date or time",
            Kind::List(_) => "a list",
            Kind::Table(_) => "a table",
        }
    }

    /// One text for one meaning: keys sorted, no layout, times as strings.
    pub(super) fn canonical(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.kind {
            Kind::Text(text) | Kind::Time(text) => Json::String(text.clone()),
            Kind::Integer(number) => Json::String(format!("{number}")),
            Kind::Float(number) => Json::String(number.clone()),
            Kind::Bool(value) => Json::Bool(*value),
            Kind::Null => Json::Null,
            Kind::List(items) => Json::Array(items.iter().map(Self::canonical).collect()),
            Kind::Table(entries) => {
                let pairs = entries.iter().map(|(k, v)| (k.name.clone(), v.canonical()));
                let sorted: std::collections::BTreeMap<String, Json> = pairs.collect();
                Json::Array(
                    sorted
                        .into_iter()
                        .map(|(k, v)| Json::Array(vec![Json::String(k), v]))
                        .collect(),
                )
            }
        }
    }
}

fn from_value(value: &Spanned<DeValue<'_>>) -> Value {
    let kind = match value.get_ref() {
        DeValue::String(text) => Kind::Text(text.to_string()),
        DeValue::Integer(number) => {
            match i128::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Kind::Integer(number),
                // Beyond 128 bits: no key accepts it, and the text is still there for the message.
                Err(_) => Kind::Float(number.as_str().to_owned()),
            }
        }
        DeValue::Float(number) => Kind::Float(number.as_str().to_owned()),
        DeValue::Boolean(value) => Kind::Bool(*value),
        DeValue::Datetime(time) => Kind::Time(time.to_string()),
        DeValue::Array(items) => from_list(items),
        DeValue::Table(table) => from_table(table),
    };
    Value { kind, span: value.span().into() }
}

fn from_list(items: &DeArray<'_>) -> Kind {
    Kind::List(items.iter().map(from_value).collect())
}

fn from_table(table: &DeTable<'_>) -> Kind {
    let mut entries: Vec<(Key, Value)> = table
        .iter()
        .map(|(key, value)| {
            let key = Key { name: key.get_ref().to_string(), span: key.span().into() };
            (key, from_value(value))
        })
        .collect();
    entries.sort_by_key(|(key, _)| key.span);
    Kind::Table(entries)
}
