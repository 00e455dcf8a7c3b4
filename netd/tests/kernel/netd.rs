//! The daemon under test, as a process.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
};

use ipnet::Ipv4Net;
use loam_deployment::payload::{Protocol, Publish};
use loam_node_api::{
    WorkloadId,
    network::{
        Interface, InterfaceId, InterfaceSpec, Mac, NetworkError, NetworkServiceClient, NetworkSpec,
    },
    page::Revision,
    path::NETD_SOCKET,
    transport,
};
use tarpc::{client, context};

use crate::{host::LIMIT, world::World};

pub struct Netd {
    process: Child,
    log: Receiver<String>,
}

impl Netd {
    pub fn start(arguments: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_loam-netd"))
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let (sender, log) = channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                eprintln!("netd: {line}");
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { process, log }
    }

    /// Waits for a line that holds `text`.
    pub fn wait_for_log(&mut self, text: &str) -> String {
        loop {
            let line = self.log.recv_timeout(LIMIT);
            let line = line.unwrap_or_else(|e| panic!("netd did not say `{text}`: {e}"));
            if line.contains(text) {
                return line;
            }
        }
    }

    /// That no line of those not waited for holds `text`.
    pub fn did_not_say(&mut self, text: &str) {
        let line = self.log.try_iter().find(|line| line.contains(text));
        assert_eq!(line, None);
    }

    /// `SIGKILL`: it has no chance to put anything in order.
    pub fn kill(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub fn client(&self, world: &World) -> Client {
        let connected = world.wait(async {
            loop {
                // The socket appears shortly after the last line of its start.
                match transport::connect(NETD_SOCKET).await {
                    Ok(transport) => {
                        let client =
                            NetworkServiceClient::new(client::Config::default(), transport);
                        return client.spawn();
                    }
                    Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
                }
            }
        });
        Client(connected)
    }
}

impl Drop for Netd {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The calls, without what is the same in each.
#[derive(Clone)]
pub struct Client(pub NetworkServiceClient);

pub fn patient() -> context::Context {
    let mut context = context::current();
    context.deadline = std::time::Instant::now() + LIMIT;
    context
}

impl Client {
    pub fn uplink(&self, world: &World) -> loam_node_api::network::Uplink {
        world.wait(self.0.uplink(patient())).unwrap()
    }

    pub fn changes(&self, world: &World) -> Revision {
        let none = Revision::default();
        world.wait(self.0.changes(patient(), none)).unwrap()
    }

    /// Waits until `done`, looking at each change since `seen`.
    pub fn wait_for(&self, world: &World, mut seen: Revision, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            let now = world.wait(self.0.changes(patient(), seen)).unwrap();
            assert_ne!(now, seen, "nothing changes any more");
            seen = now;
        }
    }

    pub fn network(&self, world: &World, id: &str, spec: NetworkSpec) -> Result<(), NetworkError> {
        world
            .wait(self.0.network_ensure(patient(), workload(id), spec))
            .unwrap()
    }

    pub fn check_network(
        &self,
        world: &World,
        id: &str,
        spec: NetworkSpec,
    ) -> Result<(), NetworkError> {
        world
            .wait(self.0.network_check(patient(), workload(id), spec))
            .unwrap()
    }

    pub fn networks(&self, world: &World) -> Vec<loam_node_api::network::Network> {
        let page = world.wait(self.0.networks(patient(), None)).unwrap();
        assert!(!page.more);
        page.items
    }

    pub fn delete_network(&self, world: &World, id: &str) {
        world
            .wait(self.0.network_delete(patient(), workload(id)))
            .unwrap()
            .unwrap();
    }

    pub fn interface(
        &self,
        world: &World,
        machine: &str,
        network: &str,
        spec: InterfaceSpec,
    ) -> Result<Interface, NetworkError> {
        let id = interface_id(machine, network);
        world
            .wait(self.0.interface_ensure(patient(), id, spec))
            .unwrap()
    }

    pub fn interfaces(&self, world: &World) -> Vec<Interface> {
        let page = world.wait(self.0.interfaces(patient(), None)).unwrap();
        assert!(!page.more);
        page.items
    }

    pub fn delete_interface(&self, world: &World, machine: &str, network: &str) {
        let id = interface_id(machine, network);
        world
            .wait(self.0.interface_delete(patient(), id))
            .unwrap()
            .unwrap();
    }
}

pub fn workload(id: &str) -> WorkloadId {
    id.parse().unwrap()
}

pub fn interface_id(machine: &str, network: &str) -> InterfaceId {
    InterfaceId {
        machine: workload(machine),
        network: workload(network),
    }
}

/// `10.20.0.0/24`, like every tenant's first try.
pub fn subnet(nat: bool) -> NetworkSpec {
    let ipv4: Ipv4Net = "10.20.0.0/24".parse().unwrap();
    NetworkSpec {
        ipv4,
        ipv6: None,
        nat,
    }
}

/// A machine with these addresses and published ports `(protocol, node's, machine's)`.
pub fn machine(addresses: &[&str], publish: &[(Protocol, u16, u16)]) -> InterfaceSpec {
    let addresses: Vec<_> = addresses.iter().map(|a| a.parse().unwrap()).collect();
    let mac = match addresses.first() {
        Some(std::net::IpAddr::V4(v4)) => v4.octets(),
        _ => [0; 4],
    };
    let [a, b, c, d] = mac;
    let publish = publish
        .iter()
        .map(|&(protocol, node_port, machine_port)| Publish {
            protocol,
            node_port,
            machine_port,
        });
    InterfaceSpec {
        mac: Mac([2, 0, a, b, c, d]),
        addresses,
        publish: publish.collect(),
    }
}
