#!/bin/sh
start() { redis-server --dir /tmp --appendonly yes --appendfsync always --daemonize yes >/dev/null; until redis-cli ping 2>/dev/null | grep -q PONG; do sleep 1; done; }
start
redis-benchmark -q -n 500 -t set,get >/tmp/log && echo right: its own bench
redis-cli set kept 7 >/dev/null
pkill -9 redis-server; sleep 1
start
[ $(redis-cli get kept) = 7 ] && echo right: killed and recovered
redis-cli shutdown
