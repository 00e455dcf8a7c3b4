//! Each mutant of `qemu-tests/mutants` must be killed by the case that it names.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use tabled::{Table, Tabled, settings::Style};

use super::patch::Mutant;
use super::scratch::Scratch;
use crate::{phase, workspace};

/// What became of a mutant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Its case went red for the reason that it gives.
    Killed,
    Survived,
    /// Its case went red, and does not say what was expected.
    OtherReason,
    DoesNotApply,
    DoesNotBuild,
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Killed => "killed",
            Self::Survived => "SURVIVED: the case stays green",
            Self::OtherReason => "UNCLEAR: the case went red for another reason",
            Self::DoesNotApply => "STALE: the patch does not apply any more",
            Self::DoesNotBuild => "STALE: it does not build any more",
        })
    }
}

#[derive(Tabled)]
struct Row {
    mutant: String,
    case: String,
    #[tabled(rename = "what became of it")]
    fate: String,
}

/// Runs all mutants, or the one called `only`; an error if one of them is not killed.
pub fn run(only: Option<&str>) -> Result<()> {
    let mutants = chosen(Mutant::all(&folder())?, only)?;
    let place = workspace::target().join("mutants");
    let scratch = Scratch::new(workspace::root(), &place);
    let mut rows = Vec::new();
    let mut alive = Vec::new();
    for mutant in mutants {
        let log = place.join(format!("{}.log", mutant.name));
        let fate = phase::run(&format!("mutant {}", mutant.name), |phase| {
            let fate = try_one(&scratch, &mutant, &log, |what| phase.note(what))?;
            Ok::<_, anyhow::Error>((fate, fate.to_string()))
        })?;
        if fate != Fate::Killed {
            eprintln!("{}\n{}", mutant.what, log.display());
            alive.push(mutant.name.clone());
        }
        rows.push(Row {
            mutant: mutant.name,
            case: mutant.case,
            fate: fate.to_string(),
        });
    }
    println!("{}", Table::new(rows).with(Style::markdown()));
    ensure!(alive.is_empty(), "not killed: {}", alive.join(", "));
    Ok(())
}

fn folder() -> PathBuf {
    workspace::root().join("qemu-tests/mutants")
}

fn chosen(all: Vec<Mutant>, only: Option<&str>) -> Result<Vec<Mutant>> {
    let Some(only) = only else {
        return Ok(all);
    };
    let names: Vec<_> = all.iter().map(|mutant| mutant.name.clone()).collect();
    let chosen: Vec<_> = all
        .into_iter()
        .filter(|mutant| mutant.name == only || mutant.module() == only)
        .collect();
    if chosen.is_empty() {
        bail!(
            "{only} is neither a mutant nor the case of one; there are {}",
            names.join(", ")
        );
    }
    Ok(chosen)
}

fn try_one(
    scratch: &Scratch,
    mutant: &Mutant,
    log: &Path,
    note: impl Fn(&'static str),
) -> Result<Fate> {
    scratch.renew().context("copying the workspace")?;
    if let Err(said) = scratch.apply(&mutant.file)? {
        fs::write(log, said)?;
        return Ok(Fate::DoesNotApply);
    }
    note("building its image");
    if !succeeds(&mut scratch.xtask(&["image"]), log)? {
        return Ok(Fate::DoesNotBuild);
    }
    note("running its case");
    let mut case = scratch.xtask(&["test", "--case", &mutant.case]);
    let green = succeeds(&mut case, log)?;
    Ok(judge(green, &fs::read_to_string(log)?, &mutant.says))
}

/// Whether the command ends well; `log` is what it says.
fn succeeds(command: &mut Command, log: &Path) -> Result<bool> {
    let file = File::create(log).with_context(|| format!("making {}", log.display()))?;
    let status = command
        .stdout(file.try_clone()?)
        .stderr(file)
        .status()
        .context("running cargo")?;
    Ok(status.success())
}

fn judge(green: bool, said: &str, expected: &str) -> Fate {
    match (green, said.contains(expected)) {
        (true, _) => Fate::Survived,
        (false, true) => Fate::Killed,
        (false, false) => Fate::OtherReason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mutant(name: &str, case: &str) -> Mutant {
        Mutant {
            name: name.into(),
            file: "x.patch".into(),
            what: "x".into(),
            case: case.into(),
            says: "x".into(),
        }
    }

    #[test]
    fn red_counts_only_for_the_reason_given() {
        assert_eq!(judge(true, "came 1", "came 1"), Fate::Survived);
        assert_eq!(judge(false, "Error: came 1", "came 1"), Fate::Killed);
        assert_eq!(judge(false, "QEMU ended", "came 1"), Fate::OtherReason);
    }

    #[test]
    fn one_is_chosen_by_its_name_or_its_case() {
        let all = || vec![mutant("a", "reboot::x"), mutant("b", "alone::update")];
        let names = |only| {
            chosen(all(), only).map(|chosen| {
                let names = chosen.into_iter().map(|mutant| mutant.name);
                names.collect::<Vec<_>>()
            })
        };
        assert_eq!(names(None).unwrap(), ["a", "b"]);
        assert_eq!(names(Some("a")).unwrap(), ["a"]);
        assert_eq!(names(Some("update")).unwrap(), ["b"]);
        let error = names(Some("c")).unwrap_err().to_string();
        assert!(error.contains("there are a, b"), "{error}");
    }
}
