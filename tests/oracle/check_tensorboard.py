"""Reads an event file, or a folder of runs, with TensorBoard's own reader: python tests/oracle/check_tensorboard.py PATH

Not part of the committed tests (they compare bytes with a fixture): for looking at what a training wrote.
"""

import struct
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader



def count_records(data: bytes) -> int:
    """Records by their lengths alone: the reader stops at the first bad one without a word."""
    count = at = 0
    while at < len(data):
        at += struct.unpack_from("<Q", data, at)[0] + 16
        count += 1
    return count


where = Path(sys.argv[1])
for path in [where] if where.is_file() else sorted(where.rglob("*tfevents*")):
    read = sum(1 for _ in RawEventFileLoader(str(path)).Load())
    print(f"{path}: {read} of {count_records(path.read_bytes())} records read with good checksums")
    reader = EventAccumulator(str(path)).Reload()
    for tag in reader.Tags()["scalars"]:
        points = reader.Scalars(tag)
        print(f"  {tag}: {len(points)} points, steps {points[0].step}..{points[-1].step}, last {points[-1].value:.6g}")
    for tag in reader.Tags()["tensors"]:
        (text,) = reader.Tensors(tag)[0].tensor_proto.string_val
        print(f"  {tag}: {len(text)} bytes of text")
