//! Reading a tree by hand, so that every mistake is found and not only the first.
//!
//! A reader never stops: a value of the wrong form is reported and becomes `None`, and reading goes
//! on with the next one. Keys that nobody asked for are the unknown ones.

use std::cell::RefCell;
use std::ops::RangeInclusive;

use super::SourceFile;
use super::code::Code;
use super::diagnostic::{Diagnostic, Place, Severity, Span};
use super::form::Flaw;
use super::nearest::nearest;
use super::tree::{Key, Kind, Source, Value};

/// A value read, and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct At<T> {
    pub value: T,
    pub span: Span,
}

/// One file being read: collects what is wrong with it.
#[derive(Debug)]
pub struct Reader<'f> {
    source: Source<'f>,
    found: RefCell<Vec<Diagnostic>>,
    later: RefCell<Vec<serde_json::Value>>,
}

/// A table being read. It remembers which keys were asked for.
#[derive(Debug)]
pub struct Section<'r, 'f> {
    reader: &'r Reader<'f>,
    name: &'r str,
    pub span: Span,
    entries: &'r [(Key, Value)],
    asked: RefCell<Vec<&'static str>>,
}

// === impl Reader ===

impl<'f> Reader<'f> {
    pub fn new(file: &'f SourceFile) -> Self {
        Self { source: Source::new(file), found: RefCell::default(), later: RefCell::default() }
    }

    /// The file's tree; syntax errors are reported and give `None`.
    pub fn parse(&self) -> Option<Value> {
        match self.source.parse() {
            Ok(value) => Some(value),
            Err(found) => {
                self.found.borrow_mut().extend(found);
                None
            }
        }
    }

    pub fn place(&self, span: Span) -> Place {
        self.source.place(span)
    }

    /// A mistake at `span`, not yet reported: give it a hint and [`Self::report`] it.
    pub fn mistake(&self, code: Code, span: Span, message: impl Into<String>) -> Diagnostic {
        self.source.diagnostic(code, span, message)
    }

    pub fn report(&self, diagnostic: Diagnostic) {
        self.found.borrow_mut().push(diagnostic);
    }

    /// The diagnostics in file order, errors and notes apart.
    pub fn finish(self) -> (Vec<Diagnostic>, Vec<Diagnostic>) {
        let mut found = self.found.into_inner();
        let start = |d: &Diagnostic| d.place.as_ref().map_or(0, |p| p.span.start);
        found.sort_by_key(|d| (start(d), d.code));
        found.dedup();
        found.into_iter().partition(|d| d.severity == Severity::Error)
    }

    /// What was read through [`Section::later`], in reading order and without layout.
    pub(super) fn later_meaning(&self) -> Vec<serde_json::Value> {
        self.later.borrow().clone()
    }

    fn wrong_type(&self, value: &Value, wanted: &str) {
        let message = format!("expected {wanted}, found {}", value.describe());
        self.report(self.mistake(Code::WrongType, value.span, message));
    }

    pub fn text(&self, value: &Value) -> Option<At<String>> {
        match &value.kind {
            Kind::Text(text) => Some(At { value: text.clone(), span: value.span }),
            _ => {
                self.wrong_type(value, "a string");
                None
            }
        }
    }

    /// A string of a stated form; a TOML time counts as its text.
    pub fn parse_text<T>(
        &self,
        value: &Value,
        form: impl Fn(&str) -> Result<T, Flaw>,
    ) -> Option<At<T>> {
        let text = match &value.kind {
            Kind::Text(text) | Kind::Time(text) => text,
            _ => {
                self.wrong_type(value, "a string");
                return None;
            }
        };
        match form(text) {
            Ok(parsed) => Some(At { value: parsed, span: value.span }),
            Err(flaw) => {
                let mut mistake = self.mistake(flaw.code, value.span, flaw.message);
                mistake.hint = flaw.hint;
                if flaw.secret {
                    mistake.cover();
                }
                self.report(mistake);
                None
            }
        }
    }

    pub fn boolean(&self, value: &Value) -> Option<bool> {
        match value.kind {
            Kind::Bool(yes) => Some(yes),
            _ => {
                self.wrong_type(value, "true or false");
                None
            }
        }
    }

    /// An integer within `range`.
    pub fn integer<T>(&self, value: &Value, range: RangeInclusive<T>) -> Option<At<T>>
    where
        T: TryFrom<i128> + Into<i128> + Copy + std::fmt::Display,
    {
        let Kind::Integer(number) = value.kind else {
            self.wrong_type(value, "an integer");
            return None;
        };
        let (least, most) = (*range.start(), *range.end());
        if number < least.into() || number > most.into() {
            let message = format!("{number} is not in {least} to {most}");
            self.report(self.mistake(Code::OutOfRange, value.span, message));
            return None;
        }
        let value_in_range = T::try_from(number).ok()?;
        Some(At { value: value_in_range, span: value.span })
    }

