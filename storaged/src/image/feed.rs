//! Handing a builder its input, and ending it when it gets no further.
//!
//! Whoever wrote an image chooses what its builder reads, and so perhaps what the builder does. So
//! nothing here waits for it without an end: not the pipe, and not its death.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    os::unix::fs::MetadataExt,
    process::{ChildStdin, Command, Stdio},
    time::Duration,
};

use rustix::io::ioctl_fionbio;

use super::{
    erofs::{PackError, Stream},
    merged::MergedError,
    watch::{Ended, Watch},
};
use crate::program::{self, Running};

/// How often one that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Runs `builder`, which reads `stream` and writes to `output`, to its end. `confine` limits it before
/// it has read a byte; what it gives is kept until the builder has ended.
pub fn feed<Confined>(
    mut builder: Command,
    output: &File,
    stream: Stream<'_>,
    watch: &mut Watch,
    confine: impl FnOnce(u32) -> io::Result<Confined>,
) -> Result<(), PackError> {
    builder.stdin(Stdio::piped());
    let mut running = program::start(builder)?;
    let confined = confine(running.id());
    let fed = match &confined {
        Ok(_) => hand_over(&mut running, output, stream, watch),
        Err(error) => Err(PackError::Unconfined(error.to_string())),
    };
    match fed {
        // What it says of itself says more than that it did not read.
        Ok(None) => Ok(running.finish()?),
        Ok(Some(unread)) => {
            running.finish()?;
            Err(MergedError::Write(unread).into())
        }
        // One that ends at once has no group to come to; why it did says more.
        Err(error) if confined.is_err() && has_ended(&running) => {
            running.finish()?;
            Err(error)
        }
        Err(error) => {
            running.kill();
            // What it says of its own death is no news.
            let _ = running.finish();
            Err(error)
        }
    }
}

fn has_ended(running: &Running) -> bool {
    running.ends_within(Duration::ZERO).unwrap_or(false)
}

/// Returns once it has ended by itself; with an error if it did not take all.
fn hand_over(
    running: &mut Running,
    output: &File,
    stream: Stream<'_>,
    watch: &mut Watch,
) -> Result<Option<io::Error>, PackError> {
    let pipe = running
        .take_input()
        .ok_or_else(|| io("built")(io::ErrorKind::BrokenPipe.into()))?;
    ioctl_fionbio(&pipe, true).map_err(|error| io("built")(error.into()))?;
    let mut input = Input {
        pipe,
        running,
        output,
        watch,
        taken: 0,
        ended: None,
    };
    let written = stream(&mut BufWriter::with_capacity(128 << 10, &mut input));
    let Input {
        pipe, taken, ended, ..
    } = input;
    // It reads on until nobody can write any more.
    drop(pipe);
    if let Some(ended) = ended {
        return Err(ended.into());
    }
    let unread = match written {
        Ok(()) => None,
        Err(MergedError::Write(error)) => Some(error),
        Err(error) => return Err(error.into()),
    };
    while !running.ends_within(LOOK).map_err(io("waited for"))? {
        check(watch, taken, output)?;
    }
    Ok(unread)
}

/// Its standard input, which never waits longer than the builder may.
struct Input<'a> {
    pipe: ChildStdin,
    running: &'a Running,
    output: &'a File,
    watch: &'a mut Watch,
    taken: u64,
    /// Nothing more is given to it.
    ended: Option<Ended>,
}

impl Input<'_> {
    fn look(&mut self) -> io::Result<()> {
        check(self.watch, self.taken, self.output).map_err(|ended| {
            self.ended = Some(ended);
            io::Error::new(io::ErrorKind::TimedOut, ended)
        })
    }
}

impl Write for Input<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            self.look()?;
            match self.pipe.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(taken) => {
                    self.taken += taken as u64;
                    return Ok(taken);
                }
                other => return other,
            }
            self.running.reads_within(&self.pipe, LOOK)?;
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether it may go on: it got further, as it took more or wrote something, and did not write too much.
/// (A file may have its length from the start.)
fn check(watch: &mut Watch, taken: u64, output: &File) -> Result<(), Ended> {
    let (len, blocks) = output
        .metadata()
        .map_or((0, 0), |file| (file.len(), file.blocks()));
    watch.check(taken + len + blocks, blocks.saturating_mul(512))
}

fn io(what: &'static str) -> impl Fn(io::Error) -> PackError {
    move |source| PackError::Io { what, source }
}
