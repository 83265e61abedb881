"""The report: it builds, to the same bytes, from any results there are, and no result is typed in its sources."""

import json
import re
import shlex
import shutil
import sys

import pytest
from conftest import ROOT

from labs.__main__ import import_lab
from libs import arguments

sys.path.insert(0, str(ROOT / "writeup"))
typst = pytest.importorskip("typst")
import build  # noqa: E402
import shrink  # noqa: E402

RESULTS = ROOT / "results"
# Typed on purpose: settings of the assignments and of our trainings, and thresholds of the prose. Nothing measured.
SETTINGS = {"10.0", "0.01", "0.3", "0.1", "0.9", "0.05", "0.02", "0.0005", "3.1.1", "3.1.2", "3.2", "3.3", "1.1",
            "15", "85", "90", "95"}
# Not the counterparts' page, which states facts of others; lib, main and template have no results.
CHAPTERS = [path for path in sorted((ROOT / "writeup").glob("*.typ"))
            if path.stem not in ("counterparts", "lib", "template")]


def numbers(text: str) -> set[str]:
    """Decimals and percentages in the text of a source; not lengths, widths and comments."""
    text = re.sub(r"//.*", "", text)
    text = re.sub(r"(?<![\w.])[\d.]+(?:pt|mm|cm|em|fr)\b|(?:width|height|size|columns): *\(?[\d.]+%?", "", text)
    return set(re.findall(r"\d+(?:\.\d+)+|\b\d+(?= %)", text))


def test_the_rule_for_numbers_finds_a_typed_result():
    assert numbers("SimpleNet reaches 47.4 or 47 % #v(2.5mm) #image(width: 62.5%) // 12.3") == {"47.4", "47"}


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_no_result_is_typed(chapter):
    assert numbers(chapter.read_text()) <= SETTINGS


@pytest.mark.parametrize("name", build.COMMANDS)
def test_the_command_that_would_measure_it_exists(name):
    words = shlex.split(build.COMMANDS[name])
    if words[:3] == ["python", "-m", "labs"]:
        import_lab(words[3]).get_args_parser().parse_args(words[4:])
    else:
        assert words[:2] == ["python", "main.py"]
        arguments.parse_args(words[2:])


def test_listings_are_whole_and_show_no_marks():
    for file, name in build.LISTINGS.values():
        text = build.listing(file, name)
        assert re.match(r"(def|class) ", text), name
        assert "SOLUTION" not in text and "STARTER" not in text


def test_without_results_everything_says_not_measured(tmp_path):
    build.build(tmp_path / "none", tmp_path / "out.pdf")
    assert (tmp_path / "out.pdf").read_bytes().startswith(b"%PDF")
    found = build.statuses(tmp_path / "none")
    assert len(found) > 50
    assert not [status for status in found if status["measured"]]


def test_results_on_all_of_miniplaces_come_first(tmp_path):
    folder = tmp_path / "miniplaces"
    shutil.copytree(RESULTS / "miniplaces10", tmp_path / "miniplaces10", ignore=shutil.ignore_patterns("*.png"))
    folder.mkdir()
    (folder / "attacked.csv").write_text("network,top-1 clean,top-1 adversarial\nsimplenet,44.5,12.25\n")
    split = {"loss": 2.5, "top1": 40.0, "top5": 70.0}
    history = [{"epoch": epoch, "rate": 0.1, "train": split, "val": split} for epoch in (1, 2)]
    (folder / "simplenet.json").write_text(json.dumps({"mode": "train", "best_top1": 40.0, "history": history}))
    (folder / "evaluate.json").write_text(json.dumps({"alone": split, "view": {"pixels": 160, "alone": split}}))
    (folder / "saliency.json").write_text(json.dumps({"rows": [{"kind": "right", "loudest tenth": 0.25}]}))
    data = build.collect(tmp_path)
    assert data["results"]["saliency"]["rows"][0]["top tenth"] == 0.25  # as later commits call it
    rows = data["results"]["attacked"]["rows"]
    assert [(row["network"], row["data"]) for row in rows] == [
        ("simplenet", "MiniPlaces"), ("customnet", "ten classes"), ("vit", "ten classes")]
    assert rows[0]["top-1 adversarial"] == 12.25
    assert data["results"]["sweep"]["label"] == "ten classes"
    assert data["curves"]["simplenet"]["label"] == "MiniPlaces"
    build.build(tmp_path, tmp_path / "out.pdf")


def test_the_record_of_an_attack_stands_in_for_the_lab(tmp_path):
    (tmp_path / "miniplaces").mkdir()
    made_by = {"commit": "1", "command": "python main.py -a", "date": "2026-01-01 00:00:00", "cpu": "x", "cores": 2}
    figures = {kind: {"top1": 1.5, "top5": 2.5} for kind in ("clean", "adversarial", "difference")}
    (tmp_path / "miniplaces/attack.json").write_text(json.dumps({"model": "simplenet", "made_by": made_by, **figures}))
    found = build.collect(tmp_path)["results"]["attacked"]
    assert found["rows"][0]["top-1 adversarial"] == 1.5 and found["file"] == "results/miniplaces/attack"
    assert found["made_by"]["machine"] == "x, 2 cores" and found["made_by"]["command"] == "main.py -a"


def test_the_template_asks_and_does_not_answer(tmp_path):
    template = ROOT / "writeup/template.typ"
    typst.compile(template, output=str(tmp_path / "report.pdf"))
    headings = [line for line in template.read_text().splitlines() if line.startswith("=")]
    for part in ("3.1.1", "3.1.2", "3.2", "3.3", "ResNet18", "epsilon", "bonus"):
        assert any(part in line for line in headings), part


def test_shrink_keeps_name_size_and_white_paper(tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    noise = image_module.effect_noise((900, 900), 80)
    picture = image_module.merge("RGB", (noise, noise.rotate(90), noise.rotate(180)))
    picture.paste((255, 255, 255), (0, 0, 900, 40))
    picture.save(tmp_path / "photo.png")
    before = (tmp_path / "photo.png").stat().st_size
    assert shrink.shrink(tmp_path / "photo.png")
    assert not shrink.shrink(tmp_path / "photo.png")
    with image_module.open(tmp_path / "photo.png") as after:
        assert after.size == (900, 900)
        assert after.convert("RGB").getpixel((5, 5)) == (255, 255, 255)
    assert (tmp_path / "photo.png").stat().st_size < before / 2


@pytest.mark.slow
def test_two_builds_give_the_same_small_file(tmp_path):
    for name in ("one.pdf", "two.pdf"):
        build.build(RESULTS, tmp_path / name)
    assert (tmp_path / "one.pdf").read_bytes() == (tmp_path / "two.pdf").read_bytes()
    assert (tmp_path / "one.pdf").stat().st_size < 8e6


def test_the_committed_report_and_results_are_small():
    assert sum(path.stat().st_size for folder in ("results", "writeup") for path in (ROOT / folder).rglob("*")
               if path.is_file() and "demo" not in path.parts) < 20e6, "python writeup/shrink.py makes figures smaller"
