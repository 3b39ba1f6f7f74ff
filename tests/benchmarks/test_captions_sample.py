import csv
import json
from collections import Counter
from pathlib import Path

import pytest
from benchmarks.captions import baseline, cost, report, sample
from benchmarks.captions.composed import Composed
from benchmarks.captions.cost import Rate
from benchmarks.captions.sample import Item

from facecap.schemas.attributes import ATTRIBUTES


def composed(number: int) -> Composed:
    labels = ("Young", "Bangs")
    return Composed(f"face{number}", f"Text {number}.", frozenset(labels), labels, "woman")


def test_one_template_states_every_attribute_in_its_sentence() -> None:
    assert baseline.HAS.keys() | baseline.IS.keys() == set(ATTRIBUTES)
    assert baseline.HAS.keys().isdisjoint(baseline.IS)
    assert baseline.one_template(("Young", "Male", "Bangs"), "man") == (
        "He has bangs. He is male. He is young."
    )
    assert baseline.one_template(("Young", "Bangs"), "person") == (
        "They have bangs. They are young."
    )


def test_descriptions_are_read_from_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "d.txt"
    file.write_text('S1.jpeg "A young man. He smiles."\n\nS2.jpeg "A woman."\n')
    assert baseline.descriptions(file) == ["A young man. He smiles.", "A woman."]
    file.write_text("S1.jpeg A young man\n")
    with pytest.raises(ValueError, match=r"d\.txt:1"):
        baseline.descriptions(file)


def test_a_sample_is_mixed_evenly_and_seeded() -> None:
    sources = sample.items_of([composed(i) for i in range(20)], None, baseline=True)
    items = sample.mixed(sources, 11, seed=0)
    assert Counter(item.source for item in items) == {"ours": 6, "one template": 5}
    assert items == sample.mixed(sources, 11, seed=0)
    assert items != sample.mixed(sources, 11, seed=1)
    with pytest.raises(ValueError, match="ours: has 20 texts, 21"):
        sample.mixed(sources, 42, seed=0)


def test_only_the_key_tells_whose_a_text_is(tmp_path: Path) -> None:
    rewrites = tmp_path / "rewrites.jsonl"
    record = {"text": "A youth with a fringe.", "labels": ["Young", "Bangs"], "person": "person"}
    rewrites.write_text(json.dumps(record) + "\n")
    sources = sample.items_of([composed(0)], rewrites, baseline=True)
    items = sample.mixed(sources, 3, seed=0)
    output = tmp_path / "rated.csv"
    key = sample.write_sample(items, output, seed=0)
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["labels"] for row in rows} == {"Bangs Young"}
    assert [row["text"] for row in rows] == [item.text for item in items]
    assert not any("ours" in line or "template" in line for line in output.read_text().split("\n"))
    with key.open(newline="") as file:
        assert [row["source"] for row in csv.DictReader(file)] == [item.source for item in items]


def test_items_know_what_they_state() -> None:
    item = sample.items_of([composed(3)], None, baseline=False)["ours"][0]
    assert item == Item("Text 3.", ("Young", "Bangs"), "woman", "ours")


def test_days_of_a_gpu() -> None:
    paper = Rate("batch 1", "A100", 40.9, "completion_tokens", "")
    assert paper.days(15e6, 60) == pytest.approx(254.7, abs=0.05)
    assert Rate("server", "A10G", 2.0, "prompts", "").days(2 * 86_400, 60) == pytest.approx(1)


def test_every_packaged_rate_has_a_source() -> None:
    rates = cost.load_rates()
    assert rates
    assert all(rate.source and rate.rate > 0 for rate in rates)
    assert {rate.unit for rate in rates} <= {"completion_tokens", "prompts"}


def test_tokens_follow_the_words() -> None:
    assert cost.tokens_in("Two words.") == pytest.approx(2.7)
    assert cost.completion_tokens([composed(1), composed(2)]) == pytest.approx(2.7)


def test_a_table_keeps_its_cells_apart() -> None:
    assert report.table(["a", "b"], [["x|y", 1000]]) == (
        "| a | b |\n| :-- | --: |\n| x\\|y | 1,000 |"
    )


def test_a_section_is_replaced_and_no_other(tmp_path: Path) -> None:
    file = tmp_path / "d.md"
    file.write_text("top\n<!-- begin one -->\nold\n<!-- end one -->\n<!-- begin two -->\n")
    report.write_section("one", "new \\1", "python -m x", file)
    assert file.read_text() == (
        "top\n<!-- begin one -->\n## One\n\n`python -m x`\n\nnew \\1\n<!-- end one -->\n"
        "<!-- begin two -->\n"
    )
    with pytest.raises(ValueError, match="one section two"):
        report.write_section("two", "", "", file)
