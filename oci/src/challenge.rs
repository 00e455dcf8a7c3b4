//! What a server wants to be told before it answers: `WWW-Authenticate` (RFC 9110, section 11.6.1). Pure.
//!
//! A server may send several such fields, and each may have several challenges, parted by commas as
//! their parameters are. What of a field cannot be read, from there on, is passed over.

/// Of all fields of one answer together. Those in use have some hundred bytes, tickets of Negotiate
/// some thousand.
const LONGEST: usize = 16 << 10;

/// Those in use have three at most.
const MOST: usize = 16;

/// One way to log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    scheme: String,
    /// Names in lower case.
    parameters: Vec<(String, String)>,
}

impl Challenge {
    pub fn is(&self, scheme: &str) -> bool {
        self.scheme.eq_ignore_ascii_case(scheme)
    }

    /// The first of this name, which is given in lower case.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let mut parameters = self.parameters.iter();
        let (_, value) = parameters.find(|(other, _)| other == name)?;
        Some(value)
    }
}

/// All challenges of an answer's fields, in their order.
pub fn parse<'a>(fields: impl IntoIterator<Item = &'a str>) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    let mut room = LONGEST;
    for field in fields {
        let Some(left) = room.checked_sub(field.len()) else {
            break;
        };
        room = left;
        let mut reader = Reader { rest: field };
        while challenges.len() < MOST {
            let Some(challenge) = reader.challenge() else {
                break;
            };
            challenges.push(challenge);
        }
    }
    challenges
}

/// What is left of a field.
struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    /// `None` at the end, and where nothing can be made of what follows.
    fn challenge(&mut self) -> Option<Challenge> {
        self.skip(&[',', ' ', '\t']);
        let scheme = self.take(is_token)?.to_owned();
        let mut parameters = Vec::new();
        if self.token68() {
            return Some(Challenge { scheme, parameters });
        }
        loop {
            let parted = self.rest.len();
            self.skip(&[',', ' ', '\t']);
            if self.rest.is_empty() {
                break;
            }
            if parted == self.rest.len() {
                // Something follows a scheme or a value at once.
                return None;
            }
            let before = self.rest;
            let Some(name) = self.parameter_name() else {
                // The next challenge.
                self.rest = before;
                break;
            };
            let value = self.value()?;
            parameters.push((name.to_ascii_lowercase(), value));
        }
        Some(Challenge { scheme, parameters })
    }

    /// A ticket instead of parameters, as Negotiate's: taken if it is one.
    fn token68(&mut self) -> bool {
        let before = self.rest;
        self.skip(&[' ', '\t']);
        let is_parted = before.len() != self.rest.len();
        let taken = is_parted && self.take(is_token68).is_some();
        self.skip(&['=']);
        let after = self.rest.trim_start_matches([' ', '\t']);
        if taken && (after.is_empty() || after.starts_with(',')) {
            return true;
        }
        self.rest = before;
        false
    }

    /// With the `=` behind it.
    fn parameter_name(&mut self) -> Option<&'a str> {
        let name = self.take(is_token)?;
        self.skip(&[' ', '\t']);
        self.rest = self.rest.strip_prefix('=')?;
        self.skip(&[' ', '\t']);
        Some(name)
    }

    fn value(&mut self) -> Option<String> {
        let Some(quoted) = self.rest.strip_prefix('"') else {
            // Realms come unquoted too, though their `:` and `/` are in no token.
            let is_plain = |c: char| !matches!(c, ',' | ' ' | '\t' | '"' | '=');
            let is_value = |c: char| is_plain(c) || c == '=';
            let starts_well = self.rest.starts_with(is_plain);
            return starts_well
                .then(|| self.take(is_value))
                .flatten()
                .map(str::to_owned);
        };
        let mut value = String::new();
        let mut characters = quoted.char_indices();
        while let Some((at, c)) = characters.next() {
            match c {
                '"' => {
                    self.rest = &quoted[at + 1..];
                    return Some(value);
                }
                '\\' => value.push(characters.next()?.1),
                c => value.push(c),
            }
        }
        None
    }

    /// As much as there is of these, if there is any.
    fn take(&mut self, of: impl Fn(char) -> bool) -> Option<&'a str> {
        let end = self.rest.find(|c| !of(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!taken.is_empty()).then_some(taken)
    }

    fn skip(&mut self, of: &[char]) {
        self.rest = self.rest.trim_start_matches(of);
    }
}

/// RFC 9110, section 5.6.2.
fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

