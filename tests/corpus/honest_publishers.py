"""More honest repositories: what publishers and other programs lay beside, or instead of, the usual.

Laid out by hand after repositories that are public: Mistral's own form, sentence-transformers,
MLX, GPTQ and compressed-tensors settings, tokenizers in older files, adapters of several kinds.
"""

# One line a setting.
# ruff: noqa: E501
from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.corpus import bases
from tests.corpus.bases import write_json
from tests.corpus.tamper_formats import _PNG

Make = Callable[[Path], None]

ADMIN = "root"  # whose home many models were trained in


def _sentencepiece_bytes() -> bytes:
    import sentencepiece

    text = ["the river runs through the town"] * 20 + ["and the hills are green"] * 20
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_writer=out, vocab_size=35, hard_vocab_limit=False,
        minloglevel=2,
    )  # fmt: skip
    return out.getvalue()


def _change(name: str, change: Callable[[Any], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / name
        document = json.loads(path.read_text()) if path.exists() else {}
        change(document)
        write_json(path, document)

    return apply


def _set(name: str, **members: Any) -> Callable[[Path], None]:
    return _change(name, lambda document: document.update(members))


def _write(name: str, content: str | bytes) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return apply


def _all(*changes: Callable[[Path], object], base: Make = bases.single) -> Make:
    def make(folder: Path) -> None:
        base(folder)
        for change in changes:
            change(folder)

    return make


def _tokenizer_files(folder: Path) -> None:
    """Every file that a tokenizer of some family lies in."""
    pieces = _sentencepiece_bytes()
    for name in (
        "tokenizer.model",
        "tokenizer.model.v3",
        "spiece.model",
        "sentencepiece.bpe.model",
        "source.spm",
        "target.spm",
    ):
        (folder / name).write_bytes(pieces)
    (folder / "bpe.codes").write_text("t h 100\nh e 90\n")
    (folder / "vocab.bpe").write_text("#version: 0.2\nt h\nh e\n")
    (folder / "dict.txt").write_text("th 100\nhe 90\n")
    (folder / "qwen.tiktoken").write_text("IQ== 0\nIg== 1\nIw== 2\n")
    (folder / "original").mkdir(exist_ok=True)
    (folder / "original" / "tokenizer.model").write_text("IQ== 0\nIg== 1\n")
    write_json(folder / "tekken.json", {"config": {"pattern": "[^\\r\\n]+", "num_vocab_tokens": 40, "version": "v3"},
        "vocab": [{"rank": 0, "token_bytes": "AA==", "token_str": "\x00"}],
        "special_tokens": [{"rank": 0, "token_str": "<unk>", "is_control": True}]})  # fmt: skip


def _processors(folder: Path) -> None:
    """Settings of image and sound processors, and a chat template as JSON."""
    write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "CLIPImageProcessor",
            "crop_size": {"height": 28, "width": 28},
            "do_resize": True,
            "image_mean": [0.48, 0.45, 0.4],
            "processor_class": "LlavaProcessor",
            "resample": 3,
        },
    )
    write_json(
        folder / "processor_config.json",
        {
            "processor_class": "LlavaProcessor",
            "patch_size": 14,
            "image_token": "<image>",
            "vision_feature_select_strategy": "default",
        },
    )
    write_json(
        folder / "video_preprocessor_config.json",
        {"video_processor_type": "Qwen2VLVideoProcessor", "size": {"longest_edge": 1}},
    )
    write_json(
        folder / "feature_extractor_config.json",
        {"feature_extractor_type": "WhisperFeatureExtractor", "n_fft": 400},
    )
    write_json(folder / "chat_template.json", {"chat_template": bases.TEMPLATE})


def _papers(folder: Path) -> None:
    """Papers as publishers name them."""
    for name in (
        "NOTICE",
        "NOTICE.txt",
        "USE_POLICY.md",
        "README_zh-CN.md",
        "CHANGELOG.md",
        "SECURITY.md",
        "MODEL_CARD.md",
        "CITATION.cff",
        "paper.bib",
        "CODE_OF_CONDUCT.md",
        "acceptable_use_policy.txt",
    ):
        (folder / name).write_text("A text for readers; see https://example.org and be kind.\n")
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs diff=lfs merge=lfs -text\n")
    (folder / ".gitignore").write_text("*.bin\n")
    (folder / "images").mkdir()
    (folder / "images" / "benchmark.png").write_bytes(_PNG)
    (folder / "README.md").write_text(
        "---\nlicense: mit\npipeline_tag: text-generation\nbase_model:\n- maker/base\n---\n<div align=\"center\">\n<img src=\"images/benchmark.png\"/>\n"
        "<script>var a = 1</script>\n</div>\n\n```python\nimport os\nos.system('ls')\n```\n")  # fmt: skip
    write_json(
        folder / "trainer_state.json", {"global_step": 3, "log_history": [{"loss": 1.2, "step": 1}]}
    )
    write_json(folder / "all_results.json", {"eval_loss": 1.0})


