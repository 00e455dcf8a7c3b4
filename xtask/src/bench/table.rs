//! The bench's tables: every time beside its ratio to the rival's.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result};
use tabled::{
    builder::Builder,
    settings::{Alignment, Style, object::Columns},
};

use super::{fetch::Usage, memory::Daemon};
use crate::image::{self, Image, sizes::mebibytes};

/// Something that was reached, and when.
#[derive(Clone, Debug)]
pub struct Row {
    pub what: &'static str,
    pub at: Duration,
}

impl Row {
    pub fn new(what: &'static str, at: Duration) -> Self {
        Self { what, at }
    }
}

/// Rows in the order in which they were reached, counted from `start`.
pub fn times(from: &str, start: Duration, mut rows: Vec<Row>, rival: Duration) -> String {
    rows.sort_by_key(|row| row.at);
    let mut builder = Builder::default();
    builder.push_record([from, "at", "took", "at / bare boot"]);
    let mut before = start;
    for row in rows {
        let at = row.at.saturating_sub(start);
        let took = row.at.saturating_sub(before);
        before = row.at;
        builder.push_record([
            row.what.to_owned(),
            format!("{:.2} s", at.as_secs_f64()),
            format!("{:.2} s", took.as_secs_f64()),
            ratio(at.as_secs_f64(), rival.as_secs_f64()),
        ]);
    }
    finish(builder)
}

/// The files that are booted, beside the kernel that is in them.
pub fn sizes(image: &Image) -> Result<String> {
    let size = |file: &Path| {
        let metadata = fs::metadata(file).with_context(|| file.display().to_string())?;
        Ok::<_, anyhow::Error>(metadata.len())
    };
    let kernel = size(&image::folder().join("stages/linux"))?;
    let whole = size(&image.uki)?;
    Ok(format!(
        "the image: {}; its kernel: {}; ratio {}",
        mebibytes(whole),
        mebibytes(kernel),
        ratio(whole as f64, kernel as f64),
    ))
}

/// What the node's memory holds while nothing happens, beside the bare kernel's.
pub fn memory(daemons: &[Daemon], node_kib: u64, bare_kib: u64) -> String {
    let mut builder = Builder::default();
    builder.push_record(["daemon, idle", "with its program", "allocated"]);
    let mut push = |name: &str, proportional: u64, anonymous: u64| {
        builder.push_record([
            name.to_owned(),
            mebibytes(proportional << 10),
            mebibytes(anonymous << 10),
        ]);
    };
    for daemon in daemons {
        push(daemon.name, daemon.proportional_kib, daemon.anonymous_kib);
    }
    let sum = |part: fn(&Daemon) -> u64| daemons.iter().map(part).sum();
    let all = sum(|daemon| daemon.proportional_kib);
    push("all", all, sum(|daemon| daemon.anonymous_kib));
    let table = finish(builder);
    format!(
        "{table}\nin use on the bare kernel: {}; by the daemons: ratio {}; on the whole node: {}, \
         ratio {}",
        mebibytes(bare_kib << 10),
        ratio(all as f64, bare_kib as f64),
        mebibytes(node_kib << 10),
        ratio(node_kib as f64, bare_kib as f64),
    )
}

/// Kernels, each beside the first.
pub fn kernels(rows: &[(&str, super::guest::Boot)]) -> String {
    let mut builder = Builder::default();
    let Some((rival, first)) = rows.first() else {
        return String::new();
    };
    builder.push_record([
        "a machine on".to_owned(),
        "to its command".to_owned(),
        format!("/ {rival}"),
        "processor".to_owned(),
        "/ its".to_owned(),
        "memory in use".to_owned(),
    ]);
    for (name, boot) in rows {
        builder.push_record([
            (*name).to_owned(),
            format!("{:.2} s", boot.seconds),
            ratio(boot.seconds, first.seconds),
            format!("{:.2} s", boot.processor_seconds),
            ratio(boot.processor_seconds, first.processor_seconds),
            mebibytes(boot.used_kib << 10),
        ]);
    }
    finish(builder)
}

/// Who unpacks an image, each beside the first.
pub fn unpackers(rows: &[(String, Usage)]) -> String {
    let mut builder = Builder::default();
    let Some((rival, first)) = rows.first() else {
        return String::new();
    };
    builder.push_record([
        "an image".to_owned(),
        "took".to_owned(),
        format!("took / {rival}"),
        "processor".to_owned(),
        "processor / its".to_owned(),
        "memory, all of it".to_owned(),
        "the program alone".to_owned(),
    ]);
    for (name, usage) in rows {
        builder.push_record([
            name.clone(),
            format!("{:.2} s", usage.seconds),
            ratio(usage.seconds, first.seconds),
            format!("{:.2} s", usage.processor_seconds),
            ratio(usage.processor_seconds, first.processor_seconds),
            mebibytes(usage.peak_kib << 10),
            mebibytes(usage.own_peak_kib << 10),
        ]);
    }
    finish(builder)
}

/// Of an odd number of numbers.
pub fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or_default()
}

fn ratio(ours: f64, rival: f64) -> String {
    format!("{:.2}", ours / rival)
}

fn finish(builder: Builder) -> String {
    let mut table = builder.build();
    table
        .with(Style::rounded())
        .modify(Columns::new(1..), Alignment::right());
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::guest::Boot;

    #[test]
    fn rows_are_in_the_order_of_time() {
        let seconds = Duration::from_secs;
        let rows = vec![
            Row::new("late", seconds(16)),
            Row::new("early", seconds(12)),
        ];
        let table = times("since ten", seconds(10), rows, seconds(4));
        let lines: Vec<&str> = table.lines().collect();
        assert!(
            lines[3].contains("early") && lines[3].contains("2.00 s │"),
            "{table}"
        );
        assert!(
            lines[4].contains("late") && lines[4].contains("4.00 s"),
            "{table}"
        );
        assert!(lines[4].contains("1.50"), "{table}");
    }

    #[test]
    fn kernels_are_beside_the_first() {
        let boot = |seconds| Boot {
            seconds,
            processor_seconds: seconds,
            used_kib: 2048,
        };
        let table = kernels(&[("stock", boot(4.0)), ("ours", boot(1.0))]);
        let ours = table.lines().find(|line| line.contains("ours")).unwrap();
        for part in ["1.00 s", "0.25", "2.00 MiB"] {
            assert!(ours.contains(part), "{part}: {table}");
        }
    }

    #[test]
    fn unpackers_are_beside_the_first() {
        let usage = |seconds| Usage {
            seconds,
            processor_seconds: 2.0 * seconds,
            peak_kib: 1024,
            own_peak_kib: 512,
        };
        let rows = [
            ("first".to_owned(), usage(2.0)),
            ("second".to_owned(), usage(3.0)),
        ];
        let table = unpackers(&rows);
        let second = table.lines().find(|line| line.contains("second")).unwrap();
        for part in ["3.00 s", "1.50", "6.00 s", "1.00 MiB", "0.50 MiB"] {
            assert!(second.contains(part), "{part}: {table}");
        }
    }
}
