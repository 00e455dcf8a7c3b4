//! Points in time.

use toml::value::{Date, Datetime, Offset};

use super::{Item, WrittenError};

/// Seconds since 1970 of a date and time with offset, or of a plain number of seconds.
pub(super) fn seconds(item: Item<'_>) -> Result<u64, WrittenError> {
    let Some(datetime) = item.datetime() else {
        return item.integer();
    };
    unix_seconds(datetime).ok_or_else(|| {
        item.error("must have a date from 1970 on, a time and an offset: 2027-01-31T12:00:00Z")
    })
}

fn unix_seconds(datetime: &Datetime) -> Option<u64> {
    let Datetime {
        date: Some(date),
        time: Some(time),
        offset: Some(offset),
    } = datetime
    else {
        return None;
    };
    let offset_minutes = match offset {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(*minutes),
    };
    let hours = days_since_1970(date) * 24 + i64::from(time.hour);
    let minutes = hours * 60 + i64::from(time.minute) - offset_minutes;
    u64::try_from(minutes * 60 + i64::from(time.second)).ok()
}

/// Days in the Gregorian calendar, with years that start in March so that a leap day ends them
/// (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `days_from_civil`).
fn days_since_1970(date: &Date) -> i64 {
    let (month, day) = (i64::from(date.month), i64::from(date.day));
    let year = i64::from(date.year) - i64::from(month <= 2);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_points_in_time() {
        let cases = [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T23:59:59Z", Some(951_868_799)),
            ("2026-12-31T00:00:00Z", Some(1_798_675_200)),
            ("2026-12-31T01:30:00+01:30", Some(1_798_675_200)),
            ("2100-03-01T00:00:00Z", Some(4_107_542_400)),
            ("1969-12-31T23:59:59Z", None),
            ("2026-12-31", None),
            ("2026-12-31T00:00:00", None),
        ];
        for (text, expected) in cases {
            assert_eq!(
                unix_seconds(&text.parse().expect("a date")),
                expected,
                "{text}"
            );
        }
    }
}