def _mistral_form(folder: Path) -> None:
    """Mistral's own layout: consolidated weights, params.json, tekken.json or tokenizer.model.v3."""
    bases.papers(folder)
    arrays: bases.Arrays = {}
    for name, array in bases.weights().items():
        arrays[name.removeprefix("model.").replace("embed_tokens", "tok_embeddings")] = array
    save_file(arrays, folder / "consolidated.safetensors", metadata={"format": "pt"})
    write_json(
        folder / "params.json",
        {
            "dim": 16,
            "n_layers": 3,
            "head_dim": 4,
            "hidden_dim": 32,
            "n_heads": 4,
            "n_kv_heads": 2,
            "norm_eps": 1e-05,
            "vocab_size": 40,
            "rope_theta": 1000000.0,
        },
    )
    (folder / "tokenizer.model.v3").write_bytes(_sentencepiece_bytes())


def _mistral_both(folder: Path) -> None:
    """The same beside shards with a config."""
    bases.sharded(folder)
    _mistral_form_into(folder)


def _mistral_form_into(folder: Path) -> None:
    save_file(bases.weights(), folder / "consolidated.safetensors", metadata={"format": "pt"})
    write_json(folder / "params.json", {"dim": 16, "n_layers": 3, "n_heads": 4})


def _sentence_transformers(folder: Path) -> None:
    """BERT, mean pooling, a dense layer with its activation, normalisation."""
    from tests.tiny_families import embeddings

    embeddings(folder)
    bases.papers(folder)
    kind = "sentence_transformers.models"
    modules = [
        {"idx": at, "name": str(at), "path": path, "type": f"{kind}.{name}"}
        for at, (path, name) in enumerate([("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"), ("3_Normalize", "Normalize")])
    ]  # fmt: skip
    (folder / "modules.json").write_text(json.dumps(modules))
    write_json(
        folder / "2_Dense/config.json",
        {
            "in_features": 32,
            "out_features": 16,
            "bias": True,
            "activation_function": "torch.nn.modules.activation.Tanh",
        },
    )
    draw = np.random.default_rng(1)
    dense = {
        "linear.weight": draw.normal(size=(16, 32)).astype(np.float32),
        "linear.bias": np.zeros(16, np.float32),
    }
    save_file(dense, folder / "2_Dense/model.safetensors")
    (folder / "3_Normalize").mkdir()
    write_json(
        folder / "1_Pooling/config.json",
        {
            "word_embedding_dimension": 32,
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": True,
            "include_prompt": True,
        },
    )
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "__version__": {
                "sentence_transformers": "3.0.1",
                "transformers": "4.41.2",
                "pytorch": "2.3.0",
            },
            "prompts": {"query": "Represent this sentence for searching: ", "passage": ""},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    )


