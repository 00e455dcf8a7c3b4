//! What exactly is run: the program's file, its environment, the signal that ends it.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use loam_node_api::signal::StopSignal;

/// What container engines set when the image does not.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    #[error("the command is empty")]
    Empty,
    #[error("`{program}` is in none of the folders of PATH ({path})")]
    NotFound { program: String, path: String },
}

/// The command's whole environment: `entries` (`NAME=value`, later ones win) over what every
/// machine has. Besides, a few of the entries that are no variables, shortened: container engines
/// pass them over, and what is written so by mistake shall be seen.
pub fn environment(
    entries: &[String],
    hostname: &str,
    home: &str,
) -> (BTreeMap<String, String>, Vec<String>) {
    /// Enough to find the mistake.
    const MOST_TOLD: usize = 8;
    let mut environment: BTreeMap<_, _> = [
        ("PATH", DEFAULT_PATH),
        ("HOSTNAME", hostname),
        ("HOME", home),
        // The console is one, though a plain one.
        ("TERM", "xterm"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let mut odd = Vec::new();
    for entry in entries {
        match entry.split_once('=') {
            Some((name, value)) if !name.is_empty() && !entry.contains('\0') => {
                environment.insert(name.to_owned(), value.to_owned());
            }
            _ if odd.len() < MOST_TOLD => {
                // It goes to a terminal.
                let plain = |c: char| if c.is_control() { ' ' } else { c };
                odd.push(entry.chars().take(100).map(plain).collect());
            }
            _ => {}
        }
    }
    (environment, odd)
}

/// By which signal the program in this file is asked to end, where its image does not say: systemd
/// as a machine's first process takes SIGTERM for "execute yourself anew" (systemd(1), "Signals").
pub fn stop_signal(program: &Path) -> StopSignal {
    // `/sbin/init` is a link to it.
    let file = program.canonicalize().unwrap_or_default();
    match file.file_name() {
        Some(name) if name == "systemd" => StopSignal::SYSTEMD_HALT,
        _ => StopSignal::default(),
    }
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
        io::ErrorKind::PermissionDenied if program.is_dir() => {
            format!("{shown} cannot start: it is a folder")
        }
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
        let (environment, odd) = environment(&entries, "web", "/root");
        assert_eq!(odd, [""; 0]);
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
    fn what_is_no_variable_is_passed_over_and_told() {
        let (bare, _) = environment(&[], "", "");
        let entries = list(&["", "A", "=1", "B=\0", "C\u{1b}c"]);
        let (found, odd) = environment(&entries, "", "");
        assert_eq!(found, bare);
        assert_eq!(odd, ["", "A", "=1", "B= ", "C c"]);
        let (found, odd) = environment(&list(&["NOVALUE", "A=1"]), "", "");
        assert_eq!((found["A"].as_str(), odd.len()), ("1", 1));
        let (_, odd) = environment(&vec!["x".repeat(5000); 5000], "", "");
        assert_eq!((odd.len(), odd[0].len()), (8, 100));
    }

    #[test]
    fn systemd_is_asked_to_end_in_its_own_way() {
        let folder = tempfile::tempdir().unwrap();
        let systemd = folder.path().join("systemd");
        let init = folder.path().join("init");
        std::os::unix::fs::symlink("systemd", &init).unwrap();
        assert_eq!(stop_signal(&init), StopSignal::default());
        std::fs::write(&systemd, "").unwrap();
        assert_eq!(stop_signal(&init), StopSignal::SYSTEMD_HALT);
        assert_eq!(stop_signal(&systemd), StopSignal::SYSTEMD_HALT);
        assert_eq!(stop_signal(folder.path()), StopSignal::default());
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
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        assert!(explain(&program, &denied).contains("not executable"));
        assert!(explain(folder.path(), &denied).ends_with("it is a folder"));
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
