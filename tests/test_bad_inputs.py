"""Thousands of generated bad inputs: each raises a documented error that names the argument, never one from deep inside PyTorch.

One or two arguments of a call that works are replaced by anything at all. What happens to be acceptable may work."""

import collections
import math
import re
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tiny import write_tiny_data
from torch.distributions import MultivariateNormal
from typer.testing import CliRunner

from vae_tutorial import (
    _guards,
    _mnist,
    annealing,
    checkpoints,
    data,
    distributions,
    evaluation,
    exercises,
    files,
    importance,
    likelihood,
    linear_gaussian,
    networks,
    objectives,
    plots,
    training,
    vae,
)
from vae_tutorial._guards import shown
from vae_tutorial.cli import app
from vae_tutorial.variants import (
    bounds,
    conditional,
    convolutional,
    disentanglement,
    flows,
    latent_diffusion,
    reductions,
)
from vae_tutorial.variants import priors as learned
from vae_tutorial.variants import text

EXAMPLES = 45  # for each function
DOCUMENTED = (TypeError, ValueError, OSError, FloatingPointError)
RAW = (
    "mat1 and mat2",
    "expected scalar type",
    "size of tensor",
    "has no attribute",
    "unsupported operand",
    "not supported between",
    "not subscriptable",
    "not iterable",
    "unhashable",
    "invalid data type",
    "DefaultCPUAllocator",
    "out of range",
)
ALSO_NAMED = {
    "name": "name|exercise",
    "x": "images|x|data_dim|latent_dim",
    "model": "model|x|q|z",
    "images": "images",
    "validation": "validation|images",
    "hidden": "hidden|sizes",
    "module": "module|model",
    "path": "path|file",
    "folder": "folder|checkpoint|metrics",
    "directory": "directory|folder|MNIST",
    "reconstructions": "reconstructions|images",
    "originals": "originals|images",
    "epochs": "epochs",
    "decode": "decode",
    "num": "num|columns",
    "latent_dim": "latent_dim|dims|z",
    "tensors": "tensors|path|file",
    "q": "q|x",
    "bias": "bias|weight",
    "weight": "weight|bias",
    "text": "text|line|key|JSON",
    "labels": "labels|means",
    "self": "mean|weight",
    "data_dim": "data_dim",
    "image_shape": "image_shape|sizes|images",
    "figure": "figure",
    "sizes": "sizes",
}

shapes = st.one_of(
    st.lists(st.integers(0, 5), max_size=5).map(tuple),
    st.sampled_from(
        [
            (8, 1, 4, 4),
            (8, 4, 4),
            (8, 2),
            (3, 2),
            (8,),
            (2,),
            (8, 3),
            (4, 2),
            (8, 1, 28, 28),
            (0, 1, 4, 4),
            (8, 3, 4, 4),
        ]
    ),
)
tensors = st.builds(
    lambda shape, dtype, fill: torch.full(shape, fill).to(dtype),
    shapes,
    st.sampled_from(
        [
            torch.float32,
            torch.float32,
            torch.float64,
            torch.float16,
            torch.int64,
            torch.uint8,
            torch.bool,
            torch.complex64,
        ]
    ),
    st.sampled_from([0.5, 0.0, 1.0, -1.0, 255.0, math.nan, math.inf]),
)
anything = st.one_of(
    tensors,
    tensors,
    st.sampled_from(
        [
            None,
            "",
            object(),
            len,
            torch.Tensor,
            vae.VAE,
            torch.nn.Linear(2, 2),
            2**31,
            2**63,
            10**30,
            -(10**30),
            "a\0b",
            "~no_such_user/x",
            1j,
            range(3),
            set(),
        ]
    ),
    st.booleans(),
    st.integers(-3, 5),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.lists(st.integers(-2, 3), max_size=3),
    st.tuples(st.integers(-2, 3), st.integers(-2, 3)),
    st.dictionaries(st.text(max_size=2), st.integers(0, 3), max_size=2),
    st.lists(
        st.dictionaries(
            st.sampled_from(["epoch", "step", "split", "elbo", "reconstruction", "kl"]),
            st.sampled_from([1, 0, "train", None]),
        ),
        max_size=2,
    ),
)

for_tensors = st.one_of(anything, st.just(np.zeros((8, 1, 4, 4))))

