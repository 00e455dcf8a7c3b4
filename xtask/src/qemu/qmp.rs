//! QEMU's control protocol (QMP): JSON lines over a socket.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// QEMU answers from its main loop, which a busy host may hold up.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Qmp {
    lines: BufReader<UnixStream>,
}

impl Qmp {
    /// Greets QEMU at the other end of `socket`.
    pub fn new(socket: UnixStream) -> Result<Self> {
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut qmp = Self {
            lines: BufReader::new(socket),
        };
        let greeting = qmp.read()?;
        if greeting.get("QMP").is_none() {
            bail!("QEMU's greeting is {greeting}");
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and returns what it returns.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push('\n');
        self.lines
            .get_mut()
            .write_all(line.as_bytes())
            .context("writing to QEMU")?;
        loop {
            let mut answer = self
                .read()
                .with_context(|| format!("QEMU's answer to {command}"))?;
            if let Some(error) = answer.get("error") {
                bail!("QEMU refused {command}: {error}");
            }
            // Events come in between.
            if let Some(result) = answer.get_mut("return") {
                return Ok(result.take());
            }
        }
    }

    /// Runs a command of the monitor that people use, for what QMP does not have.
    pub fn monitor(&mut self, command: &str) -> Result<String> {
        let said = self.execute("human-monitor-command", json!({ "command-line": command }))?;
        Ok(said.as_str().unwrap_or_default().to_owned())
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self
            .lines
            .read_line(&mut line)
            .context("reading from QEMU")?
            == 0
        {
            bail!("QEMU has ended");
        }
        serde_json::from_str(&line).with_context(|| format!("QEMU said {line:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_events_over() {
        let (ours, mut qemu) = UnixStream::pair().unwrap();
        qemu.write_all(
            b"{\"QMP\":{}}\n{\"return\":{}}\n{\"event\":\"RESUME\"}\n{\"return\":\"text\"}\n{\"error\":{\"desc\":\"no\"}}\n",
        )
        .unwrap();
        let mut qmp = Qmp::new(ours).unwrap();
        assert_eq!(qmp.monitor("info usernet").unwrap(), "text");
        assert!(
            qmp.execute("quit", json!({}))
                .unwrap_err()
                .to_string()
                .contains("no")
        );
        drop(qemu);
        assert!(qmp.execute("quit", json!({})).is_err());
    }
}
