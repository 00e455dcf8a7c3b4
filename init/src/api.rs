//! The calls that init answers, at [`loam_node_api::path::INIT_SOCKET`]: each becomes an event for
//! the main loop.

use std::path::PathBuf;

use loam_node_api::{
    WorkloadId,
    machine::{ConsoleChunk, Machine, MachineError, MachineSpec, Machines, Shutdown},
    page::{Changes, Page, Revision},
    status::NodeStatus,
    transport,
    vmm::ControlRequest,
    window::WindowSize,
};
use tarpc::context::Context;
use tokio::sync::{mpsc, oneshot};

use crate::{event::Event, machine::control};

/// The most that is typed into a console at once.
const MAX_INPUT: usize = 4 << 10;

type Reply<T> = oneshot::Sender<T>;

#[derive(Debug)]
pub enum Call {
    Start {
        spec: Box<MachineSpec>,
        reply: Reply<Result<(), MachineError>>,
    },
    Stop {
        id: WorkloadId,
        grace_seconds: u32,
        reply: Reply<()>,
    },
    Check {
        spec: Box<MachineSpec>,
        reply: Reply<Result<(), MachineError>>,
    },
    List {
        after: Option<WorkloadId>,
        reply: Reply<Page<Machine>>,
    },
    Forget {
        id: WorkloadId,
        reply: Reply<Result<(), MachineError>>,
    },
    ReadConsole {
        id: WorkloadId,
        from: u64,
        reply: Reply<Result<ConsoleChunk, MachineError>>,
    },
    /// Whether there is a VMM to speak to.
    Reachable {
        id: WorkloadId,
        reply: Reply<Result<(), MachineError>>,
    },
    SetStatus {
        status: Box<NodeStatus>,
        reply: Reply<()>,
    },
}

/// Serves until the node ends. `changes` is raised by the main loop.
pub async fn serve(
    socket: PathBuf,
    events: mpsc::Sender<Event>,
    changes: Changes,
) -> std::io::Result<()> {
    transport::serve(&socket, Server { events, changes }.serve()).await
}

#[derive(Clone, Debug)]
struct Server {
    events: mpsc::Sender<Event>,
    changes: Changes,
}

impl Server {
    /// None only while PID 1 is ending.
    async fn call<T>(&self, call: impl FnOnce(Reply<T>) -> Call) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.events.send(Event::Call(call(reply))).await.ok()?;
        answer.await.ok()
    }

    async fn checked<T>(
        &self,
        call: impl FnOnce(Reply<Result<T, MachineError>>) -> Call,
    ) -> Result<T, MachineError> {
        self.call(call)
            .await
            .unwrap_or(Err(MachineError::ShuttingDown))
    }
}

impl Server {
    async fn control(&self, id: &WorkloadId, request: &ControlRequest) -> Result<(), MachineError> {
        let answered = control::ask(id, request).await;
        answered.map(drop).map_err(|error| MachineError::Launch {
            id: id.clone(),
            what: format!("{error:#}"),
        })
    }

    async fn reachable(&self, id: &WorkloadId) -> Result<(), MachineError> {
        let id = id.clone();
        self.checked(|reply| Call::Reachable { id, reply }).await
    }
}

impl Machines for Server {
    async fn changes(self, _: Context, seen: Revision) -> Revision {
        self.changes.since(seen).await
    }

    async fn machine_check(self, _: Context, spec: MachineSpec) -> Result<(), MachineError> {
        self.checked(|reply| Call::Check {
            spec: Box::new(spec),
            reply,
        })
        .await
    }

    async fn machine_start(self, _: Context, spec: MachineSpec) -> Result<(), MachineError> {
        self.checked(|reply| Call::Start {
            spec: Box::new(spec),
            reply,
        })
        .await
    }

    async fn machine_stop(
        self,
        _: Context,
        id: WorkloadId,
        grace_seconds: u32,
    ) -> Result<(), MachineError> {
        let done = self
            .call(|reply| Call::Stop {
                id,
                grace_seconds,
                reply,
            })
            .await;
        done.ok_or(MachineError::ShuttingDown)
    }

    async fn machines(self, _: Context, after: Option<WorkloadId>) -> Page<Machine> {
        self.call(|reply| Call::List { after, reply })
            .await
            .unwrap_or_else(|| Page::of([]))
    }

    async fn machine_forget(self, _: Context, id: WorkloadId) -> Result<(), MachineError> {
        self.checked(|reply| Call::Forget { id, reply }).await
    }

    async fn console_read(
        self,
        _: Context,
        id: WorkloadId,
        from: u64,
    ) -> Result<ConsoleChunk, MachineError> {
        self.checked(|reply| Call::ReadConsole { id, from, reply })
            .await
    }

    async fn console_write(
        self,
        _: Context,
        id: WorkloadId,
        bytes: Vec<u8>,
    ) -> Result<(), MachineError> {
        self.reachable(&id).await?;
        for part in bytes.chunks(MAX_INPUT) {
            let request = ControlRequest::ConsoleInput {
                bytes: part.to_vec(),
            };
            self.control(&id, &request).await?;
        }
        Ok(())
    }

    async fn console_resize(
        self,
        _: Context,
        id: WorkloadId,
        size: WindowSize,
    ) -> Result<(), MachineError> {
        self.reachable(&id).await?;
        self.control(&id, &ControlRequest::ConsoleSize { size })
            .await
    }

    async fn set_status(self, _: Context, status: NodeStatus) {
        let status = Box::new(status);
        self.call(|reply| Call::SetStatus { status, reply }).await;
    }

    async fn shutdown(self, _: Context, how: Shutdown) {
        let _ = self.events.send(Event::Power(how)).await;
    }
}
