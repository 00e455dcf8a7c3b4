#!/bin/sh
mkdir -p /run/sshd /root/.ssh; chmod 700 /root/.ssh
ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519
cat /root/.ssh/id_ed25519.pub >> /root/.ssh/authorized_keys
/usr/sbin/sshd
answer=$(ssh -tt -o StrictHostKeyChecking=no root@$(hostname) tty 2>/dev/null)
case $answer in /dev/pts/*) echo right: a session with a terminal;; esac
echo '* * * * * root touch /tmp/cron-ran' > /etc/cron.d/check
cron
for i in $(seq 75); do [ -e /tmp/cron-ran ] && echo right: cron runs && break; sleep 1; done
pkill cron; pkill sshd
