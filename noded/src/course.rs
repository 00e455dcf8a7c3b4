//! How a plan is gone through: a step is done once all that it waits for is done, and one that fails
//! or is under way stops only what waits for it.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    plan::Task,
    step::{Resource, Step},
};

/// What became of the steps that are not done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Went wrong, or waits for what went wrong, and why; tried again in the next round.
    pub failed: BTreeMap<Resource, String>,
    /// Those of `failed` whose own step was refused, and not only the question whether it would be done.
    pub refused: BTreeSet<Resource>,
    /// Under way, or waiting for something that is.
    pub waiting: BTreeMap<Resource, String>,
    /// Those of `waiting` on which a daemon is at work: it was told to change them.
    pub begun: BTreeSet<Resource>,
    /// Steps done that changed something.
    pub done: usize,
}

/// What became of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    Done,
    /// What is going on, as its daemon was told.
    Begun(String),
    /// What is waited for, before its daemon is told anything.
    UnderWay(String),
    /// Why it was refused.
    Refused(String),
}

#[derive(Debug)]
pub struct Course<'a> {
    tasks: &'a [Task],
    /// Of each task up to the present one.
    ends: Vec<End>,
    outcome: Outcome,
}

#[derive(Clone, Debug)]
enum End {
    Done,
    Waits(String),
    Failed(String),
}

impl<'a> Course<'a> {
    pub fn new(tasks: &'a [Task]) -> Self {
        Self {
            tasks,
            ends: Vec::with_capacity(tasks.len()),
            outcome: Outcome::default(),
        }
    }

    /// The next step that can be done. Each must be followed by [`Course::note`].
    pub fn next_step(&mut self) -> Option<&'a Step> {
        loop {
            let task = self.tasks.get(self.ends.len())?;
            match self.blocker(task) {
                None => return Some(&task.step),
                Some(end) => self.pass(task.step.resource(), end),
            }
        }
    }

    /// What became of the step that [`Course::next_step`] gave last.
    pub fn note(&mut self, progress: Progress) {
        let Some(task) = self.tasks.get(self.ends.len()) else {
            return;
        };
        let resource = task.step.resource();
        match progress {
            Progress::Done => {
                self.outcome.done += usize::from(!task.step.is_check());
                self.ends.push(End::Done);
            }
            Progress::Begun(what) => {
                if !task.step.is_check() {
                    self.outcome.begun.insert(resource.clone());
                }
                self.pass(resource, End::Waits(what));
            }
            Progress::UnderWay(what) => self.pass(resource, End::Waits(what)),
            Progress::Refused(reason) => {
                if !task.step.is_check() {
                    self.outcome.refused.insert(resource.clone());
                }
                self.pass(resource, End::Failed(reason));
            }
        }
    }

    pub fn outcome(self) -> Outcome {
        self.outcome
    }

    /// A failure before anything that is merely under way: it is the one to tell.
    fn blocker(&self, task: &Task) -> Option<End> {
        let ends = || task.after.iter().map(|index| &self.ends[*index]);
        let failed = ends().find(|end| matches!(end, End::Failed(_)));
        failed
            .or_else(|| ends().find(|end| matches!(end, End::Waits(_))))
            .cloned()
    }

    fn pass(&mut self, resource: Resource, end: End) {
        // Of several steps on one thing, the first reason stays.
        match &end {
            End::Done => {}
            End::Waits(what) => {
                let waiting = self.outcome.waiting.entry(resource);
                waiting.or_insert_with(|| what.clone());
            }
            End::Failed(reason) => {
                let failed = self.outcome.failed.entry(resource);
                failed.or_insert_with(|| reason.clone());
            }
        }
        self.ends.push(end);
    }
}

#[cfg(test)]
mod tests {
    use loam_node_api::WorkloadId;

    use super::*;

    fn task(name: &str, after: &[usize]) -> Task {
        let id: WorkloadId = format!("1.{name}").parse().unwrap();
        Task {
            step: Step::NetworkDelete(id),
            after: after.to_vec(),
        }
    }

