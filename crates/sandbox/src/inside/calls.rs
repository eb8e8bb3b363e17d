//! The system calls that a program may make; any other answers that it does not exist.
//!
//! A list of what is allowed: a call that a later kernel brings is shut out until someone has thought
//! about it. `ENOSYS` rather than death, since libraries try new calls and fall back. Not on the
//! list, among others: mounts and namespaces, `ptrace` and reading of foreign memory, `bpf`,
//! `perf_event_open`, `io_uring`, keys, `userfaultfd`, modules, clocks, memory that no process
//! maps (`memfd_create`, System V objects, `vmsplice`), every socket that is not a Unix one, and what
//! the machine's files would feel: leases, which stop those who open one, and watches, of which a user
//! has few. Locks stay, since programs take them in their own folder.

use std::collections::BTreeMap;

use libc as c;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

use super::{Fault, fault};
use crate::error::Wall;

/// The system's numbers of these names, many to a line.
macro_rules! calls {
    ($($name:ident)*) => { &[$(c::$name),*] };
}

/// Allowed whatever their arguments.
const FREE: &[c::c_long] = calls![
    // Reading and writing.
    SYS_read SYS_write SYS_readv SYS_writev SYS_pread64 SYS_pwrite64 SYS_preadv SYS_pwritev
    SYS_preadv2 SYS_pwritev2 SYS_lseek SYS_sendfile SYS_splice SYS_tee SYS_copy_file_range
    SYS_readahead SYS_fadvise64 SYS_fsync SYS_fdatasync SYS_sync_file_range SYS_flock SYS_fallocate
    SYS_truncate SYS_ftruncate
    // Files and folders.
    SYS_openat SYS_openat2 SYS_close SYS_close_range SYS_fstat SYS_newfstatat SYS_statx SYS_statfs
    SYS_fstatfs SYS_faccessat SYS_faccessat2 SYS_getdents64 SYS_getcwd SYS_chdir SYS_fchdir
    SYS_mkdirat SYS_unlinkat SYS_linkat SYS_symlinkat SYS_readlinkat SYS_renameat SYS_renameat2
    SYS_mknodat
    SYS_fchmod SYS_fchmodat SYS_fchown SYS_fchownat SYS_utimensat SYS_umask SYS_getxattr
    SYS_lgetxattr SYS_fgetxattr SYS_listxattr SYS_llistxattr SYS_flistxattr
    // Descriptors, pipes and waiting on them.
    SYS_dup SYS_dup3 SYS_pipe2 SYS_ppoll SYS_pselect6 SYS_epoll_create1 SYS_epoll_ctl
    SYS_epoll_pwait SYS_epoll_pwait2 SYS_eventfd2 SYS_signalfd4 SYS_timerfd_create
    SYS_timerfd_settime SYS_timerfd_gettime
    // Unix sockets; those that make or join them are below.
    SYS_bind SYS_listen SYS_accept SYS_accept4 SYS_shutdown SYS_sendto SYS_recvfrom
    SYS_sendmsg SYS_recvmsg SYS_sendmmsg SYS_recvmmsg SYS_getsockname SYS_getpeername
    SYS_getsockopt SYS_setsockopt
    // Memory.
    SYS_brk SYS_mmap SYS_munmap SYS_mremap SYS_mprotect SYS_madvise SYS_mincore SYS_msync SYS_mlock
    SYS_munlock SYS_membarrier SYS_get_mempolicy
    // Processes and threads; `clone` is below.
    SYS_execve SYS_execveat SYS_exit SYS_exit_group SYS_wait4 SYS_waitid SYS_kill SYS_tkill
    SYS_tgkill SYS_pidfd_open SYS_pidfd_send_signal SYS_set_tid_address SYS_set_robust_list
    SYS_rseq SYS_futex SYS_futex_waitv SYS_sched_yield SYS_sched_getaffinity
    SYS_sched_getscheduler SYS_sched_getparam SYS_sched_get_priority_max SYS_sched_get_priority_min
    SYS_sched_rr_get_interval SYS_getpriority SYS_getcpu SYS_getpid SYS_getppid SYS_gettid
    SYS_getpgid SYS_setpgid SYS_getsid SYS_setsid SYS_getrusage SYS_times SYS_getrlimit
    SYS_setrlimit
    // Signals and time.
    SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn SYS_rt_sigpending SYS_rt_sigsuspend
    SYS_rt_sigtimedwait SYS_rt_sigqueueinfo SYS_rt_tgsigqueueinfo SYS_sigaltstack
    SYS_restart_syscall SYS_nanosleep SYS_clock_nanosleep SYS_clock_gettime SYS_clock_getres
    SYS_gettimeofday SYS_getitimer SYS_setitimer SYS_timer_create SYS_timer_settime
    SYS_timer_gettime SYS_timer_getoverrun SYS_timer_delete
    // Who and where one is. Setting can only set what is.
    SYS_getuid SYS_geteuid SYS_getgid SYS_getegid SYS_getresuid SYS_getresgid SYS_getgroups
    SYS_setuid SYS_setgid SYS_setreuid SYS_setregid SYS_setresuid SYS_setresgid SYS_capget
    SYS_uname SYS_sysinfo SYS_getrandom
];

