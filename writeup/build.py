"""Build the report: python writeup/build.py writes writeup/writeup.pdf from writeup/*.typ and what lies in results/.

Every number and figure is read from a results file; what is missing shows as "not measured" with its command. The same
files give the same bytes.
"""

import argparse
import ast
import csv
import json
import re
import shutil
import tempfile
from datetime import datetime, timezone
from pathlib import Path

import typst
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
HERE = ROOT / "writeup"

# The first folder that has a result wins; the label says what was measured on.
FOLDERS = {"miniplaces": "MiniPlaces", "miniplaces10": "ten classes"}
BEST = "--resume ../logs/exp_timestamp/models/model_best.pth.tar"

# Result -> (file below results/ or below one of FOLDERS, the command that makes it, from code/).
ON_THE_BEST = ["compare", "classes", "attacked", "sweep", "noise", "gallery", "saliency", "cam", "features"]
MAIN_SHEET = {
    "simplenet": ("simplenet", "python main.py ../data --epochs 60"),
    "evaluate": ("evaluate", f"python main.py ../data {BEST} -e"),
    "curves": ("curves", "python -m labs curves ../logs/exp_timestamp"),
    "convolutions": ("convolutions", "python -m labs convolutions ../data --epochs 10"),
    "strong": ("strong/noise", f"python -m labs noise ../data {BEST} --strong --out ../results/miniplaces/strong"),
    "robust": ("robust", "python -m labs robust ../data --resume ../logs/exp_timestamp/models/checkpoint.pth.tar"),
    "vit_cam": ("vit/cam", f"python -m labs cam ../data {BEST} --out ../results/miniplaces/vit"),
    **{lab: (lab, f"python -m labs {lab} ../data {BEST}") for lab in ON_THE_BEST},
}
NETWORK = "--network squeezenet1_1"
COMPANIONS = {
    "mytorch": ("labs/mytorch/mytorch", "python -m labs mytorch"),
    "mnist_cnn": ("labs/mnist_cnn/mnist_cnn", "python -m labs mnist_cnn ../data"),
    "cifar_resnet": ("labs/cifar_resnet/cifar_resnet", "python -m labs cifar_resnet ../data/cifar10"),
    "cifar_cam": ("labs/cam/cam", "python -m labs cam ../data/cifar10 --resume ../logs/labs/cifar-resnet.pth.tar"),
    "evasion": ("labs/evasion/evasion", "python -m labs evasion ../data"),
    "topk": ("labs/pretrained/pretrained_topk", f"python -m labs pretrained topk peppers.jpg {NETWORK}"),
    "maps": ("labs/pretrained/pretrained_features", f"python -m labs pretrained features peppers.jpg {NETWORK}"),
    "transfer": ("labs/transfer/transfer", f"python -m labs transfer ../data {NETWORK}"),
    "transfer_own": ("labs/transfer/simplenet/transfer", f"python -m labs transfer ../data {BEST}"),
    "mish_cnn": ("labs/mish_cnn/mish_cnn", "python -m labs mish_cnn ../data/cifar10"),
    "fooling": ("labs/fooling/fooling", f"python -m labs fooling peppers.jpg=space_shuttle {NETWORK}"),
    "fooling_own": ("labs/fooling/customnet/fooling", f"python -m labs fooling {BEST} --data ../data"),
}
# Not from a lab: the table of the first trainings in results/miniplaces10/README.md, and what nobody has measured yet.
OTHERS = {
    "schemes": "python main.py ../data --model msn --epochs 60",
    "resnet18": "python main.py ../data --epochs 60 --use-resnet18",
    "pets": f"python -m labs transfer ../data/oxford-iiit-pet {NETWORK}",
    "self_check": f"python main.py ../data {BEST} -a --self-check",
}
COMMANDS = {name: command for name, (_, command) in (MAIN_SHEET | COMPANIONS).items()} | OTHERS
# Columns and names that results of earlier commits call otherwise.
RENAMED = {"loudest tenth": "top tenth", "own (unfold)": "custom (unfold)", "own (flat)": "custom (flat)"}
ONE_ROW_A_NETWORK = {"compare": "network", "attacked": "network", "curves": "run"}
LARGE = 200_000  # bytes: figures above this that have many colours are photographs
LABS = "code/labs/cs5787"
LISTINGS = {
    **{listing: ("code/student_code.py", name) for listing, name in {
        "convolution": "CustomConv2DFunction", "attention": "Attention.forward", "pgd": "PGDAttack.perturb",
        "adversarial": "AdvSimpleNet", "saliency": "GradAttention.explain"}.items()},
    **{listing: (f"{LABS}/mish_cnn.py", name) for listing, name in {
        "mish": "MishCNN", "residual": "Residual", "better": "Better"}.items()},
    "topk": (f"{LABS}/pretrained.py", "topk"), "transfer": (f"{LABS}/transfer.py", "fit"),
    "fool": (f"{LABS}/fooling.py", "fool"), "feature_maps": ("code/extras/explain.py", "feature_maps"),
}


# --------------------------------------------------------------------------------------------- collecting


