"""What scripts that hold herd against others share: its example data in a folder, a small model to begin with, and herd itself."""
import os
import shutil
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
EXAMPLES = REPOSITORY / "examples"
# A tiny model of the repository's speeches, all in f32: `base/checkpoints/step-40`.
BASE = """
tokenizer = "tokenizer"
data.input = ["speeches.jsonl.zst"]
precision.weights = "f32"
optim.steps = 40
validation.every = 0
samples.every = 0
"""


def offline():
    """Nothing of Hugging Face's goes online, or prints more than is asked; to be called before it is imported."""
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_PROGRESS_BARS="1", TQDM_DISABLE="1", TRANSFORMERS_VERBOSITY="error")


def herd_flag(parser):
    parser.add_argument("--herd", required=True, type=lambda path: str(Path(path).resolve()))


def furnish(folder, *files):
    """Puts the speeches, other examples and their tokenizer into a folder."""
    for name in ("speeches.jsonl.zst", *files):
        shutil.copy(EXAMPLES / name, folder)
    shutil.copytree(EXAMPLES / "tokenizer", folder / "tokenizer")


def run_herd(herd, folder, *args):
    """What it prints."""
    return subprocess.run([herd, *map(str, args)], cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout
