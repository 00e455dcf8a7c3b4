//! The packages that an image is made from: those of `image/packages.lock`, or the suite's newest
//! where the archive has moved on.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};

use super::spec::Spec;
use super::stage::Key;
use super::{folder, relock};
use crate::debian::archive::{Archive, FetchError};
use crate::debian::lock::{self, Lock, Locked};
use crate::phase::Phase;

/// What to do about a locked package that the archive does not have any more: each point release
/// of Debian takes some away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// The suite's newest packages take the place of all, and everybody is told: so that work goes
    /// on meanwhile.
    Replace,
    /// An error: an image for others is made from what was committed.
    Refuse,
}

const RELOCK: &str =
    "`cargo xtask image --update-lock` chooses anew; commit the changed image/packages.lock";

/// Makes sure that the packages which are `needed` are in the cache. Gives all to use, and a remark.
pub fn ready(
    spec: &Spec,
    locked: Lock,
    gone: Gone,
    needed: impl Fn(&Locked) -> bool,
    phase: &Phase,
) -> Result<(Lock, String)> {
    let fetch = |lock: &Lock| {
        let packages: Vec<&Locked> = lock.packages.iter().filter(|one| needed(one)).collect();
        phase.note(format!("{} packages", packages.len()));
        lock::fetch(Archive::of_this_machine, &packages)
    };
    let newest = || {
        phase.note("the suite's newest packages");
        newest(spec, &locked, fetch)
    };
    let (replaced, bytes) = choose(gone, fetch, newest, &locked, |line| phase.say(line))?;
    let lock = replaced.unwrap_or(locked);
    let remark = match bytes {
        0 => format!("{} in the cache", lock.packages.len()),
        bytes => format!("{} fetched", super::sizes::mebibytes(bytes)),
    };
    Ok((lock, remark))
}

/// The packages to use instead, if any, and how many bytes were fetched.
fn choose(
    gone: Gone,
    fetch: impl Fn(&Lock) -> Result<u64, FetchError>,
    newest: impl FnOnce() -> Result<Lock>,
    locked: &Lock,
    say: impl Fn(&str),
) -> Result<(Option<Lock>, u64)> {
    let missing = match fetch(locked) {
        Ok(bytes) => return Ok((None, bytes)),
        Err(FetchError::Gone { labels, .. }) if gone == Gone::Replace => labels,
        Err(error @ FetchError::Gone { .. }) => return Err(anyhow!("{error}\n{RELOCK}")),
        Err(error) => return Err(error.into()),
    };
    let newest = newest().with_context(|| {
        format!("the archive does not have {missing} any more, and the newest cannot be had")
    })?;
    let bytes = fetch(&newest)?;
    say("┌─ NOT THE LOCKED PACKAGES");
    say(&format!(
        "│ image/packages.lock names what the archive does not have any more: {missing}."
    ));
    say("│ This image is made from the suite's newest instead, and is not for others:");
    for line in relock::changes(locked, &newest) {
        say(&format!("│ {line}"));
    }
    say(&format!("└─ {RELOCK}."));
    Ok((Some(newest), bytes))
}

/// What was chosen when this very lock failed before, as long as the archive has it; else the
/// newest of today.
fn newest(
    spec: &Spec,
    locked: &Lock,
    fetch: impl Fn(&Lock) -> Result<u64, FetchError>,
) -> Result<Lock> {
    let key = Key::new(&toml::to_string(locked)?).with(format!("{spec:?}"));
    let chosen = folder().join(format!("newest-{}.lock", &key.hex()[..16]));
    if let Ok(lock) = Lock::read(&chosen)
        && fetch(&lock).is_ok()
    {
        return Ok(lock);
    }
    let lock = relock::choose(spec, locked)?;
    write(&chosen, &lock)?;
    Ok(lock)
}

fn write(file: &Path, lock: &Lock) -> Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    lock.write(file)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    use super::*;
    use crate::debian::archive::Origin;
    use crate::debian::component::Component;

    fn lock(version: &str) -> Lock {
        Lock {
            suite: "trixie".into(),
            released: BTreeMap::new(),
            packages: vec![Locked {
                name: "kernel".into(),
                asked: None,
                version: version.into(),
                origin: Origin::Main,
                component: Component::Main,
                path: String::new(),
                size: 0,
                sha256: String::new(),
            }],
        }
    }

    /// An archive that has version 2 alone.
    fn only_two(lock: &Lock) -> Result<u64, FetchError> {
        match lock.packages[0].version.as_str() {
            "2" => Ok(7),
            _ => Err(FetchError::Gone {
                labels: "kernel 1".into(),
                apt: String::new(),
            }),
        }
    }

    #[test]
    fn a_package_that_is_gone_is_replaced_loudly() {
        let said = RefCell::new(Vec::new());
        let say = |line: &str| said.borrow_mut().push(line.to_owned());
        let (replaced, bytes) =
            choose(Gone::Replace, only_two, || Ok(lock("2")), &lock("1"), say).unwrap();
        assert_eq!((replaced, bytes), (Some(lock("2")), 7));
        let said = said.take().join("\n");
        for needle in ["NOT THE LOCKED", "kernel 1 -> 2", "--update-lock"] {
            assert!(said.contains(needle), "{said}");
        }
    }

    #[test]
    fn an_image_for_others_is_made_from_the_lock_alone() {
        let newest = || panic!("nobody asked for it");
        let error = choose(Gone::Refuse, only_two, newest, &lock("1"), |_| {}).unwrap_err();
        assert!(error.to_string().contains("--update-lock"), "{error}");
    }

    #[test]
    fn altered_bytes_are_never_replaced() {
        let altered = |_: &Lock| {
            Err(FetchError::Altered {
                labels: "kernel 1".into(),
                apt: String::new(),
            })
        };
        let newest = || panic!("it would trust whoever altered them");
        let error = choose(Gone::Replace, altered, newest, &lock("1"), |_| {}).unwrap_err();
        assert!(
            error.to_string().contains("do not update the lock"),
            "{error}"
        );
    }

    #[test]
    fn what_is_there_is_taken() {
        let newest = || panic!("nothing is gone");
        let (replaced, bytes) =
            choose(Gone::Replace, only_two, newest, &lock("2"), |_| {}).unwrap();
        assert_eq!((replaced, bytes), (None, 7));
    }
}
