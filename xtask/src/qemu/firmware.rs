//! OVMF, the UEFI firmware of QEMU's machines.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Its code, and the template of its variables. Debian's place first, then older and others'.
const PLACES: [(&str, &str); 4] = [
    (
        "/usr/share/OVMF/OVMF_CODE_4M.fd",
        "/usr/share/OVMF/OVMF_VARS_4M.fd",
    ),
    (
        "/usr/share/OVMF/OVMF_CODE.fd",
        "/usr/share/OVMF/OVMF_VARS.fd",
    ),
    (
        "/usr/share/edk2/x64/OVMF_CODE.4m.fd",
        "/usr/share/edk2/x64/OVMF_VARS.4m.fd",
    ),
    (
        "/usr/share/edk2/ovmf/OVMF_CODE.fd",
        "/usr/share/edk2/ovmf/OVMF_VARS.fd",
    ),
];

#[derive(Debug, Clone, Copy)]
pub struct Firmware {
    pub code: &'static Path,
    variables: &'static Path,
}

/// The firmware of this machine, if it is installed.
pub fn find() -> Result<Firmware> {
    for (code, variables) in PLACES {
        let (code, variables) = (Path::new(code), Path::new(variables));
        if code.exists() && variables.exists() {
            return Ok(Firmware { code, variables });
        }
    }
    bail!("no UEFI firmware for QEMU (package ovmf): run `cargo xtask setup`")
}

impl Firmware {
    /// A machine's own variables; they stay between its boots.
    pub fn variables(&self, folder: &Path) -> Result<PathBuf> {
        let file = folder.join("firmware-variables.fd");
        if !file.exists() {
            fs::copy(self.variables, &file)
                .with_context(|| format!("writing {}", file.display()))?;
        }
        Ok(file)
    }
}
