"""Records testdata/hostile: evil files made by hand, and a part of the message that each must get
(expected.json). Python's standard library alone is used.

    python testdata/record_hostile.py
"""

import io
import json
import pathlib
import struct
import zipfile

HERE = pathlib.Path(__file__).parent / "hostile"
EXPECTED = {}


def note(name, data, message):
    (HERE / name).write_bytes(data)
    EXPECTED[name] = message


def u32(x):
    return struct.pack("<I", x)


def u64(x):
    return struct.pack("<Q", x)


# GGUF


def text(x):
    x = x.encode() if isinstance(x, str) else x
    return u64(len(x)) + x


def tensor(name, dims, kind, offset):
    return text(name) + u32(len(dims)) + b"".join(map(u64, dims)) + u32(kind) + u64(offset)


def gguf(tensors=(), entries=(), data=b"", version=3, counts=None):
    n, m = counts or (len(tensors), len(entries))
    head = b"GGUF" + u32(version) + u64(n) + u64(m) + b"".join(entries) + b"".join(tensors)
    return head + b"\0" * (-len(head) % 32) + data


def record_gguf():
    page = bytes(64)
    nested = text("k") + u32(9) + (u32(9) + u64(1)) * 1000 + u32(4) + u64(0)
    cases = {
        "tensor_count": (gguf(counts=(1 << 60, 0), data=page), "the number of tensors is 1152921504606846976"),
        "entry_count": (gguf(counts=(0, 1 << 63)), "the number of metadata entries is 9223372036854775808"),
        "key_length": (gguf(entries=[u64(2**64 - 1) + bytes(16)]), "a metadata key needs 18446744073709551615 bytes"),
        "key_utf8": (gguf(entries=[text(b"\xff\xfe") + u32(0) + b"\0"]), "a metadata key is \\xff\\xfe, expected utf-8"),
        "string_length": (gguf(entries=[text("k") + u32(8) + u64(1 << 40)]), "k needs 1099511627776 bytes"),
        "array_count": (gguf(entries=[text("k") + u32(9) + u32(10) + u64(1 << 61)], data=page), "k is 2305843009213693952, expected at most"),
        "array_type": (gguf(entries=[text("k") + u32(9) + u32(77) + u64(0)]), "the type of k is 77"),
        "array_nesting": (gguf(entries=[nested]), "k is more than 4 arrays deep"),
        "value_type": (gguf(entries=[text("k") + u32(13) + u64(0)]), "the type of k is 13"),
        "bool_2": (gguf(entries=[text("k") + u32(7) + b"\2"]), "k is 2, expected a bool"),
        "twice_key": (gguf(entries=[text("k") + u32(0) + b"\1"] * 2), "k is there twice"),
        "twice_tensor": (gguf([tensor("t", [8], 24, 0), tensor("t", [8], 24, 32)], data=page), "tensor t is there twice"),
        "alignment_0": (gguf(entries=[text("general.alignment") + u32(4) + u32(0)]), "general.alignment is 0, expected a power of two"),
        "alignment_3": (gguf(entries=[text("general.alignment") + u32(4) + u32(3)]), "general.alignment is 3"),
        "alignment_huge": (gguf(entries=[text("general.alignment") + u32(4) + u32(1 << 31)]), "general.alignment is 2147483648"),
        "alignment_text": (gguf(entries=[text("general.alignment") + u32(8) + text("32")]), "general.alignment is the string"),
        "axes": (gguf([text("t") + u32(2**32 - 1) + bytes(64)]), "the number of axes is 4294967295, expected at most 4"),
        "overflow": (gguf([tensor("t", [1 << 32, 1 << 32, 1 << 32], 0, 0)], data=page), "the shape is [4294967296, 4294967296, 4294967296]"),
        "overflow_bytes": (gguf([tensor("t", [1 << 62], 0, 0)], data=page), "the shape is [4611686018427387904]"),
        "overflow_unknown": (gguf([tensor("t", [1 << 62, 16], 99, 0)], data=page), "the shape is [16, 4611686018427387904]"),
        "part_block": (gguf([tensor("t", [33], 2, 0)], data=page), "the shape is [33], expected whole blocks of Q4_0"),
        "misaligned": (gguf([tensor("t", [8], 24, 8)], data=page), "the offset is 8, expected a multiple of 32"),
        "outside": (gguf([tensor("t", [8], 24, 1 << 40)], data=page), "the place is 8 bytes at 1099511627776"),
        "outside_end": (gguf([tensor("t", [65], 24, 0)], data=page), "the place is 65 bytes at 0, expected a place in 64 bytes"),
        "outside_unknown": (gguf([tensor("t", [8], 99, 96)], data=page), "the place is 0 bytes at 96"),
        "overlap": (gguf([tensor("a", [40], 24, 0), tensor("b", [8], 24, 32)], data=page), "tensor b: the offset is 32, expected at least 40, after a"),
        "unread_type": (gguf([tensor("t", [8], 99, 0)], data=page), "tensor t is stored as ggml type 99, which herd does not read"),
        "version_swapped": (gguf(version=3 << 24), "is a big-endian gguf"),
    }
    for name, (data, message) in cases.items():
        note(f"{name}.gguf", data, message)


