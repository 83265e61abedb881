"""When to save inside an epoch, and when to stop: the clock, SIGINT and SIGTERM."""

import os
import signal
import threading
import time

from libs.engine import GO_ON, SAVE
from libs.hardware import Hardware


class Requests:
    """What is asked of a training after each step: to go on, to save (every `minutes`), or to save and stop.

    As a context manager it takes SIGINT and SIGTERM as a request to stop, so that a step is never cut in half. A second
    SIGINT raises KeyboardInterrupt at once.
    """

    def __init__(self, minutes: float, hardware: Hardware):
        self.seconds, self.hardware = 60 * minutes, hardware
        self.signal: int | None = None
        self.saved()

    def saved(self) -> None:
        """Start the clock anew."""
        self.at = time.monotonic()  # a clock that is never set back

    def __call__(self, last: bool) -> int:
        """GO_ON, SAVE or the number of the signal; the same in all processes. `last`: is it the last step of an epoch?

        After that comes validation, inside which nothing can be saved, so half of the time is enough.
        """
        due = time.monotonic() - self.at >= self.seconds * (0.5 if last else 1)
        return self.hardware.largest(self.signal or (SAVE if due else GO_ON))

    def __enter__(self) -> "Requests":
        self.handlers = {}
        if threading.current_thread() is threading.main_thread():  # the only one that may ask for signals
            self.handlers = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _) -> None:
        if self.signal is None:
            self.signal, self.received = number, time.monotonic()
            if self.hardware.is_main:  # not print, which may be what was interrupted
                os.write(2, b"\nstopping after this step (or this validation); Ctrl-C again leaves at once\n")
        elif number == signal.SIGINT and not self._is_echo():
            raise KeyboardInterrupt

    def _is_echo(self) -> bool:
        """Whether torchrun has passed on the Ctrl-C that the terminal had sent to every process."""
        return self.hardware.world > 1 and time.monotonic() - self.received < 1