IMAGES = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
HISTORY = [
    {
        "epoch": 1,
        "step": 1,
        "split": "train",
        "elbo": -1.0,
        "reconstruction": -1.0,
        "kl": 0.0,
    }
]
MODEL = vae.mlp_vae((1, 4, 4), hidden=(3,))
CONVOLUTIONAL = vae.conv_vae((1, 4, 4), hidden=(3,))
FACTORS = torch.arange(16).reshape(8, 2) % 3
TOLD = conditional.conditional_vae((1, 4, 4), 2, (3,), 4)
LINE = linear_gaussian.LinearGaussian(torch.rand(4, 2), torch.rand(4), 0.3)
NORMAL = distributions.DiagonalGaussian(torch.zeros(8, 2), torch.zeros(8, 2))
FLOW = flows.FlowDistribution(NORMAL, flows.flow_layers("coupling", 2, 2, 3))


def functions(folder):
    "Every public function, with arguments that work."
    saved = MODEL.save(folder / "model.safetensors")
    pair = {"mean": torch.zeros(8, 2), "log_variance": torch.zeros(8, 2)}
    priors = {"prior_mean": 0.0, "prior_log_variance": 0.0}
    row, z = torch.rand(8, 4), torch.zeros(8, 2)
    scored = {"model": MODEL, "images": IMAGES, "seed": 0}
    sampled = {"model": MODEL, "x": IMAGES, "num_samples": 2}
    walks = {"num_chains": 2, "num_temperatures": 3, "num_leapfrogs": 1}
    annealed = {"model": MODEL, "x": IMAGES, **walks}
    walks["model"] = MODEL
    sizes = {"image_shape": (1, 4, 4), "latent_dim": 2, "hidden": (3,)}
    gaussian = MultivariateNormal(z, torch.eye(2))
    layer = {"latent_dim": 2, "hidden": 3, "context_dim": 0}
    written = {"path": folder / "new.safetensors", "metadata": None}
    seeded = {"num_validation": 0, "seed": 0, "directory": folder}
    trained = {"model": MODEL, "images": IMAGES, "validation": IMAGES, "epochs": 1}
    trained |= {"batch_size": 8, "learning_rate": 1e-3, "pixels": "binary", "seed": 0}
    trained |= {"log_every": 100, "log": None, "callback": None}
    reduced = {"reconstruction": "sum", "kl": "sum", "weight": 1.0}
    shown = {"images": IMAGES, "columns": 4, "title": "", "width": None, "axes": None}
    compared = {"originals": IMAGES, "reconstructions": IMAGES, "columns": 4}
    mapped = {"means": torch.rand(8, 2), "labels": torch.arange(8), "dims": (0, 1)}
    grid = {"num": 3, "latent_dim": 2, "dims": (0, 1)}
    return [
        (_mnist.data_directory, {"directory": folder}),
        (_mnist.install_mnist, {"directory": None}),
        (_guards.check_seed, {"seed": 0}),
        (data.binarize, {"images": IMAGES, "seed": 0}),
        (data.load_mnist, {"name": "fashion-mnist", **seeded}),
        (distributions.DiagonalGaussian, pair),
        (NORMAL.log_prob, {"z": z}),
        (distributions.kl_per_dimension, {**pair, **priors}),
        (distributions.kl_divergence, {**pair, **priors}),
        (distributions.bernoulli, {"logits": IMAGES, "event_dims": 3}),
        (
            linear_gaussian.LinearGaussian,
            {"weight": torch.rand(4, 2), "bias": torch.rand(4), "noise_variance": 0.3},
        ),
        (LINE.encode, {"x": row}),
        (LINE.decode, {"z": z}),
        (
            linear_gaussian.expected_log_likelihood,
            {"model": LINE, "x": row, "q": gaussian},
        ),
        (linear_gaussian.fit_linear_gaussian, {"x": row, "latent_dim": 2}),
        (objectives.elbo, sampled),
        (objectives.beta_elbo, {"beta": 1.0}),
        (importance.log_importance_weights, sampled),
        (importance.iwae_bound, sampled),
        (training.annealed, {"num_steps": 10}),
        (annealing.annealed_weights, {**annealed, "exact": torch.zeros(8, 2)}),
        (annealing.sandwich, {"num_examples": 2, **walks}),
        (
            reductions.effective_beta,
            {"data_dim": 16, "latent_dim": 2, "likelihood": "gaussian", **reduced},
        ),
        (flows.Coupling, layer),
        (flows.Autoregressive, layer),
        (
            flows.flow_layers,
            {"flow": "coupling", "num_layers": 2, **layer},
        ),
        (flows.flow_vae, {**sizes, "num_layers": 1, "flow_hidden": 3}),
        (
            latent_diffusion.LatentFlow,
            {"latent_dim": 2, "hidden": 3, "num_classes": 4, "num_steps": 3},
        ),
        (latent_diffusion.latent_flow_vae, {**sizes, "flow_hidden": 3}),
        (text.load_names, {"num_validation": 10, "num_test": 10, "seed": 0}),
        (text.to_characters, {"words": ["ana", "bo"], "length": 4}),
        (text.to_words, {"x": text.to_characters(["ana", "bo"])}),
        (
            text.text_vae,
            {"length": 3, "num_characters": 3, "latent_dim": 2, "hidden": 3},
        ),
        (text.free_bits_elbo, {"model": MODEL, "x": IMAGES, "floor": 0.1}),
        (bounds.sticking_the_landing, sampled),
        (bounds.doubly_reparameterized, sampled),
        (convolutional.ResidualBlock, {"channels": 2}),
        (convolutional.residual_vae, {**sizes, "num_blocks": 1}),
        (FLOW.log_prob, {"z": z}),
        (learned.LearnedMixture, {"latent_dim": 2, "num_components": 3}),
        (learned.FlowPrior, {"latent_dim": 2, "num_layers": 1, "hidden": 3}),
        (learned.prior_vae, {**sizes, "prior": "vamp", "num_components": 3}),
        (conditional.conditional_vae, {**sizes, "num_classes": 4}),
        (TOLD.given, {"labels": torch.arange(8) % 4}),
        (
            conditional.log_p_by_label,
            {"model": TOLD, "x": IMAGES, "num_samples": 2},
        ),
        (disentanglement.tc_elbo, {"beta": 1.0, "num_data": 100}),
        (disentanglement.kl_parts, {"q": NORMAL, "z": z, "num_data": 100}),
        (disentanglement.factor_information, {"codes": row, "factors": FACTORS}),
        (
            disentanglement.mutual_information_gap,
            {"information": torch.rand(2, 4), "factors": FACTORS},
        ),
        (networks.mlp, {"sizes": [4, 3, 2]}),
        (networks.StandardNormal, {"latent_dim": 2}),
        (networks.conv_encoder, sizes),
        (networks.conv_decoder, sizes),
        (vae.mlp_vae, sizes),
        (vae.conv_vae, sizes),
        (MODEL.encode, {"x": IMAGES}),
        (MODEL.decode, {"z": z}),
        (CONVOLUTIONAL.encode, {"x": IMAGES}),
        (CONVOLUTIONAL.decode, {"z": z}),
        (MODEL.elbo, {"x": IMAGES, "num_samples": 1}),
        (MODEL.sample, {"num_samples": 2, "seed": 0}),
        (MODEL.reconstruct, {"x": IMAGES}),
        (MODEL.save, {"path": folder / "new.safetensors"}),
        (vae.VAE.load, {"path": saved}),
        (files.read_safetensors, {"path": saved}),
        (files.save_weights, {"module": MODEL, **written}),
        (files.write_safetensors, {"tensors": {"a": IMAGES}, **written}),
        (files.load_weights, {"module": MODEL, "path": saved}),
        (files.parse_json, {"text": "{}"}),
        (checkpoints.Checkpoint, {"folder": folder, "resume": False}),
        (training.fit, trained),
        (evaluation.active_units, {"means": torch.rand(8, 2), "threshold": 0.01}),
        (
            evaluation.evaluate,
            {**scored, "pixels": "binary", "num_samples": 1, "batch_size": 8},
        ),
        (likelihood.log_joint, {"model": MODEL, "x": IMAGES, "z": torch.zeros(3, 2)}),
        (
            likelihood.log_likelihood,
            {**scored, "method": "importance", "num_samples": 5, "pixels": "binary"},
        ),
        (plots.show_images, shown),
        (plots.show_reconstructions, {**compared, "axes": None}),
        (plots.plot_losses, {"history": HISTORY, "figure": None}),
        (plots.plot_latent_map, {**mapped, "axes": None}),
        (plots.latent_grid, grid),
        (
            plots.show_manifold,
            {"decode": lambda z: MODEL.decode(z).mean, **grid, "axes": None},
        ),
        (
            plots.draw_parts,
            {"parts": [("data", 0, 0, "x")], "arrows": [], "axes": None},
        ),
        (exercises.check, {"name": "elbo.1", "answer": 1.0}),
    ]


