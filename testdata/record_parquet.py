"""Records testdata/parquet: one table of texts in the ways that writers of data sets store it, and the texts
(texts.json, null where there is none).

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


if __name__ == "__main__":
    main()
