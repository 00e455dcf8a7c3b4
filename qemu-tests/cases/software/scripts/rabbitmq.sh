#!/bin/sh
rabbitmq-server > /tmp/log 2>&1 &
until rabbitmqctl -q await_startup --timeout 300 2>/dev/null; do sleep 2; done
echo right: it starts
rabbitmq-diagnostics -q check_running && echo right: it says that it runs
