#!/bin/bash
script=$(find /usr/share -name check-config.sh | head -1)
bash $script > /tmp/docker 2>&1; status=$?
sed -n '/Generally Necessary/,/Optional/p' /tmp/docker | grep -q missing || echo right: nothing that docker needs is missing
grep missing /tmp/docker
lxc-checkconfig > /tmp/lxc 2>&1
grep -q 'required' /tmp/lxc || echo right: nothing that lxc needs is missing
grep -E 'missing|required' /tmp/lxc; true
