"""The inner side of `confined`: shut the doors, run the program, see to it that nothing of it is left. Standard library alone.

    whoever asks ──▶ keeper ──▶ program
                     unshares, counts the seconds, buries what is left; the program is its child

Run by its path, with `-I -S -B` and an empty environment. What it was told comes as JSON in its only argument; how it ended goes
as JSON to the descriptor that is named there.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

NOBODY: Final = 65_534
PROCESSES: Final = 16
"""Processes and threads at once, the first one included."""
_OPEN_FILES: Final = 64
_PATIENCE_SECONDS: Final = 0.01
_NOT_STARTED: Final = 127
_COMPUTED_RATIO: Final = 0.5
"""Of its seconds: who has used so many when the clock ends it, was not waiting for something."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 36, 38
_NEW_MOUNTS, _NEW_UTS, _NEW_IPC, _NEW_USERS, _NEW_PIDS, _NEW_NET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x2, 0x4, 0x1000, 0x4000, 0x40000
_SYS_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _READ_ONLY = 442, -100, 0x8000, 1
_SYSTEM: Final = ("/usr", "/lib", "/lib64", "/lib32", "/bin")
"""What an interpreter needs beside its own folder."""

_PROGRAM: Final = (
    "import os\n"
    "source = b''.join(iter(lambda: os.read({source}, 1 << 20), b''))\n"
    "os.close({source})\n"
    "exec(compile(source, '<confined>', 'exec'), {{'__name__': '__main__'}})\n"
)


_asked_to_stop: list[bool] = []


def main() -> None:
    """Run what we were told, and say how it ended."""
    told = json.loads(sys.argv[1])
    linux = sys.platform == "linux"
    os.umask(0o022)
    apart = linux and told["namespaces"] and _unshare()
    hidden = apart and _hide_files(told)
    _become_nobody()
    if linux:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # after the change of rights, which would take it back
        if os.getppid() != told["parent"]:
            os._exit(1)
    if told["namespaces_required"] and not hidden:
        _tell(told, ended="refused", status=0, network_cut=apart, files_hidden=False)
        return
    signal.signal(signal.SIGTERM, lambda *_: _asked_to_stop.append(True))
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        _become_the_program(told, hidden=hidden)
    ended, status = _wait(child, started, told)
    _bury()
    _tell(told, ended=ended, status=status, network_cut=apart, files_hidden=hidden)
    if not linux:
        os.killpg(0, signal.SIGKILL)  # no orphan came to us: what stayed in our group ends with us


def _tell(told: dict[str, Any], **found: object) -> None:
    os.write(told["report"], json.dumps(found).encode() + b"\n")


def _become_nobody() -> None:
    """As root, no limit on processes would hold."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _unshare() -> bool:
    """Leave the others' network, processes and mounts; False where this kernel does not let us."""
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    others = _NEW_NET | _NEW_PIDS | _NEW_MOUNTS | _NEW_IPC | _NEW_UTS
    if user == 0:
        return bool(libc.unshare(others) == 0)
    if libc.unshare(others | _NEW_USERS) != 0:
        return False
    with suppress(OSError):  # unmapped we are nobody, which will do
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    return True


def _hide_files(told: dict[str, Any]) -> bool:
    """Make a root of our own in the folder: the interpreter, not to be written, and an empty folder. False where that fails."""
    root = Path(told["folder"])
    user, group = (os.getuid(), os.getgid()) if os.getuid() else (NOBODY, NOBODY)
    try:
        _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
        _mount("tmpfs", str(root), "tmpfs", _MS_NOSUID | _MS_NODEV, f"size={told['file_bytes'] + (1 << 20)},mode=755")
        for needed in sorted({*_SYSTEM, told["prefix"]}):
            _show(Path(needed), root)
        work = root / "work"
        work.mkdir()
        _read_only(root)
        room = f"size={told['file_bytes']},nr_inodes=1000,mode=700,uid={user},gid={group}"
        _mount("tmpfs", str(work), "tmpfs", _MS_NOSUID | _MS_NODEV, room)
        os.chdir(root)
        os.chroot(".")
        os.chdir("/work")
    except OSError:
        return False
    return True


