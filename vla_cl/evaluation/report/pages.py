"""How a page is made from its template: one HTML file that loads nothing."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from vla_cl.evaluation.report.colours import RUN_COLOURS_DARK, RUN_COLOURS_LIGHT, VIRIDIS

PACKAGE = "vla_cl.evaluation.report"


def render_page(template: str, *, styles: tuple[str, ...] = ("style.css",), script: str = "", **values: Any) -> str:
    """Fill in a template that extends `base.html.j2`.

    Args:
        template: Path of the template, from this package.
        styles: Paths of style sheets.
        script: Path of a script; "" for a page that runs nothing. The page's content security policy allows this
            script, by its hash, and no other.
        values: What the template uses.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined  # here: the command line should start without it

    environment = Environment(
        loader=PackageLoader(PACKAGE, ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    code = _text(script) if script else ""
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode("ascii")
    return environment.get_template(template).render(
        style=Markup("\n".join(map(_text, styles))),
        script=Markup(code),
        script_policy=f"'sha256-{digest}'" if code else "'none'",
        run_colours=list(zip(RUN_COLOURS_LIGHT, RUN_COLOURS_DARK, strict=True)),
        scale=VIRIDIS,
        **values,
    )


def inline_json(value: Any) -> Markup:
    """JSON that can stand inside a `<script type="application/json">`, whatever texts it holds."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _text(path: str) -> str:
    return files(PACKAGE).joinpath(path).read_text(encoding="utf-8")
