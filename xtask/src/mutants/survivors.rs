//! `cargo mutants` over the files whose functions only compute: what their unit tests miss.
//!
//! A survivor that changes nothing that matters is accepted with its reason in a table of
//! docs/contributor.md; every other one is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use tabled::{Table, Tabled, settings::Style};

use super::scratch::Scratch;
use crate::workspace;

/// Files, and folders with all that is below them.
const PURE: [&str; 79] = [
    "deployment/src",
    "noded/src/actual.rs",
    "noded/src/address.rs",
    "noded/src/admit.rs",
    "noded/src/admit",
    "noded/src/backoff.rs",
    "noded/src/bucket.rs",
    "noded/src/budget.rs",
    "noded/src/complaint.rs",
    "noded/src/course.rs",
    "noded/src/desired.rs",
    "noded/src/farm.rs",
    "noded/src/fingerprint.rs",
    "noded/src/ledger.rs",
    "noded/src/ledger",
    "noded/src/network_test/outcome.rs",
    "noded/src/owned.rs",
    "noded/src/plan",
    "noded/src/reach.rs",
    "noded/src/registration.rs",
    "noded/src/report.rs",
    "noded/src/retry.rs",
    "noded/src/screen.rs",
    "noded/src/step.rs",
    "netd/src/firewall/encode.rs",
    "netd/src/firewall/expression.rs",
    "netd/src/firewall/icmp.rs",
    "netd/src/firewall/machine.rs",
    "netd/src/firewall/network.rs",
    "netd/src/firewall/node.rs",
    "netd/src/firewall/table.rs",
    "netd/src/name.rs",
    "netd/src/state.rs",
    "netd/src/transit.rs",
    "netd/src/uplink/dhcp/machine.rs",
    "netd/src/uplink/dhcp/message.rs",
    "netd/src/uplink/dhcp/state.rs",
    "netd/src/uplink/dhcp/terms.rs",
    "netd/src/uplink/dhcp/timing.rs",
    "netd/src/uplink/election.rs",
    "netd/src/uplink/misgivings.rs",
    "init/src/guest/health/judge.rs",
    "init/src/guest/identity.rs",
    "oci/src/challenge.rs",
    "oci/src/host.rs",
    "oci/src/json.rs",
    "oci/src/login.rs",
    "oci/src/manifest.rs",
    "oci/src/mirror.rs",
    "oci/src/pause.rs",
    "oci/src/platform.rs",
    "oci/src/resolve.rs",
    "oci/src/transfer.rs",
    "screen/src/app.rs",
    "screen/src/condition.rs",
    "screen/src/home.rs",
    "screen/src/pace.rs",
    "screen/src/paint.rs",
    "screen/src/qr.rs",
    "screen/src/text.rs",
    "storaged/src/duplicate.rs",
    "storaged/src/given_up.rs",
    "storaged/src/header.rs",
    "storaged/src/image/erofs",
    "storaged/src/image/healthcheck.rs",
    "storaged/src/image/pax.rs",
    "storaged/src/image/posix_acl.rs",
    "storaged/src/image/sparse.rs",
    "storaged/src/image/tarball.rs",
    "storaged/src/image/tree.rs",
    "storaged/src/image/ustar.rs",
    "storaged/src/known.rs",
    "storaged/src/ledger.rs",
    "storaged/src/mounts.rs",
    "storaged/src/original.rs",
    "storaged/src/search.rs",
    "storaged/src/set.rs",
    "storaged/src/takeover.rs",
    "storaged/src/whereabouts.rs",
];

/// The heading of docs/contributor.md below which the accepted survivors stand.
const HEADING: &str = "## Mutants that may live";

/// Of the mutants of a package, this many in a hundred may live at most, reasons or not.
const MOST_ALIVE: usize = 3;

/// cargo-mutants' exit statuses for "all are caught", "some are missed" and "some took too long".
const DONE: [i32; 3] = [0, 2, 3];

#[derive(Tabled)]
struct Row {
    package: String,
    mutants: usize,
    #[tabled(rename = "do not build")]
    unviable: usize,
    caught: usize,
    alive: usize,
}

