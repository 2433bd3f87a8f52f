"""Child processes as REDHAWK's GPP has them: what they inherit, how they are ended and reaped."""

import ctypes
import os
import select
import signal
import subprocess
import threading
import time


def prepare_signals():
    """Block SIGCHLD, ignore SIGINT and SIGPIPE: before the first thread, for all threads and children."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)


def signalfd(number):
    """A descriptor, not close-on-exec, that becomes readable when the blocked signal `number` is pending."""
    mask = ctypes.create_string_buffer(128)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.sigemptyset(mask)
    libc.sigaddset(mask, number)
    fd = libc.signalfd(-1, mask, os.O_NONBLOCK)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "signalfd: " + os.strerror(ctypes.get_errno()))
    return fd


class Children:
    """Starts processes and reaps every child that ends; calls `on_end(pid)` once for each, in a thread.

    Every child inherits the signalfd and the epoll, as from REDHAWK's GPP.
    """

    def __init__(self, on_end):
        self.on_end = on_end
        self.lock = threading.Lock()
        self.living = set()
        self.signals = signalfd(signal.SIGCHLD)
        self.epoll = select.epoll()
        os.set_inheritable(self.epoll.fileno(), True)
        self.epoll.register(self.signals, select.EPOLLIN)
        threading.Thread(target=self._reap_for_ever, daemon=True).start()

    def spawn(self, argv, own_group=False, unblocked=False):
        """Start argv[0], a path, without a shell; returns its pid.  OSError if that fails.

        own_group  it leads its own process group
        unblocked  no signal is blocked in it
        """

        def prepare():
            if own_group:
                os.setpgid(0, 0)
            if unblocked:
                signal.pthread_sigmask(signal.SIG_SETMASK, ())

        with self.lock:
            process = subprocess.Popen(
                argv,
                close_fds=False,
                restore_signals=False,
                preexec_fn=prepare,  # noqa: PLW1509 (it takes no lock)
            )
            # It is reaped here, and not by its object.
            process.returncode = 0
            self.living.add(process.pid)
        return process.pid

    def lives(self, pid):
        with self.lock:
            return pid in self.living

    def end(self, pid, patience):
        """SIGINT, SIGTERM, SIGKILL to its process group, with `patience` seconds after each."""
        for number, limit in zip((signal.SIGINT, signal.SIGTERM, signal.SIGKILL), patience):
            with self.lock:
                if pid not in self.living:
                    return
                os.killpg(pid, number)
            deadline = time.monotonic() + limit
            while self.lives(pid) and time.monotonic() < deadline:
                time.sleep(0.005)

    def _reap_for_ever(self):
        while True:
            self.epoll.poll()
            os.read(self.signals, 4096)
            while self._reap_one():
                pass

    def _reap_one(self):
        with self.lock:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            self.living.discard(pid)
        if pid:
            self.on_end(pid)
        return bool(pid)
