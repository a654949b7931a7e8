"""Chat templates that would run, or grow, without end: each is refused as that, after little work."""

import tracemalloc

import pytest

from finetune.chat import budget
from finetune.chat.jinja import JinjaTemplate
from finetune.errors import TemplateError

MESSAGES = [{"role": "user", "content": "word " * 20}, {"role": "assistant", "content": "yes"}]
LOOPS = "makes more loops and calls"
TEXT = "makes more text"
WIDTH = "a width that nothing has a use for"
DIGITS = "more digits than anything"


def doubling(expression: str, start: str = "'ab'") -> str:
    turns = f"{{% for i in range(64) %}}{{% set n.x = {expression} %}}{{% endfor %}}"
    return f"{{% set n = namespace(x={start}) %}}{turns}"


NESTED = "{% for a in 'x'.ljust(9000) %}" * 3 + "{{ a }}" + "{% endfor %}" * 3

BOMBS = {
    "text doubled by ~": (doubling("n.x ~ n.x"), TEXT),
    "text doubled by +": (doubling("n.x + n.x"), TEXT),
    "text doubled by join": (doubling("n.x.join([n.x, n.x, n.x])"), TEXT),
    "text doubled by the filter join": (doubling("[n.x, n.x] | join"), TEXT),
    "text doubled by format": (doubling("'{}{}'.format(n.x, n.x)"), TEXT),
    "text doubled by the filter format": (doubling("'%s%s' | format(n.x, n.x)"), TEXT),
    "text doubled by %": (doubling("'%s%s' % (n.x, n.x)"), TEXT),
    "text doubled by replace": (doubling("n.x.replace('a', n.x)"), TEXT),
    "text doubled by the filter replace": (doubling("n.x | replace('a', n.x)"), TEXT),
    "text doubled by translate": (doubling("n.x.translate({97: n.x})"), TEXT),
    "text doubled by a block that is set": (
        "{% set n = namespace(x='ab') %}{% for i in range(64) %}{% set y %}{{ n.x }}{{ n.x }}{% endset %}"
        "{% set n.x = y %}{% endfor %}",
        TEXT,
    ),
    "text doubled by a filter block": (
        "{% set n = namespace(x='ab') %}{% for i in range(64) %}{% set y %}{% filter upper %}{{ n.x }}{{ n.x }}"
        "{% endfilter %}{% endset %}{% set n.x = y %}{% endfor %}",
        TEXT,
    ),
    "text multiplied": (doubling("n.x * 100"), TEXT),
    "text multiplied at once": ("{{ 'x' * 10**12 }}", TEXT),
    "list doubled by +": (doubling("n.x + n.x", "[1]"), LOOPS),
    "list multiplied at once": ("{{ ([1] * 10**12) | length }}", LOOPS),
    "list in a list, printed": (doubling("[n.x, n.x]") + "{{ n.x }}", LOOPS),
    "list in a list, compared": (doubling("[n.x, n.x]") + "{{ n.x == [n.x] }}", LOOPS),
    "tuple in a tuple, hashed": (doubling("(n.x, n.x)") + "{{ {n.x: 1} }}", LOOPS),
    "dict in a dict": (doubling("{1: n.x, 2: n.x}") + "{{ n.x | tojson }}", LOOPS),
    "dict by its name": (doubling("dict(a=n.x, b=n.x)"), LOOPS),
    "list by the filters map and default": (doubling("[none, none] | map('default', n.x, true) | list"), LOOPS),
    "lists added up": (doubling("[n.x, n.x] | sum(start=[])", "[1]"), "adds up lists"),
    "numbers that grow": (doubling("n.x * n.x", "7"), DIGITS),
    "a power": ("{{ 9 ** (9 ** 9) }}", DIGITS),
    "a number of many bytes": ("{{ (1).to_bytes(10**10, 'big') | length }}", WIDTH),
    "loops in loops over a text": (NESTED, LOOPS),
    "a loop over a loop's filter": (NESTED.replace(" %}", " if a %}", 1), LOOPS),
    "a recursive loop": (
        "{% for i in range(1000) recursive %}{{ loop(range(1000)) if loop.depth < 9 }}{% endfor %}",
        LOOPS,
    ),
    "text in loops": (NESTED.replace("{{ a }}", "." * 10_000), TEXT),
    "a macro that calls itself twice": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        LOOPS,
    ),
    "a macro of much text": (
        "{% macro f(n) %}"
        + "." * 1000
        + "{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        TEXT,
    ),
    "a macro without end": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "calls itself too deeply"),
    "a caller that calls twice": (
        "{% macro f(n) %}{{ caller(n) }}{{ caller(n) }}{% endmacro %}"
        "{% macro g(n) %}{% if n %}{% call(k) f(n) %}{{ g(k - 1) }}{% endcall %}{% endif %}{% endmacro %}"
        "{{ g(25) }}",
        LOOPS,
    ),
    "a range": ("{{ range(10**12) | list }}", "counts beyond 1,000,000"),
    "a range to the last": ("{{ range(10**12) | last }}", "counts beyond 1,000,000"),
    "ljust": ("{{ 'x'.ljust(10**10) }}", WIDTH),
    "rjust": ("{{ 'x'.rjust(10**10) }}", WIDTH),
    "center": ("{{ 'x'.center(10**10) }}", WIDTH),
    "zfill": ("{{ 'x'.zfill(10**10) }}", WIDTH),
    "bytes": ("{{ 'x'.encode().ljust(10**10) }}", WIDTH),
    "expandtabs": ("{{ '\t\t'.expandtabs(10**10) }}", WIDTH),
    "expandtabs by its name": ("{{ '\t\t'.expandtabs(tabsize=10**10) }}", WIDTH),
    "% with a width": ("{{ '%10000000000d' % 1 }}", WIDTH),
    "% with a width given": ("{{ '%*d' % (10**10, 1) }}", WIDTH),
    "% with decimals": ("{{ '%.1000000000f' % 1 }}", WIDTH),
    "% with a name and a width": ("{{ '%(a)10000000000d' % {'a': 1} }}", WIDTH),
    "the filter format": ("{{ '%10000000000d' | format(1) }}", WIDTH),
    "format": ("{{ '{:>10000000000}'.format(1) }}", WIDTH),
    "format with a width given": ("{{ '{:>{w}}'.format(1, w=10**10) }}", WIDTH),
    "format_map": ("{{ '{a:>10000000000}'.format_map({'a': 1}) }}", WIDTH),
    "the filter center": ("{{ 'x' | center(10**10) }}", WIDTH),
    "the filter indent": ("{{ 'x\nx' | indent(10**10) }}", WIDTH),
    "the filter indent by a text": ("{{ 'x\nx' | indent('x'.ljust(9000) * 9) }}", WIDTH),
    "the filter tojson": ("{{ [1] | tojson(indent=10**10) }}", WIDTH),
    "the filter batch": ("{{ 'x' | batch(10**10, 'y') | list }}", WIDTH),
    "the filter slice": ("{{ 'x' | slice(10**10) | list }}", WIDTH),
    "the filter round": ("{{ 1.5 | round(10**10) }}", WIDTH),
    "a filter by map": ("{{ ['x'] | map('center', 10**10) | list }}", WIDTH),
    "lipsum": ("{{ lipsum(n=10**6) }}", "undefined"),
}


