#!/bin/sh
set -e
export PATH=$PATH:$(echo /usr/lib/postgresql/*/bin) PGHOST=/tmp
start() { pg_ctl -s -w -t 600 -D /tmp/data -o '-k /tmp' -l /tmp/log start; }
initdb -D /tmp/data > /tmp/log
start
createdb bench
pgbench -q -i bench 2> /tmp/log
echo right: it makes tables
pgbench -n -c 4 -t 8 bench | grep -q '32/32' && echo right: its own bench
psql -qc 'create table kept as select 7 as n' bench
kill -9 $(head -1 /tmp/data/postmaster.pid)
sleep 2
pkill -9 postgres || true
rm -f /tmp/data/postmaster.pid
start
[ $(psql -Atc 'select n from kept' bench) = 7 ] && echo right: killed and recovered
pg_ctl -s -w -D /tmp/data stop
