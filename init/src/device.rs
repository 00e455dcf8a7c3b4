//! [`AsyncDevice`]: a descriptor that tells when it can be read or written, and is then used with
//! plain system calls.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use tokio::io::{Interest, unix::AsyncFd};

#[derive(Debug)]
pub struct AsyncDevice(AsyncFd<OwnedFd>);

impl AsyncDevice {
    /// `device` must be open with `O_NONBLOCK`. To be called inside the runtime.
    pub fn new(device: OwnedFd, interest: Interest) -> io::Result<Self> {
        // SAFETY: an OwnedFd is open and names the same file until it is dropped, which happens
        // together with the AsyncFd.
        Ok(Self(unsafe {
            AsyncFd::register_with_interest(device, interest)?
        }))
    }

    /// Tries `call` whenever the device may be ready, until it does not say that it would block.
    pub async fn when_ready<T>(
        &self,
        interest: Interest,
        mut call: impl FnMut(BorrowedFd) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            match self
                .0
                .async_io(interest, |device| call(device.as_fd()))
                .await
            {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }
}