def render(source: str) -> str:
    return JinjaTemplate(source, name="t.jinja", variables={}).render(MESSAGES, None, True)


@pytest.mark.parametrize(("source", "told"), BOMBS.values(), ids=BOMBS)
def test_a_template_without_end_is_refused_as_that(
    source: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "STEPS", 30_000)  # so that there is less to wait for
    with pytest.raises(TemplateError, match=rf"^t\.jinja: the chat template .*{told}"):
        render(source)


@pytest.mark.parametrize("name", [name for name, (_, told) in BOMBS.items() if told in (TEXT, WIDTH)])
def test_little_memory_is_taken_before_it_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "CHARACTERS", 1_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(TemplateError):
            render(BOMBS[name][0])
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


UNREADABLE = {
    "deep parentheses": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "deep lists": "{{ " + "[" * 5000 + "]" * 5000 + " }}",
    "deep ifs": "{% if 1 %}" * 5000 + "{% endif %}" * 5000,
    "deep loops": "{% for a in b %}" * 500 + "{% endfor %}" * 500,
    "a long sum": "{{ 1" + " + 1" * 50_000 + " }}",
    "a long chain": "{{ a" + ".b" * 50_000 + " }}",
    "many nots": "{{ " + "not " * 50_000 + "1 }}",
    "a number of many digits": "{{ " + "9" * 5000 + " }}",
    "a very long one": "x" * (budget.LONGEST_SOURCE + 1),
}


@pytest.mark.parametrize("source", UNREADABLE.values(), ids=UNREADABLE)
def test_a_template_that_no_parser_takes_is_refused(source: str) -> None:
    with pytest.raises(TemplateError, match=r"^t\.jinja: (not a chat template: |a chat template of )"):
        render(source)


def test_what_nothing_counts_costs_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "SECONDS", 0.05)
    with pytest.raises(TemplateError, match=r"computes for more than 0\.05 seconds"):
        render(
            "{% set x = 'x' * 10**6 %}{% set y = 'x' * 10**6 %}"
            "{% for i in range(10**6) %}{{ x == y }}{% endfor %}"
        )


def test_a_long_conversation_may_cost_what_its_size_makes_likely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "STEPS", 1000)
    monkeypatch.setattr(budget, "CHARACTERS", 1000)
    source = (
        "{% for m in messages %}{% for n in messages %}{% endfor %}"
        "{{ m.role ~ ': ' ~ m.content + '\n' }}{% endfor %}"
    )
    many = MESSAGES * 100
    said = JinjaTemplate(source, name="t", variables={}).render(many, None, False)
    assert said == "".join(f"{m['role']}: {m['content']}\n" for m in many)


def test_a_text_may_grow_by_every_message_of_a_long_conversation() -> None:
    growing = "{% for m in messages %}{% set n.x = n.x + m.content %}{% endfor %}{{ n.x }}"
    source = "{% set n = namespace(x='') %}" + growing
    many = [{"role": "user", "content": "word " * 100}] * 2000
    assert len(JinjaTemplate(source, name="t", variables={}).render(many, None, False)) == 500 * 2000


def test_one_rendering_does_not_pay_for_another() -> None:
    template = JinjaTemplate("{% for i in range(1000) %}{{ i }}{% endfor %}", name="t", variables={})
    for _ in range(2 * budget.STEPS // 1000 // 10):
        template.render(MESSAGES[:1], None, False)
