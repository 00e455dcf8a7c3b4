#!/bin/sh
state=$(systemctl is-system-running --wait)
systemctl --failed --no-legend
[ $state = running ] && echo right: the system runs
systemctl is-active cron >/dev/null && echo right: its services run
[ $(cat /proc/1/comm) = systemd ] && echo right: systemd is process 1
systemd-run --wait -q /bin/true && echo right: a unit in a cgroup
systemctl poweroff