def _show(path: Path, root: Path) -> None:
    seen = root / path.relative_to("/")
    if path.is_symlink():
        seen.symlink_to(path.readlink())
    elif path.is_dir() and not seen.exists():
        seen.mkdir(parents=True)
        _mount(str(path), str(seen), None, _MS_BIND | _MS_REC)


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    words = (None if word is None else word.encode() for word in (source, target, kind))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(*words, ctypes.c_ulong(flags), None if options is None else options.encode()) != 0:
        raise OSError(ctypes.get_errno(), f"mount {target}")


def _read_only(root: Path) -> None:
    attributes = struct.pack("QQQQ", _READ_ONLY, 0, 0, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    asked = (ctypes.c_long(_SYS_MOUNT_SETATTR), _AT_FDCWD, str(root).encode(), _AT_RECURSIVE, attributes)
    if libc.syscall(*asked, ctypes.c_size_t(len(attributes))) != 0:
        raise OSError(ctypes.get_errno(), f"mount_setattr {root}")


def _become_the_program(told: dict[str, Any], *, hidden: bool) -> None:
    """Take the limits on, and become the interpreter that runs the source. Never returns."""
    try:
        if sys.platform == "linux":
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        if not hidden:
            os.chdir(told["folder"])
        os.set_inheritable(told["report"], False)
        seconds = max(1, round(told["seconds"]))
        for what, soft, hard in (
            (resource.RLIMIT_CPU, seconds, seconds),
            (resource.RLIMIT_AS, told["memory_bytes"], told["memory_bytes"]),
            (resource.RLIMIT_FSIZE, told["file_bytes"], told["file_bytes"]),
            (resource.RLIMIT_NOFILE, _OPEN_FILES, _OPEN_FILES),
            (resource.RLIMIT_CORE, 0, 0),
            (resource.RLIMIT_NPROC, PROCESSES, PROCESSES),
        ):
            _limit(what, soft, hard)
        program = _PROGRAM.format(source=told["source"])
        # Becoming another program takes the rights away that unsharing gave.
        words = [told["python"], "-I", "-S", "-B", "-c", program]
        os.execve(told["python"], words, {"LC_ALL": "C.UTF-8"})  # noqa: S606 - no shell is wanted
    except (OSError, ValueError):
        _tell(told, ended="refused", status=_NOT_STARTED, network_cut=False, files_hidden=hidden)
    finally:
        os._exit(_NOT_STARTED)


def _limit(what: int, soft: int, hard: int) -> None:
    _, most = resource.getrlimit(what)
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    # macOS has names for limits that it does not set.
    try:
        resource.setrlimit(what, (soft, hard))
    except (ValueError, OSError):
        if sys.platform == "linux":
            raise


def _wait(child: int, started: float, told: dict[str, Any]) -> tuple[str, int]:
    """How the program ended: a word and its status. It is ended when its time by the clock is up, or when we are asked to."""
    late = False
    while True:
        found, status, used = os.wait4(child, os.WNOHANG)
        if found:
            break
        deserted = os.getppid() != told["parent"]
        if not late and (deserted or _asked_to_stop or time.monotonic() >= started + told["clock_seconds"]):
            late = True
            os.kill(child, signal.SIGKILL)
        time.sleep(_PATIENCE_SECONDS)
    if os.WIFEXITED(status):
        return "exited", os.WEXITSTATUS(status)
    number = os.WTERMSIG(status)
    # The kernel ends by SIGKILL what is the first of its namespace: of SIGXCPU it never hears. Both clocks are coarse.
    ended_by_us = late or number in (signal.SIGKILL, signal.SIGXCPU)
    if ended_by_us and used.ru_utime + used.ru_stime >= told["seconds"] * _COMPUTED_RATIO:
        return "out_of_cpu", number
    return "out_of_time" if late else "signalled", number


def _bury() -> None:
    """End whatever the program left: orphans become children of ours. In a namespace of their own none outlives the program."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    while True:
        with suppress(OSError):  # there is no such file where our root is another one, nor on macOS
            for each in children.read_text().split():
                os.kill(int(each), signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            break
        time.sleep(_PATIENCE_SECONDS)


if __name__ == "__main__":
    main()
