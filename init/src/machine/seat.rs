//! [`Seat`]: what a machine has of the node as long as it is not over; and [`Housekeeper`], the
//! thread that makes seats and takes them away, one after the other, so that an old one is gone
//! before a new one of the same name is made.

use std::{
    fs, io,
    os::unix::{fs::DirBuilderExt, net::UnixListener},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc,
    thread,
};

use anyhow::Context;
use loam_node_api::{WorkloadId, machine::MachineSpec};

use super::{control, memory};
use crate::cgroup::{Group, GroupLimits, MACHINES};

/// Threads of a VMM beside its virtual CPUs, which serve its devices and its control socket.
const OTHER_THREADS: u32 = 64;

#[derive(Debug)]
pub struct Seat {
    pub group: Group,
    /// The same for every process of the machine, so that its socket never goes away between two.
    pub control: UnixListener,
}

impl Seat {
    pub fn make(spec: &MachineSpec) -> anyhow::Result<Self> {
        let limits = GroupLimits {
            memory_max: Some(memory::cost(spec.memory)),
            cpu_weight: Some((spec.cpus * 100).clamp(1, 10_000)),
            // One more than the guest sees, for the threads that serve its devices.
            cpus: Some(spec.cpus + 1),
            tasks: Some(spec.cpus + OTHER_THREADS),
        };
        let name = group_name(&spec.id);
        let made = Group::make(&name, limits).and_then(|group| {
            let control = listen(&spec.id)?;
            Ok(Self { group, control })
        });
        made.inspect_err(|_| take_away(&spec.id))
    }
}

fn listen(id: &WorkloadId) -> anyhow::Result<UnixListener> {
    let folder = control::folder(id);
    // What a predecessor of this name left is nobody's: its record is gone.
    let _ = fs::remove_dir_all(&folder);
    (fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder))
    .with_context(|| format!("making {}", folder.display()))?;
    UnixListener::bind(control::socket(id)).context("making its control socket")
}

/// Whatever a machine of this name has left, made whole or in part.
pub fn take_away(id: &WorkloadId) {
    if let Err(error) = Group::take_away(&group_name(id)) {
        tracing::warn!(machine = %id, %error, "its cgroup stays");
    }
    match fs::remove_dir_all(control::folder(id)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(machine = %id, %error, "its socket stays");
        }
        _ => {}
    }
}

fn group_name(id: &WorkloadId) -> String {
    format!("{MACHINES}/{id}")
}

type Job = Box<dyn FnOnce() + Send>;

/// Does jobs in the order in which they came.
#[derive(Clone, Debug)]
pub struct Housekeeper(mpsc::Sender<Job>);

impl Housekeeper {
    pub fn new() -> io::Result<Self> {
        let (sender, jobs) = mpsc::channel::<Job>();
        thread::Builder::new()
            .name("housekeeper".into())
            .spawn(move || {
                for job in jobs {
                    if catch_unwind(AssertUnwindSafe(job)).is_err() {
                        tracing::error!("a job of the housekeeper panicked");
                    }
                }
            })?;
        Ok(Self(sender))
    }

    pub fn order(&self, job: impl FnOnce() + Send + 'static) {
        // The thread ends only with the last sender.
        let _ = self.0.send(Box::new(job));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_done_in_their_order_whatever_panics() {
        let housekeeper = Housekeeper::new().unwrap();
        let (done, results) = mpsc::channel();
        for n in 0..3 {
            let done = done.clone();
            housekeeper.order(move || {
                assert_ne!(n, 1, "this one panics");
                done.send(n).unwrap();
            });
        }
        drop(done);
        assert_eq!(results.iter().collect::<Vec<_>>(), [0, 2]);
    }
}
