"""How a training begins with the weights of another, the key `train.init`."""

from torch import nn

from models.build import difference, facts, resolved
from models.checkpoint import load_model, trained_on
from models.original import OriginalModel
from models.pcsr import PCSR
from models.trained import scale_names
from training.carry import carry_image
from training.widen import widen
from utils.config import Config, OriginalSpec, PCSRSpec
from utils.errors import InputError, one_line


def start_from(model: OriginalModel | PCSR, spec: OriginalSpec | PCSRSpec, path: str) -> str | None:
    """Take the weights of another training: the encoder, and the tail or the heavy upsampler if both models have one.

    Where only the encoder is taken, it may be narrower than this model's; then the result is a line that says so.
    Phase 1 takes light upsamplers and the classifier, too, from a model whose ones have the same sizes. Raises
    InputError if they do not fit, and if phase 1 would begin without a trained heavy upsampler.
    """
    trained, described = load_model(path)
    given, wanted = taken_from(described), taken_from(resolved(spec))
    another = f"is another model than this config's: {difference(given, wanted) or 'its weights have other shapes'}"
    if any(given[key] != wanted[key] for key in given.keys() & wanted.keys() if key.startswith("options.")):
        # such as a dilation, which no shape of a weight shows
        raise InputError(one_line(f"train.init: {path}", another))
    also: list[tuple[nn.Module, nn.Module]] = []  # what takes the weights of what, beside the encoder
    if isinstance(model, PCSR) and isinstance(trained, PCSR):
        also = [(model.upsamplers[-1], trained.upsamplers[-1])]
        if model.classifier is not None and trained.classifier is not None and sizes(spec) == sizes(described):
            also = [(model, trained)]
    elif isinstance(model, OriginalModel) and isinstance(trained, OriginalModel):
        if trained.scale != model.scale:  # which no shape of FSRCNN's weights shows
            raise InputError(one_line(f"train.init: {path}", another))
        also = [(model.tail, trained.tail)]
    elif isinstance(model, PCSR) and model.classifier is not None:
        raise InputError(f"train.init: {path} is an original model, but phase 1 needs the weights of phase 0")
    note = None
    try:
        if described.width < spec.width:
            note = take_narrower(model, trained, (spec.width, described.width))
        else:
            model.encoder.load_state_dict(trained.encoder.state_dict())
        for module, source in also:
            module.load_state_dict(source.state_dict())
    except (RuntimeError, ValueError):
        raise InputError(one_line(f"train.init: {path}", another)) from None
    return note


def take_narrower(model: OriginalModel | PCSR, trained: OriginalModel | PCSR, widths: tuple[int, int]) -> str:
    """Widen the encoder of a trained model; returns a line that says so. Raises ValueError if they do not fit."""
    added = widen(model.encoder, trained.encoder, widths)
    note = f"train.init: the encoder is widened from {widths[1]} to {widths[0]} channels"
    if isinstance(model, OriginalModel) and carry_image(model, added):
        note += ", three of which carry the image (only with frozen_bn=true, or BatchNorm changes it)"
    return note


def sizes(spec: OriginalSpec | PCSRSpec) -> object:
    """The widths of all upsamplers and the classifier."""
    spec = resolved(spec)
    return (spec.upsamplers, spec.classifier) if isinstance(spec, PCSRSpec) else None


def check_scales(config: Config) -> None:
    """Raises InputError if phase 1 would route pixels at scales for which nothing trains the heavy upsampler."""
    path, wanted = config.train.init, config.data.scales
    record = trained_on(path) if path is not None and config.train.phase == 1 else None
    if record is not None and not all(map(record.covers, wanted)):
        raise InputError(
            f"train.init: {path} was trained at {scale_names(record.scales)}, and phase 1 at {scale_names(wanted)} "
            "trains neither its encoder nor its heavy upsampler; set data.scale, or train phase 0 at these scales"
        )


def taken_from(spec: OriginalSpec | PCSRSpec) -> dict[str, object]:
    """The values of a spec that must agree if start_from is to take the weights."""
    known = {key: value for key, value in facts(spec).items() if key not in ("kind", "upsamplers", "classifier")}
    return {**known, "heavy upsampler": spec.upsamplers[-1]} if isinstance(spec, PCSRSpec) else known
