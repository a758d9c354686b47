"""The settings of `make lab`: a notebook is saved as `nbdev_clean` leaves it, so that
git sees what a reader changed and nothing else."""

from pathlib import Path

import nbdev.clean
import nbdev.config


def clean(model, **_):
    "Leave out of a notebook that is saved what JupyterLab adds to it."
    if model["type"] == "notebook":
        kept = settings.allowed_cell_metadata_keys.split()
        nbdev.clean.clean_nb(model["content"], allowed_cell_metadata_keys=kept)


settings = nbdev.config.get_config(path=Path(__file__).parent.parent)
c.ContentsManager.pre_save_hook = clean  # noqa: F821 (JupyterLab gives c)