# safetensors


def safetensors(header, data=b"", length=None):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return u64(len(header) if length is None else length) + header + data


def entry(dtype="U8", shape=(4,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def record_safetensors():
    page = bytes(4)
    twice = b'{"t":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"t":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
    json_error = "the header is not valid json"
    cases = {
        "header_length": (safetensors({}, length=1 << 63), "the header needs 9223372036854775808 bytes"),
        "header_longer": (safetensors({}, length=3), "the header needs 3 bytes, 2 are left"),
        "json_open": (safetensors(b'{"t":'), json_error),
        "json_deep": (safetensors(b'{"t":' + b"[" * 50000), json_error),
        "json_deep_unknown": (safetensors(b'{"t":{"x":' + b"[" * 50000), json_error),
        "json_utf8": (safetensors(b'{"\xff":1}'), json_error),
        "json_tail": (safetensors(b"{}x"), json_error),
        "unknown_field": (safetensors({"t": entry() | {"strides": [1]}}, page), json_error),
        "negative_axis": (safetensors({"t": entry(shape=[-4])}, page), json_error),
        "huge_axis": (safetensors(b'{"t":{"dtype":"U8","shape":[1e30],"data_offsets":[0,4]}}', page), json_error),
        "metadata_number": (safetensors({"__metadata__": {"a": 1}}), json_error),
        "metadata_twice": (safetensors(b'{"__metadata__":{"a":"1","a":"2"}}'), "a is there twice"),
        "twice": (safetensors(twice), "tensor t is there twice"),
        "dtype": (safetensors({"t": entry(dtype="F31")}, page), "dtype is F31"),
        "dtype_block": (safetensors({"t": entry(dtype="Q4_0")}, page), "dtype is Q4_0"),
        "length": (safetensors({"t": entry(shape=[3])}, page), "the length is 4, expected 3"),
        "overflow": (safetensors({"t": entry(shape=[1 << 40, 1 << 40])}, page), "the shape is [1099511627776, 1099511627776]"),
        "reversed": (safetensors({"t": entry(offsets=[4, 0])}, page), "data_offsets is [4, 0]"),
        "outside": (safetensors({"t": entry(shape=[8], offsets=[0, 8])}, page), "data_offsets is [0, 8], expected an ordered pair up to 4"),
        "outside_64": (safetensors({"t": entry(offsets=[2**64 - 4, 2**64 - 1])}, page), "data_offsets is [18446744073709551612"),
        "overlap": (safetensors({"a": entry(), "b": entry(shape=[2], offsets=[2, 4])}, page), "tensor b: the offset is 2, expected 4"),
        "gap": (safetensors({"a": entry(shape=[2], offsets=[2, 4])}, page), "tensor a: the offset is 2, expected 0"),
        "tail": (safetensors({"a": entry(shape=[2], offsets=[0, 2])}, page), "the end of the tensors is"),
    }
    for name, (data, message) in cases.items():
        note(f"{name}.safetensors", data, message)


# PyTorch: a zip of a pickle


def pth(pickle, storages=None, method=zipfile.ZIP_STORED, extra=()):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        entries = {"a/data.pkl": pickle, **{f"a/data/{k}": v for k, v in (storages or {}).items()}, **dict(extra)}
        for name, data in entries.items():
            archive.writestr(zipfile.ZipInfo(name), data, compress_type=method)
    return out.getvalue()


def string(x):
    return b"X" + u32(len(x)) + x.encode()


def integer(x):
    return b"\x8a\x09" + x.to_bytes(9, "little", signed=True) if abs(x) >= 1 << 63 else b"\x8a\x08" + struct.pack("<q", x)


def tuple_of(*items):
    return b"(" + b"".join(items) + b"t"


def view(key="0", items=4, offset=0, shape=(4,), strides=(1,), storage=b"ctorch\nFloatStorage\n"):
    ident = tuple_of(string("storage"), storage, string(key), string("cpu"), integer(items)) + b"Q"
    axes = [tuple_of(*map(integer, x)) for x in (shape, strides)]
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + tuple_of(ident, integer(offset), *axes, b"\x89", b"N") + b"R"


def dict_of(*pairs):
    return b"\x80\x02}(" + b"".join(pairs) + b"u."


def record_calls():
    for name, module, function in [("os_system", "posix", "system"), ("eval", "builtins", "eval"),
                                   ("getattr", "builtins", "getattr"), ("torch_load", "torch", "load"),
                                   ("loader", "torch._utils", "_rebuild_tensor_v2x")]:
        call = b"\x80\x02c" + f"{module}\n{function}\n".encode() + string("true") + b"\x85R."
        note(f"call_{name}.pth", pth(call), f"asks for the python object {module}.{function}")
    stack = b"\x80\x04\x8c\x02os\x8c\x06system\x93."
    note("call_stack_global.pth", pth(stack), "asks for the python object os.system")
    for name, opcode in [("inst", b"(ios\nsystem\n"), ("obj", b"(o"), ("ext", b"\x82\x01"), ("newobj_ex", b"\x92"), ("long4", b"\x8b")]:
        note(f"opcode_{name}.pth", pth(b"\x80\x02" + opcode + b"."), "a pickle opcode (at byte")


def record_pickles():
    circle = b"\x80\x02}q\0" + string("x") + b"h\0s."
    laughs = b"\x80\x02N]q\0" + view() + b"a0"
    for i in range(12):
        laughs += b"]q" + bytes([i + 1]) + b"(" + (b"h" + bytes([i])) * 60 + b"e0"
    laughs += b"h\x0c"
    names = b"\x80\x02}q\0(" + b"".join(string(str(i)) + view() for i in range(40)) + b"u0}("
    names += b"".join(string("n" * 200 + str(i)) + b"h\0" for i in range(600)) + b"u."
    four = {"0": bytes(16)}
    cases = {
        "empty": (pth(b""), "the pickle needs 1 bytes"),
        "endless": (pth(b"\x80\x02}"), "the pickle needs 1 bytes"),
        "protocol": (pth(b"\x80\x09."), "the pickle protocol is 9"),
        "underflow": (pth(b"\x80\x02."), "the pickle stack is nothing"),
        "no_mark": (pth(b"\x80\x02t."), "the pickle stack is none, expected a mark"),
        "pop_below_mark": (pth(b"\x80\x02N(\x85."), "the pickle stack is nothing"),
        "memo": (pth(b"\x80\x02j" + u32(2**32 - 1) + b"."), "a pickle memo slot is 4294967295"),
        "deep_stack": (pth(b"\x80\x02" + b"N" * 70000 + b"."), "the depth of the pickle stack"),
        "deep_marks": (pth(b"\x80\x02" + b"(" * 70000 + b"."), "the number of pickle marks"),
        "odd_items": (pth(b"\x80\x02}(Nu."), "the items of a pickled dict is 1"),
        "append_to_none": (pth(b"\x80\x02NNa."), "what is appended to is None"),
        "call_a_string": (pth(b"\x80\x02" + string("f") + b")R."), "what a pickle calls is a string"),
        "string_length": (pth(b"\x80\x04\x8d" + u64(2**64 - 1)), "a pickled string needs 18446744073709551615 bytes"),
        "string_utf8": (pth(b"\x80\x02X\1\0\0\0\xff."), "a pickled string is \\xff"),
        "long": (pth(b"\x80\x02" + integer(1 << 64) + b"."), "the length of a pickled number is 9"),
        "global_line": (pth(b"\x80\x02c" + b"x" * 5000), "a python name (at byte 3)"),
        "circle": (pth(circle), "the nesting of dicts and lists is deeper"),
        "laughs": (pth(laughs + b".", four), "what the pickle spreads out to is too much"),
        "long_names": (pth(names, four), "what the pickle spreads out to is too much"),
        "key": (pth(dict_of(b"N", view()), four), "a key is None"),
        "twice": (pth(dict_of(string("t"), view(), string("t"), view()), four), "tensor t is there twice"),
    }
    for name, (data, message) in cases.items():
        note(f"pickle_{name}.pth", data, message)


def record_views():
    four = {"0": bytes(16)}
    cases = {
        "no_storage": (dict(key="9"), "its storage is data/9"),
        "up_storage": (dict(key="../data.pkl"), "its storage is data/../data.pkl"),
        "storage_length": (dict(items=5), "its storage is 16 bytes, expected 5 numbers of 4 bytes"),
        "storage_overflow": (dict(items=(1 << 62) + 4), "its storage is 16 bytes"),
        "storage_negative": (dict(items=-4), "a persistent id is a tuple"),
        "storage_type": (dict(storage=b"ctorch\nfloat32\n"), "a persistent id is a tuple"),
        "offset": (dict(offset=1), "the view is offset 1, strides [1], shape [4], expected inside 4 numbers"),
        "offset_huge": (dict(offset=2**63 - 1), "the view is offset 9223372036854775807"),
        "offset_negative": (dict(offset=-1), "a storage offset is -1"),
        "stride": (dict(shape=(2,), strides=(4,)), "the view is offset 0, strides [4], shape [2]"),
        "stride_huge": (dict(shape=(3,), strides=(2**63 - 1,)), "the view is offset 0, strides [9223372036854775807]"),
        "stride_negative": (dict(strides=(-1,)), "an axis is -1"),
        "stride_0": (dict(shape=(1 << 40,), strides=(0,)), "the shape is [1099511627776], expected at most 4 numbers"),
        "overflow": (dict(shape=(1 << 40, 1 << 40), strides=(0, 0)), "the shape is [1099511627776, 1099511627776]"),
        "overflow_empty": (dict(shape=(1 << 40, 1 << 40, 0), strides=(0, 0, 0)), "the shape is [1099511627776, 1099511627776, 0]"),
        "strides": (dict(strides=(1, 1)), "the number of strides is 2, expected 1"),
        "axes": (dict(shape=(1,) * 65, strides=(1,) * 65), "the number of axes is 65"),
    }
    for name, (how, message) in cases.items():
        note(f"view_{name}.pth", pth(dict_of(string("t"), view(**how)), four), message)


def record_zips():
    good = pth(dict_of(string("t"), view()), {"0": bytes(16)})
    end = good.rindex(b"PK\5\6")
    central = good.index(b"PK\1\2")

    def patched(at, data):
        return good[:at] + data + good[at + len(data):]

    wide = b"PK\6\6" + u64(44) + bytes(12) + u64(1 << 60) * 2 + u64(0) + u64(central)
    locator = b"PK\6\7" + u32(0) + u64(end) + u32(1)
    tail = b"PK\5\6" + bytes(4) + b"\xff\xff" * 2 + u32(0) + u32(2**32 - 1) + bytes(2)
    cases = {
        "deflated": (pth(dict_of(), method=zipfile.ZIP_DEFLATED), "is a zip whose entry a/data.pkl is compressed"),
        "encrypted": (patched(central + 8, b"\1\0"), "is a zip whose entry a/data.pkl is compressed or encrypted"),
        "no_end": (good[:end], "the record at the end of the zip"),
        "directory_outside": (patched(end + 16, u32(1 << 30)), "the zip directory needs 1073741824 bytes"),
        "count": (patched(end + 10, b"\xf0\xff"), "the number of zip entries is 65520"),
        "count64": (good[:end] + wide + locator + tail, "the number of zip entries is 1152921504606846976"),
        "locator64": (good[:end] + b"PK\6\7" + u32(0) + u64(2**64 - 1) + u32(1) + tail, "needs 18446744073709551615 bytes"),
        "entry_outside": (patched(central + 42, u32(1 << 30)), "a/data.pkl needs 1073741824 bytes"),
        "entry_size": (patched(central + 20, u32(1 << 30) * 2), "a/data.pkl needs 1073741824 bytes"),
        "packed_size": (patched(central + 20, u32(1)), "the packed size of a/data.pkl is 1"),
        "signature": (patched(central, b"PK\1\3"), "the signature of a zip directory entry"),
        "local_signature": (patched(good.rindex(b"PK\3\4"), b"PK\3\5"), "the signature of a/data/0"),
        "twice": (pth(dict_of(), extra=[("a/x", b""), ("a/y", b"")]).replace(b"a/y", b"a/x"), "zip entry a/x is there twice"),
        "no_pickle": (pth(b"").replace(b"data.pkl", b"data.pkz"), "is a zip without a data.pkl"),
        "big_endian": (pth(dict_of(), extra=[("a/byteorder", b"big")]), "is a big-endian torch file"),
    }
    for name, (data, message) in cases.items():
        note(f"zip_{name}.pth", data, message)


def main():
    HERE.mkdir(exist_ok=True)
    record_gguf()
    record_safetensors()
    record_calls()
    record_pickles()
    record_views()
    record_zips()
    for name, data in {"empty.bin": b"", "short.bin": b"GG", "text.bin": b"<html>404</html>", "big_endian_magic.bin": b"FUGG" + bytes(32)}.items():
        note(name, data, {"empty.bin": "it starts with nothing, it is empty", "big_endian_magic.bin": "is a big-endian gguf"}.get(name, "is not a file of tensors that herd knows"))
    (HERE / "expected.json").write_text(json.dumps(EXPECTED, indent=0) + "\n")


if __name__ == "__main__":
    main()
