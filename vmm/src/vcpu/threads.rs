//! The CPUs' threads: the loop round `KVM_RUN`, and how all of them are stopped at once.

use std::{
    io,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    thread::{self, JoinHandle},
};

use kvm_ioctls::{VcpuExit, VcpuFd};
use seccompiler::BpfProgram;

use crate::{
    events::{End, Notice, Notices},
    hw::Buses,
    lifecycle::Lifecycle,
    lock::Lock,
    seccomp,
    vcpu::kick,
};

#[derive(Debug, thiserror::Error)]
pub enum VcpuError {
    #[error("KVM cannot make virtual CPU {cpu}: {error}")]
    Create {
        cpu: u32,
        error: vmm_sys_util::errno::Error,
    },
    #[error("KVM refuses a virtual CPU's {what}: {error}")]
    Setup {
        what: &'static str,
        error: vmm_sys_util::errno::Error,
    },
    #[error("CPUID has too many leaves: {0}")]
    Cpuid(#[from] vmm_sys_util::fam::Error),
    #[error("cannot start a virtual CPU's thread: {0}")]
    Thread(#[from] io::Error),
}

impl VcpuError {
    pub fn setup(what: &'static str) -> impl Fn(vmm_sys_util::errno::Error) -> Self {
        move |error| Self::Setup { what, error }
    }
}

/// What the CPUs are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Wanted {
    Run,
    Pause,
    Halt,
}

/// Where CPUs stop between two entries of the guest.
#[derive(Debug)]
struct Gate {
    /// A [`Wanted`], read without the lock on the way into the guest.
    wanted: AtomicU8,
    /// CPUs that run or may run.
    inside: Mutex<usize>,
    changed: Condvar,
}

impl Gate {
    fn new(cpus: usize) -> Self {
        Self {
            wanted: AtomicU8::new(Wanted::Run as u8),
            inside: Mutex::new(cpus),
            changed: Condvar::new(),
        }
    }

    fn is(&self, wanted: Wanted) -> bool {
        self.wanted.load(Ordering::SeqCst) == wanted as u8
    }

    fn want(&self, wanted: Wanted) {
        let _inside = self.inside.locked();
        self.wanted.store(wanted as u8, Ordering::SeqCst);
        self.changed.notify_all();
    }

