"""What a GPU changes: seconds an epoch of 55,000 images beside eight threads of the same
machine's processor, and whether a run repeats to the bit. Medians of three epochs, by
autograd; the processor's epochs are measured on 12,800 images.
python bench/gpu.py results.json        (on a machine with CUDA)"""

import json
import statistics
import sys
import time

import torch

from vae_tutorial.data import load_mnist
from vae_tutorial.training import fit
from vae_tutorial.vae import conv_vae, mlp_vae

MODELS = {
    "the post's": lambda: mlp_vae(latent_dim=2),
    "512, 512": lambda: mlp_vae(latent_dim=20, hidden=(512, 512)),
    "2048, 2048": lambda: mlp_vae(latent_dim=20, hidden=(2048, 2048)),
    "convolutions": lambda: conv_vae((1, 28, 28), latent_dim=20, hidden=(32, 64)),
}
THREADS = 8


def seconds(make, images, batch_size, device):
    "Seconds an epoch, after one to warm up."
    torch.manual_seed(0)
    model, images = make().to(device), images.to(device)
    laps = []
    for _ in range(4):
        start = time.perf_counter()
        fit(model, images, epochs=1, batch_size=batch_size, log=None)
        torch.cuda.synchronize()
        laps.append(time.perf_counter() - start)
    return statistics.median(laps[1:])


def repeats(make, images):
    "Whether two runs of one seed end with the same bits."
    ends = []
    for _ in range(2):
        torch.manual_seed(0)
        model = make().to("cuda")
        fit(model, images, epochs=2, log=None)
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    return torch.equal(*ends)


def main():
    if not torch.cuda.is_available():
        sys.exit("no GPU: this comparison needs CUDA")
    torch.set_num_threads(THREADS)
    images, rows = load_mnist().train.images, {}
    few = images[:12_800]
    for name, make in MODELS.items():
        row = {
            f"gpu, {size}": seconds(make, images, size, "cuda") for size in (128, 1024)
        }
        row["cpu, 128"] = seconds(make, few, 128, "cpu") * len(images) / len(few)
        row = {key: round(value, 3) for key, value in row.items()}
        rows[name] = row | {"repeats on the gpu": repeats(make, few[:2000])}
        print(name, rows[name], flush=True)
    made = {"gpu": torch.cuda.get_device_name(0), "threads": THREADS}
    made |= {"torch": torch.__version__.split("+")[0], "seconds": rows}
    with open(sys.argv[1], "w") as file:
        json.dump(made, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