/// Over `files` and folders, relative to the workspace; over [`PURE`] if there are none.
pub fn run(files: &[String]) -> Result<()> {
    let installed = Command::new("cargo")
        .args(["mutants", "--version"])
        .output();
    ensure!(
        installed.is_ok_and(|output| output.status.success()),
        "cargo-mutants is not installed: `cargo install --locked cargo-mutants`"
    );
    let chosen: Vec<&str> = if files.is_empty() {
        PURE.to_vec()
    } else {
        files.iter().map(String::as_str).collect()
    };
    let place = workspace::target().join("mutants");
    let scratch = Scratch::new(workspace::root(), &place);
    scratch.renew().context("copying the workspace")?;

    let mut rows = Vec::new();
    let mut alive = Vec::new();
    let mut too_many = Vec::new();
    for (package, part) in by_package(&workspace::root(), &chosen)? {
        let first = ask(&scratch, &package, &part, &place.join(&package), &[])?;
        // What few cases of a property miss, many may find.
        let missed = if first.missed.is_empty() {
            Vec::new()
        } else {
            let again = place.join(format!("{package}-again"));
            ask(&scratch, &package, &part, &again, &first.missed)?.missed
        };
        let Asked {
            viable, unviable, ..
        } = first;
        if missed.len() * 100 > viable * MOST_ALIVE {
            too_many.push(format!("{} of {viable} in {package}", missed.len()));
        }
        rows.push(Row {
            package,
            mutants: viable + unviable,
            unviable,
            caught: viable - missed.len(),
            alive: missed.len(),
        });
        alive.extend(missed);
    }
    println!("{}", Table::new(rows).with(Style::markdown()));

    let book = workspace::root().join("docs/contributor.md");
    let book = fs::read_to_string(&book).with_context(|| format!("reading {}", book.display()))?;
    let verdict = compare(&alive, &accepted(&book)?);
    for survivor in &verdict.unexplained {
        println!("nobody notices: {survivor}");
    }
    for name in verdict.dead.iter().filter(|name| is_chosen(name, &chosen)) {
        println!("docs/contributor.md accepts it, and it is noticed now: {name}");
    }
    ensure!(
        verdict.unexplained.is_empty(),
        "{} mutants live without a reason below `{HEADING}` of docs/contributor.md",
        verdict.unexplained.len()
    );
    ensure!(
        too_many.is_empty(),
        "more than {MOST_ALIVE} % live: {}",
        too_many.join(", ")
    );
    Ok(())
}

/// What became of the mutants of a package.
struct Asked {
    viable: usize,
    unviable: usize,
    /// As cargo-mutants names them.
    missed: Vec<String>,
}

/// Has its tests judge a package's mutants, or those called `only`; what is found is written to `output`.
fn ask(
    scratch: &Scratch,
    package: &str,
    part: &Part,
    output: &Path,
    only: &[String],
) -> Result<Asked> {
    fs::create_dir_all(output)?;
    let status = command(scratch, package, part, output, only)
        .status()
        .context("running cargo mutants")?;
    ensure!(
        status.code().is_some_and(|code| DONE.contains(&code)),
        "cargo mutants for {package} ended with {status}"
    );
    let list = |name: &str| lines(&output.join("mutants.out").join(name));
    let missed = list("missed.txt")?;
    // A test that never ends is noticed, too.
    let caught = list("caught.txt")?.len() + list("timeout.txt")?.len();
    Ok(Asked {
        viable: caught + missed.len(),
        unviable: list("unviable.txt")?.len(),
        missed,
    })
}

/// In the copy, which is there to be changed: what is built once serves every run.
fn command(
    scratch: &Scratch,
    package: &str,
    part: &Part,
    output: &Path,
    only: &[String],
) -> Command {
    let mut mutants = scratch.cargo();
    mutants
        .args(["mutants", "--in-place", "--cap-lints", "true"])
        // Also when it only builds: the tests that are not asked take most of the time to link.
        .arg(format!("--cargo-arg={}", part.tests))
        // Of many tests the first that fails decides, and those that only wait do so together.
        .args(["--test-tool", "nextest", "--package", package, "--output"])
        .arg(output)
        .env("CARGO_PROFILE_TEST_DEBUG", "0");
    if only.is_empty() {
        // Of hundreds of mutants nearly all are caught by a few cases.
        mutants.env("PROPTEST_CASES", "16");
    }
    for name in only {
        mutants.arg(format!("--re=^{}$", regex_syntax::escape(name)));
    }
    for file in &part.files {
        mutants.args(["--file", file]);
    }
    mutants.args(["--", "--profile", "mutants"]).args([
        "--max-fail",
        "1:immediate",
        "--test-threads",
        "8",
    ]);
    mutants
}

