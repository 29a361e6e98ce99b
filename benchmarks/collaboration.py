"""Does the ensemble predict held-out text better than each of its members? Prints a table in Markdown.

Example: python benchmarks/collaboration.py HELDOUT.jsonl.gz --with til
"""

from __future__ import annotations

import argparse
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

from ssdcli.machine import prepare_machine

prepare_machine()

import torch  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

from ssdcli.engine.process import make_process  # noqa: E402
from ssdcli.evaluation.losses import Losses, LossSettings, measure, passage_of  # noqa: E402
from ssdcli.models.folder import load_backbone  # noqa: E402
from ssdcli.registry.store import Registry  # noqa: E402
from ssdcli.training.documents import ReadReport  # noqa: E402
from ssdcli.training.readers import read_documents  # noqa: E402
from ssdcli.training.tokenizer import END_OF_TEXT, special_id  # noqa: E402


def main() -> None:
    """Measure at the weight that the small model's manifest stores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="+", help="held-out text, never trained on")
    parser.add_argument("--with", dest="small", required=True, help="the small model")
    parser.add_argument("--repeats", type=int, default=2, help="sets of noise levels per window")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    registry = Registry()
    small = registry.find(arguments.small)
    core = registry.find(small.manifest.core or "starter")
    tokenizer = Tokenizer.from_file(str(core.folder / "tokenizer.json"))
    end = special_id(tokenizer, END_OF_TEXT)
    texts = [document.text for document in read_documents(arguments.data, ReadReport())]
    passages = [passage_of(text, tokenizer, end) for text in texts]
    models = [load_backbone(core.folder), load_backbone(small.folder)]
    process = make_process(core.manifest.process, core.manifest.vocabulary, core.manifest.constants)
    window = min(model.context for model in models)
    weight = small.manifest.weight or 0.5
    losses = measure(
        models, process, passages, [0.0, weight, 1.0], LossSettings(window, arguments.repeats, arguments.seed)
    )
    _print_table(losses, weight, (core.name, small.name), process.name)


def _print_table(losses: Losses, weight: float, names: tuple[str, str], process: str) -> None:
    kind = "NELBO" if process == "masked" else "denoising loss"
    rows = (names[0], f"{names[0]} + {names[1]}={weight:g}", names[1])
    figures = zip(rows, losses.nats_per_token(), losses.standard_error(), losses.bits_per_byte(), strict=True)
    print(f"{datetime.now(UTC):%Y-%m-%d}, {platform.processor() or platform.machine()}, torch {torch.__version__},")
    print(f"{torch.get_num_threads()} threads: `python {' '.join([Path(sys.argv[0]).as_posix(), *sys.argv[1:]])}`")
    print(f"\n{len(losses.tokens)} documents, {losses.tokens.sum():,} tokens, {losses.bytes.sum():,} bytes; {kind}\n")
    print("| model | nats per token | standard error | bits per byte |\n| --- | --- | --- | --- |")
    for name, nats, error, bits in figures:
        print(f"| {name} | {nats:.4f} | {error:.4f} | {bits:.4f} |")
    print()
    for name, other in ((names[0], 0.0), (names[1], 1.0)):
        gain, error = losses.difference(weight, other)
        print(f"- gain over {name} alone: {gain:.4f} ± {error:.4f} nats per token ({gain / error:.1f} standard errors)")


if __name__ == "__main__":
    main()
