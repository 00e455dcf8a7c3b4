//! [`StopSignal`]: by which signal a program wants to be asked to end.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A signal of Linux, 1 to 64.
///
/// Written as images do (OCI image configuration, `StopSignal`, which asks for `SIGNAME` or
/// `SIGRTMIN+3`; builders also let through what `kill` takes): with or without `SIG`, in any case,
/// or as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct StopSignal(u8);

/// A text or number that stands for no signal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no signal of Linux; expected a name like SIGTERM or SIGRTMIN+3, or 1 to 64")]
pub struct NoSignal(String);

/// What every program knows, unless it says otherwise (signal(7)).
const TERM: u8 = 15;

/// The kernel has real-time signals from 32 on, the C library keeps two for itself.
const REAL_TIME: std::ops::RangeInclusive<u8> = 34..=64;

/// Numbers of x86-64 (signal(7)), from 1 on.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// Second names.
const SYNONYMS: [(&str, u8); 4] = [("IOT", 6), ("CLD", 17), ("POLL", 29), ("UNUSED", 31)];

impl StopSignal {
    /// `SIGRTMIN+3`, by which systemd is asked to end a machine (systemd(1), "Signals").
    pub const SYSTEMD_HALT: Self = Self(*REAL_TIME.start() + 3);

    pub fn number(self) -> i32 {
        self.0.into()
    }
}

impl Default for StopSignal {
    fn default() -> Self {
        Self(TERM)
    }
}

impl FromStr for StopSignal {
    type Err = NoSignal;

    fn from_str(text: &str) -> Result<Self, NoSignal> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let number = decimal(&upper)
            .or_else(|| named(name))
            .or_else(|| real_time(name));
        number
            .and_then(|number| Self::try_from(number).ok())
            .ok_or_else(|| NoSignal(text.chars().take(100).collect()))
    }
}

fn named(name: &str) -> Option<u8> {
    let first = (1..).zip(NAMES).find(|(_, known)| *known == name);
    let second = || SYNONYMS.into_iter().find(|(known, _)| *known == name);
    first
        .map(|(number, _)| number)
        .or_else(|| second().map(|(_, number)| number))
}

/// `RTMIN`, `RTMIN+n`, `RTMAX`, `RTMAX-n`.
fn real_time(name: &str) -> Option<u8> {
    let distance = |rest: &str, sign: char| match rest {
        "" => Some(0),
        _ => decimal(rest.strip_prefix(sign)?),
    };
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        REAL_TIME.start().checked_add(distance(rest, '+')?)
    } else {
        REAL_TIME
            .end()
            .checked_sub(distance(name.strip_prefix("RTMAX")?, '-')?)
    };
    number.filter(|number| REAL_TIME.contains(number))
}

/// Digits only: `parse` takes a sign too.
fn decimal(text: &str) -> Option<u8> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

impl TryFrom<u8> for StopSignal {
    type Error = NoSignal;

    fn try_from(number: u8) -> Result<Self, NoSignal> {
        match number {
            1..=64 => Ok(Self(number)),
            _ => Err(NoSignal(number.to_string())),
        }
    }
}

impl From<StopSignal> for u8 {
    fn from(signal: StopSignal) -> Self {
        signal.0
    }
}

impl fmt::Display for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = REAL_TIME.start();
        match (
            NAMES.get(usize::from(self.0) - 1),
            self.0.checked_sub(*first),
        ) {
            (Some(name), _) => write!(f, "SIG{name}"),
            (None, Some(0)) => f.write_str("SIGRTMIN"),
            (None, Some(distance)) => write!(f, "SIGRTMIN+{distance}"),
            (None, None) => write!(f, "signal {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_written_in_many_ways() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("TERM", 15),
            ("sigquit", 3),
            ("Int", 2),
            ("9", 9),
            ("64", 64),
            ("SIGIOT", 6),
            ("SIGSYS", 31),
            ("SIGRTMIN", 34),
            ("RTMIN+0", 34),
            ("SIGRTMIN+3", 37),
            ("SIGRTMIN+30", 64),
            ("SIGRTMAX", 64),
            ("sigrtmax-30", 34),
        ] {
            let signal: StopSignal = text.parse().unwrap();
            assert_eq!(signal.number(), number, "{text}");
        }
        assert_eq!(StopSignal::default().number(), 15);
        assert_eq!(StopSignal::SYSTEMD_HALT, "SIGRTMIN+3".parse().unwrap());
    }

    #[test]
    fn what_is_no_signal_is_named() {
        for text in [
            "",
            "SIG",
            "0",
            "65",
            "256",
            "-1",
            "+1",
            " 9",
            "SIG9",
            "FOO",
            "SIGSIGTERM",
            "SIGRTMIN+31",
            "SIGRTMIN-1",
            "SIGRTMIN+",
            "SIGRTMIN++1",
            "SIGRTMIN+222",
            "SIGRTMAX-31",
            "SIGRTMAX+1",
        ] {
            let error = text.parse::<StopSignal>().unwrap_err();
            assert_eq!(error, NoSignal(text.into()));
        }
    }

    #[test]
    fn each_is_read_as_it_is_shown_and_passed_on_as_a_number() {
        for number in 1..=64 {
            let signal = StopSignal::try_from(number).unwrap();
            if !(32..=33).contains(&number) {
                assert_eq!(signal.to_string().parse(), Ok(signal));
            }
            let json = serde_json::to_string(&signal).unwrap();
            assert_eq!(json, number.to_string());
            assert_eq!(serde_json::from_str::<StopSignal>(&json).unwrap(), signal);
        }
        serde_json::from_str::<StopSignal>("0").unwrap_err();
        serde_json::from_str::<StopSignal>("65").unwrap_err();
    }
}
