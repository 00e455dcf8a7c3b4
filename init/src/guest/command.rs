//! What exactly is run: the program's file and its environment.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

/// What container engines set when the image does not.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    #[error("the command is empty")]
    Empty,
    #[error("`{0}` is not an environment variable; expected NAME=value")]
    Variable(String),
    #[error("`{program}` is in none of the folders of PATH ({path})")]
    NotFound { program: String, path: String },
}

/// The command's whole environment: `entries` (`NAME=value`, later ones win) over what every
/// machine has.
pub fn environment(
    entries: &[String],
    hostname: &str,
    home: &str,
) -> Result<BTreeMap<String, String>, CommandError> {
    let mut environment: BTreeMap<_, _> = [
        ("PATH", DEFAULT_PATH),
        ("HOSTNAME", hostname),
        ("HOME", home),
        // The console is one, though a plain one.
        ("TERM", "xterm"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    for entry in entries {
        let (name, value) = entry
            .split_once('=')
            .filter(|(name, _)| !name.is_empty() && !entry.contains('\0'))
            .ok_or_else(|| CommandError::Variable(entry.chars().take(100).collect()))?;
        environment.insert(name.to_owned(), value.to_owned());
    }
    Ok(environment)
}

/// The file that `program` stands for: itself if it has a slash, else the first in the folders of
/// `path` that `is_program`. Relative ones are taken from `working_dir`.
pub fn find_program(
    program: &str,
    path: &str,
    working_dir: &Path,
    is_program: impl Fn(&Path) -> bool,
) -> Result<PathBuf, CommandError> {
    if program.is_empty() {
        return Err(CommandError::Empty);
    }
    if program.contains('/') {
        return Ok(working_dir.join(program));
    }
    path.split(':')
        .map(|folder| working_dir.join(folder).join(program))
        .find(|file| is_program(file))
        .ok_or_else(|| CommandError::NotFound {
            program: program.into(),
            path: path.into(),
        })
}

/// A file that may be executed by someone; whether by this user, the kernel decides.
pub fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata()
        .is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

/// Why a program could not be started, for a person who only knows the command.
pub fn explain(program: &Path, error: &io::Error) -> String {
    let shown = program.display();
    match error.kind() {
        io::ErrorKind::NotFound if program.exists() => format!(
            "{shown} cannot start: the interpreter or dynamic loader that it names is not in the \
             image"
        ),
        io::ErrorKind::NotFound => format!("{shown} is not in the image"),
        io::ErrorKind::PermissionDenied => {
            format!("{shown} cannot start: it is not executable by the machine's user")
        }
        _ if error.raw_os_error() == Some(libc::ENOEXEC) => {
            format!("{shown} cannot start: it is no program for this kind of processor")
        }
        _ => format!("{shown} cannot start: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list(entries: &[&str]) -> Vec<String> {
        entries.iter().map(|entry| (*entry).to_owned()).collect()
    }

    #[test]
    fn later_variables_win_over_earlier_ones_and_defaults() {
        let entries = list(&["A=1", "PATH=/own", "A=2=3", "EMPTY="]);
        let environment = environment(&entries, "web", "/root").unwrap();
        let expected = [
            ("A", "2=3"),
            ("EMPTY", ""),
            ("HOME", "/root"),
            ("HOSTNAME", "web"),
            ("PATH", "/own"),
            ("TERM", "xterm"),
        ];
        let found: Vec<_> = environment
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_str()))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_no_variable_is_named() {
        for entry in ["", "A", "=1", "A=\0"] {
            let error = environment(&list(&[entry]), "", "").unwrap_err();
            assert_eq!(error, CommandError::Variable(entry.into()));
        }
    }

    #[test]
    fn programs_are_found_as_a_shell_does() {
        let there = ["/bin/a", "/usr/bin/a", "/usr/bin/b", "/work/c"];
        let find = |program: &str, path: &str| {
            find_program(program, path, Path::new("/work"), |file| {
                there.iter().any(|known| Path::new(known) == file)
            })
        };
        assert_eq!(find("a", "/usr/bin:/bin"), Ok("/usr/bin/a".into()));
        assert_eq!(find("a", "/bin:/usr/bin"), Ok("/bin/a".into()));
        assert_eq!(find("c", "/bin:."), Ok("/work/./c".into()));
        assert_eq!(find("c", ":/bin"), Ok("/work/c".into()));
        assert_eq!(find("./x", "/bin"), Ok("/work/./x".into()));
        assert_eq!(find("/x/y", "/bin"), Ok("/x/y".into()));
        assert_eq!(find("", "/bin"), Err(CommandError::Empty));
        assert_eq!(
            find("d", "/bin"),
            Err(CommandError::NotFound {
                program: "d".into(),
                path: "/bin".into()
            })
        );
    }

    #[test]
    fn failures_are_explained() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        let missing = io::Error::from(io::ErrorKind::NotFound);
        assert!(explain(&program, &missing).ends_with("is not in the image"));
        std::fs::write(&program, "#!/nonexistent\n").unwrap();
        assert!(explain(&program, &missing).contains("dynamic loader"));
        assert!(!is_executable(&program));
        assert!(!is_executable(folder.path()));
        assert!(is_executable(Path::new("/proc/self/exe")));
    }

    proptest! {
        #[test]
        fn never_panics(entry in ".{0,40}", program in ".{0,20}", path in ".{0,40}") {
            let _ = environment(&[entry], "h", "/");
            let _ = find_program(&program, &path, Path::new("/"), |_| false);
        }
    }
}
