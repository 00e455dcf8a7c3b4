//! Loading kernel modules.

use std::{io, path::Path};

/// Loads one module file with its parameters. Already loaded is success.
pub fn load_file(path: &Path, parameters: &str) -> io::Result<()> {
    let file = std::fs::File::open(path)?;
    let parameters = std::ffi::CString::new(parameters)?;
    match rustix::system::finit_module(&file, &parameters, 0) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
