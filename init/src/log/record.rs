//! From what a daemon wrote to a record of the log.

use std::fmt;

use loam_node_api::WorkloadId;
use serde_json::{Map, Value};

pub struct Record {
    /// One line of JSON.
    pub text: String,
    /// What the node's screen shows of it, if it is a warning or an error.
    pub warning: Option<String>,
}

/// Who says something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Also init itself and the kernel.
    Daemon(&'static str),
    /// The VMM of a machine. What it says may be a tenant's doing, so nothing of it reaches the
    /// screen that was not meant as a warning.
    Machine(WorkloadId),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Daemon(name) => f.write_str(name),
            Self::Machine(id) => write!(f, "machine {id}"),
        }
    }
}

/// A line of JSON keeps its fields and gets `service`; any other text becomes a message.
pub fn of_line(source: &Source, line: &[u8]) -> Record {
    let mut fields = match serde_json::from_slice(line) {
        Ok(Value::Object(fields)) => fields,
        _ => {
            let text = String::from_utf8_lossy(line).into_owned();
            Map::from_iter([("message".to_owned(), Value::from(text))])
        }
    };
    fields.insert("service".to_owned(), Value::from(source.to_string()));
    let warning = is_warning(source, &fields).then(|| short(source, &fields));
    Record {
        text: Value::Object(fields).to_string(),
        warning,
    }
}

fn is_warning(source: &Source, fields: &Map<String, Value>) -> bool {
    match fields.get("level").and_then(Value::as_str) {
        Some(level) => matches!(level, "WARN" | "ERROR"),
        // A daemon's text that is no record, such as a panic's, is worth showing.
        None => matches!(source, Source::Daemon(_)),
    }
}

/// `tracing`'s JSON has the message at the top (flattened) or under `fields`, and beside it what it
/// is about and its cause, where our daemons give them.
fn short(source: &Source, fields: &Map<String, Value>) -> String {
    let inner = fields
        .get("fields")
        .and_then(Value::as_object)
        .unwrap_or(fields);
    let text = |name: &str| inner.get(name).and_then(Value::as_str);
    let mut short = format!("{source}: ");
    for about in ["machine", "daemon"].into_iter().filter_map(text) {
        short += about;
        short += ": ";
    }
    short += text("message").unwrap_or_default();
    for cause in ["error", "reason", "end"].into_iter().filter_map(text) {
        short += ": ";
        short += cause;
    }
    short
}

/// The longest line that anybody reads on a screen, in bytes.
const READABLE: usize = 400;

/// A record as text: when, who, what, and the rest as `name=value`. Any text that is no record stays as it is.
pub fn readable(text: &str) -> String {
    let Ok(Value::Object(fields)) = serde_json::from_str(text) else {
        return text.to_owned();
    };
    let plain = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut line = String::new();
    if let Some(time) = fields.get("timestamp").and_then(Value::as_str) {
        // `2026-11-28T16:05:02.123456Z`: the day is on the screen anyway.
        line += time.get(11..19).unwrap_or(time);
        line += " ";
    }
    line += &fields.get("service").map(plain).unwrap_or_default();
    line += ": ";
    if let Some(level @ ("WARN" | "ERROR")) = fields.get("level").and_then(Value::as_str) {
        line += level;
        line += " ";
    }
    let inner = fields.get("fields").and_then(Value::as_object);
    let inner = inner.unwrap_or(&fields);
    line += &inner.get("message").map(plain).unwrap_or_default();
    const SAID: [&str; 8] = [
        "timestamp",
        "level",
        "service",
        "message",
        "target",
        "fields",
        "span",
        "spans",
    ];
    for (name, value) in inner
        .iter()
        .filter(|(name, _)| !SAID.contains(&name.as_str()))
    {
        line += &format!(" {name}={}", plain(value));
    }
    line.truncate(line.floor_char_boundary(READABLE));
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODED: Source = Source::Daemon("noded");

    #[test]
    fn json_keeps_its_fields() {
        let line = br#"{"level":"INFO","fields":{"message":"hi","n":1},"target":"x"}"#;
        let record = of_line(&NODED, line);
        let value: Value = serde_json::from_str(&record.text).unwrap();
        assert_eq!(value["service"], "noded");
        assert_eq!(value["fields"]["n"], 1);
        assert_eq!(record.warning, None);
    }

    #[test]
    fn a_daemon_cannot_speak_as_another() {
        let record = of_line(
            &NODED,
            br#"{"service":"init","message":"x","level":"ERROR"}"#,
        );
        assert!(record.text.contains(r#""service":"noded""#));
        assert_eq!(record.warning.as_deref(), Some("noded: x"));
    }

    #[test]
    fn any_bytes_become_one_line() {
        let line = b"thread main panicked\r\x1b[2J\xff";
        let record = of_line(&NODED, line);
        assert!(!record.text.contains(['\n', '\r', '\x1b']));
        assert!(
            record
                .warning
                .unwrap()
                .starts_with("noded: thread main panicked")
        );
        let machine = Source::Machine("1.web".parse().unwrap());
        assert_eq!(of_line(&machine, line).warning, None);
    }

    #[test]
    fn a_record_is_read_as_text() {
        let own = r#"{"timestamp":"2026-11-28T16:05:02.123456Z","level":"WARN","message":"screen ended","end":"killed","target":"loam_init","service":"init"}"#;
        assert_eq!(readable(own), "16:05:02 init: WARN screen ended end=killed");
        let nested =
            r#"{"level":"INFO","fields":{"message":"hi","n":1},"target":"x","service":"noded"}"#;
        assert_eq!(readable(nested), "noded: hi n=1");
        assert_eq!(readable("any text"), "any text");
        let long = format!(r#"{{"message":"{}","service":"x"}}"#, "ä".repeat(999));
        assert_eq!(readable(&long).len(), 399);
    }

    #[test]
    fn a_warning_names_what_it_is_about_and_its_cause() {
        let line =
            br#"{"level":"WARN","message":"not started","machine":"1.web","error":"no tap"}"#;
        let warning = of_line(&Source::Daemon("init"), line).warning;
        assert_eq!(warning.unwrap(), "init: 1.web: not started: no tap");
    }
}
