"""Pages for people."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.page import Cell, Page, Picture, bars, heat, lines


def _page() -> Page:
    page = Page("Weeks <of> fraud", "All & sundry")
    page.cards({"payments": 1_204_112, "verdict": Cell("late", "bad", tag=True)})
    page.table(("week", "rows"), [("W1", 1000), ("<W2>", None)], grey=[1])
    page.pictures(
        Picture("Lines", "c", lines([1, 2, 3], {"a": [1, 4, 9]}, band=([0, 3, 8], [2, 5, 10]), dots={"b": [1, 4, 8]},
                                    grey_from=2)),
        Picture("Bars", "c", bars(["x & y", "z"], {"a": [1, 2], "b": [2, 1]}, spread=([0, 1], [2, 3]), lying=True)),
        Picture("Heat", "c", heat(["a"], ["b", "c"], [[1, 2]])),
    )  # fmt: skip
    return page


def test_a_page_needs_nothing_from_elsewhere_and_is_the_same_bytes_again() -> None:
    """What comes from data is escaped; no link, script or clock is in it."""
    text = _page().text()
    assert text == _page().text()
    assert "http-equiv" not in text
    assert "<script" not in text
    assert "src=" not in text
    assert "Weeks &lt;of&gt; fraud" in text
    assert "&lt;W2&gt;" in text
    assert "<W2>" not in text
    assert "1,204,112" in text
    assert '<b class="tag bad">late</b>' in text
    assert text.count("<svg") == 3
    assert "x &amp; y" in text


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """A failure on the way leaves the page of before."""
    path = tmp_path / "report.html"
    path.write_text("before")
    page = _page()
    page.pictures(Picture("Fine", "", lines([1], {"a": [1]})))
    page.write(path)
    assert path.read_text() == page.text()
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(ValueError, match="zip"):
        page.table(("one", "two"), [("only one",)])