/// RFC 9110, section 11.2, without the padding.
fn is_token68(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._~+/".contains(c)
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::select};

    use super::*;

    fn challenge(scheme: &str, parameters: &[(&str, &str)]) -> Challenge {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Challenge {
            scheme: scheme.to_owned(),
            parameters: parameters.iter().map(owned).collect(),
        }
    }

    #[test]
    fn reads_what_registries_send() {
        let bearer = challenge(
            "Bearer",
            &[
                ("realm", "https://auth.example/token"),
                ("service", "registry.example"),
                ("scope", "repository:library/debian:pull,push"),
            ],
        );
        let text = "Bearer realm=\"https://auth.example/token\",service=\"registry.example\",\
                    scope=\"repository:library/debian:pull,push\"";
        assert_eq!(parse([text]), std::slice::from_ref(&bearer));
        let basic = challenge("Basic", &[("realm", "registry")]);
        let line = format!("Basic realm=\"registry\", {text}");
        assert_eq!(parse([&*line]), [basic.clone(), bearer.clone()]);
        let fields = ["Negotiate", text, "Basic Realm = registry"];
        let negotiate = challenge("Negotiate", &[]);
        assert_eq!(parse(fields), [negotiate.clone(), bearer.clone(), basic]);
        // RFC 9110's own example of what is hard.
        let line = "Newauth realm=\"apps\", type=1, title=\"Login to \\\"apps\\\"\", Basic realm=\"simple\"";
        let new = [
            ("realm", "apps"),
            ("type", "1"),
            ("title", "Login to \"apps\""),
        ];
        let simple = challenge("Basic", &[("realm", "simple")]);
        assert_eq!(parse([line]), [challenge("Newauth", &new), simple]);
        let tickets = format!("Negotiate YIIZx+/=, NTLM TlRM ,, {text}");
        let ntlm = challenge("NTLM", &[]);
        assert_eq!(parse([&*tickets]), [negotiate, ntlm, bearer]);
        let plain = "bearer realm=https://auth.example/token?a=b service=x";
        let read = parse([plain]);
        assert!(read[0].is("Bearer"));
        assert_eq!(
            read[0].parameter("realm"),
            Some("https://auth.example/token?a=b")
        );
        assert_eq!(read[0].parameter("service"), Some("x"));
    }

    #[test]
    fn what_cannot_be_read_costs_only_what_follows_it() {
        for bad in [
            "",
            " ,, ",
            "=",
            "Bearer realm=\"x",
            "Bearer realm=\"x\\",
            "(",
            "Basic(",
        ] {
            assert_eq!(parse([bad]), [], "{bad}");
        }
        let negotiate = [challenge("Negotiate", &[])];
        assert_eq!(parse(["Negotiate, Bearer realm=\"x"]), negotiate);
        assert_eq!(parse(["(", "Negotiate"]), negotiate);
        let long = format!("Bearer realm=\"{}\"", "x".repeat(LONGEST));
        assert_eq!(parse(["Negotiate", &long, "Basic"]), negotiate);
        assert_eq!(parse(["Negotiate, ".repeat(1000).as_str()]).len(), MOST);
    }

    fn challenges() -> impl Strategy<Value = Vec<Challenge>> {
        let value = prop_oneof!["[a-z0-9:/.-]{1,9}", "[ -~]{0,9}", "[a,=\"\\\\ é]{0,6}"];
        let parameter = ("[a-z_-]{1,8}", value);
        let one = ("[A-Za-z]{1,9}", prop::collection::vec(parameter, 0..4));
        let one = one.prop_map(|(scheme, parameters)| Challenge { scheme, parameters });
        prop::collection::vec(one, 0..5)
    }

    fn is_plain(value: &str) -> bool {
        let mut plain = value.chars().map(is_token);
        !value.is_empty() && plain.all(|is| is)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_in_one_field_or_several(
            challenges in challenges(),
            unquoted in any::<bool>(),
            comma in select(vec![",", ", ", " ,\t", ",,"]),
        ) {
            let write = |one: &Challenge| {
                let parameters = one.parameters.iter().map(|(name, value)| {
                    if unquoted && is_plain(value) {
                        return format!("{name}={value}");
                    }
                    let escaped = value.replace('\\', "\\\\").replace('"', "\\\"");
                    format!("{name}=\"{escaped}\"")
                });
                let parameters: Vec<_> = parameters.collect();
                format!("{} {}", one.scheme, parameters.join(comma)).trim_end().to_owned()
            };
            let fields: Vec<_> = challenges.iter().map(write).collect();
            prop_assert_eq!(&parse(fields.iter().map(String::as_str)), &challenges);
            prop_assert_eq!(&parse([fields.join(comma).as_str()]), &challenges);
        }

        #[test]
        fn nothing_is_too_odd_to_be_looked_at(fields in odd()) {
            let read = parse(fields.iter().map(String::as_str));
            prop_assert!(read.len() <= MOST);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100_000))]

        #[test]
        #[ignore = "slow: a hundred thousand answers"]
        fn of_very_many_answers_none_is_too_odd_to_be_looked_at(fields in odd()) {
            let read = parse(fields.iter().map(String::as_str));
            prop_assert!(read.len() <= MOST);
        }
    }

    fn odd() -> impl Strategy<Value = Vec<String>> {
        prop::collection::vec("[ -~\t]{0,60}|[a-zB\"=, \\\\]{0,60}|\\PC{0,30}", 0..4)
    }
}
