//! Strings from outside, made fit for a terminal; times and sizes for people.

use std::time::Duration;

use loam_deployment::Bytes;
use loam_node_api::clock::UnixTime;
use time::OffsetDateTime;

/// Printable ASCII stays, everything else becomes `?`: names from tenants and servers reach the
/// screen, and must neither move the cursor nor look like something else. The kernel's console has
/// no other letters anyway.
pub fn clean(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c == ' ' || c.is_ascii_graphic() {
                c
            } else {
                '?'
            }
        })
        .collect()
}

/// At most `width` characters, with a mark where something was cut.
pub fn cut(text: &str, width: usize) -> String {
    if text.len() <= width || !text.is_ascii() {
        return text.chars().take(width).collect();
    }
    match width.checked_sub(2) {
        Some(kept) => format!("{}..", &text[..kept]),
        None => text[..width].to_owned(),
    }
}

/// `text` in at most `most` lines of `width`, the first of which begins with `mark`, the others with as many blanks.
/// What is cut off is marked.
pub fn paragraph(mark: &str, text: &str, width: usize, most: usize) -> Vec<String> {
    let text = clean(text);
    let indent = " ".repeat(mark.len());
    let style = textwrap::Options::new(width)
        .initial_indent(mark)
        .subsequent_indent(&indent)
        .word_splitter(textwrap::WordSplitter::NoHyphenation);
    let mut lines: Vec<String> = textwrap::wrap(&text, style)
        .into_iter()
        .map(|line| line.into_owned())
        .collect();
    if lines.len() > most {
        lines.truncate(most);
        if let Some(last) = lines.last_mut() {
            last.truncate(width.saturating_sub(2));
            last.push_str("..");
        }
    }
    lines
}

/// `3 d 04:05`, in minutes: a screen need not count seconds.
pub fn duration(time: Duration) -> String {
    let minutes = time.as_secs() / 60;
    let (days, hours, minutes) = (minutes / 1440, minutes / 60 % 24, minutes % 60);
    if days > 0 {
        format!("{days} d {hours:02}:{minutes:02}")
    } else {
        format!("{hours}:{minutes:02}")
    }
}

/// `2026-11-28 16:05 UTC`.
pub fn moment(time: UnixTime) -> String {
    let time = i64::try_from(time.0).ok();
    match time.and_then(|time| OffsetDateTime::from_unix_timestamp(time).ok()) {
        Some(time) => format!(
            "{}-{:02}-{:02} {:02}:{:02} UTC",
            time.year(),
            u8::from(time.month()),
            time.day(),
            time.hour(),
            time.minute()
        ),
        None => "beyond all calendars".to_owned(),
    }
}

/// As disks are sold: `960 GB`, `1.8 TB`.
pub fn size(bytes: Bytes) -> String {
    const GB: u64 = 1_000_000_000;
    match bytes.get() {
        small @ 0..1_000_000_000_000 => format!("{} GB", small / GB),
        large => format!("{}.{} TB", large / GB / 1000, large / GB / 100 % 10),
    }
}

pub fn mib(bytes: Bytes) -> u64 {
    bytes.get() / Bytes::MIB
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_but_printable_ascii_is_left() {
        assert_eq!(clean("a\x1b[2Jb\r\n\u{9b}c\u{202e}d"), "a?[2Jb???c?d");
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdefg", 6), "abcd..");
        assert_eq!(cut("abc", 1), "a");
    }

    #[test]
    fn people_read_minutes_days_and_decimal_sizes() {
        let seconds = |n| duration(Duration::from_secs(n));
        assert_eq!(seconds(59), "0:00");
        assert_eq!(seconds(3_900), "1:05");
        assert_eq!(seconds(86_399), "23:59");
        assert_eq!(seconds(3 * 86_400 + 4 * 3600 + 5 * 60), "3 d 04:05");
        assert_eq!(moment(UnixTime(1_795_881_902)), "2026-11-28 16:05 UTC");
        assert_eq!(moment(UnixTime(u64::MAX)), "beyond all calendars");
        assert_eq!(size(Bytes(960_197_124_096)), "960 GB");
        assert_eq!(size(Bytes(999_999_999_999)), "999 GB");
        assert_eq!(size(Bytes(1_000_000_000_000)), "1.0 TB");
        assert_eq!(size(Bytes(12_890_000_000_000)), "12.8 TB");
        assert_eq!(mib(Bytes::mib(7)), 7);
    }

    #[test]
    fn a_paragraph_is_indented_and_says_where_it_was_cut() {
        assert_eq!(
            paragraph("! ", "one two three", 9, 3),
            ["! one two", "  three"]
        );
        assert_eq!(paragraph("! ", "one two three", 9, 1), ["! one t.."]);
        assert_eq!(
            paragraph("! ", "abcdefghij", 6, 9),
            ["! abcd", "  efgh", "  ij"]
        );
    }

    proptest! {
        #[test]
        fn any_text_is_cut_to_its_width(text: String, width in 0usize..20) {
            let cut = cut(&clean(&text), width);
            prop_assert!(cut.len() <= width);
            prop_assert!(cut.bytes().all(|b| (b' '..=b'~').contains(&b)));
        }
    }
}