    /// One of the words of `table`.
    pub fn choice<T: Copy>(&self, value: &Value, table: &[(&str, T)]) -> Option<At<T>> {
        let text = self.text(value)?;
        if let Some((_, chosen)) = table.iter().find(|(word, _)| *word == text.value) {
            return Some(At { value: *chosen, span: value.span });
        }
        let words: Vec<String> = table.iter().map(|(word, _)| format!("`{word}`")).collect();
        let message = format!("`{}` is not a value allowed here", text.value);
        let mut hint = format!("use one of {}", words.join(", "));
        if let Some(word) = nearest(&text.value, table.iter().map(|(word, _)| *word)) {
            hint = format!("did you mean `{word}`? {hint}");
        }
        self.report(self.mistake(Code::BadValue, value.span, message).hint(hint));
        None
    }

    /// Reads each item of a list; what cannot be read is left out.
    pub fn items<'v, T>(
        &self,
        value: &'v Value,
        read: impl FnMut(&'v Value) -> Option<T>,
    ) -> Vec<T> {
        match &value.kind {
            Kind::List(items) => items.iter().filter_map(read).collect(),
            _ => {
                self.wrong_type(value, "a list");
                Vec::new()
            }
        }
    }

    /// Reads each entry of a table whose keys are names chosen by the user.
    pub fn entries<'v, T>(
        &self,
        value: &'v Value,
        mut read: impl FnMut(At<&'v str>, &'v Value) -> Option<T>,
    ) -> Vec<T> {
        let Kind::Table(entries) = &value.kind else {
            self.wrong_type(value, "a table");
            return Vec::new();
        };
        let named = |key: &'v Key| At { value: key.name.as_str(), span: key.span };
        entries.iter().filter_map(|(key, value)| read(named(key), value)).collect()
    }

    /// Reads a table, then reports the keys `read` did not ask for. `name` is for messages.
    pub fn section<T>(
        &self,
        value: &Value,
        name: &str,
        read: impl FnOnce(&Section<'_, 'f>) -> Option<T>,
    ) -> Option<T> {
        let Kind::Table(entries) = &value.kind else {
            self.wrong_type(value, "a table");
            return None;
        };
        let section =
            Section { reader: self, name, span: value.span, entries, asked: RefCell::default() };
        let result = read(&section);
        section.report_unknown();
        result
    }

    /// For values that have a textual form beside another one.
    pub fn is_text(&self, value: &Value) -> bool {
        matches!(value.kind, Kind::Text(_))
    }

    /// A string, or a table for those who need to say more.
    pub fn is_table(&self, value: &Value) -> bool {
        matches!(value.kind, Kind::Table(_))
    }

    /// A list, or a single value for those with only one.
    pub fn one_or_many<T>(&self, value: &Value, read: impl FnMut(&Value) -> Option<T>) -> Vec<T> {
        match &value.kind {
            Kind::List(items) => items.iter().filter_map(read).collect(),
            _ => std::iter::once(value).filter_map(read).collect(),
        }
    }
}

// === impl Section ===

impl<'r, 'f> Section<'r, 'f> {
    fn find(&self, key: &'static str) -> Option<&'r (Key, Value)> {
        self.asked.borrow_mut().push(key);
        self.entries.iter().find(|(k, _)| k.name == key)
    }

    pub fn optional(&self, key: &'static str) -> Option<&'r Value> {
        self.find(key).map(|(_, value)| value)
    }

    pub fn required(&self, key: &'static str) -> Option<&'r Value> {
        let found = self.optional(key);
        if found.is_none() {
            let message = format!("{} lacks the key `{key}`", self.name);
            let reader = self.reader;
            reader.report(reader.mistake(Code::MissingKey, self.span, message));
        }
        found
    }

    /// A key whose form is checked although nothing in this release acts on it; says so.
    pub fn later(&self, key: &'static str, check: impl FnOnce(&'r Value)) {
        let Some((name, value)) = self.find(key) else {
            return;
        };
        check(value);
        let reader = self.reader;
        let message = format!("`{key}` in {} has no function in this release", self.name);
        let mut note = reader.mistake(Code::NoFunctionYet, name.span, message);
        note.severity = Severity::Note;
        reader.report(note);
        let id = self.entries.iter().find(|(k, _)| k.name == "id");
        let id = id.map(|(_, value)| value.canonical());
        let meaning = serde_json::json!([self.name, id, key, value.canonical()]);
        reader.later.borrow_mut().push(meaning);
    }

    /// Where the value of `key` stands; the table itself when it is absent.
    pub fn span_of(&self, key: &str) -> Span {
        let found = self.entries.iter().find(|(k, _)| k.name == key);
        found.map_or(self.span, |(_, value)| value.span)
    }

    fn report_unknown(&self) {
        let asked = self.asked.borrow();
        for (key, _) in self.entries {
            if asked.contains(&key.name.as_str()) {
                continue;
            }
            let message = format!("unknown key `{}` in {}", key.name, self.name);
            let hint = match nearest(&key.name, asked.iter().copied()) {
                Some(word) => format!("did you mean `{word}`?"),
                None => {
                    let mut words: Vec<&str> = asked.clone();
                    words.sort_unstable();
                    words.dedup();
                    format!("known keys: {}", words.join(", "))
                }
            };
            let reader = self.reader;
            reader.report(reader.mistake(Code::UnknownKey, key.span, message).hint(hint));
        }
    }
}

impl<T> At<T> {
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> At<U> {
        At { value: f(self.value), span: self.span }
    }
}
