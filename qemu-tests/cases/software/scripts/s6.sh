#!/bin/sh
exec 2>&1
[ $(cat /proc/1/comm) = s6-svscan ] && echo right: s6 is process 1
s6-svstat /services/other && echo right: it supervises
exec s6-svscanctl -t /services
