//! What devices stand on: files, taps, the console ring.

pub mod console_ring;
pub mod disk_file;
pub mod iovecs;
pub mod tap;
