"""Judge real templates and write docs/templates.md's table anew: python -m tests.chat.real [PART OF A NAME]

With a part of a name, only those are judged and shown with what is not exact; nothing is written.
"""

import json
import sys

from finetune.demo.fetch import real_cache
from tests.chat.real import table
from tests.chat.real.fetch import available
from tests.chat.real.judge import EXACT, Verdict, judge

wanted = sys.argv[1] if len(sys.argv) > 1 else ""
verdicts: dict[str, list[Verdict]] = {}
for pair in available():
    if wanted in pair.name:
        verdicts[pair.name] = judge(pair)
        print(table.row(pair.name, verdicts[pair.name]), flush=True)
        for verdict in verdicts[pair.name] if wanted else ():
            if verdict.kind != EXACT:
                print(f"    {verdict.kind}: {verdict.talk.column}, {verdict.talk.name}: {verdict.why}")
if not wanted:
    told = {
        name: [(v.talk.column, v.talk.name, v.kind, v.why, v.reads) for v in found]
        for name, found in verdicts.items()
    }
    (real_cache() / "verdicts.json").write_text(
        json.dumps(told, ensure_ascii=False, indent=1), encoding="utf-8"
    )
    table.PAGE.write_text(table.page(verdicts), encoding="utf-8")
