"""The model: transformers' native VideoLlama3, fed with packed batches, adapted by LoRA and the projector.

pixel_values_videos -> vision_model (frozen) -> projector (trained) -> kept tokens --+
input_ids -> embed_tokens ---------------------------------------------------------- + -> language_model
(LoRA) -> loss
"""

import re
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import VideoLlama3ForConditionalGeneration
from transformers.utils import ModelOutput

from crashchat.model.attention import FRAME_ATTENTION, segments_of
from crashchat.model.masks import block_mask
from crashchat.model.sequence import IGNORED
from crashchat.video.tokens import normalise

# Every linear layer of the language model but lm_head (docs/reference.md, Strategies); the vision encoder's
# q/k/v stay out.
LORA_TARGETS = r".*language_model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj"
PROJECTOR = "projector"


@dataclass
class CrashChatOutput(ModelOutput):
    """loss_sum: float32[], negative log-likelihood summed over labelled tokens; num_labels: int64[],
    how many there are.

    vision_features: float[K, vision hidden] of the kept tokens of all videos, where a feature cache may want
    them.
    A sum, not a mean: samples have different numbers of labelled tokens, so only who sees the whole global
    batch can average.
    """

    loss_sum: Tensor | None = None
    num_labels: Tensor | None = None
    vision_features: Tensor | None = None


