//! netd is killed in the middle of what it does, again and again; what comes after is as if it had
//! not been, and others never lose a packet.

use std::{
    net::UdpSocket,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use loam_deployment::payload::Protocol::{Tcp, Udp};

use crate::{
    host::receive,
    machine::Machine,
    netd::{Client, Netd, interface_id, machine, patient, subnet, workload},
    world::{NODE, World},
};

/// What netd does between one moment and the next, as others see it.
struct Moment {
    what: &'static str,
    /// How long netd goes on behind it, in turns of a loop.
    further: u32,
    came: fn(&Names) -> bool,
}

/// Of the network that is made and removed while netd is killed.
struct Names {
    hash: String,
    tap: String,
}

impl Names {
    fn is_there(&self, path: &str) -> bool {
        let path = path.replace("HASH", &self.hash).replace("TAP", &self.tap);
        Path::new(&path).exists()
    }
}

const MAKING: [Moment; 8] = [
    Moment {
        what: "asked",
        further: 0,
        came: |_| true,
    },
    Moment {
        what: "the network's record",
        further: 0,
        came: |n| n.is_there("/run/loam/netd/networks/lbHASH.json"),
    },
    Moment {
        what: "the namespace's file",
        further: 0,
        came: |n| n.is_there("/run/loam/netns/lnHASH"),
    },
    Moment {
        what: "the namespace's file, and somewhat later",
        further: 3000,
        came: |n| n.is_there("/run/loam/netns/lnHASH"),
    },
    Moment {
        what: "the link",
        further: 0,
        came: |n| n.is_there("/sys/class/net/lvHASH"),
    },
    Moment {
        what: "the interface's record",
        further: 0,
        came: |n| n.is_there("/run/loam/netd/interfaces/TAP.json"),
    },
    Moment {
        what: "the interface's record, and somewhat later",
        further: 2000,
        came: |n| n.is_there("/run/loam/netd/interfaces/TAP.json"),
    },
    Moment {
        what: "the interface's record, and later",
        further: 10_000,
        came: |n| n.is_there("/run/loam/netd/interfaces/TAP.json"),
    },
];

const REMOVING: [Moment; 4] = [
    Moment {
        what: "asked",
        further: 0,
        came: |_| true,
    },
    Moment {
        what: "the records are gone",
        further: 0,
        came: |n| !n.is_there("/run/loam/netd/networks/lbHASH.json"),
    },
    Moment {
        what: "the link is gone",
        further: 0,
        came: |n| !n.is_there("/sys/class/net/lvHASH"),
    },
    Moment {
        what: "the namespace is gone",
        further: 0,
        came: |n| !n.is_there("/run/loam/netns/lnHASH"),
    },
];

/// What both are asked for, as noded would after each start.
async fn make(client: &Client) -> Option<()> {
    let netd = &client.0;
    let made = netd.network_ensure(patient(), workload("2.net"), subnet(true));
    made.await.ok()?.unwrap();
    let spec = machine(&["10.20.0.2"], &[(Tcp, 8002, 80)]);
    let web = interface_id("2.web", "2.net");
    netd.interface_ensure(patient(), web, spec)
        .await
        .ok()?
        .unwrap();
    Some(())
}

async fn remove(client: &Client) -> Option<()> {
    let removed = client.0.network_delete(patient(), workload("2.net"));
    removed.await.ok()?.unwrap();
    Some(())
}

/// Kills netd at the moment, while `work` asks it. It may have been quicker.
fn kill_at<F: Future<Output = Option<()>>>(
    world: &World,
    netd: Netd,
    names: &Names,
    moment: &Moment,
    work: impl FnOnce(Client) -> F,
) {
    println!("killed at: {}", moment.what);
    let client = netd.client(world);
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let ended = &ended;
        scope.spawn(move || {
            while !(moment.came)(names) && !ended.load(Ordering::Relaxed) {
                thread::yield_now();
            }
            for _ in 0..moment.further {
                thread::yield_now();
            }
            netd.kill();
        });
        // Answered, or cut off.
        let _ = world.wait(work(client));
        ended.store(true, Ordering::Relaxed);
    });
}

