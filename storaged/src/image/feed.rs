//! Handing a builder its input, and ending it when it gets no further.
//!
//! Whoever wrote an image chooses what its builder reads, and so perhaps what the builder does. So
//! nothing here waits for it without an end: not the pipe, and not its death. And it is watched from
//! beside: what shows of an image may be followed by gigabytes that do not, in which nothing is given.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    os::unix::fs::MetadataExt,
    process::{ChildStdin, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread,
    time::Duration,
};

use rustix::{io::ioctl_fionbio, pipe::fcntl_setpipe_size};

use super::{
    erofs::{PackError, Stream},
    merged::MergedError,
    watch::{Ended, Watch},
};
use crate::{
    cgroup::Confined,
    program::{self, Killer, Running},
};

/// What its pipe holds, so that it and who feeds it seldom wait for each other. What anybody may ask for.
const PIPE: usize = 1 << 20;

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Runs `builder`, which reads `stream` and writes to `output`, to its end. `confine` limits it before
/// it has read a byte; what it gives is kept until the builder has ended.
pub fn feed<'group>(
    mut builder: Command,
    output: &File,
    stream: Stream<'_>,
    watch: &mut Watch,
    confine: impl FnOnce(u32) -> io::Result<Confined<'group>>,
) -> Result<(), PackError> {
    builder.stdin(Stdio::piped());
    let mut running = program::start(builder)?;
    let confined = confine(running.id());
    let fed = match &confined {
        Ok(confined) => watched(&mut running, confined, output, stream, watch),
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

/// How the feeding goes, for who watches.
#[derive(Debug, Default)]
struct Feeding {
    taken: AtomicU64,
    /// There is something for it to do: it is given bytes, or has them all.
    has_work: AtomicBool,
    /// Nothing more is given to it.
    ended: OnceLock<Ended>,
}

/// Returns once it has ended by itself; with an error if it did not take all.
fn watched(
    running: &mut Running,
    confined: &Confined<'_>,
    output: &File,
    stream: Stream<'_>,
    watch: &mut Watch,
) -> Result<Option<io::Error>, PackError> {
    let killer = running.killer().map_err(io("watched"))?;
    let feeding = Feeding::default();
    thread::scope(|scope| {
        let (_feeds, is_over) = channel();
        let look_after = || {
            if let Err(ended) = look_on(watch, &feeding, output, is_over) {
                let _ = feeding.ended.set(ended);
                end(&killer, confined);
            }
        };
        thread::Builder::new()
            .name("builder's watch".to_owned())
            .spawn_scoped(scope, look_after)
            .map_err(io("watched"))?;
        hand_over(running, &feeding, stream)
    })
}

/// Looks until its counterpart is dropped.
fn look_on(
    watch: &mut Watch,
    feeding: &Feeding,
    output: &File,
    is_over: Receiver<()>,
) -> Result<(), Ended> {
    loop {
        if !feeding.has_work.load(Ordering::Relaxed) {
            watch.rest();
        }
        // A file may have its length from the start.
        let (len, blocks) = output
            .metadata()
            .map_or((0, 0), |file| (file.len(), file.blocks()));
        let taken = feeding.taken.load(Ordering::Relaxed);
        watch.check(taken + len + blocks, blocks.saturating_mul(512))?;
        match is_over.recv_timeout(LOOK) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => return Ok(()),
        }
    }
}

/// Whoever feeds it may notice in minutes only. So what it started ends here, too.
fn end(builder: &Killer, confined: &Confined<'_>) {
    builder.kill();
    confined.end();
}

fn hand_over(
    running: &mut Running,
    feeding: &Feeding,
    stream: Stream<'_>,
) -> Result<Option<io::Error>, PackError> {
    let pipe = running
        .take_input()
        .ok_or_else(|| io("built")(io::ErrorKind::BrokenPipe.into()))?;
    // A smaller one will do.
    let _ = fcntl_setpipe_size(&pipe, PIPE);
    ioctl_fionbio(&pipe, true).map_err(|error| io("built")(error.into()))?;
    let mut input = Input {
        pipe,
        running,
        feeding,
    };
    let written = stream(&mut BufWriter::with_capacity(128 << 10, &mut input));
    // It reads on until nobody can write any more.
    drop(input);
    feeding.has_work.store(true, Ordering::Relaxed);
    let unread = match written {
        Err(error) if feeding.ended.get().is_none() => match error {
            MergedError::Write(error) => Some(error),
            error => return Err(error.into()),
        },
        _ => None,
    };
    loop {
        let has_ended = running.ends_within(LOOK).map_err(io("waited for"))?;
        if let Some(ended) = feeding.ended.get() {
            return Err((*ended).into());
        }
        if has_ended {
            return Ok(unread);
        }
    }
}

/// Its standard input, which never waits longer than the builder may.
struct Input<'a> {
    pipe: ChildStdin,
    running: &'a Running,
    feeding: &'a Feeding,
}

impl Input<'_> {
    fn give(&mut self, bytes: &[u8]) -> io::Result<usize> {
        while self.feeding.ended.get().is_none() {
            match self.pipe.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
            self.running.reads_within(&self.pipe, LOOK)?;
        }
        Err(io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Input<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.feeding.has_work.store(true, Ordering::Relaxed);
        let taken = self.give(bytes)?;
        self.feeding
            .taken
            .fetch_add(taken as u64, Ordering::Relaxed);
        self.feeding.has_work.store(false, Ordering::Relaxed);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn io(what: &'static str) -> impl Fn(io::Error) -> PackError {
    move |source| PackError::Io { what, source }
}
