"""Writes tests/fixtures/data/*.parquet with pyarrow 24. Run: python tests/oracle/data/make_parquet.py"""

import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

FOLDER = Path(__file__).resolve().parents[2] / "fixtures" / "data"

MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string()), ("name", pa.string())])
SCHEMA = pa.schema([("id", pa.int64()), ("messages", pa.list_(MESSAGE)), ("score", pa.float64()), ("tags", pa.list_(pa.string()))])


def chats(count):
    return [
        {
            "id": i,
            "messages": [
                {"role": "user", "content": f"question {i} é漢🙂", "name": None},
                {"role": "assistant", "content": f"answer {i}\n", "name": "bot"},
            ]
            * (1 + i % 2),
            "score": None if i % 3 == 0 else i / 4,
            "tags": [] if i % 2 else ["a", f"t{i}"],
        }
        for i in range(count)
    ]


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(chats(25), schema=SCHEMA)
    for codec in ["none", "snappy", "gzip", "zstd", "brotli", "lz4"]:
        pq.write_table(table, FOLDER / f"chats-{codec}.parquet", compression=codec, row_group_size=10)
    kinds = pa.table(
        {
            "text": pa.array(["", "same", "same", None]).dictionary_encode(),
            "flag": [True, False, None, True],
            "big": pa.array([2**53, -(2**60), 1, 2**53 - 1], pa.int64()),
            "small": pa.array([1, 2, 3, 255], pa.uint8()),
            "when": pa.array([datetime.datetime(2024, 2, 29, 12, 30, 15, 250000)] * 4, pa.timestamp("us")),
            "day": pa.array([datetime.date(2024, 2, 29)] * 4),
            "bytes": pa.array([b"\xff\x00", b"", b"a", b"b"], pa.large_binary()),
        }
    )
    pq.write_table(kinds, FOLDER / "kinds.parquet", version="2.6", data_page_version="2.0")
    pq.write_table(table.slice(0, 0), FOLDER / "empty.parquet")


if __name__ == "__main__":
    main()
