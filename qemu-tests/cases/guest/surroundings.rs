//! What ordinary programs expect to find.

use anyhow::ensure;
use xtask::oci::Entry;

use super::{all_hold, script, script_over};

#[test]
fn a_machine_is_what_programs_expect() -> anyhow::Result<()> {
    let checks = [
        ("process 1", "[ $$ = 1 ]"),
        ("no processes of the kernel", "! ps | grep -q [k]threadd"),
        (
            "its own name",
            "grep -q guest /etc/hosts && [ $(hostname) = guest ]",
        ),
        ("loopback is up", "grep -q lo: /proc/net/dev"),
        (
            "packets as large as the uplink's",
            "[ $(cat /sys/class/net/eth0/mtu) = 1400 ]",
        ),
        ("a terminal", "test -t 0 && test -t 1"),
        (
            "standard streams in /dev",
            "echo x > /dev/stdout && [ -e /dev/fd/0 ]",
        ),
        ("shared memory", "echo x > /dev/shm/x"),
        ("pseudo terminals", "[ -c /dev/ptmx ] && [ -d /dev/pts ]"),
        (
            "FUSE and TUN for everybody",
            "[ $(stat -c %a /dev/fuse) = 666 ] && [ $(stat -c %a /dev/net/tun) = 666 ]",
        ),
        ("loop devices", "[ -c /dev/loop-control ]"),
        (
            "cgroup v2, writable",
            "mkdir /sys/fs/cgroup/x && [ -e /sys/fs/cgroup/x/cgroup.procs ]",
        ),
        ("mounts in /etc/mtab", "grep -q \" / overlay\" /etc/mtab"),
        (
            "few open files at first, many if wanted",
            "[ $(ulimit -Sn):$(ulimit -Hn) = 1024:524288 ]",
        ),
        (
            "low ports for everybody",
            "[ $(cat /proc/sys/net/ipv4/ip_unprivileged_port_start) = 0 ]",
        ),
        (
            "many mappings",
            "[ $(cat /proc/sys/vm/max_map_count) = 1048576 ]",
        ),
        ("the time is UTC", "[ $(date +%Z) = UTC ] && [ -z \"$TZ\" ]"),
        ("the kernel's configuration", "[ -e /proc/config.gz ]"),
        (
            "what the kernel has built in",
            "grep -q br_netfilter /lib/modules/$(uname -r)/modules.builtin",
        ),
        ("a writable root", "touch /new && rm /new"),
        ("a home", "[ $HOME = / ] || [ $HOME = /root ]"),
    ];
    all_hold(&mut script("")?.network()?, &checks)?;
    Ok(())
}

#[test]
fn links_lead_inside_wherever_they_are() -> anyhow::Result<()> {
    let odd = vec![
        Entry::symlink("home", "/var/home"),
        Entry::symlink("work", "/srv/of/work"),
        Entry::symlink("data", "../../data2"),
        Entry::symlink("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf"),
    ];
    let mut options = script_over("", odd)?
        .volume("/data/in", Some("ext4"), 64 << 20)?
        .volume("/dev/disk/raw", None, 1 << 20)?;
    options.config.working_dir = "/work".into();
    options.config.volumes = vec!["/home/app".into()];
    options.config.dns = vec!["192.0.2.53".parse()?];
    options.config.ssh_keys = vec!["ssh-ed25519 AAAA someone".into()];
    let checks = [
        (
            "a working directory behind a dangling link",
            "[ $(readlink -f .) = /srv/of/work ]",
        ),
        ("a volume's folder behind one", "[ -d /var/home/app ]"),
        (
            "a disk where a link leads",
            "grep -q \" /data2/in ext4\" /proc/mounts",
        ),
        (
            "a raw disk as a device",
            "[ -b /dev/disk/raw ] && dd if=/dev/disk/raw of=/dev/null bs=512 count=1 2>/dev/null",
        ),
        (
            "name servers behind a dangling link",
            "grep -q 'nameserver 192.0.2.53' /etc/resolv.conf",
        ),
        (
            "keys for root alone",
            "[ $(stat -c %a:%u /root/.ssh/authorized_keys) = 600:0 ]",
        ),
    ];
    all_hold(&mut options, &checks)?;
    Ok(())
}

#[test]
fn what_is_written_at_each_start_goes_where_links_lead() -> anyhow::Result<()> {
    let odd = vec![
        Entry::symlink("etc", "usr/etc"),
        Entry::symlink("root", "/var/roothome"),
        Entry::symlink("dev", "/elsewhere"),
    ];
    let mut options = script_over("", odd)?;
    options.config.dns = vec!["192.0.2.53".parse()?];
    options.config.ssh_keys = vec!["ssh-ed25519 AAAA someone".into()];
    let checks = [
        (
            "names behind a dangling /etc",
            "[ -L /etc ] && [ $(cat /usr/etc/hostname) = guest ] && grep -q guest /usr/etc/hosts",
        ),
        (
            "name servers there",
            "grep -q 'nameserver 192.0.2.53' /etc/resolv.conf",
        ),
        (
            "keys behind a dangling /root",
            "[ -L /root ] && [ $(stat -c %a:%u /var/roothome/.ssh/authorized_keys) = 600:0 ]",
        ),
        (
            "the kernel's own /dev",
            "! [ -L /dev ] && [ -c /dev/null ] && [ -d /dev/pts ] && ! [ -e /elsewhere ]",
        ),
    ];
    all_hold(&mut options, &checks)?;
    Ok(())
}

