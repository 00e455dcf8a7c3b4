//! [`App`]: which view is shown, and what keys do. Nothing of it configures the node.

use std::time::{Duration, Instant};

use loam_node_api::{
    screen::{Facts, Request},
    status::ChainState,
};
use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use crate::{
    home, network,
    paint::Kind,
    text::{clean, cut},
};

/// A question that nobody answers is taken back: who comes by later must not answer it.
const PATIENCE: Duration = Duration::from_secs(15);

/// The lowest line of a log that is read by pages.
const PAGE: usize = 10;

#[derive(Debug, Default)]
pub struct App {
    facts: Facts,
    view: View,
    question: Option<(Question, Instant)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum View {
    #[default]
    Home,
    Id,
    /// How many lines above the last one.
    Log(usize),
    Network,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    Reboot,
    PowerOff,
}

/// What was pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Letter(u8),
    Up,
    Down,
    PageUp,
    PageDown,
    Escape,
}

/// The keys in what a keyboard gave at once: letters, and the sequences of the kernel's console for the others. An
/// escape alone is the key; behind one that goes on nothing is taken for a letter.
pub fn keys(mut bytes: &[u8]) -> Vec<Key> {
    let mut keys = Vec::new();
    while let [first, rest @ ..] = bytes {
        bytes = rest;
        if *first != 0x1b {
            keys.push(Key::Letter(first.to_ascii_lowercase()));
            continue;
        }
        let [b'[' | b'O', rest @ ..] = bytes else {
            keys.push(Key::Escape);
            continue;
        };
        // Numbers, then the letter that ends it (ECMA-48). F1 to F5 have a `[` before theirs.
        let end = rest
            .iter()
            .position(|byte| matches!(byte, 0x40..=0x5a | 0x5c..=0x7e));
        let (sequence, rest) = rest.split_at(end.map_or(rest.len(), |end| end + 1));
        bytes = rest;
        keys.extend(match sequence {
            b"A" => Some(Key::Up),
            b"B" => Some(Key::Down),
            b"5~" => Some(Key::PageUp),
            b"6~" => Some(Key::PageDown),
            _ => None,
        });
    }
    keys
}

impl App {
    /// Takes the facts. Whether anything but what changes all the time is new.
    pub fn learn(&mut self, facts: Facts) -> bool {
        let news = steady(&facts) != steady(&self.facts);
        self.facts = facts;
        news
    }

    /// Takes a key; what PID 1 is to be asked for.
    pub fn press(&mut self, key: Key, now: Instant) -> Option<Request> {
        self.tick(now);
        if let Some((question, _)) = self.question.take() {
            return (key == Key::Letter(b'y')).then_some(match question {
                Question::Reboot => Request::Reboot,
                Question::PowerOff => Request::PowerOff,
            });
        }
        match (self.view, key) {
            (View::Home, Key::Letter(b'r')) => self.question = Some((Question::Reboot, now)),
            (View::Home, Key::Letter(b'p')) => self.question = Some((Question::PowerOff, now)),
            (View::Home, Key::Letter(b'i')) => self.view = View::Id,
            (View::Home, Key::Letter(b'l')) => {
                self.view = View::Log(0);
                return Some(Request::Log(true));
            }
            (View::Home | View::Network, Key::Letter(b'n')) => {
                self.view = View::Network;
                return Some(Request::TestNetwork);
            }
            (View::Home, _) => {}
            (View::Id | View::Network, _) => self.view = View::Home,
            (View::Log(above), Key::Up) => self.scroll(above + 1),
            (View::Log(above), Key::PageUp) => self.scroll(above + PAGE),
            (View::Log(above), Key::Down) => self.scroll(above.saturating_sub(1)),
            (View::Log(above), Key::PageDown) => self.scroll(above.saturating_sub(PAGE)),
            (View::Log(_), _) => {
                self.view = View::Home;
                return Some(Request::Log(false));
            }
        }
        None
    }

    /// Time has passed. Whether something is seen of it.
    pub fn tick(&mut self, now: Instant) -> bool {
        let old = |(_, asked): &mut (Question, Instant)| {
            now.saturating_duration_since(*asked) >= PATIENCE
        };
        self.question.take_if(old).is_some()
    }

    fn scroll(&mut self, above: usize) {
        self.view = View::Log(above.min(self.facts.log.len().saturating_sub(1)));
    }

    /// What is to be seen on a console of this kind and size. A line shows the node, whatever is asked at the keyboard.
    pub fn draw(&self, kind: Kind, area: Rect) -> Buffer {
        match (kind, self.view) {
            (Kind::Line, _) => home::draw(&self.facts, kind, area, None),
            (Kind::Screen, View::Home) => {
                let question = self.question.map(|(question, _)| self.ask(question));
                home::draw(&self.facts, kind, area, question.as_deref())
            }
            (Kind::Screen, View::Id) => home::draw_code(&self.facts, kind, area),
            (Kind::Screen, View::Log(above)) => self.draw_log(area, above),
            (Kind::Screen, View::Network) => network::draw(self.facts.network_test.as_ref(), area),
        }
    }

