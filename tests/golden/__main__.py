"""Write the golden pages and the table of docs/templates.md anew: python -m tests.golden"""

from tests.chat.conftest import make_family
from tests.golden import table
from tests.golden.pages import HERE, SHOWN, page

for name in SHOWN:
    (HERE / f"{name}.txt").write_text(page(name, make_family(name)), encoding="utf-8")
table.PAGE.write_text(table.page(), encoding="utf-8")