/// Older names of the same calls, which only x86-64 has.
#[cfg(target_arch = "x86_64")]
const OLDER: &[c::c_long] = calls![
    SYS_open SYS_creat SYS_stat SYS_lstat SYS_access SYS_getdents SYS_mkdir SYS_rmdir SYS_unlink
    SYS_link SYS_symlink SYS_readlink SYS_rename SYS_mknod SYS_chmod SYS_chown
    SYS_lchown SYS_utime SYS_utimes SYS_futimesat SYS_dup2 SYS_pipe SYS_poll SYS_select
    SYS_epoll_create SYS_epoll_wait SYS_eventfd SYS_signalfd SYS_fork SYS_vfork SYS_getpgrp
    SYS_pause SYS_alarm SYS_time SYS_arch_prctl
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[c::c_long] = &[];

/// Flags of `clone` that make namespaces.
const NAMESPACES: u64 = (c::CLONE_NEWUSER
    | c::CLONE_NEWNS
    | c::CLONE_NEWPID
    | c::CLONE_NEWNET
    | c::CLONE_NEWIPC
    | c::CLONE_NEWUTS
    | c::CLONE_NEWCGROUP) as u64;

/// Questions about a stream, and how it is read; no typing into a terminal (TIOCSTI, TIOCLINUX).
const IOCTLS: &[c::Ioctl] = calls![
    TCGETS TIOCGWINSZ TIOCGPGRP FIONREAD FIONBIO FIOCLEX FIONCLEX FICLONE
];

/// What is not asked of a descriptor: longer pipes are memory that no process holds; leases and notices
/// reach beyond the process.
const FCNTLS: [c::c_int; 3] = [c::F_SETPIPE_SZ, c::F_SETLEASE, c::F_NOTIFY];

/// What a process may say of itself.
const PRCTLS: &[c::c_int] = calls![
    PR_SET_PDEATHSIG PR_GET_PDEATHSIG PR_SET_DUMPABLE PR_GET_DUMPABLE PR_SET_NAME PR_GET_NAME
    PR_CAPBSET_READ PR_SET_TIMERSLACK PR_GET_TIMERSLACK PR_SET_NO_NEW_PRIVS PR_GET_NO_NEW_PRIVS
    PR_GET_SECCOMP PR_SET_VMA
];

/// The part of a socket's type that is no flag.
const SOCKET_KIND: u64 = 0xf;

/// Asks for what would be asked of `personality` without changing anything.
const PERSONALITY_QUERY: u64 = 0xffff_ffff;

/// What a program may do with Unix sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sockets {
    /// All of them: it sees none but those that it makes.
    Own,
    /// Pairs that can be joined to nothing else: folders of the machine may hold a server's socket,
    /// and neither a read-only mount nor Landlock keeps anyone from it.
    Pairs,
}

