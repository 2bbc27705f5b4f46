"""The rules that no other tool checks: sizes, docstrings, imports at run time, generated files."""

import ast
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.cli.settings import env_example

ROOT = Path(__file__).parent.parent
MODULES = sorted([*ROOT.glob("app/**/*.py"), *ROOT.glob("tasks/**/*.py")])
MODULE_LINES, FUNCTION_LINES = 250, 45
DOCUMENTED = ("app/services", "tasks/training")
FORBIDDEN = ("import pickle", "torch.load", "trust_remote_code=True", "yaml.load(")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, Function):
            yield node


def test_there_are_modules_to_check() -> None:
    assert len(MODULES) > 40


def test_modules_stay_short() -> None:
    sizes = {name_of(path): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: size for name, size in sizes.items() if size > MODULE_LINES} == {}


def test_functions_stay_short() -> None:
    sizes = {
        f"{name_of(path)}:{node.lineno} {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in MODULES
        for node in functions(path)
    }
    assert {name: size for name, size in sizes.items() if size > FUNCTION_LINES} == {}


def test_public_functions_of_the_core_say_what_they_do() -> None:
    silent = [
        f"{name_of(path)}:{node.lineno} {node.name}"
        for path in MODULES
        if name_of(path).startswith(DOCUMENTED)
        for node in ast.parse(path.read_text()).body
        if isinstance(node, Function) and not node.name.startswith("_")
        if not ast.get_docstring(node)
    ]
    assert silent == []


def test_nothing_executes_what_it_reads() -> None:
    found = [
        f"{name_of(path)}: {word}"
        for path in MODULES
        for word in FORBIDDEN
        if word in path.read_text()
    ]
    assert found == []


@pytest.mark.parametrize("module", ["app.main", "app.cli.main", "tasks.worker"])
def test_service_processes_never_load_torch(module: str, tmp_path: Path) -> None:
    code = (
        f"import {module}, sys\n"
        "sys.exit(', '.join({'torch', 'transformers', 'peft'} & set(sys.modules)) or 0)"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert (run.returncode, run.stderr) == (0, "")


def test_env_example_names_every_setting() -> None:
    assert (ROOT / ".env.example").read_text() == env_example(), "run `make env`"


def test_openapi_snapshot_is_current() -> None:
    from app.main import create_app

    kept = json.loads((ROOT / "docs/openapi.json").read_text())
    assert kept == create_app().openapi(), "run `make openapi` and review the change"


def test_the_shipped_starter_is_whole() -> None:
    folder = ROOT / "app/lm/starter"
    named = json.loads((folder / "manifest.json").read_text())["files"]
    found = {
        path.name: {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
        }
        for path in folder.iterdir()
        if path.name != "manifest.json"
    }
    assert found == named
