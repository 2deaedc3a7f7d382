//! A mistake in a file, with everything needed to show it: it holds its own copy of the line.
//!
//! Rendering is plain text without colour, so that the same mistake gives the same bytes in a
//! terminal, a log and a golden file.

use std::fmt;

use super::code::Code;

/// Whether the file is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Error,
    /// Worth telling; the file is used.
    Note,
}

/// Bytes of a file's text, end excluded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    pub start: usize,
    pub end: usize,
}

/// Where something stands, resolved.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    pub span: Span,
    /// The text of the line.
    pub source: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Related {
    pub place: Place,
    pub message: String,
}

/// One mistake. `Display` renders it over several lines, the last one ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    pub code: Code,
    /// `None` when the file as a whole is meant and has no text to show.
    pub place: Option<Place>,
    /// The file's name, also when there is no place.
    pub file: String,
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    pub related: Vec<Related>,
}

/// Longer lines are cut to a window around the mistake.
const WIDTH: usize = 100;

// === impl Diagnostic ===

impl Diagnostic {
    /// A mistake about a file as a whole, such as one that cannot be read.
    pub fn of_file(code: Code, file: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            code,
            place: None,
            file: file.into(),
            message: message.into(),
            hint: None,
            related: Vec::new(),
        }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub fn related(mut self, place: Place, message: impl Into<String>) -> Self {
        let message = message.into();
        self.related.push(Related { place, message });
        self
    }

    /// Hides the marked text in the line shown.
    pub(super) fn cover(&mut self) {
        let Some(place) = &mut self.place else { return };
        let begin: usize = place.source.chars().take(place.column - 1).map(char::len_utf8).sum();
        let end = (begin + place.span.end - place.span.start).min(place.source.len());
        let covered = place.source.get(begin..end).map(|text| text.chars().count());
        match (place.source.get(..begin), covered, place.source.get(end..)) {
            (Some(before), Some(count), Some(after)) => {
                place.source = format!("{before}{}{after}", "*".repeat(count));
            }
            // Not at a character's edge: show nothing of the line.
            _ => place.source.clear(),
        }
    }

    /// From 1; 0 when the diagnostic is about the file as a whole.
    pub fn line(&self) -> usize {
        self.place.as_ref().map_or(0, |p| p.line)
    }

    /// From 1, in characters; 0 when the diagnostic is about the file as a whole.
    pub fn column(&self) -> usize {
        self.place.as_ref().map_or(0, |p| p.column)
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Note => "note",
        };
        writeln!(f, "{severity}[{}]: {}", self.code, printable(&self.message))?;
        let gutter = match &self.place {
            Some(place) => place.render(f)?,
            None => {
                writeln!(f, " --> {}", self.file)?;
                1
            }
        };
        if let Some(hint) = &self.hint {
            writeln!(f, "{:gutter$} = hint: {}", "", printable(hint))?;
        }
        for related in &self.related {
            let Place { file, line, column, .. } = &related.place;
            let message = printable(&related.message);
            writeln!(f, "{:gutter$} = note: {file}:{line}:{column}: {message}", "")?;
        }
        Ok(())
    }
}

// === impl Place ===

impl Place {
    /// Writes the arrow, the line and the underline; returns the width of the line number.
    fn render(&self, f: &mut fmt::Formatter<'_>) -> Result<usize, fmt::Error> {
        let gutter = self.line.to_string().len();
        let marked = self.span.end.saturating_sub(self.span.start);
        let characters: Vec<char> = self.source.chars().collect();
        let at = (self.column - 1).min(characters.len());
        // The span counts bytes; within the line, count the characters they make.
        let mut bytes = 0;
        let length = characters
            .iter()
            .skip(at)
            .take_while(|c| {
                let inside = bytes < marked;
                bytes += c.len_utf8();
                inside
            })
            .count()
            .max(1);
        let from = if characters.len() > WIDTH { at.saturating_sub(WIDTH / 3) } else { 0 };
        let shown: String = characters.iter().skip(from).take(WIDTH).collect();
        let indent: String =
            characters[from..at].iter().map(|c| if *c == '\t' { '\t' } else { ' ' }).collect();
        let underline = "^".repeat(length.min(WIDTH - (at - from)).max(1));
        let Self { file, line, column, .. } = self;
        writeln!(f, "{:gutter$}--> {file}:{line}:{column}", "")?;
        writeln!(f, "{:gutter$} |", "")?;
        writeln!(f, "{line} | {}", printable(&shown).trim_end())?;
        writeln!(f, "{:gutter$} | {indent}{underline}", "")?;
        Ok(gutter)
    }
}

/// A file must not be able to write control sequences to the reader's terminal, and a diagnostic
/// must not carry a secret away: what looks like an nkey seed becomes stars, place for place.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut word = String::new();
    let base32 = |c: char| matches!(c, 'A'..='Z' | '2'..='7');
    for c in text.chars().map(Some).chain([None]) {
        if let Some(c) = c.filter(|c| base32(*c)) {
            word.push(c);
            continue;
        }
        if word.starts_with('S') && word.len() >= SEED_AT_LEAST {
            shown.extend(word.drain(..).map(|_| '*'));
        }
        shown.push_str(&word);
        word.clear();
        let safe = |c: char| if c.is_control() && c != '\t' { '\u{fffd}' } else { c };
        shown.extend(c.map(safe));
    }
    shown
}

/// A seed has 58 characters; one cut short is still most of a secret.
const SEED_AT_LEAST: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_seed_and_no_control_sequence_is_shown() {
        let seed = "SUABO2X7XQMIH3MCBAXYER4GOZ5PN7D2NW3TMJFK3QHMDCBGMXYVI5INRE";
        let shown = printable(&format!("key = \"{seed}\"\u{1b}[31m SHORT"));
        assert_eq!(shown, format!("key = \"{}\"\u{fffd}[31m SHORT", "*".repeat(58)));
        let key = "UB7UOW6F76U4AQOB4ATT3554UOILP4CUJ4JO2VEHJEXI57SPQSNL7RND";
        assert_eq!(printable(key), key);
    }
}
