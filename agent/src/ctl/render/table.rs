//! Columns: aligned by the longest cell, two spaces apart, coloured only on a terminal.

use super::Style;

/// What a cell means to the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Good,
    Warn,
    Bad,
    Head,
}

#[derive(Debug, Clone)]
pub(super) struct Cell {
    text: String,
    tone: Tone,
}

#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<(Vec<Cell>, Option<String>)>,
}

// === impl Cell ===

impl Cell {
    pub(super) fn new(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: text.into(), tone }
    }

    /// A word for a state, in the colour it has everywhere.
    pub(super) fn state(word: &str) -> Self {
        let tone = match word {
            "up" | "ok" | "done" | "active" | "yes" => Tone::Good,
            "down" | "failed" | "rejected" | "isolated" | "no" => Tone::Bad,
            "running" | "started" | "waiting-approval" | "unready" | "unknown" | "drained"
            | "expired" | "paused" | "confirming" | "local" => Tone::Warn,
            _ => Tone::Plain,
        };
        Self::new(word, tone)
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Tone::Plain)
    }
}

// === impl Table ===

impl Table {
    pub(super) fn new(header: &[&str]) -> Self {
        let mut table = Self::default();
        let header = header.iter().map(|h| Cell::new(*h, Tone::Head));
        table.rows.push((header.collect(), None));
        table
    }

    pub(super) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push((cells, None));
    }

    /// A row with a remark behind the last column.
    pub(super) fn noted(&mut self, cells: Vec<Cell>, note: Option<String>) {
        self.rows.push((cells, note));
    }

    /// Every row as a line; the last column is not padded.
    pub(super) fn text(&self, style: Style) -> String {
        let columns = self.rows.iter().map(|(cells, _)| cells.len()).max();
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|(cells, _)| cells.get(column));
            cells.map(|c| c.text.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns.unwrap_or(0)).map(width).collect();
        let mut out = String::new();
        for (cells, note) in &self.rows {
            let mut line = String::new();
            for (nth, cell) in cells.iter().enumerate() {
                if nth > 0 {
                    line.push_str("  ");
                }
                line.push_str(&paint(&cell.text, cell.tone, style.colour));
                if nth + 1 < cells.len() {
                    let missing = widths[nth].saturating_sub(cell.text.chars().count());
                    line.extend(std::iter::repeat_n(' ', missing));
                }
            }
            if let Some(note) = note {
                line.push_str("  ");
                line.push_str(&paint(note, Tone::Warn, style.colour));
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

/// `NAME  value` lines about one thing; empty values are left out.
pub(super) fn facts(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    facts
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name:width$}  {value}\n"))
        .collect()
}

/// The text in the colour of its meaning (ECMA-48 SGR).
pub(super) fn paint(text: &str, tone: Tone, colour: bool) -> String {
    let code = match tone {
        Tone::Plain => return text.to_owned(),
        _ if !colour || text.is_empty() => return text.to_owned(),
        Tone::Good => "32",
        Tone::Warn => "33",
        Tone::Bad => "31",
        Tone::Head => "1",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}
