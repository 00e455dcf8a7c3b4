//! The view of a network test: each step with its outcome, and what to do about the first that is wrong.

use std::time::Duration;

use loam_node_api::network_test::{Finding, NetworkTest, Outcome, Step, TestState};
use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use crate::{
    home::{Line, column, put},
    text::paragraph,
};

/// The columns of steps, outcomes and times, each with a blank behind.
const STEP: usize = 10;
const WORD: usize = 11;
const TIME: usize = 10;
const MARGIN: usize = STEP + WORD + TIME;

/// Lines of one finding, and of what is to be done.
const MAX_FINDING: usize = 4;
const MAX_ADVICE: usize = 6;

const KEYS: &str = "n test again   any other key: back";

pub fn draw(test: Option<&NetworkTest>, area: Rect) -> Buffer {
    let mut buffer = Buffer::empty(area);
    let column = column(area);
    let width = usize::from(column.width);
    let advice = advice(test, width);
    let mut lines = vec![
        Line::styled("Network test", Style::new().bold()),
        Line::default(),
    ];
    lines.extend(test.map(|test| rows(test, width)).unwrap_or_default());
    // The keys are last, and what to do is seen whatever has no room above it.
    let room = usize::from(area.height).saturating_sub(1);
    lines.truncate(room.saturating_sub(advice.len()));
    lines.extend(advice);
    lines.truncate(room);
    for (y, line) in lines.iter().enumerate() {
        put(&mut buffer, column, y, line);
    }
    put(
        &mut buffer,
        column,
        room,
        &Line::styled(KEYS, Style::new().cyan()),
    );
    buffer
}

fn rows(test: &NetworkTest, width: usize) -> Vec<Line> {
    let mut lines: Vec<Line> = test
        .findings
        .iter()
        .flat_map(|finding| found(finding, width))
        .collect();
    let is_next = |step: &Step| test.findings.iter().all(|finding| finding.step < *step);
    if test.state == TestState::Running
        && let Some(next) = Step::ALL.into_iter().find(is_next)
    {
        lines.extend(row(next, "running", Style::new().cyan(), None, "", width));
    }
    lines
}

fn found(finding: &Finding, width: usize) -> Vec<Line> {
    let (word, style, text) = match &finding.outcome {
        Outcome::Fine(what) => ("ok", Style::new().green(), what),
        Outcome::Wrong { what, .. } => ("wrong", Style::new().bold().red(), what),
        Outcome::NotTried(why) => ("not tried", Style::new().yellow(), why),
    };
    row(finding.step, word, style, finding.took, text, width)
}

fn row(
    step: Step,
    word: &str,
    style: Style,
    took: Option<Duration>,
    text: &str,
    width: usize,
) -> Vec<Line> {
    let time = took.map_or_else(String::new, |took| format!("{} ms", took.as_millis()));
    let mut texts = paragraph(&" ".repeat(MARGIN), text, width, MAX_FINDING);
    if texts.is_empty() {
        texts.push(String::new());
    }
    let line = |(n, text): (usize, String)| {
        let text = text.get(MARGIN..).unwrap_or_default().to_owned();
        let columns = match n {
            0 => (step.to_string(), word, time.as_str()),
            _ => (String::new(), "", ""),
        };
        Line(vec![
            (format!("{:<STEP$}", columns.0), Style::new().cyan()),
            (format!("{:<WORD$}", columns.1), style),
            (format!("{:>1$}  ", columns.2, TIME - 2), Style::new()),
            (text, Style::new()),
        ])
    };
    texts.into_iter().enumerate().map(line).collect()
}

