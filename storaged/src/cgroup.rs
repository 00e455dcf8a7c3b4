//! A control group of its own for a program that reads strangers' bytes.
//!
//! storaged's own group would be ended as a whole by a builder that takes too much memory. A group
//! below it could have no limits (a group with processes hands no controllers down), so this one is
//! beside it, where init has put the daemons' groups and enabled their controllers.
//!
//! On a node a builder runs there or not at all. On a developer's machine, where init has put nothing,
//! it runs as it is.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

const DAEMONS: &str = "/sys/fs/cgroup/daemons";

/// Named for what works in it. One is enough: image builders run one at a time, but for those that
/// wait for a disk that hangs.
const NAME: &str = "image-builder";

/// Threads of a tool that compresses nothing.
const TASKS: u32 = 256;

/// Of 1 to 10000, where daemons have 100: building can wait.
const CPU_WEIGHT: u32 = 20;

/// Whatever else runs on the node is worth more than a build that can be made again.
const OOM_SCORE: &str = "1000";

/// Where builders are.
#[derive(Debug)]
pub struct Group {
    daemons: PathBuf,
    inside: Mutex<usize>,
}

/// A builder in its group. When the last one's is dropped, whatever builders have started and left
/// behind is ended.
#[derive(Debug, Default)]
pub struct Confined<'a>(Option<&'a Group>);

impl Default for Group {
    fn default() -> Self {
        Self::below(Path::new(DAEMONS))
    }
}

impl Group {
    pub(crate) fn below(daemons: &Path) -> Self {
        Self {
            daemons: daemons.to_owned(),
            inside: Mutex::default(),
        }
    }

    /// Ends whatever is there, when nobody has come in yet: the builder of a storaged that was killed dies with
    /// it, but not what that builder started.
    pub fn clear(&self) {
        let inside = self.lock();
        if *inside == 0 && self.folder().exists() {
            self.kill();
        }
    }

    fn kill(&self) {
        if let Err(error) = fs::write(self.folder().join("cgroup.kill"), "1") {
            tracing::warn!(%error, "cannot end what an image's builder may have left");
        }
    }

    /// Limits a process that has just been started and waits for its input. After an error it must
    /// not have any.
    pub fn confine(&self, pid: u32, memory: u64) -> io::Result<Confined<'_>> {
        fs::write(format!("/proc/{pid}/oom_score_adj"), OOM_SCORE)?;
        self.take_in(pid, memory)
    }

    pub(crate) fn take_in(&self, pid: u32, memory: u64) -> io::Result<Confined<'_>> {
        if !self.daemons.try_exists()? {
            tracing::warn!("this is no node: an image's builder has no memory limit of its own");
            return Ok(Confined(None));
        }
        let mut inside = self.lock();
        match fs::create_dir(self.folder()) {
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
            fs::write(self.folder().join(file), value).map_err(|error| {
                io::Error::new(error.kind(), format!("{file} of its cgroup: {error}"))
            })?;
        }
        *inside += 1;
        Ok(Confined(Some(self)))
    }

    fn folder(&self) -> PathBuf {
        self.daemons.join(NAME)
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Confined<'_> {
    /// Ends the builder and all that it started, if no other is there.
    pub fn end(&self) {
        let Some(group) = self.0 else { return };
        if *group.lock() == 1 {
            group.kill();
        }
    }
}

impl Drop for Confined<'_> {
    fn drop(&mut self) {
        let Some(group) = self.0 else { return };
        // Held, so that the next one does not come in meanwhile.
        let mut inside = group.lock();
        *inside -= 1;
        if *inside == 0 {
            group.kill();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Here only what the kernel is told, in which order it must be told: the process comes last,
    /// under limits that stand. That it then stands is for a case on the whole node.
    #[test]
    fn limits_stand_before_the_process_comes() {
        let daemons = tempfile::tempdir().unwrap();
        let group = Group::below(daemons.path());
        group.take_in(17, 1 << 30).unwrap();
        // The group may be there.
        group.take_in(18, 1 << 20).unwrap();
        let said = |file| fs::read_to_string(daemons.path().join(NAME).join(file)).unwrap();
        assert_eq!(said("memory.max"), "1048576");
        assert_eq!(said("memory.oom.group"), "1");
        assert_eq!(said("cgroup.procs"), "18");

        // A limit that cannot be set: nothing is put into the group.
        let limit = daemons.path().join(NAME).join("memory.max");
        fs::remove_file(&limit).unwrap();
        fs::create_dir(&limit).unwrap();
        group.take_in(20, 1).unwrap_err();
        assert_eq!(said("cgroup.procs"), "18");
    }

    #[test]
    fn only_where_there_is_no_node_is_it_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let developers = Group::below(&folder.path().join("absent"));
        assert!(developers.take_in(19, 1).unwrap().0.is_none());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn of_all_on_the_node_it_goes_first_when_memory_runs_out() {
        let folder = tempfile::tempdir().unwrap();
        let mut builder = Command::new("sleep").arg("60").spawn().unwrap();
        let group = Group::below(&folder.path().join("absent"));
        let confined = group.confine(builder.id(), 1).map(drop);
        let score = fs::read_to_string(format!("/proc/{}/oom_score_adj", builder.id()));
        builder.kill().unwrap();
        builder.wait().unwrap();
        confined.unwrap();
        assert_eq!(score.unwrap().trim(), "1000");
    }

    #[test]
    fn what_builders_left_is_ended_with_the_last_of_them() {
        let daemons = tempfile::tempdir().unwrap();
        let group = Group::below(daemons.path());
        let (one, two) = (group.take_in(17, 1).unwrap(), group.take_in(18, 1).unwrap());
        let kill = daemons.path().join(NAME).join("cgroup.kill");
        one.end();
        drop(one);
        assert!(!kill.exists());
        group.clear();
        assert!(!kill.exists());
        two.end();
        assert_eq!(fs::read_to_string(&kill).unwrap(), "1");
        fs::remove_file(&kill).unwrap();
        drop(two);
        assert_eq!(fs::read_to_string(&kill).unwrap(), "1");
        fs::remove_file(&kill).unwrap();
        // What a predecessor's left, whose count nobody has any more.
        Group::below(daemons.path()).clear();
        assert_eq!(fs::read_to_string(kill).unwrap(), "1");
        // Where none has been, there is nothing to end.
        Group::below(&daemons.path().join("absent")).clear();
    }
}
