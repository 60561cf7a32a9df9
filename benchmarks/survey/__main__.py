"""Plan for all kinds of data sets and print a table in Markdown.

    python -m benchmarks.survey [KIND …] [--max_cases N] [--list]

No image is read and nothing is trained: each kind is a fingerprint that is drawn from published facts. Progress and
broken rules are written to the standard error.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.survey.kinds import KINDS
from benchmarks.survey.rules import check, check_outlier, check_scale, limited, plan_kind
from benchmarks.survey.table import Row, explain_rules, make_row, write_table


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.survey", description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", metavar="KIND", help="names of kinds; all kinds by default")
    parser.add_argument("--max_cases", type=int, metavar="N", help="draw at most N scans of each kind")
    parser.add_argument("--list", action="store_true", help="print the kinds and their sources without planning")
    options = parser.parse_args()
    unknown = sorted(set(options.kinds) - {kind.name for kind in KINDS})
    if unknown:
        parser.error(f"unknown kind: {', '.join(unknown)}; --list names them")
    chosen = [kind for kind in KINDS if not options.kinds or kind.name in options.kinds]
    if options.list:
        print("\n".join(f"- **{kind.name}** ({kind.group}): {kind.source}" for kind in chosen))
        return 0
    rows: list[tuple[str, Row]] = []
    broken = 0
    for kind in chosen:
        planned = plan_kind(kind if options.max_cases is None else limited(kind, options.max_cases))
        violations = [*check(planned), *check_outlier(planned), *check_scale(planned)]
        for violation in violations:
            exempt = kind.is_exempt(violation.rule)
            broken += not exempt
            print(
                f"{kind.name}: {violation.rule.name}: {violation.description}{' (exempt)' if exempt else ''}",
                file=sys.stderr,
            )
        rows.append((kind.group, make_row(planned, violations)))
    print(explain_rules())
    print(write_table(rows), end="")
    print(f"{len(rows)} kinds, {broken} broken rules", file=sys.stderr)
    return int(broken > 0)


if __name__ == "__main__":
    raise SystemExit(main())
