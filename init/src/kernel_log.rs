//! What the kernel says, from `/dev/kmsg` into the log.

use std::{io, os::fd::BorrowedFd};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use serde_json::json;
use tokio::io::Interest;

use crate::{
    device::AsyncDevice,
    log::{Log, Source},
};

/// The longest record that the kernel gives (`PRINTK_MESSAGE_MAX` in its printk).
const MAX_RECORD: usize = 8 << 10;

/// Copies until the kernel's log cannot be read any longer, which is never.
pub async fn follow(log: Log) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let device = rustix::fs::open("/dev/kmsg", flags, Mode::empty())?;
    let device = AsyncDevice::new(device, Interest::READABLE)?;
    let mut buffer = vec![0; MAX_RECORD];
    loop {
        let read = |fd: BorrowedFd| match rustix::io::read(fd, &mut buffer) {
            // Records were overwritten before they were read: go on with the oldest there is.
            Err(Errno::PIPE) => Ok(0),
            other => Ok(other?),
        };
        let length = device.when_ready(Interest::READABLE, read).await?;
        if let Some(record) = parse(&buffer[..length]) {
            log.line(&Source::Daemon("kernel"), record.as_bytes());
        }
    }
}

/// `6,1234,5678901,-;text`, then lines that start with a blank (Documentation/ABI/testing/dev-kmsg).
fn parse(record: &[u8]) -> Option<String> {
    let record = String::from_utf8_lossy(record);
    let (prefix, text) = record.split_once(';')?;
    let mut numbers = prefix.split(',').map(|number| number.parse::<u64>());
    let priority = numbers.next()?.ok()?;
    let microseconds = numbers.nth(1)?.ok()?;
    let message = text.lines().next().unwrap_or_default();
    // linux/kern_levels.h. What the kernel warns of on every boot is not what a farmer should look
    // at; its errors are, but for those of KVM, which guests cause as they like.
    let level = match priority & 7 {
        0..=3 if !message.starts_with("kvm") => "ERROR",
        _ => "INFO",
    };
    Some(json!({ "level": level, "uptime_us": microseconds, "message": message }).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_the_kernel() {
        let record = parse(b"6,339,5140900,-;NET: Registered PF_INET6\n SUBSYSTEM=net\n").unwrap();
        let record: serde_json::Value = serde_json::from_str(&record).unwrap();
        assert_eq!(record["level"], "INFO");
        assert_eq!(record["message"], "NET: Registered PF_INET6");
        assert_eq!(record["uptime_us"], 5_140_900);
        assert!(parse(b"3,1,2,-;I/O error").unwrap().contains("ERROR"));
        assert!(
            parse(b"3,1,2,-;kvm: vcpu0, unhandled wrmsr")
                .unwrap()
                .contains("INFO")
        );
        assert_eq!(parse(b"nonsense"), None);
        assert_eq!(parse(b"x,y;z"), None);
    }
}