def names_argument(message, replaced):
    return any(
        re.search(rf"\b({ALSO_NAMED.get(name, re.escape(name))})\b", message)
        for name in replaced
    )


def attempt(function, arguments, replaced):
    "`refused` by a documented error that names a replaced argument, or `accepted`. Anything else raises."
    try:
        function(**arguments)
    except DOCUMENTED as error:
        message = str(error)
        assert names_argument(message, replaced) or any(
            shown(arguments[name])[:200] in message  # as it is safe to print
            for name in replaced
            if isinstance(error, OSError)
        ), f"{type(error).__name__} names none of {replaced}: {message}"
        assert not any(raw in message for raw in RAW), message
        return "refused"
    finally:
        plt.close("all")
    return "accepted"


def complaints(function, arguments, counts, examples):
    "What is wrong with the errors of a function, or None."

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def one_call(draw):
        replaced = draw.draw(
            st.lists(
                st.sampled_from(sorted(arguments)),
                min_size=1,
                max_size=min(2, len(arguments)),
                unique=True,
            ),
            label="replaced",
        )
        bad = {
            name: draw.draw(
                for_tensors if isinstance(arguments[name], torch.Tensor) else anything,
                label=name,
            )
            for name in replaced
        }
        assume(all(arguments[name] is not value for name, value in bad.items()))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            counts[attempt(function, {**arguments, **bad}, replaced)] += 1

    try:
        one_call()
    except Exception as error:
        return f"{function.__qualname__}: {type(error).__name__}: {error} {getattr(error, '__notes__', '')}"


