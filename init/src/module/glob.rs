//! Glob patterns of `modules.alias`: `*`, `?` and `[...]`, as `fnmatch(3)` reads them.

/// Whether the whole of `text` matches `pattern`.
///
/// Never takes more than `pattern.len() * text.len()` steps: on a mismatch only the last `*` is
/// tried again.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where to go on when what follows the last `*` did not match: the star takes one byte more.
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            retry = Some((p + 1, t));
            p += 1;
        } else if let Some(next) = one(pattern, p, text[t]) {
            p = next;
            t += 1;
        } else if let Some((after_star, taken)) = retry {
            retry = Some((after_star, taken + 1));
            p = after_star;
            t = taken + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// Position in the pattern after the part at `p`, if that part stands for `byte`.
fn one(pattern: &[u8], p: usize, byte: u8) -> Option<usize> {
    match *pattern.get(p)? {
        b'?' => Some(p + 1),
        b'[' => class(pattern, p, byte),
        literal => (literal == byte).then_some(p + 1),
    }
}

/// The class that starts at `p`; without a closing bracket, `[` stands for itself.
fn class(pattern: &[u8], p: usize, byte: u8) -> Option<usize> {
    let inside = &pattern[p + 1..];
    // A bracket right after the opening one belongs to the class.
    let Some(end) = inside
        .iter()
        .skip(1)
        .position(|b| *b == b']')
        .map(|at| at + 1)
    else {
        return (byte == b'[').then_some(p + 1);
    };
    let (negated, mut members) = match inside[..end].split_first() {
        Some((b'!' | b'^', rest)) if !rest.is_empty() => (true, rest),
        _ => (false, &inside[..end]),
    };
    let mut found = false;
    while let [first, rest @ ..] = members {
        members = match rest {
            [b'-', last, after @ ..] => {
                found |= (*first..=*last).contains(&byte);
                after
            }
            _ => {
                found |= *first == byte;
                rest
            }
        };
    }
    (found != negated).then_some(p + end + 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_of_the_kernel() {
        for (pattern, text) in [
            ("virtio:d00000002v*", "virtio:d00000002v00001AF4"),
            (
                "pci:v00008086d0000100Esv*sd*bc*sc*i*",
                "pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00",
            ),
            (
                "cpu:type:x86,ven*fam*mod*:feature:*00C2*",
                "cpu:type:x86,ven0002fam000Fmod006B:feature:,0000,0001,00C0,00C2,00E9",
            ),
            ("fs-btrfs", "fs-btrfs"),
            ("*", ""),
            ("input:*-e0*3,*k*14A,*", "input:b0003v1-e0,1,3,k14A,ram"),
            ("usb:v*p*d[0-8]*", "usb:v1p2d7xyz"),
            ("a[!b]c", "axc"),
            ("a[]]c", "a]c"),
            ("a[", "a["),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("virtio:d00000002v*", "virtio:d00000001v00001AF4"),
            (
                "cpu:type:x86,ven*:feature:*0085*",
                "cpu:type:x86,ven0002:feature:,00C2",
            ),
            ("fs-btrfs", "fs-btrfs2"),
            ("fs-btrfs2", "fs-btrfs"),
            ("", "x"),
            ("usb:v*p*d[0-8]", "usb:v1p2d9"),
            ("a[!b]c", "abc"),
        ] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(pattern in "[a*?\\[\\]!^-]{0,12}", text in "[ab\\[\\]]{0,12}") {
            let _ = matches(&pattern, &text);
        }

        #[test]
        fn a_text_matches_itself_between_stars(text in "[a-z0-9:,]{0,40}") {
            let starred = format!("*{text}*");
            prop_assert!(matches(&text, &text));
            prop_assert!(matches(&starred, &text));
        }
    }
}
