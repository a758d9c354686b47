"""Makes the stored results of the pages beyond on a GPU, several runs at a time.

A page's slow cells define EXPERIMENTS, {key: (function, settings)}; on a CPU the page
runs them one after the other. Here each setting is a process of its own, and each
training step is recorded as a CUDA graph, which takes the same step in a tenth of the
time. A row that is there already is not made again.
python bench/long_runs.py FOLDER PAGE[:KEY] ...          (on a machine with CUDA)"""

import argparse
import ast
import importlib
import json
import multiprocessing
import os
import time
import traceback
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch

NBS = Path(__file__).resolve().parent.parent / "nbs"
EXPERIMENTS = {}  # by page, loaded before the processes begin
PARTS = 25  # batches at a time, at most


class Recorded:
    "Steps for `fit`, recorded once and replayed: one for each part of the batch."

    def __init__(self, parts):
        self.parts, self.taken, self.graph = parts, 0, None

    def steps(self, model, batch, objective, optimizer):
        "A step for each part; the sums of the terms."
        from vae_tutorial.training import gradient_step

        chunks = zip(*(part.chunk(self.parts) for part in batch))
        each = [gradient_step(model, c, objective, optimizer) for c in chunks]
        return type(each[0])(*map(sum, zip(*each)))

    def __call__(self, model, batch, objective, optimizer):
        self.taken += 1
        if self.taken == 1:  # one by one, so that everything is allocated
            self.stream = torch.cuda.Stream()
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                terms = self.steps(model, batch, objective, optimizer)
            torch.cuda.current_stream().wait_stream(self.stream)
            return terms
        group = optimizer.param_groups[0]
        if self.graph is None:
            self.batch = [part.clone() for part in batch]
            self.rate = torch.zeros((), device=batch[0].device)
            rate, group["lr"] = group["lr"], self.rate
            self.graph = torch.cuda.CUDAGraph()
            optimizer.zero_grad()
            with torch.cuda.graph(self.graph):
                self.terms = self.steps(model, self.batch, objective, optimizer)
            group["lr"] = rate
        for own, given in zip(self.batch, batch, strict=True):
            own.copy_(given)
        self.rate.fill_(group["lr"])
        self.graph.replay()
        return self.terms


def fit_recorded(model, images, *args, batch_size, step, **options):
    "`fit`, several batches at a time: the same steps, the rate moves with each group."
    if len(images) % batch_size:
        raise ValueError("the batch size must divide the number of images")
    from vae_tutorial.training import annealed_step, fit

    together = PARTS
    while len(images) // batch_size % together:
        together -= 1
    recorded = partial(
        annealed_step,
        num_steps=step.keywords["num_steps"] // together,
        step=Recorded(together),
    )
    options["log_every"] = max(1, options.get("log_every", 100) // together)
    size = batch_size * together
    return fit(model, images, *args, batch_size=size, step=recorded, **options)


def _is_needed(cell):
    "Whether a cell is slow, or only imports, defines, seeds and loads."
    source = "".join(cell["source"])
    if cell["cell_type"] != "code" or "#| export" in source:
        return False
    if "EXPERIMENTS.items()" in source:
        return False
    return "#| slow" in source or all(map(_is_light, ast.parse(source).body))


def _is_light(part):
    if isinstance(part, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)):
        return True
    value = getattr(part, "value", None)
    called = ast.unparse(value.func) if isinstance(value, ast.Call) else ""
    return called in ("load_mnist", "use_style", "torch.manual_seed")


def experiments(page, recorded=True):
    "EXPERIMENTS of a page, its steps recorded."
    (path,) = NBS.rglob(f"*_{page}.ipynb")
    cells = json.loads(path.read_text())["cells"]
    names = {"__name__": page}
    for cell in cells:
        source = "".join(cell["source"])
        if source.startswith("#| default_exp "):
            module = "vae_tutorial." + source.split()[2]
            names |= vars(importlib.import_module(module))
    for cell in filter(_is_needed, cells):
        for part in ast.parse("".join(cell["source"])).body:
            with suppress(ModuleNotFoundError):  # of what only figures need
                exec(compile(ast.Module([part], []), page, "exec"), names)
    if recorded:
        names["fit"] = fit_recorded
    return names["EXPERIMENTS"]


def rows_in(folder):
    "Rows that are there, by page, key and number; each is a line of one file."
    path = folder / "rows.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return {tuple(at): row for at, row in map(json.loads, lines)}


def work(folder, jobs, changed):
    "Take jobs until there are none."
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")
    while True:
        page, key, index = jobs.get()
        if page is None:
            return
        try:
            function, settings = EXPERIMENTS[page][key]
            start = time.perf_counter()
            row = function(**settings[index] | changed)
            row = {**row, "minutes": round((time.perf_counter() - start) / 60, 2)}
            line = json.dumps([(page, key, index), row]) + "\n"
            with (folder / "rows.jsonl").open("ab", buffering=0) as file:
                file.write(line.encode())  # whole, though others write too
            said = json.dumps(row)[:300]
        except Exception:
            said = "FAILED " + traceback.format_exc()
        print(time.strftime("%X"), page, key, index, said, flush=True)


def gather(folder):
    "One results file for each page, of the rows that are there."
    rows = rows_in(folder)
    for page, experiments_of in EXPERIMENTS.items():
        found = {
            key: [rows[page, key, i] for i in range(len(s)) if (page, key, i) in rows]
            for key, (_, s) in experiments_of.items()
        }
        text = json.dumps(found, indent=1) + "\n"
        (folder / "results" / f"{page}.json").write_text(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("pages", nargs="+", metavar="PAGE[:KEY]")
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--epochs", type=int, help="of every run, to try them out")
    given = parser.parse_args()
    folder = given.folder.resolve()
    for name in ("results", "work"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    os.chdir(folder / "work")  # so that ../results is theirs
    torch.cuda.is_available = lambda: True  # to ask would forbid CUDA after a fork
    context = multiprocessing.get_context("fork")  # with all that is loaded
    jobs, workers = context.Queue(), []
    changed = {"epochs": given.epochs} if given.epochs else {}
    there = rows_in(folder)
    for wanted in given.pages:
        page, _, only = wanted.partition(":")
        if page not in EXPERIMENTS:
            EXPERIMENTS[page] = experiments(page)
        for key, (_, settings) in EXPERIMENTS[page].items():
            for i in range(len(settings) if only in ("", key.replace(" ", "_")) else 0):
                if (page, key, i) not in there:
                    jobs.put((page, key, i))
    for _ in range(given.processes):
        jobs.put((None, None, None))
        workers.append(context.Process(target=work, args=(folder, jobs, changed)))
        workers[-1].start()
    for worker in workers:
        worker.join()
    gather(folder)


if __name__ == "__main__":
    main()
