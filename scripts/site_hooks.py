"""What the site takes from elsewhere when it is built, so that it cannot drift: benchmark figures, schemas, strategies.

MkDocs calls `on_page_markdown` for every page (`hooks` in mkdocs.yml). This is put in:

- `{{ FILE: KEY.KEY }}` becomes the number at that place in `benchmarks/results/FILE.json`, to two digits, or "not
  measured" where there is no such file or key;
- `<!-- overhead of strategies -->` becomes the table that `benchmarks/strategies.py` measured;
- `<!-- other benchmarks -->` becomes the ratios in files that the page names nowhere;
- `<!-- schema: NAME -->` becomes a table of what `docs/schemas/NAME.schema.json` describes;
- on the reference of strategies, a line below each strategy's heading says what it declares, and what it held and cost
  in the table of results.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SCHEMAS = ROOT / "docs" / "schemas"
STRATEGY_TABLE = ROOT / "docs" / "results" / "mw5_low_dim.md"
STRATEGY_PAGE = "strategies_reference.md"
NOT_MEASURED = "not measured"

FIGURE = re.compile(r"\{\{ (\w+): ([^{}]+?) \}\}")
OVERHEAD, OTHERS = "<!-- overhead of strategies -->", "<!-- other benchmarks -->"
RATIO = re.compile(r"(^|_)ratios?(_|$)")
SCHEMA = re.compile(r"<!-- schema: ([\w.]+) -->")
STRATEGY = re.compile(r"^### `(\w+)`$", re.MULTILINE)

NEEDS = {
    "task_id_at_test": "the task at test",
    "raw_data": "demonstrations of earlier tasks",
    "teacher": "a copy of an earlier policy",
    "lora": "layers that adapters fit into",
    "prompts": "a backbone that takes more tokens",
}
"""Fields of `vla_cl.strategies.Needs`, in words."""


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """MkDocs' hook: the page with what it asks for."""
    markdown = markdown.replace(OTHERS, other_figures(markdown)).replace(OVERHEAD, overhead_table())
    markdown = with_figures(markdown)
    markdown = SCHEMA.sub(lambda match: schema_table(match[1]), markdown)
    return with_declarations(markdown) if page.file.src_uri == STRATEGY_PAGE else markdown


# --- figures of benchmarks -------------------------------------------------------------------------------------------


def with_figures(markdown: str, results: Path = RESULTS) -> str:
    """Every `{{ FILE: KEY.KEY }}` replaced by the number that it names."""
    return FIGURE.sub(lambda match: figure(results / f"{match[1]}.json", match[2]), markdown)


def figure(path: Path, place: str) -> str:
    """The number at `place` ("ratios.windows") of a JSON file, to two significant digits; "not measured" without it.

    Keys are separated by dots; a key may hold spaces and commas.
    """
    value = find(path, place)
    if value is None:
        return NOT_MEASURED
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.2g}"


def find(path: Path, place: str) -> Any:
    """What lies at `place` of a JSON file, None where nothing does."""
    if not path.exists():
        return None
    value: Any = json.loads(path.read_text(encoding="utf-8"))
    for key in place.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value


def overhead_table(path: Path = RESULTS / "strategies_two_cores_no_gpu.json") -> str:
    """What a training step costs under each strategy, the dearest first; a column for each width that was measured."""
    runs: list[dict[str, Any]] = find(path, "runs") or []
    if not runs:
        return f"*{NOT_MEASURED.capitalize()}.*"
    measured = [run["strategies"] for run in runs]
    widths = " | ".join(f"trunk {run['width']} wide" for run in runs)
    lines = [f"| strategy | {widths} | extra passes | limit |", "|---" * (len(runs) + 3) + "|"]
    for name, row in sorted(measured[0].items(), key=lambda item: -item[1]["ratio"]):
        cells = " | ".join(f"{each[name]['ratio']:.2f}" if name in each else "" for each in measured)
        lines.append(f"| `{name}` | {cells} | {row['extra_passes']:g} | {row['limit']:g} |")
    return "\n".join(lines)


def other_figures(markdown: str, results: Path = RESULTS) -> str:
    """A table of the ratios in those files of results that a page does not name."""
    named = {match[1] for match in FIGURE.finditer(markdown)} | {"strategies_two_cores_no_gpu"}
    rows = [
        f"| `{path.stem}` | {place} | {{{{ {path.stem}: {place} }}}} |"
        for path in sorted(results.glob("*.json"))
        if path.stem not in named
        for place in ratios(json.loads(path.read_text(encoding="utf-8")))
    ]
    return "\n".join(["| file | what | ratio |", "|---|---|---|", *rows]) if rows else "*None.*"


