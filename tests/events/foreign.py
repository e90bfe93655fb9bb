"""Writers' schemas that are not ours, and records written by them.

The encoder knows no logical types: a value is what lies on the wire.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from worker.events.schemas import current
from worker.events.types import Event

Tree = Any  # an Avro schema as JSON

PROMOTED = {"long": ["int"], "double": ["float", "int", "long"], "string": ["bytes"]}
LOGICAL = {
    "int": ["date", "time-millis", "timestamp-millis", "decimal"],
    "long": ["timestamp-millis", "timestamp-micros", "timestamp-nanos", "time-micros", "local-timestamp-millis"],
    "bytes": ["decimal", "duration", "uuid"],
    "string": ["uuid", "iban", "date"],
    "double": ["decimal"],
    "fixed": ["decimal", "duration", "uuid"],
}
_PRIMITIVES = ["null", "boolean", "int", "long", "float", "double", "bytes", "string"]
_MAX_DEPTH = 4

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
ints = st.integers(-(2**31), 2**31 - 1)
longs = st.integers(-(2**63), 2**63 - 1) | st.integers(1_700_000_000_000, 1_800_000_000_000)


def varint(number: int) -> bytes:
    """A zigzag varint, as Avro writes int and long."""
    number = (number << 1) ^ (number >> 63)
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def sized(data: bytes) -> bytes:
    return varint(len(data)) + data


def record(name: str, fields: dict[str, Tree], **more: Any) -> Tree:
    return {"type": "record", "name": name, "fields": [{"name": k, "type": v} for k, v in fields.items()]} | more


@dataclass(frozen=True)
class Foreign:
    """A writer's schema, the same in our namespace and without logical types, and a record that was written by it."""

    text: str
    plain: str
    data: bytes


@st.composite
def foreign(draw: st.DrawFn, cls: type[Event]) -> Foreign:
    """A writer of `cls`: fields dropped, promoted, replaced, put into unions, shuffled, and others beside them."""
    ours = json.loads(current()[cls].text)
    maker = _SchemaMaker(draw)
    order = draw(st.permutations(ours["fields"])) if draw(st.booleans()) else ours["fields"]
    fields = [field for field in map(maker.variation, order) if field is not None]
    extra = [{"name": f"extra_{i}", "type": maker.type(0)} for i in range(draw(st.integers(0, 3)))]
    namespace = draw(st.sampled_from([ours["namespace"], "com.acme", ""]))
    tree = record(cls.__name__, {}, namespace=namespace, aliases=["Other"]) | {"fields": fields + extra}
    names = {found["name"]: found for found in _named(tree)}
    plain = without_logical(tree) | {"namespace": ours["namespace"]}
    return Foreign(json.dumps(tree), json.dumps(plain), _Encoder(draw, names).encode(tree, 0))


class _SchemaMaker:
    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw
        self._known: list[str] = []
        self._made = 0

    def variation(self, field: dict[str, Any]) -> dict[str, Any] | None:
        """The field as another writer might have it; None where it has none."""
        draw, kind = self._draw, field["type"]
        optional = isinstance(kind, list)
        inner = kind[1] if optional else kind
        changes = ["promoted", "logical", "any", "union", "dropped"]
        match draw(st.sampled_from([*["same"] * 10, *changes, *changes[:2]])):
            case "dropped":
                if "default" in field:
                    return None
            case "any":
                inner = self.type(1)
            case "promoted":
                base = inner["type"] if isinstance(inner, dict) else inner
                inner = draw(st.sampled_from(PROMOTED.get(base, [inner])))
            case "logical" if isinstance(inner, str):
                inner = self._logical(draw(st.sampled_from([inner, *PROMOTED.get(inner, [])])))
            case "union" if isinstance(inner, str):
                others = draw(st.lists(st.sampled_from(_PRIMITIVES), unique=True, max_size=3))
                inner = draw(st.permutations(sorted({inner, *others})))
        tree = inner if isinstance(inner, list) or inner == "null" or not optional else ["null", inner]
        return {"name": field["name"], "type": tree, "doc": "changed", "default": draw(st.sampled_from([0, "x", None]))}

    def type(self, depth: int) -> Tree:
        """Any type."""
        draw = self._draw
        kinds = ["primitive", "logical", "enum", "fixed", "known"]
        match draw(st.sampled_from(kinds + ["array", "map", "union", "record", "chain"] * (depth < _MAX_DEPTH))):
            case "logical":
                return self._logical(draw(st.sampled_from(_PRIMITIVES)))
            case "enum":
                return {"type": "enum", "name": self._name(), "symbols": ["a", "b"], "default": "a"}
            case "fixed":
                size = draw(st.sampled_from([0, 1, 12, 16]))
                return {"type": "fixed", "name": self._name(), "size": size, "logicalType": "duration"}
            case "array":
                return {"type": "array", "items": self.type(depth + 1)}
            case "map":
                return {"type": "map", "values": self.type(depth + 1)}
            case "union":
                return draw(st.lists(st.sampled_from(_PRIMITIVES), unique=True, min_size=1, max_size=5))
            case "record":
                return record(self._name(), {f"f{i}": self.type(depth + 1) for i in range(draw(st.integers(0, 3)))})
            case "chain":
                name = self._name()
                self._known.append(name)
                return record(name, {"next": ["null", name], "children": {"type": "array", "items": name}})
            case "known" if self._known:
                return draw(st.sampled_from(self._known))
            case _:
                return draw(st.sampled_from(_PRIMITIVES))

    def _logical(self, kind: str) -> Tree:
        name = self._draw(st.sampled_from(LOGICAL.get(kind, ["unheard-of"])))
        return {"type": kind, "logicalType": name, "precision": 9, "scale": 2}

    def _name(self) -> str:
        self._made += 1
        return f"Named{self._made}"