def _cross_encoder(folder: Path) -> None:
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    from tests.tiny_families import embeddings

    embeddings(folder)
    torch.manual_seed(3)
    said = json.loads((folder / "config.json").read_text())
    config = BertConfig(
        **{
            k: v
            for k, v in said.items()
            if k not in ("architectures", "model_type", "transformers_version")
        },
        num_labels=1,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    (folder / "modules.json").unlink()
    for name in (
        "config_sentence_transformers.json",
        "sentence_bert_config.json",
        "1_Pooling/config.json",
    ):
        (folder / name).unlink()
    _set(
        "config.json",
        sentence_transformers={
            "activation_fn": "torch.nn.modules.activation.Sigmoid",
            "version": "4.0.1",
        },
        id2label={"0": "LABEL_0"},
        label2id={"LABEL_0": 0},
    )(folder)
    bases.papers(folder)


def _mlx(folder: Path) -> None:
    """Four bits as MLX packs them: words of 32 bits, with scales and biases a group."""
    bases.single(
        folder,
        np.float16,
        torch_dtype="float16",
        quantization={"group_size": 8, "bits": 4},
        quantization_config={"group_size": 8, "bits": 4},
    )
    path = folder / "model.safetensors"
    arrays = load_file(path)
    draw = np.random.default_rng(4)
    for name in [n for n in arrays if arrays[n].ndim == 2]:
        rows, columns = arrays[name].shape
        stem = name.removesuffix(".weight")
        arrays[name] = draw.integers(0, 2**32 - 1, (rows, columns // 8), dtype=np.uint32)
        arrays[f"{stem}.scales"] = draw.random((rows, columns // 8)).astype(np.float16)
        arrays[f"{stem}.biases"] = -draw.random((rows, columns // 8)).astype(np.float16)
    path.unlink()
    save_file(arrays, path, metadata={"format": "mlx"})


def _gptq_with(folder: Path, settings: dict[str, Any]) -> None:
    from tests.corpus.honest import HONEST  # which holds this module's repositories too

    HONEST["gptq"](folder)
    write_json(folder / "quantize_config.json", settings)


def _gptqmodel(folder: Path) -> None:
    meta = {
        "quantizer": ["gptqmodel:2.2.0"],
        "uri": "https://github.com/modelcloud/gptqmodel",
        "damp_percent": 0.1,
        "damp_auto_increment": 0.0025,
        "static_groups": False,
        "true_sequential": True,
        "mse": 0.0,
    }
    said = {
        "bits": 4,
        "group_size": 16,
        "desc_act": False,
        "sym": True,
        "lm_head": False,
        "quant_method": "gptq",
        "checkpoint_format": "gptq",
        "pack_dtype": "int32",
        "meta": meta,
        "dynamic": None,
    }
    _gptq_with(folder, said)
    _change("config.json", lambda c: c["quantization_config"].update(said))(folder)


def _autogptq(folder: Path) -> None:
    _gptq_with(
        folder,
        {
            "bits": 4,
            "group_size": 16,
            "damp_percent": 0.1,
            "desc_act": False,
            "static_groups": False,
            "sym": True,
            "true_sequential": True,
            "model_name_or_path": f"/{ADMIN}/autodl-tmp/llama",
            "model_file_base_name": "model",
        },
    )


def _compressed_tensors(folder: Path) -> None:
    """INT8 weights with a scale a channel, as llm-compressor writes them."""
    group = {
        "targets": ["Linear"],
        "weights": {
            "num_bits": 8,
            "type": "int",
            "symmetric": True,
            "strategy": "channel",
            "observer": "minmax",
            "observer_kwargs": {},
        },
        "input_activations": {"num_bits": 8, "dynamic": True, "strategy": "token"},
        "output_activations": None,
    }
    said = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head", "re:.*gate$"],
        "kv_cache_scheme": None,
        "version": "0.9.1",
    }
    bases.single(folder, np.float16, torch_dtype="float16", quantization_config=said)
    path = folder / "model.safetensors"
    arrays = load_file(path)
    for name in [n for n in arrays if ".self_attn." in n or ".mlp." in n]:
        rows = arrays[name].shape[0]
        arrays[name] = np.clip(arrays[name] * 500, -127, 127).astype(np.int8)
        arrays[f"{name}_scale"] = np.full((rows, 1), 0.002, np.float16)
    path.unlink()
    save_file(arrays, path, metadata={"format": "pt"})
    (folder / "recipe.yaml").write_text(
        "default_stage:\n  default_modifiers:\n    QuantizationModifier:\n      targets: [Linear]\n"
    )


def _adapter(
    save: dict[str, Any] | None = None, extra: Callable[[bases.Arrays], object] | None = None
) -> Make:
    def make(folder: Path) -> None:
        bases.adapter(folder)
        _set("adapter_config.json", **(save or {}))(folder)
        if extra is not None:
            path = folder / "adapter_model.safetensors"
            arrays = load_file(path)
            extra(arrays)
            path.unlink()
            save_file(arrays, path, metadata={"format": "pt"})

    return make


def _dora(arrays: bases.Arrays) -> None:
    for name in [n for n in arrays if n.endswith("lora_B.weight")]:
        arrays[name.replace("lora_B.weight", "lora_magnitude_vector")] = np.ones(
            arrays[name].shape[0], np.float32
        )


def _saved_head(arrays: bases.Arrays) -> None:
    draw = np.random.default_rng(2)
    arrays["base_model.model.lm_head.weight"] = draw.normal(size=(40, 16)).astype(np.float32)


def _instruct_adapter(folder: Path) -> None:
    """An adapter with the tokenizer and the template that it was trained with."""
    bases.adapter(folder)
    for name, document in (
        ("tokenizer.json", bases.tokenizer()),
        ("tokenizer_config.json", bases.tokenizer_config()),
    ):
        write_json(folder / name, document)
    (folder / "chat_template.jinja").write_text(bases.TEMPLATE)
    _set(
        "adapter_config.json",
        base_model_name_or_path=f"/{ADMIN}/models/base",
        megatron_core="megatron.core",
        megatron_config=None,
        loftq_config={},
        eva_config=None,
        corda_config=None,
        auto_mapping={
            "base_model_class": "LlamaForCausalLM",
            "parent_library": "transformers.models.llama.modeling_llama",
            "unsloth_fixed": True,
        },
    )(folder)


def _many_tokens(folder: Path) -> None:
    """Control tokens as families write them, some beyond the trained vocabulary."""
    names = [
        "<｜begin▁of▁sentence｜>",
        "<｜User｜>",
        "[INST]",
        "<unused0>",
        "<|reserved_special_token_0|>",
        ">>TITLE<<",
    ]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}

    def change(document: Any) -> None:
        for at, name in enumerate(names):
            document["added_tokens"].append(
                {"id": 33 + at, "content": name, "special": at % 3 != 2, **flags}
            )

    bases.single(folder)
    _change("tokenizer.json", change)(folder)
    _change(
        "tokenizer_config.json",
        lambda d: d["added_tokens_decoder"].update(
            {
                str(33 + at): {"content": n, "special": at % 3 != 2, **flags}
                for at, n in enumerate(names)
            }
        ),
    )(folder)


def _two_ggufs(folder: Path) -> None:
    """One repository, two files, and the config of the model that they were made from."""
    bases.gguf_file(folder)
    data = (folder / "model.gguf").read_bytes()
    (folder / "model.gguf").rename(folder / "Tiny-1.1B-Q8_0.gguf")
    (folder / "Tiny-1.1B-F16.gguf").write_bytes(data)
    write_json(folder / "config.json", bases.config())


_YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 32,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
_LONG = {"rope_type": "longrope", "short_factor": [1.0, 1.1], "long_factor": [1.0, 2.0]}

PUBLISHED: Mapping[str, Make] = {
    "tokenizer-files": _all(_tokenizer_files),
    "processors": _all(_processors),
    "papers": _all(_papers),
    "mistral-form": _mistral_form,
    "mistral-both": _mistral_both,
    "sentence-transformers": _sentence_transformers,
    "cross-encoder": _cross_encoder,
    "mlx": _mlx,
    "gptqmodel": _gptqmodel,
    "autogptq": _autogptq,
    "compressed-tensors": _compressed_tensors,
    "adapter-dora": _adapter({"use_dora": True}, _dora),
    "adapter-rslora": _adapter({"use_rslora": True, "lora_alpha": 16}),
    "adapter-saves-head": _adapter({"modules_to_save": ["lm_head"]}, _saved_head),
    "adapter-regex": _adapter({"target_modules": r".*\.(q_proj|v_proj)"}),
    "adapter-all-linear": _adapter({"target_modules": "all-linear"}),
    "adapter-instruct": _instruct_adapter,
    "many-tokens": _many_tokens,
    "two-ggufs": _two_ggufs,
    "rope-yarn": _all(_set("config.json", rope_scaling=_YARN)),
    "rope-linear-old": _all(_set("config.json", rope_scaling={"type": "linear", "factor": 2.0})),
    "rope-dynamic": _all(_set("config.json", rope_scaling={"type": "dynamic", "factor": 2.0})),
    "rope-longrope": _all(_set("config.json", rope_scaling=_LONG, original_max_position_embeddings=64)),
    "rope-parameters": _all(_change("config.json", lambda c: c.update(rope_parameters={"rope_type": "default", "rope_theta": c.pop("rope_theta")}))),
    "attention-named": _all(_set("config.json", _attn_implementation_autoset=True, attn_implementation="flash_attention_2", use_cache=True, pretraining_tp=1)),
    "paths-of-root": _all(_set("config.json", _name_or_path=f"/{ADMIN}/autodl-tmp/ckpt"), _set("tokenizer_config.json", tokenizer_file=f"/{ADMIN}/.cache/huggingface/hub/models--a--b/tokenizer.json", name_or_path="/opt/ml/model", special_tokens_map_file=f"/{ADMIN}/.cache/huggingface/transformers/9d67")),
    "eos-default-ids": _all(_set("config.json", bos_token_id=1, eos_token_id=2), _set("generation_config.json", eos_token_id=2, pad_token_id=2, _from_model_config=True)),
    "eos-of-chat": _all(_set("config.json", eos_token_id=0), _set("generation_config.json", eos_token_id=[2, 0], pad_token_id=0)),
    "hub-leftovers": _all(_set("config.json", _commit_hash=None, custom_pipelines=None, auto_map={}, architectures=["LlamaForCausalLM"])),
    "carriage-returns": _all(lambda f: (f / "README.md").write_bytes((f / "README.md").read_bytes().replace(b"\n", b"\r\n")) and None),
}  # fmt: skip