    fn ask(&self, question: Question) -> String {
        let what = match question {
            Question::Reboot => "Restart this node",
            Question::PowerOff => "Switch this node off",
        };
        let stops = match self.facts.machines {
            0 => String::new(),
            1 => " A machine of a tenant stops.".to_owned(),
            many => format!(" {many} machines of tenants stop."),
        };
        format!("{what}?{stops}  y: yes   any other key: no")
    }

    fn draw_log(&self, area: Rect, above: usize) -> Buffer {
        let mut buffer = Buffer::empty(area);
        let rows = usize::from(area.height).saturating_sub(1);
        let end = self.facts.log.len().saturating_sub(above);
        let shown = &self.facts.log[end.saturating_sub(rows)..end];
        let width = usize::from(area.width);
        for (row, line) in (area.y..).zip(shown) {
            buffer.set_stringn(area.x, row, cut(&clean(line), width), width, Style::new());
        }
        let foot = "up, down, page up, page down   any other key: back";
        if let Some(last) = area.bottom().checked_sub(1).filter(|last| *last >= area.y) {
            buffer.set_stringn(area.x, last, foot, width, Style::new().cyan());
        }
        buffer
    }
}

/// Without what changes all the time.
fn steady(facts: &Facts) -> Facts {
    let mut steady = facts.clone();
    steady.uptime = Duration::ZERO;
    steady.busy = 0;
    steady.memory_used = Default::default();
    steady.now = Default::default();
    steady.clock.floor = Default::default();
    steady.clock.block = None;
    // No line shows it, and a screen needs no news.
    steady.network_test = None;
    if let Some(status) = &mut steady.status
        && let ChainState::Following { block } | ChainState::Registering { block } =
            &mut status.chain
    {
        *block = 0;
    }
    steady
}

#[cfg(test)]
mod tests {
    use loam_node_api::clock::UnixTime;
    use proptest::prelude::*;

    use super::*;
    use crate::home::tests::{facts, text};

    const AREA: Rect = Rect::new(0, 0, 80, 25);

    fn app() -> App {
        let mut app = App::default();
        app.learn(facts());
        app
    }

    fn seen(app: &App) -> String {
        text(&app.draw(Kind::Screen, AREA))
    }

    #[test]
    fn letters_and_sequences_are_told_apart() {
        assert_eq!(keys(b"lR"), [Key::Letter(b'l'), Key::Letter(b'r')]);
        assert_eq!(keys(b"\x1b"), [Key::Escape]);
        assert_eq!(
            keys(b"\x1b[A\x1b[B\x1b[5~\x1b[6~"),
            [Key::Up, Key::Down, Key::PageUp, Key::PageDown]
        );
        // F1 of the kernel's console, Home, a key with modifiers, one that was cut: none is a letter.
        assert_eq!(keys(b"\x1b[[A\x1b[1~\x1b[1;5p\x1b[1"), []);
        assert_eq!(keys(b"\x1bOp"), []);
        assert_eq!(keys(b"\x1b\x1b[A"), [Key::Escape, Key::Up]);
    }

    #[test]
    fn going_down_is_asked_about_and_said_by_y_alone() {
        let now = Instant::now();
        for (letter, request, asked) in [
            (
                b'r',
                Request::Reboot,
                "Restart this node? A machine of a tenant stops.",
            ),
            (
                b'p',
                Request::PowerOff,
                "Switch this node off? A machine of a tenant stops.",
            ),
        ] {
            let mut app = app();
            assert_eq!(app.press(Key::Letter(letter), now), None);
            assert!(seen(&app).contains(asked), "{}", seen(&app));
            assert_eq!(app.press(Key::Letter(b'y'), now), Some(request));
            assert!(!seen(&app).contains(asked));
            // Not again.
            assert_eq!(app.press(Key::Letter(b'y'), now), None);
            for other in [Key::Letter(letter), Key::Escape, Key::Letter(b'\r')] {
                app.press(Key::Letter(letter), now);
                assert_eq!(app.press(other, now), None);
                assert_eq!(app.press(Key::Letter(b'y'), now), None);
            }
        }
    }

    #[test]
    fn a_question_is_not_answered_by_who_comes_later() {
        let now = Instant::now();
        let mut app = app();
        app.press(Key::Letter(b'p'), now);
        let soon = now + PATIENCE - Duration::from_millis(1);
        assert!(!app.tick(soon));
        assert!(seen(&app).contains("off?"));
        assert_eq!(app.press(Key::Letter(b'y'), now + PATIENCE), None);
        app.press(Key::Letter(b'p'), now);
        assert!(app.tick(now + PATIENCE));
        assert!(!seen(&app).contains("off?"));
        assert!(seen(&app).contains("p power off"));
    }

