//! [`Pace`]: when a console gets what is to be seen.
//!
//! A serial line is slow, and often ends in a file: nothing is sent while nothing changes, and what changes all the time
//! is sent now and then. The kernel's own screen costs nothing, and may have been written over by the kernel.

use std::time::{Duration, Instant};

use ratatui::buffer::Buffer;

use crate::paint::{Kind, paint};

#[derive(Debug)]
pub struct Pace {
    kind: Kind,
    shown: Option<Buffer>,
    drawn: Option<Instant>,
    whole: Option<Instant>,
}

impl Pace {
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            shown: None,
            drawn: None,
            whole: None,
        }
    }

    /// What to send now, if anything. `restless`: nothing but what changes all the time has.
    pub fn next(&mut self, next: &Buffer, restless: bool, now: Instant) -> Option<Vec<u8>> {
        let since = |last: Option<Instant>| last.map(|last| now.saturating_duration_since(last));
        let pause = self.pause(restless);
        if since(self.drawn).is_some_and(|since| since < pause) {
            return None;
        }
        let stale = since(self.whole).is_none_or(|since| since >= self.whole_after());
        let shown = self.shown.as_ref().filter(|_| !stale);
        if self.kind == Kind::Line && self.shown.as_ref() == Some(next) {
            return None;
        }
        let bytes = paint(self.kind, shown, next);
        if bytes.is_empty() {
            return None;
        }
        if shown.is_none_or(|shown| shown.area != next.area) {
            self.whole = Some(now);
        }
        self.drawn = Some(now);
        self.shown = Some(next.clone());
        Some(bytes.into_bytes())
    }

    /// Whether the console shows just this.
    pub fn shows(&self, buffer: &Buffer) -> bool {
        self.shown.as_ref() == Some(buffer)
    }

    /// The next drawing is a whole one.
    pub fn forget(&mut self) {
        self.shown = None;
    }

    /// Between any two drawings.
    fn pause(&self, restless: bool) -> Duration {
        match (self.kind, restless) {
            (Kind::Screen, _) => Duration::from_millis(100),
            (Kind::Line, false) => Duration::from_secs(1),
            (Kind::Line, true) => Duration::from_secs(5),
        }
    }

    /// Whoever attaches to a line sees the whole screen after this, if anything changes. What the kernel wrote over its
    /// own screen stays no longer.
    fn whole_after(&self) -> Duration {
        match self.kind {
            Kind::Screen => Duration::from_secs(5),
            Kind::Line => Duration::from_secs(60),
        }
    }
}

#[cfg(test)]
mod tests {
    use ratatui::{layout::Rect, style::Style};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn draw(pace: &mut Pace, text: &str, restless: bool, now: Instant) -> Option<String> {
        let mut buffer = Buffer::empty(Rect::new(0, 0, 4, 2));
        buffer.set_string(0, 0, text, Style::new());
        let bytes = pace.next(&buffer, restless, now);
        bytes.map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn a_line_is_sent_what_changes_once_a_second() {
        let mut pace = Pace::new(Kind::Line);
        let now = Instant::now();
        assert!(
            draw(&mut pace, "a", false, now)
                .unwrap()
                .ends_with("\x1b[J")
        );
        assert_eq!(draw(&mut pace, "a", false, now + 9 * SECOND), None);
        let b = "\x1b[1;1Hb\x1b[K\r\n";
        assert_eq!(draw(&mut pace, "b", false, now + 9 * SECOND).unwrap(), b);
        let soon = now + 10 * SECOND - Duration::from_millis(1);
        assert_eq!(draw(&mut pace, "c", false, soon), None);
        assert!(draw(&mut pace, "c", false, now + 10 * SECOND).is_some());
    }

    #[test]
    fn what_is_restless_waits() {
        let mut pace = Pace::new(Kind::Line);
        let now = Instant::now();
        draw(&mut pace, "1", false, now);
        assert_eq!(draw(&mut pace, "2", true, now + 4 * SECOND), None);
        assert!(draw(&mut pace, "2", true, now + 5 * SECOND).is_some());
    }

    #[test]
    fn now_and_then_the_whole_is_drawn() {
        let mut pace = Pace::new(Kind::Line);
        let now = Instant::now();
        let whole =
            |bytes: Option<String>| bytes.is_some_and(|bytes| bytes.starts_with("\x1b[?25l"));
        assert!(whole(draw(&mut pace, "a", false, now)));
        assert!(!whole(draw(&mut pace, "b", false, now + 59 * SECOND)));
        assert!(whole(draw(&mut pace, "c", false, now + 60 * SECOND)));
        assert!(!whole(draw(&mut pace, "d", false, now + 61 * SECOND)));
        pace.forget();
        assert!(whole(draw(&mut pace, "d", false, now + 62 * SECOND)));
    }

    #[test]
    fn a_screen_is_drawn_again_though_nothing_has_changed() {
        let mut pace = Pace::new(Kind::Screen);
        let now = Instant::now();
        assert!(draw(&mut pace, "a", false, now).is_some());
        assert_eq!(draw(&mut pace, "a", false, now + 4 * SECOND), None);
        assert!(draw(&mut pace, "b", true, now + 4 * SECOND).is_some());
        let whole = draw(&mut pace, "b", false, now + 5 * SECOND).unwrap();
        assert!(whole.ends_with("\x1b[J"));
        assert_eq!(draw(&mut pace, "b", false, now + 9 * SECOND), None);
    }
}
