//! What time it is, as far as storaged can say.

use std::path::Path;

use loam_node_api::{
    clock::{Clock, UnixTime},
    path,
};

/// Never before what has surely passed: a kernel without a clock battery starts long ago.
pub fn now() -> UnixTime {
    Clock::read(Path::new(path::CLOCK))
        .floor
        .max(UnixTime::kernel())
}

/// What is proved enough to bind later boots (see [`Clock::to_keep`]); `None` until the clock is set.
pub fn to_keep() -> Option<UnixTime> {
    Clock::read(Path::new(path::CLOCK)).to_keep(UnixTime::kernel())
}
