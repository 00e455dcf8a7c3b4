//! [`Mutant`]: a patch with a few lines above it.
//!
//! ```text
//! What: the daemon that deletes volumes deletes all of them.
//! Case: reboot::after_a_power_cut_machine_and_data_come_back
//! Says: was acknowledged, then came
//!
//! diff --git a/storaged/src/volume.rs b/storaged/src/volume.rs
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// Where the diff begins.
const DIFF: &str = "diff --git ";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mutant {
    /// The file's name without `.patch`.
    pub name: String,
    pub file: PathBuf,
    /// What it breaks.
    pub what: String,
    /// The case that must go red, as `cargo xtask test --list` has it.
    pub case: String,
    /// A part of what the case says then: going red for another reason proves nothing.
    pub says: String,
}

impl Mutant {
    /// All patches of `folder` by name.
    pub fn all(folder: &Path) -> Result<Vec<Self>> {
        let mut mutants = Vec::new();
        let entries =
            fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
        for entry in entries {
            let file = entry?.path();
            if file.extension().is_some_and(|end| end == "patch") {
                mutants.push(Self::read(&file)?);
            }
        }
        mutants.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(mutants)
    }

    /// The module of `qemu-tests/cases` that has the case.
    pub fn module(&self) -> &str {
        let (first, rest) = self.case.split_once("::").unwrap_or((&self.case, ""));
        // Those that otherwise share a node.
        if first == "alone" { rest } else { first }
    }

    fn read(file: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        Self::parse(&name, file, &text).with_context(|| format!("in {}", file.display()))
    }

    fn parse(name: &str, file: &Path, text: &str) -> Result<Self> {
        let (head, _) = text
            .split_once(DIFF)
            .with_context(|| format!("there is no line that begins with `{DIFF}`"))?;
        let (mut what, mut case, mut says) = (None, None, None);
        for line in head.lines().filter(|line| !line.trim().is_empty()) {
            let (key, value) = line
                .split_once(": ")
                .with_context(|| format!("`{line}` is not of the form `Key: value`"))?;
            let slot = match key {
                "What" => &mut what,
                "Case" => &mut case,
                "Says" => &mut says,
                _ => bail!("`{key}` is not one of What, Case and Says"),
            };
            ensure!(
                slot.replace(value.trim().to_owned()).is_none(),
                "`{key}` stands there twice"
            );
        }
        Ok(Self {
            name: name.to_owned(),
            file: file.to_owned(),
            what: what.context("`What` is missing")?,
            case: case.context("`Case` is missing")?,
            says: says.context("`Says` is missing")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "What: a, b: c.\nCase: reboot\nSays: came 1\n\ndiff --git a/x b/x\n";

    fn parse(text: &str) -> Result<Mutant> {
        Mutant::parse("name", Path::new("name.patch"), text)
    }

    #[test]
    fn the_head_says_what_to_expect() {
        let mutant = parse(GOOD).unwrap();
        assert_eq!(mutant.what, "a, b: c.");
        assert_eq!(mutant.case, "reboot");
        assert_eq!(mutant.says, "came 1");
        assert_eq!(mutant.module(), "reboot");
        let mutant = parse(&GOOD.replace("reboot", "alone::update")).unwrap();
        assert_eq!(mutant.module(), "update");
    }

    #[test]
    fn a_head_that_is_not_whole_is_an_error() {
        for (from, to, error) in [
            ("Says: came 1\n", "", "`Says` is missing"),
            (
                "Case: reboot\n",
                "Case: a\nCase: b\n",
                "`Case` stands there twice",
            ),
            ("What", "Why", "`Why` is not one of What, Case and Says"),
            ("Says: ", "Says ", "is not of the form"),
            ("diff --git", "diff", "there is no line"),
        ] {
            let text = GOOD.replace(from, to);
            let said = parse(&text).unwrap_err().to_string();
            assert!(said.contains(error), "{text}: {said}");
        }
    }

    /// What is in the repository names cases that exist, applies, and to nothing but the product.
    #[test]
    fn our_patches_are_whole() {
        let root = crate::workspace::root();
        let tests = root.join("qemu-tests");
        let mutants = Mutant::all(&tests.join("mutants")).unwrap();
        assert!(!mutants.is_empty());
        for mutant in mutants {
            let module = mutant.module();
            let case = tests.join("cases").join(format!("{module}.rs"));
            let case = fs::read_to_string(&case)
                .unwrap_or_else(|error| panic!("{}: {}: {error}", mutant.name, case.display()));
            let (_, test) = mutant.case.split_once("::").unwrap();
            let named = case.contains(&format!("fn {test}()"));
            let shared = test == module && case.contains("pub fn case(");
            assert!(named || shared, "{}: no {}", mutant.name, mutant.case);
            assert!(
                case.contains(&mutant.says),
                "{}: its case does not say `{}`",
                mutant.name,
                mutant.says
            );
            let applies = std::process::Command::new("git")
                .args(["apply", "--check"])
                .arg(&mutant.file)
                .current_dir(&root)
                .output()
                .unwrap();
            assert!(
                applies.status.success(),
                "{} does not apply: {}",
                mutant.name,
                String::from_utf8_lossy(&applies.stderr)
            );
            let text = fs::read_to_string(&mutant.file).unwrap();
            for line in text.lines().filter_map(|line| line.strip_prefix("+++ b/")) {
                let tests = ["qemu-tests/", "xtask/", "examples/"];
                assert!(
                    !tests.iter().any(|room| line.starts_with(room)),
                    "{} changes {line}, which is no part of the product",
                    mutant.name
                );
            }
        }
    }
}