    /// Goes through with what each step gives, and says which steps were tried.
    fn go(tasks: &[Task], ends: &[(&str, Progress)]) -> (Vec<String>, Outcome) {
        let mut course = Course::new(tasks);
        let mut tried = Vec::new();
        while let Some(step) = course.next_step() {
            let Resource::Network(id) = step.resource() else {
                panic!()
            };
            let end = ends.iter().find(|(name, _)| id.name.as_str() == *name);
            course.note(end.map_or(Progress::Done, |(_, end)| end.clone()));
            tried.push(id.name.to_string());
        }
        (tried, course.outcome())
    }

    fn resource(name: &str) -> Resource {
        task(name, &[]).step.resource()
    }

    #[test]
    fn a_question_that_is_answered_no_is_no_refused_step() {
        let id: WorkloadId = "1.a".parse().unwrap();
        let spec = crate::fixture::network();
        let tasks = [
            Task {
                step: Step::NetworkCheck(id.clone(), spec.clone()),
                after: vec![],
            },
            Task {
                step: Step::NetworkEnsure(id.clone(), spec),
                after: vec![0],
            },
        ];
        let mut course = Course::new(&tasks);
        course.next_step();
        course.note(Progress::Refused("overlaps".into()));
        assert_eq!(course.next_step(), None);
        let outcome = course.outcome();
        let network = Resource::Network(id);
        assert_eq!(outcome.failed, [(network, "overlaps".to_owned())].into());
        assert_eq!(outcome.refused, BTreeSet::new());
    }

    #[test]
    fn a_failure_stops_what_waits_for_it_and_no_more() {
        let tasks = [
            task("a", &[]),
            task("b", &[0]),
            task("c", &[]),
            task("d", &[1, 2]),
        ];
        let (tried, outcome) = go(&tasks, &[("a", Progress::Refused("no".into()))]);
        assert_eq!(tried, ["a", "c"]);
        assert_eq!(outcome.done, 1);
        assert_eq!(outcome.refused, [resource("a")].into());
        let why = |name| (resource(name), "no".to_owned());
        assert_eq!(outcome.failed, [why("a"), why("b"), why("d")].into());
        assert_eq!(outcome.waiting, BTreeMap::new());
    }

    #[test]
    fn to_check_is_to_do_nothing() {
        let network = loam_node_api::network::NetworkSpec {
            ipv4: "10.0.0.0/24".parse().unwrap(),
            ipv6: None,
            nat: false,
        };
        let id: WorkloadId = "1.a".parse().unwrap();
        let check = Task {
            step: Step::NetworkCheck(id.clone(), network.clone()),
            after: vec![],
        };
        let made = Task {
            step: Step::NetworkEnsure(id, network),
            after: vec![0],
        };
        assert_eq!(go(std::slice::from_ref(&check), &[]).1.done, 0);
        assert_eq!(go(&[check, made], &[]).1.done, 1);
    }

    #[test]
    fn what_is_under_way_is_waited_for_and_a_failure_is_told_first() {
        let tasks = [
            task("a", &[]),
            task("b", &[]),
            task("c", &[0]),
            task("d", &[0, 1]),
        ];
        let ends = [
            ("a", Progress::UnderWay("fetching".into())),
            ("b", Progress::Refused("no".into())),
        ];
        let (tried, outcome) = go(&tasks, &ends);
        assert_eq!(tried, ["a", "b"]);
        assert_eq!(outcome.done, 0);
        assert_eq!(
            outcome.waiting,
            ["a", "c"]
                .map(|name| (resource(name), "fetching".to_owned()))
                .into()
        );
        assert_eq!(
            outcome.failed,
            ["b", "d"]
                .map(|name| (resource(name), "no".to_owned()))
                .into()
        );
    }

    #[test]
    fn of_two_steps_on_one_thing_the_first_reason_stays() {
        let tasks = [task("a", &[]), task("a", &[]), task("b", &[1])];
        let mut course = Course::new(&tasks);
        course.next_step();
        course.note(Progress::Refused("first".into()));
        course.next_step();
        course.note(Progress::Refused("second".into()));
        assert_eq!(course.next_step(), None);
        // Nothing is left to note.
        course.note(Progress::Done);
        let outcome = course.outcome();
        assert_eq!(outcome.done, 0);
        assert_eq!(outcome.failed[&resource("a")], "first");
        assert_eq!(outcome.failed[&resource("b")], "second");
    }
}
