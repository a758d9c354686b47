"""Seconds per epoch of training loops for the same VAE (784-128-64-2·latent, batch 128, Adam, grey MNIST), side by side.

Each loop is timed in a process of its own, in turns, several times, with one and two threads; medians and ratios go to
nbs/results/training_speed.json. `make bench` runs it in an environment that has the peers (Pythae 0.1.2, JAX, Optax).
python bench/training.py [--rounds 5] [--threads 1 2] [--images 60000] [LOOP ...]"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

LATENT, BATCH = 2, 128
RESULTS = (
    Path(__file__).resolve().parent.parent / "nbs" / "results" / "training_speed.json"
)


def mnist(num):
    from vae_tutorial.data import load_mnist

    return load_mnist(num_validation=0).train.images[:num]


def timed(epoch, warm_up=lambda: None):
    "Seconds for one epoch, after a warm-up that costs the same loop a few steps."
    warm_up()
    start = time.perf_counter()
    epoch()
    return time.perf_counter() - start


def _as_pil_dataset(num):
    "MNIST as torchvision gives it: a PIL image per item, then ToTensor."
    import torchvision
    from vae_tutorial.data import data_directory, install_mnist

    install_mnist()
    dataset = torchvision.datasets.MNIST(
        data_directory(), train=True, transform=torchvision.transforms.ToTensor()
    )
    dataset.data, dataset.targets = dataset.data[:num], dataset.targets[:num]
    return dataset


def post(num):
    "The blog post's loop: DataLoader over PIL images, sigmoid and BCE summed over the batch, two parameter groups; its bugs fixed."
    import torch
    from torch import nn, optim
    from torch.nn import functional as F

    encoder = nn.Sequential(
        nn.Linear(784, 128),
        nn.ReLU(),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Linear(64, 2 * LATENT),
    )
    decoder = nn.Sequential(
        nn.Linear(LATENT, 64),
        nn.ReLU(),
        nn.Linear(64, 128),
        nn.ReLU(),
        nn.Linear(128, 784),
        nn.Sigmoid(),
    )
    loader = torch.utils.data.DataLoader(
        _as_pil_dataset(num), batch_size=BATCH, shuffle=True
    )
    optimizer = optim.Adam(
        [{"params": encoder.parameters()}, {"params": decoder.parameters()}], lr=1e-3
    )

    def epoch(steps=None):
        for i, (images, _) in enumerate(loader):
            images = images.reshape(len(images), -1)
            mean, log_variance = encoder(images).chunk(2, dim=-1)
            z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
            loss = F.binary_cross_entropy(
                decoder(z), images, reduction="sum"
            ) - 0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if i % 100 == 0:
                loss.item()
            if i == steps:
                break

    return timed(epoch, lambda: epoch(20))


def _in_memory(num, from_logits, **adam):
    "The post's arithmetic on batches taken from one tensor instead of a DataLoader."
    import torch
    from torch import nn, optim
    from torch.nn import functional as F

    images = mnist(num).flatten(1)
    encoder = nn.Sequential(
        nn.Linear(784, 128),
        nn.ReLU(),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Linear(64, 2 * LATENT),
    )
    decoder = nn.Sequential(
        nn.Linear(LATENT, 64),
        nn.ReLU(),
        nn.Linear(64, 128),
        nn.ReLU(),
        nn.Linear(128, 784),
    )
    optimizer = optim.Adam(
        [*encoder.parameters(), *decoder.parameters()], lr=1e-3, **adam
    )
    cross_entropy = (
        F.binary_cross_entropy_with_logits
        if from_logits
        else lambda logits, x, reduction: F.binary_cross_entropy(
            torch.sigmoid(logits), x, reduction=reduction
        )
    )

    def epoch(steps=None):
        for i, index in enumerate(torch.randperm(num).split(BATCH)):
            x = images[index]
            mean, log_variance = encoder(x).chunk(2, dim=-1)
            z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
            loss = cross_entropy(decoder(z), x, reduction="sum") - 0.5 * torch.sum(
                1 + log_variance - mean.pow(2) - log_variance.exp()
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if i == steps:
                break

    return timed(epoch, lambda: epoch(20))


def in_memory(num):
    return _in_memory(num, from_logits=False)


def in_memory_logits(num):
    return _in_memory(num, from_logits=True)


def in_memory_logits_fused(num):
    return _in_memory(num, from_logits=True, fused=True)


def pytorch_examples(num):
    "The pattern of pytorch/examples/vae: as above, `.item()` at every step, one module."
    import torch
    from torch import nn, optim
    from torch.nn import functional as F

    encoder = nn.Sequential(
        nn.Linear(784, 128),
        nn.ReLU(),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Linear(64, 2 * LATENT),
    )
    decoder = nn.Sequential(
        nn.Linear(LATENT, 64),
        nn.ReLU(),
        nn.Linear(64, 128),
        nn.ReLU(),
        nn.Linear(128, 784),
    )
    loader = torch.utils.data.DataLoader(
        _as_pil_dataset(num), batch_size=BATCH, shuffle=True
    )
    optimizer = optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)

    def epoch(steps=None):
        total = 0.0
        for i, (images, _) in enumerate(loader):
            optimizer.zero_grad()
            mean, log_variance = encoder(images.view(-1, 784)).chunk(2, dim=-1)
            z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
            loss = F.binary_cross_entropy(
                torch.sigmoid(decoder(z)), images.view(-1, 784), reduction="sum"
            ) - 0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
            loss.backward()
            total += loss.item()
            optimizer.step()
            if i == steps:
                break

    return timed(epoch, lambda: epoch(20))


def pythae(num):
    "Pythae 0.1.2: its own trainer, with our two networks; the time between the end of the first epoch and that of the second."
    import tempfile
    import torch
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import TrainingCallback
    from torch import nn

    class Encoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(
                nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU()
            )
            self.mean, self.log_variance = nn.Linear(64, LATENT), nn.Linear(64, LATENT)

        def forward(self, x):
            h = self.layers(x.reshape(len(x), -1))
            return ModelOutput(
                embedding=self.mean(h), log_covariance=self.log_variance(h)
            )

    class Decoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(
                nn.Linear(LATENT, 64),
                nn.ReLU(),
                nn.Linear(64, 128),
                nn.ReLU(),
                nn.Linear(128, 784),
                nn.Sigmoid(),
            )

        def forward(self, z):
            return ModelOutput(reconstruction=self.layers(z).reshape(-1, 1, 28, 28))

    class Clock(TrainingCallback):
        ends = []

        def on_epoch_end(self, *_, **__):
            self.ends.append(time.perf_counter())

    from pythae.data.datasets import BaseDataset

    images = mnist(num)
    model = VAE(
        VAEConfig(input_dim=(1, 28, 28), latent_dim=LATENT, reconstruction_loss="bce"),
        Encoder(),
        Decoder(),
    )
    with tempfile.TemporaryDirectory() as folder:
        settings = BaseTrainerConfig(
            output_dir=folder,
            learning_rate=1e-3,
            per_device_train_batch_size=BATCH,
            num_epochs=2,
            optimizer_cls="Adam",
            steps_saving=None,
            no_cuda=True,
        )
        BaseTrainer(
            model=model,
            train_dataset=BaseDataset(images, torch.zeros(len(images))),
            training_config=settings,
            callbacks=[Clock()],
        ).train()
    return Clock.ends[1] - Clock.ends[0]


def jax_scan(num):
    "JAX: one jitted function that scans over all batches of an epoch; compilation not counted."
    import jax
    import jax.numpy as jnp
    import optax

    images = jnp.asarray(mnist(num).reshape(num, 784).numpy())
    sizes, keys = (
        ([784, 128, 64, 2 * LATENT], [LATENT, 64, 128, 784]),
        jax.random.split(jax.random.PRNGKey(0), 6),
    )
    layers = [
        (
            jax.random.uniform(key, (a, b), minval=-(a**-0.5), maxval=a**-0.5),
            jnp.zeros(b),
        )
        for key, (a, b) in zip(keys, [pair for s in sizes for pair in zip(s, s[1:])])
    ]
    optimizer = optax.adam(1e-3)

    def run(layers, x):
        for w, b in layers[:-1]:
            x = jax.nn.relu(x @ w + b)
        return x @ layers[-1][0] + layers[-1][1]

    def loss(layers, x, key):
        mean, log_variance = jnp.split(run(layers[:3], x), 2, axis=-1)
        logits = run(
            layers[3:],
            mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, mean.shape),
        )
        return (
            optax.sigmoid_binary_cross_entropy(logits, x).sum()
            - 0.5 * (1 + log_variance - mean**2 - jnp.exp(log_variance)).sum()
        ) / len(x)

    @jax.jit
    def epoch(layers, state, key):
        order_key, noise_key = jax.random.split(key)
        order = jax.random.permutation(order_key, num)[: num // BATCH * BATCH].reshape(
            -1, BATCH
        )

        def step(carry, inputs):
            layers, state = carry
            index, key = inputs
            value, gradient = jax.value_and_grad(loss)(layers, images[index], key)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(layers, updates), state), value

        return jax.lax.scan(
            step, (layers, state), (order, jax.random.split(noise_key, len(order)))
        )

    state = optimizer.init(layers)
    (layers, state), _ = jax.block_until_ready(
        epoch(layers, state, jax.random.PRNGKey(1))
    )
    return timed(
        lambda: jax.block_until_ready(epoch(layers, state, jax.random.PRNGKey(2)))
    )


def _ours(num, **options):
    import torch
    from vae_tutorial.training import fit
    from vae_tutorial.vae import VAE

    images = mnist(num)
    torch.manual_seed(0)
    model = VAE(latent_dim=LATENT)
    fit(model, images[: 20 * BATCH], epochs=1, log=None, **options)
    ends = []
    fit(
        model,
        images,
        epochs=2,
        log=None,
        callback=lambda record: (
            ends.append(time.perf_counter())
            if record["step"] == -(-num // BATCH)
            else None
        ),
        **options,
    )
    return ends[1] - ends[0]


def ours_readable(num):
    return _ours(num, pixels="grey", fast=False)


def ours(num):
    return _ours(num, pixels="grey")


def ours_binary(num):
    return _ours(num, pixels="binary")


def floor(num):
    "Only the matrix products of an epoch: forward, gradients by weights and by activations, at these shapes."
    import torch

    products = []
    for sizes, first in (
        ([784, 128, 64, 2 * LATENT], True),
        ([LATENT, 64, 128, 784], False),
    ):
        for i, (inputs, outputs) in enumerate(zip(sizes, sizes[1:])):
            x, w, y = (
                torch.randn(BATCH, inputs),
                torch.randn(outputs, inputs),
                torch.randn(BATCH, outputs),
            )
            products += [
                (x, w.T, torch.empty(BATCH, outputs)),
                (y.T, x, torch.empty(outputs, inputs)),
            ]
            if not (first and i == 0):
                products.append((y, w, torch.empty(BATCH, inputs)))

    def epoch(steps=None):
        for _ in range(steps or num // BATCH):
            for a, b, out in products:
                torch.mm(a, b, out=out)

    return timed(epoch, lambda: epoch(20))


LOOPS = {
    loop.__name__: loop
    for loop in (
        floor,
        ours,
        ours_readable,
        ours_binary,
        jax_scan,
        in_memory_logits_fused,
        in_memory_logits,
        in_memory,
        pythae,
        post,
        pytorch_examples,
    )
}


def flops_per_image():
    "Floating-point operations of the matrix products for one image, forward and backward."
    sizes = [784, 128, 64, 2 * LATENT], [LATENT, 64, 128, 784]
    weights = sum(a * b for s in sizes for a, b in zip(s, s[1:]))
    return 2 * (3 * weights - 784 * 128)


def busy(seconds=2.0):
    "Share of the CPU time that others used during a pause of ours."

    def times():
        return [
            int(field)
            for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:]
        ]

    before = times()
    time.sleep(seconds)
    spent = [after - first for after, first in zip(times(), before)]
    return 1 - (spent[3] + spent[4]) / sum(spent)


def measure(loop, threads, num):
    environment = os.environ | {
        name: str(threads)
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    }
    environment["XLA_FLAGS"] = (
        f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'} intra_op_parallelism_threads={threads}"
    )
    command = [sys.executable, __file__, "--one", loop, "--images", str(num)]
    if threads == 1 and hasattr(os, "sched_setaffinity"):
        command = ["taskset", "-c", "0", *command]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{loop}: {result.stderr[-2000:]}")
    return float(result.stdout.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("loops", nargs="*", choices=[[], *LOOPS])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return print(LOOPS[options.one](options.images))
    loops, load = options.loops or list(LOOPS), busy()
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    print(
        f"{model}, {os.cpu_count()} cores; others use {load:.0%} of the machine{'' if load < 0.1 else ': NOT QUIET, do not quote these figures'}"
    )
    table = {
        "machine": model,
        "cores": os.cpu_count(),
        "load_of_others": round(load, 3),
        "rounds": options.rounds,
        "images": options.images,
        "batch_size": BATCH,
        "flops_per_image": flops_per_image(),
        "seconds": {},
    }
    for threads in options.threads:
        seconds = {loop: [] for loop in loops}
        for _ in range(options.rounds):
            for loop in loops:
                seconds[loop].append(measure(loop, threads, options.images))
        table["seconds"][str(threads)] = seconds
        medians = {loop: statistics.median(values) for loop, values in seconds.items()}
        print(
            f"\n{threads} thread{'s' * (threads > 1)}      seconds   spread        x ours   share of floor"
        )
        for loop, median in sorted(medians.items(), key=lambda item: item[1]):
            ratio, share = (
                (
                    f"{median / medians[other]:8.2f}"
                    if order
                    else f"{medians[other] / median:8.0%}"
                    for other, order in (("ours", True), ("floor", False))
                    if other in medians
                )
                if {"ours", "floor"} <= medians.keys()
                else ("", "")
            )
            print(
                f"{loop:16} {median:7.2f}   {min(seconds[loop]):.2f}-{max(seconds[loop]):.2f} {ratio}        {share}"
            )
        if "floor" in medians:
            print(
                f"matrix products: {options.images // BATCH * BATCH * flops_per_image() / medians['floor'] / 1e9:.0f} GFLOP/s"
            )
    if not options.loops and options.images == 60_000:
        RESULTS.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
