"""Encoders in the format of Hugging Face, from a folder or the Hub, as models to evaluate.

Only architectures that `transformers` itself brings are built, from the settings in `config.json`
that they declare; code beside the weights is never run.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from worldmodel.errors import InputError
from worldmodel.models.adapters import (
    Adapter,
    AdapterLevel,
    ImageEncoder,
    PixelScale,
    VideoPredictor,
)
from worldmodel.models.checkpoint import ClipSpec, LoadedModel
from worldmodel.models.hub_files import (
    find_folder,
    find_weights,
    first_line,
    hash_files,
    import_extra,
    read_json,
    read_preprocessor,
)

HORIZONS = (1, 2, 4)
"""Steps that a V-JEPA 2 is asked to predict ahead, as far as its window allows."""
NUM_FRAMES, FPS = 32, 8.0
"""Clips to evaluate on, since such checkpoints do not say: those of our own models."""
# What task heads add to a checkpoint, and the mask token of pretraining, which encoding never uses.
HEADS = re.compile(r"(classifier|decoder|head|pooler)\.|.*mask_token$")
# What a network gives back where it is part of another one; it is none here.
OUTPUTS = {"stage_names", "out_features", "out_indices", "apply_layernorm", "reshape_hidden_states"}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True, kw_only=True)
class Family:
    """How `transformers` names one architecture, and what it does unless a checkpoint says more.

    Attributes:
        config: name of its configuration class.
        model: name of the class of the bare network.
        scale: mean and standard deviation of pixels in 0..1 where no preprocessor is given.
        make: further arguments of the model's constructor.
        call: further arguments of each call.
    """

    config: str
    model: str
    scale: tuple[tuple[float, float, float], tuple[float, float, float]] = IMAGENET
    make: Mapping[str, Any] = field(default_factory=dict)
    call: Mapping[str, Any] = field(default_factory=dict)


# These two refuse frames of another size than they were trained on unless asked to interpolate.
_INTERPOLATED = {"interpolate_pos_encoding": True}
_BARE = {"add_pooling_layer": False}
VIDEO = "vjepa2"
FAMILIES = {
    VIDEO: Family(config="VJEPA2Config", model="VJEPA2Model"),
    "dinov2": Family(config="Dinov2Config", model="Dinov2Model"),
    "dinov2_with_registers": Family(
        config="Dinov2WithRegistersConfig", model="Dinov2WithRegistersModel"
    ),
    "dinov3_vit": Family(config="DINOv3ViTConfig", model="DINOv3ViTModel"),
    "ijepa": Family(config="IJepaConfig", model="IJepaModel", make=_BARE, call=_INTERPOLATED),
    "vit": Family(config="ViTConfig", model="ViTModel", scale=HALF, make=_BARE, call=_INTERPOLATED),
}


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """All but the weights: enough to build the network again, in another process too.

    Attributes:
        family: the architecture.
        config: its configuration, an object of `transformers`.
        level: tokens, steps and horizons.
        clip: frames, rate and size that it is evaluated on.
        scale: of pixels.
        window: steps that it sees at most; 1 for images.
    """

    family: Family
    config: Any
    level: AdapterLevel
    clip: ClipSpec
    scale: PixelScale
    window: int

    def wrap(self, backbone: nn.Module) -> Adapter:
        """The two methods around a network of this architecture; frozen, in evaluation mode."""
        size = self.clip.size
        if self.config.model_type == VIDEO:
            adapter: Adapter = VideoPredictor(backbone, self.level, size, self.scale, self.window)
        else:
            adapter = ImageEncoder(backbone, self.level, size, self.scale, dict(self.family.call))
        return adapter.eval().requires_grad_(False)

    def fresh(self) -> Adapter:
        """With weights as `transformers` initialises them, from torch's own generator."""
        library = import_extra("transformers")
        with quiet(library):
            backbone = getattr(library, self.family.model)(self.config, **self.family.make)
        return self.wrap(backbone.float())

    def describe(self) -> dict[str, Any]:
        """Its numbers, as JSON can hold them."""
        level, scale = self.level, self.scale
        return {
            "model_type": self.config.model_type,
            "depth": self.config.num_hidden_layers,
            "grid": list(level.grid),
            "dim": level.dim,
            "span": level.span,
            "horizons": list(level.horizons),
            "window_frames": self.window * level.span,
            "pixels": {
                "factor": scale.factor,
                "mean": list(scale.mean),
                "std": list(scale.std),
            },
            "clip": asdict(self.clip),
        }


