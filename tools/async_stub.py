"""Writes the types of `resnetd.AsyncClient` from those of `Client`; run by `make docs`.

Its methods do not exist in the source: at run time they are made from those of `Client`.
"""

import ast
import contextlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import resnetd.client
from resnetd.bridge import LEFT_OUT
from resnetd.resources import Resource
from tools.check_prose import REPOSITORY

STUB = REPOSITORY / "client" / "resnetd" / "async_client.pyi"
_HEAD = "# Generated from `Client` by `make docs`. Do not edit.\n"
# Of the class itself, which `Client` has otherwise.
_OWN = """\
    url: str

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        retry: Retry | None = None,
        timeout_seconds: float = 30.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *exception: object) -> None: ...
    async def close(self) -> None: ...
"""
_ELLIPSIS = ast.Expr(ast.Constant(...))


def main() -> None:
    STUB.write_text(make_stub(), encoding="utf-8")


def make_stub() -> str:
    """The text of the stub, formatted."""
    client = _class_of(resnetd.client, "Client")
    found = dict(_list_resources(client))
    classes, imports = [], {"from collections.abc import AsyncGenerator"}
    methods: dict[str, list[ast.stmt]] = {}
    for kind in found.values():
        module = sys.modules[kind.__module__]
        methods[kind.__name__] = list(_list_methods(_class_of(module, kind.__name__)))
        imports |= _list_imports(module, methods[kind.__name__])
        classes.append(f"class Async{kind.__name__}:\n{_indent(methods[kind.__name__])}")
    own = list(_list_methods(client))
    imports |= _list_imports(resnetd.client, own)
    imports |= _list_imports(resnetd.client, ast.parse(inspect.cleandoc(_OWN)).body)
    attributes = "".join(f"    {name}: Async{kind.__name__}\n" for name, kind in found.items())
    (submit,) = (
        method
        for method in methods["Jobs"]
        if isinstance(method, ast.AsyncFunctionDef) and method.name == "submit"
    )
    body = f"{attributes}{_OWN}{_indent([submit, *own])}"
    classes.append(f"class AsyncClient:\n{body}")
    return _format("\n".join([_HEAD, *sorted(imports), *classes]))


def _list_resources(client: ast.ClassDef) -> Iterator[tuple[str, type[Resource]]]:
    """The attributes of a client that are resources, from its constructor."""
    (constructor,) = (
        node
        for node in client.body
        if isinstance(node, ast.FunctionDef) and node.name == "__init__"
    )
    for statement in constructor.body:
        match statement:
            case ast.Assign(
                targets=[ast.Attribute(attr=name)], value=ast.Call(func=ast.Name(id=called))
            ):
                kind = getattr(resnetd.client, called)
                if isinstance(kind, type) and issubclass(kind, Resource):
                    yield name, kind


def _list_methods(definition: ast.ClassDef) -> Iterator[ast.stmt]:
    """The public methods without their bodies: coroutines, or asynchronous generators."""
    for node in definition.body:
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
            continue
        if node.name in LEFT_OUT:
            continue
        node.body = [_ELLIPSIS]
        match node.returns:
            case ast.Subscript(value=ast.Name(id="Iterator"), slice=item):
                arguments = ast.Tuple([item, ast.Constant(None)])
                node.returns = ast.Subscript(ast.Name("AsyncGenerator"), arguments)
                yield node
            case _:
                yield ast.AsyncFunctionDef(**vars(node))


def _list_imports(module: ModuleType, nodes: list[ast.stmt]) -> set[str]:
    """The imports of the module that these signatures need, those for type checkers included."""
    used = {name for node in nodes for name in _list_names(node)}
    lines = set()
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) in used:
                    node_of_name = type(node)(**vars(node) | {"names": [alias]})
                    lines.add(ast.unparse(node_of_name))
    return lines


def _list_names(node: ast.AST) -> Iterator[str]:
    for found in ast.walk(node):
        if isinstance(found, ast.Name):
            yield found.id
        elif isinstance(found, ast.Constant) and isinstance(found.value, str):
            with contextlib.suppress(SyntaxError):  # an annotation in quotes is an expression
                yield from _list_names(ast.parse(found.value, mode="eval"))


def _class_of(module: ModuleType, name: str) -> ast.ClassDef:
    (found,) = (
        node
        for node in ast.parse(Path(str(module.__file__)).read_text("utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name == name
    )
    return found


def _indent(nodes: list[ast.stmt]) -> str:
    text = "\n".join(ast.unparse(node) for node in nodes)
    return "".join(f"    {line}\n" for line in text.splitlines())


def _format(text: str) -> str:
    ruff = [sys.executable, "-m", "ruff"]
    name = ["--stdin-filename", str(STUB), "-"]
    rules = "I,UP037,UP043,PYI011"
    for command in (["check", "--quiet", "--select", rules, "--fix"], ["format", "--quiet"]):
        text = subprocess.run(
            [*ruff, *command, *name], input=text, check=True, capture_output=True, text=True
        ).stdout
    return text


if __name__ == "__main__":
    main()
