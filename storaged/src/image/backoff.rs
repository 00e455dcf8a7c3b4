//! How long an attempt that failed is not made again.

use std::time::Duration;

use super::staging::Record;

/// After a failure: 5 s, then twice as long each time, up to 5 minutes.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// When the image itself is at fault, which no later try finds otherwise.
const LONGEST_PAUSE_FLAWED: Duration = Duration::from_secs(3600);

/// After a build that storaged did not survive, or that never came to its end: half a minute, for it may have been a power cut,
/// then four times as long each time. An image that kills storaged does so eight times on its first day, then twice a day.
const FIRST_PAUSE_DEADLY: Duration = Duration::from_secs(30);
const LONGEST_PAUSE_DEADLY: Duration = Duration::from_secs(12 * 3600);

pub fn pause(record: &Record) -> Duration {
    let grown = |first: Duration, factor: u32, times: u32, longest: Duration| match times {
        0 => Duration::ZERO,
        _ => first
            .saturating_mul(factor.saturating_pow((times - 1).min(16)))
            .min(longest),
    };
    let longest = if record.is_flawed {
        LONGEST_PAUSE_FLAWED
    } else {
        LONGEST_PAUSE
    };
    let failed = grown(FIRST_PAUSE, 2, record.failures, longest);
    let died = grown(FIRST_PAUSE_DEADLY, 4, record.deaths, LONGEST_PAUSE_DEADLY);
    failed.max(died)
}

#[cfg(test)]
mod tests {
    use loam_deployment::payload::OciReference;

    use super::*;

    #[test]
    fn pauses_grow_with_failures_and_have_an_end() {
        let image: OciReference = format!("a.org/x@sha256:{}", "ab".repeat(32))
            .parse()
            .unwrap();
        let after = |failures, is_flawed| {
            pause(&Record {
                failures,
                is_flawed,
                ..Record::new(image.clone().into())
            })
            .as_secs()
        };
        let seconds: Vec<_> = [0, 1, 2, 3, 7, 8, u32::MAX].map(|n| after(n, false)).into();
        assert_eq!(seconds, [0, 5, 10, 20, 300, 300, 300]);
        assert_eq!([8, 11, u32::MAX].map(|n| after(n, true)), [640, 3600, 3600]);
    }
}
