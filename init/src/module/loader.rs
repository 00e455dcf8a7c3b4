//! [`Loader`]: loads modules with what they depend on.

use std::{
    collections::HashSet,
    ffi::CString,
    fs::File,
    io,
    path::{Path, PathBuf},
};

use rustix::io::Errno;

use super::ModuleIndex;

#[derive(Debug)]
pub struct Loader {
    index: ModuleIndex,
    /// Loaded, or tried in vain: a device that asks again gets no second try.
    done: HashSet<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("no module is or answers to `{0}` in this image")]
    Missing(String),
    #[error("module {name}: loading {}: {source}", file.display())]
    Refused {
        name: String,
        file: PathBuf,
        source: io::Error,
    },
}

impl Loader {
    pub fn new(index: ModuleIndex) -> Self {
        Self {
            index,
            done: HashSet::new(),
        }
    }

    /// Loads every module that `asked` (a name, a modalias or a kernel's request) stands for.
    /// Returns the names of those that were loaded now.
    pub fn load(&mut self, asked: &str) -> (Vec<String>, Vec<LoadError>) {
        let mut loaded = Vec::new();
        let mut errors = Vec::new();
        let modules = self.index.resolve(asked);
        if modules.is_empty() {
            errors.push(LoadError::Missing(asked.to_owned()));
        }
        for module in modules {
            let order = self.index.load_order(&module).unwrap_or_default();
            if order.is_empty() && self.done.insert(module.clone()) {
                errors.push(LoadError::Missing(module));
            }
            for (name, file) in order {
                if !self.done.insert(name.clone()) {
                    continue;
                }
                match load_file(&file, "") {
                    Ok(()) => loaded.push(name),
                    Err(source) => {
                        errors.push(LoadError::Refused { name, file, source });
                        break;
                    }
                }
            }
        }
        (loaded, errors)
    }
}

/// The kernel decompresses the file (`MODULE_INIT_COMPRESSED_FILE` of `linux/module.h`).
const COMPRESSED: core::ffi::c_int = 4;

/// Loads one module file with its parameters (`name=value`, separated by blanks). A module that is
/// loaded already is a success.
pub fn load_file(path: &Path, parameters: &str) -> io::Result<()> {
    let file = File::open(path)?;
    let flags = match path.extension() {
        Some(extension) if extension != "ko" => COMPRESSED,
        _ => 0,
    };
    match rustix::system::finit_module(&file, &CString::new(parameters)?, flags) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
