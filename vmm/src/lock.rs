//! Locking without poison: a thread that panics takes the VM down anyway (see
//! [`machine`](crate::machine)), so whoever still holds on may use the value as it is.

use std::sync::{Mutex, MutexGuard, PoisonError};

pub trait Lock<T> {
    fn locked(&self) -> MutexGuard<'_, T>;
}

impl<T> Lock<T> for Mutex<T> {
    fn locked(&self) -> MutexGuard<'_, T> {
        self.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