/// `struct vfs_cap_data`, revision 2, of `include/uapi/linux/capability.h`: CAP_NET_RAW, permitted and effective.
const NET_RAW: [u8; 20] = [
    1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

#[test]
fn a_program_has_the_capability_that_its_file_has() -> anyhow::Result<()> {
    let able = Entry::file("able/cat", 0o755, super::program()?);
    let more = vec![
        Entry::folder("able"),
        able.with_attribute("security.capability", &NET_RAW),
    ];
    let mut options = script_over("", more)?;
    options.config.user = "1000:1000".into();
    let checks = [
        (
            "CAP_NET_RAW for who is not root",
            "/able/cat /proc/self/status | grep -q '^CapEff:.0000000000002000$'",
        ),
        (
            "none for what has no such file",
            "/bin/cat /proc/self/status | grep -q '^CapEff:.0000000000000000$'",
        ),
        ("nobody's root", "[ $(id -u):$(id -g) = 1000:1000 ]"),
        (
            "the own group among the supplementary ones",
            "grep -q '^Groups:.1000 *$' /proc/self/status",
        ),
    ];
    all_hold(&mut options, &checks)?;
    Ok(())
}

#[test]
fn what_an_image_wants_to_be_there_is_made_where_it_is_seen() -> anyhow::Result<()> {
    // The image's folders, of its own user.
    let owned = |path: &str, mode| Entry::owned_folder(path, 1000, mode);
    let image = vec![
        owned("data", 0o755),
        owned("data/db", 0o700),
        owned("data/work", 0o750),
        owned("data/in", 0o700),
    ];
    let mut options = script_over("", image)?
        .volume("/data", Some("ext4"), 64 << 20)?
        .volume("/data/in", Some("ext4"), 64 << 20)?;
    options.config.user = "1000:1000".into();
    options.config.working_dir = "/data/work".into();
    let impossible = ["/proc/none", "/sys/none", "/bin/busybox"];
    let wanted = ["/data/db", "/data/new", "/elsewhere"];
    let volumes = impossible.iter().chain(&wanted);
    options.config.volumes = volumes.map(|&path| path.to_owned()).collect();
    let checks = [
        (
            "as in the image below a volume of the deployment",
            "grep -q ' /data ext4' /proc/mounts && [ $(stat -c %a:%u /data/db) = 700:1000 ] && touch /data/db/x",
        ),
        (
            "root's there where the image has none",
            "[ $(stat -c %a:%u /data/new) = 755:0 ]",
        ),
        (
            "a working directory that a volume hides",
            "[ $(pwd) = /data/work ] && [ $(stat -c %a:%u .) = 750:1000 ]",
        ),
        (
            "a volume in a volume",
            "grep -q ' /data/in ext4' /proc/mounts && [ $(stat -c %a:%u /data/in) = 700:1000 ]",
        ),
        ("a folder elsewhere", "[ -d /elsewhere ]"),
    ];
    let said = all_hold(&mut options, &checks)?;
    for path in impossible {
        let told = format!("the image's volume {path} cannot be made and is passed over");
        ensure!(said.contains(&told), "{path}: {said}");
    }
    Ok(())
}

#[test]
fn keys_that_are_withdrawn_let_nobody_in_and_volumes_hide_nothing() -> anyhow::Result<()> {
    let mut options = script("")?.volume("/root", Some("ext4"), 64 << 20)?;
    options.config.ssh_keys = vec!["ssh-ed25519 AAAA someone".into()];
    let written = [(
        "keys over the volume",
        "grep -q someone /root/.ssh/authorized_keys",
    )];
    all_hold(&mut options, &written)?;
    // Another start with the same disks.
    options.config.ssh_keys.clear();
    let gone = [
        (
            "no keys any more",
            "! grep -q someone /root/.ssh/authorized_keys 2>/dev/null",
        ),
        (
            "no trace of the file system's making",
            "! [ -e /root/lost+found ]",
        ),
    ];
    all_hold(&mut options, &gone)?;
    Ok(())
}

#[test]
fn a_volume_over_etc_hides_nothing_that_is_written_there() -> anyhow::Result<()> {
    let mut options = script("")?.volume("/etc", Some("ext4"), 64 << 20)?;
    options.config.hostname = "over-etc".into();
    options.config.dns = vec!["192.0.2.53".parse()?];
    let written = [
        ("it is the volume", "grep -q ' /etc ext4' /proc/mounts"),
        (
            "its own name",
            "grep -q over-etc /etc/hosts && [ $(cat /etc/hostname) = over-etc ]",
        ),
        (
            "name servers",
            "grep -q 'nameserver 192.0.2.53' /etc/resolv.conf && touch /etc/kept",
        ),
    ];
    all_hold(&mut options, &written)?;
    // Another start, with other words over those that the volume kept.
    options.config.hostname = "renamed".into();
    let renewed = [
        ("what was kept", "[ -e /etc/kept ]"),
        (
            "its name of now",
            "grep -q renamed /etc/hosts && ! grep -q over-etc /etc/hosts",
        ),
    ];
    all_hold(&mut options, &renewed)?;
    Ok(())
}
