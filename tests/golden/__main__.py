"""Write the golden pages anew: python -m tests.golden"""

from tests.chat.conftest import make_family
from tests.golden.pages import HERE, SHOWN, page

for name in SHOWN:
    (HERE / f"{name}.txt").write_text(page(name, make_family(name)), encoding="utf-8")
