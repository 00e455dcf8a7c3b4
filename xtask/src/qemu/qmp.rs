//! QEMU's control protocol (QMP): JSON lines over a socket.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// QEMU answers from its main loop, which a busy host may hold up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Events that nobody has waited for yet. A disk that fails reports each request.
const EVENTS: usize = 1000;

/// A thread reads all that QEMU says and sorts it: answers to whom asked, events to whom waits.
#[derive(Debug)]
pub struct Qmp {
    commands: Mutex<Commands>,
    shared: Arc<Shared>,
    patience: Duration,
}

#[derive(Debug)]
struct Commands {
    socket: UnixStream,
    next: u64,
}

#[derive(Debug, Default)]
struct Shared {
    heard: Mutex<Heard>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct Heard {
    greeted: bool,
    /// Who still waits: the answer to a command that was given up comes to nobody.
    awaited: BTreeSet<u64>,
    answers: BTreeMap<u64, Value>,
    events: VecDeque<Value>,
    /// Why nothing more will come.
    ended: Option<String>,
}

impl Qmp {
    /// Greets QEMU at the other end of `socket`.
    pub fn new(socket: UnixStream) -> Result<Self> {
        let shared = Arc::<Shared>::default();
        let said = BufReader::new(socket.try_clone()?);
        let listener = Arc::clone(&shared);
        thread::Builder::new()
            .name("qmp".into())
            .spawn(move || listener.listen(said))?;
        let qmp = Self {
            commands: Mutex::new(Commands { socket, next: 0 }),
            shared,
            patience: PATIENCE,
        };
        qmp.shared
            .wait(PATIENCE, |heard| heard.greeted.then_some(()))
            .context("QEMU's greeting")?;
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and returns what it returns.
    pub fn execute(&self, command: &str, arguments: Value) -> Result<Value> {
        let id = self.send(command, arguments)?;
        let answer = self
            .shared
            .wait(self.patience, |heard| heard.answers.remove(&id));
        self.shared.heard().awaited.remove(&id);
        let mut answer = answer.with_context(|| format!("QEMU's answer to {command}"))?;
        if let Some(error) = answer.get("error") {
            bail!("QEMU refused {command}: {error}");
        }
        Ok(answer["return"].take())
    }

    fn send(&self, command: &str, arguments: Value) -> Result<u64> {
        let mut commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        let id = commands.next;
        commands.next += 1;
        self.shared.heard().awaited.insert(id);
        let mut line = json!({ "execute": command, "arguments": arguments, "id": id }).to_string();
        line.push('\n');
        commands
            .socket
            .write_all(line.as_bytes())
            .context("writing to QEMU")?;
        Ok(id)
    }

    /// Runs a command of the monitor that people use, for what QMP does not have.
    pub fn monitor(&self, command: &str) -> Result<String> {
        let said = self.execute("human-monitor-command", json!({ "command-line": command }))?;
        Ok(said.as_str().unwrap_or_default().to_owned())
    }

    /// The first event that `wanted` takes, also of those that came before the call. Each event is
    /// given once; those that it leaves stay for others.
    pub fn wait_event<T>(
        &self,
        limit: Duration,
        mut wanted: impl FnMut(&Value) -> Option<T>,
    ) -> Result<T> {
        self.shared.wait(limit, |heard| {
            let (place, found) = heard
                .events
                .iter()
                .enumerate()
                .find_map(|(place, event)| Some((place, wanted(event)?)))?;
            heard.events.remove(place);
            Some(found)
        })
    }
}

impl Drop for Qmp {
    /// Ends the thread that listens.
    fn drop(&mut self) {
        let commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        // QEMU may have closed it.
        let _ = commands.socket.shutdown(Shutdown::Both);
    }
}

impl Shared {
    fn listen(&self, mut said: BufReader<UnixStream>) {
        let mut line = String::new();
        let why = loop {
            line.clear();
            match said.read_line(&mut line) {
                Ok(0) => break "QEMU has ended".to_owned(),
                Ok(_) => {}
                Err(error) => break format!("reading from QEMU: {error}"),
            }
            let Ok(value) = serde_json::from_str(&line) else {
                break format!("QEMU said {line:?}");
            };
            self.heard().sort(value);
            self.news.notify_all();
        };
        self.heard().ended = Some(why);
        self.news.notify_all();
    }

