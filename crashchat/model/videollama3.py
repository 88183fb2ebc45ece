"""The model: transformers' native VideoLlama3, fed with packed batches, adapted by LoRA and the projector.

pixel_values_videos -> vision_model (frozen) -> projector (trained) -> kept tokens --+
input_ids -> embed_tokens ---------------------------------------------------------- + -> language_model
(LoRA) -> loss
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import VideoLlama3ForConditionalGeneration
from transformers.utils import ModelOutput

from crashchat.model.attention import FRAME_ATTENTION, Segment
from crashchat.model.masks import block_mask
from crashchat.model.varlen import VARLEN_ATTENTION, VARLEN_FRAMES, varlen_of
from crashchat.video.tokens import normalise

MAX_PATCHES = 65536  # that the vision encoder takes at a time


@dataclass
class CrashChatOutput(ModelOutput):
    """loss_sum: float32[], negative log-likelihood summed over labelled tokens, each with its
    weight; num_labels: int64[], how many there are.

    vision_features: float[K, vision hidden] of the kept tokens of all videos, where a feature cache may want
    them. token_losses: float32[num_labels], the parts of the sum, where they are asked for.
    A sum, not a mean: samples have different numbers of labelled tokens, so only who sees the whole global
    batch can average.
    """

    loss_sum: Tensor | None = None
    num_labels: Tensor | None = None
    vision_features: Tensor | None = None
    token_losses: Tensor | None = None


class CrashChatModel(VideoLlama3ForConditionalGeneration):
    """VideoLlama3 whose forward takes a PackedBatch (packing.py). Weights and config are the native ones."""

    def encode_videos(
        self, pixel_values_videos: Tensor, video_grid_thw: list[list[int]], video_merge_sizes: list[int]
    ) -> Tensor:
        """Vision features of all visual tokens, float[N, vision hidden], before compression and projector.

        pixel_values_videos, video_grid_thw, video_merge_sizes: as in PackedBatch. Frames of one size are
        encoded in one call, whichever video they come from: attention stays within a frame. At most
        MAX_PATCHES at a time, but one frame at least: they take 41 kB each of a GPU's memory. uint8 pixels
        are normalised here, on the device; floats are taken as normalised already.
        """
        vision = self.model.vision_model
        if pixel_values_videos.dtype == torch.uint8:
            pixel_values_videos = normalise(pixel_values_videos)
        pixel_values_videos = pixel_values_videos.to(vision.dtype)
        varlen = self.model.language_model.config._attn_implementation == VARLEN_ATTENTION
        vision.config._attn_implementation = VARLEN_FRAMES if varlen else FRAME_ATTENTION
        grids, merges = video_grid_thw, video_merge_sizes
        videos = pixel_values_videos.split([frames * high * wide for frames, high, wide in grids])
        # (patches down, patches across, merge size) of each video's frames
        sizes = [(high, wide, merge) for (_, high, wide), merge in zip(grids, merges, strict=True)]
        features: dict[int, Tensor] = {}
        trained = torch.is_grad_enabled() and any(
            parameter.requires_grad for parameter in vision.parameters()
        )
        # A frozen encoder computes in its own type, as it does when answers are made.
        autocast = trained and torch.is_autocast_enabled(pixel_values_videos.device.type)
        with (
            torch.set_grad_enabled(trained),
            torch.autocast(pixel_values_videos.device.type, enabled=autocast),
        ):
            for high, wide, merge in set(sizes):
                members = [index for index, size in enumerate(sizes) if size == (high, wide, merge)]
                counts = [grids[index][0] for index in members]
                pixels = torch.cat([videos[index] for index in members])
                at_once = max(1, MAX_PATCHES // (high * wide))
                parts = [
                    self._encode_frames(part, high, wide, merge)
                    for part in pixels.split(at_once * high * wide)
                ]
                encoded = parts[0] if len(parts) == 1 else torch.cat(parts)
                pieces = encoded.split([count * high * wide // merge**2 for count in counts])
                for index, piece in zip(members, pieces, strict=True):
                    features[index] = piece
        return torch.cat([features[index] for index in range(len(grids))])

    def _encode_frames(self, pixels: Tensor, high: int, wide: int, merge: int) -> Tensor:
        """Features float[tokens, vision hidden] of frames of one size, float[frames * high * wide, 588]."""
        frames, device = len(pixels) // (high * wide), pixels.device
        return self.model.vision_model(
            pixel_values=pixels,
            grid_thw=torch.tensor([[frames, high, wide]], device=device),
            merge_sizes=torch.tensor([merge], device=device),
            cu_seqlens=torch.tensor([0, len(pixels)], dtype=torch.int32, device=device),
            num_frames=frames,
        ).last_hidden_state

    def kept_features(
        self,
        pixel_values_videos: Tensor,
        video_grid_thw: list[list[int]],
        video_merge_sizes: list[int],
        kept_index: Tensor,
        vision_features: Tensor | None = None,
        feature_order: Tensor | None = None,
    ) -> Tensor:
        """Vision features of the kept tokens, float[K, vision hidden];
        only videos that are not cached are encoded.
        """
        if not video_grid_thw:
            assert vision_features is not None, "pack gives the features of the videos that it calls cached"
            return vision_features
        encoded = self.encode_videos(pixel_values_videos, video_grid_thw, video_merge_sizes)[kept_index]
        if vision_features is None:
            return encoded
        return torch.cat([encoded, vision_features.to(encoded.dtype)])[feature_order]

    def embed(self, input_ids: Tensor, kept_features: Tensor, image_index: Tensor) -> Tensor:
        """Embeddings float[R, L, hidden], with the kept visual tokens, projected,
        at the image tokens' places.

        image_index: int64[K], these places among the R·L tokens, row by row.
        """
        embeddings = self.model.language_model.embed_tokens(input_ids)
        # A projector in training is float32 on a bfloat16 base; it computes in the base's type all the same.
        with torch.autocast(
            embeddings.device.type, embeddings.dtype, enabled=embeddings.dtype != torch.float32
        ):
            visual = self.model.projector(kept_features.to(embeddings.dtype)).to(embeddings.dtype)
        places = embeddings.flatten(0, 1).index_copy(0, image_index, visual)
        return places.view(embeddings.shape)

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor,
        position_ids: Tensor,
        branch_ids: Tensor,
        stem_ids: Tensor,
        video_ids: Tensor,
        segments: list[Segment],
        label_index: Tensor,
        image_index: Tensor,
        pixel_values_videos: Tensor,
        video_grid_thw: list[list[int]],
        video_merge_sizes: list[int],
        kept_index: Tensor,
        vision_features: Tensor | None = None,
        feature_order: Tensor | None = None,
        wants_features: bool = False,
        label_weights: Tensor | None = None,
        temperature: float | None = None,
        **kwargs,
    ) -> CrashChatOutput:
        """Loss over the labelled tokens of a packed batch; arguments as in PackedBatch.

        temperature: of the distribution that the losses are under; where it is given, each token's is
        returned.
        """
        features = self.kept_features(
            pixel_values_videos=pixel_values_videos,
            video_grid_thw=video_grid_thw,
            video_merge_sizes=video_merge_sizes,
            kept_index=kept_index,
            vision_features=vision_features,
            feature_order=feature_order,
        )
        hidden = self.hidden_states(
            self.embed(input_ids, features, image_index),
            position_ids,
            mask=self.mask_of(segments, video_ids, branch_ids, stem_ids),
        )
        logits = self.lm_head(hidden[0, label_index])
        targets = labels[0, label_index + 1]
        if temperature is not None:
            token_losses = F.cross_entropy(logits.float() / temperature, targets, reduction="none")
            return CrashChatOutput(
                loss_sum=token_losses.sum(),
                num_labels=label_index.new_tensor(len(label_index)),
                token_losses=token_losses,
            )
        if label_weights is None:
            loss_sum = F.cross_entropy(logits.float(), targets, reduction="sum")
        else:
            losses = F.cross_entropy(logits.float(), targets, reduction="none")
            loss_sum = (losses * label_weights).sum()  # no matrix product, which autocast would round
        output = CrashChatOutput(loss_sum=loss_sum, num_labels=label_index.new_tensor(len(label_index)))
        if wants_features:
            output.vision_features = features.detach()
        return output

    def mask_of(self, segments: list[Segment], video_ids: Tensor, branch_ids: Tensor, stem_ids: Tensor):
        """A packed row's segments in the form that the language model's attention takes."""
        attention = self.model.language_model.config._attn_implementation
        if attention == "flex_attention":
            return block_mask(video_ids, branch_ids, stem_ids)
        return varlen_of(segments, video_ids.device) if attention == VARLEN_ATTENTION else segments

    def hidden_states(self, embeddings: Tensor, position_ids: Tensor, mask) -> Tensor:
        """The language model's last hidden states, float[R, L, hidden].

        mask: what mask_of gives, or whatever else the attention takes.
        """
        return self.model.language_model(
            inputs_embeds=embeddings,
            position_ids=position_ids,
            # Always given, since without one transformers guesses documents from jumps in the positions; as a
            # dict it is taken as it is.
            attention_mask={"full_attention": mask},
            use_cache=False,
        ).last_hidden_state