def test_generated_bad_arguments_are_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a file name may be any text
    write_tiny_data(tmp_path, 20, 20)
    counts, found = collections.Counter(), []
    for function, arguments in functions(tmp_path):
        with torch.random.fork_rng(devices=[]):
            found.append(complaints(function, arguments, counts, EXAMPLES))
    print(counts)
    assert not any(found), "\n".join(filter(None, found))
    assert counts["refused"] >= 1000, counts


def test_every_public_function_is_among_them(tmp_path):
    "Those without arguments, and records that hold what they are given, cannot be called wrongly."
    tried = {function.__qualname__.split(".")[0] for function, _ in functions(tmp_path)}
    harmless = {
        "use_style",
        "LabelledImages",
        "Splits",
        "ElboTerms",
        "WeightedTerms",
        "ImportanceBound",
        "Evaluation",
        "LogLikelihood",
        "Sandwich",
        "Verdict",
    }
    inner = {  # what a training step is made of: they trust each other
        "kl_term",
        "weighted_elbo",
        "Gaussian",
        "BernoulliPixels",
        "AnyBatch",
        "gradient_step",
        "annealed_step",
        "batches",
        "train_epoch",
        "mean_terms",
        "training_state",
        "restore_training",
        "write_bytes",
        "check_fit",
        "check_finite",
        "checksum",
        "make_folder",
        "leftovers",
        "remove_leftovers",
        "FolderLock",
    }
    for module in (
        data,
        distributions,
        linear_gaussian,
        objectives,
        annealing,
        importance,
        networks,
        vae,
        files,
        checkpoints,
        training,
        evaluation,
        likelihood,
        plots,
        exercises,
    ):
        public = {name for name in module.__all__ if callable(getattr(module, name))}
        assert public <= tried | harmless | inner, public - tried - harmless - inner


# ---- the command line


