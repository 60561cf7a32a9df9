"""Fill the templates of the report and return HTML.

Every value that a template prints is escaped, so that a name of a case, class or folder cannot become markup. A
template that prints an unknown variable raises an error.
"""

from __future__ import annotations

import base64
import gzip
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from detseg3d.reporting.html.formatting import DASH, count, interval, number, significant

__all__ = ["compress", "render"]


def render(template: str, **values: object) -> Markup:
    """Fill a template from the folder ``templates`` and return the HTML.

    Parameters
    ----------
    template : str
        Name without ending, for example ``viewer``.
    **values
        Values of the variables of the template. Text is escaped; ``Markup`` is printed as it is.
    """
    return Markup(_environment().get_template(f"{template}.html").render(values))  # nosec B704: escaped by Jinja2


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("detseg3d.reporting.html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: "" if value is None else value,  # None prints nothing
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.filters |= {"number": number, "significant": significant}
    environment.globals |= {"DASH": DASH, "count": count, "interval": interval}
    return environment


def compress(data: bytes) -> str:
    """Return data as text: gzip, then base64. Equal data give equal text."""
    return base64.b64encode(gzip.compress(data, compresslevel=9, mtime=0)).decode("ascii")
