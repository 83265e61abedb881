"""The worker's sandbox on Linux, without root or containers: rlimits, Landlock, seccomp. Standard library only.

The worker calls `confine` after importing torch and before importing student code. Landlock applies to the calling
thread and its later threads, so there must be only one. What the kernel does not support is reported in the level.
"""

import ctypes
import os
import platform
import struct
import sys
from pathlib import Path

# System call numbers: (x86_64, aarch64). None: the call does not exist there.
REFUSED_SYSCALLS = {
    "execve": (59, 221), "execveat": (322, 281), "fork": (57, None), "vfork": (58, None),
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "sendto": (44, 206),
    "io_uring_setup": (425, 425), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "tkill": (200, 130), "setsid": (112, 157), "setpgid": (109, 154), "setrlimit": (160, 164), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "mount": (165, 40), "umount2": (166, 39),
    "move_mount": (429, 429), "open_tree": (428, 428), "unshare": (272, 97), "setns": (308, 268), "chroot": (161, 51),
    "pivot_root": (155, 41), "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
    "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225), "sethostname": (170, 161),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "shmget": (29, 194), "msgget": (68, 186),
    "semget": (64, 190), "mq_open": (240, 180), "open_by_handle_at": (304, 265), "personality": (135, 92),
    "memfd_create": (319, 279), "openat2": (437, 437), "fallocate": (285, 47), "umask": (95, 166),
    "mknod": (133, None), "mknodat": (259, 33), "setpriority": (141, 140), "ioprio_set": (251, 30),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119), "sched_setparam": (142, 118), "sched_setattr": (314, 274),
    # Landlock does not cover these; they matter if the grader runs as root.
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "lchown": (94, None), "fchown": (93, 55), "fchownat": (260, 54), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "utime": (132, None), "utimes": (235, None), "utimensat": (280, 88),
    "futimesat": (261, None),
}
# Allowed if the first argument is the own pid, for abort().
SELF_ONLY_SYSCALLS = {"kill": (62, 129), "tgkill": (234, 131)}
CLONE, CLONE3, PRLIMIT, MMAP = (56, 220), (435, 435), (302, 261), (9, 222)
# call, argument position, refused values: fcntl, ioctl: signals through a pipe; prctl: PR_SET_PDEATHSIG
REFUSED_ARGUMENTS = [((72, 25), 1, (8, 10, 15)), ((16, 29), 1, (0x8901, 0x8902)), ((157, 167), 0, (1,))]
OPEN, OPENAT, MKDIR, MKDIRAT = (2, None), (257, 56), (83, None), (258, 34)
O_TMPFILE = 0o20000000
CLONE_THREAD = 0x00010000
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
LANDLOCK_READ = 1 << 2 | 1 << 3  # read files, list folders
# Write and truncate files, make files and folders. Nothing can be deleted: an unlinked file takes space unseen.
LANDLOCK_WRITE = LANDLOCK_READ | 1 << 1 | 1 << 7 | 1 << 8 | 1 << 14
LANDLOCK_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
LANDLOCK_FILE_RIGHTS = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15  # the rights allowed in a rule for a file
RET_ENOSYS, RET_EPERM, RET_ALLOW = 0x00050000 | 38, 0x00050000 | 1, 0x7FFF0000  # ENOSYS, EPERM
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP = 1, 4, 38, 24

libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def confine(readable: list[str], writable: list[str], limits: dict[str, int]) -> dict:
    """Apply rlimits, drop capabilities, install Landlock and the seccomp filter in the calling process.

    `limits`: RLIMIT name -> value. Returns the isolation level: name -> True, or why it is not in force.
    """
    level = {"limits": _limits(limits)}
    if sys.platform != "linux":
        return {**level, "landlock": f"not on {sys.platform}", "seccomp": f"not on {sys.platform}"}
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads > 1:
        return {**level, "landlock": f"{threads} threads were running", "seccomp": f"{threads} threads were running"}
    libc.prctl(PR_SET_PDEATHSIG, 9, 0, 0, 0)  # kill the worker when the grader exits
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return {**level, "landlock": "no_new_privs was refused", "seccomp": "no_new_privs was refused"}
    level["capabilities"] = _drop_capabilities()
    level["landlock"] = _landlock(readable, writable)
    level["seccomp"] = _seccomp()
    return level


def _limits(limits: dict[str, int]) -> bool | str:
    """Set hard and soft resource limits."""
    try:
        import resource
    except ImportError:
        return f"not on {sys.platform}"
    refused = []
    for name, value in limits.items():
        try:
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
        except (ValueError, OSError):
            refused.append(name)
    return f"refused: {', '.join(refused)}" if refused else True


def _drop_capabilities() -> bool | str:
    """Drop all capabilities: root could raise its limits again and ignore file permissions."""
    for capability in range(64):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    return True if libc.capset(header, data) == 0 else _errno_reason()


