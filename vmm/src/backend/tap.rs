//! A tap: a network interface of the node, whose frames come and go through a descriptor, each
//! behind virtio's header (`IFF_VNET_HDR`).

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use crate::backend::iovecs::Iovecs;

/// `struct virtio_net_hdr_v1`.
pub const HEADER_LEN: usize = 12;

/// ioctls of linux/if_tun.h.
pub const TUNGETIFF: libc::c_ulong = 0x8004_54d2;
pub const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
pub const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;

/// What the reader of a tap can digest (linux/if_tun.h).
pub const OFFLOAD_CHECKSUM: u32 = 1 << 0;
pub const OFFLOAD_TSO4: u32 = 1 << 1;
pub const OFFLOAD_TSO6: u32 = 1 << 2;

#[derive(Debug, thiserror::Error)]
pub enum TapError {
    #[error("the descriptor is no tap: {0}")]
    NoTap(io::Error),
    #[error("the tap was made without IFF_TAP, IFF_NO_PI or IFF_VNET_HDR (flags {0:#x})")]
    Flags(libc::c_int),
    #[error("cannot set the tap up: {0}")]
    Setup(#[from] io::Error),
}

#[derive(Debug)]
pub struct Tap(OwnedFd);

impl Tap {
    pub fn new(fd: OwnedFd) -> Result<Self, TapError> {
        // SAFETY: all zeros is a valid `ifreq`.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // SAFETY: TUNGETIFF writes an `ifreq`, which lives through the call.
        let result = unsafe { libc::ioctl(fd.as_raw_fd(), TUNGETIFF, &raw mut request) };
        if result < 0 {
            return Err(TapError::NoTap(io::Error::last_os_error()));
        }
        // SAFETY: TUNGETIFF fills in the flags.
        let flags = libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags });
        let needed = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        if flags & needed != needed {
            return Err(TapError::Flags(flags));
        }
        let tap = Self(fd);
        tap.set_nonblocking()?;
        let len = HEADER_LEN as libc::c_int;
        // SAFETY: TUNSETVNETHDRSZ reads an int, which lives through the call.
        let result = unsafe { libc::ioctl(tap.0.as_raw_fd(), TUNSETVNETHDRSZ, &raw const len) };
        if result < 0 {
            return Err(io::Error::last_os_error().into());
        }
        Ok(tap)
    }

    /// A packet socket or pipe end in a tap's place, for tests.
    #[cfg(test)]
    pub fn pretend(fd: OwnedFd) -> io::Result<Self> {
        let tap = Self(fd);
        tap.set_nonblocking()?;
        Ok(tap)
    }

    fn set_nonblocking(&self) -> io::Result<()> {
        let flags = fcntl_getfl(&self.0)?;
        Ok(fcntl_setfl(&self.0, flags | OFlags::NONBLOCK)?)
    }

    /// Says which unfinished frames the guest takes.
    pub fn set_offload(&self, offload: u32) -> io::Result<()> {
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        let result = unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                TUNSETOFFLOAD,
                libc::c_ulong::from(offload),
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// One frame with its header; none when there is none now.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match rustix::io::read(self.0.as_fd(), buffer) {
            Ok(len) => Ok(Some(len)),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends one frame with its header. What the interface cannot take is lost, as on a wire.
    pub fn send(&self, frame: &Iovecs<'_>) -> io::Result<()> {
        let iovecs = frame.rest();
        // SAFETY: the vectors point to mapped guest memory.
        let sent = unsafe {
            libc::writev(
                self.0.as_raw_fd(),
                iovecs.as_ptr(),
                iovecs.len() as libc::c_int,
            )
        };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
