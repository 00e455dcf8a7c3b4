#!/bin/sh
set -e
start() { mariadbd --user=mysql & until mariadb-admin ping >/dev/null 2>&1; do sleep 1; done; }
mkdir -p /run/mysqld; chown mysql /run/mysqld
start 2>/tmp/log
mariadb-slap --auto-generate-sql --concurrency=4 --iterations=2 --number-of-queries=100 >/tmp/log
echo right: its own bench
mariadb -e 'create database d; create table d.kept as select 7 as n'
pkill -9 mariadbd; sleep 2
start 2>/tmp/log
[ $(mariadb -Ne 'select n from d.kept') = 7 ] && echo right: killed and recovered
mariadb-admin shutdown
