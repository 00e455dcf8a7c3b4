//! [`Lines`]: lines of a bounded length from a pipe whose writer is not trusted.

use std::{io, os::fd::OwnedFd};

use tokio::{io::AsyncReadExt, net::unix::pipe::Receiver};

#[derive(Debug)]
pub struct Lines {
    pipe: Receiver,
    buffer: Vec<u8>,
    max: usize,
    /// The rest of a line that was too long is passed over.
    skipping: bool,
}

impl Lines {
    /// The reading end of a pipe. Lines longer than `max` bytes are cut.
    pub fn new(pipe: OwnedFd, max: usize) -> io::Result<Self> {
        Ok(Self {
            pipe: Receiver::from_owned_fd(pipe)?,
            buffer: Vec::new(),
            max,
            skipping: false,
        })
    }

    /// The next line without its end, also the last one that has none; none when the pipe has
    /// closed.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.buffer.drain(..=end).collect();
                line.pop();
                line.truncate(self.max);
                if !std::mem::take(&mut self.skipping) {
                    return Some(line);
                }
                continue;
            }
            if self.skipping {
                self.buffer.clear();
            } else if self.buffer.len() >= self.max {
                self.skipping = true;
                return Some(self.buffer.drain(..).take(self.max).collect());
            }
            self.buffer.reserve(self.max.min(4096));
            // An error on a pipe that only we read: as good as its end.
            if !matches!(self.pipe.read_buf(&mut self.buffer).await, Ok(1..)) {
                let rest = std::mem::take(&mut self.buffer);
                return (!rest.is_empty() && !self.skipping).then_some(rest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};
    use std::{fs::File, io::Write};

    async fn lines_of(parts: &[&[u8]]) -> Vec<String> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let mut lines = Lines::new(read, 8).unwrap();
        let mut write = File::from(write);
        for part in parts {
            write.write_all(part).unwrap();
        }
        drop(write);
        let mut found = Vec::new();
        while let Some(line) = lines.next().await {
            found.push(String::from_utf8(line).unwrap());
        }
        found
    }

    #[tokio::test]
    async fn splits_at_line_ends() {
        assert_eq!(
            lines_of(&[b"a\n", b"b", b"c\n\nd"]).await,
            ["a", "bc", "", "d"]
        );
    }

    #[tokio::test]
    async fn long_lines_are_cut() {
        let long = [b'x'; 5000];
        assert_eq!(
            lines_of(&[b"short\n", &long, b"\nnext\n"]).await,
            ["short", "xxxxxxxx", "next"]
        );
        assert_eq!(lines_of(&[&long]).await, ["xxxxxxxx"]);
        assert_eq!(
            lines_of(&[b"123456789\nnext\n"]).await,
            ["12345678", "next"]
        );
    }
}