def read(stem: Path) -> dict | None:
    """A result as its JSON, else as the rows of its CSV; None if neither is there."""
    if (path := stem.with_suffix(".json")).exists():
        result = json.loads(path.read_text(encoding="utf-8"))
        if "rows" in result:
            result["rows"] = [{RENAMED.get(key, key): RENAMED.get(value, value) if isinstance(value, str) else value
                               for key, value in row.items()} for row in result["rows"]]
        if made_by := result.get("made_by"):
            made_by.setdefault("machine", f"{made_by.get('cpu', '?')}, {made_by.get('cores', '?')} cores")
            made_by["command"] = made_by["command"].removeprefix("python ").replace("-m labs.", "-m labs ")
        return result
    if (path := stem.with_suffix(".csv")).exists():
        with path.open(encoding="utf-8", newline="") as file:
            return {"rows": [{key: as_number(value) for key, value in row.items()} for row in csv.DictReader(file)]}
    return None


def as_number(text: str) -> float | int | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def find(results: Path, name: str) -> dict | None:
    """A result of the main sheet from the first folder that has it, with `label` and `file`."""
    found = []
    for folder, label in FOLDERS.items():
        stem = MAIN_SHEET[name][0]
        result = read(results / folder / stem)
        if result is None and name == "attacked":
            stem = "attack"
            result = attack_rows(read(results / folder / stem))
        if result is not None:
            for row in result.get("rows", []):
                row["data"] = label
            found.append({**result, "label": label, "file": f"results/{folder}/{stem}"})
    if not found:
        return None
    first, *others = found
    if key := ONE_ROW_A_NETWORK.get(name):  # networks that only a later folder has are shown, too
        for other in others:
            have = {plain(row[key]) for row in first["rows"]}
            more = [row for row in other["rows"] if plain(row[key]) not in have]
            if more:
                first["rows"] += more
                first["label"] += f" and {other['label']}"
            first["series"] = {**other.get("series", {}), **first.get("series", {})}
    return first


def attack_rows(attack: dict | None) -> dict | None:
    """results.json of `main.py -a` as the table of `labs attacked`, with one row."""
    if attack is None:
        return None
    row = {"network": attack["model"]}
    for title, k in (("top-1", "top1"), ("top-5", "top5")):
        row |= {f"{title} {kind}": attack[kind][k] for kind in ("clean", "adversarial", "difference")}
    return {"rows": [row], "made_by": attack["made_by"]}


def plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", str(name).lower())


def schemes(results: Path) -> dict | None:
    """The first table of results/miniplaces10/README.md: commands, and figures of networks without JSON."""
    path = results / "miniplaces10/README.md"
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("|")] \
        if path.exists() else []
    cells = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]
    if len(cells) < 3 or not cells[0][1].startswith("training command"):
        return None
    names = ["network", "command", *cells[0][2:]]
    rows = []
    for line in cells[2:]:
        if len(line) != len(names):
            break
        rows.append({name: as_number(cell) for name, cell in zip(names, line)})
    return {"rows": rows, "label": FOLDERS["miniplaces10"], "file": "results/miniplaces10/README.md"}


def thin(points: list) -> list:
    """At most some 90 points of a curve [xs, ys]."""
    step = -(-len(points[0]) // 90)
    return [values[::step] for values in points]


def curves(found: dict) -> dict:
    """{network: {label, series: {"top1 val": [xs, ys], ...}}}: from the training's results.json, else from `curves`."""
    series = {}
    if "curves" in found:
        labels = {plain(row["run"]): row["data"] for row in found["curves"]["rows"]}
        for run, lines in found["curves"].get("series", {}).items():
            series[plain(run)] = {"label": labels.get(plain(run), found["curves"]["label"]),
                                  "series": {name: thin(points) for name, points in lines.items()}}
    if "simplenet" in found:
        history = found["simplenet"].get("history", [])
        epochs = [record["epoch"] for record in history]
        lines = {f"{k} {split}": [epochs, [record[split][k] for record in history]] for k in ("top1", "top5", "loss")
                 for split in ("train", "val")}
        lines["rate train"] = [epochs, [record["rate"] for record in history]]
        series["simplenet"] = {"label": found["simplenet"]["label"], "series": lines}
    return series


def listing(file: str, name: str) -> str:
    """The source of a function, or of a class without its docstring; without the marks of the starter."""
    text = (ROOT / file).read_text(encoding="utf-8")
    node: ast.AST = ast.parse(text)
    for part in name.split("."):
        node = next(inner for inner in ast.iter_child_nodes(node) if getattr(inner, "name", None) == part)
    docstring = range(node.body[0].lineno, node.body[0].end_lineno + 1) \
        if isinstance(node, ast.ClassDef) and ast.get_docstring(node) else ()
    lines = [line for number, line in enumerate(text.splitlines(), 1)
             if node.lineno <= number <= node.end_lineno and number not in docstring]
    kept = [line for line in lines if not re.match(r"\s*# (BEGIN SOLUTION|END SOLUTION|STARTER:)", line)]
    indent = len(kept[0]) - len(kept[0].lstrip())
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line[indent:] for line in kept))