BAD_OPTIONS = {  # option: values that no command takes
    "--latent-dim": ["0", "-1", "2.5", "two", "", "1000000000000", "9" * 40],
    "--hidden": ["a,b", "0", "-3", "64,-1", "1e3", "1000000000000", "9" * 5000],
    "--epochs": ["0", "-1", "x", "", "1.5"],
    "--batch-size": ["0", "-8", "x", "9" * 30],
    "--lr": ["0", "-1", "nan", "inf", "fast", ""],
    "--beta": ["-1", "nan", "inf", "x"],
    "--seed": ["x", "1.5", "9" * 30, "-" + "9" * 30],
    "--pixels": ["gray", "", "BINARY", "0"],
    "--data": ["mnst", "../mnist", "\U0001f600"],
    "--network": ["cnn", ""],
    "--size": ["0", "-1", "x", "28"],
    "--validation": ["-1", "20", "x", "9" * 30],
    "--device": ["tpu7", "", "meta", "cuda:999", "cpu:x", "mps"],
}
BAD_CALLS = {  # command and option: values that it does not take
    ("sample", "--num"): ["0", "-1", "x", "2.5", "9" * 30, "1000000000"],
    ("sample", "--seed"): ["x", "9" * 30],
    ("sample", "--out"): [
        "RUN",
        "RUN/config.json",
        "nowhere/picture.png",
        "picture.xyz",
    ],
    ("reconstruct", "--num"): ["0", "-1", "x", "9" * 30, "21"],
    ("reconstruct", "--seed"): ["x", "9" * 30],
    ("reconstruct", "--out"): ["RUN", "nowhere/picture.png", "picture.xyz"],
    ("evaluate", "--device"): ["tpu7", "", "meta", "cuda:999"],
    ("evaluate", "--data-dir"): ["RUN/config.json", "/dev/null"],
}


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    "Runs a command in this process, on a finished run and tiny data."
    folder = tmp_path_factory.mktemp("command")
    tiny = write_tiny_data(folder / "data", 20, 20)

    def invoke(*arguments):
        arguments = [
            argument.replace("RUN", str(folder / "run")) for argument in arguments
        ]
        if "--data-dir" not in arguments and arguments[0] != "sample":
            arguments += ["--data-dir", str(tiny)]
        return CliRunner().invoke(app, arguments)

    finished = invoke(
        "train",
        "--out",
        "RUN",
        "--data",
        "fashion-mnist",
        "--epochs",
        "1",
        "--hidden",
        "4",
        "--device",
        "cpu",
    )
    assert finished.exit_code == 0, finished.output
    invoke.folder = folder
    return invoke


def assert_one_message(result, name):
    "Exit code 1 or 2, one message, no traceback."
    assert isinstance(result.exception, SystemExit) and result.exit_code in (1, 2), (
        name,
        result.exit_code,
        result.exception,
    )
    assert (
        "Traceback" not in result.output and result.output.lower().count("error") >= 1
    ), result.output
    assert not any(raw in result.output for raw in RAW if raw != "out of range"), (
        result.output
    )
    assert re.search(name, result.output), (name, result.output)


def test_bad_options_end_in_one_message(command, monkeypatch):
    "Alone, and two bad ones at a time."
    monkeypatch.chdir(command.folder)
    named = {
        "--hidden": "hidden|sizes",
        "--lr": "lr|learning_rate",
        "--data": "data set|--data",
        "--latent-dim": "latent.dim|sizes",
        "--batch-size": "batch.size",
        "--validation": "validation",
    }
    counts, before = collections.Counter(), sorted(command.folder.rglob("*"))
    flat = [
        (option, value) for option, values in BAD_OPTIONS.items() for value in values
    ]

    def refuse(*options):
        assert_one_message(
            command(
                "train",
                "--out",
                "new",
                "--data",
                "fashion-mnist",
                "--epochs",
                "1",
                *(text for option in options for text in option),
            ),
            "|".join(named.get(option, option.strip("-")) for option, _ in options),
        )
        counts["train"] += 1

    for option in flat:
        refuse(option)

    @settings(max_examples=150, deadline=None, derandomize=True, database=None)
    @given(
        st.lists(
            st.sampled_from(flat),
            min_size=2,
            max_size=2,
            unique_by=lambda option: option[0],
        )
    )
    def two(options):
        refuse(*options)

    two()
    for (name, option), values in BAD_CALLS.items():
        for value in values:
            assert_one_message(
                command(name, "RUN", option, value),
                {"--out": "--out|picture|format", "--data-dir": "data|folder|not"}.get(
                    option, option.strip("-")
                ),
            )
            counts[name] += 1
    for arguments in (
        ["fly"],
        ["train"],
        ["sample"],
        ["evaluate", "nowhere"],
        ["sample", "RUN", "--what"],
        ["train", "--out", "RUN"],
        ["train", "--out", "RUN", "--resume", "--overwrite"],
    ):
        assert_one_message(
            command(*arguments), "fly|--out|Missing|nowhere|--what|contradict|run"
        )
        counts["usage"] += 1
    assert (
        sorted(command.folder.rglob("*")) == before and sum(counts.values()) >= 200
    ), counts
