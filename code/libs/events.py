"""TensorBoard's event file: written when `flush` is called, and never half."""

import io
import os
import socket
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import summary


class EventFile:
    """The event file of a run folder. Raises OSError if it cannot be created.

    SummaryWriter writes in a thread of its own, which a full disk ends in the middle of a record. Here what could not
    be written stays `pending` for the next `flush`. `scalars` has all so far, {tag: [(step, value, time), ...]}: a
    resumed run writes them into its own file, so that every curve is whole.
    """

    def __init__(self, folder: Path):
        name = f"events.out.tfevents.{int(time.time()):010}.{socket.gethostname()}.{os.getpid()}.0"
        self.file = (folder / name).open("xb", buffering=0)
        self.size, self.scalars = 0, {}
        self._forget()
        self._add(Event(file_version="brain.Event:2"))
        self.flush()

    def scalar(self, tag: str, value: float, step: int, when: float | None = None) -> None:
        when = time.time() if when is None else when
        self.scalars.setdefault(tag, []).append((step, float(value), when))
        self._add(Event(step=step, wall_time=when, summary=summary.scalar(tag, float(value))))

    def image(self, tag: str, image, step: int = 0) -> None:
        """An image 3,H,W: floats in [0, 1], or bytes."""
        self._add(Event(step=step, summary=summary.image(tag, image, dataformats="CHW")))

    def custom_scalars(self, layout: dict) -> None:
        self._add(Event(summary=summary.custom_scalars(layout)))

    def flush(self) -> None:
        """Write what is pending. Raises OSError if that is not possible; the file is then as it was."""
        data, written = self.pending.getvalue(), 0
        try:
            while written < len(data):
                written += self.file.write(data[written:])
        except OSError:
            self.file.truncate(self.size)
            self.file.seek(self.size)
            raise
        self.size += len(data)
        self._forget()

    def close(self) -> None:
        self.file.close()

    def _add(self, event: Event) -> None:
        event.wall_time = event.wall_time or time.time()
        self.records.write(event.SerializeToString())

    def _forget(self) -> None:
        self.pending = io.BytesIO()
        self.records = RecordWriter(self.pending)
