//! Daemons that have ended and that the kernel cannot let go of yet.
//!
//! A process is reaped once its last thread is gone. One that waits in the kernel for a disk may stay as
//! long as the disk does not answer, and as long there is no SIGCHLD: `wait(2)` is silent about a zombie
//! that other threads of its process outlive (`delay_group_leader`, linux/kernel/exit.c). What stays runs no
//! code of the daemon any more, for it ends as soon as it wakes.

use std::fs;

use rustix::process::{Pid, Signal};

/// Whether a process that has not been reaped is at its end: its first thread is a zombie, or has been
/// killed and not noticed.
pub fn is_at_its_end(pid: Pid) -> bool {
    // Answered from memory, whatever its threads wait for.
    let stat = fs::read(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.is_ok_and(|stat| says_so(&String::from_utf8_lossy(&stat)))
}

/// Fields are counted as in proc_pid_stat(5); the second, a name in brackets, may hold anything.
fn says_so(stat: &str) -> bool {
    let Some((_, rest)) = stat.rsplit_once(')') else {
        return false;
    };
    let field = |number: usize| rest.split_whitespace().nth(number - 3);
    let killed = 1 << (Signal::KILL.as_raw() - 1);
    let pending = field(31).and_then(|mask| mask.parse::<u64>().ok());
    field(3) == Some("Z") || pending.is_some_and(|pending| pending & killed != 0)
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use super::*;

    #[test]
    fn a_zombie_and_one_that_was_killed_are_at_their_ends() {
        let stat = |state: &str, pending: u32| {
            let between = "0 ".repeat(27);
            format!("10 (a) Z (b)) {state} {between}{pending} 0 0 0")
        };
        assert!(!says_so(&stat("S", 0)));
        assert!(!says_so(&stat("D", 1 << 14)), "SIGTERM can be waited for");
        assert!(says_so(&stat("D", 1 << 8)));
        assert!(says_so(&stat("Z", 0)));
        assert!(!says_so(""));
        assert!(!says_so("10 (a"));
    }

    #[test]
    fn a_process_whose_first_thread_is_gone_is_not_reaped_and_yet_at_its_end() {
        // SAFETY: the child has this thread alone; what it calls is sound after fork(2) with glibc.
        let child = unsafe { libc::fork() };
        if child == 0 {
            thread::spawn(|| thread::sleep(Duration::from_secs(60)));
            // SAFETY: ends this thread, which owns nothing that the other uses.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
        }
        let pid = Pid::from_raw(child).unwrap();
        // SAFETY: a null status is allowed.
        let reap = |flags| unsafe { libc::waitpid(child, std::ptr::null_mut(), flags) };
        let mut tries = 0;
        while !is_at_its_end(pid) && tries < 1000 {
            thread::sleep(Duration::from_millis(10));
            tries += 1;
        }
        let (at_its_end, reaped) = (is_at_its_end(pid), reap(libc::WNOHANG));
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
        assert_eq!(reap(0), child);
        assert_eq!((at_its_end, reaped), (true, 0));
        assert!(!is_at_its_end(pid), "it is reaped");
        assert!(!is_at_its_end(rustix::process::getpid()));
    }
}
