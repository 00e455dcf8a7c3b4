//! [`Loader`]: loads modules with what they depend on.

use std::{
    collections::HashSet,
    ffi::CString,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::io::Errno;

use super::ModuleIndex;

/// What one has loaded, its clones need not. Two of them may load at once, also the same: the kernel loads a module
/// once, and whoever comes second waits until it is there (`add_unformed_module` in `kernel/module/main.c`).
#[derive(Clone, Debug)]
pub struct Loader {
    index: Arc<ModuleIndex>,
    /// Loaded, or tried in vain: a device that asks again gets no second try.
    done: Arc<Mutex<HashSet<String>>>,
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
            index: Arc::new(index),
            done: Arc::default(),
        }
    }

    /// The modules that `asked` stands for.
    pub fn resolve(&self, asked: &str) -> Vec<String> {
        self.index.resolve(asked)
    }

    /// Loads every module that `asked` (a name, a modalias or a kernel's request) stands for.
    /// Returns the names of those that were loaded now.
    pub fn load(&self, asked: &str) -> (Vec<String>, Vec<LoadError>) {
        let mut loaded = Vec::new();
        let mut errors = Vec::new();
        let modules = self.index.resolve(asked);
        if modules.is_empty() {
            errors.push(LoadError::Missing(asked.to_owned()));
        }
        for module in modules {
            let order = self.index.load_order(&module).unwrap_or_default();
            if order.is_empty() && self.done().insert(module.clone()) {
                errors.push(LoadError::Missing(module));
            }
            for (name, file) in order {
                if self.done().contains(&name) {
                    continue;
                }
                let result = load_file(&file, "");
                // Not before: whoever finds it here relies on it.
                self.done().insert(name.clone());
                match result {
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

    fn done(&self) -> MutexGuard<'_, HashSet<String>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_another_has_tried_is_not_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        // Neither file is there.
        fs::write(folder.path().join("modules.dep"), "a.ko:\nb.ko: a.ko\n").unwrap();
        fs::write(folder.path().join("modules.alias"), "").unwrap();
        let loader = Loader::new(ModuleIndex::read(folder.path()).unwrap());
        let beside = loader.clone();
        let tried = |loader: &Loader, name: &str| loader.load(name).1.len();
        assert_eq!(tried(&beside, "a"), 1);
        assert_eq!(tried(&beside, "a"), 0);
        assert_eq!(tried(&loader, "a"), 0);
        assert_eq!(tried(&loader, "b"), 1);
    }
}
