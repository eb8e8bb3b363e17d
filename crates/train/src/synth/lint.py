# Reads files and says what is wrong with them before anything runs: a line `REASON: DETAIL` for each fault.
# The first file is the solution, the second its tests, which may use the solution's names.
import ast
import builtins
import importlib.util
import sys


def bound(tree):
    """Names that are bound anywhere, and whether a star hides others."""
    names, star = set(dir(builtins)) | {"__name__", "__file__", "__doc__"}, False
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                star |= alias.name == "*"
                names.add((alias.asname or alias.name).split(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            names.add(node.name)
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            names.update(node.names)
        elif isinstance(node, (ast.MatchAs, ast.MatchStar)) and node.name:
            names.add(node.name)
        elif isinstance(node, ast.MatchMapping) and node.rest:
            names.add(node.rest)
    return names, star


def lint(path, outer):
    text = open(path).read()
    try:
        tree = ast.parse(text)
        compile(tree, path, "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        print(f"syntax: {error}")
        return None
    names, star = bound(tree)
    loads = [n for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)]
    for node in loads:
        if node.id not in names | outer and not star:
            print(f"undefined: name {node.id!r} in line {node.lineno} is never bound")
            break
    for node in ast.walk(tree):
        modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules = [node.module]
        for module in modules:
            if importlib.util.find_spec(module.split(".")[0]) is None:
                print(f"module: there is no module {module!r} here")
    return tree, names


solution = lint(sys.argv[1], set())
if solution and not any(isinstance(n, (ast.FunctionDef, ast.ClassDef)) for n in solution[0].body):
    print("nothing_defined: it defines no function and no class")
if solution and len(sys.argv) > 2:
    tests = lint(sys.argv[2], solution[1])
    if tests and not any(isinstance(n, ast.Assert) for n in ast.walk(tests[0])):
        print("no_assert: the tests assert nothing")
