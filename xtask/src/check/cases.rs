//! The tests that boot nodes (`qemu-tests/cases`) and the slow ones of all rooms: what they run
//! with, where their files are, and what is kept of their results.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, ensure};

use super::nextest::{self, Event, Name, Outcome, Run, Scope, Test};
use super::record::{self, Record};
use super::temporary;
use crate::image::{self, Image, stage::Key};
use crate::qemu::accel::{Choice, VARIABLE};
use crate::{qemu, workspace};

/// The binary that holds the cases.
pub const CASES: &str = "binary_id(qemu-tests::cases)";

/// How the names of the cases' binary begin in messages.
const PREFIX: &str = "qemu-tests::cases$";

/// Cases that also run in `shared`, on one node; here each has its own, to be asked for by name.
const ALONE: &str = "test(/^alone::/)";

/// Where the cases keep their files, each in a folder of its name.
pub fn folder() -> PathBuf {
    workspace::target().join("cases")
}

/// The cases of every day, on the image as it is now.
pub fn run() -> Result<Outcome> {
    let (image, _) = image::build_all()?;
    run_chosen(
        &image,
        Scope::Cases,
        &[],
        &format!("{CASES} - {ALONE}"),
        None,
        |_| Ok(()),
    )
}

/// The cases of every day and all slow tests, without those that have passed with the same bytes.
pub fn run_all(deadline: Instant) -> Result<Outcome> {
    let (image, _) = image::build_all()?;
    let tests = nextest::list(Scope::Workspace, &format!("all() - {ALONE}"))?;
    let tests: Vec<Test> = tests
        .into_iter()
        .filter(|test| test.ignored || test.name.starts_with(PREFIX))
        .collect();
    let record = Record::open(
        workspace::target().join("passed-tests"),
        &tests,
        &surroundings(&image)?,
    )?;
    let mut outcome = Outcome::default();
    let mut left = Vec::new();
    for test in &tests {
        match record.passed(test) {
            Some(kept) => {
                println!("✓ kept: {} ({:.1} s)", kept.name, kept.seconds);
                outcome.passed.push((kept.name, kept.seconds));
            }
            None => left.push(test.filter.as_str()),
        }
    }
    println!(
        "{} of {} tests are kept from runs with the same bytes, {} run now",
        outcome.passed.len(),
        tests.len(),
        left.len()
    );
    if left.is_empty() {
        return Ok(outcome);
    }
    let run = run_chosen(
        &image,
        Scope::Workspace,
        &["--run-ignored=all"],
        &left.join(" | "),
        Some(deadline),
        |event| record.note(event),
    )?;
    let done = run.passed.len() + run.failed.len();
    outcome.passed.extend(run.passed);
    outcome.failed = run.failed;
    if run.stopped {
        outcome.failed.push(format!(
            "the time is over and {} tests are left; the same command goes on with them",
            left.len() - done
        ));
    }
    Ok(outcome)
}

/// The cases whose names contain `name`, slow or not, each on a node of its own.
pub fn run_named(name: &str) -> Result<Outcome> {
    let known = nextest::list(Scope::Cases, CASES)?;
    let chosen: Vec<&Test> = known
        .iter()
        .filter(|test| test.short.contains(name))
        .collect();
    ensure!(
        !chosen.is_empty(),
        "no case has `{name}` in its name; there are\n  {}",
        names(&known).join("\n  ")
    );
    let (image, _) = image::build_all()?;
    let filters: Vec<&str> = chosen.iter().map(|test| test.filter.as_str()).collect();
    let mut how = vec!["--run-ignored=all"];
    if chosen.len() == 1 {
        // There is one to watch.
        how.push("--no-capture");
    }
    run_chosen(
        &image,
        Scope::Cases,
        &how,
        &filters.join(" | "),
        None,
        |_| Ok(()),
    )
}

/// Prints the cases' names.
pub fn print_list() -> Result<()> {
    for name in names(&nextest::list(Scope::Cases, CASES)?) {
        println!("{name}");
    }
    Ok(())
}

fn names(tests: &[Test]) -> Vec<String> {
    let line = |test: &Test| match (test.short.strip_prefix("alone::"), test.ignored) {
        (Some(_), _) => format!("{} (also in `shared`)", test.short),
        (None, true) => format!("{} (slow: only in --all)", test.short),
        (None, false) => test.short.clone(),
    };
    tests.iter().map(line).collect()
}

