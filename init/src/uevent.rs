//! What the kernel says about devices that come and go (`NETLINK_KOBJECT_UEVENT`).

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SocketFlags, SocketType, bind, netlink, recvfrom, socket_with,
        sockopt,
    },
};
use tokio::io::Interest;

use crate::device::AsyncDevice;

/// The kernel's own group; group 2 is udev's.
const KERNEL_GROUP: u32 = 1;

/// Takes a burst of thousands of devices. More is noticed, and answered by looking at all again.
const RECEIVE_BUFFER: usize = 4 << 20;

/// An event is 2 KiB at most (`UEVENT_BUFFER_SIZE` in include/linux/kobject.h).
const MAX_EVENT: usize = 4 << 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Uevent {
    Added {
        subsystem: String,
        modalias: Option<String>,
    },
    /// Some events did not fit into the buffer.
    Lost,
}

#[derive(Debug)]
pub struct Uevents(AsyncDevice);

/// Opens the socket; from now on no event is missed. Becomes [`Uevents`] inside the runtime.
pub fn open() -> io::Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        Some(netlink::KOBJECT_UEVENT),
    )?;
    sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER)?;
    bind(&socket, &netlink::SocketAddrNetlink::new(0, KERNEL_GROUP))?;
    Ok(socket)
}

impl Uevents {
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        AsyncDevice::new(socket, Interest::READABLE).map(Self)
    }

    /// The next event that says something to init.
    pub async fn next(&self) -> io::Result<Uevent> {
        loop {
            let receive = |socket: BorrowedFd| Ok(receive(socket)?);
            if let Some(event) = self.0.when_ready(Interest::READABLE, receive).await? {
                return Ok(event);
            }
        }
    }
}

/// Reads one event without waiting; none if it says nothing to init.
pub fn receive(socket: impl AsFd) -> Result<Option<Uevent>, Errno> {
    let mut buffer = [0; MAX_EVENT];
    match recvfrom(socket, &mut buffer, RecvFlags::DONTWAIT) {
        Ok((length, _, sender)) => {
            // Any root process may send to the group; only the kernel's own address is 0.
            let sender = sender.and_then(|s| netlink::SocketAddrNetlink::try_from(s).ok());
            let from_kernel = sender.is_some_and(|sender| sender.pid() == 0);
            Ok(parse(&buffer[..length]).filter(|_| from_kernel))
        }
        Err(Errno::NOBUFS) => Ok(Some(Uevent::Lost)),
        Err(error) => Err(error),
    }
}

/// `add@/devices/...`, then `KEY=value`, each ended by NUL.
fn parse(event: &[u8]) -> Option<Uevent> {
    let value = |key: &str| {
        event.split(|byte| *byte == 0).find_map(|field| {
            std::str::from_utf8(field)
                .ok()?
                .strip_prefix(key)?
                .strip_prefix('=')
        })
    };
    (value("ACTION")? == "add").then(|| Uevent::Added {
        subsystem: value("SUBSYSTEM").unwrap_or_default().to_owned(),
        modalias: value("MODALIAS").map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        let event = b"add@/devices/pci0000:00/0000:00:03.0/virtio0\0ACTION=add\0\
            DEVPATH=/devices/pci0000:00/0000:00:03.0/virtio0\0SUBSYSTEM=virtio\0\
            MODALIAS=virtio:d00000001v00001AF4\0SEQNUM=1234\0";
        assert_eq!(
            parse(event),
            Some(Uevent::Added {
                subsystem: "virtio".into(),
                modalias: Some("virtio:d00000001v00001AF4".into())
            })
        );
        assert_eq!(
            parse(b"remove@/x\0ACTION=remove\0MODALIAS=virtio:d1\0"),
            None
        );
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"\xff\0ACTION\0"), None);
    }
}
