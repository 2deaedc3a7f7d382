//! Every kind of mistake against its golden text. `NETT_UPDATE=1` writes the texts anew.
#![expect(clippy::disallowed_methods, reason = "golden files are read and written")]

use std::collections::BTreeSet;
use std::path::Path;

use nett_fixtures::{Mistake, Text};
use nett_policy::document::{Code, Diagnostic, SourceFile, compile};

fn source(text: &Text) -> SourceFile {
    SourceFile::new(&text.name, &text.text)
}

fn diagnostics(mistake: &Mistake) -> Vec<Diagnostic> {
    compile(&source(&mistake.fabric), &source(&mistake.services))
        .expect_err("a directory of mistakes holds one")
}

/// One function for all golden files.
fn golden(path: &Path, actual: &str) -> Result<(), String> {
    if std::env::var_os("NETT_UPDATE").is_some_and(|v| v == "1") {
        std::fs::write(path, actual).map_err(|e| e.to_string())?;
        return Ok(());
    }
    let expected = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    if expected == actual {
        return Ok(());
    }
    Err(format!(
        "{} differs (NETT_UPDATE=1 rewrites it):\n--- expected\n{expected}--- actual\n{actual}",
        path.display()
    ))
}

#[test]
fn every_mistake_is_reported_as_written_down() {
    let mistakes = nett_fixtures::mistakes("mistakes").expect("the fixtures are readable");
    assert!(mistakes.len() >= 35);
    let mut wrong = Vec::new();
    for mistake in &mistakes {
        let rendered: Vec<String> = diagnostics(mistake).iter().map(|d| d.to_string()).collect();
        let path = mistake.directory.join("expected.txt");
        wrong.extend(golden(&path, &rendered.join("\n")).err());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_directory_named_after_a_code_shows_that_code() {
    for mistake in nett_fixtures::mistakes("mistakes").expect("the fixtures are readable") {
        let (_, code) = mistake.name.split_once('-').expect("number and code");
        let known = Code::ALL.iter().any(|c| c.as_str() == code);
        let found = diagnostics(&mistake);
        let shown = found.iter().any(|d| d.code.as_str() == code);
        assert!(!known || shown, "{} shows {found:#?}", mistake.name);
    }
}

/// Notes and the agent's own file have their tests elsewhere.
#[test]
fn every_code_of_the_two_files_has_a_mistake() {
    let elsewhere = [
        Code::NoFunctionYet,
        Code::Unreadable,
        Code::TableOverlap,
        Code::BadMarkMask,
        Code::BadKeyFile,
        Code::KeyMismatch,
        Code::BadFilter,
        Code::TsigKeyMissing,
        Code::ZoneKeyMissing,
    ];
    let mistakes = nett_fixtures::mistakes("mistakes").expect("the fixtures are readable");
    let shown: BTreeSet<Code> = mistakes.iter().flat_map(diagnostics).map(|d| d.code).collect();
    let missing: Vec<&Code> =
        Code::ALL.iter().filter(|c| !shown.contains(c) && !elsewhere.contains(c)).collect();
    assert!(missing.is_empty(), "no fixture shows {missing:?}");
}

#[test]
fn ten_mistakes_in_two_files_are_ten_and_more_diagnostics() {
    let mistakes = nett_fixtures::mistakes("mistakes").expect("the fixtures are readable");
    let ten = mistakes.iter().find(|m| m.name.ends_with("ten-at-once"));
    let found = diagnostics(ten.expect("the fixture is there"));
    let files: BTreeSet<&str> = found.iter().map(|d| d.file.as_str()).collect();
    assert_eq!(files, BTreeSet::from(["fabric.toml", "services.toml"]));
    assert!(found.len() >= 10, "{found:#?}");
}