fn run_chosen(
    image: &Image,
    scope: Scope,
    how: &[&str],
    filter: &str,
    deadline: Option<Instant>,
    mut each: impl FnMut(&Event) -> Result<()>,
) -> Result<Outcome> {
    let temporary = folder().join("tmp");
    temporary::begin(&temporary)?;
    let programs = image::daemons::folder(image::daemons::Profile::Work);
    // Tried once, not by each case.
    let accel = Choice::of_environment()?.decide(&image::linux());
    let run = Run {
        scope,
        arguments: how
            .iter()
            .map(|argument| (*argument).to_owned())
            .chain([
                "--status-level=pass".into(),
                "--filterset".into(),
                filter.into(),
            ])
            .collect(),
        environment: vec![
            ("LOAM_IMAGE", image.disk.clone()),
            ("LOAM_HELLO", programs.join("hello")),
            ("LOAM_CLI", programs.join("loam")),
            ("LOAM_CASES", folder()),
            ("TMPDIR", temporary.clone()),
            (VARIABLE, accel.to_string().into()),
        ],
        deadline,
    };
    let mut parts = Vec::new();
    let mut failed = None;
    let mut outcome = run.run(|event| {
        let settled = settle(&folder(), event).and_then(|shared| {
            parts.extend(shared);
            each(event)
        });
        // The tests that still run are not to blame.
        failed = failed.take().or(settled.err());
    })?;
    temporary::end(&temporary)?;
    if let Some(error) = failed {
        return Err(error);
    }
    outcome.passed.extend(parts);
    for name in outcome
        .failed
        .iter()
        .filter_map(|name| own_folder(&folder(), name))
    {
        if name.exists() {
            eprintln!("its files are in {}", name.display());
        }
    }
    Ok(outcome)
}

/// The folder of a case that passed goes, that of one that failed stays. Gives how long the parts of
/// a case took that it noted there.
fn settle(folder: &Path, event: &Event) -> Result<Vec<(Name, f64)>> {
    let Event::Passed(name, _) = event else {
        return Ok(Vec::new());
    };
    let Some(own) = own_folder(folder, name) else {
        return Ok(Vec::new());
    };
    let noted = fs::read_to_string(own.join("parts")).unwrap_or_default();
    workspace::remove(&own)?;
    let part = |line: &str| {
        let (seconds, part) = line.split_once(' ')?;
        Some((format!("{name}: {part}"), seconds.parse().ok()?))
    };
    Ok(noted.lines().filter_map(part).collect())
}

/// As the framework names it (`qemu_tests::folder`).
fn own_folder(folder: &Path, name: &str) -> Option<PathBuf> {
    let short = name.strip_prefix(PREFIX)?;
    Some(folder.join(short.replace("::", ".")))
}

/// All that a test's result depends on beside its own binary.
fn surroundings(image: &Image) -> Result<Key> {
    let programs = image::daemons::folder(image::daemons::Profile::Work);
    let mut files = BTreeSet::from([
        image.disk.clone(),
        programs.join("hello"),
        programs.join("loam"),
    ]);
    for entry in fs::read_dir(workspace::root().join("examples"))? {
        let file = entry?.path();
        if file.is_file() {
            files.insert(file);
        }
    }
    let version = Command::new(qemu::PROGRAM).arg("--version").output()?;
    let accel = Choice::of_environment()?;
    let mut key = Key::new("tests")
        .with(version.stdout)
        .with(format!("{accel:?}"));
    for file in files {
        key = key.with(record::hash(&file)?);
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_a_failed_case_stays() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("update.a_new_version");
        let name = "qemu-tests::cases$update::a_new_version".to_owned();
        fs::create_dir(&own).unwrap();
        fs::write(own.join("parts"), "1.5 first\n2.5 second\n").unwrap();

        settle(folder.path(), &Event::Failed(name.clone())).unwrap();
        assert!(own.exists());
        let parts = settle(folder.path(), &Event::Passed(name.clone(), 4.0)).unwrap();
        assert_eq!(parts[1], (format!("{name}: second"), 2.5));
        assert!(!own.exists());
        // Others have no folder.
        settle(folder.path(), &Event::Passed("a::b$c".into(), 1.0)).unwrap();
    }
}
