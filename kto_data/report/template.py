"""Pages that need nothing else: no network, no other file, no script to be read. The home of Jinja2.

Every text is escaped, and a policy inside the file lets a browser run and load nothing but what stands here, whatever
slips through.
"""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import Any

from kto_data.report.stats_text import separation_words
from kto_data.report.text import cut
from kto_data.rules.words import counted
from kto_data.safe_text import printable

_MOST_OF_NAME = 120  # characters of a name that nothing else has cut


def render(template: str, *, script: str = "", **values: Any) -> str:
    """The page that a template of `templates/` makes of `values`, with the style of all reports and, where it is named,
    a script."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_resource),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )

    environment.filters.update(number="{:,}".format, name=_name, code=_code)
    environment.globals.update(counted=counted, separation_words=separation_words)
    style, code = _resource("report.css"), _resource(script) if script else ""
    scripts = _hash(code) if code else "'none'"
    return environment.get_template(template).render(
        style=Markup(style),
        script=Markup(code),
        policy=f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {scripts}; "
        "base-uri 'none'; form-action 'none'",
        **values,
    )


def _resource(name: str) -> str:
    return resources.files("kto_data.report").joinpath("templates", name).read_text(encoding="utf-8")


def _name(text: str, most: int = _MOST_OF_NAME) -> str:
    return cut(text, most)


def _code(text: str) -> str:
    """Words of ours, escaped, with what stands between backticks as code."""
    from markupsafe import Markup, escape

    parts = enumerate(text.split("`"))
    return Markup("").join(Markup("<code>{}</code>").format(part) if at % 2 else escape(part) for at, part in parts)


def _shown(value: Any) -> Any:
    """What an expression of the template gives, with control characters and turned writing direction made visible."""
    return printable(value) if type(value) is str else value


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
