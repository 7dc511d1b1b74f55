//! Looking at the tasks of a loop: what there is, who started it, and what it waits for.

use std::collections::HashMap;
use std::fmt;
use std::panic::Location;
use std::rc::Rc;

use crate::runtime::core::{self, Core};
use crate::runtime::here;
use crate::runtime::scope::NONE;
use crate::runtime::task::{Info, TaskId};

/// What a task is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TaskState {
    /// It is the one that asks.
    Running,
    /// It will run as soon as its turn comes.
    Ready,
    /// It waits for something.
    Waiting,
    /// It is over.
    Over,
}

/// What is known about a task, at the moment when somebody asked.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TaskInfo {
    /// Its number.
    pub id: TaskId,
    /// Its name.
    pub name: Rc<str>,
    /// The task that spawned it. That one may be over.
    pub parent: Option<TaskId>,
    /// Where it was spawned.
    pub spawned_at: &'static Location<'static>,
    /// What it is doing.
    pub state: TaskState,
    /// What it waits for in this crate. Empty for a task that waits for something foreign.
    pub waits_for: Vec<&'static str>,
    /// How many requests to cancel it are in force.
    pub cancel_requests: u32,
}

/// Sees each task that is spawned in a loop.
pub type TaskFactory = Rc<dyn Fn(&TaskInfo)>;

impl TaskInfo {
    pub(crate) fn of(core: &Core, slot: u32) -> Option<Self> {
        let state = match (here::task() == slot, core.is_queued(slot)) {
            (true, _) => TaskState::Running,
            (false, true) => TaskState::Ready,
            (false, false) => TaskState::Waiting,
        };
        core.with_info(slot, |info| Self::from_info(core, info, state))
    }

    pub(super) fn from_info(core: &Core, info: &Info, state: TaskState) -> Self {
        let root = info.root.get();
        let has_root = root != NONE && state != TaskState::Over;
        Self {
            id: info.id,
            name: info.name(),
            parent: info.parent,
            spawned_at: info.spawned_at,
            state,
            waits_for: if has_root { waits_of(core, info) } else { Vec::new() },
            cancel_requests: if has_root { core.cancel_requests(root) } else { 0 },
        }
    }
}

fn waits_of(core: &Core, info: &Info) -> Vec<&'static str> {
    let mut waits = core.waits_under(info.root.get());
    // A wait with the task's own waker is not in the scopes.
    let last = info.waits_for.get().map(|what| *what.0);
    waits.extend(last.filter(|last| !waits.contains(last)));
    waits
}

impl fmt::Display for TaskInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.name)?;
        match (self.state, self.waits_for.as_slice()) {
            (TaskState::Running, _) => write!(f, "runs")?,
            (TaskState::Ready, _) => write!(f, "is ready")?,
            (TaskState::Over, _) => write!(f, "is over")?,
            (TaskState::Waiting, []) => write!(f, "waits for something foreign")?,
            (TaskState::Waiting, waits) => write!(f, "waits for {}", waits.join(", "))?,
        }
        if self.cancel_requests > 0 {
            write!(f, ", cancelled")?;
        }
        write!(f, ", spawned at {}", self.spawned_at)
    }
}

/// The number of the task that runs now.
pub(crate) fn current_task_id() -> Option<TaskId> {
    core::try_current()?.with_info(here::task(), |info| info.id)
}

/// The task that runs now; `None` outside of one, as in a callback.
#[doc(alias = "get_current_task")]
pub fn current_task() -> Option<TaskInfo> {
    TaskInfo::of(&*core::try_current()?, here::task())
}

/// All tasks of this thread's loop that are not over, the main one included.
///
/// # Panics
/// If no event loop runs on this thread.
#[doc(alias = "get_running_tasks")]
#[track_caller]
pub fn all_tasks() -> Vec<TaskInfo> {
    let core = core::current();
    core.task_slots().into_iter().filter_map(|slot| TaskInfo::of(&core, slot)).collect()
}

/// All tasks of this thread's loop as a tree to be printed, each under the one that spawned it.
///
/// # Panics
/// If no event loop runs on this thread.
///
/// # Examples
/// ```
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let napping = proactor::spawn(proactor::sleep(std::time::Duration::from_secs(3600))).set_name("napping");
///     proactor::yield_now().await;
///     let tree = proactor::task_tree().to_string();
///     assert!(tree.contains("└ napping waits for time to pass"), "{tree}");
///     napping.cancel("enough");
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// ```
#[doc(alias = "print_stack")]
#[track_caller]
pub fn task_tree() -> TaskTree {
    TaskTree { tasks: all_tasks() }
}

/// What [`task_tree`] gives: print it.
#[derive(Debug, Clone)]
pub struct TaskTree {
    tasks: Vec<TaskInfo>,
}

impl fmt::Display for TaskTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let there: HashMap<TaskId, usize> =
            self.tasks.iter().enumerate().map(|(index, task)| (task.id, index)).collect();
        let mut children = vec![Vec::new(); self.tasks.len()];
        let mut roots = Vec::new();
        for (index, task) in self.tasks.iter().enumerate() {
            match task.parent.and_then(|parent| there.get(&parent)) {
                Some(&parent) => children[parent].push(index),
                None => roots.push(index),
            }
        }
        // Not by recursion: a chain of tasks may be as long as it likes.
        let mut stack: Vec<(usize, usize)> = roots.into_iter().rev().map(|root| (root, 0)).collect();
        while let Some((index, depth)) = stack.pop() {
            let branch = if depth > 0 { "└ " } else { "" };
            writeln!(f, "{:indent$}{branch}{}", "", self.tasks[index], indent = depth.saturating_sub(1) * 2)?;
            stack.extend(children[index].iter().rev().map(|&child| (child, depth + 1)));
        }
        Ok(())
    }
}
