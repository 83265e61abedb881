"""Make notebooks/homework.ipynb, the sheet on Colab: python docs/notebook.py

Its commands are those of the starter's README.
"""

import json
import os
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks/homework.ipynb"
LISTED = re.findall(r"^(python .*?) *(?:#.*)?$", (ROOT / "autograder/STARTER.md").read_text(encoding="utf-8"), re.M)


def listed(*words: str) -> str:
    """The first command of the starter's README that holds all `words`. Raises ValueError if there is none."""
    for command in LISTED:
        if set(words) <= set(command.split()):
            return command
    raise ValueError(f"autograder/STARTER.md lists no command with {' '.join(words)}")


def line(*words: str, name: str = "", of: str = "") -> str:
    """A line of a cell that runs a listed command; `name` gets its run folder, `of` is that of its checkpoint."""
    arguments = [f'"{listed(*words)}"', *([of] if of else [])]
    return f"{f'{name} = ' if name else ''}run({', '.join(arguments)})"


def check(part: str) -> str:
    return f'run("{listed("check.py")} {part}", codes=(0, 3))  # 3: not written yet'


PARAMETERS = '''\
QUICK = False     # True: a rehearsal of some minutes, on a few drawn scenes
USE_DRIVE = True  # keep code and checkpoints on Google Drive; without it they end with the session'''

SETUP = '''\
import subprocess
import sys
import zipfile
from pathlib import Path

COLAB = "google.colab" in sys.modules
if COLAB and USE_DRIVE:
    from google.colab import drive

    drive.mount("/content/drive")
    home = Path("/content/drive/MyDrive/homework")
elif COLAB:
    home = Path("/content/homework")
else:
    home = Path.cwd().parent  # this notebook lies in notebooks/
if not (home / "code").is_dir():  # on Colab, the first time
    archive = home.parent / "starter.zip"
    if not archive.exists():
        from google.colab import files

        archive = Path(next(iter(files.upload())))
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(home.parent)
        (home.parent / packed.namelist()[0].split("/")[0]).rename(home)
logs = home / "logs"
data = (Path("/content/data") if COLAB else home / "data") / ("demo" if QUICK else "")  # not on Drive, which is slow
print("code, logs and checkpoints:", home)'''

INSTALL = '''\
lines = [line.split("#")[0].strip() for line in (home / "requirements.txt").read_text().splitlines()]
missing = [line for line in lines if line and not line.startswith("torch")]  # the installed torch fits the GPU: kept
subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *missing], check=True)

import torch

print("torch", torch.__version__, "on", torch.cuda.get_device_name() if torch.cuda.is_available() else
      "the CPU. For a GPU: Runtime, Change runtime type, T4 GPU; then run the cells from the top")'''

RUN = '''\
def run(command, checkpoint_of=None, codes=(0,)):
    """Run a command of the sheet in code/, and return its run folder. `checkpoint_of`: a run folder to resume from."""
    words = [word.replace("../logs/exp_timestamp", str(checkpoint_of)).replace("../data", str(data))
             for word in command.split()]
    if "main.py" in words:
        words += ["--logs", str(logs)]
    if QUICK and "main.py" in words:  # the last of two equal flags counts
        words += ["-b", "20"]
        if not {"-a", "-e"} & set(words):
            words += ["--epochs", "1"]
    before = set(logs.glob("exp_*"))
    process = subprocess.Popen([sys.executable, "-u", *words[1:]], cwd=home / "code", text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    for line in process.stdout:
        print(line, end="")
    if process.wait() not in codes:
        raise RuntimeError(f"exit code {process.returncode}: {command}")
    return next(iter(set(logs.glob("exp_*")) - before), None)


def show(folder, *names):
    """Show pictures of a run folder."""
    from IPython.display import Image, display

    for name in names:
        if (folder / name).exists():
            display(Image(str(folder / name)))


def latest():
    """The newest run folder."""
    return max(logs.glob("exp_*"))'''

DATA = f'''\
if QUICK:
    run("{listed("demo.data").replace("/demo", "")} --train 40 --val 20")
else:  # 500 MB; does nothing if they are there
    subprocess.run(["bash", str(home / "download_dataset.sh"), str(data)], check=True)'''

