//! Programs that are run for what they do or print. One that fails is an error with what it complained of.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, ensure};

/// Gives what it prints. It has nothing to read.
pub fn run(command: &mut Command) -> Result<String> {
    feed(command, b"")
}

/// The same, with something to read on its standard input.
pub fn feed(command: &mut Command, input: &[u8]) -> Result<String> {
    let program = command.get_program().display().to_string();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| {
            format!("running {program}; `cargo xtask setup` installs what is missing")
        })?;
    let stdin = child.stdin.take();
    // What it prints is read meanwhile: a pipe holds little, and it may print before it has read all.
    let (fed, output) = thread::scope(|scope| {
        let fed = scope.spawn(|| stdin.map(|mut stdin| stdin.write_all(input)));
        let output = child.wait_with_output();
        (fed.join(), output)
    });
    let output = output.with_context(|| format!("waiting for {program}"))?;
    ensure!(
        output.status.success(),
        "{program} ended with {}:\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    // One that ends without reading says why by its status.
    fed.unwrap_or_default()
        .transpose()
        .with_context(|| format!("{program} did not read all of its input"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_prints_is_given_and_what_it_complains_of_is_told() {
        let mut cat = Command::new("cat");
        assert_eq!(feed(&mut cat, b"words").unwrap(), "words");
        assert_eq!(run(&mut cat).unwrap(), "");
        // More than two pipes hold.
        let much = "words ".repeat(100_000);
        assert_eq!(feed(&mut cat, much.as_bytes()).unwrap(), much);
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo the reason >&2; exit 3"]);
        let said = run(&mut shell).unwrap_err().to_string();
        assert!(
            said.contains("sh ended with") && said.contains("the reason"),
            "{said}"
        );
        let said = run(&mut Command::new("/nonexistent"))
            .unwrap_err()
            .to_string();
        assert!(said.contains("/nonexistent"), "{said}");
    }
}
