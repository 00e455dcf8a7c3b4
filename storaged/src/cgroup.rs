//! A control group of its own for a program that reads strangers' bytes.
//!
//! storaged's own group would be ended as a whole by a builder that takes too much memory. A group
//! below it could have no limits (a group with processes hands no controllers down), so this one is
//! beside it, where init has put the daemons' groups and enabled their controllers.

use std::{fs, io, path::Path};

const DAEMONS: &str = "/sys/fs/cgroup/daemons";

/// Named for what works in it. One is enough: image builders run one at a time.
const NAME: &str = "image-builder";

/// Threads of a tool that compresses nothing.
const TASKS: u32 = 256;

/// Of 1 to 10000, where daemons have 100: building can wait.
const CPU_WEIGHT: u32 = 20;

/// Whatever else runs on the node is worth more than a build that can be made again.
const OOM_SCORE: &str = "1000";

/// Limits a process that has just been started and waits for its input.
pub fn confine(pid: u32, memory: u64) -> io::Result<()> {
    fs::write(format!("/proc/{pid}/oom_score_adj"), OOM_SCORE)?;
    confine_below(Path::new(DAEMONS), pid, memory)
}

fn confine_below(daemons: &Path, pid: u32, memory: u64) -> io::Result<()> {
    let group = daemons.join(NAME);
    match fs::create_dir(&group) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    for (file, value) in [
        ("memory.max", memory.to_string()),
        ("memory.oom.group", "1".to_owned()),
        ("pids.max", TASKS.to_string()),
        ("cpu.weight", CPU_WEIGHT.to_string()),
        ("cgroup.procs", pid.to_string()),
    ] {
        fs::write(group.join(file), value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's side is a case of the whole node; here only what it is told, in which order it
    /// must be told: the process comes last, under limits that stand.
    #[test]
    fn limits_stand_before_the_process_comes() {
        let daemons = tempfile::tempdir().unwrap();
        confine_below(daemons.path(), 17, 1 << 30).unwrap();
        // The group may be there.
        confine_below(daemons.path(), 18, 1 << 20).unwrap();
        let said = |file| fs::read_to_string(daemons.path().join(NAME).join(file)).unwrap();
        assert_eq!(said("memory.max"), "1048576");
        assert_eq!(said("memory.oom.group"), "1");
        assert_eq!(said("cgroup.procs"), "18");

        let group = daemons.path().join("absent");
        assert!(confine_below(&group, 19, 1).is_err());
        // A limit that cannot be set: nothing is put into the group.
        let limit = daemons.path().join(NAME).join("memory.max");
        fs::remove_file(&limit).unwrap();
        fs::create_dir(&limit).unwrap();
        confine_below(daemons.path(), 20, 1).unwrap_err();
        assert_eq!(said("cgroup.procs"), "18");
    }
}