class _Encoder:
    """Writes some value of a schema."""

    def __init__(self, draw: st.DrawFn, names: dict[str, Tree]) -> None:
        self._draw = draw
        self._names = names

    def encode(self, tree: Tree, depth: int) -> bytes:
        draw = self._draw
        kind = tree["type"] if isinstance(tree, dict) else tree
        match kind:
            case list():
                index = 0 if depth > _MAX_DEPTH and "null" in kind[:1] else draw(st.integers(0, len(kind) - 1))
                return varint(index) + self.encode(kind[index], depth + 1)
            case "null":
                return b""
            case "boolean":
                return draw(st.sampled_from([b"\x00", b"\x01"]))
            case "int":
                return varint(draw(ints))
            case "long":
                return varint(draw(longs))
            case "float":
                return struct.pack("<f", draw(st.floats(width=32)))
            case "double":
                return struct.pack("<d", draw(st.floats()))
            case "bytes":
                return sized(draw(st.binary(max_size=8) | texts.map(str.encode)))
            case "string":
                return sized(draw(texts).encode())
            case "fixed":
                return bytes(draw(st.binary(min_size=tree["size"], max_size=tree["size"])))
            case "enum":
                return varint(draw(st.integers(0, len(tree["symbols"]) - 1)))
            case "record":
                return b"".join(self.encode(field["type"], depth + 1) for field in tree["fields"])
            case "array":
                return self._blocks([self.encode(tree["items"], depth + 1) for _ in range(self._count(depth))])
            case "map":
                count = self._count(depth)
                values = [self.encode(tree["values"], depth + 1) for _ in range(count)]
                return self._blocks([sized(draw(texts).encode()) + value for value in values])
            case _:
                return self.encode(self._names[kind], depth)

    def _count(self, depth: int) -> int:
        return 0 if depth > _MAX_DEPTH else self._draw(st.integers(0, 2))

    def _blocks(self, items: list[bytes]) -> bytes:
        body = b"".join(items)
        if not items:
            return b"\x00"
        if self._draw(st.booleans()):
            return varint(-len(items)) + sized(body) + b"\x00"
        return varint(len(items)) + body + b"\x00"


def _named(tree: Tree) -> list[Tree]:
    if isinstance(tree, list):
        return [found for item in tree for found in _named(item)]
    if not isinstance(tree, dict):
        return []
    own = [tree] if tree.get("type") in ("record", "enum", "fixed") else []
    return own + [found for value in tree.values() for found in _named(value)]


def without_logical(tree: Tree, keep: tuple[str, ...] = ()) -> Tree:
    """The schema without logical types, and without defaults where `keep` does not name them."""
    if isinstance(tree, list):
        return [without_logical(item, keep) for item in tree]
    if isinstance(tree, dict):
        left_out = {"logicalType", "default"} - set(keep)
        return {key: without_logical(value, keep) for key, value in tree.items() if key not in left_out}
    return tree
