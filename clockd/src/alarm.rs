//! What a farmer is told about a floor that servers contradict.
//!
//! Nothing on the node can put such a floor right: by it the servers' answers have passed, and their
//! certificates have ended. Whether it is wrong is for people to say, who have a calendar: whoever
//! is on the way may show old certificates.

use time::OffsetDateTime;

use crate::{
    floor::{Floor, Origin},
    instant::Nanos,
    judge::{Answer, largest_group},
};

/// Answers that are less before the floor are a clock's or a chain's inaccuracy, which passes.
const LONG: Nanos = Nanos::seconds(24 * 3600);
/// One server may be out of order.
const LEAST: usize = 2;

/// Of `answers` those that NTS proved count; `ended` more servers have certificates that ended before
/// the floor. The kernel has run for `up`.
pub fn alarm(answers: &[Answer], ended: usize, floor: &Floor, up: Nanos) -> Option<String> {
    let lowest = Nanos::from(floor.time());
    let (before, near): (Vec<&Answer>, Vec<&Answer>) = answers
        .iter()
        .filter(|answer| answer.authenticated)
        .partition(|answer| answer.boot + up + LONG < lowest);
    let contradict = largest_group(&before).len() + ended;
    if !near.is_empty() || contradict < LEAST {
        return None;
    }
    let (what, remedy) = match floor.origin() {
        Origin::Built => ("the build of this image", "make the boot medium anew"),
        Origin::Block => ("a finalized block of the chain", "restart this node"),
        Origin::Disk => (
            "the time that this node's disks have kept",
            "delete the file secrets/time on each of its disks",
        ),
    };
    Some(format!(
        "{contradict} time servers contradict {what}: {}. If that is in the future, {remedy}",
        date(floor)
    ))
}

fn date(floor: &Floor) -> String {
    let seconds = floor.time().0;
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .map_or_else(
            || format!("{seconds} s after 1970"),
            |time| time.date().to_string(),
        )
}

#[cfg(test)]
mod tests {
    use loam_node_api::clock::UnixTime;

    use super::*;

    const UP: Nanos = Nanos::seconds(100);
    const NOW: i128 = 1_780_000_000;
    /// 2099-01-01.
    const WRONG: UnixTime = UnixTime(4_070_908_800);

    fn says(authenticated: bool, now: i128) -> Answer {
        Answer {
            server: "a".to_owned(),
            authenticated,
            boot: Nanos::seconds(now) - UP,
            delay: Nanos(0),
        }
    }

    fn kept(time: UnixTime) -> Floor {
        let mut floor = Floor::new(UnixTime(10));
        floor.kept_on_disk(time);
        floor
    }

    #[test]
    fn what_to_do_about_a_floor_that_servers_contradict_is_told() {
        let two = [says(true, NOW), says(true, NOW + 1)];
        assert_eq!(
            alarm(&two, 0, &kept(WRONG), UP).unwrap(),
            "2 time servers contradict the time that this node's disks have kept: 2099-01-01. If \
             that is in the future, delete the file secrets/time on each of its disks"
        );
        let mut block = Floor::new(UnixTime(10));
        block.finalized_block(WRONG, None);
        let told = alarm(&two, 0, &block, UP).unwrap();
        assert!(told.ends_with("restart this node"), "{told}");
        let told = alarm(&two, 0, &Floor::new(WRONG), UP).unwrap();
        assert!(told.ends_with("make the boot medium anew"), "{told}");
        let told = alarm(&two, 0, &kept(UnixTime(u64::MAX)), UP).unwrap();
        assert!(told.contains("18446744073709551615 s after 1970"), "{told}");
    }

    #[test]
    fn certificates_that_ended_before_the_floor_contradict_it_too() {
        assert!(alarm(&[], 2, &kept(WRONG), UP).is_some());
        assert!(alarm(&[says(true, NOW)], 1, &kept(WRONG), UP).is_some());
        assert_eq!(alarm(&[], 1, &kept(WRONG), UP), None);
    }

    #[test]
    fn less_than_two_that_agree_contradict_nothing() {
        let quiet = |answers: &[Answer]| assert_eq!(alarm(answers, 0, &kept(WRONG), UP), None);
        quiet(&[]);
        quiet(&[says(true, NOW)]);
        quiet(&[says(true, NOW), says(true, NOW + 61)]);
        // Plain answers may be forged.
        quiet(&[says(false, NOW), says(false, NOW), says(false, NOW)]);
        // One that does not contradict is enough.
        let now = i128::from(WRONG.0);
        quiet(&[says(true, NOW), says(true, NOW), says(true, now)]);
        // A day is told by nobody.
        let day = 24 * 3600;
        quiet(&[says(true, now - day), says(true, now - day)]);
        let two = [says(true, now - day - 1), says(true, now - day - 1)];
        assert!(alarm(&two, 0, &kept(WRONG), UP).is_some());
    }
}
