//! The smallest program that can tell how long its kernel took to start it.
//!
//! It is the empty init of the bare kernel, and the command of the machine on the node, so that
//! both are timed by the same hand. `probe.rs` compiles it on its own, and explains the line.

use std::{
    ffi::{CStr, c_char, c_int, c_ulong, c_void},
    fs,
    io::{ErrorKind, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    thread,
};

/// `O_NONBLOCK` of `asm-generic/fcntl.h`: the end of the kernel's log is an error, not a wait.
const NONBLOCK: i32 = 0o4000;

unsafe extern "C" {
    fn mount(
        source: *const c_char,
        target: *const c_char,
        filesystem: *const c_char,
        flags: c_ulong,
        data: *const c_void,
    ) -> c_int;
}

fn main() {
    // Before all else, so that the rest is not part of the time.
    let uptime = uptime();
    let run_init = run_init().map_or("null".to_owned(), |time| time.to_string());
    let total = memory("MemTotal:");
    let available = memory("MemAvailable:");
    println!(
        "loam-probe {{\"uptime_seconds\":{uptime},\"run_init_microseconds\":{run_init},\
         \"total_kib\":{total},\"available_kib\":{available}}}"
    );
    // PID 1 must not end; whoever started the machine ends it.
    loop {
        thread::park();
    }
}

/// Seconds since the kernel's start, as the kernel writes them.
fn uptime() -> String {
    if !Path::new("/proc/uptime").exists() {
        mount_proc();
    }
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split(' ').next().unwrap_or("null").to_owned()
}

fn mount_proc() {
    const PROC: &CStr = c"proc";
    const TARGET: &CStr = c"/proc";
    // SAFETY: the strings end in NUL and live for ever; procfs takes no data.
    let failed = unsafe {
        mount(
            PROC.as_ptr(),
            TARGET.as_ptr(),
            PROC.as_ptr(),
            0,
            std::ptr::null(),
        )
    };
    if failed != 0 {
        println!("mounting /proc: {}", std::io::Error::last_os_error());
    }
}

/// Microseconds since the kernel's start when it ran init, if its log can be read.
fn run_init() -> Option<u64> {
    let mut log = fs::OpenOptions::new()
        .read(true)
        .custom_flags(NONBLOCK)
        .open("/dev/kmsg")
        .ok()?;
    let mut record = [0; 8 << 10];
    loop {
        let length = match log.read(&mut record) {
            Ok(length) => length,
            // Records were overwritten before they were read: go on with the oldest there is.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => continue,
            Err(_) => return None,
        };
        let text = String::from_utf8_lossy(&record[..length]);
        if let Some((prefix, message)) = text.split_once(';')
            && message.starts_with("Run /init as init process")
        {
            return prefix.split(',').nth(2)?.parse().ok();
        }
    }
}

/// A line of `/proc/meminfo`.
fn memory(name: &str) -> String {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.and_then(|rest| rest.split_whitespace().next());
    value.unwrap_or("null").to_owned()
}
