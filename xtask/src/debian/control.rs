//! Debian's control syntax (deb822): stanzas of `Field: value`, continued on indented lines.

/// One stanza. Field names are compared without case, as Debian's policy (5.1) asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stanza<'a> {
    fields: Vec<(&'a str, String)>,
}

impl Stanza<'_> {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The words of a field; none when it is absent.
    pub fn words(&self, name: &str) -> impl Iterator<Item = &str> {
        self.get(name).unwrap_or_default().split_whitespace()
    }
}

/// The stanzas of `text`, comments left out.
pub fn stanzas(text: &str) -> impl Iterator<Item = Stanza<'_>> {
    let mut lines = text.lines();
    std::iter::from_fn(move || {
        let mut stanza = Stanza::default();
        for line in lines.by_ref() {
            if line.trim().is_empty() {
                if stanza.fields.is_empty() {
                    continue;
                }
                return Some(stanza);
            }
            if line.starts_with('#') {
                continue;
            }
            if line.starts_with([' ', '\t']) {
                if let Some((_, value)) = stanza.fields.last_mut() {
                    value.push('\n');
                    value.push_str(line.trim());
                }
            } else if let Some((name, value)) = line.split_once(':') {
                stanza.fields.push((name, value.trim().to_owned()));
            }
        }
        (!stanza.fields.is_empty()).then_some(stanza)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_fields_continuations_and_comments() {
        let text =
            "# why\nTypes: deb\nURIs: http://a/debian\n  http://b/debian\n\n\nSuites: trixie\n";
        let all: Vec<_> = stanzas(text).collect();
        assert_eq!(all.len(), 2);
        assert_eq!(
            all[0].words("uris").collect::<Vec<_>>(),
            ["http://a/debian", "http://b/debian"]
        );
        assert_eq!(all[1].get("Suites"), Some("trixie"));
        assert_eq!(all[1].get("URIs"), None);
    }
}
