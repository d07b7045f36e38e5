import re
from pathlib import Path

import pytest

from tests.conftest import ROOT
from utils.errors import InputError
from utils.parse import dump_yaml, load_config

# by name, so that configs of one's own may lie beside them
PUBLISHED = (
    *(
        f"{backbone}-{kind}"
        for backbone in ("carn", "srresnet", "fsrcnn")
        for kind in ("x4", "pcsr-phase0", "pcsr-phase1")
    ),
    *(f"fsrcnn-pcsr-phase1-{variant}" for variant in ("multiscale", "m3", "hidden", "avg0", "avg10")),
    *("carn-pcsr-phase1-m3", "fsrcnn-pcsr-phase0-multiscale"),
)
CONFIGS = (
    *PUBLISHED,
    *(f"softgate-{kind}" for kind in ("x4", "pcsr-phase0", "pcsr-phase1", "pcsr-phase1-m3")),
    *("softgate-pcsr-photo-phase0", "softgate-pcsr-photo"),
)
AXES = {
    "multiscale": {"scale", "init"},
    "m3": {"upsamplers"},
    "hidden": {"classifier"},
    "avg0": {"loss_avg_w"},
    "avg10": {"loss_avg_w"},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_shipped_configs_hold_the_published_recipe(name: str) -> None:
    config = load_config(ROOT / f"configs/{name}.yaml")
    backbone = name.split("-", maxsplit=1)[0]
    assert config.model.backbone == backbone
    assert config.train.learning_rate == (1e-3 if backbone == "fsrcnn" else 2e-4)
    assert config.train.learning_rate_min == 1e-7 and config.train.betas == (0.9, 0.99)
    assert config.train.iter_max == (500_000 if config.train.phase == 1 else 2_000_000)
    multiscale = "-multiscale" if name.endswith("-multiscale") else ""
    assert config.data.batch_size == 16 and config.data.patch_size == 32
    assert config.data.scale == ((2, 4) if multiscale else 4)
    if config.train.phase == 1:
        assert config.train.init == f"save/{backbone}-pcsr-phase0{multiscale}"
        average = name.rpartition("-avg")[2]
        assert (config.train.loss_l1_w, config.train.loss_avg_w) == (1000, int(average) if average.isdigit() else 3)


@pytest.mark.parametrize("name", [name for name in CONFIGS if name.rpartition("-")[2] in AXES])
def test_a_variant_differs_in_its_axis_alone(name: str) -> None:
    variant, plain = (load_config(ROOT / f"configs/{stem}.yaml") for stem in (name, name.rpartition("-")[0]))
    sections = [(getattr(variant, section), getattr(plain, section)) for section in ("model", "data", "train")]
    changed = {key for one, other in sections for key in vars(one) if vars(one)[key] != vars(other)[key]}
    assert changed == AXES[name.rpartition("-")[2]] - ({"init"} if variant.train.phase == 0 else set())


def test_overrides() -> None:
    path = ROOT / "configs/carn-pcsr-phase1.yaml"
    config = load_config(path, ["iter_max=2000", "train.learning_rate=1e-3", "init=null", "upsamplers=[[4],[8]]"])
    assert (config.train.iter_max, config.train.learning_rate, config.train.init) == (2000, 1e-3, None)
    assert config.model.upsamplers == ((4,), (8,))  # type: ignore[union-attr]


@pytest.mark.parametrize(("text", "scales"), [("3", (3, 3)), ("[2, 4]", (2, 4)), ("[2.5, 2.5]", (2.5, 2.5))])
def test_a_scale_may_be_a_range(text: str, scales: tuple[float, float], tmp_path: Path) -> None:
    config = load_config(ROOT / "configs/carn-pcsr-phase1.yaml", [f"data.scale={text}"])
    assert config.data.scales == scales and isinstance(config.data.scale, tuple) == ("[" in text)
    (tmp_path / "again.yaml").write_text(dump_yaml(config))
    assert load_config(tmp_path / "again.yaml") == config


@pytest.mark.parametrize(
    "setting,message",
    [
        ("iter_maxx=3", "iter_maxx: unknown key"),
        ("scale=2", "ambiguous key, one of: data.scale, model.scale"),
        ("iter_max", "write key=value"),
        ("iter_max=0", "train.iter_max"),
        ("iter_max=many", "train.iter_max"),
        ("learning_rate=nan", "train.learning_rate"),
        ("phase=2", "train.phase"),
        ("grad_clip=0", "train.grad_clip"),
        ("weight_decay=-1", "train.weight_decay"),
        ("learning_rate=true", "train.learning_rate: must not be true or false"),
        ("width=true", "model.width: must not be true or false"),
        ("betas=[false, 0.9]", "train.betas: must not be true or false"),
        ("degrade={jpeg: true}", r"data\.degrade\.jpeg: must be a whole number from 1 to 100"),
        ("degrade={noise: [1, true]}", r"data\.degrade\.noise: must be a number from 0 to 100"),
        ("degrade={noise: 3, clean: true}", r"data\.degrade\.clean: Input should be a valid number"),
        ("data.train=''", "data.train: must be a folder"),
        (f"seed={2**63}", "train.seed"),
        ("batch_size=100000000000000000000", "data.batch_size"),
        *[
            (f"data.scale={scale}", r"data\.scale: must be a whole number, or a range \[low, high\]")
            for scale in ("0", "2.5", "four", "[4, 2]", "[1, 4]", "[2]", "[2, 3, 4]", "[2, inf]", "[2, .nan]", "null")
        ],
    ],
)
def test_wrong_overrides_name_the_key(setting: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_config(ROOT / "configs/carn-pcsr-phase1.yaml", [setting])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("foo=3", "setting foo: unknown key; the configs in configs/ show those that there are"),
        ("iter_maxx=3", "setting iter_maxx: unknown key, one of: iter_max"),
        ("iter_max=0", "train.iter_max: Input should be greater than 0 (config PATH with iter_max=0)"),
        ("val_lr=[a, b]", "data: val_lr must name one folder for each of val (config PATH with val_lr=[a, b])"),
        (
            "degrade={jpg: 4}",
            "data.degrade.jpg: unknown key, one of: blur, noise, jpeg, subsampling, clean, "
            "blur_share, noise_share, jpeg_share (config PATH with degrade={jpg: 4})",
        ),
        ("width=true", "model.width: must not be true or false (config PATH with width=true)"),
        (
            "phase1_loss=gains",
            "train: phase1_loss gains is for phase 1; leave it out (config PATH with phase1_loss=gains)",
        ),
        (
            "degrade={noise: 4, subsampling: 444}",
            "data.degrade: subsampling is for jpeg; give jpeg, or leave it out (config PATH with degrade={noise: 4, "
            "subsampling: 444})",
        ),
        (
            "learning_rate_min=1",
            "train: learning_rate_min must not be above learning_rate (config PATH with learning_rate_min=1)",
        ),
        (
            "frozen_bn=true",
            "train: frozen_bn keeps the statistics of init; set init, or leave it out (config PATH with "
            "frozen_bn=true)",
        ),
    ],
)
def test_an_error_names_the_key_first_and_only_the_setting_at_fault(setting: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        load_config("configs/fsrcnn-x4.yaml", ["log_every=5", "seed=2", setting])
    assert str(error.value) == message.replace("PATH", "configs/fsrcnn-x4.yaml")


def test_errors_about_a_key_of_a_mapping(tmp_path: Path) -> None:
    config = ROOT / "configs/fsrcnn-x4.yaml"
    for settings, message in (
        (
            ["degrade.noise=400", "degrade.jpeg=40"],
            r"data\.degrade\.noise: must be .* with degrade\.noise=400\)",
        ),
        (
            ["degrade.clean=1", "degrade.jpeg_share=1"],
            r"data\.degrade: give .* with degrade\.clean=1 degrade\.jpeg",
        ),
        (["degrade.foo=1"], r"data\.degrade\.foo: unknown key, one of: blur"),
        (["degrade.noise=[1,2"], r"setting degrade\.noise: while parsing"),
    ):
        with pytest.raises(InputError, match=message):
            load_config(config, settings)
    for content in ("model: carn\ndata: [1, 2]\n", "model: {options: 3}\ndata: {degrade: 4}\n"):
        (tmp_path / "own.yaml").write_text(content)
        for setting in ("options.depth=4", "degrade.noise=4"):
            with pytest.raises(InputError, match=f"^setting {setting[:-2]}: "):
                load_config(tmp_path / "own.yaml", [setting])


@pytest.mark.parametrize("setting", ["x" * 500, "x" * 500 + "=3", f"seed={'[' * 500}", f"val_lr=[{'a, ' * 500}b]"])
def test_no_error_is_longer_than_can_be_read(setting: str) -> None:
    with pytest.raises(InputError) as error:
        load_config(ROOT / "configs/fsrcnn-x4.yaml", [setting, f"degrade={{{'k' * 500}: 3}}"])
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    "before,after,message",
    [
        ("iter_max:", "itermax:", "train.itermax: unknown key|train.iter_max: Field required"),
        ("  width: 52\n", "", "model.width: Field required"),
        ("kind: pcsr", "kind: gan", "model"),
        ("data:", "dat:", "dat"),
        ("model:", "model: [", "cannot read"),
    ],
)
def test_wrong_files_name_the_key(tmp_path: Path, before: str, after: str, message: str) -> None:
    text = (ROOT / "configs/carn-pcsr-phase1.yaml").read_text()
    assert before in text
    path = tmp_path / "wrong.yaml"
    path.write_text(text.replace(before, after))
    with pytest.raises(InputError, match=message) as error:
        load_config(path)
    assert "wrong.yaml" in str(error.value)


