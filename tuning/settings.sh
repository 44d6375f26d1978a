# shellcheck shell=bash
# What a host needs for N connections: the one list that check, apply and undo share.
#
# Sourced, not run. Each row calls: row LEVEL PATH NEED RULE WHY
#   LEVEL  must    too little makes connections fail: check exits 1
#          better  costs memory, time or comfort
#   PATH   sysctl name (net.core.somaxconn), or /absolute/path
#   NEED   the value
#   RULE   least    every number at least as large
#          most     every number at most as large
#          exact    the same
# Rows that no script can set are written with `note` instead.

# Tests point these at a tree of their own.
PROC=${MOOR_PROC_ROOT:-/proc}
SYS=${MOOR_SYS_ROOT:-/sys}

# Kernel memory of one idle socket with its armed poll and direct slot, and user memory of one session with
# the embedded router (3.80 + 0.26 + 0.04 KB measured on kernel 6.18; 512 bytes are the gateway's budget).
KERNEL_BYTES_PER_CONNECTION=4200
USER_BYTES_PER_CONNECTION=512
# Slots of a worker's descriptor table beyond its connections (gateway/src/limits.rs).
RESERVED_SLOTS=64
# Most slots of one table in any kernel so far.
TABLE_SLOTS_MAX=1048576

max() { if [ "$1" -gt "$2" ]; then echo "$1"; else echo "$2"; fi; }
min() { if [ "$1" -lt "$2" ]; then echo "$1"; else echo "$2"; fi; }

