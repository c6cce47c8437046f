"""Python as it is on Windows, as far as Linux can do without: for processes with this folder on PYTHONPATH.

`os.uname`, `os.waitpid` and the like stay: other packages use them because this is Linux. What every package has to
do without is missing from the start of a process and of those that it starts; what is forked elsewhere is spawned.
"""

import contextlib
import multiprocessing
import os
import signal
import sys

with contextlib.suppress(ImportError):
    import psutil  # noqa: F401  (needs `resource` on Linux)

MODULES = ("fcntl", "grp", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty")
OS = (
    *("O_DIRECTORY", "O_NOFOLLOW", "chown", "fork", "forkpty", "getegid", "geteuid", "getgid", "getloadavg"),
    *("getpgrp", "getuid", "killpg", "lockf", "mkfifo", "nice", "sched_getaffinity", "sched_setaffinity"),
    *("setpgrp", "setsid", "statvfs", "sysconf"),
)
SIGNAL = (
    *("SIGALRM", "SIGHUP", "SIGKILL", "SIGQUIT", "SIGUSR1", "SIGUSR2", "alarm", "pause", "pthread_sigmask"),
    *("setitimer", "sigtimedwait", "sigwait", "sigwaitinfo"),
)

for name in MODULES:
    sys.modules[name] = None  # type: ignore[assignment]
for owner, names in ((os, OS), (signal, SIGNAL)):
    for name in names:
        if hasattr(owner, name):
            delattr(owner, name)
multiprocessing.set_start_method("spawn")
