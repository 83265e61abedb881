"""The Colab notebook: it is what docs/notebook.py makes, and it runs from top to bottom on the demo data."""

import json
import re
import shlex
import sys

import pytest
from autograder import starter
from autograder.solution import student_text
from conftest import ROOT

from libs import arguments

sys.path.insert(0, str(ROOT / "docs"))
import notebook

sys.path.pop(0)

CODE_CELLS = ["".join(cell["source"]) for cell in notebook.notebook()["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_in_the_repository_is_what_the_command_makes():
    assert json.loads(notebook.NOTEBOOK.read_text()) == notebook.notebook(), "run python docs/notebook.py"


def test_its_commands_are_those_of_the_readme_in_the_order_of_the_sheet():
    commands = [line.split('"')[1] for cell in CODE_CELLS for line in cell.splitlines() if 'run("python' in line]
    drivers = [command for command in commands if "main.py" in command]
    for command in drivers:
        arguments.parse_args(shlex.split(command)[2:])
        assert command in notebook.LISTED
    parts = [command.split()[-1] for command in commands if "check.py" in command]
    assert parts == ["convolution", "attention", "block", "vit", "pgd", "adversarial"]
    assert [next(flag for flag in flags if flag in command) for command, flags in zip(drivers, SHEET)]
    assert len(drivers) == len(SHEET)
    assert "zip_submission.py" in commands[-1]


SHEET = [["--epochs=60"], ["checkpoint.pth.tar"], [" -e"], ["--use-custom-conv"], ["customnet"], ["--use-resnet18"],
         ["--use-vit"], [" -a -v"], ["adv-simplenet"], [" -a -v"]]


def test_a_command_that_the_readme_does_not_list_is_an_error():
    with pytest.raises(ValueError, match="lists no command with --use-transformer"):
        notebook.listed("--use-transformer")


@pytest.mark.slow
def test_it_runs_from_top_to_bottom_in_quick_mode(tmp_path):
    """In a starter with the sheet's parts written, as on Colab but with this Python and without Drive."""
    nbformat = pytest.importorskip("nbformat", reason="pip install -r requirements-dev.txt")
    nbclient = pytest.importorskip("nbclient", reason="pip install -r requirements-dev.txt")
    pytest.importorskip("ipykernel", reason="pip install -r requirements-dev.txt")
    starter.write(tmp_path / "hw2")
    (tmp_path / "hw2/code/student_code.py").write_text(student_text(2025, written=True))
    book = nbformat.read(tmp_path / "hw2/notebooks/homework.ipynb", as_version=4)
    nbformat.validate(book)
    parameters = next(cell for cell in book.cells if cell.source.startswith("QUICK = False"))
    parameters.source = parameters.source.replace("QUICK = False", "QUICK = True ")
    client = nbclient.NotebookClient(book, timeout=600, kernel_name="python3",
                                     resources={"metadata": {"path": str(tmp_path / "hw2/notebooks")}})
    client.execute()
    printed = "".join(output.get("text", "") for cell in book.cells if cell.cell_type == "code"
                      for output in cell.outputs)
    assert re.findall(r", (\d+) todo, (\d+) FAIL$", printed, re.M) == [("0", "0")] * 6, "of check.py, for each part"
    for words in ("epoch 1/1 val", "All passed! End of testing.", "difference", "left out: it downloads ImageNet"):
        assert words in printed, words
    pictures = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs
                if "image/png" in output.get("data", {})]
    assert len(pictures) >= 5
    assert len(list((tmp_path / "hw2/logs").glob("exp_*/models/model_best.pth.tar"))) == 5
    assert (tmp_path / "hw2/submission.zip").exists()
