//! Strings from outside, made fit for a terminal.

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

    proptest! {
        #[test]
        fn any_text_is_cut_to_its_width(text: String, width in 0usize..20) {
            let cut = cut(&clean(&text), width);
            prop_assert!(cut.len() <= width);
            prop_assert!(cut.bytes().all(|b| (b' '..=b'~').contains(&b)));
        }
    }
}
