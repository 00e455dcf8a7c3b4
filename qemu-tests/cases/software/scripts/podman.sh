#!/bin/sh
cd /build && cp /bin/busybox .
podman build -q -t ours . >/tmp/log 2>&1 && echo right: a build || cat /tmp/log
podman run --rm ours /busybox echo from inside 2>/tmp/log | grep -q 'from inside' && echo right: a container || cat /tmp/log
podman run --rm --memory 64m --pids-limit 20 ours /busybox true && echo right: with limits
podman run --rm --network none ours /busybox true && echo right: without a network
