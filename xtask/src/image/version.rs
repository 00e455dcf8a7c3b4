//! One name for an image, by which the image itself, its screen and its node's reports can be told from all
//! others: `0.1.0+g3a087a6d2b1f`, the state of the repository, and behind it what else makes it another image
//! than that state's: `.changed.HASH`, `.newest.HASH`, `.stock-guest`, `.release.HASH`, `.firmware`.
//!
//! What follows the `+` is build metadata (<https://semver.org>, 10).

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::stage::Key;
use super::{NonFree, Purpose};
use crate::debian::lock::Lock;
use crate::program;

/// Enough to name a state of any repository (git's own choice for Linux).
const COMMIT: usize = 12;
const HASH: usize = 8;

/// `used`: the packages that the image is made from; `locked`: those that the repository names.
pub fn of(
    repository: &Path,
    purpose: &Purpose,
    non_free: NonFree,
    locked: &Lock,
    used: &Lock,
) -> Result<String> {
    let mut version = format!("{}+", env!("CARGO_PKG_VERSION"));
    match commit(repository) {
        Some(commit) => {
            version.push_str(&format!("g{commit}"));
            if let Some(changes) = changes(repository)? {
                version.push_str(&format!(".changed.{}", short(&changes)));
            }
        }
        // An archive of the sources: what is in it nobody can say.
        None => version.push_str("nogit"),
    }
    if used != locked {
        version.push_str(&format!(".newest.{}", short(&toml::to_string(used)?)));
    }
    match purpose {
        Purpose::Development => {}
        Purpose::StockGuest => version.push_str(".stock-guest"),
        Purpose::Release(grid) => {
            version.push_str(&format!(".release.{}", short(&toml::to_string(grid)?)));
        }
    }
    Ok(non_free.mark(&version, '.'))
}

fn short(text: &str) -> String {
    Key::new(text).hex()[..HASH].to_owned()
}

pub fn git(repository: &Path) -> Command {
    let mut git = Command::new("git");
    // Whose the folder is says nothing of what is in it; the tests run as root in anybody's clone.
    git.arg("-c").arg("safe.directory=*");
    git.arg("-C").arg(repository);
    git
}

/// Whether anything differs from the last commit.
pub fn is_changed(repository: &Path) -> Result<bool> {
    Ok(changes(repository)?.is_some())
}

fn commit(repository: &Path) -> Option<String> {
    if let Some((commit, _)) = stated(repository) {
        return Some(commit);
    }
    let length = format!("--short={COMMIT}");
    let commit = program::run(git(repository).args(["rev-parse", &length, "HEAD"])).ok()?;
    Some(commit.trim().to_owned())
}

/// When it was committed, in seconds since 1970.
fn committed(repository: &Path) -> Option<i64> {
    if let Some((_, time)) = stated(repository) {
        return Some(time);
    }
    let time = program::run(git(repository).args(["log", "-1", "--format=%ct"])).ok()?;
    time.trim().parse().ok()
}

/// In a release's sources, which have no repository, this file says of what commit they are, and of when.
pub const STATED: &str = "COMMIT";

fn stated(repository: &Path) -> Option<(String, i64)> {
    let text = fs::read_to_string(repository.join(STATED)).ok()?;
    let (commit, time) = text.trim().split_once(' ')?;
    Some((commit.to_owned(), time.parse().ok()?))
}

/// What [`STATED`] is to say.
pub fn statement(repository: &Path) -> Option<String> {
    let (commit, time) = (commit(repository)?, committed(repository)?);
    Some(format!("{commit} {time}\n"))
}

/// The day on which what is built was committed, in seconds since 1970: a moment that has passed before any node
/// runs it, and the same for everybody who builds it. 0 where nobody knows.
pub fn built(repository: &Path) -> i64 {
    const DAY: i64 = 24 * 3600;
    committed(repository).map_or(0, |committed| committed - committed % DAY)
}

/// All that differs from the commit: differences of known files, and unknown files that are not ignored.
fn changes(repository: &Path) -> Result<Option<String>> {
    if stated(repository).is_some() {
        // There is nothing to compare with: they are taken for what they say that they are.
        return Ok(None);
    }
    let mut changes =
        program::run(git(repository).args(["diff", "--binary", "--no-ext-diff", "HEAD"]))?;
    let list = [
        "ls-files",
        "--others",
        "--exclude-standard",
        "--full-name",
        "-z",
    ];
    let unknown = program::run(git(repository).args(list))?;
    for file in unknown.split_terminator('\0') {
        let bytes = fs::read(repository.join(file)).with_context(|| format!("reading {file}"))?;
        changes.push_str(&format!("{file} {}\n", Key::new("").with(bytes).hex()));
    }
    Ok((!changes.is_empty()).then_some(changes))
}

#[cfg(test)]
mod tests {
    use loam_chain::GridConfig;

