//! How long a registry is left alone that cannot answer now: as long as it says (`Retry-After`, RFC 9110,
//! section 10.2.3), and longer each time.

use std::time::Duration;

use reqwest::{
    StatusCode,
    header::{DATE, HeaderMap, RETRY_AFTER},
};

/// 1 s, then twice as long each time.
const FIRST: Duration = Duration::from_secs(1);

/// What is waited for between two tries of one question, whose asker holds a place meanwhile: so often,
/// and each so long at most. Together 15 s, less than a document may take.
const TRIES: u32 = 3;
const SHORT: Duration = Duration::from_secs(5);

/// However long a registry wants to be left alone, it is asked again after this. Those in use count over
/// six hours at most, but let some questions through each hour.
pub const LONGEST: Duration = Duration::from_secs(3600);

/// Whether it would answer another time (RFC 6585, section 4; RFC 9110, section 15.6.4).
pub fn is_busy(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
    )
}

/// What the answer asks for, [`LONGEST`] at most. A date is taken as it stands to the answer's own, since
/// a node may not know the time.
pub fn asked_for(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name)?.to_str().ok().map(str::trim);
    let wanted = text(RETRY_AFTER)?;
    let is_number = !wanted.is_empty() && wanted.bytes().all(|b| b.is_ascii_digit());
    let wanted = if is_number {
        // More digits than a number holds are very long, too.
        wanted.parse().map_or(Duration::MAX, Duration::from_secs)
    } else {
        let until = httpdate::parse_http_date(wanted).ok()?;
        let now = httpdate::parse_http_date(text(DATE)?).ok()?;
        until.duration_since(now).unwrap_or_default()
    };
    Some(wanted.min(LONGEST))
}

/// The pauses between the tries of one question.
#[derive(Debug, Default)]
pub struct Pauses {
    tries: u32,
}

impl Pauses {
    /// The next, if it is short enough to be waited for with a place in hand.
    pub fn next(&mut self, asked_for: Option<Duration>) -> Option<Duration> {
        if self.tries == TRIES {
            return None;
        }
        let own = FIRST * 2u32.pow(self.tries);
        self.tries += 1;
        Some(own.max(asked_for.unwrap_or_default())).filter(|pause| *pause <= SHORT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(retry: &str, date: &str) -> Option<u64> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, retry.parse().unwrap());
        if !date.is_empty() {
            headers.insert(DATE, date.parse().unwrap());
        }
        asked_for(&headers).map(|wanted| wanted.as_secs())
    }

    #[test]
    fn a_registry_says_when_it_may_be_asked_again() {
        assert_eq!(asked_for(&HeaderMap::new()), None);
        let noon = "Fri, 27 Nov 2026 12:00:00 GMT";
        for (retry, date, seconds) in [
            ("0", "", Some(0)),
            (" 120 ", "", Some(120)),
            ("3601", "", Some(3600)),
            ("99999999999999999999999999", "", Some(3600)),
            ("Fri, 27 Nov 2026 12:00:30 GMT", noon, Some(30)),
            ("Friday, 27-Nov-26 12:00:30 GMT", noon, Some(30)),
            ("Fri, 27 Nov 2026 11:00:00 GMT", noon, Some(0)),
            ("Sat, 27 Nov 2027 12:00:00 GMT", noon, Some(3600)),
            ("Fri, 27 Nov 2026 12:00:30 GMT", "", None),
            ("Fri, 27 Nov 2026 12:00:30 GMT", "today", None),
            ("-1", "", None),
            ("1.5", "", None),
            ("", "", None),
            ("soon", noon, None),
        ] {
            assert_eq!(asked(retry, date), seconds, "{retry} {date}");
        }
    }

    #[test]
    fn pauses_grow_and_the_long_ones_are_for_others_to_wait() {
        let pauses = |asked: Option<u64>| {
            let mut pauses = Pauses::default();
            let mut all = Vec::new();
            while let Some(pause) = pauses.next(asked.map(Duration::from_secs)) {
                all.push(pause.as_secs());
            }
            all
        };
        assert_eq!(pauses(None), [1, 2, 4]);
        assert_eq!(pauses(Some(0)), [1, 2, 4]);
        assert_eq!(pauses(Some(3)), [3, 3, 4]);
        assert_eq!(pauses(Some(5)), [5, 5, 5]);
        assert_eq!(pauses(Some(6)), [0; 0]);
    }
}
