"""Write the list of all metrics into reference/metrics.md from the catalogue of the evaluation.

python docs/write_metrics.py
"""

from __future__ import annotations

from pathlib import Path

from detseg3d.evaluation.catalogue import CATALOGUE, MetricGroup, MetricSpec, Needs

PAGE = Path(__file__).parent / "reference" / "metrics.md"
BEGIN = "<!-- written by docs/write_metrics.py: begin -->\n"
END = "<!-- written by docs/write_metrics.py: end -->\n"

_HEADER = "| key | metric | better | definition | source |\n|---|---|---|---|---|"


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """Return the text of the page with the current list of metrics."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + section() + END + after


def section() -> str:
    """Return a table of metrics for each group."""
    parts = []
    for group in MetricGroup:
        rows = [_row(spec) for spec in CATALOGUE if spec.group is group]
        parts.append("\n".join([f"\n### {group}\n", _HEADER, *rows]))
    return "\n".join(parts).lstrip("\n") + "\n"


def _row(spec: MetricSpec) -> str:
    needs = "" if spec.needs is Needs.NOTHING else f" Needs {spec.needs}."
    return (
        f"| `{spec.key}` | {spec.label_with_unit} | {spec.better} | {spec.definition}{needs} | {spec.source or '–'} |"
    )


if __name__ == "__main__":
    main()
