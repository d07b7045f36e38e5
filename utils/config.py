"""One experiment is one YAML file, read into frozen typed specs; an unknown, missing or wrong key is an error."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError


class Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OriginalSpec(Spec):
    """A backbone with its own tail."""

    kind: Literal["original"]
    backbone: str  # one of this project, or MODULE:NAME from outside
    width: PositiveInt
    options: dict[str, Any] = Field(default_factory=dict)  # further parameters of the backbone; its code declares them
    scale: int


class PCSRSpec(Spec):
    """An encoder, upsamplers and a classifier; phase 0 has one upsampler and no classifier."""

    kind: Literal["pcsr"]
    backbone: str  # as above
    width: PositiveInt
    options: dict[str, Any] = Field(default_factory=dict)  # as above, for its encoder
    upsamplers: tuple[tuple[PositiveInt, ...], ...] = Field(min_length=1)  # hidden widths, light .. heavy
    classifier: tuple[PositiveInt, ...] | None  # hidden widths


ModelSpec = Annotated[OriginalSpec | PCSRSpec, Field(discriminator="kind")]


def or_else(message: str, prepare: Callable[[object], object] = lambda value: value) -> WrapValidator:
    """A validator with one message for every wrong value; the types alone would give several messages."""

    def validate(value: object, inner: ValidatorFunctionWrapHandler) -> object:
        try:
            return inner(prepare(value))
        except ValidationError as error:
            order = any(each["type"] == "order" for each in error.errors())
            raise PydanticCustomError("value", f"{message}; {ORDER}" if order else message) from None

    return WrapValidator(validate)


ORDER = "low must not be above high"


def rising(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise PydanticCustomError("order", ORDER)
    return ends


def both_ends(value: object) -> object:
    return (value, value) if isinstance(value, int | float) else value


def as_tuple(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else (value,)


N = TypeVar("N", bound=float)
Span = Annotated[tuple[N, N], AfterValidator(rising)]
Factor = Annotated[float, Field(gt=1, allow_inf_nan=False)]
WRONG_SCALE = "must be a whole number, or a range [low, high] with 1 < low <= high"
Scale = Annotated[PositiveInt | Span[Factor], or_else(WRONG_SCALE)]
Folder = Annotated[str, Field(min_length=1)]
WRONG_FOLDERS = "must be a folder, or a list of folders; a name like 2024, a number to YAML, is written ./2024"
Several = Annotated[tuple[Folder, ...], Field(min_length=1)]
Folders = Annotated[Folder | Several, or_else(WRONG_FOLDERS)]  # with their subfolders
Level = Annotated[float, Field(ge=0, le=100, strict=True)]  # strict: true is not 1
Levels = Annotated[Span[Level], or_else("must be a number from 0 to 100, or a range [low, high] of them", both_ends)]
Quality = Annotated[int, Field(ge=1, le=100, strict=True)]
WRONG_QUALITY = "must be a whole number from 1 to 100, or a range [low, high] of them"
Qualities = Annotated[Span[Quality], or_else(WRONG_QUALITY, both_ends)]
Share = Annotated[float, Field(ge=0, le=1, strict=True)]
Sampling = Literal[420, 422, 444]
AnySampling = Annotated[tuple[Sampling, ...], Field(min_length=1)]
Samplings = Annotated[AnySampling, or_else("must be 420, 422 or 444, or a list of them", as_tuple)]


class DegradeSpec(Spec):
    """Degradation of LR: HR is blurred before it is shrunk, then LR gets noise and is compressed as a JPEG.

    If a range is given, a number is drawn from it for each image, and in training for each crop.
    """

    blur: Levels = (0, 0)  # sigma of a Gaussian in HR pixels
    noise: Levels = (0, 0)  # sigma in levels of 8 bits
    jpeg: Qualities | None = None
    subsampling: Samplings = (420,)  # how the JPEG stores colours; if several are given, one is drawn
    clean: Share = 0.0  # share of the images for which nothing is drawn, so that they stay as they are
    blur_share: Share = 1.0  # of the other images, those that are blurred; the three shares are drawn independently
    noise_share: Share = 1.0
    jpeg_share: Share = 1.0

    @model_validator(mode="after")
    def check_parts(self) -> Self:
        if not any(given for given, _ in self.parts.values()):
            raise PydanticCustomError("degrade", "give blur, noise or jpeg")
        if self.jpeg is None and self.subsampling != (420,):
            raise PydanticCustomError("degrade", "subsampling is for jpeg; give jpeg, or leave it out")
        for part, (given, share) in self.parts.items():
            if share != 1 and not given:
                raise PydanticCustomError("degrade", f"{part}_share is for {part}; give {part}, or leave it out")
        return self

    @property
    def parts(self) -> dict[str, tuple[bool, float]]:
        """Whether there is each part of the degradation, and its share."""
        return {
            "blur": (self.blur[1] > 0, self.blur_share),
            "noise": (self.noise[1] > 0, self.noise_share),
            "jpeg": (self.jpeg is not None, self.jpeg_share),
        }

    @property
    def leaves_clean(self) -> bool:
        """Whether some images stay as they are."""
        return self.clean > 0 or not any(given and share == 1 for given, share in self.parts.values())

    def __str__(self) -> str:
        """All values that are not the defaults, such as `noise=8 jpeg=40-100`."""
        values = {name: as_tuple(value) for name, value in self.model_dump(exclude_defaults=True).items()}
        return " ".join(f"{name}={'-'.join(dict.fromkeys(f'{n:g}' for n in each))}" for name, each in values.items())


def listed(folders: str | Sequence[str] | None) -> list[str]:
    """One folder, several or none, as a list."""
    return [folders] if isinstance(folders, str) else list(folders or ())


def ends(scale: float | tuple[float, float]) -> tuple[float, float]:
    """The lowest and the highest of a range of scales, or one scale twice."""
    return scale if isinstance(scale, tuple) else (scale, scale)


class DataSpec(Spec):
    train: Folders  # folders of HR images, from which crops are taken at random
    val: Folders  # folders of HR images for validation
    train_lr: Folders | None = None  # folders of LR images, one for each of `train`; null: LR is made from HR
    val_lr: Folders | None = None  # the same for `val`
    scale: Scale  # HR/LR, the same for all batches; or a range (PCSR only), from which one is drawn for each batch
    top_share: Share = 0.0  # share of the batches that get the upper end of a range
    patch_size: PositiveInt  # LR pixels
    batch_size: int = Field(gt=0, le=2**20)  # samples of all processes together
    lr_round: bool = True  # LR rounded to 8 bits, as real LR files are
    degrade: DegradeSpec | None = None  # if LR is made from HR; null: HR is shrunk, and nothing else
    cache_dir: str | None = None  # where the decoded training images are kept; null: beside their folder

    @model_validator(mode="after")
    def check_pairs(self) -> Self:
        for name in ("train", "val"):
            lr = getattr(self, f"{name}_lr")
            if lr is not None and len(listed(lr)) != len(listed(getattr(self, name))):
                raise PydanticCustomError("pairs", f"{name}_lr must name one folder for each of {name}")
        if self.train_lr is not None and isinstance(self.scale, tuple):
            raise PydanticCustomError("pairs", "the images of train_lr have one scale; set scale to it, a whole number")
        if self.degrade and self.train_lr is not None:
            raise PydanticCustomError("pairs", "degrade is for LR that is made from HR; leave out degrade or train_lr")
        if self.degrade and not self.lr_round:
            raise PydanticCustomError("pairs", "degrade makes LR of 8 bits; leave it out or set lr_round to true")
        return self

    @property
    def scales(self) -> tuple[float, float]:
        """The lowest and the highest scale of training; validation is at the highest."""
        return ends(self.scale)


Beta = Annotated[float, Field(ge=0, lt=1)]


class TrainSpec(Spec):
    iter_max: PositiveInt
    learning_rate: float = Field(gt=0, allow_inf_nan=False)
    learning_rate_min: float = Field(default=1e-7, gt=0, allow_inf_nan=False)  # the learning rate at the end
    warmup: int = Field(default=0, ge=0)  # iterations of linear warm-up
    schedule: Literal["cosine", "stable"] = "cosine"  # stable: one rate, then a straight line down over `anneal`
    anneal: float = Field(default=0.25, gt=0, le=1)  # share of the training in which the stable schedule ends
    time_limit: float | None = Field(default=None, gt=0, allow_inf_nan=False)  # minutes at most, without validations
    betas: tuple[Beta, Beta] = (0.9, 0.99)
    optimizer: Literal["adam", "muon"] = "adam"  # muon: Muon for the weights, Adam for the rest
    grad_clip: float | None = Field(default=None, gt=0, allow_inf_nan=False)  # highest norm of all gradients together
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)  # decoupled; biases and BatchNorm do not decay
    loss: Literal["l1", "mse", "psnr"] = "l1"  # psnr: the logarithm of each patch's MSE
    # passes in which a process works through its batch, to save memory; BatchNorm and the loss of the heavy share then
    # see the images of one pass at a time
    accumulation: PositiveInt = 1
    ema_decay: float = Field(default=0.0, ge=0, lt=1)  # decay of the average that is shipped; 0: no average
    amp: bool = False  # bfloat16 where autocast finds it safe
    compile: bool = False  # torch.compile
    kernels: bool = True  # in float32 on CPUs use our compiled kernels; false: PyTorch's convolutions
    seed: int = Field(default=0, ge=0, lt=2**63)
    frozen_bn: bool = False  # BatchNorm keeps the statistics of `init`, and so computes as in evaluation
    sync_bn: bool = False  # several GPUs: BatchNorm over the whole batch, not over each process' share
    phase: Literal[0, 1] | None = None  # phase of PCSR training; null: an original model
    init: str | None = None  # weights to start from; phase 1 needs those of phase 0
    pixels_per_patch: PositiveInt | None = None  # the loss sees this many random HR pixels of each patch; null: all
    loss_l1_w: float = Field(default=1000.0, gt=0, allow_inf_nan=False)  # phase 1, weight of the L1 (or other) loss
    # phase 1, weight of the loss that keeps the heavy share near one half
    loss_avg_w: float = Field(default=3.0, ge=0, allow_inf_nan=False)
    # phase 1. mixture (paper): light upsamplers and classifier learn together from the mixture of all upsamplers, and
    # the two weights above count. gains: each light upsampler learns alone, the classifier learns what each one gains.
    phase1_loss: Literal["mixture", "gains"] = "mixture"
    # gains, the price at k = 0: a pixel takes a heavier upsampler if this lowers its error by at least gain_price % of
    # the patch's mean error for each additional % of the FLOPs of a heavy pixel, with the encoder
    gain_price: float = Field(default=0.04, gt=0, allow_inf_nan=False)
    log_every: PositiveInt = 100
    val_every: PositiveInt = 10_000
    val_ssim: bool = True  # SSIM beside PSNR; it takes two thirds of the time of restoring with CARN
    val_images: int = Field(default=0, ge=0)  # how many of the validation images are written each time
    save_every: PositiveInt = 1_000
    keep_checkpoints: PositiveInt = 2  # how many of the training states are kept

    @model_validator(mode="after")
    def check_together(self) -> Self:
        if self.phase1_loss == "gains" and self.phase != 1:
            raise PydanticCustomError("together", "phase1_loss gains is for phase 1; leave it out")
        if self.learning_rate_min > self.learning_rate:
            raise PydanticCustomError("together", "learning_rate_min must not be above learning_rate")
        if self.frozen_bn and self.init is None:
            raise PydanticCustomError("together", "frozen_bn keeps the statistics of init; set init, or leave it out")
        if self.frozen_bn and self.sync_bn:
            raise PydanticCustomError("together", "sync_bn has no effect with frozen_bn; leave out one of them")
        return self


class Config(Spec):
    model: ModelSpec
    data: DataSpec
    train: TrainSpec
