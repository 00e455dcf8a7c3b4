#!/bin/sh
cd /tmp && mkdir m l u w o
truncate -s 4G sparse && [ $(du -k sparse | cut -f1) -lt 100 ] && echo right: a sparse file of 4 GiB
for fs in ext4 btrfs xfs; do truncate -s 512M $fs; mkfs.$fs -q $fs && mount -o loop $fs m && echo x > m/x && umount m && echo right: $fs over a loop; done
fuse2fs -o fakeroot ext4 m 2>/tmp/log && grep -q x m/x && fusermount3 -u m && echo right: FUSE
fuse-overlayfs -o lowerdir=l,upperdir=u,workdir=w o && echo y > o/y && [ -e u/y ] && umount o && echo right: an overlay by FUSE
mkdir /dev/shm/u /dev/shm/w
mount -t overlay overlay -o lowerdir=l,upperdir=/dev/shm/u,workdir=/dev/shm/w o && echo right: an overlay
