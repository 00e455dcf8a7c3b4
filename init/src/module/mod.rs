//! Kernel modules: which one a device asks for, what it depends on, loading it.
//!
//! [`ModuleIndex`] reads depmod's `modules.dep` and `modules.alias` and is pure; [`Loader`] acts.

mod glob;
mod index;
mod loader;

pub use index::ModuleIndex;
pub use loader::{LoadError, Loader, load_file};
