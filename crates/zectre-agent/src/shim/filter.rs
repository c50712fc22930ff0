//! The system calls that a program can't make, whoever it is.
//!
//! Most of these need a capability that it hasn't anyway; they are refused here so that a fault in the kernel
//! behind one of them is out of reach too. Refusals are ordinary errors, so that programs that merely try fall
//! back to something else. Calls that are newer than this list don't exist for a task.

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};
use std::collections::BTreeMap;

/// The last call that was known when the lists were written (Linux 6.18). On x86-64 every call of the second table
/// (x32), which the lists would not catch, has a number far above.
const LAST_KNOWN: u32 = 470;

/// Refused last: what the launcher itself needs until the task's files are in place.
const REFUSED_LAST: &[i64] = &[libc::SYS_mount, libc::SYS_move_mount, libc::SYS_sethostname];

/// Refused whatever their arguments.
const REFUSED: &[i64] = &[
    // Mounts and roots.
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_open_tree,
    libc::SYS_mount_setattr,
    467, // open_tree_attr
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    443, // quotactl_fd
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    438, // pidfd_getfd
    448, // process_mrelease
    libc::SYS_setns,
    // The kernel itself.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_lookup_dcookie,
    libc::SYS_nfsservctl,
    libc::SYS_vhangup,
    // The machine's clock and names.
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_setdomainname,
    // Where memory lies.
    libc::SYS_mbind,
    libc::SYS_set_mempolicy,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    450, // set_mempolicy_home_node
];

/// The same, where only this processor has them.
#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[i64] = &[
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS_sysfs,
    libc::SYS__sysctl,
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[i64] = &[];

/// Each new namespace, as `clone` and `unshare` ask for it.
const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];
/// A new time namespace; only `unshare` takes it.
const NEW_TIME_NAMESPACE: libc::c_int = 0x80;
/// The kinds of sockets that a program may make.
const FAMILIES: [libc::c_int; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
/// Internet protocols: the default of the socket's type, TCP, UDP, and echo requests. Others (MPTCP, SCTP) would
/// listen on ports without landlock seeing it.
const PROTOCOLS: [libc::c_int; 5] = [
    0,
    libc::IPPROTO_TCP,
    libc::IPPROTO_UDP,
    libc::IPPROTO_ICMP,
    libc::IPPROTO_ICMPV6,
];
/// A socket's type without its flags.
const TYPE_MASK: u64 = 0xf;
/// Any number of the low half, as `personality` is asked what it is.
const PERSONALITY_ASKED: u64 = 0xffff_ffff;

/// Puts most of the filter in force, for good; long before the program begins, because the kernel looks at each of
/// hundreds of calls when it takes a filter of many rules.
pub(super) fn install_first() -> Result<(), String> {
    let mut rules = without_condition(REFUSED.iter().chain(REFUSED_HERE));
    rules.extend(by_argument().map_err(|error| error.to_string())?);
    // A C library that is told that there is no clone3 takes clone, whose flags can be looked at.
    let absent = without_condition(&[libc::SYS_clone3]);
    // The output is a file of the node, and this takes room on disk without writing. Many file systems can't do it, so
    // programs write instead.
    let unsupported = without_condition(&[libc::SYS_fallocate]);
    install(&compile(rules, libc::EPERM)?)?;
    install(&compile(absent, libc::ENOSYS)?)?;
    install(&compile(unsupported, libc::EOPNOTSUPP)?)?;
    install(&newer_calls())
}

/// The rest of it.
pub(super) struct Last(BpfProgram);

impl Last {
    pub(super) fn new() -> Result<Self, String> {
        compile(without_condition(REFUSED_LAST), libc::EPERM).map(Self)
    }

    /// Puts it in force, for good.
    pub(super) fn install(&self) -> Result<(), String> {
        install(&self.0)
    }
}

fn install(program: &BpfProgram) -> Result<(), String> {
    seccompiler::apply_filter(program).map_err(|error| format!("seccomp: {error}"))
}

fn without_condition<'a>(calls: impl IntoIterator<Item = &'a i64>) -> BTreeMap<i64, Vec<SeccompRule>> {
    let calls = calls.into_iter();
    calls.map(|call| (*call, Vec::new())).collect()
}

