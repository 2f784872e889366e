"""The confinement that a program is tested in: a process that enters it can never leave again.

It holds what Linux gives to users without privileges: namespaces of its own (user, network, mounts,
process ids, IPC, host name), a root folder with nothing but Python's standard library and the
system's shared libraries, read-only, an empty /tmp in memory as the only place to write, limits,
no capabilities, and a seccomp filter. It cannot start a process, open a socket, see or signal
another process, or read a file of this machine's users. Standard library only: the process that
confines itself must not load anything of ours.
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import struct
import sysconfig
from collections.abc import Sequence

_NEW_NAMESPACES = 0x10000000 | 0x40000000 | 0x00020000 | 0x20000000 | 0x08000000 | 0x04000000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8
_MNT_DETACH = 2
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 1, 2, 4
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 1, 38, 22
_SECCOMP_MODE_FILTER = 2
_INNER_ID = 65534
_CLONE_THREAD = 0x00010000
_X32_BIT = 0x40000000

# capset(2), pivot_root(2), mount_setattr(2) and what the filter answers with EPERM, by machine.
# Both lists follow the kernel's tables; numbers from 424 on are the same everywhere.
_NEW_CALLS = (425, 426, 427, 428, 429, 430, 431, 432, 433, 434, 438, 442, 447)
_MACHINES: dict[str, tuple[int, int, int, int, tuple[int, ...]]] = {
    # audit architecture, clone, capset, pivot_root, refused: socket, socketpair, connect, bind,
    # fork, vfork, execve, execveat, unshare, setns, mount, umount2, pivot_root, chroot, ptrace,
    # process_vm_*, bpf, perf_event_open, userfaultfd, keyctl, add_key, request_key, memfd_create,
    # shmget, msgget, semget, mq_open, prctl, setsid, setpgid, open_by_handle_at, kexec_load
    "x86_64": (
        0xC000003E, 56, 126, 155,
        (41, 53, 42, 49, 57, 58, 59, 322, 272, 308, 165, 166, 155, 161, 101, 310, 311, 321, 298,
         323, 250, 248, 249, 319, 29, 68, 64, 240, 157, 112, 109, 304, 246),
    ),
    "aarch64": (
        0xC00000B7, 220, 91, 41,
        (198, 199, 203, 200, 221, 281, 97, 268, 40, 39, 41, 51, 117, 270, 271, 280, 241, 282, 219,
         217, 218, 279, 194, 186, 190, 180, 167, 157, 154, 265, 104),
    ),
}  # fmt: skip
_CLONE3, _MOUNT_SETATTR = 435, 442
_EPERM, _ENOSYS = 1, 38
_RET_ALLOW, _RET_ERRNO, _RET_KILL = 0x7FFF0000, 0x00050000, 0x80000000

_libc = ctypes.CDLL(None, use_errno=True)


class Unavailable(Exception):
    """The kernel refuses a part of the confinement; `str()` says which."""


def confine(root: str, limits: tuple[int, int, int], keep: Sequence[int]) -> None:
    """Put this process, and nothing else, into the confinement; only the confined one returns.

    `root` is an empty folder; `limits` are CPU seconds, bytes of memory and bytes on /tmp; `keep`
    are the open files that stay open besides 0, 1 and 2. The process that called waits, holds none
    of these files, and ends as the confined one ended (128 + the signal's number). Whoever kills
    the waiting one kills the confined one. Raises Unavailable.
    """
    cpu_s, memory_bytes, disk_bytes = limits
    machine = os.uname().machine
    if machine not in _MACHINES:
        raise Unavailable(f"no system-call filter is known for {machine} processors")
    parent = os.getppid()
    _enter_namespaces()
    _die_with(parent)
    alive, held = os.pipe()
    if child := os.fork():
        os.close(alive)
        for number in (0, *keep):
            os.close(number)
        _wait_as(child)
    os.close(held)
    # kill(0) reaches one's process group across namespaces; the waiting process is in another one.
    os.setpgid(0, 0)
    _enter_root(root, disk_bytes)
    _close_others({0, 1, 2, alive, *keep})
    for kind, most in (
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, disk_bytes),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (most, most))
    _drop_capabilities(machine)
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")
    if select.select([alive], [], [], 0)[0]:  # the waiting process is gone already
        os._exit(1)
    os.close(alive)
    _filter_system_calls(machine)


def _wait_as(child: int) -> None:
    """Wait for the confined process and end as it did."""
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def _enter_namespaces() -> None:
    user, group = os.getuid(), os.getgid()
    _check(_libc.unshare(_NEW_NAMESPACES), "unshare(2) of user and other namespaces")
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{_INNER_ID} {user} 1"),
        ("gid_map", f"{_INNER_ID} {group} 1"),
    ):
        try:
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
        except OSError as error:
            raise Unavailable(f"writing /proc/self/{name}: {error.strerror}") from error


def _die_with(parent: int) -> None:
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os._exit(1)


def _enter_root(root: str, disk_bytes: int) -> None:
    """Change to a root folder in memory that holds the libraries, read-only, and a /tmp."""
    _mount("none", "/", "", _MS_REC | _MS_PRIVATE, "")
    _mount("tmpfs", root, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=755")
    for path in _library_paths():
        target = root + path
        if os.path.isdir(path):
            os.makedirs(target, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target, "wb"):
                pass
        _mount(path, target, "", _MS_BIND | _MS_REC, "")
        _read_only(target, _AT_RECURSIVE)
    os.makedirs(f"{root}/tmp", exist_ok=True)
    options = f"size={disk_bytes},nr_inodes=1024,mode=700"
    _mount("tmpfs", f"{root}/tmp", "tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, options)
    os.chdir(root)
    pivot_root = _MACHINES[os.uname().machine][3]
    _check(_libc.syscall(pivot_root, b".", b"."), "pivot_root(2)")
    _check(_libc.umount2(b".", _MNT_DETACH), "umount2(2) of the old root")
    os.chdir("/")
    _read_only("/", 0)
    os.chdir("/tmp")


def _library_paths() -> list[str]:
    """Python's standard library and the system's shared libraries; no path lies in another."""
    wanted = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache"]
    wanted += [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")]
    wanted += [os.path.join(sysconfig.get_path("platstdlib"), "lib-dynload")]
    found: list[str] = []
    for path in sorted({path for path in wanted if os.path.exists(path)}, key=len):
        if not any(path.startswith(f"{outer}/") for outer in found):
            found.append(path)
    return found


def _mount(source: str, target: str, kind: str, flags: int, options: str) -> None:
    result = _libc.mount(
        source.encode(), target.encode(), kind.encode() or None, ctypes.c_ulong(flags),
        options.encode() or None,
    )  # fmt: skip
    _check(result, f"mount(2) of {source} on {target}")


def _read_only(path: str, flags: int) -> None:
    """Only adds attributes, so that a mount with stricter ones keeps them (mount_setattr(2))."""
    wanted = struct.pack("QQQQ", _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV, 0, 0, 0)
    result = _libc.syscall(
        _MOUNT_SETATTR, ctypes.c_int(_AT_FDCWD), path.encode(), ctypes.c_uint(flags), wanted,
        ctypes.c_size_t(len(wanted)),
    )  # fmt: skip
    _check(result, f"mount_setattr(2) of {path}")


def _close_others(keep: set[int]) -> None:
    start = 0
    for number in [*sorted(keep), resource.getrlimit(resource.RLIMIT_NOFILE)[0]]:
        if start < number:  # an empty range from 0 would close everything (CPython 3.11)
            os.closerange(start, number)
        start = number + 1


def _drop_capabilities(machine: str) -> None:
    capset = _MACHINES[machine][2]
    header = struct.pack("Ii", 0x20080522, 0)
    _check(_libc.syscall(capset, header, struct.pack("6I", 0, 0, 0, 0, 0, 0)), "capset(2)")


def _filter_system_calls(machine: str) -> None:
    """From here on: no processes, sockets, namespaces or mounts (seccomp(2), classic BPF)."""
    audit, clone, _, _, refused = _MACHINES[machine]
    refusal, absent = _RET_ERRNO | _EPERM, _RET_ERRNO | _ENOSYS
    load, equal, at_least, bits, give = 0x20, 0x15, 0x35, 0x45, 0x06
    program = [
        (load, 0, 0, 4),  # the architecture
        (equal, 1, 0, audit),
        (give, 0, 0, _RET_KILL),
        (load, 0, 0, 0),  # the number of the call
        (at_least, 0, 1, _X32_BIT),
        (give, 0, 0, refusal),
        (equal, 0, 1, _CLONE3),  # its flags are out of a filter's reach; libc falls back to clone
        (give, 0, 0, absent),
        (equal, 0, 4, clone),
        (load, 0, 0, 16),  # its flags: threads yes, processes no
        (bits, 1, 0, _CLONE_THREAD),
        (give, 0, 0, refusal),
        (give, 0, 0, _RET_ALLOW),
    ]
    for number in (*refused, *_NEW_CALLS):
        program += [(equal, 0, 1, number), (give, 0, 0, refusal)]
    program.append((give, 0, 0, _RET_ALLOW))
    code = b"".join(struct.pack("HBBI", *step) for step in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    head = struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(PR_SET_NO_NEW_PRIVS)")
    result = _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, head, 0, 0)
    _check(result, "a seccomp filter")


def _check(result: int, what: str) -> None:
    if result:
        raise Unavailable(f"{what}: {os.strerror(ctypes.get_errno())}")
