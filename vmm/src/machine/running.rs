//! A machine that runs: the main thread answers the control socket and waits for the end.

use loam_node_api::{
    guest::GuestRequest,
    vmm::{ControlRequest, ControlResponse, VmState},
    window::WindowSize,
};

use crate::{
    control::{Controlled, server::Server},
    events::{End, EventPipe, Notice, NoticeBoard, Notices},
    lifecycle::Lifecycle,
    lock::Lock,
    machine::{MachineError, assembly::Assembled, devices::Devices, system},
    seccomp,
    vcpu::Vcpus,
};

pub fn run(
    assembled: Assembled,
    notices: &Notices,
    board: &NoticeBoard,
    events: &mut EventPipe,
) -> Result<End, MachineError> {
    let Assembled {
        devices,
        vcpus,
        mut server,
        filters,
    } = assembled;
    let filter = filters.as_ref().map(|filters| &filters.vcpu);
    let vcpus = Vcpus::start(vcpus, &devices.buses, notices, filter)?;
    seccomp::apply(filters.as_ref().map(|filters| filters.main.as_ref()))?;

    let mut machine = Machine {
        devices,
        vcpus,
        paused: false,
        stopping: false,
    };
    until_end(&mut machine, &mut server, board, events)
}

/// What is controlled until it is halted for good.
trait Halted: Controlled {
    fn halt(&self);
}

fn until_end(
    machine: &mut impl Halted,
    server: &mut Server,
    board: &NoticeBoard,
    events: &mut EventPipe,
) -> Result<End, MachineError> {
    let end = loop {
        server
            .turn(machine)
            .map_err(system("cannot wait for events"))?;
        if let Some(end) = pass_on(board, events) {
            break end;
        }
    };
    // Told before halting: a request that a disk does not let go of holds up the halt, and with it
    // the process, but not the news.
    events.end(&end);
    machine.halt();
    Ok(end)
}

/// Tells the launcher what happened; returns the machine's end.
fn pass_on(board: &NoticeBoard, events: &mut EventPipe) -> Option<End> {
    while let Some(notice) = board.next() {
        match notice {
            Notice::Started => events.started(),
            Notice::Guest(event) => events.guest(event),
            Notice::End(end) => return Some(end),
        }
    }
    None
}

struct Machine {
    devices: Devices,
    vcpus: Vcpus,
    paused: bool,
    stopping: bool,
}

impl Machine {
    fn workers(&self) -> impl Iterator<Item = &dyn Lifecycle> {
        let functions = self.devices.buses.pci.functions().iter();
        functions.map(|function| function.worker() as &dyn Lifecycle)
    }

    fn state(&self) -> VmState {
        match (self.paused, self.stopping) {
            (true, _) => VmState::Paused,
            (false, true) => VmState::Stopping,
            (false, false) => VmState::Running,
        }
    }

    fn pause(&mut self) {
        if !self.paused {
            self.paused = true;
            self.vcpus.pause();
            self.workers().for_each(Lifecycle::pause);
        }
    }

    fn resume(&mut self) {
        if self.paused {
            self.paused = false;
            self.workers().for_each(Lifecycle::resume);
            self.vcpus.resume();
        }
    }

    /// Asks guest init, which while the guest boots hears of it once it listens. A guest without
    /// one has the button, which is also pressed when somebody asks again.
    fn stop(&mut self) {
        // A guest that stands still cannot shut down.
        self.resume();
        let heard = !self.stopping && self.order_agent_to_stop();
        if !heard {
            self.devices.power.press_button();
        }
        self.stopping = true;
    }

    fn order_agent_to_stop(&self) -> bool {
        line(&GuestRequest::Stop).is_some_and(|line| self.devices.ports.order_agent(&line))
    }

    fn resize_console(&self, size: WindowSize) {
        if let Some(line) = line(&GuestRequest::ConsoleSize { size }) {
            self.devices.ports.size_agent(line);
        }
    }

    /// To the console's driver; before there is one, to the serial port.
    fn type_in(&self, bytes: &[u8]) -> ControlResponse {
        let taken = if self.devices.ports.console_active() {
            if self.devices.ports.type_in(bytes) {
                bytes.len()
            } else {
                0
            }
        } else {
            self.devices.uart.locked().type_in(bytes)
        };
        if taken == bytes.len() {
            ControlResponse::Done
        } else {
            ControlResponse::Error {
                reason: format!(
                    "the guest does not read its console: it took {taken} of {} bytes",
                    bytes.len()
                ),
            }
        }
    }
}

/// None: never, as requests are plain.
fn line(request: &GuestRequest) -> Option<Vec<u8>> {
    let mut line = serde_json::to_vec(request).ok()?;
    line.push(b'\n');
    Some(line)
}

impl Halted for Machine {
    fn halt(&self) {
        self.vcpus.halt();
        self.workers().for_each(Lifecycle::halt);
    }
}

impl Controlled for Machine {
    fn handle(&mut self, request: ControlRequest) -> ControlResponse {
        match request {
            ControlRequest::State => {
                return ControlResponse::State {
                    state: self.state(),
                };
            }
            ControlRequest::Pause => self.pause(),
            ControlRequest::Resume => self.resume(),
            ControlRequest::Stop => self.stop(),
            ControlRequest::ConsoleInput { bytes } => return self.type_in(&bytes),
            ControlRequest::ConsoleSize { size } => self.resize_console(size),
        }
        ControlResponse::Done
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::RefCell,
        io::{self, PipeReader, Read},
        os::{
            fd::AsRawFd,
            linux::net::SocketAddrExt,
            unix::net::{SocketAddr, UnixListener},
        },
    };

    use loam_node_api::{guest::GuestEvent, vmm::VmmEvent};

    use super::*;
    use crate::events;

    /// Notes what the launcher had been told when it was halted.
    struct Recorder {
        launcher: PipeReader,
        told: RefCell<Vec<VmmEvent>>,
    }

    impl Controlled for Recorder {
        fn handle(&mut self, _request: ControlRequest) -> ControlResponse {
            ControlResponse::Done
        }
    }

    impl Halted for Recorder {
        fn halt(&self) {
            let mut told = [0; 4096];
            let count = (&self.launcher).read(&mut told).unwrap_or(0);
            let told = serde_json::Deserializer::from_slice(&told[..count]).into_iter();
            self.told.borrow_mut().extend(told.map(Result::unwrap));
        }
    }

    /// The halt may wait for a disk for ever.
    #[test]
    fn the_end_is_told_before_the_machine_is_halted() {
        let name = format!("loam-vmm-end-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        let (notices, board) = events::notices().unwrap();
        let mut server = Server::new(listener, board.wake().as_raw_fd()).unwrap();
        let (launcher, pipe) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&launcher, true).unwrap();
        let mut events = EventPipe::new(pipe.into());
        let mut machine = Recorder {
            launcher,
            told: RefCell::default(),
        };

        notices.send(Notice::Guest(GuestEvent::Exited { status: 3 }));
        notices.send(Notice::End(End::Reset));
        let end = until_end(&mut machine, &mut server, &board, &mut events).unwrap();
        assert_eq!(end, End::Reset);
        assert_eq!(
            machine.told.into_inner(),
            [VmmEvent::GuestExited { status: 3 }, VmmEvent::Reset]
        );
    }
}
