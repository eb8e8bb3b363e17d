"""Records testdata/parquet: one table of texts in the ways that writers of data sets store it, and the texts
(texts.json, null where there is none); one of lists and structs in two ways, and its rows (nested.jsonl).

    pip install pyarrow==26.0.1
    python testdata/record_parquet.py
"""

import json
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq

HERE = pathlib.Path(__file__).parent / "parquet"

WAYS = {
    "plain": dict(compression="none", use_dictionary=False),
    "dictionary": dict(compression="snappy", use_dictionary=True),
    "zstd": dict(compression="zstd", use_dictionary=False, data_page_version="2.0"),
    "gzip": dict(compression="gzip", use_dictionary=True, data_page_version="2.0"),
    "delta": dict(compression="zstd", use_dictionary=False, column_encoding={"text": "DELTA_BYTE_ARRAY", "id": "PLAIN", "meta.lang": "PLAIN", "tags.list.element": "PLAIN"}),
}


NESTED = {
    "nested": dict(compression="none", use_dictionary=False, data_page_size=512),
    # The names of items and the pages of other writers.
    "nested_item": dict(compression="zstd", data_page_version="2.0", data_page_size=256, use_compliant_nested_type=False),
}


def nested(n):
    """Rows whose lists and structs are null, empty, or hold such, each in its turn."""
    call = pa.struct([("id", pa.string()), ("function", pa.struct([("name", pa.string()), ("arguments", pa.string())]))])
    message = pa.struct([
        ("role", pa.string()), ("content", pa.string()), ("weight", pa.float64()), ("tool_calls", pa.list_(call)),
    ])
    fields = {
        "id": pa.int64(), "messages": pa.list_(message), "strength": pa.int32(), "train": pa.bool_(), "share": pa.float32(),
        "count": pa.uint64(), "tags": pa.list_(pa.string()), "grid": pa.list_(pa.list_(pa.int32())),
        "about": pa.struct([("lang", pa.string()), ("marks", pa.list_(pa.struct([("at", pa.int32()), ("on", pa.bool_())])))]),
        "named": pa.map_(pa.string(), pa.int64()), "digest": pa.binary(4),
    }

    def calls(i):
        whole = {"id": None, "function": {"name": f"f{i}", "arguments": json.dumps({"x": i})}}
        return [None, [], [whole], [None, whole, {"id": "c", "function": None}]][i % 4]

    def said(i, turn):
        role = ["user", "assistant", "tool"][turn % 3]
        return {"role": role, "content": [None, "", f"é{i} " * (i % 5)][(i + turn) % 3],
                "weight": [None, 0.5][turn % 2], "tool_calls": calls(i + turn) if turn % 2 else None}

    def row(i):
        grid = [None, [], [[]], [None, [i], [1, None, 2]], [[i, -i]] * (i % 4)][i % 5]
        marks = [None, [], [None], [{"at": i, "on": None}, {"at": None, "on": i % 2 == 0}]][i % 4]
        return {
            "id": i,
            "messages": [None, [], [None], *([said(i, t) for t in range(k)] for k in (1, 2, 5, 12))][i % 7],
            "strength": [None, 1, 2, 3, 4][i % 5],
            "train": [None, True, False][i % 3],
            "share": [None, 0.25 * i, -1.5][i % 3],
            "count": [2**64 - 1, None, i][i % 3],
            "tags": [None, [], [None], ["a", None, "b"]][i // 3 % 4],
            "grid": grid,
            "about": [None, {"lang": None, "marks": marks}, {"lang": "en", "marks": marks}][i % 3],
            "named": [None, [], [("a", i), ("b", None)]][i % 3],
            "digest": b"four",
        }

    rows = [row(i) for i in range(n)]
    table = pa.Table.from_pylist(rows, pa.schema(list(fields.items())))
    for each in rows:
        del each["digest"]  # bytes of a fixed length are not read
        each["named"] = None if each["named"] is None else dict(each["named"])
    return table, rows


def main():
    texts = [f"Row {i}: " + "the herd goes on, " * (i % 7) + "é漢🦙" for i in range(300)]
    texts[3] = texts[250] = None
    texts[7] = ""
    texts[9] = "two\nlines\r\n"
    n = len(texts)
    table = pa.table({
        "id": pa.array(range(n), pa.int64()),
        "text": pa.array(texts, pa.string()),
        "tags": pa.array([["a", "b"][: i % 3] for i in range(n)], pa.list_(pa.string())),
        "meta": pa.array([{"lang": "en" if i % 2 else None} for i in range(n)], pa.struct([("lang", pa.string())])),
    })
    required = table.select(["id"]).append_column(
        pa.field("text", pa.string(), nullable=False), pa.array([t or "-" for t in texts], pa.string()))
    HERE.mkdir(exist_ok=True)
    for name, options in WAYS.items():
        pq.write_table(table, HERE / f"{name}.parquet", row_group_size=128, data_page_size=2048, **options)
    pq.write_table(required, HERE / "required.parquet", row_group_size=128)
    (HERE / "texts.json").write_text(json.dumps(texts, ensure_ascii=False) + "\n")
    table, rows = nested(140)
    for name, options in NESTED.items():
        pq.write_table(table, HERE / f"{name}.parquet", row_group_size=64, **options)
    (HERE / "nested.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


if __name__ == "__main__":
    main()
