"""The settings of `make lab`: a notebook is saved as `nbdev_clean` leaves it, so that
git sees what a reader changed and nothing else."""

from pathlib import Path

import nbdev.clean
import nbdev.config


def clean(model, **_):
    "Leave out of a notebook that is saved what JupyterLab adds to it."
    if model["type"] != "notebook":
        return
    kept = settings.allowed_cell_metadata_keys.split()
    nbdev.clean.clean_nb(model["content"], allowed_cell_metadata_keys=kept)
    for cell in model["content"]["cells"]:
        if '#| code-summary: "Solution' in cell["source"]:  # shown when it was run
            cell["metadata"].setdefault("jupyter", {})["outputs_hidden"] = True


settings = nbdev.config.get_config(path=Path(__file__).parent.parent)
c.ContentsManager.pre_save_hook = clean  # noqa: F821 (JupyterLab gives c)
