//! DHCP servers as they are: two on one link, lists, routes, odd fields, refusals, conflicts.

use std::{
    net::{Ipv4Addr, TcpStream},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use dhcproto::v4::MessageType;
use loam_deployment::payload::Protocol::Tcp;

use crate::{
    dhcp_server::{DNS, Mood, OTHER, SERVER, addresses},
    frame,
    machine::Machine,
    netd::{machine, subnet},
    world::{NODE, World},
};

/// What option 121 holds for the world by [`SERVER`] and `198.51.100.0/24` by [`OTHER`].
fn classless() -> (u8, Vec<u8>) {
    let world = [&[0][..], &SERVER.octets()];
    let beside = [&[24, 198, 51, 100][..], &OTHER.octets()];
    (121, [world.concat(), beside.concat()].concat())
}

fn routes(world: &World) -> String {
    world.node.ip("-4 route show dev up0 proto dhcp")
}

fn mtu(world: &World) -> String {
    let line = world.node.ip("-o link show up0");
    let mtu = line.split(" mtu ").nth(1).unwrap();
    mtu.split(' ').next().unwrap().to_owned()
}

#[test]
fn of_several_routers_the_first_is_the_default_route() {
    World::enter(|world| {
        world.dhcp.set_option(addresses(3, &[SERVER, OTHER]));
        let netd = world.netd();
        assert_eq!(netd.client(world).uplink(world).gateway, Some(SERVER));
        assert!(routes(world).starts_with("default via 192.0.2.1 "));
        assert_eq!(routes(world).lines().count(), 1);
    });
}

#[test]
fn a_refusal_by_another_server_is_not_heard() {
    World::enter(|world| {
        world.dhcp.set(|offer| offer.mood = Mood::IsContradicted);
        let _netd = world.netd();
        let said = world.dhcp.forget();
        assert_eq!(said, [MessageType::Discover, MessageType::Request]);
    });
}

#[test]
fn a_server_that_refuses_everything_hears_no_more_than_a_message_a_second() {
    World::enter(|world| {
        world.dhcp.set(|offer| offer.mood = Mood::Refuses);
        let began = Instant::now();
        let _netd = world.netd_without_lease();
        let mut said = 0;
        while said < 6 {
            said += world.dhcp.forget().len();
            std::thread::sleep(Duration::from_millis(100));
        }
        // A machine that is slower only gives the client more time.
        let seconds = began.elapsed().as_secs();
        assert!(said as u64 <= seconds + 1, "{said} messages in {seconds} s");
    });
}

#[test]
fn routes_of_a_lease_come_and_go_with_it() {
    World::enter(|world| {
        // Renewed after five seconds.
        world.dhcp.set(|offer| offer.seconds = 10);
        world.dhcp.leave_out(3);
        world.dhcp.set_option(classless());
        let mut netd = world.netd();
        let client = netd.client(world);
        assert_eq!(client.uplink(world).gateway, Some(SERVER));
        let both = routes(world);
        assert!(both.contains("default via 192.0.2.1 "), "{both}");
        assert!(both.contains("198.51.100.0/24 via 192.0.2.2 "), "{both}");
        // The router does not count beside routes (RFC 3442), nor does what the lease has no more.
        world.dhcp.set_option(addresses(3, &[OTHER]));
        let on_link = [24, 198, 51, 100, 0, 0, 0, 0];
        world.dhcp.set_option((121, on_link.to_vec()));
        netd.wait_for_log("leased");
        let one = routes(world);
        assert!(one.starts_with("198.51.100.0/24 scope link "), "{one}");
        assert_eq!(one.lines().count(), 1, "{one}");
        assert_eq!(client.uplink(world).gateway, None);
        world.dhcp.set(|offer| offer.mood = Mood::Refuses);
        netd.wait_for_log("lease lost");
        assert_eq!(routes(world), "");
    });
}

#[test]
fn routes_win_over_a_router() {
    World::enter(|world| {
        world
            .dhcp
            .set_option(addresses(3, &["192.0.2.7".parse().unwrap()]));
        world.dhcp.set_option(classless());
        let _netd = world.netd();
        assert!(routes(world).contains("default via 192.0.2.1 "));
        assert!(!routes(world).contains("192.0.2.7"));
    });
}

#[test]
fn a_router_outside_the_subnet_is_one_on_the_link() {
    World::enter(|world| {
        world
            .dhcp
            .set_option(addresses(3, &["198.51.100.1".parse().unwrap()]));
        let _netd = world.netd();
        assert!(routes(world).contains("default via 198.51.100.1 "));
        assert!(routes(world).contains(" onlink"));
    });
}

#[test]
fn the_link_carries_what_the_server_says_as_long_as_it_says_so() {
    World::enter(|world| {
        world.dhcp.set(|offer| offer.seconds = 10);
        world.dhcp.set_option((26, 1400u16.to_be_bytes().to_vec()));
        let mut netd = world.netd();
        assert_eq!(mtu(world), "1400");
        // What IPv6 does not live with is not taken, and said.
        world.dhcp.set_option((26, 600u16.to_be_bytes().to_vec()));
        netd.wait_for_log("an MTU of 600");
        netd.wait_for_log("leased");
        assert_eq!(mtu(world), "1280");
        world.dhcp.leave_out(26);
        netd.wait_for_log("leased");
        assert_eq!(mtu(world), "1500");
    });
}

#[test]
fn options_in_the_file_field_count() {
    World::enter(|world| {
        world.dhcp.set(|offer| {
            let dns = addresses(6, &[DNS]).1;
            offer.options.retain(|(code, _)| *code == 1);
            offer.options.push((52, vec![1]));
            offer.file = [&[3, 4][..], &SERVER.octets(), &[6, 4], &dns, &[255]].concat();
        });
        let netd = world.netd();
        let uplink = netd.client(world).uplink(world);
        assert_eq!(uplink.gateway, Some(SERVER));
        assert_eq!(uplink.dns, [std::net::IpAddr::V4(DNS)]);
    });
}

#[test]
fn an_offer_without_a_mask_is_taken_with_that_of_its_class() {
    World::enter(|world| {
        world.dhcp.leave_out(1);
        let mut netd = world.netd_without_lease();
        netd.wait_for_log("no subnet mask");
        netd.wait_for_log("leased");
        let expected = format!("{NODE}/24").parse().unwrap();
        assert_eq!(netd.client(world).uplink(world).addresses, [expected]);
    });
}

#[test]
fn an_address_in_use_is_declined_and_another_taken() {
    World::enter(|world| {
        world.outside.ip(&format!("addr add {NODE}/24 dev out0"));
        let mut netd = world.netd_without_lease();
        world.dhcp.wait_for(MessageType::Decline);
        let free = Ipv4Addr::new(192, 0, 2, 11);
        world.dhcp.set(|offer| offer.address = free);
        let leased = netd.wait_for_log("leased");
        assert!(leased.contains("192.0.2.11"), "{leased}");
    });
}

#[test]
fn an_address_that_another_takes_later_is_kept_and_defended() {
    World::enter(|world| {
        let mut netd = world.netd();
        // It has it without having asked; the kernel says nothing of that by itself.
        world.outside.ip(&format!("addr add {NODE}/24 dev out0"));
        let frame = frame::arp_reply(world.outside.mac("out0"), NODE.parse().unwrap());
        world.outside.send_frame("out0", &frame);
        netd.wait_for_log("uses our address");
        let expected = format!("{NODE}/24").parse().unwrap();
        assert_eq!(netd.client(world).uplink(world).addresses, [expected]);
    });
}

#[test]
fn an_adopted_address_gives_way_to_another_without_a_gap() {
    World::enter(|world| {
        world.netd().kill();
        let other = Ipv4Addr::new(192, 0, 2, 77);
        world.dhcp.set(|offer| offer.address = other);
        let mut netd = world.netd_without_lease();
        let leased = netd.wait_for_log("leased");
        assert!(leased.contains("192.0.2.77"), "{leased}");
        let addresses = world.node.ip("-4 -o addr show up0");
        assert!(addresses.contains("192.0.2.77/24"), "{addresses}");
        assert!(!addresses.contains(NODE), "{addresses}");
        assert!(routes(world).contains("default via 192.0.2.1 "));
    });
}

#[test]
fn a_record_of_an_older_netd_is_asked_for_anew() {
    World::enter(|world| {
        world.netd().kill();
        let record = r#"{"link":"up0","lease":{"address":"192.0.2.10/24","router":"192.0.2.1","dns":[],"seconds":3600}}"#;
        std::fs::write("/run/loam/netd/lease.json", record).unwrap();
        let mut netd = world.netd_without_lease();
        netd.wait_for_log("leased");
        assert_eq!(netd.client(world).uplink(world).gateway, Some(SERVER));
    });
}

/// The largest segment that the other end was told of, less the options in each.
fn segment_size(stream: &TcpStream) -> i32 {
    let (mut size, mut length) = (0i32, size_of::<i32>() as libc::socklen_t);
    // SAFETY: `size` and `length` are writable for the time of the call.
    let result = unsafe {
        let to = std::ptr::from_mut(&mut size).cast();
        let (level, option) = (libc::IPPROTO_TCP, libc::TCP_MAXSEG);
        libc::getsockopt(stream.as_raw_fd(), level, option, to, &mut length)
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    size
}

#[test]
fn segments_of_a_machine_s_connections_fit_the_uplink() {
    World::enter(|world| {
        world.dhcp.set_option((26, 1400u16.to_be_bytes().to_vec()));
        let netd = world.netd();
        let client = netd.client(world);
        client.network(world, "1.net", subnet(true)).unwrap();
        let spec = machine(&["10.20.0.2"], &[(Tcp, 8001, 80)]);
        let inside = Machine::start(&client.interface(world, "1.web", "1.net", spec).unwrap());
        // An uplink that carries 1400 bytes has 40 for headers. The link beyond has 1500.
        let listener = world.outside.tcp_listener("192.0.2.1:7000");
        let outward = inside.host.connect("192.0.2.1:7000").unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert!(
            segment_size(&accepted) <= 1360,
            "{}",
            segment_size(&accepted)
        );
        drop(outward);
        let listener = inside.host.tcp_listener("0.0.0.0:80");
        let inward = world.outside.connect(&format!("{NODE}:8001")).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert!(segment_size(&inward) <= 1360, "{}", segment_size(&inward));
        assert!(
            segment_size(&accepted) <= 1360,
            "{}",
            segment_size(&accepted)
        );
    });
}