TENSORBOARD = '''\
%load_ext tensorboard
if not QUICK:
    %tensorboard --logdir $logs'''

RESUME = f'''\
INTERRUPTED = False  # True after a lost session: goes on where the newest run was saved last
if INTERRUPTED:
    {line("--resume=../logs/exp_timestamp/models/checkpoint.pth.tar", name="simplenet", of="latest()")}'''

RESNET = f'''\
if QUICK:
    print("left out: it downloads ImageNet weights")
else:
    {line("--use-resnet18", name="resnet18")}
    show(resnet18, "curves.png")'''

ZIP = '''\
run("python ../zip_submission.py" + (" --draft" if QUICK else ""))  # the report goes into writeup/, as PDF
if COLAB:
    from google.colab import files

    files.download(str(home / "submission.zip"))'''

EVALUATE, ATTACK = "-e", ("-a", "-v")
# (heading and text, code) in the order of the sheet; each is a Markdown cell and a code cell.
CELLS = [
    ("# Homework 2 on Colab\n\nYou write `code/student_code.py` (on Colab: folder symbol on the left, double click), "
     "and run the cells from the top. They stop where something is not written yet. Put `starter.zip` into the top "
     "folder of your Drive, or upload it when asked.", PARAMETERS),
    ("## Set up", SETUP),
    ("", INSTALL),
    ("The commands below are those of the sheet. Data, logs and quick mode are filled in here.", RUN),
    ("## Data", DATA),
    ("## 3.1.1 Understand convolutions\n\nWrite `CustomConv2DFunction`.",
     f"{line('test_conv.py')}\n{check('convolution')}"),
    ("## 3.1.2 SimpleNet", f"{line('../data', '--epochs=60', name='simplenet')}\nshow(simplenet, \"curves.png\")"),
    ("Loss, learning rate and accuracy of all runs:", TENSORBOARD),
    ("", RESUME),
    ("", f"{line(EVALUATE, name='evaluated', of='simplenet')}\nshow(evaluated, \"confusion_matrix.png\")"),
    ("## 3.1.2 Train with your own convolutions", line("--use-custom-conv", "../data", name="own_convolution")),
    ("## 3.1.2 Your own network\n\nWrite `CustomNet`.",
     f"{line('customnet', '../data', name='own_network')}\nshow(own_network, \"curves.png\")"),
    ("## 3.1.2 Fine-tune a pre-trained ResNet18", RESNET),
    ("## 3.2.1 Self-attention\n\nWrite `Attention` and, unless it is given, `TransformerBlock`.",
     f"{check('attention')}\n{check('block')}"),
    ("## 3.2.2 Vision transformer\n\nWrite `SimpleViT`.",
     f"{check('vit')}\n{line('--use-vit', '../data', name='vit')}\nshow(vit, \"curves.png\")"),
    ("## 3.3 Adversarial samples\n\nWrite `PGDAttack`.",
     f"{check('pgd')}\n{line(*ATTACK, name='attacked', of='simplenet')}\nshow(attacked, \"attack.png\")"),
    ("## 3.3 Adversarial training (bonus)\n\nWrite `AdvSimpleNet`.",
     f"{check('adversarial')}\n{line('adv-simplenet', '../data', name='robust')}\n"
     f"{line(*ATTACK, name='robust_attacked', of='robust')}"),
    ("## 5 Hand in", ZIP),
]


def notebook() -> dict:
    """The notebook in nbformat 4.5, without outputs; cell ids are numbers, so that it is the same each time."""
    cells = []
    for text, code in CELLS:
        if text:
            cells.append({"cell_type": "markdown", "metadata": {}, "source": text.splitlines(keepends=True)})
        cells.append({"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [],
                      "source": code.splitlines(keepends=True)})
    cells = [{**cell, "id": f"cell-{number}"} for number, cell in enumerate(cells)]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"accelerator": "GPU", "kernelspec": kernel}, "nbformat": 4,
            "nbformat_minor": 5}


def main() -> None:
    NOTEBOOK.parent.mkdir(exist_ok=True)
    part = NOTEBOOK.with_name(f".{NOTEBOOK.name}.part")
    part.write_text(json.dumps(notebook(), indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(part, NOTEBOOK)
    print(NOTEBOOK.relative_to(ROOT))


if __name__ == "__main__":
    main()
