//! Work on threads of its own: however long the kernel takes, netd goes on answering.
//!
//! A netlink request is carried out by the thread that sends it, which may wait there for others'
//! requests, for a namespace, for a file. So nothing of it happens on the thread that serves.

use std::thread;

use anyhow::Context;
use tokio::{runtime, sync::oneshot};

/// Runs `work` on a thread of its own, which it may move into a namespace for good.
pub async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let (sender, outcome) = oneshot::channel();
    thread::Builder::new()
        .name("kernel".to_owned())
        // Nobody listens any more: netd ends.
        .spawn(move || drop(sender.send(work())))
        .context("a thread")?;
    outcome.await.context("the thread panicked")?
}

/// Runs `future` to its end on the calling thread, which is [apart](apart()).
pub fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("a runtime")?
        .block_on(future)
}
