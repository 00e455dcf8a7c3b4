#!/bin/sh
cd /tmp && mkdir m lower upper work over

truncate -s 4G sparse
[ $(du -k sparse | cut -f1) -lt 100 ] && echo right: a sparse file of 4 GiB

for fs in ext4 btrfs xfs; do
    truncate -s 512M $fs
    mkfs.$fs -q $fs > /tmp/log 2>&1
    mount -o loop $fs m && echo x > m/x && umount m && echo right: $fs over a loop
done

fuse2fs -o fakeroot ext4 m 2> /tmp/log
grep -q x m/x && fusermount3 -u m && echo right: FUSE

fuse-overlayfs -o lowerdir=lower,upperdir=upper,workdir=work over
echo y > over/y
[ -e upper/y ] && umount over && echo right: an overlay by FUSE

# Its upper folder cannot be on the root, which is an overlay itself.
mkdir /dev/shm/upper /dev/shm/work
mount -t overlay overlay -o lowerdir=lower,upperdir=/dev/shm/upper,workdir=/dev/shm/work over
echo z > over/z
[ -e /dev/shm/upper/z ] && umount over && echo right: an overlay
