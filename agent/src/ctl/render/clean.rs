//! Texts from others without what a terminal would obey.
//!
//! Reasons and names are written by people at other sites. An escape sequence or a line break in
//! one of them could hide or fake a line on the reader's terminal.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The same document with every control character in it replaced by `?`.
pub(in crate::ctl) fn clean<T: Serialize + DeserializeOwned>(document: T) -> T {
    let Ok(mut value) = serde_json::to_value(&document) else {
        return document;
    };
    clean_value(&mut value);
    serde_json::from_value(value).unwrap_or(document)
}

fn clean_value(value: &mut Value) {
    match value {
        Value::String(text) if text.chars().any(is_unsafe) => {
            *text = text.chars().map(|c| if is_unsafe(c) { '?' } else { c }).collect();
        }
        Value::Array(items) => items.iter_mut().for_each(clean_value),
        Value::Object(members) => members.values_mut().for_each(clean_value),
        _ => {}
    }
}

/// Control characters, and those that reorder the text around them (Unicode bidi controls).
fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_a_terminal_obeys_is_left() {
        let document = serde_json::json!({
            "reason": "ok\u{1b}[2Jgone\nnext\u{202e}txet\u{9b}",
            "list": ["a\rb"],
            "number": 7,
        });
        let cleaned = clean(document);
        assert_eq!(cleaned["reason"], "ok?[2Jgone?next?txet?");
        assert_eq!(cleaned["list"][0], "a?b");
        assert_eq!(cleaned["number"], 7);
    }
}
