//! `docs/CONFIG.md` knows every code and every key.
#![expect(clippy::disallowed_methods, reason = "the document is read")]

use std::collections::BTreeSet;
use std::path::Path;

use nett_policy::document::Code;

fn document() -> String {
    let path = nett_fixtures::root().join("../docs/CONFIG.md");
    std::fs::read_to_string(path).expect("the document is there")
}

#[test]
fn the_table_of_codes_is_the_list_of_codes() {
    let text = document();
    let (_, table) = text.split_once("## Diagnostics").expect("the section");
    let rows = table.lines().filter_map(|l| l.strip_prefix("| `"));
    let documented: Vec<&str> = rows.filter_map(|l| l.split('`').next()).collect();
    let known: Vec<&str> = Code::ALL.iter().map(|c| c.as_str()).collect();
    assert_eq!(documented, known, "the table has every code once, in the order of the source");
}

/// The readers ask for keys by string; each such string stands in the document in backticks.
#[test]
fn every_key_that_is_read_is_documented() {
    let text = document();
    let policy = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = [
        policy.join("src/document/fabric_file.rs"),
        policy.join("src/document/failover_file.rs"),
        policy.join("src/document/link_file.rs"),
        policy.join("src/document/party_file.rs"),
        policy.join("src/document/safety_file.rs"),
        policy.join("src/document/service_file.rs"),
        policy.join("src/document/transit_file.rs"),
        policy.join("../agent/src/config/file.rs"),
    ];
    let mut keys = BTreeSet::new();
    for file in files {
        let source = std::fs::read_to_string(&file).expect("the source is there");
        for call in ["required(\"", "optional(\"", "later(\"", "needed(\"", "time(\"", "goal(\""] {
            let found = source.split(call).skip(1);
            keys.extend(found.filter_map(|rest| rest.split('"').next()).map(str::to_owned));
        }
    }
    assert!(keys.len() > 70, "the search itself works: {keys:?}");
    let words: BTreeSet<&str> =
        text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).collect();
    let missing: Vec<&String> = keys.iter().filter(|k| !words.contains(k.as_str())).collect();
    assert!(missing.is_empty(), "not in docs/CONFIG.md: {missing:?}");
}