class CrashChatModel(VideoLlama3ForConditionalGeneration):
    """VideoLlama3 whose forward takes a PackedBatch (packing.py). Weights and config are the native ones."""

    def encode_videos(
        self, pixel_values_videos: Tensor, video_grid_thw: Tensor, video_merge_sizes: Tensor
    ) -> Tensor:
        """Vision features of all visual tokens, float[N, vision hidden], before compression and projector.

        pixel_values_videos, video_grid_thw, video_merge_sizes: as in PackedBatch. Frames of one size are
        encoded in one call, whichever video they come from: attention stays within a frame. uint8 pixels are
        normalised here, on the device; floats are taken as normalised already.
        """
        vision = self.model.vision_model
        if pixel_values_videos.dtype == torch.uint8:
            pixel_values_videos = normalise(pixel_values_videos)
        pixel_values_videos = pixel_values_videos.to(vision.dtype)
        vision.config._attn_implementation = FRAME_ATTENTION
        grids, merges = video_grid_thw.tolist(), video_merge_sizes.tolist()
        videos = pixel_values_videos.split([frames * high * wide for frames, high, wide in grids])
        # (patches down, patches across, merge size) of each video's frames
        sizes = [(high, wide, merge) for (_, high, wide), merge in zip(grids, merges, strict=True)]
        features: dict[int, Tensor] = {}
        trained = torch.is_grad_enabled() and any(
            parameter.requires_grad for parameter in vision.parameters()
        )
        with torch.set_grad_enabled(trained):
            for high, wide, merge in set(sizes):
                members = [index for index, size in enumerate(sizes) if size == (high, wide, merge)]
                counts = [grids[index][0] for index in members]
                pixels = torch.cat([videos[index] for index in members])
                device = pixels.device
                encoded = vision(
                    pixel_values=pixels,
                    grid_thw=torch.tensor([[sum(counts), high, wide]], device=device),
                    merge_sizes=torch.tensor([merge], device=device),
                    cu_seqlens=torch.tensor([0, len(pixels)], dtype=torch.int32, device=device),
                    num_frames=sum(counts),
                ).last_hidden_state
                pieces = encoded.split([count * high * wide // merge**2 for count in counts])
                for index, piece in zip(members, pieces, strict=True):
                    features[index] = piece
        return torch.cat([features[index] for index in range(len(grids))])

    def kept_features(
        self,
        pixel_values_videos: Tensor,
        video_grid_thw: Tensor,
        video_merge_sizes: Tensor,
        video_compression_mask: Tensor,
        vision_features: Tensor | None = None,
        video_cached: Tensor | None = None,
    ) -> Tensor:
        """Vision features of the kept tokens, float[K, vision hidden];
        only videos that are not cached are encoded.
        """
        if video_cached is None or not video_cached.any():
            return self.encode_videos(pixel_values_videos, video_grid_thw, video_merge_sizes)[
                video_compression_mask
            ]
        assert vision_features is not None, "pack gives the features of the videos that it calls cached"
        if video_cached.all():
            return vision_features
        of_cached = video_cached.repeat_interleave(video_grid_thw.prod(dim=1) // video_merge_sizes**2)
        encoded = self.encode_videos(
            pixel_values_videos, video_grid_thw[~video_cached], video_merge_sizes[~video_cached]
        )
        place = of_cached[video_compression_mask]
        features = encoded.new_empty(len(place), encoded.shape[1])
        features[place] = vision_features.to(encoded.dtype)
        features[~place] = encoded[video_compression_mask[~of_cached]]
        return features

    def embed(self, input_ids: Tensor, kept_features: Tensor) -> Tensor:
        """Embeddings float[R, L, hidden], with the kept visual tokens, projected,
        at the image tokens' places.
        """
        embeddings = self.model.language_model.embed_tokens(input_ids)
        visual = self.model.projector(kept_features.to(embeddings.dtype))
        places = input_ids == self.config.video_token_id
        if int(places.sum()) != len(visual):
            raise ValueError(
                f"{int(places.sum())} image tokens in the text, but {len(visual)} visual tokens were kept"
            )
        return embeddings.masked_scatter(places[..., None], visual)

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor,
        position_ids: Tensor,
        branch_ids: Tensor,
        video_ids: Tensor,
        pixel_values_videos: Tensor,
        video_grid_thw: Tensor,
        video_merge_sizes: Tensor,
        video_compression_mask: Tensor,
        vision_features: Tensor | None = None,
        video_cached: Tensor | None = None,
        **kwargs,
    ) -> CrashChatOutput:
        """Loss over the labelled tokens of a packed batch; shapes as in PackedBatch."""
        features = self.kept_features(
            pixel_values_videos=pixel_values_videos,
            video_grid_thw=video_grid_thw,
            video_merge_sizes=video_merge_sizes,
            video_compression_mask=video_compression_mask,
            vision_features=vision_features,
            video_cached=video_cached,
        )
        hidden = self.hidden_states(
            input_ids, position_ids, branch_ids=branch_ids, video_ids=video_ids, kept_features=features
        )
        # A label is predicted by the token before it, which is always of the same branch: a branch's first
        # token has none.
        targets = labels[:, 1:]
        labelled = targets != IGNORED
        logits = self.lm_head(hidden[:, :-1][labelled])
        loss_sum = F.cross_entropy(logits.float(), targets[labelled], reduction="sum")
        output = CrashChatOutput(loss_sum=loss_sum, num_labels=labelled.sum())
        if video_cached is not None:
            output.vision_features = features.detach()
        return output

    def hidden_states(self, input_ids, position_ids, branch_ids, video_ids, kept_features: Tensor) -> Tensor:
        """The language model's last hidden states, float[R, L, hidden], of a packed batch."""
        language_model = self.model.language_model
        flex = language_model.config._attn_implementation == "flex_attention"
        mask = block_mask(video_ids, branch_ids) if flex else segments_of(video_ids, branch_ids)
        return language_model(
            inputs_embeds=self.embed(input_ids, kept_features),
            position_ids=position_ids,
            # Always given, since without one transformers guesses documents from jumps in the positions; as a
            # dict it is taken as it is.
            attention_mask={"full_attention": mask},
            use_cache=False,
        ).last_hidden_state


def add_adapter(
    model: CrashChatModel, rank: int, alpha: int, dropout: float, name: str = "default"
) -> PeftModel:
    """LoRA on every linear layer of the language model and a trained copy of the projector,
    as one PEFT adapter.
    """
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        bias="none",
        target_modules=LORA_TARGETS,
        modules_to_save=[PROJECTOR],
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config, adapter_name=name)


def base_of(model: nn.Module) -> CrashChatModel:
    """The CrashChatModel inside a PEFT model (its layers adapted), or the model itself."""
    return cast(CrashChatModel, model.get_base_model() if isinstance(model, PeftModel) else model)


def trainable_parameters(model: nn.Module) -> tuple[int, int]:
    """(trained, all) parameters."""
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(count for count, trained in counts if trained), sum(count for count, _ in counts)


def is_projector(parameter_name: str) -> bool:
    """Whether a parameter belongs to the projector, which has a learning rate of its own."""
    return re.search(rf"(^|\.){PROJECTOR}\.", parameter_name) is not None
