"""Writes what a model makes of whole videos for the Rerun viewer, with probes where it has some."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from worldmodel.data.journal import Source
from worldmodel.errors import InputError
from worldmodel.evaluation.network import Place
from worldmodel.evaluation.probes.stored import StoredProbes, find_probes, read_probes
from worldmodel.evaluation.videos.long_video import SurpriseCurve
from worldmodel.evaluation.videos.readouts import read_video_out
from worldmodel.evaluation.videos.rerun_file import Recorded, about_text, tokens_of, write_rerun
from worldmodel.evaluation.videos.sampled_video import SampledVideo, walk_pictures
from worldmodel.models.checkpoint import LoadedModel

MISSING_PROBES = (
    "this model came without probes. `worldmodel evaluate` writes them into the folder of its "
    "report; `--probes FOLDER` reads them from there."
)


@dataclass(frozen=True)
class Recorder:
    """Writes videos for the Rerun viewer.

    Attributes:
        model: whose tokens and answers they show.
        device: where it is.
        probes: of its report; None without.
        missing: why there are none, a sentence.
    """

    model: LoadedModel
    device: torch.device
    probes: StoredProbes | None
    missing: str = ""

    @classmethod
    def of(cls, model: LoadedModel, device: torch.device, source: str | Path | None) -> "Recorder":
        """With the probes that were named, or else with those beside the model.

        Args:
            model: as loaded.
            device: where it is.
            source: the file of the probes, or the folder it lies in.

        Raises:
            InputError: those that were named cannot be read, or are another model's. Those beside
                the model are passed over then, and the recording says why.
        """
        path = find_probes(source, model)
        if path is None:
            return cls(model, device, None, MISSING_PROBES)
        try:
            return cls(model, device, read_probes(path, model))
        except InputError as error:
            if source is not None:
                raise
            return cls(model, device, None, f"{error}.")

    def record(
        self,
        source: Source,
        video: SampledVideo,
        curves: Mapping[Place, SurpriseCurve],
        combined: np.ndarray,
        path: Path,
    ) -> None:
        """Write one video's file.

        Args:
            source: the video.
            video: as the model saw it.
            curves: its surprise at each place.
            combined: of all places, `(T,)`; NaN where there is none.
            path: of the file.
        """
        network = self.model.network
        seen = (network, video.frames, self.model.clip.num_frames, self.device)
        known = Recorded(
            seconds=video.seconds,
            size=video.size,
            tokens=tokens_of(*seen),
            curves=curves,
            combined=combined,
            readouts=None if self.probes is None else read_video_out(*seen, self.probes),
            about=about_text(
                source.name, self.model.clip, video.fps, video.size, self.probes, self.missing
            ),
        )
        write_rerun(path, walk_pictures(source.path, video), network, known)
