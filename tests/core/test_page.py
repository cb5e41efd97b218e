"""Self-contained pages and their plots: escaping, structure, and where things are drawn."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_edge import page, plots
from lepton_edge.page import Markup
from lepton_edge.plots import Range, Series

SVG = "{http://www.w3.org/2000/svg}"
NASTY = "<script>alert('x')</script> & \"quotes\" </title></style><img src=x onerror=y>"


class Reader(HTMLParser):
    """Tags, attributes and text of a page; every tag that needs an end has one."""

    void = ("meta", "br", "img", "link")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.void:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def every_part(text: str) -> list[page.Part]:
    """Each function of the kit, with the same text everywhere."""
    series = [Series(text, [1.0, 2.0], [0.5, 1.5], [1.5, 2.5]), Series(text, [None, 1.0])]
    return [
        text,
        page.section(text, text),
        page.paragraph(text, page.strong(text)),
        page.small(text),
        page.code(text),
        page.bullets([text]),
        page.notice("warning", text),
        page.folded(text, text),
        page.side_by_side(text, text),
        page.tiles([(text, text, text)]),
        page.facts([(text, text)]),
        page.table([text, text], [[text, page.code(text)]], numbers=[1], caption=text),
        page.figure(text, text, series=[text, text], remark=text),
        plots.bars(text, [text, text], series, x=text, y=text, remark=text),
        plots.lines(text, [text, text], series, x=text, y=text, remark=text),
        plots.histogram(text, [1.0, 2.0, 2.5], x=text, y=text, remark=text),
        plots.ranges(text, [Range(text, 2.0, 1.0, 3.0)], x=text, unit=text, remark=text),
        plots.stacks(text, [text, text], series, x=text, remark=text),
    ]


def drawing(part: Markup) -> ElementTree.Element:
    """The SVG of a plot, which is well-formed XML."""
    (svg,) = re.findall(r"<svg.*</svg>", part.html, re.S)
    return ElementTree.fromstring(svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" '))


def marks(part: Markup, tag: str = "rect") -> list[dict[str, float]]:
    """Where each mark of a kind is."""
    return [
        {
            name: float(each.attrib[name])
            for name in ("x", "y", "width", "height", "cx", "cy")
            if name in each.attrib
        }
        for each in drawing(part).iter(f"{SVG}{tag}")
        if each.get("class") == "mark"
    ]


def words(part: Markup) -> list[str]:
    return [each.text or "" for each in drawing(part).iter(f"{SVG}text")]


# Pages


def test_a_page_is_a_whole_document() -> None:
    html = page.page("A title", page.section("Speed", "fast"), subtitle="and more")
    assert html.startswith("<!doctype html>\n")
    reader = Reader(html)
    assert [tag for tag in ("html", "head", "title", "body", "h1", "h2") if tag in reader.tags] == [
        "html",
        "head",
        "title",
        "body",
        "h1",
        "h2",
    ]
    assert "A title" in reader.text
    assert ("name", "viewport") in reader.attributes
    assert "prefers-color-scheme:dark" in html


def test_a_page_loads_and_runs_nothing() -> None:
    html = page.page(NASTY, *every_part(NASTY), subtitle=NASTY)
    reader = Reader(html)
    assert not {"script", "link", "img", "iframe", "object", "base", "form"} & set(reader.tags)
    names = {name for name, _ in reader.attributes}
    assert not names & {"src", "href", "srcset", "style", "action"}
    assert not [name for name in names if name.startswith("on")]
    assert "url(" not in html
    assert "@import" not in html
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    assert ("content", policy) in reader.attributes


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=40))
def test_any_text_comes_out_as_text(text: str) -> None:
    html = page.page(text, *every_part(text), subtitle=text)
    plain = Reader(page.page("x", *every_part("x"), subtitle="x"))
    reader = Reader(html)
    # Some parts are left out where their text is empty; nothing is ever added.
    assert len(reader.tags) <= len(plain.tags)
    html.encode("utf-8")
    assert Reader(page.markup(text)).tags == []
    if text.isprintable() and not re.search("[\u202a-\u202e\u2066-\u2069]", text):
        assert Reader(page.markup(text)).text == text


def test_characters_that_reach_beyond_their_text_are_replaced() -> None:
    for bad in ("\0", "\x1b", "\x85", "\ud800", "\u202e", "\u2066", "\uffff", "\U0001fffe"):
        assert page.text(f"a{bad}b") == "a\ufffdb"
    assert page.text("ünïcödé 日本 שלום 🙂\n") == "ünïcödé 日本 שלום 🙂\n"


def test_markup_is_not_escaped_again() -> None:
    assert page.paragraph(page.code("<a>"), " & ").html == "<p><code>&lt;a&gt;</code> &amp; </p>"


def test_a_table_aligns_its_numbers() -> None:
    html = page.table(["way", "ms"], [["a", "1.0"]], numbers=[1]).html
    assert '<th scope="col" class="n">ms</th>' in html
    assert '<td class="n">1.0</td>' in html
    assert '<td dir="auto">a</td>' in html


def test_a_legend_is_for_several_series() -> None:
    assert "legend" not in page.figure("a", series=["one"]).html
    assert page.figure("a", series=["one", "two"]).html.count('class="key') == 2


# Plots


def test_bars_are_as_high_as_their_values() -> None:
    found = marks(plots.bars("a", ["x", "y"], [Series("s", [1.0, 2.0]), Series("t", [4.0, 0.0])]))
    heights = [mark["height"] for mark in found]
    # In the order of drawing: category by category.
    assert heights[1] == pytest.approx(4 * heights[0], abs=0.2)
    assert heights[2] == pytest.approx(2 * heights[0], abs=0.2)
    assert heights[3] == 0
    assert all(
        mark["y"] + mark["height"] == pytest.approx(found[0]["y"] + heights[0], abs=0.2)
        for mark in found
    )


def test_bars_and_their_whiskers_stay_inside_the_drawing() -> None:
    part = plots.bars("a", ["x"], [Series("s", [1.0], [0.9], [97.0])], y="ms")
    (mark,) = marks(part)
    assert mark["y"] >= 0
    (whisker,) = drawing(part).iter(f"{SVG}path")
    assert all(float(number) >= 0 for number in re.findall(r"V(\d+\.\d)", whisker.attrib["d"]))
    assert "s, x: 1 ms (0.9 to 97)" in part.html


def test_a_value_that_is_not_there_is_not_drawn() -> None:
    series = [Series("s", [1.0, None, 3.0], [1.0, None, 2.0], [2.0, None, 4.0])]
    assert len(marks(plots.bars("a", ["x", "y", "z"], series))) == 2
    assert len(marks(plots.lines("a", ["x", "y", "z"], series), "circle")) == 2


def test_lines_rise_with_their_values() -> None:
    for logarithmic in (False, True):
        part = plots.lines(
            "a", list("xyz"), [Series("s", [1.0, 10.0, 100.0])], logarithmic=logarithmic
        )
        ys = [mark["cy"] for mark in marks(part, "circle")]
        assert ys == sorted(ys, reverse=True)
        steps = [ys[0] - ys[1], ys[1] - ys[2]]
        assert (steps[0] == pytest.approx(steps[1], abs=0.2)) is logarithmic


def test_a_logarithmic_axis_takes_values_above_zero_only() -> None:
    with pytest.raises(ValueError, match="above zero"):
        plots.lines("a", ["x"], [Series("s", [0.0])], logarithmic=True)
    with pytest.raises(ValueError, match="above zero"):
        plots.ranges("a", [Range("r", 1.0, -1.0, 2.0)])
    with pytest.raises(ValueError, match="above zero"):
        plots.ranges("a", [])


def test_series_of_another_length_than_the_categories_are_refused() -> None:
    for draw in (plots.bars, plots.lines, plots.stacks):
        with pytest.raises(ValueError, match="s has 1 values for 2 categories"):
            draw("a", ["x", "y"], [Series("s", [1.0])])  # type: ignore[operator]
        with pytest.raises(ValueError, match="s has 1 values for 2 categories"):
            draw("a", ["x", "y"], [Series("s", [1.0, 2.0], low=[1.0])])  # type: ignore[operator]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200),
    st.integers(1, 40),
)
def test_a_histogram_counts_every_value(values: list[float], bins: int) -> None:
    part = plots.histogram("a", values, bins=bins)
    titles = [each.text or "" for each in drawing(part).iter(f"{SVG}title")]
    assert sum(int(title.rpartition(": ")[2]) for title in titles) == len(values)
    assert len(marks(part)) == len(titles) <= bins


def test_a_histogram_puts_the_ends_into_the_outer_bins() -> None:
    part = plots.histogram("a", [0.0, 0.9, 1.0, 2.0, 10.0], bins=10)
    assert [title.text for title in drawing(part).iter(f"{SVG}title")] == [
        "0 to 1: 2",
        "1 to 2: 1",
        "2 to 3: 1",
        "9 to 10: 1",
    ]
    with pytest.raises(ValueError, match="needs values"):
        plots.histogram("a", [])


def test_ranges_put_equal_ratios_on_the_reference() -> None:
    rows = [Range("slower", 0.5, 0.4, 0.6), Range("same", 1.0, 0.9, 1.1), Range("f", 2.0, 2, 2)]
    part = plots.ranges("a", rows, unit="x", reference=1.0)
    slower, same, faster = (mark["cx"] for mark in marks(part, "circle"))
    (line,) = [e for e in drawing(part).iter(f"{SVG}line") if e.get("class") == "reference"]
    assert slower < same < faster
    assert same == float(line.attrib["x1"])
    assert faster - same == pytest.approx(same - slower, abs=0.2)
    assert {"slower", "same", "0.5x", "1x", "2x"} <= set(words(part))


def test_ranges_write_their_numbers_as_they_are_told() -> None:
    part = plots.ranges("a", [Range("r", 2.0, 1.0, 3.0)], write=lambda value: f"{value:.2f}!")
    assert "2.00!" in words(part)
    assert "r: 2.00! (1.00! to 3.00!)" in part.html


def test_stacks_lie_end_to_end_and_name_their_sum() -> None:
    part = plots.stacks("a", ["x", "y"], [Series("s", [1.0, 2.0]), Series("t", [3.0, None])])
    first, second, third, fourth = marks(part)
    assert second["x"] == pytest.approx(first["x"] + first["width"] + 1, abs=0.2)
    assert second["width"] + 1 == pytest.approx(3 * (first["width"] + 1), abs=0.2)
    assert third["width"] + 1 == pytest.approx(2 * (first["width"] + 1), abs=0.2)
    assert fourth["width"] == 0
    assert {"4", "2"} <= set(words(part))


_values = st.lists(st.floats(0, 1e9), min_size=1, max_size=12)


@settings(deadline=None, max_examples=60)
@given(_values, st.booleans())
def test_any_values_are_drawn_inside_the_frame(values: list[float], logarithmic: bool) -> None:
    if logarithmic:
        values = [value + 1e-6 for value in values]
    names = [str(n) for n in range(len(values))]
    series = [Series("s", values, [value / 2 for value in values], [v * 2 for v in values])]
    for mark in marks(plots.bars("a", names, series)):
        assert -0.1 <= mark["y"] <= mark["y"] + mark["height"] <= 240
        assert 0 <= mark["x"] <= mark["x"] + mark["width"] <= 440
    for mark in marks(plots.lines("a", names, series, logarithmic=logarithmic), "circle"):
        assert -0.1 <= mark["cy"] <= 240
        assert 0 <= mark["cx"] <= 440
    for mark in marks(plots.stacks("a", names, series)):
        assert 0 <= mark["x"] <= mark["x"] + mark["width"] <= 440.1


@settings(deadline=None, max_examples=60)
@given(st.floats(1e-6, 1e6), st.floats(1.0, 1e4))
def test_every_axis_has_ticks(low: float, factor: float) -> None:
    for part in (
        plots.ranges("a", [Range("r", low, low, low * factor)]),
        plots.lines("a", ["x", "y"], [Series("s", [low, low * factor])], logarithmic=True),
        plots.bars("a", ["x"], [Series("s", [low])]),
    ):
        ticks = [e for e in drawing(part).iter(f"{SVG}line") if e.get("class") == "rule"]
        assert len(ticks) >= 2


def test_colours_start_again_after_the_last() -> None:
    many: list[Any] = [Series(str(n), [1.0]) for n in range(page.SERIES_COLOURS + 1)]
    html = plots.bars("a", ["x"], many).html
    assert html.count('class="key s0"') == 2
