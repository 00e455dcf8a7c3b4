//! Waiting for the kernel to show a device: bounded, and over as soon as it is there.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Far longer than any device takes to appear, even under emulation.
pub const DEVICE_LIMIT: Duration = Duration::from_secs(20);

/// The devices' folders in sysfs tell nobody when they change, so they are read again and again.
const PAUSE: Duration = Duration::from_millis(5);

/// Asks `look` until it finds something; none when `limit` passes first. Asks at least once.
pub fn until<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_until_found_and_at_least_once() {
        let mut times = 0;
        let found = until(DEVICE_LIMIT, || {
            times += 1;
            (times == 3).then_some(times)
        });
        assert_eq!(found, Some(3));
        assert_eq!(until(Duration::ZERO, || Some(1)), Some(1));
        assert_eq!(until::<()>(Duration::ZERO, || None), None);
    }
}
