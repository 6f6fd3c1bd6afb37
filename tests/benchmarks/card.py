"""A model card into a checkpoint: `python -m tests.benchmarks.card MODEL CARD.md -o geoseg/weights/unet.safetensors`.

The card is Markdown; scores in it come from `tests.benchmarks.folds`, the range of ground sample distances (--gsd) from
`tests.benchmarks.gsd`. Weights stay as they are.
"""

import argparse
from pathlib import Path

from geoseg.checkpoint import Header, load_checkpoint, save_checkpoint


def main() -> None:
    """Write the checkpoint again, with its card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("card", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--gsd", type=float, nargs=3, metavar=("MIN", "MAX", "BEST"), help="metres per pixel")
    options = parser.parse_args()
    checkpoint = load_checkpoint(options.model)
    said = checkpoint.header.model_dump() | {"card": options.card.read_text()}
    if options.gsd:
        said["gsd"] = tuple(options.gsd)
    save_checkpoint(options.output, Header.model_validate(said), checkpoint.state_dict)


if __name__ == "__main__":
    main()
