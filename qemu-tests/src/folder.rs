//! Where a case's files are: `target/cases/CASE`, emptied when the case starts. `cargo xtask test`
//! removes it when the case has passed; after a failure it is there for a look.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::Context;

/// Those that this process has emptied already.
static EMPTIED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// The folder of the case that this thread runs.
pub fn of_case() -> anyhow::Result<PathBuf> {
    let base = match std::env::var_os("LOAM_CASES") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/cases"),
    };
    // The harness names the thread after the test.
    let name = match thread::current().name() {
        Some("main") | None => std::env::var("NEXTEST_TEST_NAME").unwrap_or("case".into()),
        Some(name) => name.to_owned(),
    };
    prepared(base.join(name.replace("::", ".")))
}

fn prepared(folder: PathBuf) -> anyhow::Result<PathBuf> {
    let mut emptied = EMPTIED.lock().unwrap_or_else(PoisonError::into_inner);
    if emptied.insert(folder.clone()) {
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("emptying {}", folder.display()));
            }
            _ => fs::create_dir_all(&folder)
                .with_context(|| format!("making {}", folder.display()))?,
        }
    }
    Ok(folder)
}

/// A new folder there: `KIND0`, `KIND1`, and so on.
pub fn new(kind: &str) -> anyhow::Result<PathBuf> {
    let case = of_case()?;
    for number in 0.. {
        let folder = case.join(format!("{kind}{number}"));
        match fs::create_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => {
                made.with_context(|| format!("making {}", folder.display()))?;
                return Ok(folder);
            }
        }
    }
    anyhow::bail!("no number is left for a folder of {}", case.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_run_left_goes_and_what_this_one_makes_stays() {
        let base = tempfile::tempdir().unwrap();
        let case = base.path().join("case");
        fs::create_dir_all(case.join("node0")).unwrap();
        assert_eq!(prepared(case.clone()).unwrap(), case);
        assert!(!case.join("node0").exists());
        fs::create_dir(case.join("node0")).unwrap();
        prepared(case.clone()).unwrap();
        assert!(case.join("node0").exists());
    }
}
