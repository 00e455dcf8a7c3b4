//! A machine's stand-in: a host behind a tap, joined to the node's tap as a VMM would.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    net::IpAddr,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    thread::{self, JoinHandle},
};

use loam_node_api::network::{Interface, InterfaceSpec};
use rustix::event::{PollFd, PollFlags, poll};

use crate::host::Host;

pub struct Machine {
    pub host: Host,
    /// Second descriptor of the machine's end: what is written comes out of the machine.
    door: File,
    /// Dropped to end the thread.
    running: Option<OwnedFd>,
    joining: Option<JoinHandle<()>>,
}

/// Bytes of `virtio_net_hdr` before each frame.
pub const VNET_HEADER: usize = 10;
const FLAGS: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

impl Machine {
    /// With the addresses of `interface` and a default route to `10.20.0.1`.
    pub fn start(interface: &Interface) -> Self {
        let host = Host::new();
        let own = host.run(|| open_tap("eth0"));
        configure(&host, &interface.spec);

        // As init's launcher does: inside first, then open.
        let namespace = File::open(interface.namespace.as_ref().unwrap()).unwrap();
        let network = Host::at(namespace);
        let node = network.run(|| open_tap(&interface.tap));
        // The bridge hears of the tap's carrier a little later; a real machine boots longer.
        while !network
            .ip(&format!("-d link show {}", interface.tap))
            .contains("state forwarding")
        {
            thread::sleep(std::time::Duration::from_millis(10));
        }
        let door = node.try_clone().unwrap();
        let (ended, running) = rustix::pipe::pipe().unwrap();
        let joining = thread::spawn(move || join(own, node, ended));
        Self {
            host,
            door,
            running: Some(running),
            joining: Some(joining),
        }
    }

    /// Puts one frame onto the node's tap, whatever it says.
    pub fn send_frame(&self, frame: &[u8]) {
        let mut packet = vec![0; VNET_HEADER];
        packet.extend(frame);
        (&self.door).write_all(&packet).unwrap();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.running.take());
        if let Some(joining) = self.joining.take() {
            joining.join().unwrap();
        }
    }
}

fn configure(host: &Host, spec: &InterfaceSpec) {
    host.ip(&format!("link set eth0 address {} up", spec.mac));
    for address in &spec.addresses {
        match address {
            IpAddr::V4(v4) => {
                host.ip(&format!("addr add {v4}/24 dev eth0"));
                host.ip("route replace default via 10.20.0.1");
            }
            IpAddr::V6(v6) => {
                host.ip(&format!("addr add {v6}/64 dev eth0 nodad"));
                // The kernel's own worker makes the route to it, later on a busy machine.
                while !host.ip(&format!("route get {v6}")).starts_with("local") {
                    std::thread::yield_now();
                }
                let mut gateway = v6.segments();
                gateway[7] = 1;
                let gateway = std::net::Ipv6Addr::from(gateway);
                host.ip(&format!("route replace default via {gateway}"));
            }
        }
    }
}

fn open_tap(name: &str) -> File {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .unwrap();
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_flags: FLAGS as libc::c_short,
        },
    };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which outlives the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &mut request) };
    assert!(result == 0, "{name}: {}", std::io::Error::last_os_error());
    device
}

/// Copies frames both ways until `ended` does, or a tap is gone.
fn join(machine: File, node: File, ended: OwnedFd) {
    let mut buffer = vec![0; 1 << 17];
    loop {
        let mut wanted = [
            PollFd::new(&machine, PollFlags::IN),
            PollFd::new(&node, PollFlags::IN),
            PollFd::from_borrowed_fd(ended.as_fd(), PollFlags::IN),
        ];
        poll(&mut wanted, None).unwrap();
        let [from_machine, from_node, end] = wanted.map(|fd| fd.revents());
        if !end.is_empty() {
            return;
        }
        for (ready, mut from, mut to) in [
            (from_machine, &machine, &node),
            (from_node, &node, &machine),
        ] {
            if ready.contains(PollFlags::IN) {
                // A tap that netd removed ends the machine's network, as it should.
                let Ok(length) = from.read(&mut buffer) else {
                    return;
                };
                // While its link is down, a tap refuses frames.
                let _ = to.write(&buffer[..length]);
            } else if !ready.is_empty() {
                return;
            }
        }
    }
}
