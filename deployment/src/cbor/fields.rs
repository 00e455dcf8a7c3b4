//! Maps of fields to types and back, with the path of the field in every refusal.

use std::collections::BTreeMap;

use ciborium::Value;

use crate::rejection::{FieldError, Problem};

pub(crate) trait Encode {
    fn encode(&self) -> Value;
}

pub(crate) trait Decode: Sized {
    /// `path` is where the value stands, as `workloads.web.memory`.
    fn decode(value: Value, path: &str) -> Result<Self, FieldError>;
}

/// A choice among a few names.
pub(crate) trait Named: Copy + PartialEq + 'static {
    const NAMES: &'static [(Self, &'static str)];

    fn name(self) -> &'static str {
        let found = Self::NAMES.iter().find(|(value, _)| *value == self);
        found
            .map(|(_, name)| *name)
            .expect("NAMES lists every variant")
    }

    fn from_name(text: &str) -> Result<Self, String> {
        let found = Self::NAMES.iter().find(|(_, name)| *name == text);
        found.map(|(value, _)| *value).ok_or_else(|| {
            let names: Vec<_> = Self::NAMES
                .iter()
                .map(|(_, name)| format!("`{name}`"))
                .collect();
            format!("`{text}` is not one of {}", names.join(", "))
        })
    }
}

/// Reads a map whose keys are text, field by field.
pub(crate) struct Fields<'a> {
    path: &'a str,
    entries: BTreeMap<String, Value>,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(value: Value, path: &'a str) -> Result<Self, FieldError> {
        Ok(Self {
            path,
            entries: text_map(value, path)?,
        })
    }

    pub(crate) fn required<T: Decode>(&mut self, key: &str) -> Result<T, FieldError> {
        self.optional(key)?
            .ok_or_else(|| self.error(key, Problem::Missing))
    }

    pub(crate) fn optional<T: Decode>(&mut self, key: &str) -> Result<Option<T>, FieldError> {
        let path = join(self.path, key);
        self.entries
            .remove(key)
            .map(|value| T::decode(value, &path))
            .transpose()
    }

    /// A field that is absent when it holds its default.
    pub(crate) fn or_default<T: Decode + Default>(&mut self, key: &str) -> Result<T, FieldError> {
        Ok(self.optional(key)?.unwrap_or_default())
    }

    /// Refuses what was not read.
    pub(crate) fn finish(self) -> Result<(), FieldError> {
        match self.entries.keys().next() {
            Some(key) => Err(self.error(key, Problem::Unknown)),
            None => Ok(()),
        }
    }

    pub(crate) fn error(&self, key: &str, problem: Problem) -> FieldError {
        FieldError {
            path: join(self.path, key),
            problem,
        }
    }
}

/// Makes a map whose keys are text, in the one order that counts.
#[derive(Default)]
pub(crate) struct Map(Vec<(String, Value)>);

impl Map {
    pub(crate) fn with(mut self, key: &str, value: &impl Encode) -> Self {
        self.0.push((key.to_owned(), value.encode()));
        self
    }

    pub(crate) fn with_some<T: Encode>(self, key: &str, value: Option<&T>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    /// Leaves out what holds its default, so that each value has one encoding.
    pub(crate) fn unless_default<T: Encode + Default + PartialEq>(
        self,
        key: &str,
        value: &T,
    ) -> Self {
        if *value == T::default() {
            self
        } else {
            self.with(key, value)
        }
    }

    pub(crate) fn finish(self) -> Value {
        sorted_map(self.0)
    }
}

/// Ascending order of the keys' encodings; a text's head holds its length, so shorter texts come
/// first (RFC 8949 section 4.2.1).
pub(super) fn sorted_map(mut entries: Vec<(String, Value)>) -> Value {
    entries.sort_by(|(a, _), (b, _)| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
    Value::Map(
        entries
            .into_iter()
            .map(|(key, value)| (Value::Text(key), value))
            .collect(),
    )
}

pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

pub(super) fn wrong_type<T>(path: &str, expected: &'static str) -> Result<T, FieldError> {
    Err(FieldError {
        path: path.to_owned(),
        problem: Problem::Type(expected),
    })
}

pub(super) fn invalid(path: &str, why: impl ToString) -> FieldError {
    FieldError {
        path: path.to_owned(),
        problem: Problem::Value(why.to_string()),
    }
}

pub(super) fn text_map(value: Value, path: &str) -> Result<BTreeMap<String, Value>, FieldError> {
    let Value::Map(entries) = value else {
        return wrong_type(path, "a map");
    };
    entries
        .into_iter()
        .map(|(key, value)| match key {
            Value::Text(key) => Ok((key, value)),
            _ => wrong_type(path, "a map whose keys are text"),
        })
        .collect()
}
