//! The TOML document as it is walked: every value knows where it stands.

use std::{cell::RefCell, collections::BTreeMap, fmt, str::FromStr};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::environment;
use crate::{Bytes, cbor::Named};

/// What is wrong in a file, and where. Shown as `hello.toml:12: machine.web.memory: ...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenError {
    pub file: String,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// `machine.web.memory`; empty where the file as a whole is meant.
    pub field: String,
    pub message: String,
}

impl fmt::Display for WrittenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            line,
            column: _,
            field,
            message,
        } = self;
        write!(f, "{file}:{line}: ")?;
        if !field.is_empty() {
            write!(f, "{field}: ")?;
        }
        f.write_str(message)
    }
}

impl std::error::Error for WrittenError {}

pub(super) struct Source<'a> {
    file: &'a str,
    text: &'a str,
    lookup: &'a dyn Fn(&str) -> Option<String>,
    /// Path in the payload to path and position in the file, for what only the checks of the
    /// whole find.
    places: RefCell<BTreeMap<String, (String, usize)>>,
}

impl<'a> Source<'a> {
    pub(super) fn new(
        file: &'a str,
        text: &'a str,
        lookup: &'a dyn Fn(&str) -> Option<String>,
    ) -> Self {
        Self {
            file,
            text,
            lookup,
            places: RefCell::default(),
        }
    }

    pub(super) fn root<'s>(
        &'s self,
        document: &'s Spanned<DeTable<'s>>,
    ) -> Result<Table<'s>, WrittenError> {
        Ok(Table::new(
            self,
            document.get_ref(),
            0,
            String::new(),
            String::new(),
        ))
    }

    /// `at` is a byte position in the text.
    pub(super) fn error(&self, at: usize, field: &str, message: impl Into<String>) -> WrittenError {
        let before = &self.text[..self.text.floor_char_boundary(at)];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        WrittenError {
            file: self.file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            field: field.to_owned(),
            message: message.into(),
        }
    }

    pub(super) fn syntax_error(&self, error: &toml::de::Error) -> WrittenError {
        self.error(
            error.span().map_or(0, |span| span.start),
            "",
            error.message(),
        )
    }

    /// The error at the field whose path in the payload is given, or at the nearest one above it.
    pub(super) fn error_at_payload_path(&self, path: &str, message: String) -> WrittenError {
        let places = self.places.borrow();
        let mut above = path;
        loop {
            if let Some((written, at)) = places.get(above) {
                return self.error(*at, &format!("{written}{}", &path[above.len()..]), message);
            }
            match above.rfind(['.', '[']) {
                Some(end) => above = &above[..end],
                None => return self.error(0, path, message),
            }
        }
    }
}

/// A value with where it stands.
pub(super) struct Item<'s> {
    source: &'s Source<'s>,
    value: &'s DeValue<'s>,
    at: usize,
    /// `machine.web.memory`.
    path: String,
    /// `workloads.web.memory`.
    payload_path: String,
}

impl<'s> Item<'s> {
    fn new(
        source: &'s Source<'s>,
        value: &'s Spanned<DeValue<'s>>,
        at: usize,
        path: String,
        payload_path: String,
    ) -> Self {
        source
            .places
            .borrow_mut()
            .insert(payload_path.clone(), (path.clone(), at));
        Self {
            source,
            value: value.get_ref(),
            at,
            path,
            payload_path,
        }
    }

    pub(super) fn error(&self, message: impl Into<String>) -> WrittenError {
        self.source.error(self.at, &self.path, message)
    }

    fn expected(&self, what: &str) -> WrittenError {
        self.error(format!("must be {what}, not a {}", self.value.type_str()))
    }

    /// Says where in the payload this value goes, where that is not where its parent goes.
    pub(super) fn at_payload_path(mut self, path: String) -> Self {
        let place = (self.path.clone(), self.at);
        self.source.places.borrow_mut().insert(path.clone(), place);
        self.payload_path = path;
        self
    }

    /// A text, with what it takes from the environment filled in.
    pub(super) fn string(&self) -> Result<String, WrittenError> {
        let text = self
            .value
            .as_str()
            .ok_or_else(|| self.expected("a text in quotes"))?;
        environment::fill(text, self.source.lookup).map_err(|why| self.error(why))
    }

    pub(super) fn boolean(&self) -> Result<bool, WrittenError> {
        self.value
            .as_bool()
            .ok_or_else(|| self.expected("true or false"))
    }