    #[test]
    fn the_log_is_fetched_while_it_is_seen_and_read_by_lines_and_pages() {
        let now = Instant::now();
        let mut app = app();
        assert_eq!(app.press(Key::Letter(b'l'), now), Some(Request::Log(true)));
        app.facts.log = (0..50).map(|n| format!("line {n}\x1b[2J")).collect();
        let last = |app: &App| {
            let seen = seen(app);
            let lines: Vec<&str> = seen.lines().collect();
            assert_eq!(lines.len(), 25);
            lines[23].to_owned()
        };
        assert_eq!(last(&app), "line 49?[2J");
        assert!(seen(&app).starts_with("line 26?"));
        for (key, line) in [
            (Key::Up, 48),
            (Key::Up, 47),
            (Key::Down, 48),
            (Key::PageUp, 38),
            (Key::PageDown, 48),
            (Key::PageDown, 49),
            (Key::Down, 49),
        ] {
            assert_eq!(app.press(key, now), None);
            assert_eq!(last(&app), format!("line {line}?[2J"), "{key:?}");
        }
        for _ in 0..9 {
            app.press(Key::PageUp, now);
        }
        assert!(seen(&app).starts_with("line 0?[2J\n\n"));
        // Fewer lines than before.
        app.facts.log.truncate(3);
        seen(&app);
        // Its letters are none of the home's.
        assert_eq!(app.press(Key::Letter(b'r'), now), Some(Request::Log(false)));
        assert!(seen(&app).contains("READY"));
    }

    #[test]
    fn the_id_is_shown_alone_and_a_line_shows_the_node_all_the_time() {
        let now = Instant::now();
        let mut app = app();
        app.press(Key::Letter(b'i'), now);
        assert!(seen(&app).starts_with("3f3f"));
        assert!(seen(&app).contains("▄▄▄▄▄"));
        let line = text(&app.draw(Kind::Line, AREA));
        assert!(line.contains("READY") && !line.contains("power off"));
        assert_eq!(app.press(Key::Letter(b'p'), now), None);
        assert!(seen(&app).contains("READY"));
        app.press(Key::Letter(b'p'), now);
        assert!(!text(&app.draw(Kind::Line, AREA)).contains("off?"));
    }

    #[test]
    fn a_network_test_is_asked_for_by_its_key_and_again_in_its_view() {
        let now = Instant::now();
        let mut app = app();
        let asked = Some(Request::TestNetwork);
        assert_eq!(app.press(Key::Letter(b'n'), now), asked);
        assert!(seen(&app).starts_with("Network test"));
        assert!(!text(&app.draw(Kind::Line, AREA)).contains("Network test"));
        assert_eq!(app.press(Key::Letter(b'n'), now), asked);
        // Its letters are none of the home's.
        for back in [Key::Letter(b'p'), Key::Escape] {
            assert_eq!(app.press(back, now), None);
            assert!(seen(&app).contains("n network test"), "{}", seen(&app));
            app.press(Key::Letter(b'n'), now);
        }
        // Nor is it asked for behind a question.
        app.press(Key::Escape, now);
        app.press(Key::Letter(b'r'), now);
        assert_eq!(app.press(Key::Letter(b'n'), now), None);
        assert!(seen(&app).contains("READY"));
    }

    #[test]
    fn a_new_block_time_or_load_is_no_news_and_all_else_is() {
        let mut app = app();
        let mut facts = facts();
        facts.uptime += Duration::from_secs(60);
        facts.busy += 1;
        facts.memory_used.0 += 1 << 20;
        facts.now = UnixTime(facts.now.0 + 60);
        facts.clock.floor = UnixTime(facts.clock.floor.0 + 60);
        facts.clock.block = Some(facts.now);
        facts.status.as_mut().unwrap().chain = ChainState::Following { block: 1235 };
        assert!(!app.learn(facts.clone()));
        facts.status.as_mut().unwrap().chain = ChainState::Connecting;
        assert!(app.learn(facts.clone()));
        facts.machines += 1;
        assert!(app.learn(facts));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_keys_on_any_console_are_survived(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'l'), Just(b'i'), Just(b'n'), Just(0x1b)], 0..8),
            width in 0u16..200, height in 0u16..60, lines in 0usize..40,
        ) {
            let mut app = app();
            app.facts.log = vec!["l".into(); lines];
            let area = Rect::new(0, 0, width, height);
            for key in keys(&bytes) {
                app.press(key, Instant::now());
                for kind in [Kind::Screen, Kind::Line] {
                    prop_assert_eq!(app.draw(kind, area).area, area);
                }
            }
        }
    }
}