fn compile(rules: BTreeMap<i64, Vec<SeccompRule>>, errno: i32) -> Result<BpfProgram, String> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| error.to_string())?;
    let refuse = SeccompAction::Errno(errno.unsigned_abs());
    // Calls for another processor's table end the program: nothing that we run makes them.
    SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)
        .and_then(BpfProgram::try_from)
        .map_err(|error| error.to_string())
}

type Rules = Result<Vec<(i64, Vec<SeccompRule>)>, seccompiler::BackendError>;

fn by_argument() -> Rules {
    let rule = |conditions: Vec<SeccompCondition>| SeccompRule::new(conditions);
    let is = |argument, operator, value: u64| SeccompCondition::new(argument, Dword, operator, value);
    let is_none_of = |argument, values: &[libc::c_int]| {
        values
            .iter()
            .map(|value| is(argument, SeccompCmpOp::Ne, u64::from(value.unsigned_abs())))
            .collect::<Result<Vec<_>, _>>()
    };
    let has_bit = |bit: libc::c_int| {
        let bit = u64::from(bit.unsigned_abs());
        is(0, SeccompCmpOp::MaskedEq(bit), bit).and_then(|condition| rule(vec![condition]))
    };
    let namespaces = NAMESPACES
        .into_iter()
        .map(has_bit)
        .collect::<Result<Vec<_>, _>>()?;
    let mut unshare = namespaces.clone();
    unshare.push(has_bit(NEW_TIME_NAMESPACE)?);
    let mut socket = vec![rule(is_none_of(0, &FAMILIES)?)?];
    for family in [libc::AF_INET, libc::AF_INET6] {
        let internet = || is(0, SeccompCmpOp::Eq, u64::from(family.unsigned_abs()));
        let raw = is(
            1,
            SeccompCmpOp::MaskedEq(TYPE_MASK),
            u64::from(libc::SOCK_RAW.unsigned_abs()),
        )?;
        socket.push(rule(vec![internet()?, raw])?);
        let mut other_protocol = is_none_of(2, &PROTOCOLS)?;
        other_protocol.push(internet()?);
        socket.push(rule(other_protocol)?);
    }
    // Of what the kernel tells over netlink, only addresses and routes: C libraries ask for them.
    let netlink = is(0, SeccompCmpOp::Eq, u64::from(libc::AF_NETLINK.unsigned_abs()))?;
    socket.push(rule(vec![netlink, is(2, SeccompCmpOp::Ne, 0)?])?);
    let push_back = [libc::TIOCSTI, libc::TIOCLINUX]
        .map(|request| is(1, SeccompCmpOp::Eq, request).and_then(|condition| rule(vec![condition])));
    let personality = vec![
        is(0, SeccompCmpOp::Ne, 0)?,
        is(0, SeccompCmpOp::Ne, PERSONALITY_ASKED)?,
    ];
    Ok(vec![
        (libc::SYS_clone, namespaces),
        (libc::SYS_unshare, unshare),
        (libc::SYS_socket, socket),
        (libc::SYS_ioctl, push_back.into_iter().collect::<Result<_, _>>()?),
        (libc::SYS_personality, vec![rule(personality)?]),
    ])
}

/// "No such call" for every number above [`LAST_KNOWN`].
fn newer_calls() -> BpfProgram {
    let load_number = instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0);
    let is_newer = instruction(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K, 0, 1, LAST_KNOWN);
    let answer = |action| instruction(libc::BPF_RET | libc::BPF_K, 0, 0, action);
    vec![
        load_number,
        is_newer,
        answer(libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs()),
        answer(libc::SECCOMP_RET_ALLOW),
    ]
}

fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_compile_within_the_kernels_bound() {
        let mut rules = without_condition(REFUSED.iter().chain(REFUSED_HERE));
        rules.extend(by_argument().expect("valid rules"));
        let program = compile(rules, libc::EPERM).expect("they compile");
        // BPF_MAXINSNS.
        assert!((100..4_096).contains(&program.len()), "{}", program.len());
        assert!(Last::new().is_ok());
    }
}
