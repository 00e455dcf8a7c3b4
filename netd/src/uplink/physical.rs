//! Which links are physical: those with a device behind them.

use std::path::Path;

use crate::link::Link;

/// Tells physical Ethernet links from those that netd or others made.
#[derive(Clone, Debug, Default)]
pub struct Physical {
    /// Links that count as physical though no device is behind them.
    pub also: Vec<String>,
}

impl Physical {
    pub fn is(&self, link: &Link) -> bool {
        let device = Path::new("/sys/class/net").join(&link.name);
        let wired = device.join("device").exists() && !device.join("phy80211").exists();
        // A bridge's or bond's port is not ours to configure.
        link.ethernet && link.controller.is_none() && (wired || self.also.contains(&link.name))
    }
}
