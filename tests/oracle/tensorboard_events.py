"""An event file as TensorBoard's own protobuf classes and record writer give it, at fixed times."""

import io

from common import OUT, save_json
from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2, types_pb2
from tensorboard.summary.writer.record_writer import RecordWriter, masked_crc32c

SCALARS = [("train/loss", 2.5, 1), ("train/learning_rate", 2e-4, 1), ("eval/loss", 0.0, 300), ("train/loss", float("nan"), 70000)]
TEXT = "{\n  \"learning_rate\": 0.0002,\n  \"name\": \"Größe 数\"\n}"


def events():
    yield event_pb2.Event(
        wall_time=1700000000.25,
        file_version="brain.Event:2",
        source_metadata=event_pb2.SourceMetadata(writer="unsloth"),
    )
    tensor = tensor_pb2.TensorProto(
        dtype=types_pb2.DT_STRING,
        string_val=[TEXT.encode()],
        tensor_shape=tensor_shape_pb2.TensorShapeProto(dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=1)]),
    )
    plugin = summary_pb2.SummaryMetadata.PluginData(plugin_name="text")
    text = summary_pb2.Summary.Value(
        tag="args/text_summary", metadata=summary_pb2.SummaryMetadata(plugin_data=plugin), tensor=tensor
    )
    yield event_pb2.Event(wall_time=1700000001.25, summary=summary_pb2.Summary(value=[text]))
    for i, (tag, value, step) in enumerate(SCALARS):
        summary = summary_pb2.Summary(value=[summary_pb2.Summary.Value(tag=tag, simple_value=value)])
        yield event_pb2.Event(wall_time=1700000002.25 + i, step=step, summary=summary)


def main() -> None:
    where = OUT / "tensorboard"
    where.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()
    writer = RecordWriter(file)
    for event in events():
        writer.write(event.SerializeToString(deterministic=True))
    (where / "events.bin").write_bytes(file.getvalue())
    inputs = [b"", b"123456789", bytes(32), bytes([255] * 32), bytes(range(256)) * 3]
    save_json(
        where / "events.json",
        {
            "text": TEXT,
            # JSON has no NaN.
            "scalars": [{"tag": t, "value": None if v != v else v, "step": s} for t, v, s in SCALARS],
            "masked_crc32c": [{"hex": data.hex(), "masked": masked_crc32c(data)} for data in inputs],
        },
    )


if __name__ == "__main__":
    main()
