//! What is printed: tables and records for people, JSON for programs.

use anyhow::Context;
use serde::Serialize;
use tabled::{
    builder::Builder,
    settings::{Padding, Style, object::Columns},
};

#[derive(Clone, Copy, Debug)]
pub struct Output {
    pub json: bool,
}

impl Output {
    /// One thing: as lines of name and value, or as a JSON object.
    pub fn record<T: Serialize>(
        self,
        value: &T,
        rows: impl FnOnce(&T) -> Vec<(&'static str, String)>,
    ) -> anyhow::Result<()> {
        if self.json {
            return print_json(value);
        }
        let mut builder = Builder::default();
        for (name, text) in rows(value) {
            builder.push_record([name.to_owned(), plain(&text)]);
        }
        print_table(builder);
        Ok(())
    }

    /// Many things of a kind: as a table, or as a JSON array.
    pub fn table<T: Serialize>(
        self,
        values: &[T],
        head: &[&str],
        row: impl Fn(&T) -> Vec<String>,
        empty: &str,
    ) -> anyhow::Result<()> {
        if self.json {
            return print_json(&values);
        }
        if values.is_empty() {
            println!("{empty}");
            return Ok(());
        }
        let mut builder = Builder::default();
        builder.push_record(head.iter().map(|name| name.to_ascii_uppercase()));
        for value in values {
            builder.push_record(row(value).iter().map(|text| plain(text)));
        }
        print_table(builder);
        Ok(())
    }

    pub fn error(self, error: &anyhow::Error) {
        if self.json {
            eprintln!("{}", serde_json::json!({ "error": format!("{error:#}") }));
        } else {
            eprintln!("loam: {error:#}");
        }
    }
}

fn print_json<T: Serialize + ?Sized>(value: &T) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value).context("JSON")?);
    Ok(())
}

fn print_table(builder: Builder) {
    let mut table = builder.build();
    table
        .with(Style::empty())
        .with(Padding::new(0, 3, 0, 0))
        .modify(Columns::last(), Padding::zero());
    for line in table.to_string().lines() {
        println!("{}", line.trim_end());
    }
}

/// Nodes and other tenants write some of what is shown; none of it may move the cursor.
pub fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn control_characters_never_reach_the_terminal() {
        assert_eq!(super::plain("a\x1b[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }
}
