//! The node's own screen: what it is, what it runs, what a farmer should look at. No login.
//!
//! [`layout`] says what stands where (pure), [`frame`] what of it to send and when (pure),
//! [`output`] sends it to a console.

pub mod facts;
mod frame;
pub mod layout;
mod output;
mod text;

use std::time::{Duration, Instant};

use self::{frame::Frames, layout::Facts, output::Output};

#[derive(Debug, Default)]
pub struct Screen {
    outputs: Vec<Output>,
    frames: Frames,
}

impl Screen {
    /// Draws on every console that the kernel uses.
    pub fn open() -> Self {
        Self {
            outputs: output::consoles(),
            frames: Frames::default(),
        }
    }

    /// How long until the screen may change again.
    pub fn pause(&self, now: Instant) -> Duration {
        self.frames.pause(now)
    }

    /// Draws what has changed, if it is time for that.
    pub fn draw(&mut self, facts: &Facts, now: Instant) {
        let Some(bytes) = self.frames.next(layout::lines(facts), now) else {
            return;
        };
        let mut complete = true;
        for output in &self.outputs {
            complete &= output.write(&bytes);
        }
        if !complete {
            // A slow console lost a part: only the whole screen sets it right.
            self.frames.forget();
        }
    }

    /// Says one thing under the screen, when there will be no other.
    pub fn last_words(&self, text: &str) {
        let line = format!("\x1b[{};1H\x1b[K{}\r\n", layout::HEIGHT, text::clean(text));
        for output in &self.outputs {
            output.write(line.as_bytes());
        }
    }
}
