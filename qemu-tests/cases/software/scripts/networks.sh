#!/bin/sh
modprobe br_netfilter && modprobe wireguard && modprobe ip_vs && echo right: what is built in is known
modprobe no_such_module 2> /dev/null || echo right: what is not is not

# Two hosts: this one, and a network namespace.
ip netns add far
ip link add v0 type veth peer name v1 netns far
ip addr add 10.9.0.1/24 dev v0
ip link set v0 up
ip -n far addr add 10.9.0.2/24 dev v1
ip -n far link set v1 up

wg genkey > /tmp/near
wg genkey > /tmp/away
ip link add wg0 type wireguard
ip -n far link add wg0 type wireguard
wg set wg0 private-key /tmp/near listen-port 5001 \
    peer $(wg pubkey < /tmp/away) allowed-ips 10.8.0.2/32 endpoint 10.9.0.2:5002
ip netns exec far wg set wg0 private-key /tmp/away listen-port 5002 \
    peer $(wg pubkey < /tmp/near) allowed-ips 10.8.0.1/32 endpoint 10.9.0.1:5001
ip addr add 10.8.0.1/24 dev wg0
ip link set wg0 up
ip -n far addr add 10.8.0.2/24 dev wg0
ip -n far link set wg0 up
ping -q -c 1 -W 20 10.8.0.2 > /dev/null && echo right: WireGuard

reaches() { ping -q -c 1 -W 2 10.9.0.2 > /dev/null 2>&1; }
reaches || exit 1
nft add table inet t
nft 'add chain inet t c { type filter hook output priority 0; }'
nft add rule inet t c ip daddr 10.9.0.2 counter drop
reaches || { nft flush ruleset; reaches && echo right: nftables; }

iptables -A OUTPUT -d 10.9.0.2 -m comment --comment x -m conntrack --ctstate NEW -j REJECT
reaches || { iptables -F; reaches && echo right: iptables; }

ipvsadm -A -t 10.9.0.1:80 && ipvsadm -Ln | grep -q 10.9.0.1 && echo right: ipvs

ip link add br0 type bridge && ip link add vx0 type vxlan id 5 dstport 4789 dev v0 &&
    ip tuntap add tap0 mode tap && echo right: bridge, vxlan and tap
