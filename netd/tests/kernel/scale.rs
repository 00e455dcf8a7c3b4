//! How long a node with many networks takes: printed, not judged.

use std::time::Instant;

use loam_deployment::payload::Protocol::Tcp;

use crate::{
    netd::{machine, subnet},
    world::World,
};

const NETWORKS: usize = 300;

#[test]
#[ignore = "a measurement: run it alone, with --ignored --nocapture"]
fn three_hundred_networks_come_back() {
    World::enter(|world| {
        let netd = world.netd();
        let client = netd.client(world);
        let start = Instant::now();
        for n in 1..=NETWORKS {
            let id = format!("{n}.net");
            client.network(world, &id, subnet(true)).unwrap();
            let spec = machine(&["10.20.0.2"], &[(Tcp, 10_000 + n as u16, 80)]);
            client
                .interface(world, &format!("{n}.web"), &id, spec)
                .unwrap();
        }
        let made = start.elapsed();
        let start = Instant::now();
        let (networks, interfaces) = (client.networks(world), client.interfaces(world));
        let listed = start.elapsed();
        assert_eq!((networks.len(), interfaces.len()), (NETWORKS, NETWORKS));
        netd.kill();

        let start = Instant::now();
        let netd = world.netd_without_lease();
        let client = netd.client(world);
        assert_eq!(client.networks(world), networks);
        assert_eq!(client.interfaces(world), interfaces);
        let back = start.elapsed();
        println!("{NETWORKS} networks: made in {made:?}, listed in {listed:?}, back in {back:?}");
    });
}
