//! JSON that strangers wrote: what of it cannot be read is named by its place.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::{Deserializer, Value};
use serde_path_to_error::{Error, Track};

/// What is shown of a place, and of what is wrong there, at most; both may repeat what is written there.
const PLACE: usize = 100;
const WHAT: usize = 200;

/// In a line of bounded length.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct JsonError {
    /// As `layers[2].size`; empty where it is the whole.
    pub place: String,
    pub what: String,
}

impl JsonError {
    /// Of a document whose parts are at `folder`.
    #[must_use]
    pub fn below(self, folder: &str) -> Self {
        let between = match self.place.chars().next() {
            None | Some('[') => "",
            Some(_) => ".",
        };
        Self {
            place: format!("{folder}{between}{}", self.place),
            what: self.what,
        }
    }
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.place.is_empty() {
            write!(f, "`{}`: ", self.place)?;
        }
        f.write_str(&self.what)
    }
}

impl From<Error<serde_json::Error>> for JsonError {
    fn from(error: Error<serde_json::Error>) -> Self {
        let place = error.path().to_string();
        Self {
            place: match place.as_str() {
                "." => String::new(),
                place => bounded(place, PLACE),
            },
            what: bounded(&error.inner().to_string(), WHAT),
        }
    }
}

fn bounded(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

/// A whole document.
pub fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, JsonError> {
    // Each is an object, and what reads objects would take a list of their fields' values for one.
    if bytes.trim_ascii_start().starts_with(b"[") {
        return Err(JsonError {
            place: String::new(),
            what: "it is a list, and not an object".to_owned(),
        });
    }
    let mut json = Deserializer::from_slice(bytes);
    let mut track = Track::new();
    let value = T::deserialize(serde_path_to_error::Deserializer::new(
        &mut json, &mut track,
    ))
    .map_err(|error| Error::new(track.path(), error))?;
    json.end()
        .map_err(|error| Error::new(Track::new().path(), error))?;
    Ok(value)
}

/// A part of a document that was read.
pub fn read_part<T: DeserializeOwned>(value: Value) -> Result<T, JsonError> {
    Ok(serde_path_to_error::deserialize(value)?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Part {
        size: u64,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Whole {
        parts: Vec<Part>,
    }

    fn refused(text: &str) -> String {
        read::<Whole>(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_list_is_no_object() {
        for list in ["[[]]", " \n[]", "[[{\"size\": 1}]]"] {
            assert_eq!(refused(list), "it is a list, and not an object", "{list}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named_by_its_place() {
        let part = r#"{"parts": [{"size": 1}, {"size": "2"}]}"#;
        let error = refused(part);
        let expected = "`parts[1].size`: invalid type: string \"2\", expected u64";
        assert!(error.starts_with(expected), "{error}");
        let error = refused(r#"{"parts": [{}]}"#);
        assert!(
            error.starts_with("`parts[0]`: missing field `size`"),
            "{error}"
        );
        let error = refused("[]");
        assert!(!error.starts_with('`'), "{error}");
    }

    #[test]
    fn a_document_ends_where_it_ends() {
        let whole = r#"{"parts": [{"size": 1}]} "#;
        let parts = vec![Part { size: 1 }];
        assert_eq!(read(whole.as_bytes()), Ok(Whole { parts }));
        let error = refused(&format!("{whole}x"));
        assert!(error.starts_with("trailing characters"), "{error}");
    }

    #[test]
    fn a_part_is_named_by_its_place_in_the_whole() {
        let error = |value| {
            read_part::<Vec<u8>>(value)
                .unwrap_err()
                .below("Env")
                .to_string()
        };
        assert!(error(json!([1, "x"])).starts_with("`Env[1]`: invalid type: string"));
        assert!(error(json!({})).starts_with("`Env`: invalid type: map"));
        let error = read_part::<Part>(json!({"size": -1}))
            .unwrap_err()
            .below("Check");
        assert!(error.to_string().starts_with("`Check.size`: invalid value"));
    }

    #[test]
    fn no_line_is_long_whatever_is_written_there() {
        let long = "x".repeat(100_000);
        let value = json!({ long.as_str(): long });
        let error = read_part::<BTreeMap<String, u64>>(value).unwrap_err();
        assert!(error.to_string().len() < 310, "{error}");
    }
}