#[test]
fn netd_killed_at_any_moment_is_not_noticed_afterwards() {
    World::enter(|world| {
        let netd = world.netd();
        let client = netd.client(world);
        client.network(world, "1.net", subnet(true)).unwrap();
        let spec = machine(&["10.20.0.2"], &[(Udp, 8001, 53)]);
        let neighbour = Machine::start(&client.interface(world, "1.web", "1.net", spec).unwrap());
        // Once, to know the names.
        world.wait(make(&client)).unwrap();
        let networks = client.networks(world);
        let interfaces = client.interfaces(world);
        let names = Names {
            hash: networks[1].bridge[2..].to_owned(),
            tap: interfaces[1].tap.clone(),
        };
        world.wait(remove(&client)).unwrap();

        let over = AtomicBool::new(false);
        let answering = neighbour.host.udp("0.0.0.0:53");
        let asking = world.outside.udp("192.0.2.1:0");
        thread::scope(|scope| {
            let talk = scope.spawn(|| talk(&asking, &answering, &over));
            let _over = Over(&over);
            let mut netd = netd;
            for moment in &MAKING {
                kill_at(world, netd, &names, moment, |client| async move {
                    make(&client).await
                });
                netd = world.netd_without_lease();
                let client = netd.client(world);
                // noded asks for what is not there.
                world.wait(make(&client)).unwrap();
                assert_eq!(client.networks(world), networks);
                assert_eq!(client.interfaces(world), interfaces);
                let inside = Machine::start(&client.interfaces(world)[1]);
                inside.host.greet("0.0.0.0:80", "inside");
                assert_eq!(world.outside.ask(&format!("{NODE}:8002")).0, "inside");
                drop(inside);
                world.wait(remove(&client)).unwrap();
                assert_nothing_is_left(world, &client, &names);
            }
            for moment in &REMOVING {
                let client = netd.client(world);
                world.wait(make(&client)).unwrap();
                kill_at(world, netd, &names, moment, |client| async move {
                    remove(&client).await
                });
                netd = world.netd_without_lease();
                let client = netd.client(world);
                world.wait(remove(&client)).unwrap();
                assert_nothing_is_left(world, &client, &names);
            }
            over.store(true, Ordering::Relaxed);
            let rounds = talk.join().unwrap();
            println!("{rounds} datagrams went and came back meanwhile");
            assert!(rounds > 0);
        });
    });
}

/// Ends the talk also when the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One datagram after another to the neighbour and back; the first that is lost fails.
fn talk(asking: &UdpSocket, answering: &UdpSocket, over: &AtomicBool) -> u32 {
    let mut rounds = 0;
    while !over.load(Ordering::Relaxed) {
        let text = format!("{rounds}");
        asking.send_to(text.as_bytes(), (NODE, 8001)).unwrap();
        let (heard, peer) = receive(answering);
        assert_eq!(heard, text);
        answering.send_to(heard.as_bytes(), peer).unwrap();
        assert_eq!(receive(asking).0, text);
        rounds += 1;
    }
    rounds
}

fn assert_nothing_is_left(world: &World, client: &Client, names: &Names) {
    assert_eq!(client.networks(world).len(), 1);
    assert_eq!(client.interfaces(world).len(), 1);
    for path in [
        "/run/loam/netd/networks/lbHASH.json",
        "/run/loam/netd/interfaces/TAP.json",
        "/run/loam/netns/lnHASH",
        "/sys/class/net/lvHASH",
    ] {
        assert!(!names.is_there(path), "{path} is left");
    }
    assert!(world.outside.is_not_answered(&format!("{NODE}:8002")));
}
