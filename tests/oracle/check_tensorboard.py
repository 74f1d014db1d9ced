"""Reads an event file, or a folder of runs, with TensorBoard's own reader: python tests/oracle/check_tensorboard.py PATH

Not part of the committed tests (they compare bytes with a fixture): for looking at what a training wrote.
"""

import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.backend.event_processing.io_wrapper import ListRecursivelyViaWalking

for folder, files in ListRecursivelyViaWalking(sys.argv[1]) if not sys.argv[1].count("tfevents") else [("", sys.argv[1:])]:
    for path in files:
        if "tfevents" not in path:
            continue
        print(f"{path}: {sum(1 for _ in RawEventFileLoader(path).Load())} records, checksums good")
        reader = EventAccumulator(path).Reload()
        for tag in reader.Tags()["scalars"]:
            points = reader.Scalars(tag)
            print(f"  {tag}: {len(points)} points, steps {points[0].step}..{points[-1].step}, last {points[-1].value:.6g}")
        for tag in reader.Tags()["tensors"]:
            (text,) = reader.Tensors(tag)[0].tensor_proto.string_val
            print(f"  {tag}: {len(text)} bytes of text")
