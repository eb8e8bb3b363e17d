//! The system calls that a program may make; any other answers that it does not exist.
//!
//! A list of what is allowed: a call that a later kernel brings is shut out until someone has thought
//! about it. `ENOSYS` rather than death, since libraries try new calls and fall back. Not on the
//! list, among others: mounts and namespaces, `ptrace` and reading of foreign memory, `bpf`,
//! `perf_event_open`, `io_uring`, keys, `userfaultfd`, modules, clocks, memory that no process
//! maps (`memfd_create`, System V objects, `vmsplice`), and every socket that is not a Unix one.

use std::collections::BTreeMap;

use libc as c;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

use super::{Fault, fault};
use crate::error::Wall;

/// Allowed whatever their arguments.
const FREE: &[c::c_long] = &[
    // Reading and writing.
    c::SYS_read, c::SYS_write, c::SYS_readv, c::SYS_writev, c::SYS_pread64, c::SYS_pwrite64,
    c::SYS_preadv, c::SYS_pwritev, c::SYS_preadv2, c::SYS_pwritev2, c::SYS_lseek, c::SYS_sendfile,
    c::SYS_splice, c::SYS_tee, c::SYS_copy_file_range, c::SYS_readahead, c::SYS_fadvise64,
    c::SYS_fsync, c::SYS_fdatasync, c::SYS_sync_file_range, c::SYS_flock, c::SYS_fallocate,
    c::SYS_truncate, c::SYS_ftruncate,
    // Files and folders.
    c::SYS_openat, c::SYS_openat2, c::SYS_close, c::SYS_close_range, c::SYS_fstat, c::SYS_newfstatat,
    c::SYS_statx, c::SYS_statfs, c::SYS_fstatfs, c::SYS_faccessat, c::SYS_faccessat2,
    c::SYS_getdents64, c::SYS_getcwd, c::SYS_chdir, c::SYS_fchdir, c::SYS_mkdirat, c::SYS_unlinkat,
    c::SYS_linkat, c::SYS_symlinkat, c::SYS_readlinkat, c::SYS_renameat2, c::SYS_mknodat,
    c::SYS_fchmod, c::SYS_fchmodat, c::SYS_fchown, c::SYS_fchownat, c::SYS_utimensat, c::SYS_umask,
    c::SYS_getxattr, c::SYS_lgetxattr, c::SYS_fgetxattr, c::SYS_listxattr, c::SYS_llistxattr,
    c::SYS_flistxattr, c::SYS_inotify_init1, c::SYS_inotify_add_watch, c::SYS_inotify_rm_watch,
    // Descriptors, pipes and waiting on them.
    c::SYS_dup, c::SYS_dup3, c::SYS_pipe2, c::SYS_ppoll, c::SYS_pselect6, c::SYS_epoll_create1,
    c::SYS_epoll_ctl, c::SYS_epoll_pwait, c::SYS_epoll_pwait2, c::SYS_eventfd2, c::SYS_signalfd4,
    c::SYS_timerfd_create, c::SYS_timerfd_settime, c::SYS_timerfd_gettime,
    // Unix sockets; `socket` itself is below.
    c::SYS_bind, c::SYS_listen, c::SYS_accept, c::SYS_accept4, c::SYS_connect, c::SYS_shutdown,
    c::SYS_sendto, c::SYS_recvfrom, c::SYS_sendmsg, c::SYS_recvmsg, c::SYS_sendmmsg,
    c::SYS_recvmmsg, c::SYS_getsockname, c::SYS_getpeername, c::SYS_getsockopt, c::SYS_setsockopt,
    // Memory.
    c::SYS_brk, c::SYS_mmap, c::SYS_munmap, c::SYS_mremap, c::SYS_mprotect, c::SYS_madvise,
    c::SYS_mincore, c::SYS_msync, c::SYS_mlock, c::SYS_munlock, c::SYS_membarrier,
    c::SYS_get_mempolicy,
    // Processes and threads; `clone` is below.
    c::SYS_execve, c::SYS_execveat, c::SYS_exit, c::SYS_exit_group, c::SYS_wait4, c::SYS_waitid,
    c::SYS_kill, c::SYS_tkill, c::SYS_tgkill, c::SYS_pidfd_open, c::SYS_pidfd_send_signal,
    c::SYS_set_tid_address, c::SYS_set_robust_list, c::SYS_rseq, c::SYS_futex, c::SYS_futex_waitv,
    c::SYS_sched_yield, c::SYS_sched_getaffinity, c::SYS_sched_setaffinity,
    c::SYS_sched_getscheduler, c::SYS_sched_getparam, c::SYS_sched_get_priority_max,
    c::SYS_sched_get_priority_min, c::SYS_sched_rr_get_interval, c::SYS_getpriority, c::SYS_getcpu,
    c::SYS_getpid, c::SYS_getppid, c::SYS_gettid, c::SYS_getpgid, c::SYS_setpgid, c::SYS_getsid,
    c::SYS_setsid, c::SYS_getrusage, c::SYS_times, c::SYS_getrlimit, c::SYS_setrlimit,
    // Signals and time.
    c::SYS_rt_sigaction, c::SYS_rt_sigprocmask, c::SYS_rt_sigreturn, c::SYS_rt_sigpending,
    c::SYS_rt_sigsuspend, c::SYS_rt_sigtimedwait, c::SYS_rt_sigqueueinfo, c::SYS_rt_tgsigqueueinfo,
    c::SYS_sigaltstack, c::SYS_restart_syscall, c::SYS_nanosleep, c::SYS_clock_nanosleep,
    c::SYS_clock_gettime, c::SYS_clock_getres, c::SYS_gettimeofday, c::SYS_getitimer,
    c::SYS_setitimer, c::SYS_timer_create, c::SYS_timer_settime, c::SYS_timer_gettime,
    c::SYS_timer_getoverrun, c::SYS_timer_delete,
    // Who and where one is. Setting can only set what is.
    c::SYS_getuid, c::SYS_geteuid, c::SYS_getgid, c::SYS_getegid, c::SYS_getresuid,
    c::SYS_getresgid, c::SYS_getgroups, c::SYS_setuid, c::SYS_setgid, c::SYS_setreuid,
    c::SYS_setregid, c::SYS_setresuid, c::SYS_setresgid, c::SYS_capget, c::SYS_uname,
    c::SYS_sysinfo, c::SYS_getrandom,
];

