"""Records events.tfevents: what TensorBoard's own protocol buffers make of a few events.

Usage: pip install tensorboard==2.21.0
       python testdata/record_tensorboard.py [FOLDER]

`crates/train/tests/tensorboard.rs` writes the same events and expects the same bytes.
Fields are serialised in the order of their numbers, so the bytes are one of many that are right.
"""

import struct
import sys
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c


def record(event):
    payload = event.SerializeToString(deterministic=True)
    length = struct.pack("<Q", len(payload))
    return length + struct.pack("<I", masked_crc32c(length)) + payload + struct.pack("<I", masked_crc32c(payload))


def scalars(wall_time, step, values):
    summary = Summary(value=[Summary.Value(tag=tag, simple_value=x) for tag, x in values])
    return Event(wall_time=wall_time, step=step, summary=summary)


def text(wall_time, step, tag, words):
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    tensor = TensorProto(dtype=DT_STRING, tensor_shape=shape, string_val=[words.encode()])
    plugin = SummaryMetadata.PluginData(plugin_name="text")
    metadata = SummaryMetadata(plugin_data=plugin)
    summary = Summary(value=[Summary.Value(tag=tag, tensor=tensor, metadata=metadata)])
    return Event(wall_time=wall_time, step=step, summary=summary)


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "tensorboard"
    folder.mkdir(exist_ok=True)
    start = SessionLog(status=SessionLog.START)
    events = [
        Event(wall_time=1700000000.25, file_version="brain.Event:2"),
        Event(wall_time=1700000000.25, step=81, session_log=start),
        scalars(1700000001.5, 81, [("train/loss", 10.1), ("train/lr", 0.0003)]),
        scalars(1700000002.5, 1 << 40, [("train/loss", float("nan")), ("train/grad_norm", 0.0)]),
        text(1700000003.5, 300, "sample", "Once upon a time\n\u00e9t\u00e9 " + "x" * 200),
    ]
    (folder / "events.tfevents").write_bytes(b"".join(map(record, events)))


main()
