# Reads Python files without running them.
#
#     imports.py graph     repository.json: {PATH: TEXT}   which files refer to which, and the names that they need of them
#     imports.py names     code.py                         the names that it binds at its top level
import ast
import json
import posixpath
import sys

STANDARD = set(getattr(sys, "stdlib_module_names", sys.builtin_module_names))


def parse(text):
    """The tree of a file, or why there is none."""
    try:
        tree = ast.parse(text)
        compile(tree, "code.py", "exec")
        return tree, None
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return None, f"{type(error).__name__}: {error}"


def bound(body):
    """Names bound at the top level, in branches of `if`, `try`, `with` and loops as well."""
    names, open_nodes = set(), list(body)
    while open_nodes:
        node = open_nodes.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif not isinstance(node, (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            open_nodes.extend(ast.iter_child_nodes(node))
    return names


class Repository:
    def __init__(self, files):
        self.files = files

    def roots(self, path):
        """Folders from which a file's imports may start: those above it that are no package, the top, and `src`."""
        folder = posixpath.dirname(path)
        while folder:
            if f"{folder}/__init__.py" not in self.files:
                yield f"{folder}/"
            folder = posixpath.dirname(folder)
        yield ""
        yield "src/"

    def at(self, stem):
        """The file of a module or package at this path."""
        tails = [".py", "/__init__.py"] if stem and not stem.endswith("/") else ["__init__.py"]
        return next((stem + tail for tail in tails if stem + tail in self.files), None)

    def find(self, path, module, level):
        """The file that `module` is to the file at `path`; `level` counts the dots before it."""
        tail = module.replace(".", "/")
        if level:
            folder = posixpath.dirname(path)
            for _ in range(level - 1):
                folder = posixpath.dirname(folder)
            return self.at(posixpath.join(folder, tail) if tail else folder)
        if not module or module.split(".")[0] in STANDARD:
            return None
        return next((found for root in self.roots(path) if (found := self.at(root + tail))), None)

    def needs(self, path, tree):
        """Files that one refers to, each with the names that it takes from them."""
        needs, modules = {}, {}

        def take(file, name=None):
            if file and file != path:
                needs.setdefault(file, set()).update([name] if name else [])

        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    file = self.find(path, alias.name, 0)
                    take(file)
                    modules[alias.asname or alias.name] = file
            elif isinstance(node, ast.ImportFrom):
                module, level = node.module or "", node.level
                for alias in node.names:
                    inner = f"{module}.{alias.name}" if module else alias.name
                    file = self.find(path, inner, level) if alias.name != "*" else None
                    if file:
                        take(file)
                        modules[alias.asname or alias.name] = file
                    else:
                        take(self.find(path, module, level), alias.name)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                take(modules.get(dotted(node.value)), node.attr)
        return needs


def dotted(node):
    """`a.b.c` where that is what a node says."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else None


def graph(files):
    trees = {path: parse(text)[0] for path, text in sorted(files.items())}
    unread = [path for path, tree in trees.items() if tree is None]
    repository = Repository(files)
    names = {path: bound(tree.body) for path, tree in trees.items() if tree}
    users = {}
    for path, tree in trees.items():
        for file, wanted in repository.needs(path, tree).items() if tree else ():
            if file in names:
                users.setdefault(file, {})[path] = sorted(wanted & names[file])
    return {"unread": unread, "users": users}


if sys.argv[1] == "graph":
    print(json.dumps(graph(json.load(open("repository.json")))))
else:
    tree, error = parse(open("code.py").read())
    print(json.dumps({"names": sorted(bound(tree.body)) if tree else [], "error": error}))
