//! JSON values as YAML (1.2, block style). Every text is double-quoted as in JSON, which YAML reads
//! the same, unless it is a plain word that nothing else could be.

use serde_json::Value;

pub(super) fn emit(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(members) if !members.is_empty() => block(value, 0, &mut out),
        Value::Array(items) if !items.is_empty() => block(value, 0, &mut out),
        scalar => {
            out.push_str(&inline(scalar));
            out.push('\n');
        }
    }
    out
}

/// A non-empty object or array, each member on its own line.
fn block(value: &Value, depth: usize, out: &mut String) {
    let pad = "  ".repeat(depth);
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                out.push_str(&format!("{pad}{}:", word(name)));
                after(member, depth, out);
            }
        }
        Value::Array(items) => {
            for item in items {
                out.push_str(&format!("{pad}-"));
                after(item, depth, out);
            }
        }
        scalar => out.push_str(&inline(scalar)),
    }
}

fn after(value: &Value, depth: usize, out: &mut String) {
    let nested = match value {
        Value::Object(members) => !members.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    };
    if nested {
        out.push('\n');
        block(value, depth + 1, out);
    } else {
        out.push_str(&format!(" {}\n", inline(value)));
    }
}

fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => word(text),
        other => other.to_string(),
    }
}

fn word(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'/');
    let reserved = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let begins = text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic());
    if begins && text.bytes().all(plain) && !reserved.contains(&text.to_lowercase().as_str()) {
        return text.to_owned();
    }
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_turns_into_another_type() {
        let value = serde_json::json!({
            "empty": {}, "none": [], "nothing": null, "number": 7,
            "list": ["osl", "no", "12", "a: b", {"deep": [1, "x\ny"]}],
        });
        let expected = "\
empty: {}
list:
  - osl
  - \"no\"
  - \"12\"
  - \"a: b\"
  -
    deep:
      - 1
      - \"x\\ny\"
none: []
nothing: null
number: 7
";
        assert_eq!(emit(&value), expected);
    }
}
