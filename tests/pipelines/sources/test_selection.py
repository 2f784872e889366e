from __future__ import annotations

import pytest

from pipelines.errors import UnusableSource
from pipelines.sources.selection import require_weights, select

# What must come in, and what must not, in the listings of real repositories.
REPOSITORIES = {
    "mistral": (
        "config.json generation_config.json params.json tekken.json tokenizer.json "
        "tokenizer.model tokenizer.model.v3 tokenizer_config.json special_tokens_map.json "
        "model-00001-of-00002.safetensors model-00002-of-00002.safetensors "
        "model.safetensors.index.json chat_template.jinja",
        "consolidated.safetensors consolidated.safetensors.index.json",
    ),
    "mistral-only": ("consolidated.safetensors params.json tekken.json", "SYSTEM_PROMPT.txt"),
    "llama": (
        "config.json model.safetensors tokenizer.json",
        "original/consolidated.00.pth original/params.json original/tokenizer.model",
    ),
    "exports": (
        "config.json model.safetensors tokenizer.json vocab.txt 1_Pooling/config.json modules.json",
        "onnx/model.onnx onnx/model.onnx_data onnx/config.json onnx/tokenizer.json "
        "openvino/openvino_model.bin openvino/openvino_model.xml openvino/openvino_config.json "
        "coreml/text/float32.mlpackage/Data/weights.bin coreml/text/float32.mlpackage/Manifest.json"
        " pytorch_model.bin pytorch_model.bin.index.json tf_model.h5 rust_model.ot "
        "flax_model.msgpack",
    ),
    "gguf beside safetensors": (
        "config.json model.safetensors",
        "gemma-7b.gguf gguf/gemma-7b-q4.gguf",
    ),
    "gguf alone": ("model-q4.gguf model-q8.gguf config.json", "imatrix.dat"),
    "vision": (
        "config.json preprocessor_config.json processor_config.json tokenizer.json merges.txt "
        "video_preprocessor_config.json model.safetensors chat_template.json added_tokens.json "
        "additional_chat_templates/tool_use.jinja chat_templates/rag.jinja vocab.json",
        "demo.png requirements.txt notes.txt modeling_x.py",
    ),
    "vocabularies": (
        "model.safetensors spiece.model sentencepiece.bpe.model qwen.tiktoken source.spm "
        "target.spm bpe.codes dict.txt normalizer.json",
        "labels.txt imagenet_classes.txt",
    ),
    "diffusers": (
        "model_index.json unet/config.json unet/diffusion_pytorch_model.safetensors "
        "vae/config.json vae/diffusion_pytorch_model.safetensors scheduler/scheduler_config.json "
        "tokenizer/vocab.json tokenizer/merges.txt text_encoder/config.json "
        "text_encoder/model.safetensors feature_extractor/preprocessor_config.json",
        "sd_xl_base_1.0.safetensors unet/diffusion_pytorch_model.fp16.safetensors "
        "unet/diffusion_pytorch_model.bin text_encoder/model.fp16.safetensors "
        "text_encoder/pytorch_model.bin vae_decoder/model.onnx vae_decoder/config.json "
        "unet/diffusion_pytorch_model.non_ema.safetensors",
    ),
    "sharded variant": (
        "config.json model.safetensors.index.json model-00001-of-00002.safetensors "
        "model-00002-of-00002.safetensors",
        "model.fp16-00001-of-00002.safetensors model.fp16-00002-of-00002.safetensors "
        "model.safetensors.index.fp16.json",
    ),
    "variant alone": (
        "model_index.json unet/config.json unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.fp16.bin",
    ),
    "training steps": (
        "adapter_config.json adapter_model.safetensors tokenizer.json",
        "checkpoint-500/adapter_model.safetensors checkpoint-500/adapter_config.json "
        "checkpoint-500/optimizer.pt training_args.bin",
    ),
    "a step by itself": ("checkpoint-500/model.safetensors checkpoint-500/config.json", ""),
}


@pytest.mark.parametrize("repository", REPOSITORIES)
def test_a_repository_gives_one_copy_of_its_model_and_all_that_belongs_to_it(
    repository: str,
) -> None:
    wanted, unwanted = (text.split() for text in REPOSITORIES[repository])

    selection = select([*wanted, *unwanted, "README.md", ".gitattributes"])

    assert selection.model == tuple(sorted(wanted))
    assert selection.left_out == tuple(sorted([*unwanted, ".gitattributes"]))
    assert selection.unsafe_parts == ()


@pytest.mark.parametrize(
    "name",
    ["a.py", "a.bin", "a.pt", "a.pth", "a.ckpt", "a.msgpack", "a.h5", "a.onnx", "a.pkl", "a.npz"],
)
def test_what_can_hold_code_is_never_taken(name: str) -> None:
    assert select([name, f"sub/{name}"]).model == ()


def test_an_excluded_copy_makes_room_for_the_other() -> None:
    listing = ["config.json", "model.safetensors", "model.gguf"]

    assert select(listing).weights == ("model.safetensors",)
    assert select(listing[::2]).weights == ("model.gguf",)


@pytest.mark.parametrize(
    "part",
    ["unet/diffusion_pytorch_model.bin", "2_Dense/pytorch_model.bin"],
)
def test_a_part_with_pickled_weights_only_is_refused(part: str) -> None:
    folder = part.partition("/")[0]
    selection = select(["config.json", "model.safetensors", f"{folder}/config.json", part])

    with pytest.raises(UnusableSource, match="a part of the model would be missing"):
        require_weights("hf://maker/model", selection)


def test_pickled_weights_beside_safetensors_or_a_whole_gguf_are_passed_over() -> None:
    for weights in ("model.safetensors", "model.gguf"):
        selection = select(["config.json", weights, "pytorch_model.bin"])
        require_weights("hf://maker/model", selection)
        assert selection.weights == (weights,)
