"""Models in the convention of the Hugging Face Hub: model.safetensors, config.json, and a model card as README.md.

from inference.hub import from_pretrained
upscaler = from_pretrained("somebody/carn-pcsr")        or a folder; needs: pip install huggingface_hub
"""

import json
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from inference.upscaler import Upscaler
from models.build import BACKBONES
from models.checkpoint import WEIGHTS, load_model, read_safetensors, trained_on, weights_file
from models.setting import Precision
from utils.config import PCSRSpec
from utils.errors import InputError, one_line
from utils.files import read_bytes, write_atomic

LIBRARY = "pcsr"
MODEL_CARD = """---
license: {licence}
library_name: {library}
pipeline_tag: image-to-image
tags: [super-resolution, pcsr]
---

# {title}

{kind} super-resolution ({backbone}), trained {trained}. {advice}With the code of
PCSR (arXiv 2407.21448) in the working folder:

```python
from inference.hub import from_pretrained

sr, info = from_pretrained("{name}").upscale("photo.jpg")
```
"""

# about models whose LR was clean in training
ADVICE = "Clean images come out best: it sharpens noise and compression artefacts as if they were details. "


def from_pretrained(
    name: str | PathLike[str], revision: str | None = None, device: str = "auto", precision: Precision = "auto"
) -> Upscaler:
    """A model of the Hub, or of a folder that save_pretrained wrote.

    Raises InputError if there is none, and for a file of the Hub that names a network from outside this project, whose
    code would run here.
    """
    if Path(name).exists():
        return Upscaler.load(name, device, precision)
    try:
        path = hub().hf_hub_download(str(name), WEIGHTS, revision=revision)
    except Exception as error:  # the library has many of its own, of networks, names and rights
        reason = " ".join(str(error).split())
        raise InputError(f"{name}: no such folder, and it cannot be downloaded from the Hub: {reason}") from error
    refuse_code(Path(path))
    return Upscaler.load(path, device, precision)


def refuse_code(path: Path) -> None:
    """Raises InputError for weights that name a network from outside this project, or that are damaged."""
    try:
        spec, _ = read_safetensors(path)
    except InputError as error:
        raise InputError(one_line(path, str(error))) from None
    if spec.backbone not in BACKBONES:
        raise InputError(f"{path}: would run the code of {spec.backbone!r}; if you trust it, load the file by its path")


def save_pretrained(weights: str | PathLike[str], folder: str | PathLike[str], name: str, licence: str = "mit") -> None:
    """Write the three files of a model to `folder`; `weights` is a folder under save/, `name` the model's on the Hub.

    Raises InputError for weights that do not describe themselves, and for a folder that holds such files of others.
    """
    card, config_file, weights_copy = (Path(folder) / each for each in ("README.md", "config.json", WEIGHTS))
    ours = card.exists() and f"library_name: {LIBRARY}\n" in card.read_text("utf-8", "replace")
    if not ours and (there := next(filter(Path.exists, (card, config_file, weights_copy)), None)):
        raise InputError(f"{there}: would be replaced, but {card} is no model card of {LIBRARY}; give another folder")
    path = weights_file(Path(weights))
    _, spec = load_model(path)
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: give the weights of this project, which describe themselves")
    kind = "Pixel-adaptive (PCSR)" if isinstance(spec, PCSRSpec) else "Original"
    known = trained_on(path)
    trained = f"at {known}" if known else "on data that the file does not name"
    facts = {"licence": licence, "title": name.rpartition("/")[2], "kind": kind, "trained": trained, "name": name}
    facts["advice"] = "" if known and (known.degrade or known.lr_files) else ADVICE
    write_atomic(card, MODEL_CARD.format(library=LIBRARY, backbone=spec.backbone, **facts).encode())
    config = {"library_name": LIBRARY, "model": spec.model_dump(mode="json")}
    write_atomic(config_file, json.dumps(config, indent=2).encode())
    write_atomic(weights_copy, read_bytes(path))


def push_to_hub(weights: str | PathLike[str], name: str, private: bool = False, licence: str = "mit") -> str:
    """Upload weights as the model `name`, USER/MODEL; returns its address. Who uploads has to be logged in there."""
    with TemporaryDirectory() as folder:
        save_pretrained(weights, folder, name, licence)
        hub().create_repo(name, private=private, exist_ok=True)
        return str(hub().upload_folder(repo_id=name, folder_path=folder, commit_message=f"PCSR: {name}"))


def hub() -> Any:
    try:
        import huggingface_hub  # noqa: PLC0415 - optional
    except ModuleNotFoundError:
        raise InputError("the Hub needs huggingface_hub: pip install huggingface_hub") from None
    return huggingface_hub
