"""How every page is put together: sections in one frame with one style, loading nothing from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).resolve().parent / "templates"


@dataclass(frozen=True)
class Section:
    """One part of a page under a heading."""

    title: str
    html: Markup

    @property
    def anchor(self) -> str:
        return "".join(c if c.isalnum() else "-" for c in self.title.lower())


@cache
def environment() -> Environment:
    import jinja2

    loader = jinja2.FileSystemLoader(TEMPLATES)
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)


def fill(template: str, **values: Any) -> Markup:
    """A template of sections/ with its values."""
    return Markup(environment().get_template(f"sections/{template}.html.j2").render(values))


def page(title: str, kicker: str, head: Markup, sections: Sequence[Section]) -> str:
    """The whole page. kicker: what kind of page it is, above the title."""
    template = environment().get_template("base.html.j2")
    return template.render(title=title, kicker=kicker, head=head, sections=sections)
