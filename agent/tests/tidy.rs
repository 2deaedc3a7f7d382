//! The rules of the repository, as tests: what a reviewer would otherwise have to remember.
//!
//! They read files and never the network or a build. `docs/ARCHITECTURE.md` says why each is there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Every crate with the crates of ours it may use: in the program, and in tests only.
const CRATES: [(&str, &[&str], &[&str]); 6] = [
    ("policy", &[], &["nett-fixtures"]),
    ("dns", &["nett-policy"], &["nett-fixtures"]),
    ("agent", &["nett-dns", "nett-policy"], &["nett-fixtures"]),
    ("fixtures", &[], &[]),
    ("netns-tests", &[], &[]),
    ("bench", &["nett-dns", "nett-policy"], &[]),
];

/// What the pure core must never use: runtimes, clocks, randomness, sockets, logging.
const IMPURE: [&str; 16] = [
    "arc-swap",
    "async-nats",
    "fastrand",
    "futures",
    "getrandom",
    "hyper",
    "jiff",
    "nix",
    "rand",
    "rtnetlink",
    "sd-notify",
    "socket2",
    "tempfile",
    "tokio",
    "tracing",
    "ulid",
];

const MOST_LINES: usize = 600;
const MOST_COLUMNS: usize = 100;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the repository")
}

/// All files below a directory of the repository, by their path in it.
fn files(directory: &str, extension: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![root().join(directory)];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).expect("a readable directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                if !path.ends_with("target") {
                    open.push(path);
                }
            } else if path.extension().is_some_and(|e| e == extension) {
                let name = path.strip_prefix(root()).expect("below the root");
                let text = std::fs::read_to_string(&path).expect("text");
                found.insert(name.display().to_string(), text);
            }
        }
    }
    found
}

fn sources() -> BTreeMap<String, String> {
    CRATES.iter().flat_map(|(name, ..)| files(name, "rs")).collect()
}

/// `README.md` and everything below `docs/`.
fn documents() -> BTreeMap<String, String> {
    let mut all = files("docs", "md");
    let readme = std::fs::read_to_string(root().join("README.md")).expect("README.md");
    all.insert("README.md".to_owned(), readme);
    all
}

fn manifest(name: &str) -> toml::Table {
    let text = std::fs::read_to_string(root().join(name).join("Cargo.toml")).expect("a manifest");
    text.parse().expect("TOML")
}

/// The names in a table of dependencies, target-specific ones included.
fn dependencies(manifest: &toml::Table, kinds: &[&str]) -> BTreeSet<String> {
    let targets = manifest.get("target").and_then(|t| t.as_table());
    let of_targets = targets.into_iter().flat_map(|t| t.values()).filter_map(|t| t.as_table());
    let mut names = BTreeSet::new();
    for table in std::iter::once(manifest).chain(of_targets) {
        for kind in kinds {
            let named = table.get(*kind).and_then(|t| t.as_table());
            names.extend(named.into_iter().flat_map(|t| t.keys().cloned()));
        }
    }
    names
}

#[track_caller]
fn none(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn dependencies_run_one_way() {
    let members: BTreeSet<String> = manifest("")["workspace"]["members"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|m| m.as_str().expect("a name").to_owned())
        .collect();
    assert_eq!(members, CRATES.iter().map(|c| c.0.to_owned()).collect());
    for (name, uses, in_tests) in CRATES {
        let manifest = manifest(name);
        let ours = |kinds: &[&str]| -> BTreeSet<String> {
            let all = dependencies(&manifest, kinds).into_iter();
            all.filter(|d| d.starts_with("nett-")).collect()
        };
        let set = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(ours(&["dependencies", "build-dependencies"]), set(uses), "{name}");
        assert_eq!(ours(&["dev-dependencies"]), set(in_tests), "{name}, in tests");
    }
}

#[test]
fn the_core_has_no_means_to_be_impure() {
    let used = dependencies(&manifest("policy"), &["dependencies", "build-dependencies"]);
    let impure: Vec<&str> = IMPURE.into_iter().filter(|name| used.contains(*name)).collect();
    assert!(impure.is_empty(), "policy uses {impure:?}");
    assert!(root().join("policy/clippy.toml").exists());
}

#[test]
fn domain_types_know_nothing_of_serialisation() {
    let derives = |text: &str| {
        let lines = text.lines().filter(|l| l.trim_start().starts_with("#[derive("));
        lines.filter(|l| l.contains("Serialize") || l.contains("Deserialize")).count()
    };
    let bad = files("policy/src", "rs").into_iter().filter(|(_, text)| derives(text) > 0);
    none(&bad.map(|(name, _)| format!("{name}: shapes belong to the edge")).collect::<Vec<_>>());
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    for (name, ..) in CRATES {
        let manifest = manifest(name);
        let lints = manifest.get("lints").and_then(|l| l.get("workspace"));
        assert_eq!(lints.and_then(toml::Value::as_bool), Some(true), "{name}");
    }
}

#[test]
fn every_module_says_why_it_exists() {
    let silent = sources().into_iter().filter(|(_, text)| !text.starts_with("//! "));
    none(&silent.map(|(name, _)| format!("{name} begins without `//!`")).collect::<Vec<_>>());
}

#[test]
fn files_are_small() {
    let mut bad = Vec::new();
    for (name, text) in sources() {
        let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let lines = code.lines().count();
        if lines > MOST_LINES {
            bad.push(format!("{name} has {lines} lines without tests: split it"));
        }
    }
    none(&bad);
}

#[test]
fn lines_are_short() {
    let mut bad = Vec::new();
    for (name, text) in sources() {
        let long = text.lines().enumerate().filter(|(_, l)| l.chars().count() > MOST_COLUMNS);
        bad.extend(long.map(|(n, _)| format!("{name}:{}", n + 1)));
    }
    none(&bad);
}

#[test]
fn nothing_is_left_for_later_in_silence() {
    // In two pieces, so that this file does not name itself.
    let words = [("#[ig", "nore"), ("to", "do!("), ("unimpl", "emented!("), ("db", "g!(")];
    let words = words.map(|(a, b)| format!("{a}{b}"));
    let mut bad = Vec::new();
    for (name, text) in sources() {
        for (n, line) in text.lines().enumerate() {
            if let Some(word) = words.iter().find(|w| line.contains(*w)) {
                bad.push(format!("{name}:{}: {word}", n + 1));
            }
        }
    }
    none(&bad);
}

/// The lines of a document that are not in a block, with their number.
fn prose(text: &str) -> Vec<(usize, &str)> {
    let mut in_block = false;
    let mut lines = Vec::new();
    for (n, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            lines.push((n + 1, line));
        }
    }
    lines
}