/// Older names of the same calls, which only x86-64 has.
#[cfg(target_arch = "x86_64")]
const OLDER: &[c::c_long] = &[
    c::SYS_open, c::SYS_creat, c::SYS_stat, c::SYS_lstat, c::SYS_access, c::SYS_getdents,
    c::SYS_mkdir, c::SYS_rmdir, c::SYS_unlink, c::SYS_link, c::SYS_symlink, c::SYS_readlink,
    c::SYS_rename, c::SYS_renameat, c::SYS_mknod, c::SYS_chmod, c::SYS_chown, c::SYS_lchown,
    c::SYS_utime, c::SYS_utimes, c::SYS_futimesat, c::SYS_dup2, c::SYS_pipe, c::SYS_poll,
    c::SYS_select, c::SYS_epoll_create, c::SYS_epoll_wait, c::SYS_eventfd, c::SYS_signalfd,
    c::SYS_inotify_init, c::SYS_fork, c::SYS_vfork, c::SYS_getpgrp, c::SYS_pause, c::SYS_alarm,
    c::SYS_time, c::SYS_arch_prctl,
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
const IOCTLS: &[u64] = &[
    c::TCGETS as u64, c::TIOCGWINSZ as u64, c::TIOCGPGRP as u64, c::FIONREAD as u64,
    c::FIONBIO as u64, c::FIOCLEX as u64, c::FIONCLEX as u64, c::FICLONE as u64,
];

/// What a process may say of itself.
const PRCTLS: &[c::c_int] = &[
    c::PR_SET_PDEATHSIG, c::PR_GET_PDEATHSIG, c::PR_SET_DUMPABLE, c::PR_GET_DUMPABLE,
    c::PR_SET_NAME, c::PR_GET_NAME, c::PR_CAPBSET_READ, c::PR_SET_TIMERSLACK,
    c::PR_GET_TIMERSLACK, c::PR_SET_NO_NEW_PRIVS, c::PR_GET_NO_NEW_PRIVS, c::PR_GET_SECCOMP,
    c::PR_SET_VMA,
];

/// Asks for what would be asked of `personality` without changing anything.
const PERSONALITY_QUERY: u64 = 0xffff_ffff;

/// Applies the list to this process and all that come of it.
pub fn close() -> Result<(), Fault> {
    let filter = list().map_err(fault(Wall::Calls, "cannot be built"))?;
    apply_filter(&filter).map_err(fault(Wall::Calls, "cannot be applied"))
}

fn list() -> Result<BpfProgram, seccompiler::BackendError> {
    use SeccompCmpOp::{Eq, MaskedEq, Ne};
    let rule = |place: u8, op: SeccompCmpOp, value: u64| {
        let condition = SeccompCondition::new(place, SeccompCmpArgLen::Dword, op, value)?;
        SeccompRule::new(vec![condition])
    };
    let one_of = |place: u8, values: &[u64]| {
        values.iter().map(|value| rule(place, Eq, *value)).collect::<Result<Vec<_>, _>>()
    };
    let free = FREE.iter().chain(OLDER).map(|call| (*call, vec![]));
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = free.collect();
    let prctls: Vec<u64> = PRCTLS.iter().map(|option| *option as u64).collect();
    rules.extend([
        // `clone3` hides its flags behind a pointer; without it, libraries take `clone`.
        (c::SYS_clone, vec![rule(0, MaskedEq(NAMESPACES), 0)?]),
        (c::SYS_socket, one_of(0, &[c::AF_UNIX as u64])?),
        (c::SYS_socketpair, one_of(0, &[c::AF_UNIX as u64])?),
        (c::SYS_ioctl, one_of(1, IOCTLS)?),
        (c::SYS_prctl, one_of(0, &prctls)?),
        (c::SYS_personality, one_of(0, &[0, PERSONALITY_QUERY])?),
        // Of itself alone: the keeper has the same user.
        (c::SYS_prlimit64, one_of(0, &[0])?),
        // Longer pipes are memory that no process holds.
        (c::SYS_fcntl, vec![rule(1, Ne, c::F_SETPIPE_SZ as u64)?]),
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
        assert!(list().is_ok());
        let mut calls: Vec<_> = FREE.iter().chain(OLDER).collect();
        calls.sort();
        assert!(calls.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
