//! PCI: one bus behind a host bridge, configured through the ports 0xcf8 and 0xcfc.

pub mod config_space;
pub mod msix;
pub mod root;
