//! Kernel settings of the calling thread's network namespace.

use std::{fs, io, path::Path};

/// Writes `value` to `/proc/sys/net/<key>`.
pub fn set(key: &str, value: &str) -> io::Result<()> {
    let path = Path::new("/proc/sys/net").join(key);
    // A write of the same value is not free of effect everywhere: `ip_forward` resets others.
    if fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    fs::write(&path, value)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// Like [`set`], for settings that a kernel without the feature does not have.
pub fn set_if_present(key: &str, value: &str) -> io::Result<()> {
    match set(key, value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The node forwards between tenants' networks and the uplink.
pub fn prepare_node() -> io::Result<()> {
    // First: it sets other values back to those of a router.
    set("ipv4/ip_forward", "1")?;
    // Above 1, a forwarding link still listens to router advertisements.
    set_if_present("ipv6/conf/default/accept_ra", "2")?;
    set_if_present("ipv6/conf/all/forwarding", "1")?;
    // Else an address that gives way takes another of the same subnet with it: a new lease's.
    set("ipv4/conf/all/promote_secondaries", "1")?;
    common()
}

/// A network's namespace forwards between its bridge and the transit link.
pub fn prepare_network() -> io::Result<()> {
    set("ipv4/ip_forward", "1")?;
    // Its addresses are given by netd alone.
    set_if_present("ipv6/conf/all/accept_ra", "0")?;
    set_if_present("ipv6/conf/default/accept_ra", "0")?;
    // No other host has them, and packets need not wait until that is proved.
    set_if_present("ipv6/conf/all/accept_dad", "0")?;
    set_if_present("ipv6/conf/default/accept_dad", "0")?;
    set_if_present("ipv6/conf/all/forwarding", "1")?;
    // Packets come only by the link that leads to their source (RFC 3704, strict).
    set("ipv4/conf/all/rp_filter", "1")?;
    // A link answers for its own addresses only.
    set("ipv4/conf/all/arp_ignore", "1")?;
    common()
}

/// The node's end of a transit link.
pub fn prepare_transit(name: &str) -> io::Result<()> {
    set(&format!("ipv4/conf/{name}/rp_filter"), "1")?;
    set_if_present(&format!("ipv6/conf/{name}/accept_ra"), "0")?;
    set_if_present(&format!("ipv6/conf/{name}/accept_dad"), "0")
}

/// A physical link.
pub fn prepare_uplink(name: &str) -> io::Result<()> {
    set_if_present(&format!("ipv6/conf/{name}/accept_ra"), "2")
}

fn common() -> io::Result<()> {
    for table in ["all", "default"] {
        set(&format!("ipv4/conf/{table}/send_redirects"), "0")?;
        set(&format!("ipv4/conf/{table}/accept_redirects"), "0")?;
        set_if_present(&format!("ipv6/conf/{table}/accept_redirects"), "0")?;
    }
    // Frames between machines of one network are judged as frames, not as routed packets.
    for protocol in ["arp", "ip", "ip6"] {
        set_if_present(&format!("bridge/bridge-nf-call-{protocol}tables"), "0")?;
    }
    Ok(())
}