def test_a_sharp_is_part_of_a_name() -> None:
    names = ["data.train=data/set #2", "val='data/set #3'", "data.cache_dir=null"]
    data = load_config("configs/fsrcnn-x4.yaml", names).data
    assert (data.train, data.val, data.cache_dir) == ("data/set #2", "data/set #3", None)


def test_a_config_may_extend_another(tmp_path: Path) -> None:
    base = ROOT / "configs/softgate-pcsr-photo.yaml"  # which extends another one itself
    (tmp_path / "own.yaml").write_text(f"extends: {base}\ntrain: {{seed: 7}}\ndata: {{degrade: {{clean: 0.1}}}}\n")
    own, other = load_config(tmp_path / "own.yaml", ["batch_size=3"]), load_config(base)
    assert (own.train.seed, own.data.batch_size, own.model) == (7, 3, other.model)
    assert own.data.degrade is not None and other.data.degrade is not None
    assert own.data.degrade == other.data.degrade.model_copy(update={"clean": 0.1})
    assert load_config(base, ["degrade.clean=0.1"]).data.degrade == own.data.degrade
    alone = load_config("configs/fsrcnn-x4.yaml", ["data.degrade.noise=4", "degrade.jpeg=[40, 90]"]).data.degrade
    assert str(alone) == "noise=4 jpeg=40-90"
    (tmp_path / "whole.yaml").write_text(dump_yaml(own))
    assert load_config(tmp_path / "whole.yaml") == own


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("own.yaml", "extends: the config extends itself"),
        ("../NAME/own.yaml", "extends: the config extends itself"),
        ("none.yaml", "cannot read config .*none.yaml"),
        ("[a, b]", "extends: must be the name of a config"),
    ],
)
def test_what_cannot_be_extended(base: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(f"extends: {base.replace('NAME', tmp_path.name)}\n")
    with pytest.raises(InputError, match=message):
        load_config(tmp_path / "own.yaml")


def test_missing_file() -> None:
    with pytest.raises(InputError, match=r"nowhere\.yaml"):
        load_config("nowhere.yaml")


@pytest.mark.parametrize("name", CONFIGS)
def test_the_commands_of_a_header_belong_together(name: str) -> None:
    """What they train they evaluate, from the phase 0 that its own header trains, and never the weights that ship."""
    trained = {other: set(re.findall(r"--name (\S+)", header(other))) for other in CONFIGS}
    (own,) = trained[name]
    assert sum(own in others for others in trained.values()) == 1
    assert all(f"--config configs/{name}.yaml --name" in line for line in header(name).splitlines() if "train" in line)
    assert set(re.findall(r"--model save/(\S+)", header(name))) == ({own} if "test" in header(name) else set())
    if "phase1" in name:
        backbone, scales = name.split("-", maxsplit=1)[0], "-multiscale" if "multiscale" in name else ""
        assert [f"save/{each}" for each in trained[f"{backbone}-pcsr-phase0{scales}"]] == re.findall(
            r"--set init=(\S+)", header(name)
        )
        assert "test_pcsr.py --model" in header(name)


def header(name: str) -> str:
    """The commands in the header of a config, continued lines joined."""
    text = (ROOT / f"configs/{name}.yaml").read_text().replace("\\\n#", "")
    return "\n".join(re.findall(r"^#   (.*)$", text, re.MULTILINE))


@pytest.mark.parametrize("nested", ["[" * 999 + "]" * 999, "{a: " * 9999, "- " * 9999, "0x" + "f" * 9999])
def test_what_no_config_holds(tmp_path: Path, nested: str) -> None:
    (tmp_path / "deep.yaml").write_text(nested)
    with pytest.raises(InputError, match=r"deep\.yaml: ") as of_file:
        load_config(tmp_path / "deep.yaml")
    with pytest.raises(InputError, match=r"setting iter_max: ") as of_setting:
        load_config(ROOT / "configs/carn-x4.yaml", [f"iter_max={nested}"])
    for error in (of_file, of_setting):
        assert error.value.__suppress_context__