# File of a sysctl name or of an absolute path.
path_of() {
    case $1 in
        /sys/*) echo "$SYS${1#/sys}" ;;
        /*) echo "$1" ;;
        *) echo "$PROC/sys/$(echo "$1" | tr . /)" ;;
    esac
}

# Current value, with single spaces; of a list of words the one in brackets. Fails when there is none.
value_of() {
    local file
    file=$(path_of "$1")
    [ -r "$file" ] || return 1
    # Word splitting folds tabs and newlines.
    # shellcheck disable=SC2046
    set -- $(cat "$file" 2>/dev/null)
    local word
    for word in "$@"; do
        case $word in "["*"]") word=${word#"["}; echo "${word%"]"}"; return ;; esac
    done
    echo "$*"
}

# holds NOW NEED RULE
holds() {
    local now need rule=$3
    if [ "$rule" = exact ]; then [ "$1" = "$2" ]; return; fi
    read -r -a now <<<"$1"
    read -r -a need <<<"$2"
    local index
    for index in "${!need[@]}"; do
        # Values beyond 63 bits, such as file-max's default, are as large as can be.
        if [ "${#now[index]}" -gt 18 ]; then now[index]=999999999999999999; fi
        case $rule in
            least) [ "${now[index]:-0}" -ge "${need[index]}" ] || return 1 ;;
            most) [ "${now[index]:-0}" -le "${need[index]}" ] || return 1 ;;
        esac
    done
}

memory_kb() { awk -v name="$1:" '$1 == name { print $2 }' "$PROC/meminfo"; }

# every_row CONNECTIONS WORKERS: calls `row` and `note` for each setting.
every_row() {
    local connections=$1 workers=$2
    local per_worker slots total_kb pages backlog
    per_worker=$(((connections + workers - 1) / workers))
    slots=$((per_worker + RESERVED_SLOTS))
    total_kb=$(memory_kb MemTotal)
    pages=$((total_kb / 4))
    backlog=$(if [ "$connections" -ge 50000 ]; then echo 65535; else echo 4096; fi)

    note_kernel
    note_descriptors "$slots" "$workers" "$connections"
    note_memory "$connections"
    row must kernel.io_uring_disabled 0 exact "the gateway's workers run on io_uring"
    row must fs.nr_open "$(min "$(max "$slots" 1024)" $TABLE_SLOTS_MAX)" least \
        "upper bound of the limit of open descriptors, which bounds a worker's table"
    row must fs.file-max $((connections + connections / 10 + 65536)) least \
        "open files of the whole host; every connection is one, also in a direct table"
    row must net.core.somaxconn "$backlog" least \
        "bound of the accept queue; a reconnect storm that overflows it waits for retransmissions"
    row must net.ipv4.tcp_max_syn_backlog "$backlog" least \
        "handshakes under way; about 304 bytes each"
    row must net.ipv4.tcp_syncookies 1 exact \
        "past that backlog handshakes go on without memory instead of failing"
    # One page for each connection during a burst to all of them, within 25/35/50 % of memory.
    row must net.ipv4.tcp_mem "$(min $((connections * 3 / 4)) $((pages / 4))) $(min "$connections" $((pages * 35 / 100))) $(min $((connections * 3 / 2)) $((pages / 2)))" least \
        "pages for data in sockets; past it the kernel prunes queues and drops segments"
    row better net.ipv4.tcp_rmem "4096 16384 262144" most \
        "receive buffer of one socket: with 6 MB a few senders use up tcp_mem"
    row better net.ipv4.tcp_wmem "4096 16384 262144" most \
        "send buffer of one socket: what a slow reader can hold in the kernel"
    row better net.ipv4.tcp_notsent_lowat 65536 most \
        "keeps waiting data in the gateway's queue, where the cheapest can be dropped"
    row better net.ipv4.tcp_max_orphans "$(max $((connections / 8)) 16384)" least \
        "closed sockets that still send; past it they are reset and last frames are lost"
    row better net.ipv4.tcp_orphan_retries 3 exact \
        "gives up on a vanished peer's last data after seconds; 0 stands for 8"
    row better net.ipv4.tcp_max_tw_buckets "$(max $((connections / 4)) 16384)" least \
        "sockets in TIME_WAIT after a drain, when this side closes first"
    row better net.ipv4.tcp_fin_timeout 15 most "seconds in FIN_WAIT_2 for peers that vanish while closing"
    row better net.ipv4.tcp_tw_reuse 1 exact "outgoing connections (router links, load generator) reuse ports"
    row better net.ipv4.ip_local_port_range "10240 65535" exact \
        "ports for outgoing connections; starts above the ports of Moor (7100 to 7400)"
    row better net.ipv4.tcp_slow_start_after_idle 0 exact \
        "a connection idle for minutes still sends its first message at full window"
    row better net.ipv4.tcp_migrate_req 1 exact \
        "waiting handshakes move to another worker's listener when one closes (kernel 5.14)"
    row better /sys/kernel/mm/transparent_hugepage/enabled madvise exact \
        "with always, freed memory stays resident in pieces of 2 MiB"
    every_conntrack_row "$connections"
    note_hash "$connections"
}

every_conntrack_row() {
    local count
    if ! count=$(value_of net.netfilter.nf_conntrack_count); then return; fi
    # Built in but without a rule that uses it, it tracks nothing and costs nothing.
    local level=better
    if [ "$count" -gt 0 ]; then level=must; fi
    row $level net.netfilter.nf_conntrack_max $(($1 * 5 / 4 + 65536)) least \
        "tracks $count connections now; better: a NOTRACK rule for the clients' port (300 bytes each)"
}

note_kernel() {
    local release major minor verdict=ok
    release=$(cat "$PROC/sys/kernel/osrelease")
    major=${release%%.*}
    minor=${release#*.}
    minor=${minor%%[!0-9]*}
    if [ "$((major * 1000 + minor))" -lt 6001 ]; then verdict=short; fi
    note $verdict must "kernel" "$release" "6.1" "multishot receive, direct descriptors and DEFER_TASKRUN"
}

note_descriptors() {
    local slots=$1 workers=$2 connections=$3 hard verdict=ok
    hard=${MOOR_NOFILE:-$(ulimit -Hn)}
    if [ "$hard" = unlimited ]; then hard=$TABLE_SLOTS_MAX; fi
    local why="per worker ($connections connections on $workers workers)"
    if [ "$slots" -gt "$(min "$hard" $TABLE_SLOTS_MAX)" ]; then
        verdict=short
        local most=$(($(min "$hard" $TABLE_SLOTS_MAX) - RESERVED_SLOTS))
        why="$why: LimitNOFILE=1048576 in the unit, or --workers $(((connections + most - 1) / most))"
    fi
    note $verdict must "RLIMIT_NOFILE (hard)" "$hard" "$slots" "$why"
}

note_memory() {
    local available need verdict=ok
    available=$(memory_kb MemAvailable)
    need=$(($1 * (KERNEL_BYTES_PER_CONNECTION + USER_BYTES_PER_CONNECTION) / 1024))
    if [ "$need" -gt "$available" ]; then verdict=short; fi
    note $verdict must "memory available, kB" "$available" "$need" \
        "$KERNEL_BYTES_PER_CONNECTION bytes of kernel and $USER_BYTES_PER_CONNECTION of user memory per connection"
}

note_hash() {
    local now need verdict=ok
    now=$(value_of net.ipv4.tcp_ehash_entries) || return 0
    # Negative: shared with the first network namespace.
    now=${now#-}
    # Eight sockets a bucket took 10 % of the processor time of a busy host, one for every two buckets 3 % (6.18).
    need=$1
    if [ "$now" -lt "$need" ]; then verdict=short; fi
    note $verdict better "thash_entries (boot)" "$now" "$need" \
        "buckets of the connection table; at most 524288 unless the boot parameter says more, or tcp_child_ehash_entries for a new network namespace"
}
