//! [`Frames`]: what to send to the consoles, and when.
//!
//! A serial console is slow, and often ends in a file that a test or a farmer reads: only lines
//! that have changed are sent, each complete on a line of its own. Nothing is sent while nothing
//! changes.

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use super::layout::Line;

/// Between any two drawings.
const PAUSE: Duration = Duration::from_secs(1);

/// Between two drawings of what changes all the time (blocks, load).
const RESTLESS_PAUSE: Duration = Duration::from_secs(5);

/// Whoever attaches to a serial console sees the whole screen after this, if anything changes.
const WHOLE: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub struct Frames {
    shown: Vec<Line>,
    drawn: Option<Instant>,
    whole: Option<Instant>,
}

impl Frames {
    /// The bytes that turn what is shown into `lines`; none if there is nothing to do yet.
    pub fn next(&mut self, lines: Vec<Line>, now: Instant) -> Option<Vec<u8>> {
        let urgent = |(new, old): (&Line, &Line)| new != old && !new.restless;
        let structural =
            lines.len() != self.shown.len() || lines.iter().zip(&self.shown).any(urgent);
        let pause = if structural { PAUSE } else { RESTLESS_PAUSE };
        let too_soon = |last: Option<Instant>, pause| {
            last.is_some_and(|last| now.saturating_duration_since(last) < pause)
        };
        if lines == self.shown || too_soon(self.drawn, pause) {
            return None;
        }
        let whole = lines.len() != self.shown.len() || !too_soon(self.whole, WHOLE);
        let bytes = if whole {
            whole_frame(&lines)
        } else {
            changes(&self.shown, &lines)
        };
        self.drawn = Some(now);
        if whole {
            self.whole = Some(now);
        }
        self.shown = lines;
        Some(bytes.into_bytes())
    }

    /// The next drawing is a whole one.
    pub fn forget(&mut self) {
        self.shown.clear();
    }

    /// How long nothing can be drawn from now on.
    pub fn pause(&self, now: Instant) -> Duration {
        match self.drawn {
            Some(drawn) => PAUSE.saturating_sub(now.saturating_duration_since(drawn)),
            None => Duration::ZERO,
        }
    }
}

/// No clearing first: what is the same does not flicker.
fn whole_frame(lines: &[Line]) -> String {
    let mut bytes = String::from("\x1b[?25l\x1b[H");
    for line in lines {
        bytes.push_str(&line.text);
        bytes.push_str("\x1b[K\r\n");
    }
    bytes.push_str("\x1b[J");
    bytes
}

fn changes(shown: &[Line], lines: &[Line]) -> String {
    let mut bytes = String::new();
    for (row, (old, new)) in shown.iter().zip(lines).enumerate() {
        if old != new {
            // Writing to a String cannot fail.
            let _ = write!(bytes, "\x1b[{};1H{}\x1b[K\r\n", row + 1, new.text);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(steady: &str, restless: &str) -> Vec<Line> {
        vec![
            Line {
                text: steady.into(),
                restless: false,
            },
            Line {
                text: restless.into(),
                restless: true,
            },
        ]
    }

    fn draw(frames: &mut Frames, steady: &str, restless: &str, now: Instant) -> Option<String> {
        frames
            .next(lines(steady, restless), now)
            .map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn the_first_is_whole_and_repeats_only_changes() {
        let mut frames = Frames::default();
        let now = Instant::now();
        let second = Duration::from_secs(1);
        assert_eq!(
            draw(&mut frames, "a", "1", now).unwrap(),
            "\x1b[?25l\x1b[Ha\x1b[K\r\n1\x1b[K\r\n\x1b[J"
        );
        assert_eq!(draw(&mut frames, "a", "1", now + 9 * second), None);
        assert_eq!(
            draw(&mut frames, "b", "1", now + 9 * second).unwrap(),
            "\x1b[1;1Hb\x1b[K\r\n"
        );
        assert_eq!(
            draw(&mut frames, "c", "1", now + 9 * second),
            None,
            "too soon"
        );
        assert_eq!(frames.pause(now + 9 * second), second);
        assert!(draw(&mut frames, "c", "1", now + 10 * second).is_some());
    }

    #[test]
    fn restless_lines_wait_and_come_along() {
        let mut frames = Frames::default();
        let now = Instant::now();
        let second = Duration::from_secs(1);
        draw(&mut frames, "a", "1", now);
        assert_eq!(draw(&mut frames, "a", "2", now + 4 * second), None);
        assert_eq!(
            draw(&mut frames, "a", "2", now + 5 * second).unwrap(),
            "\x1b[2;1H2\x1b[K\r\n"
        );
        let both = draw(&mut frames, "b", "3", now + 6 * second).unwrap();
        assert_eq!(both, "\x1b[1;1Hb\x1b[K\r\n\x1b[2;1H3\x1b[K\r\n");
    }

    #[test]
    fn now_and_then_the_whole_is_drawn() {
        let mut frames = Frames::default();
        let now = Instant::now();
        draw(&mut frames, "a", "1", now);
        let later = draw(&mut frames, "a", "2", now + WHOLE).unwrap();
        assert!(later.starts_with("\x1b[?25l\x1b[H"));
        frames.forget();
        let again = draw(&mut frames, "a", "2", now + 2 * WHOLE).unwrap();
        assert!(again.starts_with("\x1b[?25l\x1b[H"));
    }
}