    fn wait_until_empty(&self) {
        let mut inside = self.inside.locked();
        while *inside > 0 {
            inside = self
                .changed
                .wait(inside)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Says whether the CPU was held up here; none: it is to end.
    fn pass(&self) -> Option<bool> {
        if self.is(Wanted::Run) {
            return Some(false);
        }
        let mut inside = self.inside.locked();
        *inside -= 1;
        self.changed.notify_all();
        while self.is(Wanted::Pause) {
            inside = self
                .changed
                .wait(inside)
                .unwrap_or_else(PoisonError::into_inner);
        }
        *inside += 1;
        self.is(Wanted::Run).then_some(true)
    }

    /// A CPU's presence inside, which ends with the thread however that ends.
    fn presence(self: &Arc<Self>) -> Presence {
        Presence(Arc::clone(self))
    }
}

/// Dropped, a CPU is gone for good: also by a panic, after which the others are still to be halted.
#[derive(Debug)]
struct Presence(Arc<Gate>);

impl Drop for Presence {
    fn drop(&mut self) {
        *self.0.inside.locked() -= 1;
        self.0.changed.notify_all();
    }
}

#[derive(Debug)]
pub struct Vcpus {
    gate: Arc<Gate>,
    threads: Vec<JoinHandle<()>>,
}

impl Vcpus {
    /// Starts all CPUs; each applies `filter` to itself first.
    pub fn start(
        vcpus: Vec<VcpuFd>,
        buses: &Arc<Buses>,
        notices: &Notices,
        filter: Option<&Arc<BpfProgram>>,
    ) -> Result<Self, VcpuError> {
        kick::install()?;
        let gate = Arc::new(Gate::new(vcpus.len()));
        let threads = vcpus
            .into_iter()
            .enumerate()
            .map(|(index, vcpu)| {
                let mut cpu = Cpu {
                    index,
                    vcpu,
                    gate: Arc::clone(&gate),
                    buses: Arc::clone(buses),
                    notices: notices.clone(),
                };
                let filter = filter.cloned();
                thread::Builder::new()
                    .name(format!("vcpu{index}"))
                    .spawn(move || {
                        let _presence = cpu.gate.presence();
                        match seccomp::apply(filter.as_deref()) {
                            Ok(()) => cpu.run(),
                            Err(error) => cpu.fail(&error.to_string()),
                        }
                    })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { gate, threads })
    }

    fn stop(&self, wanted: Wanted) {
        self.gate.want(wanted);
        for thread in &self.threads {
            kick::kick(thread);
        }
        self.gate.wait_until_empty();
    }
}

impl Lifecycle for Vcpus {
    fn pause(&self) {
        self.stop(Wanted::Pause);
    }

    fn resume(&self) {
        self.gate.want(Wanted::Run);
    }

    fn halt(&self) {
        self.stop(Wanted::Halt);
    }
}

#[derive(Debug)]
struct Cpu {
    index: usize,
    vcpu: VcpuFd,
    gate: Arc<Gate>,
    buses: Arc<Buses>,
    notices: Notices,
}

impl Cpu {
    fn run(&mut self) {
        // SAFETY: the guard is dropped when this call returns; `self.vcpu` lives on, in this
        // thread.
        let guard = unsafe { kick::Guard::new(&mut self.vcpu) };
        if self.index == 0 {
            self.notices.send(Notice::Started);
        }
        loop {
            // In this order: a kick that is cleared here changed the gate before.
            guard.clear();
            match self.gate.pass() {
                Some(false) => {}
                // Tells the guest's watchdogs that time stood still; needs kvmclock in the guest.
                Some(true) => drop(self.vcpu.kvmclock_ctrl()),
                None => return,
            }
            if let Err(problem) = self.enter() {
                let end = match problem {
                    Problem::Shutdown => End::Reset,
                    Problem::Broken(what) => return self.fail(&what),
                };
                return self.notices.send(Notice::End(end));
            }
        }
    }

    fn fail(&self, what: &str) {
        let place = self.vcpu.get_regs().map(|registers| registers.rip);
        let place = place.unwrap_or_default();
        self.notices.send(Notice::End(End::Failed(format!(
            "virtual CPU {} at {place:#x}: {what}",
            self.index
        ))));
    }

    fn enter(&mut self) -> Result<(), Problem> {
        match self.vcpu.run() {
            Ok(exit) => serve(&self.buses, exit),
            Err(error) => match error.errno() {
                libc::EINTR | libc::EAGAIN => Ok(()),
                _ => Err(Problem::Broken(format!("KVM_RUN: {error}"))),
            },
        }
    }
}

/// Why a CPU cannot go on.
#[derive(Debug)]
enum Problem {
    /// A triple fault: on hardware, a reset.
    Shutdown,
    Broken(String),
}

fn serve(buses: &Buses, exit: VcpuExit<'_>) -> Result<(), Problem> {
    match exit {
        VcpuExit::IoIn(port, data) => buses.port_read(port, data),
        VcpuExit::IoOut(port, data) => buses.port_write(port, data),
        VcpuExit::MmioRead(address, data) => buses.memory_read(address, data),
        VcpuExit::MmioWrite(address, data) => buses.memory_write(address, data),
        VcpuExit::Intr | VcpuExit::IrqWindowOpen | VcpuExit::Hlt => {}
        VcpuExit::Shutdown => return Err(Problem::Shutdown),
        exit => return Err(Problem::Broken(format!("unexpected exit: {exit:?}"))),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_holds_all_and_lets_all_go() {
        let gate = Arc::new(Gate::new(3));
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let gate = Arc::clone(&gate);
                thread::spawn(move || {
                    let _presence = gate.presence();
                    while gate.pass().is_some() {
                        thread::yield_now();
                    }
                })
            })
            .collect();
        for _ in 0..100 {
            gate.want(Wanted::Pause);
            gate.wait_until_empty();
            gate.want(Wanted::Run);
        }
        gate.want(Wanted::Halt);
        gate.wait_until_empty();
        for thread in threads {
            thread.join().unwrap();
        }
    }

    #[test]
    fn a_cpu_that_panics_holds_up_nobody() {
        let gate = Arc::new(Gate::new(2));
        let broken = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || {
                let _presence = gate.presence();
                panic!("a device has a bug");
            })
        };
        let other = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || {
                let _presence = gate.presence();
                while gate.pass().is_some() {
                    thread::yield_now();
                }
            })
        };
        broken.join().unwrap_err();
        gate.want(Wanted::Halt);
        gate.wait_until_empty();
        other.join().unwrap();
    }
}
