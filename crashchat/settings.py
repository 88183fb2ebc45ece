"""What runs can be told: every setting with its type, its bounds and what it is for.

config.py reads them from files.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, field_validator, model_validator

from crashchat.data_settings import DataSource
from crashchat.errors import abbreviate
from crashchat.json_files import Exact
from crashchat.tasks import TASKS

Dtype = Literal["float32", "bfloat16"]
Projection = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
Logger = Literal["tensorboard", "wandb", "mlflow", "trackio", "swanlab"]

# Bounds beyond which a value is a slip of the finger, or damage; far above what any run wants.
MAX_FPS, MAX_FRAMES, MAX_TOKENS, MAX_RANK, MAX_STEPS = 1000, 100_000, 2**24, 4096, 10**9


# Settings that may be given as words with commas between them.
LISTS = ("tasks", "training_answers", "around_tasks", "supervised_tasks", "lora_targets", "report_to")


class Settings(Exact):
    """What training and evaluation share."""

    data_dir: Path = Path("data")
    """Folder of the annotation files; the videos' annotated paths start from it."""
    task_set: Path | None = None
    """File of the task set, in configs/tasks/; none: that of the model's folder, where it has one, else
    CrashChat's six tasks.
    """
    context: bool = True
    """Put what the task set's `context:` names in front of the questions (docs/tasks.md); false asks without
    it.
    """
    tasks: list[str] = Field(default_factory=lambda: list(TASKS))
    """Tasks of the set to learn or ask, by name; with annotations of general questions, an empty list takes
    all.
    """
    annotation_files: dict[str, list[Path]] = Field(default_factory=dict)
    """Annotation files by split, e.g. the released multi-task ones; empty: those of `tasks` in data_dir."""
    data: list[DataSource] = Field(default_factory=list)
    """Sources of questions, instead of the files in data_dir (docs/data.md): files of any form or hub data
    sets, with their columns, splits, filters and weights.
    """
    vision_config: Path | None = None
    """JSON of the vision encoder, for a checkpoint whose config.json has none and that is not
    of the released size.
    """
    fps: float | None = Field(default=None, gt=0, le=MAX_FPS)
    """Frames a second taken from a video; none: what the model's processor settings say, else 10."""
    max_frames: int | None = Field(default=None, gt=0, le=MAX_FRAMES)
    """Frames of a video at most; none: what the model's processor settings say, else 96."""
    max_visual_tokens: int = Field(default=10240, gt=0, le=MAX_TOKENS)
    """Visual tokens of a video at most, before compression."""
    token_compression: bool = True
    """Drop the tokens that do not change from frame to frame (docs/reference.md, Compression)."""
    max_length: int = Field(default=16384, gt=0, le=MAX_TOKENS)
    """Tokens of one question's sample at most: video, question and answer."""
    feature_cache: Path | None = None
    """Folder of vision features kept from run to run; none:
    every video is decoded and encoded each time it is seen.
    """
    feature_cache_gb: float = Field(default=100, gt=0, le=10**9)
    """Size of that folder at most, in 10^9 bytes (a full-size video takes up to 24 million);
    the longest unused go first.
    """
    num_workers: int | None = Field(default=None, ge=0, le=1024)
    """Processes that read videos ahead of the model, for each of the run's own; 0 reads in the main process;
    none: 8 beside a GPU, else 2.
    """
    dtype: Dtype | None = None
    """Numbers of the frozen weights and of the computation; none: bfloat16 on a GPU, float32 on a CPU. What
    is trained is float32 in either.
    """
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of the weights' initialisation, the order of questions, dropout and drawn answers."""

    @model_validator(mode="after")
    def _one_place(self):
        if self.data and self.annotation_files:
            raise ValueError("data and annotation_files both say where questions are; expected one of them")
        return self

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value, info):
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError("expected no true or false")
        if isinstance(value, str) and "\0" in value:
            raise ValueError("expected a text without NUL")
        return value

    @field_validator(*LISTS, mode="before", check_fields=False)
    @classmethod
    def _names(cls, value):
        return [name for name in value.split(",") if name] if isinstance(value, str) else value

    @field_validator("tasks", "training_answers", "around_tasks", "supervised_tasks", check_fields=False)
    @classmethod
    def _known(cls, value):
        unknown = sorted(set(value) - set(TASKS))
        if unknown:
            raise ValueError(f"unknown tasks {abbreviate(unknown)}; known are {', '.join(TASKS)}")
        return value