@dataclass(frozen=True, kw_only=True)
class LoadedEncoder(LoadedModel):
    """Somebody else's encoder in evaluation mode, and what is known about it.

    `config` says where it comes from, its `model_type`, sizes, and how pixels are scaled;
    `sha256` is that of the weight files, one after the other by name.
    """

    blueprint: Blueprint = field(compare=False, repr=False)

    def untrained(self, seed: int) -> Adapter:
        """The same architecture as `transformers` initialises it, equal for equal seeds."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.blueprint.fresh()


def load_encoder(
    source: str | Path,
    *,
    num_frames: int = NUM_FRAMES,
    fps: float = FPS,
    size: int | None = None,
    window: int | None = None,
    horizons: Sequence[int] | None = None,
) -> LoadedEncoder:
    """An encoder of Hugging Face's, frozen, in float32 and in evaluation mode.

    Args:
        source: folder, or `hf://org/name` with perhaps `@revision`.
        num_frames: frames of the clips it is evaluated on.
        fps: their frames per second.
        size: height and width of their frames in pixels; by default what its preprocessor crops
            to, or what its configuration says. Another size means other positions than those
            it was trained on.
        window: frames that a V-JEPA 2 sees at most; by default `num_frames`, but no more than its
            `frames_per_clip`.
        horizons: steps that a V-JEPA 2 predicts ahead; by default those of `HORIZONS` that fit in
            the window.

    Raises:
        InputError: `transformers` is missing, the source cannot be read, is of no supported
            architecture, has no safetensors or others than its configuration asks for, or the
            settings do not suit it.
    """
    folder, name = find_folder(source)
    raw = read_json(folder / "config.json")
    family, model_type = find_family(raw, name)
    weights, preprocessor = find_weights(folder), read_preprocessor(folder)
    if num_frames < 1 or fps <= 0:
        raise InputError(f"clips need frames and a rate, got num_frames {num_frames}, fps {fps:g}")
    if model_type != VIDEO and (window is not None or horizons is not None):
        raise InputError(
            f"{name} encodes single images ({model_type}): it has no window and predicts nothing; "
            "leave out window and horizons"
        )
    library = import_extra("transformers")
    with quiet(library):
        config = make_config(library, family, raw, name)
        size = choose_size(config, preprocessor, size)
        if model_type == VIDEO:
            config.crop_size = size  # its positions count rows by it
        backbone, predicts = load_weights(library, family, config, folder)
    level, steps = describe_level(config, size, num_frames, window, horizons, predicts)
    blueprint = Blueprint(
        family=family,
        config=config,
        level=level,
        clip=ClipSpec(num_frames=num_frames, fps=float(fps), size=size),
        scale=choose_scale(preprocessor, family),
        window=steps,
    )
    return LoadedEncoder(
        network=blueprint.wrap(backbone),
        clip=blueprint.clip,
        config={
            "source": name,
            "transformers": library.__version__,
            "weights": [path.name for path in weights],
        }
        | blueprint.describe(),
        sha256=hash_files(weights),
        global_step=0,
        file=folder,
        blueprint=blueprint,
    )


@contextmanager
def quiet(library: Any) -> Iterator[None]:
    """Without `transformers`' own bars and warnings; what they would say is checked here."""
    logging = library.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def find_family(raw: Mapping[str, Any], name: str) -> tuple[Family, str]:
    """The architecture that a `config.json` names.

    Raises:
        InputError: none, or one that is not supported.
    """
    model_type = raw.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise InputError(
            f"{name} is of model_type {model_type!r}, which cannot be evaluated here; "
            f"supported are {', '.join(sorted(FAMILIES))}"
        )
    if "quantization_config" in raw:
        raise InputError(f"{name} is quantised; give the checkpoint in float32 or bfloat16")
    return FAMILIES[model_type], model_type


def make_config(library: Any, family: Family, raw: Mapping[str, Any], name: str) -> Any:
    """Configuration of the architecture from the settings that it declares itself.

    Settings of the library's base class are left out: they choose attention kernels, code and
    precision, which is not a checkpoint's business here.

    Raises:
        InputError: this `transformers` does not know the architecture, or refuses a setting.
    """
    kind = getattr(library, family.config, None)
    if kind is None or not hasattr(library, family.model):
        raise InputError(
            f"transformers {library.__version__} has no {family.model}; "
            "pip install --upgrade worldmodel[encoders]"
        )
    known = set(kind().to_dict()) - set(library.PretrainedConfig().to_dict()) - OUTPUTS
    settings = {key: value for key, value in raw.items() if key in known and key[0] != "_"}
    try:
        config = kind(**settings)
    except Exception as error:  # its validators raise kinds of their own
        detail = " ".join(str(error).split())
        raise InputError(f"config.json of {name} is not valid: {detail}") from error
    channels = config.in_chans if raw["model_type"] == VIDEO else config.num_channels
    if channels != 3:
        raise InputError(f"{name} takes images of {channels} channels; videos have 3")
    return config


