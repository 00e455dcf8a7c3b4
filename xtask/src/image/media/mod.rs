//! What a farmer boots: the UKI on each medium. Each is made of the UKI's bytes and of what starts it on machines
//! without UEFI, by nothing else.
//!
//! | module | what |
//! |---|---|
//! | [`disk`] | a stick or disk, with room for a second release |
//! | [`iso`] | a CD that is also a stick |
//! | [`network`] | the files to boot over a network |
//! | [`fat`] | the volume that firmware reads |
//! | [`grub`] | what starts the image without UEFI |
//! | [`layout`] | sectors, identifiers, boot sectors |
//! | [`check`] | whether a medium is whole |
//! | [`sums`] | checksums beside media |

pub mod check;
pub mod disk;
pub mod fat;
pub mod grub;
pub mod iso;
pub mod layout;
pub mod network;
pub mod sums;
#[cfg(test)]
pub mod testing;
