# Runs inside the sandbox: one JSON line in, one out; the names that code defines stay until the next.
import ast, json, os, signal, sys, traceback

MOST = int(sys.argv[1])  # bytes kept of each stream and of the result
requests = os.fdopen(os.dup(0), "r", encoding="utf-8", newline="\n")
answers = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
streams = [os.open("/tmp", os.O_TMPFILE | os.O_RDWR | os.O_APPEND, 0o600) for _ in (1, 2)]
for number, stream in zip((1, 2), streams):
    os.dup2(stream, number)
sys.stdin = open(os.devnull)
sys.argv = [""]
sys.path.insert(0, "/work")
names = {"__name__": "__main__", "__builtins__": __builtins__}


def taken(stream):
    size = os.fstat(stream).st_size
    text = os.pread(stream, min(size, MOST), 0).decode("utf-8", "replace")
    os.ftruncate(stream, 0)
    return text, max(0, size - MOST)


def run(code):
    tree = ast.parse(code, "<cell>")
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec"), names)
    if last is None:
        return None
    value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)
    if value is None:
        return None
    names["_"] = value
    return repr(value)


for line in requests:
    number, code = json.loads(line)
    result = error = None
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        result = run(code)
    except BaseException as fault:  # SystemExit and KeyboardInterrupt too: the session goes on
        trace = fault.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == "<string>":
            trace = trace.tb_next
        error = "".join(traceback.format_exception(type(fault), fault, trace))
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt that comes too late ends nothing
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        pass
    (out, out_dropped), (err, err_dropped) = map(taken, streams)
    # Half of a surrogate pair, which Python's texts may hold, is in no JSON that others read.
    cut = lambda text: text if text is None else text[:MOST].encode("utf-8", "replace").decode()
    answer = {"number": number, "stdout": out, "stderr": err, "dropped": [out_dropped, err_dropped]}
    answer.update(result=cut(result), error=cut(error))
    answers.write(json.dumps(answer) + "\n")
    answers.flush()
