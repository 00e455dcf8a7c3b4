#!/bin/bash
# What docker and lxc themselves say of the kernel.
docker=$(find /usr/share -name check-config.sh | head -1)
bash "$docker" > /tmp/docker 2>&1
# Optional are kernel options that have been gone for years, and file systems of other systems.
sed -n '/Generally Necessary/,/Optional/p' /tmp/docker > /tmp/necessary
grep -q enabled /tmp/necessary && ! grep missing /tmp/necessary && echo right: nothing that docker needs is missing

lxc-checkconfig > /tmp/lxc 2>&1
grep -q enabled /tmp/lxc && ! grep required /tmp/lxc && echo right: nothing that lxc needs is missing
