//! From what a daemon wrote to a record of the log.

use serde_json::{Map, Value};

pub struct Record {
    /// One line of JSON.
    pub text: String,
    /// What the node's screen shows of it, if it is a warning or an error.
    pub warning: Option<String>,
}

/// A line of JSON keeps its fields and gets `service`; any other text becomes a message.
pub fn of_line(source: &str, line: &[u8]) -> Record {
    let mut fields = match serde_json::from_slice(line) {
        Ok(Value::Object(fields)) => fields,
        _ => {
            let text = String::from_utf8_lossy(line).into_owned();
            Map::from_iter([("message".to_owned(), Value::from(text))])
        }
    };
    fields.insert("service".to_owned(), Value::from(source));
    let warning = warning(source, &fields);
    Record {
        text: Value::Object(fields).to_string(),
        warning,
    }
}

/// `tracing`'s JSON has the message at the top (flattened) or under `fields`. A text that is no
/// record, such as a panic's, is worth showing.
fn warning(source: &str, fields: &Map<String, Value>) -> Option<String> {
    match fields.get("level").and_then(Value::as_str) {
        None | Some("WARN" | "ERROR") => {}
        Some(_) => return None,
    }
    let inner = fields
        .get("fields")
        .and_then(Value::as_object)
        .unwrap_or(fields);
    let text = |name: &str| inner.get(name).and_then(Value::as_str);
    let message = text("message").unwrap_or_default();
    // The cause, where our daemons give one.
    let cause = text("error").or_else(|| text("reason"));
    Some(match cause {
        Some(cause) => format!("{source}: {message}: {cause}"),
        None => format!("{source}: {message}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_keeps_its_fields() {
        let line = br#"{"level":"INFO","fields":{"message":"hi","n":1},"target":"x"}"#;
        let record = of_line("noded", line);
        let value: Value = serde_json::from_str(&record.text).unwrap();
        assert_eq!(value["service"], "noded");
        assert_eq!(value["fields"]["n"], 1);
        assert_eq!(record.warning, None);
    }

    #[test]
    fn a_daemon_cannot_speak_as_another() {
        let record = of_line(
            "noded",
            br#"{"service":"init","message":"x","level":"ERROR"}"#,
        );
        assert!(record.text.contains(r#""service":"noded""#));
        assert_eq!(record.warning.as_deref(), Some("noded: x"));
    }

    #[test]
    fn any_bytes_become_one_line() {
        let record = of_line("machine 1.web", b"thread main panicked\r\x1b[2J\xff");
        assert!(!record.text.contains(['\n', '\r', '\x1b']));
        assert!(
            record
                .warning
                .unwrap()
                .starts_with("machine 1.web: thread main panicked")
        );
    }

    #[test]
    fn a_warning_names_its_cause() {
        let line = br#"{"level":"WARN","message":"no answer","error":"timed out"}"#;
        assert_eq!(
            of_line("noded", line).warning.unwrap(),
            "noded: no answer: timed out"
        );
    }
}
