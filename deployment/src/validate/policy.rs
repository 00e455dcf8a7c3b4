//! What farmers say about nodes.

use std::collections::BTreeSet;

use super::{Result, at_most, ensure, invalid};
use crate::{
    limits,
    payload::{NodePolicy, UpdateWindow},
};

const MINUTES_OF_A_DAY: u16 = 24 * 60;

pub(super) fn check(policy: &NodePolicy, path: &str) -> Result {
    wipe_disks(&policy.wipe_disks, &format!("{path}.wipe_disks"))?;

    let subnets = format!("{path}.public_addresses");
    at_most(
        &subnets,
        policy.public_addresses.len(),
        limits::PUBLIC_SUBNETS,
        "entries",
    )?;
    for (index, net) in policy.public_addresses.iter().enumerate() {
        let path = format!("{subnets}[{index}]");
        if *net != net.trunc() {
            let why = format!("{net} has bits behind its prefix; write {}", net.trunc());
            return Err(invalid(&path, why));
        }
        let others = &policy.public_addresses[..index];
        let overlaps = others
            .iter()
            .any(|other| other.contains(net) || net.contains(other));
        ensure(&path, !overlaps, "overlaps another of the list")?;
    }

    if let Some(UpdateWindow {
        start_minute,
        minutes,
    }) = policy.update_window
    {
        let path = format!("{path}.update_window");
        let start = start_minute < MINUTES_OF_A_DAY;
        ensure(&format!("{path}.start_minute"), start, "must be 0 to 1439")?;
        let length = (1..=MINUTES_OF_A_DAY).contains(&minutes);
        ensure(&format!("{path}.minutes"), length, "must be 1 to 1440")?;
    }
    if let Some((first, last)) = policy.publish_ports {
        let ordered = first > 0 && first <= last;
        ensure(
            &format!("{path}.publish_ports"),
            ordered,
            "must be from 1 up to 65535, in order",
        )?;
    }
    Ok(())
}

fn wipe_disks(disks: &[String], path: &str) -> Result {
    at_most(path, disks.len(), limits::WIPE_DISKS, "entries")?;
    let mut seen = BTreeSet::new();
    for (index, disk) in disks.iter().enumerate() {
        let path = format!("{path}[{index}]");
        at_most(&path, disk.len(), limits::DISK_ID_BYTES, "bytes")?;
        let printable = disk.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
        let id = printable && !disk.trim().is_empty();
        ensure(
            &path,
            id,
            "is not a disk's id; copy it from what the node reports",
        )?;
        ensure(&path, seen.insert(disk), "is in the list already")?;
    }
    Ok(())
}
