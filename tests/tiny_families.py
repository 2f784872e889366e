"""Tiny repositories in the shape that publishers give each family of models.

Real configuration classes, random weights and real `save_pretrained`; what only other programs
write (a diffusers pipeline, a sentence-transformers folder) is laid out by hand. Weights are drawn
wide (standard deviation 1): narrow ones make a model that repeats one token.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.tiny_models import BOS, EOS, VOCABULARY, byte_tokenizer

# Vocabulary sizes leave room for the special tokens of pictures.
ROWS = 272
_TEXT: dict[str, Any] = {
    "vocab_size": ROWS,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 1.0,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "pad_token_id": EOS,
    "tie_word_embeddings": False,
}
_MORE: Mapping[str, dict[str, Any]] = {
    "Mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "Qwen3": {"head_dim": 8},
    "Gemma2": {"head_dim": 8},
}
CAUSAL = ("Llama", "Mistral", "Mixtral", "Qwen2", "Qwen3", "Gemma2", "Phi3", "Starcoder2")


def causal(folder: Path, family: str, *, shard_bytes: int = 10**9) -> None:
    """A decoder with its tokenizer; small `shard_bytes` give shards and an index."""
    import torch
    import transformers

    torch.manual_seed(1)
    config = getattr(transformers, f"{family}Config")(**{**_TEXT, **_MORE.get(family, {})})
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    model.save_pretrained(folder, max_shard_size=shard_bytes)
    byte_tokenizer(pad_token="<|endoftext|>").save_pretrained(folder)


def vision_language(folder: Path) -> None:
    """A Llava: a CLIP eye, a Llama, an image processor and the processor that joins them."""
    import torch
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    torch.manual_seed(1)
    tokenizer = byte_tokenizer(additional_special_tokens=["<image>"])
    eye = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=28,
        patch_size=14,
        projection_dim=32,
        initializer_range=1.0,
    )
    config = LlavaConfig(
        vision_config=eye,
        text_config=LlamaConfig(**_TEXT),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
        ),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template="{% for m in messages %}{{ m['content'] }}{% endfor %}",
    ).save_pretrained(folder)


def gemma3_vision(folder: Path) -> None:
    """A Gemma 3 with its SigLIP eye; the projection between them, zero at first, is drawn too."""
    import torch
    from transformers import (
        Gemma3Config,
        Gemma3ForConditionalGeneration,
        Gemma3ImageProcessor,
        Gemma3Processor,
    )

    torch.manual_seed(1)
    names = {"boi_token": "<boi>", "eoi_token": "<eoi>", "image_token": "<image>"}
    tokenizer = byte_tokenizer(extra_special_tokens=names)
    eye = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 28,
        "patch_size": 14,
    }
    config = Gemma3Config(
        text_config={**_TEXT, "head_dim": 8},
        vision_config=eye,
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.convert_tokens_to_ids("<boi>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<eoi>"),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=False,
    )
    model = Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight)
    model.save_pretrained(folder)
    seen = Gemma3ImageProcessor(size={"height": 28, "width": 28})
    Gemma3Processor(image_processor=seen, tokenizer=tokenizer, image_seq_length=4).save_pretrained(
        folder
    )


def qwen2_vision(folder: Path) -> None:
    """A Qwen2-VL, whose processor for video needs torchvision."""
    import torch
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    torch.manual_seed(1)
    names = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    tokenizer = byte_tokenizer(additional_special_tokens=list(names))
    start, end, image, video = (tokenizer.convert_tokens_to_ids(name) for name in names)
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [1, 1, 2]}
    config = Qwen2VLConfig(
        text_config={**_TEXT, "rope_parameters": rope},
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4},
        vision_start_token_id=start,
        vision_end_token_id=end,
        image_token_id=image,
        video_token_id=video,
    )
    Qwen2VLForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    said = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2VLProcessor"}
    _write_json(folder / "preprocessor_config.json", said)
    _write_json(folder / "video_preprocessor_config.json", {"processor_class": "Qwen2VLProcessor"})


def whisper(folder: Path) -> None:
    """A Whisper that hears one second: log-mel features in, tokens out."""
    import torch
    from transformers import (
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
    )

    torch.manual_seed(1)
    config = WhisperConfig(
        vocab_size=ROWS,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_mel_bins=80,
        max_source_positions=50,
        max_target_positions=32,
        init_std=1.0,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=EOS,
        decoder_start_token_id=BOS,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    WhisperForConditionalGeneration(config).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80, chunk_length=1).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    _write_json(folder / "normalizer.json", {"colour": "color"})


def sequence_to_sequence(folder: Path) -> None:
    """A T5."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(1)
    config = T5Config(
        vocab_size=ROWS,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        initializer_factor=2.0,
        eos_token_id=EOS,
        pad_token_id=EOS,
        decoder_start_token_id=BOS,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)


def embeddings(folder: Path) -> None:
    """A BERT in the layout of sentence-transformers: transformer, then mean pooling."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    torch.manual_seed(1)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz.,'"]
    words += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=128,
        initializer_range=1.0,
    )
    BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    kind = "sentence_transformers.models"
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": f"{kind}.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{kind}.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
    _write_json(folder / "1_Pooling/config.json", pooling)
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": 128})
    _write_json(folder / "config_sentence_transformers.json", {"prompts": {}})


def diffusion(folder: Path) -> None:
    """A text-to-image pipeline as diffusers lays it out, with a real CLIP text encoder."""
    import torch
    from safetensors.torch import save_file
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(1)
    encoder = CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    CLIPTextModel(encoder).save_pretrained(folder / "text_encoder")
    byte_tokenizer().save_pretrained(folder / "tokenizer")
    parts = {
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
    }
    _write_json(folder / "model_index.json", {"_class_name": "StableDiffusionPipeline"} | parts)
    for part in ("unet", "vae"):
        _write_json(folder / part / "config.json", {"_class_name": parts[part][1]})
        tensors = {"conv_in.weight": torch.randn(4, 4, 3, 3)}
        save_file(tensors, folder / part / "diffusion_pytorch_model.safetensors")
    _write_json(folder / "scheduler/scheduler_config.json", {"_class_name": "DDIMScheduler"})
    _write_json(folder / "feature_extractor/preprocessor_config.json", {"size": 28})


def adapter(folder: Path, base: str = "maker/base") -> None:
    """A LoRA of rank 2 on two projections, as PEFT writes it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(LlamaForCausalLM(LlamaConfig(**_TEXT)), config)
    model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained(folder, save_embedding_layers=False)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


FAMILIES: Mapping[str, Callable[[Path], None]] = {
    **{family.lower(): lambda folder, family=family: causal(folder, family) for family in CAUSAL},
    "sharded": lambda folder: causal(folder, "Llama", shard_bytes=50_000),
    "llava": vision_language,
    "gemma3": gemma3_vision,
    "qwen2-vl": qwen2_vision,
    "whisper": whisper,
    "t5": sequence_to_sequence,
    "bert": embeddings,
    "diffusers": diffusion,
}