/// With a blank line above.
fn advice(test: Option<&NetworkTest>, width: usize) -> Vec<Line> {
    let Some(test) = test else {
        return vec![Line::plain("The test has not begun yet.")];
    };
    let wrong = test
        .findings
        .iter()
        .find_map(|finding| match &finding.outcome {
            Outcome::Wrong { advice, .. } => Some(advice.as_str()),
            Outcome::Fine(_) | Outcome::NotTried(_) => None,
        });
    let end = match (&test.state, wrong) {
        (TestState::Running, _) => Some("The test runs, for 40 seconds at most."),
        (TestState::Done, None) => Some("The network has all that this node needs."),
        (TestState::Done, Some(_)) => None,
        (TestState::BrokeOff(why), _) => Some(why.as_str()),
    };
    let bold = |text: &str| {
        let style = Style::new().bold();
        let lines = paragraph("", text, width, MAX_ADVICE).into_iter();
        lines.map(move |line| Line::styled(&line, style))
    };
    let mut lines = Vec::new();
    for text in [wrong, end].into_iter().flatten() {
        lines.push(Line::default());
        lines.extend(bold(text));
    }
    lines
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ratatui::style::Color;

    use super::*;
    use crate::home::tests::text;

    const VGA: Rect = Rect::new(0, 0, 80, 25);

    fn finding(step: Step, outcome: Outcome, took: Option<u64>) -> Finding {
        Finding {
            step,
            outcome,
            took: took.map(Duration::from_millis),
        }
    }

    fn fine(text: &str) -> Outcome {
        Outcome::Fine(text.into())
    }

    fn wrong(what: &str, advice: &str) -> Outcome {
        Outcome::Wrong {
            what: what.into(),
            advice: advice.into(),
        }
    }

    fn test(state: TestState) -> NetworkTest {
        let names = "the name servers 192.0.2.1, 192.0.2.2 do not answer within 8 seconds";
        NetworkTest {
            findings: vec![
                finding(Step::Link, fine("enp1s0 is up"), Some(3)),
                finding(Step::Address, fine("192.0.2.7/24"), None),
                finding(Step::Router, fine("192.0.2.1 answers"), Some(1)),
                finding(Step::Names, wrong(names, "See to the router."), Some(8000)),
                finding(Step::Time, wrong("not set", "Open the port."), None),
            ],
            state,
        }
    }

    #[test]
    fn each_step_stands_in_a_row_and_the_first_that_is_wrong_says_what_to_do() {
        let expected = "\
Network test

link      ok             3 ms  enp1s0 is up
address   ok                   192.0.2.7/24
router    ok             1 ms  192.0.2.1 answers
names     wrong       8000 ms  the name servers 192.0.2.1, 192.0.2.2 do not
                               answer within 8 seconds
time      wrong                not set
chain     running

See to the router.

The test runs, for 40 seconds at most.
";
        let seen = text(&draw(Some(&test(TestState::Running)), VGA));
        let foot = format!("{}{KEYS}\n", "\n".repeat(24 - expected.lines().count()));
        assert_eq!(seen, expected.to_owned() + &foot);
    }

    #[test]
    fn outcomes_have_colours() {
        let mut test = test(TestState::Running);
        test.findings[1].outcome = Outcome::NotTried("no link".into());
        let buffer = draw(Some(&test), VGA);
        let color = |row: u16| buffer[(STEP as u16, row)].fg;
        assert_eq!(color(2), Color::Green);
        assert_eq!(color(3), Color::Yellow);
        assert_eq!(color(5), Color::Red);
        assert_eq!(color(8), Color::Cyan);
    }

    #[test]
    fn a_test_that_is_over_says_how_it_ended() {
        let seen = |test: &NetworkTest| text(&draw(Some(test), VGA));
        let done = seen(&test(TestState::Done));
        assert!(!done.contains("running") && !done.contains("The test runs"));
        let mut well = test(TestState::Done);
        well.findings.truncate(3);
        assert!(seen(&well).contains("all that this node needs"));
        well.state = TestState::BrokeOff("It was killed.".into());
        assert!(seen(&well).contains("It was killed.") && !seen(&well).contains("running"));
        let broke = seen(&test(TestState::BrokeOff("It was killed.".into())));
        assert!(broke.contains("See to the router.") && broke.contains("It was killed."));
        assert!(text(&draw(None, VGA)).contains("not begun"));
    }

    #[test]
    fn a_small_screen_shows_what_to_do() {
        for height in 3..12 {
            let area = Rect::new(0, 0, 40, height);
            let seen = text(&draw(Some(&test(TestState::Done)), area));
            assert!(
                seen.contains("See to the router.") && seen.contains(KEYS),
                "{seen}"
            );
        }
    }

    fn any_outcome() -> impl Strategy<Value = Outcome> {
        let text = || {
            prop_oneof![
                any::<String>(),
                "[ -~]{0,2000}",
                Just("\x1b[2J\n".repeat(300))
            ]
        };
        prop_oneof![
            text().prop_map(Outcome::Fine),
            text().prop_map(Outcome::NotTried),
            (text(), text()).prop_map(|(what, advice)| Outcome::Wrong { what, advice }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_findings_on_any_screen_are_survived_and_cleaned(
            found in prop::collection::vec((0usize..6, any_outcome(), any::<Option<Duration>>()), 0..20),
            why: Option<String>, width in 0u16..200, height in 0u16..60,
        ) {
            let findings = found.into_iter().map(|(step, outcome, took)| {
                Finding { step: Step::ALL[step], outcome, took }
            });
            let test = NetworkTest {
                findings: findings.collect(),
                state: why.map_or(TestState::Running, TestState::BrokeOff),
            };
            let area = Rect::new(0, 0, width, height);
            let buffer = draw(Some(&test), area);
            prop_assert_eq!(buffer.area, area);
            let clean = |symbol: &str| symbol.bytes().all(|b| (b' '..=b'~').contains(&b));
            prop_assert!(buffer.content.iter().all(|cell| clean(cell.symbol())));
        }
    }
}
