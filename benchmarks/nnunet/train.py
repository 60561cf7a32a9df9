"""Train a narrow nnU-Net for a given CPU time of one thread, augmentation included.

    export OMP_NUM_THREADS=1 nnUNet_n_proc_DA=0
    python -m benchmarks.nnunet.train Dataset101_SynthMS 0 --minutes 30 -o weights.pth

The schedule of the learning rate is that of nnU-Net, but it depends on the CPU time and not on the epoch. The training
has no validation.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.nnunet.trainer import make_trainer


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.nnunet.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset")
    parser.add_argument("fold", type=int)
    parser.add_argument("--minutes", type=float, required=True, help="CPU time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True, help="file of the weights")
    options = parser.parse_args()
    start, seconds = time.process_time(), options.minutes * 60
    torch.manual_seed(options.seed)
    np.random.seed(options.seed)  # noqa: NPY002 (batchgenerators draws from the global generators)
    random.seed(options.seed)
    trainer = make_trainer(options.dataset, options.fold)
    batches, _ = trainer.get_dataloaders()
    trainer.network.train()
    trainer.set_deep_supervision_enabled(True)
    steps = 0
    with tqdm(total=round(seconds), unit="s") as bar:
        while (used := time.process_time() - start) < seconds:
            for group in trainer.optimizer.param_groups:
                group["lr"] = trainer.initial_lr * (1 - used / seconds) ** 0.9
            result = trainer.train_step(next(batches))
            steps += 1
            bar.set_postfix(step=steps, loss=f"{result['loss']:.3f}")
            bar.update(round(used) - bar.n)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    torch.save(trainer.network.state_dict(), options.output)


if __name__ == "__main__":
    main()
