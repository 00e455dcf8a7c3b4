//! From cells to the bytes that bring them onto a console.
//!
//! Each row that has changed is written whole, from its start: a serial console often ends in a file that a person
//! reads.

use std::fmt::Write as _;

use ratatui::{
    buffer::{Buffer, Cell},
    style::{Color, Modifier},
};

/// What a console understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The kernel's own screen: 16 colours, and the blocks of which codes are made.
    Screen,
    /// A line to anything: text alone, each row of which ends a line.
    Line,
}

/// The bytes that turn `shown` into `next`; of no `shown`, all of it. Nothing is cleared before: what stays does not
/// flicker.
pub fn paint(kind: Kind, shown: Option<&Buffer>, next: &Buffer) -> String {
    let shown = shown.filter(|shown| shown.area == next.area);
    let mut bytes = String::new();
    if shown.is_none() {
        // No cursor; no line that goes on in the next.
        bytes.push_str(match kind {
            Kind::Screen => "\x1b[?25l\x1b[?7l",
            Kind::Line => "\x1b[?25l",
        });
    }
    let width = usize::from(next.area.width).max(1);
    let rows = next.content.chunks(width);
    let before = |row: usize| shown.and_then(|shown| shown.content.chunks(width).nth(row));
    for (row, cells) in rows.enumerate() {
        if before(row) != Some(cells) {
            // Writing to a String cannot fail.
            let _ = write!(bytes, "\x1b[{};1H", row + 1);
            match kind {
                Kind::Screen => coloured(cells, &mut bytes),
                Kind::Line => plain(cells, &mut bytes),
            }
        }
    }
    if shown.is_none() {
        bytes.push_str("\x1b[J");
    }
    bytes
}

fn plain(cells: &[Cell], bytes: &mut String) {
    let text: String = cells.iter().map(Cell::symbol).collect();
    bytes.push_str(text.trim_end());
    bytes.push_str("\x1b[K\r\n");
}

fn coloured(cells: &[Cell], bytes: &mut String) {
    let used = cells
        .iter()
        .rposition(|cell| *cell != Cell::EMPTY)
        .map_or(0, |last| last + 1);
    let mut style = None;
    for cell in &cells[..used] {
        let wanted = (cell.modifier, cell.fg, cell.bg);
        if style != Some(wanted) {
            let _ = write!(bytes, "\x1b[0{}m", sequence(wanted));
            style = Some(wanted);
        }
        bytes.push_str(cell.symbol());
    }
    bytes.push_str("\x1b[0m\x1b[K");
}

/// Of the style's parts, each after a semicolon (ECMA-48, SGR).
fn sequence((modifier, fg, bg): (Modifier, Color, Color)) -> String {
    let mut sequence = String::new();
    if modifier.contains(Modifier::BOLD) {
        sequence.push_str(";1");
    }
    for (color, first) in [(fg, 30), (bg, 40)] {
        if let Some(number) = number(color) {
            let _ = write!(sequence, ";{}", first + number);
        }
    }
    sequence
}

/// The colours that every console has; of others the screen uses none.
fn number(color: Color) -> Option<u8> {
    Some(match color {
        Color::Black => 0,
        Color::Red => 1,
        Color::Green => 2,
        Color::Yellow => 3,
        Color::Blue => 4,
        Color::Magenta => 5,
        Color::Cyan => 6,
        Color::Gray => 7,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use ratatui::{layout::Rect, style::Style};

    use super::*;

    fn buffer(lines: &[&str]) -> Buffer {
        let mut buffer = Buffer::empty(Rect::new(0, 0, 8, lines.len() as u16));
        for (y, line) in lines.iter().enumerate() {
            buffer.set_string(0, y as u16, line, Style::new());
        }
        buffer
    }

    #[test]
    fn the_first_is_whole_and_then_rows_that_differ() {
        let first = buffer(&["one", "two"]);
        assert_eq!(
            paint(Kind::Line, None, &first),
            "\x1b[?25l\x1b[1;1Hone\x1b[K\r\n\x1b[2;1Htwo\x1b[K\r\n\x1b[J"
        );
        let next = buffer(&["one", "three"]);
        assert_eq!(
            paint(Kind::Line, Some(&first), &next),
            "\x1b[2;1Hthree\x1b[K\r\n"
        );
        assert_eq!(paint(Kind::Line, Some(&next), &next), "");
        let other_size = buffer(&["one"]);
        assert!(paint(Kind::Line, Some(&next), &other_size).starts_with("\x1b[?25l"));
    }

    #[test]
    fn a_screen_has_colours_and_a_line_has_none() {
        let mut buffer = buffer(&["ab cd"]);
        buffer.set_style(Rect::new(0, 0, 2, 1), Style::new().green().bold());
        assert_eq!(
            paint(Kind::Screen, None, &buffer),
            "\x1b[?25l\x1b[?7l\x1b[1;1H\x1b[0;1;32mab\x1b[0m cd\x1b[0m\x1b[K\x1b[J"
        );
        assert!(!paint(Kind::Line, None, &buffer).contains("32m"));
        // Blanks that have a colour are seen.
        buffer.set_style(Rect::new(6, 0, 2, 1), Style::new().on_gray());
        assert!(paint(Kind::Screen, None, &buffer).contains("cd \x1b[0;47m  \x1b[0m"));
    }

    #[test]
    fn each_colour_has_its_number() {
        let all = [
            Color::Black,
            Color::Red,
            Color::Green,
            Color::Yellow,
            Color::Blue,
            Color::Magenta,
            Color::Cyan,
            Color::Gray,
        ];
        let numbers: Vec<_> = all.into_iter().filter_map(number).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(number(Color::Reset), None);
    }
}
