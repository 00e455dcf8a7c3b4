//! The node's log as moments on its kernel's clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde_json::Value;

/// Something that a daemon said.
#[derive(Clone, Debug, PartialEq)]
pub struct Moment {
    pub service: String,
    pub message: String,
    /// Since the kernel's start.
    pub uptime: Duration,
}

/// Where the kernel tells how far its clocks are apart (`kernel/time/timer_list.c`).
pub const CLOCKS: &str = "/proc/timer_list";

/// When the kernel started, by the clock that the daemons' records carry. The offset of the base
/// `ktime_get_real` is that of `CLOCK_REALTIME` to `CLOCK_MONOTONIC`, in nanoseconds.
pub fn kernel_start(timer_list: &str) -> Result<SystemTime> {
    let offset = timer_list
        .split_once("ktime_get_real")
        .and_then(|(_, rest)| rest.split_once(".offset:"))
        .and_then(|(_, rest)| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("{CLOCKS} does not name the offset of the real time"))?;
    Ok(UNIX_EPOCH + Duration::from_nanos(offset))
}

/// All records with a time, in the order of the log. The kernel's own have none of that kind.
pub fn moments(log: &str, kernel_start: SystemTime) -> Vec<Moment> {
    let moment = |line: &str| {
        let record: Value = serde_json::from_str(line).ok()?;
        let text = |value: &Value, name: &str| value.get(name)?.as_str().map(str::to_owned);
        let time = humantime::parse_rfc3339(&text(&record, "timestamp")?).ok()?;
        let fields = record.get("fields").unwrap_or(&record);
        Some(Moment {
            service: text(&record, "service")?,
            message: text(fields, "message")?,
            uptime: time.duration_since(kernel_start).ok()?,
        })
    };
    log.lines().filter_map(moment).collect()
}

/// The first time that `service` said `message`.
pub fn first(moments: &[Moment], service: &str, message: &str) -> Result<Duration> {
    said(moments.iter(), service, message)
}

/// The last time.
pub fn last(moments: &[Moment], service: &str, message: &str) -> Result<Duration> {
    said(moments.iter().rev(), service, message)
}

fn said<'a>(
    mut moments: impl Iterator<Item = &'a Moment>,
    service: &str,
    message: &str,
) -> Result<Duration> {
    moments
        .find(|moment| moment.service == service && moment.message == message)
        .map(|moment| moment.uptime)
        .with_context(|| format!("{service} did not log `{message}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMER_LIST: &str = "\
Timer List Version: v0.9
cpu: 0
 clock 0:
  .get_time:   ktime_get
  .offset:     0 nsecs
 clock 1:
  .get_time:   ktime_get_real
  .offset:     1000500000000 nsecs
";

    #[test]
    fn places_records_on_the_kernels_clock() {
        let start = kernel_start(TIMER_LIST).unwrap();
        let log = "\
{\"level\":\"INFO\",\"service\":\"kernel\",\"uptime_us\":3,\"message\":\"hello\"}\n\
not a record\n\
{\"service\":\"init\",\"message\":\"loam starts\",\"timestamp\":\"1970-01-01T00:16:42.500000Z\"}\n\
{\"service\":\"noded\",\"fields\":{\"message\":\"reported\"},\"timestamp\":\"1970-01-01T00:16:43.500000Z\"}\n\
{\"service\":\"noded\",\"fields\":{\"message\":\"reported\"},\"timestamp\":\"1970-01-01T00:16:44.500000Z\"}\n";
        let moments = moments(log, start);
        assert_eq!(moments.len(), 3);
        let seconds = |time: Result<Duration>| time.unwrap().as_secs();
        assert_eq!(seconds(first(&moments, "init", "loam starts")), 2);
        assert_eq!(seconds(first(&moments, "noded", "reported")), 3);
        assert_eq!(seconds(last(&moments, "noded", "reported")), 4);
        assert!(first(&moments, "netd", "reported").is_err());
        assert!(kernel_start("nothing").is_err());
    }
}
