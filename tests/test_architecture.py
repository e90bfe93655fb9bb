"""Imports go in one direction: packages know each other only through a few shared modules and `events/`."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("worker.intake", "worker.engine", "worker.delivery")
# What the rooms hand to each other.
SHARED = ("worker.job", "worker.picture", "worker.failure", "worker.outcome", "worker.engine_interface")
# What may know several rooms.
COMPOSERS = (
    "worker.app", "worker.lifecycle", "worker.runtime", "worker.replay", "worker.cli", "worker.gateway",
    "worker.dispatch", "worker.poll_waits", "worker.__main__",
)  # fmt: skip
# Not in the wheel: it may import anything, and nothing that is deployed may import it.
DEVTOOLS = "devtools"
PURE = (
    "worker.engine.schedule.scheduler", "worker.engine.cost", "worker.engine.measured_times",
    "worker.intake.ledger", "worker.intake.offset_metadata",
    "worker.intake.admit", "worker.intake.start_queue", "worker.content.rules",
    "worker.dispatch.policy", "worker.dispatch.fleet", "worker.dispatch.work",
)  # fmt: skip
IMPURE = ("torch", "confluent_kafka", "boto3", "time")

Tree = Mapping[str, str]
Graph = dict[str, set[str]]


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def read(folder: Path) -> dict[str, str]:
    """Every module below `folder` by its dotted name."""
    sources = {}
    for path in sorted([*(folder / "worker").rglob("*.py"), *(folder / DEVTOOLS).rglob("*.py")]):
        parts = path.relative_to(folder).with_suffix("").parts
        sources[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return sources


def imports(module: str, tree: Tree, *, typing_too: bool = True) -> set[str]:
    """What `module` imports anywhere in it, as modules of `tree` where they are."""
    found = set()
    for node in _walk(ast.parse(tree[module]), typing_too):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            base = _absolute(module, node, tree)
            names = [f"{base}.{alias.name}" for alias in node.names]
        for name in names:
            while name.startswith(("worker.", f"{DEVTOOLS}.")) and name not in tree:
                name = name.rpartition(".")[0]
            found.add(name)
    return found - {module}


def _walk(node: ast.AST, typing_too: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and not typing_too and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        yield from _walk(child, typing_too)


def _absolute(module: str, node: ast.ImportFrom, tree: Tree) -> str:
    if not node.level:
        return node.module or ""
    is_package = any(other.startswith(module + ".") for other in tree)
    parts = module.split(".")
    parts = parts[: len(parts) - node.level + is_package]
    return ".".join([*parts, *([node.module] if node.module else [])])


def problems(tree: Tree) -> list[str]:
    """A sentence for every import that points the wrong way."""
    graph = {module: imports(module, tree) for module in tree}
    deployed = {module: targets for module, targets in graph.items() if not within(module, DEVTOOLS)}
    return [
        *_deployed_problems(deployed),
        *_room_problems(deployed),
        *_purity_problems(tree),
        *_cycle_problems(tree),
    ]


def _deployed_problems(graph: Graph) -> Iterator[str]:
    for module, targets in graph.items():
        yield from (
            f"{module} imports {target}: the wheel does not hold it" for target in targets if within(target, DEVTOOLS)
        )


def _room_problems(graph: Graph) -> Iterator[str]:
    for module, targets in graph.items():
        if any(within(module, composer) for composer in COMPOSERS):
            continue
        home = next((room for room in ROOMS if within(module, room)), None)
        known = {room: target for room in ROOMS for target in sorted(targets) if within(target, room)}
        if within(module, "worker.events") and known:
            yield f"{module} imports {', '.join(known.values())}: events know no room"
        elif home and known.keys() - {home}:
            others = ", ".join(target for room, target in known.items() if room != home)
            yield f"{module} imports {others}: rooms meet only in {', '.join(SHARED)} and worker.events"
        elif len(known) > 1:
            yield f"{module} imports {', '.join(known.values())}: only worker.app and worker.cli know several rooms"
        if home or within(module, "worker.events") or module in SHARED:
            yield from (
                f"{module} imports {target}: it would know all the rooms"
                for target in sorted(targets)
                if any(within(target, composer) for composer in COMPOSERS)
            )


def _purity_problems(tree: Tree) -> Iterator[str]:
    graph = {module: imports(module, tree, typing_too=False) for module in tree}
    for module in PURE:
        if module not in tree:
            yield f"{module} is not there, but this test says that it is pure"
            continue
        reached, open_ = {module: module}, [module]
        while open_:
            here = open_.pop()
            for target in sorted(graph.get(here, set()) | _packages(here)):
                if target not in reached:
                    reached[target] = f"{reached[here]} → {target}"
                    open_.append(target)
        for target, way in reached.items():
            if any(within(target, name) for name in IMPURE):
                yield f"{module} is pure and must not reach {target}: {way}"


def _packages(module: str) -> set[str]:
    """Importing a module runs the packages that it is in."""
    parts = module.split(".")
    return {".".join(parts[:i]) for i in range(1, len(parts))} if parts[0] in ("worker", DEVTOOLS) else set()


def _cycle_problems(tree: Tree) -> Iterator[str]:
    graph = {module: {t for t in imports(module, tree) if t in tree} for module in tree}
    done: set[str] = set()

    def visit(module: str, way: list[str]) -> Iterator[str]:
        if module in way:
            yield f"imports go in a circle: {' → '.join([*way[way.index(module) :], module])}"
        elif module not in done:
            for target in sorted(graph[module]):
                yield from visit(target, [*way, module])
            done.add(module)

    for module in sorted(graph):
        yield from visit(module, [])


def test_imports_point_one_way() -> None:
    found = problems(read(ROOT))
    assert not found, "\n" + "\n".join(found)


CLEAN = {
    "worker": "",
    "worker.job": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n",
    "worker.app": "from worker.engine import loop\nimport worker.delivery.upload\nimport worker.intake.consume\n",
    "worker.cli": "",
    "worker.cli.run": "from worker import app\n",
    "worker.events": "",
    "worker.events.types": "",
    "worker.intake": "",
    "worker.intake.consume": "import confluent_kafka, time\nfrom . import ledger\nfrom .offset_metadata import x\n",
    "worker.engine": "",
    "worker.engine.loop": "import torch\nfrom worker.engine.schedule.scheduler import S\nfrom worker.job import Job\n",
    "worker.delivery": "",
    "worker.delivery.upload": "import boto3\n",
    **dict.fromkeys(PURE, "from worker.job import Job\nimport math\n"),
}


def test_a_clean_tree_has_no_problem() -> None:
    assert problems(CLEAN) == []


@pytest.mark.parametrize(
    ("module", "source", "problem"),
    [
        ("worker.intake.consume", "from worker.engine import loop", "rooms meet only"),
        ("worker.engine.loop", "def f():\n    from worker.delivery.upload import U", "rooms meet only"),
        ("worker.delivery.upload", "from ..intake import consume", "rooms meet only"),
        ("worker.delivery.upload", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
         "    from worker.engine.loop import StepEngine", "rooms meet only"),
        ("worker.models.load", "from devtools.models.small import unet", "the wheel does not hold it"),
        ("worker.telemetry.metrics", "import worker.engine.loop\nimport worker.delivery.upload", "know several rooms"),
        ("worker.events.types", "from worker.intake.ledger import Ledger", "events know no room"),
        ("worker.engine.loop", "from worker.app import main", "know all the rooms"),
        ("worker.outcome", "from worker.app import main", "know all the rooms"),
        ("worker.engine.schedule.scheduler", "import torch", "must not reach torch"),
        ("worker.engine.cost", "from time import monotonic", "must not reach time"),
        ("worker.intake.ledger", "import confluent_kafka.admin", "must not reach confluent_kafka"),
        ("worker.intake.admit", "def f():\n    import boto3", "must not reach boto3"),
        ("worker.engine", "import torch", "worker.engine.cost → worker.engine → torch"),
        ("worker.job", "from worker.clock import now", "worker.job → worker.clock → time"),
        ("worker.job", "import worker.events.types", "in a circle: worker.job → worker.events.types → worker.job"),
        ("worker.intake.offset_metadata", "from worker.intake import ledger", "imports go in a circle"),
    ],
)  # fmt: skip
def test_each_wrong_arrow_is_found(module: str, source: str, problem: str) -> None:
    tree = CLEAN | {
        "worker.clock": "import time.monotonic\n",
        "worker.events.types": "from worker.job import Job\n",
        "worker.intake.ledger": "from worker.intake import offset_metadata\n",
    }
    assert problems(tree) == []
    found = problems(tree | {module: source})
    assert any(problem in line for line in found), found


def test_a_pure_module_that_moved_away_is_missed() -> None:
    tree = {module: source for module, source in CLEAN.items() if module != "worker.intake.admit"}
    assert any("worker.intake.admit is not there" in line for line in problems(tree))


def test_modules_are_read_from_files(tmp_path: Path) -> None:
    (tmp_path / "worker" / "engine").mkdir(parents=True)
    (tmp_path / "worker" / "engine" / "__init__.py").write_text("")
    (tmp_path / "worker" / "engine" / "loop.py").write_text("import torch\n")
    assert read(tmp_path) == {"worker.engine": "", "worker.engine.loop": "import torch\n"}
