//! The files that a server of a home's network gives machines that boot over it: one folder, whose names the script
//! for iPXE has relative to itself.

use anyhow::Result;

use crate::debian::deb;
use crate::debian::lock::{Lock, verified};
use crate::image::spec::Spec;
use crate::image::uki;

/// What a machine with UEFI is told to boot, by TFTP or HTTP.
pub const UKI: &str = "loam.efi";
/// What iPXE is told, of either kind.
pub const SCRIPT: &str = "loam.ipxe";
/// What a BIOS is told: iPXE, which asks again.
pub const IPXE: &str = "undionly.kpxe";
pub const LINUX: &str = "linux";
pub const INITRD: &str = "initrd";

/// All files of the folder.
pub const NAMES: [&str; 5] = [UKI, LINUX, INITRD, SCRIPT, IPXE];

/// The folder's files by name, the UKI among them.
pub fn files(uki: &[u8], spec: &Spec, lock: &Lock) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let ipxe = &spec.bios.ipxe;
    let package = verified(lock.get(&ipxe.package)?)?;
    let ipxe = deb::file(&package, ipxe.file.trim_start_matches('/'))?;
    let section = |name| Ok::<_, anyhow::Error>(uki[uki::section(uki, name)?].to_vec());
    Ok(vec![
        (UKI, uki.to_vec()),
        (LINUX, section(uki::LINUX)?),
        (INITRD, section(uki::INITRD)?),
        (SCRIPT, script(uki)?.into_bytes()),
        (IPXE, ipxe),
    ])
}

/// With UEFI the UKI has all; it is told its own command line, since the stub takes what iPXE passes on for one.
pub fn script(uki: &[u8]) -> Result<String> {
    let command_line = uki::text(uki, uki::COMMAND_LINE)?.trim_end_matches('\0');
    Ok(format!(
        "\
#!ipxe
iseq ${{platform}} efi && goto efi ||
kernel {LINUX} {command_line} || goto failed
initrd {INITRD} || goto failed
boot || goto failed
:efi
kernel {UKI} {command_line} || goto failed
boot || goto failed
:failed
echo Loam cannot be fetched from this network; trying again in 30 seconds.
sleep 30
reboot
"
    ))
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn a_script_passes_on_the_command_line_of_the_image() {
        let script = script(&testing::uki()).unwrap();
        for start in ["kernel linux", "kernel loam.efi"] {
            let line = format!("{start} {} || goto failed\n", testing::COMMAND_LINE);
            assert!(script.contains(&line), "{script}");
        }
    }
}