    use super::*;

    fn repository() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let run = |arguments: &[&str]| {
            let identity = ["-c", "user.name=a", "-c", "user.email=a@b.example"];
            program::run(git(folder.path()).args(identity).args(arguments)).unwrap();
        };
        run(&["init", "--quiet"]);
        fs::write(folder.path().join(".gitignore"), "ignored\n").unwrap();
        fs::write(folder.path().join("file"), "one").unwrap();
        run(&["add", "."]);
        run(&["commit", "--quiet", "--message=first"]);
        folder
    }

    fn version(repository: &Path, purpose: &Purpose, used: &Lock) -> String {
        let without = NonFree::Without;
        of(repository, purpose, without, &Lock::default(), used).unwrap()
    }

    #[test]
    fn sources_of_a_release_are_called_as_the_repository_was() {
        let repository = repository();
        let (development, lock) = (Purpose::Development, Lock::default());
        let before = (
            version(repository.path(), &development, &lock),
            built(repository.path()),
        );
        assert!(before.1 > 0 && before.1 % 86_400 == 0);
        let sources = tempfile::tempdir().unwrap();
        let called = |folder: &Path| (version(folder, &development, &lock), built(folder));
        assert_eq!(called(sources.path()).1, 0);
        fs::write(
            sources.path().join(STATED),
            statement(repository.path()).unwrap(),
        )
        .unwrap();
        fs::write(sources.path().join("file"), "one").unwrap();
        assert_eq!(called(sources.path()), before);
    }

    #[test]
    fn the_state_of_the_repository_and_what_else_differs() {
        let folder = repository();
        let here = |purpose: &Purpose| version(folder.path(), purpose, &Lock::default());
        let plain = here(&Purpose::Development);
        let (number, commit) = plain.split_once("+g").unwrap();
        assert_eq!(number, env!("CARGO_PKG_VERSION"));
        assert_eq!(commit.len(), COMMIT, "{plain}");
        assert_eq!(here(&Purpose::StockGuest), format!("{plain}.stock-guest"));
        let with_firmware = |purpose: &Purpose| {
            let lock = Lock::default();
            of(folder.path(), purpose, NonFree::With, &lock, &lock).unwrap()
        };
        assert_eq!(
            with_firmware(&Purpose::Development),
            format!("{plain}.firmware")
        );
        let grid = |text: &str| Purpose::Release(toml::from_str::<GridConfig>(text).unwrap());
        let contract = "contract = '0x0000000000000000000000000000000000000001'\nendpoints = []\n";
        let [one, two] = ["chain_id = 1\n", "chain_id = 2\n"]
            .map(|chain| here(&grid(&format!("{chain}{contract}"))));
        assert!(one.starts_with(&format!("{plain}.release.")), "{one}");
        assert_ne!(one, two);
        let release = grid(&format!("chain_id = 1\n{contract}"));
        assert_eq!(with_firmware(&release), format!("{one}.firmware"));
        let files = |non_free| [Purpose::Development, release.clone()].map(|p| p.image(non_free));
        assert_eq!(files(NonFree::Without), ["loam", "loam-release"]);
        assert_eq!(
            files(NonFree::With),
            ["loam-firmware", "loam-release-firmware"]
        );
        let newer = Lock {
            suite: "sid".into(),
            ..Lock::default()
        };
        let newest = version(folder.path(), &Purpose::Development, &newer);
        assert!(newest.starts_with(&format!("{plain}.newest.")), "{newest}");
    }

    #[test]
    fn each_change_has_a_name_of_its_own_until_it_is_undone() {
        let folder = repository();
        let here = || version(folder.path(), &Purpose::Development, &Lock::default());
        let file = |name: &str| folder.path().join(name);
        let plain = here();
        let mut names = vec![plain.clone()];
        fs::write(file("ignored"), "x").unwrap();
        assert_eq!(here(), plain);
        fs::write(file("file"), "two").unwrap();
        names.push(here());
        fs::write(file("file"), "three").unwrap();
        names.push(here());
        fs::write(file("unknown"), "x").unwrap();
        names.push(here());
        fs::write(file("unknown"), "y").unwrap();
        names.push(here());
        for (at, name) in names.iter().enumerate() {
            assert_eq!(
                names.iter().position(|other| other == name),
                Some(at),
                "{names:?}"
            );
            assert_eq!(name.contains(".changed."), at > 0, "{name}");
        }
        fs::remove_file(file("unknown")).unwrap();
        fs::write(file("file"), "one").unwrap();
        assert_eq!(here(), plain);
    }

    #[test]
    fn an_archive_of_the_sources_says_that_it_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let version = version(folder.path(), &Purpose::Development, &Lock::default());
        assert_eq!(version, format!("{}+nogit", env!("CARGO_PKG_VERSION")));
    }
}
