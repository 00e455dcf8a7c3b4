//! [`Nanos`]: moments and spans in nanoseconds; and the kernel's clocks.

use std::{
    io,
    ops::{Add, Sub},
    time::Duration,
};

use loam_node_api::clock::UnixTime;
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

/// Nanoseconds: since 1970 (UTC), since the kernel's start, or between two moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub i128);

pub const SECOND: i128 = 1_000_000_000;

impl Nanos {
    pub const fn seconds(seconds: i128) -> Self {
        Self(seconds * SECOND)
    }

    pub fn abs(self) -> Self {
        Self(self.0.abs())
    }

    /// Whole seconds; 0 before 1970.
    pub fn to_unix(self) -> UnixTime {
        UnixTime(u64::try_from(self.0.div_euclid(SECOND)).unwrap_or(0))
    }
}

impl From<UnixTime> for Nanos {
    fn from(time: UnixTime) -> Self {
        Self::seconds(time.0.into())
    }
}

impl From<Duration> for Nanos {
    fn from(duration: Duration) -> Self {
        // 2^64 seconds are far below what an i128 of nanoseconds holds.
        Self(i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX))
    }
}

impl Add for Nanos {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl Sub for Nanos {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}

/// Since the kernel's start, sleep included; nobody can set this one.
pub fn since_boot() -> Nanos {
    read(ClockId::Boottime)
}

/// The kernel's idea of the time of day.
pub fn kernel() -> Nanos {
    read(ClockId::Realtime)
}

fn read(clock: ClockId) -> Nanos {
    let time = clock_gettime(clock);
    Nanos(i128::from(time.tv_sec) * SECOND + i128::from(time.tv_nsec))
}

/// Differences below are left: a network path that is slower one way than the other makes as much.
const NEGLIGIBLE: Nanos = Nanos(SECOND / 1000);
/// Differences up to this are worked off slowly, so that no program sees the clock go back.
/// The kernel works off half a millisecond a second.
const SLEWED: Nanos = Nanos(SECOND / 2);

/// How a difference is put right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Correction {
    None,
    Slew,
    Step,
}

pub fn correction(difference: Nanos) -> Correction {
    if difference.abs() < NEGLIGIBLE {
        Correction::None
    } else if difference.abs() <= SLEWED {
        Correction::Slew
    } else {
        Correction::Step
    }
}

/// Brings the kernel's clock to `wanted`, which was the time when the kernel had run for `at`; says
/// by how much it was off.
///
/// # Errors
///
/// Those of clock_settime(2) and adjtimex(2): `EPERM` without `CAP_SYS_TIME`, `EINVAL` for a time
/// that the kernel cannot have.
pub fn set(wanted: Nanos, at: Nanos) -> io::Result<Nanos> {
    let now = || wanted + (since_boot() - at);
    let difference = now() - kernel();
    match correction(difference) {
        Correction::None => {}
        Correction::Slew => slew(difference)?,
        Correction::Step => {
            let now = now();
            let seconds = i64::try_from(now.0.div_euclid(SECOND)).map_err(io::Error::other)?;
            clock_settime(
                ClockId::Realtime,
                Timespec {
                    tv_sec: seconds,
                    tv_nsec: i64::try_from(now.0.rem_euclid(SECOND)).map_err(io::Error::other)?,
                },
            )?;
        }
    }
    keep_battery_clock()?;
    Ok(difference)
}

fn slew(difference: Nanos) -> io::Result<()> {
    let mut request = timex();
    request.modes = libc::ADJ_OFFSET_SINGLESHOT;
    request.offset = i64::try_from(difference.0 / 1000).map_err(io::Error::other)?;
    adjtimex(&mut request)
}

/// Says that the clock is right, whereupon the kernel copies it to the battery's clock every eleven
/// minutes (`CONFIG_RTC_SYSTOHC`), so that the next boot starts with it.
fn keep_battery_clock() -> io::Result<()> {
    let mut request = timex();
    request.modes = libc::ADJ_STATUS | libc::ADJ_MAXERROR | libc::ADJ_ESTERROR;
    adjtimex(&mut request)
}

fn timex() -> libc::timex {
    // SAFETY: plain numbers, for which zeroes are values.
    unsafe { std::mem::zeroed() }
}

fn adjtimex(request: &mut libc::timex) -> io::Result<()> {
    // SAFETY: `request` lives for the call, which reads and writes no other memory.
    if unsafe { libc::adjtimex(request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_differences_are_worked_off_and_large_ones_put_right_at_once() {
        for (difference, wanted) in [
            (0, Correction::None),
            (SECOND / 1000 - 1, Correction::None),
            (SECOND / 1000, Correction::Slew),
            (SECOND / 2, Correction::Slew),
            (SECOND / 2 + 1, Correction::Step),
        ] {
            assert_eq!(correction(Nanos(difference)), wanted);
            assert_eq!(correction(Nanos(-difference)), wanted);
        }
    }

    #[test]
    fn nanoseconds_and_seconds() {
        assert_eq!(Nanos::from(UnixTime(3)), Nanos(3 * SECOND));
        assert_eq!(Nanos(3 * SECOND + 999_999_999).to_unix(), UnixTime(3));
        assert_eq!(Nanos(-1).to_unix(), UnixTime(0));
        assert_eq!(Nanos::from(Duration::from_millis(2)), Nanos(SECOND / 500));
        assert_eq!(Nanos(5) - Nanos(7) + Nanos(1), Nanos(-1));
    }

    #[test]
    fn the_kernel_s_clocks_are_read() {
        assert!(kernel().to_unix() >= UnixTime::kernel());
        let before = since_boot();
        assert!(before > Nanos(0) && since_boot() >= before);
    }
}
