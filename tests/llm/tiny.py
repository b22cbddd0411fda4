"""A language model of half a megabyte whose weights are random but always the same. It speaks nonsense, byte by byte.

What it says is hostile text for free: control characters, half characters, anything. `python -m tests.llm.tiny FILE`
"""

from __future__ import annotations

import sys
from pathlib import Path

import gguf
import numpy as np

WIDTH, HEADS, LAYERS, INNER, CONTEXT = 64, 4, 2, 128, 2048
TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant:"

END = 2
SPECIAL = (b"<unk>", b"<s>", b"</s>")
BYTES = tuple(b"<0x%02X>" % byte for byte in range(256))
PLAIN = ("\u2581".encode(), *(bytes([letter]) for letter in range(ord("a"), ord("z") + 1)))
TOKENS = (*SPECIAL, *BYTES, *PLAIN)
KINDS = (
    *(gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL),
    *(gguf.TokenType.BYTE for _ in BYTES),
    *(gguf.TokenType.NORMAL for _ in PLAIN),
)


def write(path: Path, seed: int = 20) -> Path:
    """Write the model, in the form that llama.cpp reads."""
    writer = gguf.GGUFWriter(path, "llama")
    _describe(writer)
    _add_words(writer)
    random = np.random.default_rng(seed)
    for name, shape in _shapes():
        is_norm = "norm" in name
        numbers = np.ones(shape) if is_norm else random.normal(0.0, 0.06, shape)
        if name == "token_embd.weight":
            numbers[:, 0] = 0.3  # the same in every state, so the next line makes the end likelier than one in 285
        if name == "output.weight":
            numbers[END, 0] = 0.45
        writer.add_tensor(name, numbers.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _describe(writer: gguf.GGUFWriter) -> None:
    writer.add_name("opsctl tiny random")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_vocab_size(len(TOKENS))


def _add_words(writer: gguf.GGUFWriter) -> None:
    writer.add_tokenizer_model("llama")
    writer.add_token_list(list(TOKENS))
    writer.add_token_scores([0.0] * len(TOKENS))
    writer.add_token_types(list(KINDS))
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(END)
    writer.add_chat_template(TEMPLATE)


def _shapes() -> list[tuple[str, tuple[int, ...]]]:
    square, up, down = (WIDTH, WIDTH), (INNER, WIDTH), (WIDTH, INNER)
    layer: dict[str, tuple[int, ...]] = {"attn_norm": (WIDTH,), "ffn_norm": (WIDTH,)}
    layer |= {f"attn_{one}": square for one in ("q", "k", "v", "output")}
    layer |= {"ffn_gate": up, "ffn_up": up, "ffn_down": down}
    rows = [(f"blk.{number}.{name}.weight", shape) for number in range(LAYERS) for name, shape in layer.items()]
    words = (len(TOKENS), WIDTH)
    return [("token_embd.weight", words), ("output_norm.weight", (WIDTH,)), ("output.weight", words), *rows]


if __name__ == "__main__":
    write(Path(sys.argv[1]))