/// Builds the list.
pub fn list(sockets: Sockets) -> Result<BpfProgram, Fault> {
    build(sockets).map_err(fault(Wall::Calls, "cannot be built"))
}

/// Applies the list to this process and all that come of it.
pub fn close(list: &BpfProgram) -> Result<(), Fault> {
    apply_filter(list).map_err(fault(Wall::Calls, "cannot be applied"))
}

fn build(sockets: Sockets) -> Result<BpfProgram, seccompiler::BackendError> {
    use SeccompCmpOp::{Eq, MaskedEq, Ne};
    let condition = |place: u8, op: SeccompCmpOp, value: u64| {
        SeccompCondition::new(place, SeccompCmpArgLen::Dword, op, value)
    };
    let rule = |place, op, value| SeccompRule::new(vec![condition(place, op, value)?]);
    let one_of = |place: u8, values: &[u64]| {
        values.iter().map(|value| rule(place, Eq, *value)).collect::<Result<Vec<_>, _>>()
    };
    let none_of = |place: u8, values: &[u64]| {
        let others = values.iter().map(|value| condition(place, Ne, *value));
        Ok(vec![SeccompRule::new(others.collect::<Result<_, _>>()?)?])
    };
    let free = FREE.iter().chain(OLDER).map(|call| (*call, vec![]));
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = free.collect();
    #[allow(clippy::unnecessary_cast)] // with musl they are ints
    let ioctls: Vec<u64> = IOCTLS.iter().map(|question| *question as u64).collect();
    let prctls: Vec<u64> = PRCTLS.iter().map(|option| *option as u64).collect();
    match sockets {
        Sockets::Own => rules.extend([
            (c::SYS_socket, one_of(0, &[c::AF_UNIX as u64])?),
            (c::SYS_socketpair, one_of(0, &[c::AF_UNIX as u64])?),
            (c::SYS_connect, vec![]),
        ]),
        Sockets::Pairs => {
            // A datagram may name another receiver, whatever its socket is paired with.
            let pair = |kind: c::c_int| {
                let unix = condition(0, Eq, c::AF_UNIX as u64)?;
                SeccompRule::new(vec![unix, condition(1, MaskedEq(SOCKET_KIND), kind as u64)?])
            };
            let pairs = vec![pair(c::SOCK_STREAM)?, pair(c::SOCK_SEQPACKET)?];
            rules.insert(c::SYS_socketpair, pairs);
        }
    }
    rules.extend([
        // `clone3` hides its flags behind a pointer; without it, libraries take `clone`.
        (c::SYS_clone, vec![rule(0, MaskedEq(NAMESPACES), 0)?]),
        (c::SYS_ioctl, one_of(1, &ioctls)?),
        (c::SYS_prctl, one_of(0, &prctls)?),
        (c::SYS_personality, one_of(0, &[0, PERSONALITY_QUERY])?),
        // Of itself alone: the keeper has the same user.
        (c::SYS_prlimit64, one_of(0, &[0])?),
        (c::SYS_sched_setaffinity, one_of(0, &[0])?),
        (c::SYS_fcntl, none_of(1, &FCNTLS.map(|option| option as u64))?),
    ]);
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let missing = SeccompAction::Errno(c::ENOSYS as u32);
    SeccompFilter::new(rules, missing, SeccompAction::Allow, arch)?.try_into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_compiles_and_names_no_call_twice() {
        assert!(build(Sockets::Own).is_ok() && build(Sockets::Pairs).is_ok());
        let mut calls: Vec<_> = FREE.iter().chain(OLDER).collect();
        calls.sort();
        assert!(calls.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