def collect(results: Path) -> dict:
    """All that the sources read: results, figures, curves, commands and listings."""
    found = {name: result for name in MAIN_SHEET if (result := find(results, name))}
    for name, (stem, _) in COMPANIONS.items():
        if (result := read(results / stem)) is not None:
            found[name] = {**result, "label": "", "file": f"results/{stem}"}
    if first := schemes(results):
        found["schemes"] = first
    made = {"curves": curves(found)}
    if history := found.get("simplenet", {}).get("history"):
        found["simplenet"]["final"] = history[-1]
    for result in found.values():  # long, and drawn already
        for key in ("series", "histories", "history"):
            result.pop(key, None)
    checks = [(label, path) for folder, label in FOLDERS.items()
              if (path := results / folder / "self_check.txt").exists()]
    if checks:
        label, path = checks[0]
        found["self_check"] = {"rows": [], "label": label, "file": f"results/{path.parent.name}/{path.name}",
                               "text": path.read_text(encoding="utf-8")}
    return {"results": found, **made, "commands": COMMANDS,
            "speedup": json.loads((ROOT / "benchmarks/records/train.json").read_text(encoding="utf-8"))["speedup"],
            "listings": {name: listing(*where) for name, where in LISTINGS.items()}}


# ----------------------------------------------------------------------------------------------- figures


def collect_figures(results: Path, tree: Path) -> dict:
    """Put the figures of results/ into `tree`; {"noise.png": {path, label}}, those of the labs as "labs/..."."""
    (tree / "figures").mkdir()
    found = {}
    for folder, label in [*reversed(FOLDERS.items()), ("labs", "")]:  # the first of FOLDERS overwrites the others
        base = results / folder
        for path in sorted(base.rglob("*.png")):
            name = (path.relative_to(results) if folder == "labs" else path.relative_to(base)).as_posix()
            found[name] = {"path": f"figures/{folder}-{name.replace('/', '-')}", "label": label, "from": path}
    for figure in found.values():
        source = figure.pop("from")
        with Image.open(source) as image:
            figure["aspect"] = image.height / image.width
        figure["path"] = put(source, tree / figure["path"]).relative_to(tree).as_posix()
    return found


def put(source: Path, target: Path) -> Path:
    """Photographs become JPEG, diagrams stay as they are."""
    if source.stat().st_size < LARGE:
        shutil.copy(source, target)
        return target
    with Image.open(source) as image:
        image.convert("RGB").save(target.with_suffix(".jpg"), quality=78, optimize=True)
    return target.with_suffix(".jpg")


# ---------------------------------------------------------------------------------------------- building


def newest(data: dict) -> datetime:
    """The date of the newest result: the PDF's own date, so that a second build gives the same bytes."""
    dates = [result["made_by"]["date"] for result in data["results"].values() if "made_by" in result]
    text = max(dates, default="2000-01-01 00:00:00")
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


def prepare(results: Path, tree: Path) -> datetime:
    """Write sources, data.json and figures into `tree`, where typst can compile main.typ. Returns the PDF's date."""
    for path in HERE.glob("*.typ"):
        shutil.copy(path, tree)
    data = collect(results)
    date = newest(data)
    data |= {"figures": collect_figures(results, tree), "date": f"{date:%Y-%m-%d}" if data["results"] else None}
    (tree / "data.json").write_text(json.dumps(data, ensure_ascii=False))
    return date


def build(results: Path, output: Path, page_format: str = "pdf") -> None:
    """`output`: a PDF, or for "png" a name with {p} for the page."""
    with tempfile.TemporaryDirectory() as folder:
        date = prepare(results, Path(folder))
        output.parent.mkdir(parents=True, exist_ok=True)
        typst.compile(f"{folder}/main.typ", output=str(output), root=folder, ignore_system_fonts=True,
                      format=page_format, ppi=80 if page_format == "png" else None, timestamp=date)


def statuses(results: Path) -> list[dict]:
    """{kind, name, measured} of every table and figure of the report."""
    with tempfile.TemporaryDirectory() as folder:
        prepare(results, Path(folder))
        return json.loads(typst.query(f"{folder}/main.typ", "<status>", field="value", root=folder,
                                      ignore_system_fonts=True))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=ROOT / "results", metavar="DIR", help="folder with the results "
                        "(default: results/)")
    parser.add_argument("-o", "--output", type=Path, default=HERE / "writeup.pdf", metavar="PDF",
                        help="file to write (default: writeup/writeup.pdf)")
    parser.add_argument("--pages", type=Path, metavar="DIR", help="also write each page as PNG to this folder")
    args = parser.parse_args(argv)
    build(args.results, args.output)
    if args.pages:
        build(args.results, args.pages / "{p}.png", "png")
    missing = [status["name"] for status in statuses(args.results) if not status["measured"]]
    print(f"{args.output}: {args.output.stat().st_size / 1e6:.2f} MB; not measured: {', '.join(missing) or 'nothing'}")


if __name__ == "__main__":
    main()