    fn wait<T>(&self, limit: Duration, mut look: impl FnMut(&mut Heard) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + limit;
        let mut heard = self.heard();
        loop {
            if let Some(found) = look(&mut heard) {
                return Ok(found);
            }
            if let Some(why) = &heard.ended {
                bail!("{why}");
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("it did not come within {} s", limit.as_secs());
            }
            heard = self
                .news
                .wait_timeout(heard, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Heard {
    fn sort(&mut self, value: Value) {
        if value.get("QMP").is_some() {
            self.greeted = true;
        } else if value.get("event").is_some() {
            if self.events.len() == EVENTS {
                self.events.pop_front();
            }
            self.events.push_back(value);
        } else if let Some(id) = value["id"].as_u64()
            && self.awaited.remove(&id)
        {
            self.answers.insert(id, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// What QEMU was asked: the command and its id.
    fn asked(qemu: &mut BufReader<UnixStream>) -> (String, u64) {
        let mut line = String::new();
        qemu.read_line(&mut line).unwrap();
        let value: Value = serde_json::from_str(&line).unwrap();
        let command = value["execute"].as_str().unwrap().to_owned();
        (command, value["id"].as_u64().unwrap())
    }

    fn say(qemu: &mut BufReader<UnixStream>, value: Value) {
        let line = format!("{value}\n");
        qemu.get_mut().write_all(line.as_bytes()).unwrap();
    }

    /// A QEMU that greets and then does `rest`, and what talks with it.
    fn with_qemu(
        rest: impl FnOnce(&mut BufReader<UnixStream>) + Send + 'static,
    ) -> (Qmp, thread::JoinHandle<()>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut qemu = BufReader::new(theirs);
        let played = thread::spawn(move || {
            say(&mut qemu, json!({ "QMP": {} }));
            let (command, id) = asked(&mut qemu);
            assert_eq!(command, "qmp_capabilities");
            say(&mut qemu, json!({ "return": {}, "id": id }));
            rest(&mut qemu);
        });
        (Qmp::new(ours).unwrap(), played)
    }

    #[test]
    fn keeps_events_and_answers_apart() {
        let (qmp, played) = with_qemu(|qemu| {
            let (_, id) = asked(qemu);
            say(qemu, json!({ "event": "RESUME" }));
            say(
                qemu,
                json!({ "event": "DEVICE_DELETED", "data": { "device": "b" } }),
            );
            say(qemu, json!({ "return": "text", "id": id }));
            let (_, id) = asked(qemu);
            say(qemu, json!({ "error": { "desc": "no" }, "id": id }));
        });
        assert_eq!(qmp.monitor("info usernet").unwrap(), "text");
        let error = qmp.execute("quit", json!({})).unwrap_err().to_string();
        assert!(error.contains("no"), "{error}");
        let device = |event: &Value| event["data"]["device"].as_str().map(str::to_owned);
        assert_eq!(qmp.wait_event(LONG, device).unwrap(), "b");
        let any = |event: &Value| event["event"].as_str().map(str::to_owned);
        assert_eq!(qmp.wait_event(LONG, any).unwrap(), "RESUME");
        played.join().unwrap();
        let error = format!("{:#}", qmp.execute("quit", json!({})).unwrap_err());
        assert!(
            error.contains("QEMU has ended") || error.contains("writing"),
            "{error}"
        );
    }

    #[test]
    fn a_late_answer_is_not_taken_for_the_next_command_s() {
        let (mut qmp, played) = with_qemu(|qemu| {
            let (_, first) = asked(qemu);
            let (_, second) = asked(qemu);
            say(qemu, json!({ "return": "first", "id": first }));
            say(qemu, json!({ "return": "second", "id": second }));
        });
        qmp.patience = Duration::ZERO;
        let error = format!("{:#}", qmp.monitor("first").unwrap_err());
        assert!(error.contains("did not come"), "{error}");
        qmp.patience = LONG;
        assert_eq!(qmp.monitor("second").unwrap(), "second");
        played.join().unwrap();
    }
}
