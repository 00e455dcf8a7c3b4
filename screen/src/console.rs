//! The consoles that PID 1 has opened: [`Output`] writes to one, [`listen`] hears its keyboard.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::mpsc::{self, SyncSender},
    thread,
};

use ratatui::layout::Rect;
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    termios::{LocalModes, OptionalActions, tcgetattr, tcgetwinsize, tcsetattr},
};

pub use crate::paint::Kind;

/// What waits while a console is busy with what came before.
const MAX_WAITING: usize = 1;

/// A line's other end is taken for a terminal of this size. Its last line is where the cursor rests, so that a
/// terminal never scrolls.
const LINE: Rect = Rect::new(0, 0, 80, 23);

/// What a screen has that does not say how large it is (`vgacon`).
const SCREEN: Rect = Rect::new(0, 0, 80, 25);

/// Larger than any; a bound for what is drawn.
const LARGEST: u16 = 500;

/// The kernel's own screens are `tty0`, `tty1`, ...; all other consoles are lines.
pub fn kind(name: &str) -> Kind {
    let number = name.strip_prefix("tty").unwrap_or_default();
    match !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) {
        true => Kind::Screen,
        false => Kind::Line,
    }
}

/// How much room there is now: a driver for the graphics card may come later.
pub fn area(kind: Kind, console: impl AsFd) -> Rect {
    match (kind, tcgetwinsize(console)) {
        (Kind::Line, _) => LINE,
        (Kind::Screen, Ok(size)) if size.ws_col > 0 && size.ws_row > 0 => {
            Rect::new(0, 0, size.ws_col.min(LARGEST), size.ws_row.min(LARGEST))
        }
        (Kind::Screen, _) => SCREEN,
    }
}

/// A thread of its own writes to the console, since a driver may hold up whoever does: one of a
/// screen waits for the lock of all consoles, whatever the device was opened with.
#[derive(Debug)]
pub struct Output(SyncSender<Vec<u8>>);

impl Output {
    pub fn of(console: OwnedFd) -> io::Result<Self> {
        Self::new(move |bytes| {
            // If it has gone, what was to be shown there is lost.
            let _ = write_all(&console, bytes);
        })
    }

    fn new(mut write: impl FnMut(&[u8]) + Send + 'static) -> io::Result<Self> {
        let (sender, waiting) = mpsc::sync_channel::<Vec<u8>>(MAX_WAITING);
        thread::Builder::new()
            .name("console".into())
            .spawn(move || {
                for bytes in waiting {
                    write(&bytes);
                }
            })?;
        Ok(Self(sender))
    }

    /// Waits for nothing. False if the console is still busy with what came before, so that
    /// `bytes` are not shown.
    pub fn write(&self, bytes: &[u8]) -> bool {
        self.0.try_send(bytes.to_vec()).is_ok()
    }
}

fn write_all(device: &OwnedFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(device, bytes) {
            Ok(written @ 1..) => bytes = &bytes[written..],
            Ok(0) | Err(Errno::AGAIN) => {
                let mut ready = [PollFd::from_borrowed_fd(device.as_fd(), PollFlags::OUT)];
                poll(&mut ready, None)?;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What is typed at the console goes to `heard` from now on, each key at once, and none of it onto the screen.
pub fn listen(console: OwnedFd, mut heard: impl FnMut(&[u8]) + Send + 'static) -> io::Result<()> {
    let mut modes = tcgetattr(&console)?;
    modes.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
    tcsetattr(&console, OptionalActions::Now, &modes)?;
    thread::Builder::new()
        .name("keyboard".into())
        .spawn(move || {
            let mut bytes = [0; 64];
            loop {
                match rustix::io::read(&console, &mut bytes) {
                    Ok(0) => return,
                    Ok(length) => heard(&bytes[..length]),
                    Err(Errno::AGAIN) => {
                        let mut ready = [PollFd::from_borrowed_fd(console.as_fd(), PollFlags::IN)];
                        if poll(&mut ready, None).is_err() {
                            return;
                        }
                    }
                    Err(Errno::INTR) => {}
                    Err(_) => return,
                }
            }
        })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};
    use std::{io::Read, sync::mpsc::channel};

    #[test]
    fn the_kernels_screens_are_told_from_lines() {
        for screen in ["tty0", "tty1", "tty63"] {
            assert_eq!(kind(screen), Kind::Screen);
        }
        for line in ["ttyS0", "tty", "hvc0", "ttyAMA0", "", "tty0x"] {
            assert_eq!(kind(line), Kind::Line);
        }
    }

    #[test]
    fn what_has_no_size_gets_one() {
        let null = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(area(Kind::Screen, &null), SCREEN);
        assert_eq!(area(Kind::Line, &null), LINE);
    }

    #[test]
    fn a_console_whose_driver_hangs_holds_up_nobody_and_is_drawn_on_when_it_does_not() {
        let (let_go, hung) = channel::<()>();
        let (shown, seen) = channel();
        let output = Output::new(move |bytes| {
            let _ = hung.recv();
            shown.send(bytes.to_vec()).unwrap();
        })
        .unwrap();
        // One is being written and one waits; the thread may not have begun yet.
        let mut taken = vec![0];
        while output.write(&taken) {
            taken[0] += 1;
            assert!(taken[0] <= 2);
            thread::yield_now();
        }
        drop(let_go);
        assert_eq!(seen.recv().unwrap(), [0]);
        while !output.write(b"last") {
            thread::yield_now();
        }
        drop(output);
        assert_eq!(seen.iter().last().unwrap(), b"last");
    }

    #[test]
    fn what_a_slow_console_does_not_take_at_once_is_written_later() {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        rustix::io::ioctl_fionbio(&read, false).unwrap();
        // More than a pipe holds.
        let bytes = vec![b'x'; 1 << 20];
        let output = Output::new(move |bytes| write_all(&write, bytes).unwrap()).unwrap();
        assert!(output.write(&bytes));
        drop(output);
        let mut got = Vec::new();
        std::fs::File::from(read).read_to_end(&mut got).unwrap();
        assert_eq!(got.len(), bytes.len());
    }
}
