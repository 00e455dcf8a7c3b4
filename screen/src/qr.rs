//! A QR code in cells of a console, two modules one above the other in each.

use qrcode::{Color, EcLevel, QrCode};

/// Light modules around the code. The standard asks for four; readers of phones make do with two, and the screen around
/// is dark, which they take well.
const QUIET: usize = 2;

/// Rows of blanks, half and full blocks, all equally long, to be drawn light on dark. None: `text` has no room in a
/// code.
pub fn rows(text: &str) -> Option<Vec<String>> {
    // Letters and digits alone take less room in capitals.
    let code = QrCode::with_error_correction_level(text.to_ascii_uppercase(), EcLevel::L).ok()?;
    let width = code.width();
    let colors = code.to_colors();
    let light = |x: usize, y: usize| {
        let inside = |n: usize| n.checked_sub(QUIET).filter(|n| *n < width);
        match (inside(x), inside(y)) {
            (Some(x), Some(y)) => colors[y * width + x] == Color::Light,
            _ => y < width + 2 * QUIET,
        }
    };
    let size = width + 2 * QUIET;
    let row = |y: usize| {
        (0..size)
            .map(|x| match (light(x, y), light(x, y + 1)) {
                (true, true) => '█',
                (true, false) => '▀',
                (false, true) => '▄',
                (false, false) => ' ',
            })
            .collect()
    };
    Some((0..size).step_by(2).map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The finder pattern of the upper left corner: a ring of dark modules around a light one and a dark square.
    #[test]
    fn a_key_takes_17_rows_of_33_cells() {
        let rows = rows(&"3f".repeat(32)).unwrap();
        assert_eq!(rows.len(), 17);
        assert!(rows.iter().all(|row| row.chars().count() == 33));
        let corner = rows[..5].iter().map(|row| row.chars().take(10).collect());
        let corner: Vec<String> = corner.collect();
        let expected = [
            "██████████",
            "██ ▄▄▄▄▄ █",
            "██ █   █ █",
            "██ █▄▄▄█ █",
            "██▄▄▄▄▄▄▄█",
        ];
        assert_eq!(corner, expected);
        assert!(
            rows[16].chars().all(|cell| cell == '▀'),
            "half a row of quiet"
        );
    }

    #[test]
    fn what_no_code_can_hold_has_none() {
        assert_eq!(rows(&"x".repeat(9999)), None);
    }
}
