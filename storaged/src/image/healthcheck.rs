//! An image's `Healthcheck`: a field of Docker's, which the OCI image specification reserves.
//!
//! Read as Docker reads it (moby, `api/types/container` `HealthConfig` and `daemon/health.go`).

use std::time::Duration;

use loam_node_api::healthcheck::Healthcheck;
use serde::Deserialize;

use super::config::ConfigError;

/// As it is written; times are nanoseconds.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Written {
    test: Option<Vec<String>>,
    interval: Option<i64>,
    timeout: Option<i64>,
    start_period: Option<i64>,
    start_interval: Option<i64>,
    retries: Option<i64>,
}

/// What `CMD-SHELL` is run by where the image has no `Shell`.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// Docker takes no time below.
const SHORTEST: Duration = Duration::from_millis(1);

impl Written {
    /// None: nothing is to be checked. `shell` is the image's own, empty if it has none; asked for
    /// when it is needed.
    pub fn read(
        self,
        shell: impl FnOnce() -> Result<Vec<String>, ConfigError>,
    ) -> Result<Option<Healthcheck>, ConfigError> {
        let mut test = self.test.unwrap_or_default().into_iter();
        let mut command = match test.next().as_deref() {
            Some("CMD") => Vec::new(),
            Some("CMD-SHELL") if test.len() > 0 => match shell()? {
                shell if shell.is_empty() => SHELL.map(str::to_owned).to_vec(),
                shell => shell,
            },
            // Of another kind, as Docker passes it over; or none.
            _ => return Ok(None),
        };
        command.extend(test);
        if command.is_empty() {
            return Ok(None);
        }
        let defaults = Healthcheck::new(command);
        let retries = match self.retries.unwrap_or_default() {
            0 => defaults.retries,
            // More than there can ever be are as many as there can be.
            asked @ 1.. => u32::try_from(asked).unwrap_or(u32::MAX),
            _ => return Err(refused("its `Retries` are negative".to_owned())),
        };
        Ok(Some(Healthcheck {
            interval: time("Interval", self.interval, defaults.interval)?,
            timeout: time("Timeout", self.timeout, defaults.timeout)?,
            start_period: time("StartPeriod", self.start_period, defaults.start_period)?,
            start_interval: time(
                "StartInterval",
                self.start_interval,
                defaults.start_interval,
            )?,
            retries,
            command: defaults.command,
        }))
    }
}

fn time(name: &str, written: Option<i64>, default: Duration) -> Result<Duration, ConfigError> {
    let nanoseconds = written.unwrap_or_default();
    match u64::try_from(nanoseconds).map(Duration::from_nanos) {
        Ok(Duration::ZERO) => Ok(default),
        Ok(time) if time >= SHORTEST => Ok(time),
        _ => Err(refused(format!(
            "its `{name}` is {nanoseconds} ns; at least 1000000 (a millisecond) are needed, or 0 for \
             Docker's default"
        ))),
    }
}

fn refused(what: String) -> ConfigError {
    ConfigError::RunField {
        field: "Healthcheck".to_owned(),
        what,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(check: Value) -> Result<Option<Healthcheck>, ConfigError> {
        let written: Written = serde_json::from_value(check).unwrap();
        written.read(|| Ok(Vec::new()))
    }

    #[test]
    fn what_is_zero_or_absent_is_as_docker_has_it() {
        let seconds = Duration::from_secs;
        let defaults = Healthcheck {
            command: vec!["/check".into(), "-q".into()],
            interval: seconds(30),
            timeout: seconds(30),
            start_period: seconds(0),
            start_interval: seconds(5),
            retries: 3,
        };
        for check in [
            json!({"Test": ["CMD", "/check", "-q"]}),
            json!({"Test": ["CMD", "/check", "-q"], "Interval": 0, "Timeout": 0, "StartPeriod": 0,
                "StartInterval": 0, "Retries": 0}),
            json!({"Test": ["CMD", "/check", "-q"], "Interval": null, "Retries": null, "Other": []}),
        ] {
            assert_eq!(read(check).unwrap().as_ref(), Some(&defaults));
        }
        let check = json!({"Test": ["CMD", "/check", "-q"], "Interval": 1_000_000, "Timeout": 2_000_000_000_i64,
            "StartPeriod": i64::MAX, "StartInterval": 3_000_000_000_i64, "Retries": i64::MAX});
        let expected = Healthcheck {
            interval: SHORTEST,
            timeout: seconds(2),
            start_period: Duration::from_nanos(i64::MAX as u64),
            start_interval: seconds(3),
            retries: u32::MAX,
            ..defaults
        };
        assert_eq!(read(check).unwrap(), Some(expected));
    }

    #[test]
    fn a_line_is_for_the_image_s_shell() {
        let command = |shell: &[&str]| {
            let written: Written =
                serde_json::from_value(json!({"Test": ["CMD-SHELL", "curl -f localhost"]}))
                    .unwrap();
            let shell = shell.iter().map(|part| (*part).to_owned()).collect();
            written.read(|| Ok(shell)).unwrap().unwrap().command
        };
        assert_eq!(command(&[]), ["/bin/sh", "-c", "curl -f localhost"]);
        assert_eq!(
            command(&["/bin/bash", "-eo", "pipefail", "-c"]),
            ["/bin/bash", "-eo", "pipefail", "-c", "curl -f localhost"]
        );
    }

    #[test]
    fn nothing_is_checked_where_there_is_nothing_to_run() {
        for test in [
            json!(null),
            json!([]),
            json!(["NONE"]),
            json!(["NONE", "/check"]),
            json!(["CMD"]),
            json!(["CMD-SHELL"]),
            json!(["/check"]),
        ] {
            let check = json!({"Test": test, "Interval": -1});
            assert_eq!(read(check).unwrap(), None, "{test}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_name() {
        for field in ["Interval", "Timeout", "StartPeriod", "StartInterval"] {
            for nanoseconds in [-1, i64::MIN, 1, 999_999] {
                let error =
                    read(json!({"Test": ["CMD", "/check"], field: nanoseconds})).unwrap_err();
                let error = error.to_string();
                assert!(
                    error.starts_with(&format!(
                        "the image's `Healthcheck` cannot be used: its `{field}` is {nanoseconds} ns"
                    )),
                    "{error}"
                );
            }
        }
        let error = read(json!({"Test": ["CMD", "/check"], "Retries": -1})).unwrap_err();
        assert!(error.to_string().contains("`Retries`"), "{error}");
    }
}
