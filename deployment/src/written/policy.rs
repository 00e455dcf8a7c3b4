//! `kind = "node"`.

use super::{Item, Table, WrittenError};
use crate::payload::{NodePolicy, UpdateWindow};

pub(super) fn read(root: &mut Table<'_>) -> Result<NodePolicy, WrittenError> {
    let mut field = |key| {
        let path = format!("policy.{key}");
        root.optional(key).map(|item| item.at_payload_path(path))
    };
    let list = |item: Option<Item<'_>>| item.map(|item| item.list(|i| i.string())).transpose();
    Ok(NodePolicy {
        wipe_disks: list(field("wipe_disks"))?.unwrap_or_default(),
        public_addresses: field("public_addresses")
            .map(|item| item.list(|net| net.parsed()))
            .transpose()?
            .unwrap_or_default(),
        gateway: field("gateway")
            .map(|item| item.boolean())
            .transpose()?
            .unwrap_or_default(),
        power: field("power")
            .map(|item| item.named())
            .transpose()?
            .unwrap_or_default(),
        update_window: field("update_window")
            .map(|item| update_window(&item))
            .transpose()?,
        publish_ports: field("publish_ports")
            .map(|item| port_range(&item))
            .transpose()?,
    })
}

fn update_window(item: &Item<'_>) -> Result<UpdateWindow, WrittenError> {
    let mut table = item.table()?;
    let start = table.required("start")?;
    let minutes = table.required("minutes")?.integer()?;
    table.finish()?;
    Ok(UpdateWindow {
        start_minute: minute_of_day(&start)?,
        minutes,
    })
}

/// `02:30`.
fn minute_of_day(item: &Item<'_>) -> Result<u16, WrittenError> {
    let text = item.string()?;
    let two_digits = |part: &str, limit: u16| {
        let digits = part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
        part.parse::<u16>()
            .ok()
            .filter(|number| digits && *number < limit)
    };
    text.split_once(':')
        .and_then(|(hour, minute)| Some(two_digits(hour, 24)? * 60 + two_digits(minute, 60)?))
        .ok_or_else(|| item.error(format!("`{text}` is not a time of day; write it as 02:30")))
}

/// `8000-8999`.
fn port_range(item: &Item<'_>) -> Result<(u16, u16), WrittenError> {
    let text = item.string()?;
    text.split_once('-')
        .and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)))
        .ok_or_else(|| item.error(format!("`{text}` is not a range of ports, as 8000-8999")))
}