def load_weights(library: Any, family: Family, config: Any, folder: Path) -> tuple[nn.Module, bool]:
    """The network with its weights in float32, and whether it can predict.

    A V-JEPA 2 may come without any weight of its predictor; then it is an encoder alone.

    Raises:
        InputError: weights are missing, too many or of other shapes, or cannot be read.
    """
    try:
        network, found = getattr(library, family.model).from_pretrained(
            folder,
            config=config,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            dtype=torch.float32,
            attn_implementation="sdpa",
            **family.make,
        )
    except Exception as error:  # of safetensors, torch and transformers
        raise InputError(
            f"the weights in {folder} cannot be read or do not fit config.json "
            f"({type(error).__name__}: {first_line(error)})"
        ) from error
    missing = {key for key in found["missing_keys"] if not HEADS.match(key)}
    predictor = {key for key in network.state_dict() if key.startswith("predictor.")}
    predicts = not predictor <= missing
    if not predicts:
        missing -= predictor
    for problem, keys in (
        ("lack", missing),
        ("hold beyond what the architecture has", set(found["unexpected_keys"])),
        ("have in other shapes", {str(key) for key in found["mismatched_keys"]}),
    ):
        keys = {key for key in keys if not HEADS.match(key)}
        if keys:
            shown = ", ".join(sorted(keys)[:3])
            raise InputError(
                f"the weights in {folder} do not fit config.json: they {problem} "
                f"{shown} ({len(keys)} in all)"
            )
    return network, predicts


def choose_size(config: Any, preprocessor: Mapping[str, Any], size: int | None) -> int:
    """Height and width of frames: what is asked for, else the preprocessor's, else the config's.

    A V-JEPA 2's own is always its configuration's `crop_size`.

    Raises:
        InputError: no multiple of the patch size.
    """
    if size is None and config.model_type == VIDEO:
        size = config.crop_size
    if size is None:
        cropped = preprocessor.get("do_center_crop") and "crop_size" in preprocessor
        found = preprocessor.get("crop_size" if cropped else "size", config.image_size)
        if isinstance(found, dict):
            found = found.get("height", found.get("shortest_edge", config.image_size))
        size = found[0] if isinstance(found, list | tuple) and found else found
    patch = patch_size(config)
    if isinstance(size, bool) or not isinstance(size, int) or size < patch or size % patch:
        raise InputError(
            f"frames of {size} pixels cannot be cut into patches of {patch}; "
            f"set size to a multiple of {patch}"
        )
    return size


def patch_size(config: Any) -> int:
    """Height and width of a patch in pixels.

    Raises:
        InputError: it is not square.
    """
    patch = config.patch_size
    sides = {patch} if isinstance(patch, int) else set(patch)
    if len(sides) != 1 or min(sides) < 1:
        raise InputError(f"patches must be square, config.json says {patch}")
    return int(sides.pop())


def choose_scale(preprocessor: Mapping[str, Any], family: Family) -> PixelScale:
    """Scale of pixels: the preprocessor's, else 1/255 and the family's mean and deviation.

    Raises:
        InputError: the preprocessor's are no numbers that can be used.
    """
    mean, std = ((0.0,) * 3, (1.0,) * 3)
    if preprocessor.get("do_normalize", True):
        mean = preprocessor.get("image_mean") or family.scale[0]
        std = preprocessor.get("image_std") or family.scale[1]
    factor = preprocessor.get("rescale_factor", 1 / 255)
    try:
        red, green, blue = (float(value) for value in mean)
        deviations = tuple(float(value) for value in std)
        scale = PixelScale(
            factor=float(factor) if preprocessor.get("do_rescale", True) else 1.0,
            mean=(red, green, blue),
            std=(deviations[0], deviations[1], deviations[2]),
        )
    except (TypeError, ValueError, IndexError) as error:
        raise InputError(
            "the preprocessor's image_mean, image_std and rescale_factor must be three numbers, "
            f"three numbers and one; found {mean}, {std}, {factor}"
        ) from error
    if not all(0 < value < float("inf") for value in (*scale.std, scale.factor)):
        raise InputError(f"the preprocessor's image_std must be positive, found {list(scale.std)}")
    return scale


def describe_level(
    config: Any,
    size: int,
    num_frames: int,
    window: int | None,
    horizons: Sequence[int] | None,
    predicts: bool,
) -> tuple[AdapterLevel, int]:
    """The encoder's level, and its window in steps.

    Raises:
        InputError: horizons that are not increasing, or without a predictor to make them.
    """
    rows = size // patch_size(config)
    if config.model_type != VIDEO:
        return AdapterLevel(grid=(rows, rows), span=1, horizons=(), dim=config.hidden_size), 1
    span = config.tubelet_size
    frames = min(config.frames_per_clip, num_frames) if window is None else window
    steps = frames // span
    if steps < 1:
        raise InputError(
            f"a window of {frames} frames is shorter than one step of {span}; lengthen it"
        )
    if horizons is None:
        chosen = tuple(horizon for horizon in HORIZONS if horizon < steps) if predicts else ()
    else:
        chosen = tuple(horizons)
        if chosen and not predicts:
            raise InputError("the checkpoint has no predictor; leave out horizons")
        if any(horizon < 1 for horizon in chosen) or any(a >= b for a, b in pairwise(chosen)):
            raise InputError(
                f"horizons must be strictly increasing steps of at least 1, got {list(horizons)}"
            )
    return AdapterLevel(
        grid=(rows, rows), span=span, horizons=chosen, dim=config.hidden_size
    ), steps
