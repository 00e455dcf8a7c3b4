//! Hearing from the kernel that a disk came or went.

use std::{
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io,
    net::{
        AddressFamily, RecvFlags, SocketFlags, SocketType, bind,
        netlink::{KOBJECT_UEVENT, SocketAddrNetlink},
        recv, socket_with,
    },
};

/// The multicast group of the kernel's own messages (Linux `lib/kobject_uevent.c`).
const KERNEL: u32 = 1;

/// The kernel's limit on one message (`UEVENT_BUFFER_SIZE`), with room for its header.
const LARGEST: usize = 4 << 10;

#[derive(Debug)]
pub struct Uevents(OwnedFd);

impl Uevents {
    pub fn listen() -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            Some(KOBJECT_UEVENT),
        )?;
        bind(&socket, &SocketAddrNetlink::new(0, KERNEL))?;
        Ok(Self(socket))
    }

    /// Returns when something happened to a block device, or after `limit`.
    pub fn wait(&self, limit: Duration) -> io::Result<()> {
        let limit = Timespec {
            tv_sec: limit.as_secs().cast_signed(),
            tv_nsec: limit.subsec_nanos().into(),
        };
        let mut ready = [PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN)];
        while poll(&mut ready, Some(&limit))? > 0 {
            if self.drain()? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Reads all that waits; whether any of it was about a block device.
    fn drain(&self) -> io::Result<bool> {
        let mut about_block = false;
        let mut message = [0; LARGEST];
        loop {
            match recv(&self.0, &mut message, RecvFlags::empty()) {
                Ok((_, length)) => {
                    let text = &message[..length.min(LARGEST)];
                    about_block |= text
                        .split(|b| *b == 0)
                        .any(|line| line == b"SUBSYSTEM=block");
                }
                Err(io::Errno::AGAIN) => return Ok(about_block),
                // More happened than the socket holds: look at everything.
                Err(io::Errno::NOBUFS) => about_block = true,
                Err(error) => return Err(error),
            }
        }
    }
}
