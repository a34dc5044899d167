"""The shape of the code itself: which room may know which, how large things may be, and what must be documented."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "nvsm_lightning"
KNOWS = {
    "geometry": set(),
    "render": {"geometry"},
    "data": {"geometry"},
    "toy": {"geometry", "render", "data"},
    "features": {"geometry", "render"},
    "matching": {"geometry", "render", "features", "pose"},
    "pose": {"geometry", "render", "features"},
    "training": {"geometry", "features", "matching", "data"},
    "metrics": {"geometry"},
    "methods": {"geometry", "render", "features", "matching", "pose", "training", "metrics"},
    "report": {"geometry", "render", "metrics"},
}
KNOWS["bench"] = {*KNOWS}
KNOWS["cli"] = {*KNOWS}
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_FILE, MAX_FUNCTION = 400, 80


def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute, so that this test can read them"
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def own_rooms(file: Path) -> set[str]:
    names = {name for node in ast.walk(tree(file)) for name in imported(node)}
    parts = [name.split(".") for name in names]
    return {part[1] for part in parts if part[0] == "nvsm_lightning" and len(part) > 1 and (PACKAGE / part[1]).is_dir()}


def definitions(body: list[ast.stmt], prefix: str = ""):
    """(name, node) of functions and classes that can be reached from outside: not those inside of functions."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield prefix + node.name, node
            yield from definitions(node.body, f"{prefix}{node.name}.")


def test_every_room_is_listed():
    rooms = {path.parent.name for path in PACKAGE.glob("*/*.py")}
    assert rooms == set(KNOWS)


@pytest.mark.parametrize("room", KNOWS)
def test_a_room_knows_only_what_it_may(room):
    for file in (PACKAGE / room).rglob("*.py"):
        strangers = own_rooms(file) - KNOWS[room] - {room}
        assert not strangers, f"{file.relative_to(PACKAGE)} imports {sorted(strangers)}"


def test_the_rule_sees_every_way_of_importing(tmp_path):
    file = tmp_path / "x.py"
    file.write_text("def f():\n    from nvsm_lightning import methods\n    import nvsm_lightning.data.module as d\n")
    assert own_rooms(file) == {"methods", "data"}


def is_own_file(name: str) -> bool:
    path = PACKAGE.parent / name.replace(".", "/")
    return name.startswith("nvsm_lightning") and (path.is_dir() or path.with_suffix(".py").exists())


@pytest.mark.parametrize("file", ["cli/main.py", "__init__.py", "__main__.py", "errors.py", "cli/__init__.py"])
def test_what_runs_before_a_command_is_chosen_imports_only_the_standard_library(file):
    light = {"argparse", "difflib", "errno", "importlib", "os", "sys", "collections", "nvsm_lightning", "pathlib"}
    names = {name.split(".")[0] for node in ast.walk(tree(PACKAGE / file)) for name in imported(node)}
    assert names <= light
    own = {"nvsm_lightning", "nvsm_lightning.errors", "nvsm_lightning.cli", "nvsm_lightning.cli.main"}
    files = {name for node in ast.walk(tree(PACKAGE / file)) for name in imported(node) if is_own_file(name)}
    assert files <= own


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_files_and_functions_stay_small_and_public_ones_are_documented(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= MAX_FILE
    module = tree(file)
    assert ast.get_docstring(module) or not module.body, "the file has no docstring"
    hooks = ("__", "_", "on_", "before_", "after_", "configure_")
    for name, node in definitions(module.body):
        length = node.end_lineno - node.lineno + 1
        if isinstance(node, ast.ClassDef):
            assert ast.get_docstring(node) or node.name.startswith("_"), f"{name} has no docstring"
            continue
        assert length <= MAX_FUNCTION, f"{name} has {length} lines"
        hidden = any(part.startswith("_") for part in name.split("."))
        overrides = "." in name and (node.name.startswith(hooks) or node.name in INHERITED)
        assert hidden or overrides or ast.get_docstring(node), f"{name} has no docstring"
        if not hidden:
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            untyped = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
            assert not untyped, f"{name}: no type for {untyped}"


# methods whose meaning is that of the class they override
INHERITED = {
    "forward", "filter", "train", "subcommands", "add_arguments_to_parser", "parse_arguments", "instantiate_classes",
    "error",
    "setup", "teardown", "state_dict", "load_state_dict", "training_step", "validation_step", "test_step",
    "predict_step",
}  # fmt: skip
