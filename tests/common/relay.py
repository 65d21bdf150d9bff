"""The program as a child process, for the tests that are not written in Rust. Its log is read as it is written, and
waited for line by line: no test asks the time what has happened.
"""

import atexit
import json
import os
import queue
import re
import signal
import subprocess
import threading

PATIENCE = 60  # seconds; only a limit, nothing waits this long when all is well


class Ended(Exception):
    """The program ended although it should not have, or badly: its exit code, and what it has said."""


class Relay:
    """`command`, with every line that it says kept in the file `log`; `more` is for Popen."""

    def __init__(self, command, log, **more):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ONCEMAIL")}
        more = {"env": environment, "stdin": subprocess.DEVNULL, **more}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)
        atexit.register(self.process.kill)  # on every way out; a relay left behind would keep the caller waiting
        self.log, self.lines = log, queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        with self.log.open("w") as log:
            for line in self.process.stdout:
                log.write(line)
                log.flush()
                self.lines.put(line)
        self.lines.put(None)

    def line(self, pattern):
        """Waits for the next line in which the pattern is found; the match."""
        while True:
            try:
                line = self.lines.get(timeout=PATIENCE)
            except queue.Empty:
                raise TimeoutError(f"it never said {pattern}; see {self.log}") from None
            if line is None:
                raise self._ended()
            if found := re.search(pattern, line):
                return found

    def says(self, message):
        """Waits for the next event with this message; the event."""
        return json.loads(self.line(f'"message":"{re.escape(message)}"').string)

    def stop(self):
        """SIGTERM, and an end in good order."""
        self.process.send_signal(signal.SIGTERM)
        self.ended_well()

    def ended_well(self):
        """Waits for its end."""
        if self.process.wait(PATIENCE) != 0:
            raise self._ended()

    def _ended(self):
        return Ended(self.process.wait(PATIENCE), self.log.read_text()[-2000:])
