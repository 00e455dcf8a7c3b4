//! Getting a CPU out of the guest: a signal to its thread.
//!
//! The handler sets `immediate_exit` in the CPU's `kvm_run`, so that a signal that arrives just
//! before `KVM_RUN` is not lost: the call returns at once.

use std::{
    cell::Cell,
    io,
    os::unix::thread::JoinHandleExt,
    ptr,
    sync::atomic::{AtomicU8, Ordering},
    thread::JoinHandle,
};

use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler, unblock_signal};

thread_local! {
    /// `immediate_exit` of the CPU that this thread runs.
    static IMMEDIATE_EXIT: Cell<*const AtomicU8> = const { Cell::new(ptr::null()) };
}

/// To be called once, before CPU threads start.
pub fn install() -> io::Result<()> {
    // The launcher may block signals for itself, and the mask is inherited through exec.
    unblock_signal(SIGRTMIN()).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(register_signal_handler(SIGRTMIN(), handle)?)
}

extern "C" fn handle(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: `Guard` keeps the pointer valid for as long as it is set, and an atomic store is
        // safe in a signal handler.
        unsafe { &*flag }.store(1, Ordering::Relaxed);
    }
}

/// While it lives, signals to this thread make `vcpu` leave the guest.
#[derive(Debug)]
pub struct Guard(*const AtomicU8);

impl Guard {
    /// # Safety
    ///
    /// `vcpu` must outlive the guard and stay with this thread.
    pub unsafe fn new(vcpu: &mut VcpuFd) -> Self {
        let flag = ptr::from_mut(&mut vcpu.get_kvm_run().immediate_exit)
            .cast::<AtomicU8>()
            .cast_const();
        IMMEDIATE_EXIT.set(flag);
        Self(flag)
    }

    /// Forgets a kick; the caller looks afterwards at what it is to do.
    pub fn clear(&self) {
        // SAFETY: valid as long as `self` lives, by the promise of `new`'s caller.
        unsafe { &*self.0 }.store(0, Ordering::SeqCst);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(ptr::null());
    }
}

/// Makes the CPU of this thread leave the guest.
pub fn kick<T>(thread: &JoinHandle<T>) {
    // SAFETY: the handle keeps the thread's identity valid, even when the thread has ended, and
    // `install` gave the signal a handler.
    unsafe { libc::pthread_kill(thread.as_pthread_t(), SIGRTMIN()) };
}
