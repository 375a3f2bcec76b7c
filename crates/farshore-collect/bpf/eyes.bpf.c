/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only OR BSD-2-Clause */
/*
 * What the kernel knows and /proc forgets: which process ended and how, whom the OOM killer took, where TCP sends again, how long
 * disks take. src/kernel/record.rs reads what is written here; both sides hold the layout in a test.
 *
 * Every kind of event has a budget per second. What is beyond it is counted and not sent: a storm costs a few atomic additions, and
 * whoever reads is told how many it missed. The totals count everything.
 *
 * Needs kernel 5.8 (BTF, typed tracepoints, ring buffer). Where a tracepoint's arguments have changed, there is a program for each form,
 * and the loader takes the one that fits.
 */
#include "kernel.h"

/* Tells the kernel which helpers may be used. See docs/decisions for how it stands beside Apache-2.0. */
char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define PIDTYPE_SID 3
#define SIGNAL_GROUP_EXIT 4
#define AF_INET 2
#define AF_INET6 10
#define TCP_SYN_SENT 2
#define MAX_PATH 64
#define SECOND 1000000000ULL

enum kind {
    PROCESS_EXIT = 0,
    OOM_KILL = 1,
    TCP_RETRANSMIT = 2,
    EXEC = 3,
    CONNECT = 4,
    KINDS = 5,
};

struct record {
    __u32 kind;
    __s32 pid;
    __s32 parent;
    __s32 session;
    __u64 cgroup;
    /* Nanoseconds of CLOCK_MONOTONIC. */
    __u64 at;
    /* As wait(2) tells it. */
    __s32 status;
    __u16 family;
    /* Host byte order. */
    __u16 port;
    __u8 address[16];
    char comm[16];
    char path[MAX_PATH];
};

struct destination {
    __u8 address[16];
    __u16 family;
    __u16 port;
    __u32 zero;
};

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 128 * 1024);
} events SEC(".maps");

/* For each kind: seen, and not sent. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 2 * KINDS);
    __type(key, __u32);
    __type(value, __u64);
} totals SEC(".maps");

/* For each kind: the second in which the budget counts, and what it has used of it. */
struct budget {
    __u64 second;
    __u64 used;
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, KINDS);
    __type(key, __u32);
    __type(value, struct budget);
} budgets SEC(".maps");

/* Segments sent again, by destination. */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 256);
    __type(key, struct destination);
    __type(value, __u64);
} destinations SEC(".maps");

/* Disk requests that completed, by the power of two of their microseconds; the last two are the sum of microseconds and the count. */
#define BUCKETS 30
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, BUCKETS + 2);
    __type(key, __u32);
    __type(value, __u64);
} latency SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 4096);
    __type(key, __u64);
    __type(value, __u64);
} requests SEC(".maps");

/* Two threads that end at once both find themselves the last: a process is told of once. */
struct process {
    __u64 start;
    __u64 tgid;
};

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 512);
    __type(key, struct process);
    __type(value, __u8);
} ended SEC(".maps");

static __always_inline void add(__u32 index)
{
    __u64 *total = bpf_map_lookup_elem(&totals, &index);
    if (total)
        __sync_fetch_and_add(total, 1);
}

/* Counts one event; whether it may be sent. */
static __always_inline int spend(__u32 kind, __u64 now, __u64 most)
{
    add(2 * kind);
    struct budget *budget = bpf_map_lookup_elem(&budgets, &kind);
    if (!budget)
        return 0;
    if (now - budget->second >= SECOND) {
        budget->second = now;
        budget->used = 0;
    }
    if (budget->used >= most) {
        add(2 * kind + 1);
        return 0;
    }
    __sync_fetch_and_add(&budget->used, 1);
    return 1;
}

static __always_inline struct record *begin(__u32 kind, __u64 most)
{
    __u64 now = bpf_ktime_get_ns();
    if (!spend(kind, now, most))
        return 0;
    struct record *record = bpf_ringbuf_reserve(&events, sizeof(*record), 0);
    if (!record) {
        add(2 * kind + 1);
        return 0;
    }
    __builtin_memset(record, 0, sizeof(*record));
    record->kind = kind;
    record->at = now;
    return record;
}

static __always_inline void describe(struct record *record, struct task_struct *task)
{
    record->pid = task->tgid;
    record->parent = task->real_parent->tgid;
    record->session = task->signal->pids[PIDTYPE_SID]->numbers[0].nr;
    record->cgroup = task->cgroups->dfl_cgrp->kn->id;
    bpf_probe_read_kernel(record->comm, sizeof(record->comm), task->comm);
}

SEC("tp_btf/sched_process_exit")
int process_exit(__u64 *ctx)
{
    struct task_struct *task = (struct task_struct *)ctx[0];
    struct signal_struct *signal = task->signal;
    if (signal->live.counter != 0)
        return 0;
    struct task_struct *leader = task->group_leader;
    struct process process = {.start = leader->start_time, .tgid = (__u64)task->tgid};
    __u8 one = 1;
    if (bpf_map_update_elem(&ended, &process, &one, BPF_NOEXIST))
        return 0;
    struct record *record = begin(PROCESS_EXIT, 4000);
    if (!record)
        return 0;
    describe(record, leader);
    record->status = signal->flags & SIGNAL_GROUP_EXIT ? signal->group_exit_code : task->exit_code;
    bpf_ringbuf_submit(record, 0);
    return 0;
}

