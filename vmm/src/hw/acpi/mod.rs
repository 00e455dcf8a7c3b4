//! ACPI: the tables that describe the machine, and its power button and switch.

pub mod power;
pub mod tables;
