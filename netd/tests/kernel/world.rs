//! A node with one uplink, and a host at its other end that is the rest of the world.

use std::thread;

use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    process::geteuid,
    thread::{UnshareFlags, unshare_unsafe},
};

use crate::{
    dhcp_server::{DhcpServer, addresses},
    host::{Host, LIMIT},
    netd::Netd,
};

pub struct World {
    pub node: Host,
    pub outside: Host,
    pub dhcp: DhcpServer,
    runtime: tokio::runtime::Runtime,
}

/// The node's address, once leased; the outside has `192.0.2.1`.
pub const NODE: &str = "192.0.2.10";

impl World {
    /// Runs `test` in namespaces of its own.
    pub fn enter(test: impl FnOnce(&World) + Send + 'static) {
        assert!(
            geteuid().is_root(),
            "needs root, for network namespaces; run the tests as root"
        );
        let inside = thread::Builder::new().name("world".into()).spawn(move || {
            separate();
            test(&World::new());
        });
        if let Err(panic) = inside.unwrap().join() {
            std::panic::resume_unwind(panic);
        }
    }

    fn new() -> Self {
        let node = Host::here();
        let outside = Host::new();
        node.ip("link add up0 type veth peer name out0");
        outside.take(&node, "out0");
        outside.ip("addr add 192.0.2.1/24 dev out0");
        outside.ip("link set out0 up");
        let dhcp = DhcpServer::start(&outside, "out0");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        Self {
            node,
            outside,
            dhcp,
            runtime,
        }
    }

    /// A cable to another network, where a server gives `198.51.100.10` and routes by itself.
    pub fn second_cable(&self) -> (Host, DhcpServer) {
        let beyond = Host::new();
        self.node.ip("link add up1 type veth peer name out1");
        beyond.take(&self.node, "out1");
        beyond.ip("addr add 198.51.100.1/24 dev out1");
        beyond.ip("link set out1 up");
        let dhcp = DhcpServer::start(&beyond, "out1");
        dhcp.set(|offer| offer.address = [198, 51, 100, 10].into());
        dhcp.set_option(addresses(3, &[[198, 51, 100, 1].into()]));
        (beyond, dhcp)
    }

    /// Starts netd and waits until it has the lease.
    pub fn netd(&self) -> Netd {
        let mut netd = self.netd_without_lease();
        netd.wait_for_log("leased");
        netd
    }

    pub fn netd_without_lease(&self) -> Netd {
        let mut netd = Netd::start(&["--uplink", "up0"]);
        netd.wait_for_log("took over what was here");
        netd
    }

    /// Waits for something on the network to be done, with a limit.
    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        let limited = async { tokio::time::timeout(LIMIT, future).await };
        self.runtime
            .block_on(limited)
            .expect("netd does not answer")
    }
}

/// Gives the calling thread its own network, `/run` and `/sys`.
fn separate() {
    // SAFETY: only this thread's namespaces change; its file descriptors stay what they are.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }.unwrap();
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).unwrap();
    mount("none", "/run", "tmpfs", MountFlags::empty(), None).unwrap();
    mount("none", "/sys", "sysfs", MountFlags::empty(), None).unwrap();
}
