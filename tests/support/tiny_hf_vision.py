"""Vision models of seeded random weights as Transformers folders, with the demo model's tokenizer.

One for each way in which pictures are placed: "llava" in as many positions as tokens; "qwen2vl" in three dimensions
(M-RoPE); "gemma3", whose tokens of a picture look at each other in both directions, some layers within a window; and
"smolvlm", which takes large pictures in tiles. The answers are meaningless, but depend on every pixel.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tests.support.forked import forked
from tests.support.made_once import CACHE, made_once, version

KINDS = ("llava", "qwen2vl", "gemma3", "smolvlm")
CONTEXT, VOCABULARY = 512, 49216
IMAGE_SIZE, PATCH = 56, 14
_TOKENS = {
    "llava": ["<image>"],
    "qwen2vl": ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"],
    "gemma3": ["<start_of_image>", "<end_of_image>", "<image_soft_token>"],
    "smolvlm": [
        *("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"),
        *(f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)),
    ],
}
"""Special tokens that are added to those of the demo model, whose vocabulary has 49,152."""
_EXTRA = {
    "gemma3": {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"},
}
PLACE = {
    "llava": "<image>",
    "qwen2vl": "<|vision_start|><|image_pad|><|vision_end|>",
    "gemma3": "<start_of_image>",
    "smolvlm": "<image>",
}
"""What the chat template of each writes for a picture."""

_VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
_SIZE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "vocab_size": VOCABULARY}
_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": CONTEXT}
_TEXT = _SIZE | _HEADS | {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
_SMOLVLM_SIZES = {"size": {"longest_edge": 4 * IMAGE_SIZE}, "max_image_size": {"longest_edge": IMAGE_SIZE}}


def tiny_hf_vision(tokenizer: Path, kind: str) -> Path:
    """Return the folder, with the tokenizer files of the folder `tokenizer`; create it if no earlier run has."""
    folder = CACHE / version([__file__], tokenizer.name) / f"tiny-hf-{kind}"
    return made_once(folder, lambda part: forked(write, part, tokenizer, kind))


def template(kind: str) -> str:
    """Return a chat template that takes pictures as parts of a message."""
    return (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n"
        "{% if message.content is string %}{{ message.content }}"
        "{% else %}{% for part in message.content %}"
        "{% if part.type == 'image' %}{{ '" + PLACE[kind] + "' }}{% else %}{{ part.text }}{% endif %}"
        "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


def write(folder: Path, tokenizer: Path, kind: str) -> None:
    import torch
    import transformers

    folder.mkdir()
    for file in tokenizer.glob("tokenizer*"):
        shutil.copy(file, folder)
    _add_tokens(folder, kind)
    (folder / "chat_template.jinja").write_text(template(kind))
    ids = {token: 49152 + number for number, token in enumerate(_TOKENS[kind])}
    name, config, files = _PARTS[kind](transformers, ids)
    torch.manual_seed(11)
    model = getattr(transformers, f"{name}ForConditionalGeneration")(config)
    for key, weight in model.named_parameters():  # large enough that distant tokens, and pixels, affect the logits
        torch.nn.init.normal_(weight, std=0.4 if "vis" in key or "project" in key or "connector" in key else 0.3)
    model.save_pretrained(folder)
    for file, content in files.items():
        (folder / file).write_text(json.dumps(content))


def _add_tokens(folder: Path, kind: str) -> None:
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    content["added_tokens"] += [
        {"id": 49152 + number, "content": token, **flags} for number, token in enumerate(_TOKENS[kind])
    ]
    file.write_text(json.dumps(content))
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | _EXTRA.get(kind, {})))


def _llava(transformers: Any, ids: dict[str, int]) -> tuple[str, Any, dict[str, Any]]:
    vision = transformers.CLIPVisionConfig(**_VISION, image_size=IMAGE_SIZE, patch_size=PATCH, projection_dim=16)
    config = transformers.LlavaConfig(
        vision_config=vision,
        text_config=transformers.LlamaConfig(**_TEXT),
        image_token_index=ids["<image>"],
        image_token_id=ids["<image>"],
        image_seq_length=(IMAGE_SIZE // PATCH) ** 2,
    )
    square = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    files = {
        "preprocessor_config.json": {
            "image_processor_type": "CLIPImageProcessor",
            "processor_class": "LlavaProcessor",
            "size": {"shortest_edge": IMAGE_SIZE},
            "crop_size": square,
        },
        "processor_config.json": {
            "processor_class": "LlavaProcessor",
            "image_token": "<image>",
            "patch_size": PATCH,
            "num_additional_image_tokens": 1,
            "vision_feature_select_strategy": "default",
        },
    }
    return "Llava", config, files


def _qwen2vl(transformers: Any, ids: dict[str, int]) -> tuple[str, Any, dict[str, Any]]:
    text = {name: value for name, value in _TEXT.items() if name != "head_dim"}
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0}
    vision = {"depth": 2, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": PATCH}
    config = transformers.Qwen2VLConfig(
        text_config=text | {"rope_parameters": rope},
        vision_config=vision | {"spatial_merge_size": 2, "temporal_patch_size": 2, "in_channels": 3},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    files = {
        "preprocessor_config.json": {
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2VLProcessor",
            "min_pixels": IMAGE_SIZE**2,
            "max_pixels": 4 * IMAGE_SIZE**2,
            "patch_size": PATCH,
            "temporal_patch_size": 2,
            "merge_size": 2,
        }
    }
    return "Qwen2VL", config, files


def _gemma3(transformers: Any, ids: dict[str, int]) -> tuple[str, Any, dict[str, Any]]:
    text = transformers.Gemma3TextConfig(**_TEXT, sliding_window=24, sliding_window_pattern=2, query_pre_attn_scalar=8)
    config = transformers.Gemma3Config(
        text_config=text,
        vision_config=transformers.SiglipVisionConfig(**_VISION, image_size=IMAGE_SIZE, patch_size=PATCH),
        mm_tokens_per_image=4,
        boi_token_index=ids["<start_of_image>"],
        eoi_token_index=ids["<end_of_image>"],
        image_token_index=ids["<image_soft_token>"],
        image_token_id=ids["<image_soft_token>"],
    )
    square = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    files = {
        "preprocessor_config.json": {
            "image_processor_type": "Gemma3ImageProcessor",
            "processor_class": "Gemma3Processor",
            "size": square,
            "image_seq_length": 4,
        },
        "processor_config.json": {"processor_class": "Gemma3Processor", "image_seq_length": 4},
    }
    return "Gemma3", config, files


def _smolvlm(transformers: Any, ids: dict[str, int]) -> tuple[str, Any, dict[str, Any]]:
    config = transformers.SmolVLMConfig(
        vision_config={**_VISION, "image_size": IMAGE_SIZE, "patch_size": PATCH},
        text_config=transformers.LlamaConfig(**_TEXT),
        image_token_id=ids["<image>"],
        scale_factor=2,
    )
    files = {
        "preprocessor_config.json": {
            "image_processor_type": "SmolVLMImageProcessor",
            "processor_class": "SmolVLMProcessor",
            "do_image_splitting": True,
            **_SMOLVLM_SIZES,
        },
        "processor_config.json": {"processor_class": "SmolVLMProcessor", "image_seq_len": 4},
    }
    return "SmolVLM", config, files


_PARTS = {"llava": _llava, "qwen2vl": _qwen2vl, "gemma3": _gemma3, "smolvlm": _smolvlm}