def ratios(value: Any, place: str = "", inside: bool = False) -> Iterator[str]:
    """Places of the numbers in a tree whose own key, or one above, speaks of a ratio."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from ratios(each, f"{place}.{key}" if place else key, inside or bool(RATIO.search(key)))
    elif inside and isinstance(value, int | float):
        yield place


# --- schemas of files ------------------------------------------------------------------------------------------------


def schema_table(name: str, schemas: Path = SCHEMAS) -> str:
    """A table of the keys that a JSON Schema describes, and a link to the schema."""
    schema = json.loads((schemas / f"{name}.schema.json").read_text(encoding="utf-8"))
    rows = [f"| `{key}` | {kind} | {meaning} |" for key, kind, meaning in described(schema, schema)]
    table = "\n".join(["| key | type | meaning |", "|---|---|---|", *rows])
    return f"{table}\n\nJSON Schema: [`{name}.schema.json`](schemas/{name}.schema.json)"


def described(schema: Mapping[str, Any], root: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Key, type and meaning of everything that a schema describes, depth first; `[]` marks the items of a list."""
    schema = resolved(schema, root)
    if "x-kind" in schema:  # a dataset, whose shape and type are told in words
        return
    for key, value in schema.get("properties", {}).items():
        value = resolved(value, root)
        optional = "" if key in schema.get("required", ()) else "; may be missing"
        yield f"{prefix}{key}", f"{kind_of(value)}{optional}", value.get("description", "")
        yield from described(value, root, f"{prefix}{key}.")
    other = schema.get("additionalProperties")
    if isinstance(other, Mapping):
        other = resolved(other, root)
        name = schema.get("x-keys", "KEY")
        yield f"{prefix}<{name}>", kind_of(other), other.get("description", "")
        yield from described(other, root, f"{prefix}<{name}>.")
    if "items" in schema:
        yield from described(schema["items"], root, f"{prefix.removesuffix('.')}[].")


def resolved(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema with its `$ref` into `$defs` followed; what stands beside the reference wins."""
    if "$ref" not in schema:
        return schema
    target = root["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    return {**target, **{key: value for key, value in schema.items() if key != "$ref"}}


def kind_of(schema: Mapping[str, Any]) -> str:
    """The type of a value, in words."""
    if "x-kind" in schema:
        return f"dataset of {schema['x-kind']}"
    kinds = schema.get("type", "any")
    told = " or ".join([kinds] if isinstance(kinds, str) else kinds)
    if "enum" in schema:
        told = ", ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    if "const" in schema:
        told = f"`{json.dumps(schema['const'])}`"
    if "minimum" in schema or "maximum" in schema:
        told += (
            f", {schema.get('minimum', '')} to {schema['maximum']}"
            if "maximum" in schema
            else (f", at least {schema['minimum']}")
        )
    return told


# --- strategies ------------------------------------------------------------------------------------------------------


def with_declarations(markdown: str) -> str:
    """What each strategy declares, below its heading."""
    measured = strategy_rows(STRATEGY_TABLE)
    return STRATEGY.sub(lambda match: f"{match[0]}\n\n{declaration(match[1], measured.get(match[1]))}", markdown)


def declaration(name: str, measured: Mapping[str, str] | None) -> str:
    """What a strategy needs and works without, and its line of the ledger in the table of results."""
    from vla_cl.strategies import STRATEGIES

    strategy = STRATEGIES[name]
    needs = [NEEDS[need] for need, needed in vars(strategy.needs).items() if needed]
    free = "yes" if strategy.task_free else f"with `{strategy.task_free_with}`" if strategy.task_free_with else "no"
    ledger = "not measured"
    if measured:
        columns = ("Stored", "Extra parameters", "Extra passes", "Acting passes")
        stored, parameters, passes, acting = (measured.get(column, NOT_MEASURED) for column in columns)
        ledger = (
            f"stored {stored}, added parameters {parameters}, extra forward passes {passes} a training step and "
            f"{acting} a decision"
        )
    return (
        f"**Needs** {', '.join(needs) or 'nothing beyond the data of the present task'} · **works without boundaries** "
        f"{free} · **ledger** after five tasks of [the table](results.md): {ledger}."
    )


def strategy_rows(path: Path) -> dict[str, dict[str, str]]:
    """The rows of the table of results, by strategy."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {cells[0]: dict(zip(head, cells, strict=True)) for cells in rows}
