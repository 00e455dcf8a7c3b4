#!/bin/bash
# What docker and lxc themselves say of the kernel.
docker=$(find /usr/share -name check-config.sh | head -1)
bash "$docker" > /tmp/docker 2>&1
# Optional are kernel options that have been gone for years, and file systems of other systems.
sed -n '/Generally Necessary/,/Optional/p' /tmp/docker > /tmp/necessary
grep -q enabled /tmp/necessary && ! grep missing /tmp/necessary && echo right: nothing that docker needs is missing

lxc-checkconfig > /tmp/lxc 2>&1
grep -q enabled /tmp/lxc && ! grep required /tmp/lxc && echo right: nothing that lxc needs is missing

# Kubernetes' are in no package of Debian's: what k3s' `check-config` and kubeadm's preflight look for.
zcat /proc/config.gz > /tmp/config
for option in \
    NAMESPACES NET_NS PID_NS IPC_NS UTS_NS USER_NS SECCOMP KEYS POSIX_MQUEUE PROC_FS INET \
    CGROUPS CGROUP_PIDS CGROUP_CPUACCT CGROUP_DEVICE CGROUP_FREEZER CGROUP_SCHED CPUSETS MEMCG BLK_CGROUP \
    BLK_DEV_THROTTLING CGROUP_PERF CGROUP_HUGETLB NET_CLS_CGROUP CGROUP_NET_PRIO CFS_BANDWIDTH FAIR_GROUP_SCHED \
    VETH BRIDGE BRIDGE_NETFILTER VXLAN NF_NAT IP_NF_FILTER IP_NF_NAT IP_NF_TARGET_MASQUERADE \
    IP_NF_TARGET_REDIRECT IP_NF_TARGET_REJECT NETFILTER_XT_MATCH_ADDRTYPE NETFILTER_XT_MATCH_COMMENT \
    NETFILTER_XT_MATCH_CONNTRACK NETFILTER_XT_MATCH_IPVS NETFILTER_XT_MATCH_MULTIPORT \
    NETFILTER_XT_MATCH_STATISTIC IP_SET IP_VS IP_VS_NFCT IP_VS_PROTO_TCP IP_VS_PROTO_UDP IP_VS_RR \
    XFRM XFRM_USER XFRM_ALGO INET_ESP CRYPTO CRYPTO_AEAD CRYPTO_GCM CRYPTO_SEQIV CRYPTO_GHASH \
    EXT4_FS EXT4_FS_POSIX_ACL EXT4_FS_SECURITY OVERLAY_FS BLK_DEV_DM
do
    grep -q "^CONFIG_$option=y" /tmp/config || echo "missing $option"
done > /tmp/missing
for controller in cpu cpuset memory pids hugetlb; do
    grep -qw $controller /sys/fs/cgroup/cgroup.controllers || echo "missing cgroup $controller"
done >> /tmp/missing
[ "$(cat /proc/sys/kernel/keys/root_maxkeys)" -gt 10000 ] || echo too few keys >> /tmp/missing
! grep . /tmp/missing && echo right: nothing that Kubernetes needs is missing
