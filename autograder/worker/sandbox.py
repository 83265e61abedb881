"""What a worker is confined by, on Linux, without root and without containers. Standard library only.

`confine` is called in the worker itself, after torch is imported and before any line of a student is: Landlock holds
for the calling thread and those it starts later, so there must be one thread only. What this kernel cannot do is left
out, and the level that is returned says so.
"""

import ctypes
import os
import platform
import struct
import sys
from pathlib import Path

# System call numbers: x86_64, aarch64. None: the call does not exist there.
CALLS = {
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
    "memfd_create": (319, 279), "setpriority": (141, 140), "ioprio_set": (251, 30), "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119), "sched_setparam": (142, 118), "sched_setattr": (314, 274),
    # Landlock rules do not cover these; a grader run by root would have files to lose.
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "lchown": (94, None), "fchown": (93, 55), "fchownat": (260, 54), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "utime": (132, None), "utimes": (235, None), "utimensat": (280, 88),
    "futimesat": (261, None),
}
TO_ITSELF = {"kill": (62, 129), "tgkill": (234, 131)}  # allowed when the first argument is the own process: abort()
CLONE, CLONE3, PRLIMIT, MMAP = (56, 220), (435, 435), (302, 261), (9, 222)
# call, position of the argument, values: a signal of one's choice to others by way of a pipe; the death signal undone
REFUSED_ARGUMENTS = [((72, 25), 1, (8, 10, 15)), ((16, 29), 1, (0x8901, 0x8902)), ((157, 167), 0, (1,))]
CLONE_THREAD = 0x00010000
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
READ = 1 << 2 | 1 << 3  # read a file, list a folder
EVERYTHING = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
FILE_ONLY = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15  # the rights that a rule for a plain file may have
MISSING_CALL, DENIED, ALLOW = 0x00050000 | 38, 0x00050000 | 1, 0x7FFF0000  # ENOSYS, EPERM
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP = 1, 4, 38, 24

libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def confine(readable: list[str], writable: list[str], limits: dict[str, int]) -> dict:
    """Give up everything a student's code has no need of. Returns what is in force: name -> True, or why it is not."""
    level = {"limits": _limits(limits)}
    if sys.platform != "linux":
        return {**level, "landlock": f"not on {sys.platform}", "seccomp": f"not on {sys.platform}"}
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads > 1:
        return {**level, "landlock": f"{threads} threads were running", "seccomp": f"{threads} threads were running"}
    libc.prctl(PR_SET_PDEATHSIG, 9, 0, 0, 0)  # a worker does not outlive its grader
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return {**level, "landlock": "no_new_privs was refused", "seccomp": "no_new_privs was refused"}
    level["capabilities"] = _drop_capabilities()
    level["landlock"] = _landlock(readable, writable)
    level["seccomp"] = _seccomp()
    return level


def _limits(limits: dict[str, int]) -> bool | str:
    """Resource limits by their name in the module `resource`, hard and soft."""
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
    """Root without its powers: it could raise its limits again, and would pass file permissions."""
    for capability in range(64):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    return True if libc.capset(header, data) == 0 else _reason()


def _landlock(readable: list[str], writable: list[str]) -> bool | str:
    """Reading below `readable` only, everything below `writable`, no other file at all."""
    abi = libc.syscall(LANDLOCK_CREATE, None, 0, 1)
    if abi < 1:
        return _reason()
    everything = EVERYTHING[min(abi, 5)]
    # Files; from version 4 no TCP; from 6 no signals and no abstract sockets to the outside.
    handled = (ctypes.c_uint64 * 3)(everything, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    size = 8 * (1 + (abi >= 4) + (abi >= 6))
    ruleset = libc.syscall(LANDLOCK_CREATE, ctypes.byref(handled), size, 0)
    if ruleset < 0:
        return _reason()
    for paths, rights in ((readable, READ), (writable, everything & ~1)):  # bit 0 is the right to execute
        for path in paths:
            _allow(ruleset, path, rights)
    done = libc.syscall(LANDLOCK_RESTRICT, ruleset, 0)
    os.close(ruleset)
    return True if done == 0 else _reason()


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # not on this machine: nothing to allow
    rights &= rights if Path(path).is_dir() else FILE_ONLY
    rule = struct.pack("=Qi", rights, handle)
    libc.syscall(LANDLOCK_ADD, ruleset, 1, rule, 0)
    os.close(handle)


def _seccomp() -> bool | str:
    """Refuse the calls of CALLS; new processes, signals to others and new limits by their arguments."""
    if platform.machine() not in ARCHITECTURES:
        return f"no table of system calls for {platform.machine()}"
    program = _program(*ARCHITECTURES[platform.machine()])
    filters = ctypes.create_string_buffer(b"".join(program))
    fprog = struct.pack("HxxxxxxQ", len(program), ctypes.addressof(filters))
    # seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, ...)
    number = 317 if platform.machine() == "x86_64" else 277
    return True if libc.syscall(number, 1, 1, fprog) == 0 else _reason()


def _program(column: int, architecture: int) -> list[bytes]:
    """The filter: each refused call jumps over one return."""
    load = lambda offset: _bpf(0x20, 0, 0, offset)  # noqa: E731
    give = lambda value: _bpf(0x06, 0, 0, value)  # noqa: E731
    equal = lambda value, yes, no: _bpf(0x15, yes, no, value)  # noqa: E731
    program = [load(4), equal(architecture, 1, 0), give(0x80000000), load(0)]  # another architecture: killed
    if column == 0:
        program += [_bpf(0x35, 0, 1, 0x40000000), give(DENIED)]  # the x32 calls
    for numbers in CALLS.values():
        if numbers[column] is not None:
            program += [equal(numbers[column], 0, 1), give(DENIED)]
    for numbers in TO_ITSELF.values():
        program += [equal(numbers[column], 0, 4), load(16), equal(os.getpid(), 1, 0), give(DENIED), give(ALLOW)]
    for numbers, position, values in REFUSED_ARGUMENTS:
        program += [equal(numbers[column], 0, 2 * len(values) + 2), load(16 + 8 * position)]
        program += [step for value in values for step in (equal(value, 0, 1), give(DENIED))] + [give(ALLOW)]
    # Shared memory without a file is on nobody's account.
    program += [equal(MMAP[column], 0, 5), load(40), _bpf(0x45, 0, 2, 0x01), _bpf(0x45, 0, 1, 0x20), give(DENIED),
                give(ALLOW)]
    program += [equal(CLONE3[column], 0, 1), give(MISSING_CALL)]  # its flags lie in memory; libc then takes clone
    program += [equal(CLONE[column], 0, 4), load(16), _bpf(0x45, 1, 0, CLONE_THREAD), give(DENIED), give(ALLOW)]
    # prlimit64 may read limits, not set them: its third argument, low and high half, has to be null.
    program += [equal(PRLIMIT[column], 0, 5), load(32), equal(0, 0, 2), load(36), equal(0, 1, 0), give(DENIED)]
    return [*program, give(ALLOW)]


def _bpf(code: int, yes: int, no: int, value: int) -> bytes:
    return struct.pack("HBBI", code, yes, no, value)


def _reason() -> str:
    return f"refused: {os.strerror(ctypes.get_errno())}"
