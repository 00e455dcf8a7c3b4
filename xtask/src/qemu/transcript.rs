//! What a serial port has said so far, and waiting for what it will say.

use std::fs::File;
use std::io::{Read, Write as _};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anstream::adapter::StripBytes;
use anyhow::{Context, Result, bail};

/// The text of a serial port, without terminal controls. Cheap to clone; clones see the same text.
#[derive(Debug, Clone)]
pub struct Transcript {
    shared: Arc<(Mutex<Heard>, Condvar)>,
}

#[derive(Debug, Default)]
struct Heard {
    text: String,
    /// The other end is gone; nothing more will come.
    ended: bool,
}

impl Transcript {
    /// Reads `source` to its end in a thread of its own, keeping the raw bytes in `copy`.
    pub fn record(mut source: impl Read + Send + 'static, copy: &Path) -> Result<Self> {
        let mut copy = File::create(copy).with_context(|| format!("making {}", copy.display()))?;
        let transcript = Self {
            shared: Arc::default(),
        };
        let writer = transcript.clone();
        thread::Builder::new()
            .name("transcript".into())
            .spawn(move || {
                let mut strip = StripBytes::new();
                let mut buffer = [0; 4096];
                let mut letters = Letters::default();
                loop {
                    let length = match source.read(&mut buffer) {
                        Ok(0) | Err(_) => break,
                        Ok(length) => length,
                    };
                    // The copy is for people who look afterwards; a full disk must not stop a test.
                    let _ = copy.write_all(&buffer[..length]);
                    let plain: Vec<u8> = strip
                        .strip_next(&buffer[..length])
                        .flatten()
                        .copied()
                        .collect();
                    letters.add(&plain, &mut writer.heard().text);
                    writer.shared.1.notify_all();
                }
                writer.heard().ended = true;
                writer.shared.1.notify_all();
            })?;
        Ok(transcript)
    }

    /// Waits until `pattern` has been said, also if that was before the call.
    pub fn wait_for(&self, pattern: &str, limit: Duration) -> Result<()> {
        self.wait_after(0, pattern, limit).map(|_| ())
    }

    /// Waits for the end, and gives all that was said.
    pub fn whole(&self, limit: Duration) -> Result<String> {
        let heard = self.heard();
        let ended = &self.shared.1;
        let (heard, _) = ended
            .wait_timeout_while(heard, limit, |heard| !heard.ended)
            .unwrap_or_else(PoisonError::into_inner);
        if !heard.ended {
            bail!("it goes on; it said last:\n{}", tail(&heard.text, 20));
        }
        Ok(heard.text.clone())
    }

    /// Waits until `pattern` has been said after the first `mark` bytes (see [`Self::mark`]);
    /// returns the mark behind it.
    pub fn wait_after(&self, mark: usize, pattern: &str, limit: Duration) -> Result<usize> {
        let deadline = Instant::now() + limit;
        let mut heard = self.heard();
        loop {
            if let Some(at) = heard.text.get(mark..).and_then(|text| text.find(pattern)) {
                return Ok(mark + at + pattern.len());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if heard.ended || left.is_zero() {
                let why = if heard.ended {
                    "it ended"
                } else {
                    "the time is over"
                };
                let last = tail(&heard.text, 20);
                bail!("waited for {pattern:?} and {why}; the last lines are:\n{last}");
            }
            heard = self
                .shared
                .1
                .wait_timeout(heard, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// How much has been said so far.
    pub fn mark(&self) -> usize {
        self.heard().text.len()
    }

    /// Everything so far.
    pub fn text(&self) -> String {
        self.heard().text.clone()
    }

    /// The last lines, for an error message.
    pub fn tail(&self, lines: usize) -> String {
        tail(&self.heard().text, lines)
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// UTF-8 in pieces: a letter may begin in one and end in the next.
#[derive(Debug, Default)]
struct Letters {
    begun: Vec<u8>,
}

impl Letters {
    fn add(&mut self, piece: &[u8], text: &mut String) {
        self.begun.extend_from_slice(piece);
        let bytes = std::mem::take(&mut self.begun);
        let mut rest = &bytes[..];
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => return text.push_str(valid),
                Err(error) => {
                    let (valid, other) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    let Some(length) = error.error_len() else {
                        self.begun = other.to_vec();
                        return;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &other[length..];
                }
            }
        }
    }
}

/// The last lines that are not empty.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn finds_what_comes_in_pieces_and_in_colour() {
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("console.log");
        let (mut port, source) = UnixStream::pair().unwrap();
        let transcript = Transcript::record(source, &copy).unwrap();
        port.write_all(b"one\x1b[1").unwrap();
        port.write_all(b"m two\x1b[0m three").unwrap();
        transcript.wait_for("one two three", LONG).unwrap();
        let mark = transcript.mark();
        port.write_all(b"\ntwo again").unwrap();
        assert!(transcript.wait_after(mark, "two", LONG).unwrap() > mark);
        drop(port);
        let error = transcript
            .wait_after(mark, "never", LONG)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("it ended") && error.contains("two again"),
            "{error}"
        );
        assert!(std::fs::read(&copy).unwrap().starts_with(b"one\x1b[1m"));
    }

    #[test]
    fn letters_may_come_in_pieces() {
        let (mut letters, mut text) = (Letters::default(), String::new());
        for byte in "zwölf € \u{1f600}".bytes() {
            letters.add(&[byte], &mut text);
        }
        letters.add(b"\xff!\xe2", &mut text);
        letters.add(b"x", &mut text);
        assert_eq!(text, "zwölf € \u{1f600}\u{fffd}!\u{fffd}x");
    }
}