/* Since 6.10 it is given the task, before that its number. */
SEC("tp_btf/mark_victim")
int oom_kill(__u64 *ctx)
{
    struct task_struct *task = (struct task_struct *)ctx[0];
    struct record *record = begin(OOM_KILL, 100);
    if (!record)
        return 0;
    describe(record, task);
    bpf_ringbuf_submit(record, 0);
    return 0;
}

SEC("tp_btf/mark_victim")
int oom_kill_by_number(__u64 *ctx)
{
    struct record *record = begin(OOM_KILL, 100);
    if (!record)
        return 0;
    record->pid = (__s32)ctx[0];
    bpf_ringbuf_submit(record, 0);
    return 0;
}

static __always_inline void peer(const struct sock *sk, __u8 *address, __u16 *family, __u16 *port)
{
    *family = sk->__sk_common.skc_family;
    *port = bpf_ntohs(sk->__sk_common.skc_dport);
    if (*family == AF_INET6)
        bpf_probe_read_kernel(address, 16, &sk->__sk_common.skc_v6_daddr);
    else
        bpf_probe_read_kernel(address, 4, &sk->__sk_common.skc_daddr);
}

SEC("tp_btf/tcp_retransmit_skb")
int tcp_retransmit(__u64 *ctx)
{
    const struct sock *sk = (const struct sock *)ctx[0];
    struct destination to = {};
    peer(sk, to.address, &to.family, &to.port);
    __u64 *count = bpf_map_lookup_elem(&destinations, &to);
    if (count) {
        __sync_fetch_and_add(count, 1);
    } else {
        __u64 one = 1;
        bpf_map_update_elem(&destinations, &to, &one, BPF_ANY);
    }
    struct record *record = begin(TCP_RETRANSMIT, 200);
    if (!record)
        return 0;
    record->family = to.family;
    record->port = to.port;
    __builtin_memcpy(record->address, to.address, 16);
    bpf_ringbuf_submit(record, 0);
    return 0;
}

static __always_inline int issued(__u64 request)
{
    __u64 now = bpf_ktime_get_ns();
    bpf_map_update_elem(&requests, &request, &now, BPF_ANY);
    return 0;
}

SEC("tp_btf/block_rq_issue")
int block_issue(__u64 *ctx)
{
    return issued(ctx[0]);
}

/* Before 5.11 the request came second, after its queue. */
SEC("tp_btf/block_rq_issue")
int block_issue_with_queue(__u64 *ctx)
{
    return issued(ctx[1]);
}

SEC("tp_btf/block_rq_complete")
int block_complete(__u64 *ctx)
{
    __u64 request = ctx[0];
    __u64 *issued = bpf_map_lookup_elem(&requests, &request);
    if (!issued)
        return 0;
    __u64 took = (bpf_ktime_get_ns() - *issued) / 1000;
    bpf_map_delete_elem(&requests, &request);
    __u32 bucket = 0;
    __u64 left = took;
#pragma unroll
    for (int i = 0; i < BUCKETS - 1; i++) {
        if (left > 1) {
            left >>= 1;
            bucket++;
        }
    }
    __u64 *slot = bpf_map_lookup_elem(&latency, &bucket);
    if (slot)
        __sync_fetch_and_add(slot, 1);
    bucket = BUCKETS;
    slot = bpf_map_lookup_elem(&latency, &bucket);
    if (slot)
        __sync_fetch_and_add(slot, took);
    bucket = BUCKETS + 1;
    slot = bpf_map_lookup_elem(&latency, &bucket);
    if (slot)
        __sync_fetch_and_add(slot, 1);
    return 0;
}

SEC("tp_btf/sched_process_exec")
int exec(__u64 *ctx)
{
    struct task_struct *task = (struct task_struct *)ctx[0];
    struct linux_binprm *program = (struct linux_binprm *)ctx[2];
    struct record *record = begin(EXEC, 200);
    if (!record)
        return 0;
    describe(record, task);
    bpf_probe_read_kernel_str(record->path, sizeof(record->path), program->filename);
    bpf_ringbuf_submit(record, 0);
    return 0;
}

/* A TCP connection is begun by the task that asks for it, so the current one is to be named. */
SEC("tp_btf/inet_sock_set_state")
int connect(__u64 *ctx)
{
    const struct sock *sk = (const struct sock *)ctx[0];
    if ((int)ctx[2] != TCP_SYN_SENT)
        return 0;
    struct record *record = begin(CONNECT, 200);
    if (!record)
        return 0;
    peer(sk, record->address, &record->family, &record->port);
    describe(record, bpf_get_current_task_btf());
    bpf_ringbuf_submit(record, 0);
    return 0;
}
