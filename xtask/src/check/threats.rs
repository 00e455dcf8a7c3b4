//! `docs/threats.md` names tests: each is there, and the slow ones are told as such.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::workspace;

/// What follows the name of a test that runs in `cargo xtask test --all` alone.
const SLOW: &str = " (`--all`)";

/// Tests and cases by name, and whether they are slow.
type Tests = BTreeMap<String, bool>;

/// What is wrong with a name in a row's last cell, and the text behind it.
fn wrong(tests: &Tests, mutants: &Path, name: &str, behind: &str) -> Option<String> {
    if name == "--all" {
        return None;
    }
    if name.contains('-') {
        let patch = mutants.join(format!("{name}.patch"));
        return (!patch.exists()).then(|| format!("there is no mutant `{name}`"));
    }
    // Whole first: one name may be a part of another.
    let slow = match tests.get(name) {
        Some(slow) => *slow,
        None => {
            let mut found = tests.iter().filter(|(test, _)| test.contains(name));
            let Some((_, slow)) = found.next() else {
                return Some(format!("there is no test `{name}`"));
            };
            if let Some((other, _)) = found.next() {
                return Some(format!("`{name}` may also be {other}"));
            }
            *slow
        }
    };
    (slow != behind.starts_with(SLOW)).then(|| match slow {
        true => format!("`{name}` is slow, and{SLOW} is not behind it"),
        false => format!("`{name}` is not slow"),
    })
}

/// Names in backticks, each with the text behind it.
fn names(cell: &str) -> Vec<(&str, &str)> {
    let ticks: Vec<_> = cell.match_indices('`').map(|(at, _)| at).collect();
    let pairs = ticks.chunks_exact(2);
    pairs
        .map(|pair| (&cell[pair[0] + 1..pair[1]], &cell[pair[1] + 1..]))
        .collect()
}

/// Adds the tests of all sources below a folder.
fn collect(folder: &Path, tests: &mut Tests) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            collect(&path, tests);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            read(&fs::read_to_string(&path).unwrap(), tests);
        }
    }
}

/// Adds the tests of one source, and the cases that its `shared_cases!` lists.
fn read(source: &str, tests: &mut Tests) {
    let (mut is_test, mut is_slow, mut in_cases) = (false, false, false);
    for line in source.lines().map(str::trim) {
        let word = line.trim_end_matches([',', '{', ' ']);
        let function = line.trim_start_matches("async ").strip_prefix("fn ");
        if line.starts_with("#[") {
            is_test |= line.contains("test]") || line.contains("test(");
            is_slow |= line.starts_with("#[ignore = \"slow");
        } else if let (true, Some(function)) = (is_test, function) {
            let end = function.find(['(', '<']).unwrap_or(function.len());
            tests.insert(function[..end].to_owned(), is_slow);
            (is_test, is_slow) = (false, false);
        } else if line.contains("shared_cases! {") {
            in_cases = true;
        } else if in_cases && line.ends_with(',') {
            tests.insert(word.to_owned(), is_slow);
        } else if !(line.starts_with("//") || in_cases && line.ends_with('{')) {
            (is_test, is_slow) = (false, false);
        }
    }
}

#[test]
fn each_test_that_threats_are_answered_with_is_there_and_told_if_it_is_slow() {
    let root = workspace::root();
    let mut tests = Tests::new();
    collect(&root, &mut tests);
    let cases = root.join("qemu-tests");
    for entry in fs::read_dir(cases.join("cases")).unwrap() {
        // A case is also called by its file, which holds no more than one of each speed.
        let path = entry.unwrap().path();
        if path.is_dir() {
            // Many cases, each called by its own name.
            continue;
        }
        let mut own = Tests::new();
        read(&fs::read_to_string(&path).unwrap(), &mut own);
        if !own.is_empty() && !path.ends_with("main.rs") {
            let name = path.file_stem().unwrap().to_str().unwrap();
            tests.insert(name.to_owned(), own.values().all(|slow| *slow));
        }
    }
    let table = fs::read_to_string(root.join("docs/threats.md")).unwrap();
    for patch in fs::read_dir(cases.join("mutants")).unwrap() {
        let patch = patch.unwrap().path();
        let name = patch.file_stem().unwrap().to_str().unwrap();
        assert!(table.contains(&format!("`{name}`")), "{name} has no row");
    }
    let rows = table.lines().filter_map(|line| line.strip_suffix(" |"));
    let cells: Vec<_> = rows
        .filter_map(|row| Some(row.rsplit_once(" | ")?.1))
        .collect();
    assert!(cells.len() > 100, "{} rows", cells.len());
    let wrong: Vec<_> = cells
        .into_iter()
        .flat_map(names)
        .filter_map(|(name, behind)| wrong(&tests, &cases.join("mutants"), name, behind))
        .collect();
    assert!(wrong.is_empty(), "docs/threats.md:\n{}", wrong.join("\n"));
}
