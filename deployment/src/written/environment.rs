//! `${env:NAME}` in texts.

const OPEN: &str = "${env:";

/// Fills in what `lookup` gives. The caller names the field.
pub(super) fn fill(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(OPEN) {
        let (before, from) = rest.split_at(start);
        let after = &from[OPEN.len()..];
        if let Some(literal) = before.strip_suffix('$') {
            filled.push_str(literal);
            filled.push_str(OPEN);
            rest = after;
            continue;
        }
        let (name, behind) = after
            .split_once('}')
            .ok_or_else(|| format!("`{OPEN}` without its `}}`"))?;
        let value = lookup(name).ok_or_else(|| {
            format!("the environment variable {name} is not set (or is not UTF-8)")
        })?;
        filled.push_str(before);
        filled.push_str(&value);
        rest = behind;
    }
    filled.push_str(rest);
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_in_once_and_leaves_the_rest() {
        let lookup = |name: &str| match name {
            "A" => Some("1".to_owned()),
            "NESTED" => Some("${env:A}".to_owned()),
            _ => None,
        };
        let fill = |text| fill(text, &lookup);
        assert_eq!(fill("${env:A}"), Ok("1".to_owned()));
        assert_eq!(fill("x${env:A}${env:A}y"), Ok("x11y".to_owned()));
        assert_eq!(fill("${HOME} $$ $A {}"), Ok("${HOME} $$ $A {}".to_owned()));
        assert_eq!(fill("$${env:A}"), Ok("${env:A}".to_owned()));
        assert_eq!(
            fill("${env:NESTED}"),
            Ok("${env:A}".to_owned()),
            "values are not filled"
        );
        assert!(fill("${env:B}").is_err_and(|why| why.contains('B')));
        assert!(fill("${env:A").is_err());
    }
}