    pub(super) fn integer<T: TryFrom<u64>>(&self) -> Result<T, WrittenError> {
        let number = self
            .value
            .as_integer()
            .ok_or_else(|| self.expected("a number"))?;
        u64::from_str_radix(number.as_str(), number.radix())
            .ok()
            .and_then(|number| number.try_into().ok())
            .ok_or_else(|| self.error(format!("{number} is out of range")))
    }

    pub(super) fn size(&self) -> Result<Bytes, WrittenError> {
        match self.value {
            DeValue::Integer(_) => self.integer().map(Bytes),
            DeValue::String(_) => self.parsed(),
            _ => Err(self.expected("a size, as \"512MiB\"")),
        }
    }

    pub(super) fn datetime(&self) -> Option<&toml::value::Datetime> {
        self.value.as_datetime()
    }

    /// A text that stands for something else.
    pub(super) fn parsed<T: FromStr<Err: fmt::Display>>(&self) -> Result<T, WrittenError> {
        self.string()?
            .parse()
            .map_err(|why: T::Err| self.error(why.to_string()))
    }

    pub(super) fn named<T: Named>(&self) -> Result<T, WrittenError> {
        T::from_name(&self.string()?).map_err(|why| self.error(why))
    }

    pub(super) fn list<T>(
        &self,
        read: impl FnMut(Item<'s>) -> Result<T, WrittenError>,
    ) -> Result<Vec<T>, WrittenError> {
        let items = self
            .value
            .as_array()
            .ok_or_else(|| self.expected("a list"))?;
        let items = items.iter().enumerate().map(|(index, value)| {
            let (path, payload) = (
                format!("{}[{index}]", self.path),
                format!("{}[{index}]", self.payload_path),
            );
            Item::new(self.source, value, value.span().start, path, payload)
        });
        items.map(read).collect()
    }

    /// A table whose keys are fixed.
    pub(super) fn table(&self) -> Result<Table<'s>, WrittenError> {
        let table = self
            .value
            .as_table()
            .ok_or_else(|| self.expected("a table"))?;
        let (path, payload_path) = (self.path.clone(), self.payload_path.clone());
        Ok(Table::new(self.source, table, self.at, path, payload_path))
    }

    /// A table whose keys are the writer's own.
    pub(super) fn entries(&self) -> Result<BTreeMap<String, Item<'s>>, WrittenError> {
        Ok(self.table()?.entries)
    }
}

/// A table that is read key by key.
pub(super) struct Table<'s> {
    source: &'s Source<'s>,
    at: usize,
    path: String,
    entries: BTreeMap<String, Item<'s>>,
    known: Vec<&'static str>,
}

impl<'s> Table<'s> {
    fn new(
        source: &'s Source<'s>,
        table: &'s DeTable<'s>,
        at: usize,
        path: String,
        payload_path: String,
    ) -> Self {
        let below = |path: &str, key: &str| match path {
            "" => key.to_owned(),
            _ => format!("{path}.{key}"),
        };
        let entries = table.iter().map(|(key, value)| {
            let name = key.get_ref().as_ref();
            let (path, payload) = (below(&path, name), below(&payload_path, name));
            (
                name.to_owned(),
                Item::new(source, value, key.span().start, path, payload),
            )
        });
        let entries = entries.collect();
        Self {
            source,
            at,
            path,
            entries,
            known: Vec::new(),
        }
    }

    pub(super) fn optional(&mut self, key: &'static str) -> Option<Item<'s>> {
        self.known.push(key);
        self.entries.remove(key)
    }

    pub(super) fn required(&mut self, key: &'static str) -> Result<Item<'s>, WrittenError> {
        self.optional(key)
            .ok_or_else(|| self.error(format!("`{key}` is missing")))
    }

    /// Of the whole table.
    pub(super) fn error(&self, message: impl Into<String>) -> WrittenError {
        self.source.error(self.at, &self.path, message)
    }

    /// Refuses keys that were not read.
    pub(super) fn finish(mut self) -> Result<(), WrittenError> {
        // The first in the file, not in the alphabet, is where the reader looks first.
        let Some(unknown) = self.entries.values().min_by_key(|item| item.at) else {
            return Ok(());
        };
        self.known.sort_unstable();
        Err(unknown.error(format!(
            "there is no such key; known here: {}",
            self.known.join(", ")
        )))
    }
}