def _landlock(readable: list[str], writable: list[str]) -> bool | str:
    """Allow reading below `readable`, LANDLOCK_WRITE below `writable`, and no other file."""
    abi = libc.syscall(LANDLOCK_CREATE, None, 0, 1)
    if abi < 1:
        return _errno_reason()
    all_rights = LANDLOCK_RIGHTS[min(abi, 5)]
    # File access; from ABI 4 no TCP; from 6 no signals or abstract sockets to other processes.
    handled = (ctypes.c_uint64 * 3)(all_rights, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    size = 8 * (1 + (abi >= 4) + (abi >= 6))
    ruleset = libc.syscall(LANDLOCK_CREATE, ctypes.byref(handled), size, 0)
    if ruleset < 0:
        return _errno_reason()
    for paths, rights in ((readable, LANDLOCK_READ), (writable, all_rights & LANDLOCK_WRITE)):
        for path in paths:
            _allow(ruleset, path, rights)
    done = libc.syscall(LANDLOCK_RESTRICT, ruleset, 0)
    os.close(ruleset)
    return True if done == 0 else _errno_reason()


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # does not exist on this machine
    rights &= rights if Path(path).is_dir() else LANDLOCK_FILE_RIGHTS
    rule = struct.pack("=Qi", rights, handle)
    libc.syscall(LANDLOCK_ADD, ruleset, 1, rule, 0)
    os.close(handle)


def _seccomp() -> bool | str:
    """Install the seccomp filter."""
    if platform.machine() not in ARCHITECTURES:
        return f"no table of system calls for {platform.machine()}"
    program = _bpf_program(*ARCHITECTURES[platform.machine()])
    filters = ctypes.create_string_buffer(b"".join(program))
    fprog = struct.pack("HxxxxxxQ", len(program), ctypes.addressof(filters))
    # seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, ...)
    number = 317 if platform.machine() == "x86_64" else 277
    return True if libc.syscall(number, 1, 1, fprog) == 0 else _errno_reason()


def _bpf_program(column: int, architecture: int) -> list[bytes]:
    """The BPF program: refused system calls, then calls that are refused depending on their arguments."""
    load = lambda offset: _bpf(0x20, 0, 0, offset)  # noqa: E731
    ret = lambda value: _bpf(0x06, 0, 0, value)  # noqa: E731
    equal = lambda value, jump_true, jump_false: _bpf(0x15, jump_true, jump_false, value)  # noqa: E731
    program = [load(4), equal(architecture, 1, 0), ret(0x80000000), load(0)]  # other architecture: kill
    if column == 0:
        program += [_bpf(0x35, 0, 1, 0x40000000), ret(RET_EPERM)]  # the x32 calls
    for numbers in REFUSED_SYSCALLS.values():
        if numbers[column] is not None:
            program += [equal(numbers[column], 0, 1), ret(RET_EPERM)]
    for numbers in SELF_ONLY_SYSCALLS.values():
        program += [equal(numbers[column], 0, 4), load(16), equal(os.getpid(), 1, 0), ret(RET_EPERM), ret(RET_ALLOW)]
    for numbers, position, values in REFUSED_ARGUMENTS:
        program += [equal(numbers[column], 0, 2 * len(values) + 2), load(16 + 8 * position)]
        program += [step for value in values for step in (equal(value, 0, 1), ret(RET_EPERM))] + [ret(RET_ALLOW)]
    # A file that never had a name (O_TMPFILE), and a folder that its owner cannot list, escape the count of the files.
    for number, position in ((OPEN[column], 1), (OPENAT[column], 2)):
        if number is not None:
            program += [equal(number, 0, 4), load(16 + 8 * position), _bpf(0x45, 0, 1, O_TMPFILE), ret(RET_EPERM),
                        ret(RET_ALLOW)]
    for number, position in ((MKDIR[column], 1), (MKDIRAT[column], 2)):
        if number is not None:
            program += [equal(number, 0, 5), load(16 + 8 * position), _bpf(0x54, 0, 0, 0o700), equal(0o700, 0, 1),
                        ret(RET_ALLOW), ret(RET_EPERM)]
    # Anonymous shared memory does not count towards RLIMIT_DATA.
    program += [equal(MMAP[column], 0, 5), load(40), _bpf(0x45, 0, 2, 0x01), _bpf(0x45, 0, 1, 0x20), ret(RET_EPERM),
                ret(RET_ALLOW)]
    program += [equal(CLONE3[column], 0, 1), ret(RET_ENOSYS)]  # its flags are in memory; libc falls back to clone
    program += [equal(CLONE[column], 0, 4), load(16), _bpf(0x45, 1, 0, CLONE_THREAD), ret(RET_EPERM), ret(RET_ALLOW)]
    # prlimit64 may read limits, not set them: its third argument must be null (low and high word).
    program += [equal(PRLIMIT[column], 0, 5), load(32), equal(0, 0, 2), load(36), equal(0, 1, 0), ret(RET_EPERM)]
    return [*program, ret(RET_ALLOW)]


def _bpf(code: int, jump_true: int, jump_false: int, value: int) -> bytes:
    return struct.pack("HBBI", code, jump_true, jump_false, value)


def _errno_reason() -> str:
    return f"refused: {os.strerror(ctypes.get_errno())}"