/// What was chosen of a package.
#[derive(Debug, Default)]
struct Part {
    /// cargo-mutants' patterns.
    files: Vec<String>,
    /// An argument of `cargo nextest run`: the tests that only compute. What boots, mounts or asks the
    /// kernel lies beside them, and is not what is measured here.
    tests: &'static str,
}

/// What was chosen, by the name of its package.
fn by_package(root: &Path, chosen: &[&str]) -> Result<BTreeMap<String, Part>> {
    let mut packages = BTreeMap::<String, Part>::new();
    for path in chosen {
        let whole = root.join(path);
        ensure!(whole.exists(), "there is no {path} in the workspace");
        let folder = whole
            .ancestors()
            .take_while(|folder| *folder != root)
            .find(|folder| folder.join("Cargo.toml").exists())
            .with_context(|| format!("{path} is in no package"))?;
        let manifest = fs::read_to_string(folder.join("Cargo.toml"))?;
        let manifest: toml::Table = toml::from_str(&manifest)?;
        let name = manifest
            .get("package")
            .and_then(|package| package.get("name")?.as_str())
            .with_context(|| format!("{} has no package's name", folder.display()))?;
        let pattern = if whole.is_dir() {
            format!("{path}/**")
        } else {
            (*path).to_owned()
        };
        let part = packages.entry(name.to_owned()).or_default();
        part.files.push(pattern);
        // Of a crate that only computes, all tests do. Else, where there is a library, what only computes
        // is in it, and a program is not worth linking.
        let all = folder.join("src");
        let only_computes = PURE.iter().any(|pure| root.join(pure) == all);
        let tests = match folder.join("src/lib.rs").exists() {
            _ if only_computes => "--tests",
            true if !is_of_a_program(&manifest, folder, &whole) => "--lib",
            _ => "--bins",
        };
        ensure!(
            part.tests.is_empty() || part.tests == tests,
            "{path} has its tests in another part of {name} than the others: ask about it alone"
        );
        part.tests = tests;
    }
    Ok(packages)
}

/// Whether it lies in a folder of a program, beside those of the package's library.
fn is_of_a_program(manifest: &toml::Table, package: &Path, file: &Path) -> bool {
    let programs = manifest.get("bin").and_then(|bin| bin.as_array());
    let paths = programs.into_iter().flatten().filter_map(|program| {
        let path = program.get("path")?.as_str()?;
        package.join(path).parent().map(Path::to_owned)
    });
    let source = package.join("src");
    paths
        .filter(|folder| *folder != source)
        .any(|folder| file.starts_with(folder))
}

fn lines(file: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    Ok(text.lines().map(str::to_owned).collect())
}

#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    /// As cargo-mutants writes them, with their places.
    unexplained: Vec<String>,
    /// Names of accepted ones that did not survive.
    dead: Vec<String>,
}

/// `accepted` has how many mutants of a name may live.
fn compare(alive: &[String], accepted: &BTreeMap<String, usize>) -> Verdict {
    let mut left = accepted.clone();
    let mut unexplained = Vec::new();
    for survivor in alive {
        match left.get_mut(&name(survivor)) {
            Some(count) if *count > 0 => *count -= 1,
            _ => unexplained.push(survivor.clone()),
        }
    }
    left.retain(|_, count| *count > 0);
    Verdict {
        unexplained,
        dead: left.into_keys().collect(),
    }
}

/// `file: what`, without the line and the column, which move with every change.
fn name(mutant: &str) -> String {
    let mut parts = mutant.splitn(4, ':');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(file), Some(_), Some(_), Some(what)) => format!("{file}: {}", what.trim()),
        _ => mutant.to_owned(),
    }
}

/// The first cells of the table below [`HEADING`], each of which begins with a code span.
fn accepted(book: &str) -> Result<BTreeMap<String, usize>> {
    let (_, section) = book
        .split_once(HEADING)
        .with_context(|| format!("docs/contributor.md has no `{HEADING}`"))?;
    let section = section.split("\n## ").next().unwrap_or(section);
    let mut names = BTreeMap::new();
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let mut spans = row["| ".len()..].split('`');
        let (_, Some(name), Some(reason)) = (spans.next(), spans.next(), spans.next()) else {
            bail!("`{row}` has no mutant in backticks");
        };
        let reason = reason.trim_matches([' ', '|']);
        ensure!(!reason.is_empty(), "{name} is accepted without a reason");
        // In a table a bar is written so, also in code.
        *names.entry(name.replace(r"\|", "|")).or_default() += 1;
    }
    Ok(names)
}