class TrainConfig(Settings):
    """What one training run does. The defaults are the recipe (docs/reference.md, Strategies)."""

    output_dir: Path
    """Where the adapter, checkpoints, logs and the resolved config go."""
    base_model: Path = Path("ckpt/videollama3_baseline")
    """Folder of the base checkpoint."""
    adapter: Path | None = None
    """Folder of the adapter to start from, which is trained on; none: base_model, be it a base or a merged
    model, gets a new adapter.
    """
    finetune: Literal["lora", "full"] = "lora"
    """lora trains LoRA and the projector on a frozen base; full trains every weight, for which a large model
    needs deepspeed=configs/deepspeed/zero3.json and many GPUs.
    """
    lora_rank: int = Field(default=64, gt=0, le=MAX_RANK)
    """LoRA's r."""
    lora_alpha: int = Field(default=16, gt=0, le=10**6)
    """LoRA's alpha."""
    lora_dropout: float = Field(default=0.05, ge=0, lt=1)
    """Dropout before LoRA's A."""
    lora_targets: list[Projection] = Field(default_factory=lambda: list(get_args(Projection)), min_length=1)
    """Projections of the language model that LoRA adapts; all: every linear layer but lm_head."""
    lora_on_vision: bool = False
    """LoRA on the vision encoder's linear layers as well."""
    dora: bool = False
    """Weight-decomposed LoRA: a trained length for each output beside LoRA's direction (arXiv 2402.09353)."""
    rslora: bool = False
    """Scale LoRA by alpha / sqrt(r) instead of alpha / r (arXiv 2312.03732)."""
    quantization: Literal["4bit"] | None = None
    """4bit: the language model's frozen linear layers as nf4 with double quantisation (bitsandbytes), for
    cards of 24 GB.
    """
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    """adamw_8bit keeps its two moments in 8 bits (bitsandbytes)."""
    offload_activations: bool = False
    """Keep what the backward pass needs in the computer's memory rather than on the GPU: slower, and
    smaller.
    """
    learning_rate: float = Field(default=1e-5, gt=0, le=10)
    """Peak learning rate of LoRA (of everything, with finetune=full)."""
    projector_learning_rate: float = Field(default=1e-5, gt=0)
    """Peak learning rate of the projector."""
    weight_decay: float = Field(default=0.0, ge=0, le=10)
    """AdamW's weight decay."""
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1)
    """Share of all steps in which the learning rate rises; it then falls along a cosine."""
    max_grad_norm: float = Field(default=1.0, gt=0, le=10**9)
    """Gradients are clipped to this norm."""
    epochs: float = Field(default=10, gt=0, le=10**6)
    """Passes over the training questions."""
    max_steps: int | None = Field(default=None, gt=0, le=MAX_STEPS)
    """Optimizer steps, instead of epochs."""
    global_batch_size: int = Field(default=24, gt=0, le=10**6)
    """Questions an optimizer step learns from, over all processes."""
    group_by_video: bool = True
    """Questions on one video follow each other and share its prefix; false shuffles questions,
    as the reference does.
    """
    eval_steps: int = Field(default=50, gt=0, le=MAX_STEPS)
    """Validation loss every so many steps."""
    val_videos: int | None = Field(default=None, gt=0, le=10**9)
    """Validation videos that are asked, the same at every validation, drawn by `seed`; none: all of them."""
    save_steps: int = Field(default=50, gt=0, le=MAX_STEPS)
    """Checkpoint every so many steps, a multiple of eval_steps, and at every validation that is the best so
    far.
    """
    save_total_limit: int = Field(default=5, gt=0, le=10**6)
    """Checkpoints kept."""
    early_stopping_patience: int | None = Field(default=3, gt=0, le=MAX_STEPS)
    """Validations without improvement after which training stops; none: never."""
    early_stopping_threshold: float = Field(default=0.001, ge=0, le=10**6)
    """How much lower eval_loss must be to count as an improvement."""
    max_tokens_per_batch: int = Field(default=32768, gt=0, le=MAX_TOKENS)
    """Tokens that go through the model at a time; a video and all its questions stay together,
    even if they are more.
    """
    attention: Literal["branch_attention", "flex_attention", "flash_attn"] = "branch_attention"
    """How the language model attends: part by part with SDPA (attention.py); on a GPU also FlexAttention
    with a BlockMask, or flash-attn's kernel for varying lengths (varlen.py), which needs bfloat16.
    """
    gradient_checkpointing: bool = True
    """Recompute the language model's activations in the backward pass to save memory."""
    checkpoint_every_n_layers: int = Field(default=1, gt=0, le=1000)
    """Recompute the activations of one layer in so many: faster, where memory is left over."""
    deepspeed: Path | None = None
    """A DeepSpeed config, e.g. configs/deepspeed/zero1.json; none: plain data parallelism."""
    trust_checkpoint: bool = False
    """Go on from a DeepSpeed checkpoint though others could have written it: it holds pickled code,
    which is run.
    """
    cache_videos: int = Field(default=0, ge=0, le=10**6)
    """Decoded videos each reader keeps in memory, for sets small enough."""
    logging_steps: int = Field(default=1, gt=0, le=MAX_STEPS)
    """Training loss is logged every so many steps."""
    report_to: list[Logger] = Field(default=["tensorboard"])
    """Where the log goes besides the screen and the checkpoints; each but tensorboard is a package to
    install.
    """
    profile: bool = False
    """Write a trace of three early steps by torch's profiler to output_dir/profile (chrome://tracing reads
    it).
    """

    @property
    def all_tasks(self) -> list[str]:
        """Every task whose questions are read."""
        return self.tasks

    @property
    def keeps_start(self) -> bool:
        """Whether the model as it was at the start is asked as well."""
        return False

    @model_validator(mode="after")
    def _consistent(self):
        if self.save_steps % self.eval_steps:
            raise ValueError(
                f"save_steps={self.save_steps} is not a multiple of eval_steps={self.eval_steps}"
            )
        if self.deepspeed and find_spec("deepspeed") is None:
            raise ValueError(
                "deepspeed is not installed (Linux alone has it); leave it out for plain data parallelism"
            )
        missing = [name for name in self.report_to if find_spec(name) is None]
        if missing:
            raise ValueError(f"report_to={missing}: not installed; pip install {' '.join(missing)}")
        if (self.quantization or self.optimizer == "adamw_8bit") and find_spec("bitsandbytes") is None:
            raise ValueError(
                "4bit and adamw_8bit need bitsandbytes: pip install -r requirements-quantized.txt"
            )
        if self.attention == "flash_attn" and find_spec("flash_attn") is None:
            raise ValueError("attention=flash_attn needs flash-attn: see requirements-gpu.txt")
        if self.finetune == "full" and self.adapter:
            raise ValueError("finetune=full trains every weight: adapter does not go with it")
        if self.finetune == "full" and (self.quantization or self.dora or self.rslora or self.lora_on_vision):
            raise ValueError(
                "finetune=full trains every weight: no quantization, dora, rslora, lora_on_vision"
            )
        if self.quantization and self.deepspeed:
            raise ValueError(
                "quantization=4bit does not go with deepspeed, which shards weights of 16 or 32 bits"
            )
        if self.optimizer == "adamw_8bit" and self.deepspeed:
            raise ValueError("optimizer=adamw_8bit does not go with deepspeed, which has its own")
        if self.lora_on_vision and self.feature_cache:
            raise ValueError("lora_on_vision trains the vision encoder and does not go with feature_cache")
        if self.finetune == "full" and self.feature_cache:
            raise ValueError("finetune=full trains the vision encoder and does not go with feature_cache")
        return self
