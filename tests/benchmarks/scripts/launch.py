"""Run a command; print its wall time, peak memory and exit status as JSON.

    python -I -S launch.py ERRORS COMMAND ...

The command's errors go to the file ERRORS. A program of its own because Linux counts into a
child's peak memory what its parent held when it started the child: this one holds next to nothing.
"""

import json
import os
import sys
import time

errors, *command = sys.argv[1:]
actions = [
    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
    (os.POSIX_SPAWN_OPEN, 2, errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
]
start = time.perf_counter()
pid = os.posix_spawn(command[0], command, os.environ, file_actions=actions)
_, status, usage = os.wait4(pid, 0)
seconds = time.perf_counter() - start
code = os.waitstatus_to_exitcode(status)
print(json.dumps({"seconds": seconds, "peak_kib": usage.ru_maxrss, "code": code}))
