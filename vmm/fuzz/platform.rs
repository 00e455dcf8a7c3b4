//! A platform without KVM for the fuzz targets.

use std::io;

use loam_vmm::platform::{Gsi, Message, Platform};
use vmm_sys_util::eventfd::EventFd;

#[derive(Debug)]
pub struct Nowhere;

impl Platform for Nowhere {
    fn set_line(&self, _line: Gsi, _high: bool) -> io::Result<()> {
        Ok(())
    }

    fn connect_interrupt(&self, _gsi: Gsi, _event: &EventFd) -> io::Result<()> {
        Ok(())
    }

    fn route(&self, _gsi: Gsi, _message: Option<Message>) -> io::Result<()> {
        Ok(())
    }

    fn attach_doorbell(&self, _address: u64, _event: &EventFd) -> io::Result<()> {
        Ok(())
    }

    fn detach_doorbell(&self, _address: u64, _event: &EventFd) -> io::Result<()> {
        Ok(())
    }
}