fn is_chosen(name: &str, chosen: &[&str]) -> bool {
    let file = name.split(':').next().unwrap_or_default();
    let chosen: BTreeSet<&Path> = chosen.iter().map(Path::new).collect();
    Path::new(file)
        .ancestors()
        .any(|path| chosen.contains(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOK: &str = "# x\n\n## Mutants that may live\n\nText.\n\n| mutant | reason |\n|---|---|\n\
        | `a/src/b.rs: replace < with <= in c` | equal both ways |\n\
        | `a/src/b.rs: replace < with <= in c` | so is the second |\n\n## House rules\n\n| `d` | e |\n";

    #[test]
    fn a_survivor_needs_a_reason_wherever_it_stands() {
        let accepted = accepted(BOOK).unwrap();
        assert_eq!(accepted.len(), 1);
        let at = |line| format!("a/src/b.rs:{line}:7: replace < with <= in c");
        let other = "a/src/b.rs:1:2: delete ! in d::<e>".to_owned();
        let verdict = compare(&[at(3), other.clone()], &accepted);
        assert_eq!(verdict.unexplained, [other]);
        assert_eq!(verdict.dead, ["a/src/b.rs: replace < with <= in c"]);
        let verdict = compare(&[at(3), at(4), at(5)], &accepted);
        assert_eq!(verdict.unexplained, [at(5)]);
        assert!(verdict.dead.is_empty());
    }

    #[test]
    fn a_bar_in_a_name_is_no_end_of_its_cell() {
        let book = BOOK.replace("<=", r"\|");
        let accepted = accepted(&book).unwrap();
        assert_eq!(accepted["a/src/b.rs: replace < with | in c"], 2);
    }

    #[test]
    fn acceptance_needs_a_reason_and_its_place() {
        let without = BOOK.replace("equal both ways", "");
        let said = accepted(&without).unwrap_err().to_string();
        assert!(said.contains("without a reason"), "{said}");
        assert!(accepted("# nothing").is_err());
        assert!(accepted("## Mutants that may live\n").unwrap().is_empty());
    }

    #[test]
    fn what_was_not_tested_is_not_called_dead() {
        assert!(is_chosen("a/src/b.rs: x", &["a/src"]));
        assert!(is_chosen("a/src/b.rs: x", &["a/src/b.rs"]));
        assert!(!is_chosen("a/src/b.rs: x", &["a/src/c.rs"]));
    }

    #[test]
    fn the_pure_files_are_there() {
        let packages = by_package(&workspace::root(), &PURE).unwrap();
        assert_eq!(packages["loam-netd"].tests, "--bins");
        assert_eq!(packages["loam-deployment"].tests, "--tests");
        assert_eq!(packages["loam-storaged"].tests, "--lib");
        let names: Vec<_> = packages.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "loam-deployment",
                "loam-init",
                "loam-netd",
                "loam-noded",
                "loam-oci",
                "loam-screen",
                "loam-storaged"
            ]
        );
        let book = fs::read_to_string(workspace::root().join("docs/contributor.md")).unwrap();
        accepted(&book).unwrap();
        // Also of a part of it.
        let part = by_package(&workspace::root(), &["deployment/src/validate"]).unwrap();
        assert_eq!(part["loam-deployment"].tests, "--tests");
        // Of a package with a library and programs, either; both have no tests in common.
        let [guest, library] = ["init/src/guest/identity.rs", "init/src/service/backoff.rs"];
        for (file, tests) in [(guest, "--bins"), (library, "--lib")] {
            let part = by_package(&workspace::root(), &[file]).unwrap();
            assert_eq!(part["loam-init"].tests, tests);
        }
        let error = by_package(&workspace::root(), &[guest, library]).unwrap_err();
        assert!(error.to_string().contains("ask about it alone"), "{error}");
        let error = by_package(&workspace::root(), &["nowhere.rs"]).unwrap_err();
        assert!(error.to_string().contains("no nowhere.rs"), "{error}");
    }
}
