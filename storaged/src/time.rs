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
