"""`python -m tools.tinymodel train OUT`, `python -m tools.tinymodel models MODELS_DIR`, in the repository's root."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from tools.tinymodel import fleet


def train(arguments: list[str]) -> None:
    # Threads that spin while they wait make training three times as slow on a machine that has more to do.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is loaded
    import torch
    import transformers

    from tools.tinymodel import accuracy, tokenizer
    from tools.tinymodel.train import BATCH, SEED, STEPS, THREADS, new_model, training

    parser = argparse.ArgumentParser(prog="tinymodel train", description="Train the tiny model into a folder.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--check", type=float, default=0.0, help="fail if a skill's mean accuracy is below this")
    options = parser.parse_args(arguments)

    tokens = tokenizer.build()
    model = new_model(tokens)
    began_s = time.monotonic()
    curve: dict[int, float] = {}
    recent: list[float] = []
    for step, loss in enumerate(training(model, tokens, options.steps), start=1):
        recent.append(loss)
        if step % 20 == 0:
            curve[step] = round(sum(recent) / len(recent), 4)
            recent.clear()
            print(f"step {step}/{options.steps}: loss {curve[step]}, {time.monotonic() - began_s:.0f} s", flush=True)
    seconds = time.monotonic() - began_s
    model.save_pretrained(options.out)
    tokens.save_pretrained(options.out)
    (options.out / "model.safetensors").chmod(0o644)  # written 0600, and the engine may run as another user
    # Greedy unless the client asks otherwise, so that an answer is the same each time. Written by hand, since
    # transformers saves no temperature of 0; with do_sample it reads one without a warning.
    greedy = {
        "bos_token_id": tokens.bos_token_id,
        "eos_token_id": tokens.eos_token_id,
        "do_sample": True,
        "temperature": 0.0,
    }
    (options.out / "generation_config.json").write_text(json.dumps(greedy, indent=2) + "\n")

    measured = accuracy.measure(model, tokens)
    figures = {
        "parameters": model.num_parameters(),
        "vocabulary": len(tokens),
        "steps": options.steps,
        "batch": BATCH,
        "seed": SEED,
        "threads": THREADS,
        "seconds": round(seconds, 1),
        "loss_mean_of_20_steps": curve,
        "accuracy_samples": accuracy.SAMPLES,
        "accuracy": measured,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    (options.out / "training.json").write_text(json.dumps(figures, indent=2) + "\n")

    for skill, by_line in measured.items():
        print(f"{skill:12}", *(f"{line} {share:.3f}" for line, share in by_line.items()), sep="  ")
    low = [skill for skill, by_line in measured.items() if sum(by_line.values()) / len(by_line) < options.check]
    if low:
        sys.exit(f"accuracy below {options.check}: {', '.join(low)}")


COMMANDS = {"train": train, "models": fleet.main}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(f"usage: python -m tools.tinymodel {{{','.join(COMMANDS)}}} ...")
    COMMANDS[sys.argv[1]](sys.argv[2:])
