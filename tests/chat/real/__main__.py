"""Judge real templates and write docs/templates.md's table anew: python -m tests.chat.real [PART OF A NAME]

With a part of a name, only those are judged and shown with what is not exact; nothing is written.
"""

import sys

from tests.chat.real import table
from tests.chat.real.fetch import available
from tests.chat.real.judge import EXACT, judge

wanted = sys.argv[1] if len(sys.argv) > 1 else ""
rows = []
for pair in available():
    if wanted not in pair.name:
        continue
    verdicts = judge(pair)
    rows.append(table.row(pair.name, verdicts))
    print(rows[-1], flush=True)
    for verdict in verdicts if wanted else ():
        if verdict.kind != EXACT:
            print(f"    {verdict.kind}: {verdict.talk.column}, {verdict.talk.name}: {verdict.why}")
if not wanted:
    table.PAGE.write_text(table.page(rows), encoding="utf-8")
