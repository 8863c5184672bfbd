"""What a model is made of: the numbers from which its parameters and its memory follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["decoder", "encoder", "speech"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The architecture in the words of `config.json`. Zero means: this model has no such part.

    kind            decoder (generates text), encoder (BERT), speech (Whisper: encoder and decoder)
    layers          decoder or encoder blocks
    encoder_layers  blocks of Whisper's encoder
    ffn             inner size of the ordinary feed-forward layers
    gated           the feed-forward layer has three matrices (gate, up, down), not two
    tied            the output matrix is the token embedding
    experts         routed experts a mixture layer holds; `experts_used` of them run for one token
    expert_ffn      inner size of one routed expert
    shared_ffn      inner size of all shared experts together
    dense_layers    layers that are not mixtures though the model has experts
    kv_rank         multi-head latent attention: width of the compressed key and value (`kv_lora_rank`)
    q_rank          width of the compressed query (`q_lora_rank`)
    rope_size       head dimensions that carry the position (`qk_rope_head_dim`)
    nope_size       head dimensions that do not (`qk_nope_head_dim`)
    value_size      head dimensions of the value (`v_head_dim`)
    window          tokens a sliding-window layer looks back
    full_layers     layers that look at the whole context though `window` is set
    cross_layers    of `layers`, those that attend to an image and keep no cache of the text
    positions       learned position vectors (BERT, Whisper's decoder)
    audio_positions learned or fixed positions of Whisper's encoder
    extra           parameters outside all this, such as an image encoder, as counted by `extra_note`
    """

    kind: Kind = "decoder"
    layers: int
    encoder_layers: int = 0
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    ffn: int
    vocab: int
    gated: bool = True
    tied: bool = False
    experts: int = 0
    experts_used: int = 0
    expert_ffn: int = 0
    shared_ffn: int = 0
    dense_layers: int = 0
    kv_rank: int = 0
    q_rank: int = 0
    rope_size: int = 0
    nope_size: int = 0
    value_size: int = 0
    window: int = 0
    full_layers: int = 0
    cross_layers: int = 0
    positions: int = 0
    audio_positions: int = 0
    extra: int = 0
    extra_note: str = ""

    def embedding_parameters(self) -> int:
        """The token embedding, once."""
        return self.vocab * self.hidden

    def output_parameters(self) -> int:
        """The matrix that turns the last hidden state into logits; 0 where it is the embedding or absent."""
        return 0 if self.tied or self.kind != "decoder" else self.vocab * self.hidden

    def expert_parameters(self) -> int:
        """All routed experts of all layers."""
        mixtures = self.layers - self.dense_layers if self.experts else 0
        return mixtures * self.experts * self._feed_forward(self.expert_ffn)

    def parameters(self) -> int:
        """Every weight, as it follows from the shape; norms and biases too where they can be seen."""
        body = self._attention_parameters() + self._feed_forward_parameters() + self.expert_parameters()
        norms = 2 * self.hidden * self.layers + self.hidden
        positions = (self.positions + self.audio_positions) * self.hidden
        return body + norms + positions + self.embedding_parameters() + self.output_parameters() + self.extra

    def _attention_parameters(self) -> int:
        if self.kv_rank:
            query_width = self.heads * (self.nope_size + self.rope_size)
            query = self.q_rank * (self.hidden + query_width) if self.q_rank else self.hidden * query_width
            squeeze = self.hidden * (self.kv_rank + self.rope_size)
            expand = self.kv_rank * self.heads * (self.nope_size + self.value_size)
            out = self.heads * self.value_size * self.hidden
            return self.layers * (query + squeeze + expand + out)
        width = self.heads * self.head_size
        one = 2 * self.hidden * width + 2 * self.hidden * self.kv_heads * self.head_size
        # Whisper's decoder attends to itself and to the encoder.
        return one * (self.encoder_layers + self.layers * (2 if self.kind == "speech" else 1))

    def _feed_forward_parameters(self) -> int:
        if self.experts:
            router = self.hidden * self.experts
            mixture = (self.layers - self.dense_layers) * (router + self._feed_forward(self.shared_ffn))
            return mixture + self.dense_layers * self._feed_forward(self.ffn)
        return (self.encoder_layers + self.layers) * self._feed_forward(self.ffn)

    def _feed_forward(self, inner: int) -> int:
        return (3 if self.gated else 2) * self.hidden * inner

    def cache_values(self) -> int:
        """Numbers one layer keeps for one token of context."""
        if self.kv_rank:
            return self.kv_rank + self.rope_size
        return 2 * self.kv_heads * self.head_size

    def cache_layers(self) -> tuple[int, int]:
        """(layers that remember the whole context, layers that remember only the window)."""
        if self.kind == "encoder":
            return 0, 0
        remembering = self.layers - self.cross_layers
        if not self.window:
            return remembering, 0
        return self.full_layers, remembering - self.full_layers
