"""What an evaluation can be told (settings.py): who answers, how, and which parts of clips are looked at."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from crashchat.settings import MAX_TOKENS, Settings

Decode = Literal["free", "constrained"]
EngineName = Literal["torch", "vllm"]
ENGINE_ADDRESS = "http://127.0.0.1:8000"  # where scripts/engine.sh starts one


class EvalConfig(Settings):
    """What one evaluation run does."""

    model: Path = Path("ckpt/crashchat")
    """Folder of a merged model, or of a base checkpoint (with `adapter` or without)."""
    adapter: Path | None = None
    """Folder of an adapter to put on the model."""
    model_name: str | None = None
    """Name in the prediction files' path; none: the folder's name."""
    split: Literal["train", "val", "test"] = "test"
    """Which annotation files are asked."""
    output_dir: Path = Path("outputs")
    """Where <task>_evaluation_results/ goes."""
    max_visual_tokens: int = Field(default=16384, gt=0, le=MAX_TOKENS)
    """Visual tokens of a video at most, before compression."""
    max_tokens_per_batch: int | None = Field(default=None, gt=0, le=MAX_TOKENS)
    """Visual tokens of the videos that are answered at once, padding included, but one video at least; none:
    131072 on a GPU, else 32768.
    """
    max_new_tokens: int = Field(default=256, gt=0, le=10**5)
    """Tokens of an answer at most."""
    temperature: float | None = Field(default=None, gt=0, le=100)
    """Answers are drawn from the model's distribution at this temperature, the same ones again with the same
    `seed`; none: the likeliest word is taken every time.
    """
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Drawn from the likeliest tokens that have this share of the probability; none: from all. Needs
    `temperature`.
    """
    decode: Decode = "free"
    """constrained: recognition says Yes or No, times have the annotations' form
    and lie within the video (constraints.py).
    """
    ray: str | None = Field(default=None, min_length=1)
    """Share the videos among the processes of the Ray cluster at this address; auto: the one that runs here,
    else one made now (docs/fleet.md).
    """
    engine: EngineName = "torch"
    """What answers: torch, the model in this process; vllm, a server with what `crashchat convert --to vllm`
    wrote (docs/fleet.md).
    """
    engine_address: str = Field(default=ENGINE_ADDRESS, pattern="^https?://")
    """Where that server is."""
    training_answers: list[str] = Field(default_factory=list)
    """Tasks whose answer must be one of the training split's, word for word; needs decode=constrained."""
    option_probabilities: bool = False
    """Also say how likely each answer is, of tasks whose answers can be listed: each is a branch of its
    own.
    """
    limit: int | None = Field(default=None, gt=0, le=10**9)
    """Ask only about the first so many videos."""
    around: Path | None = None
    """The output_dir of an evaluation by the same model: times are asked again, of the part of each clip
    around what was answered there.
    """
    around_seconds: float = Field(default=1.0, gt=0, le=3600)
    """Seconds of the clip before and behind those answers that the part has."""
    around_tasks: list[str] = Field(default_factory=list)
    """The tasks whose first answers say which part; none: all that are asked again."""
    times_from: Path | None = None
    """A file that `crashchat find-heads` wrote of the same model: times are not asked for but read off what
    the question attends to.
    """

    @model_validator(mode="after")
    def _consistent(self):
        if self.ray and self.feature_cache:
            raise ValueError("feature_cache= is a folder of one machine's readers; leave it out with ray=")
        if self.around and self.around == self.output_dir:
            raise ValueError(f"around={self.around} holds the first answers: give another output_dir")
        if self.times_from and (self.engine != "torch" or self.temperature is not None or self.around):
            raise ValueError(
                "times_from reads times off this process's own model: engine=vllm, temperature and around do "
                "not go with it (around= takes what was read so)"
            )
        if self.around_tasks and not self.around:
            raise ValueError(f"around_tasks={self.around_tasks} needs around=, where their answers are")
        if self.training_answers and self.decode == "free":
            raise ValueError(f"training_answers={self.training_answers} needs decode=constrained")
        if self.temperature is not None and self.engine != "torch":
            raise ValueError(
                f"engine={self.engine} takes the likeliest words: temperature needs engine=torch"
            )
        if self.top_p is not None and self.temperature is None:
            raise ValueError(f"top_p={self.top_p} needs temperature: without one no answer is drawn")
        return self