/// The inline code of a document: what stands between single backticks.
fn inline_code(text: &str) -> Vec<(usize, &str)> {
    let lines = prose(text).into_iter();
    lines.flat_map(|(n, l)| l.split('`').skip(1).step_by(2).map(move |c| (n, c))).collect()
}

/// True for what can only be meant as a path of the repository.
fn looks_like_a_path(code: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    let below = |top: &str| code.strip_prefix(top).is_some_and(|rest| rest.starts_with('/'));
    let tops = CRATES.iter().map(|c| c.0).chain(["docs", ".ci"]);
    let at_top = ["README.md", "LICENSE", "Makefile", "Cargo.toml", "Cargo.lock", "rustfmt.toml"];
    code.chars().all(plain) && (at_top.contains(&code) || tops.into_iter().any(below))
}

#[test]
fn every_path_named_in_the_documents_exists() {
    let mut bad = Vec::new();
    let mut named = 0;
    for (name, text) in documents() {
        for (line, code) in inline_code(&text) {
            if looks_like_a_path(code) {
                named += 1;
                if !root().join(code).exists() {
                    bad.push(format!("{name}:{line}: `{code}` does not exist"));
                }
            }
        }
    }
    none(&bad);
    assert!(named > 50, "only {named} paths were recognised");
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let mut bad = Vec::new();
    for (name, text) in documents() {
        let from = root().join(&name);
        // What stands between backticks is no link.
        let plain = |line: &str| line.split('`').step_by(2).collect::<String>();
        let plain: String = prose(&text).into_iter().map(|(_, l)| plain(l) + "\n").collect();
        for target in plain.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            let outside = target.contains("://") || file.is_empty();
            if !outside && !from.parent().expect("a directory").join(file).exists() {
                bad.push(format!("{name}: ({target}) leads nowhere"));
            }
        }
    }
    none(&bad);
}

#[test]
fn every_module_is_on_the_map() {
    let map = std::fs::read_to_string(root().join("docs/ARCHITECTURE.md")).expect("the map");
    let mut bad = Vec::new();
    for (name, ..) in CRATES {
        let source = root().join(name).join("src");
        for entry in std::fs::read_dir(&source).expect("a crate has src") {
            let path = entry.expect("an entry").path();
            let short = path.strip_prefix(root()).expect("below the root").display().to_string();
            let is_module = path.is_dir() || path.extension().is_some_and(|e| e == "rs");
            if is_module && !short.ends_with("/lib.rs") && !map.contains(&format!("`{short}`")) {
                bad.push(format!("docs/ARCHITECTURE.md does not say what `{short}` is"));
            }
        }
    }
    none(&bad);
}

#[test]
fn decisions_are_numbered_and_complete() {
    let records = files("docs/adr", "md");
    let mut numbers = BTreeSet::new();
    for (name, text) in &records {
        // A number may be missing, never taken twice.
        let number = name.trim_start_matches("docs/adr/").split_once('-').map(|(n, _)| n);
        let number = number.filter(|n| n.len() == 4).and_then(|n| n.parse::<u32>().ok());
        assert!(numbers.insert(number.expect("a number of four digits")), "{name}: taken");
        for part in ["## Context", "## Decision", "## Consequences", "## Proof"] {
            assert!(text.contains(&format!("\n{part}\n")), "{name} lacks `{part}`");
        }
    }
    assert!(!records.is_empty());
}

#[test]
fn the_version_has_its_place_in_the_changelog() {
    let version = manifest("")["workspace"]["package"]["version"].clone();
    let log = std::fs::read_to_string(root().join("docs/CHANGELOG.md")).expect("the changelog");
    let title = format!("\n## {}", version.as_str().expect("a version"));
    assert!(log.contains(&title), "no section{title}");
}
