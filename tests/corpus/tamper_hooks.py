"""Configuration that makes a loader fetch, import or run something."""

# One line a tampering.
# ruff: noqa: E501
from __future__ import annotations

from typing import Any

from tests.corpus.tampering import Apply, Tampering, add, write

_MAP = {"AutoConfig": "configuration.Evil", "AutoModelForCausalLM": "modeling.Evil"}
_DEEP: dict[str, Any] = {"auto_map": _MAP}
for _ in range(12):
    _DEEP = {"part": [_DEEP]}

_MEMBERS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "config.json": [
        ("auto-map", {"auto_map": _MAP}),
        ("auto-map-cross", {"auto_map": {"AutoModel": "org/repo--modeling.Evil"}}),
        ("auto-map-nested", {"text_config": {"model_type": "llama", "auto_map": _MAP}}),
        ("auto-map-deep", {"extra": _DEEP}),
        ("trust", {"trust_remote_code": True}), ("trust-text", {"trust_remote_code": "True"}),
        ("trust-number", {"trust_remote_code": 1}),
        ("trust-nested", {"vision_config": {"trust_remote_code": True}}),
        ("attention", {"attn_implementation": "kernels-community/flash-attn"}),
        ("attention-private", {"_attn_implementation": "org/repo"}),
        ("attention-internal", {"_attn_implementation_internal": "org/repo@main:f"}),
        ("attention-map", {"attn_implementation": {"text_config": "org/repo"}}),
        ("attention-paged", {"_attn_implementation": "paged|org/repo"}),
        ("experts", {"experts_implementation": "org/experts"}),
        ("kernel-config", {"kernel_config": {"RMSNorm": "org/repo:Norm"}}),
        ("kernel-mapping", {"kernel_mapping": {"MLP": {"cuda": {"repo_id": "org/repo"}}}}),
        ("use-kernels", {"use_kernels": True}), ("use-kernel", {"use_kernel": True}),
        ("hub-kernel", {"hub_kernels": ["org/kernel"]}),
        ("custom-pipelines", {"custom_pipelines": {"x": {"impl": "pipe.X", "pt": ["AutoModel"]}}}),
        ("custom-generate", {"custom_generate": "org/repo"}),
        ("target", {"_target_": "os.system"}), ("class-path", {"class_path": "os.system"}),
        ("module-path", {"module_path": "evil.module"}), ("import-path", {"import_path": "evil:run"}),
        ("entry-point", {"entry_point": "evil.module:run"}), ("plugins", {"plugins": ["evil"]}),
        ("requirements", {"requirements": ["evil-package"]}),
        ("pip", {"pip_requirements": ["evil"]}), ("install", {"install_requires": ["evil"]}),
        ("dotted-function", {"activation_factory": "os:system"}),
        ("dotted-loader", {"loss_function": "evil.module:loss"}),
        ("vision-tower", {"mm_vision_tower": "org/tower"}), ("tower-nested", {"a": {"vision_tower": "org/t"}}),
        ("speculative", {"speculative_model": "org/draft"}), ("draft", {"draft_model": "org/draft"}),
        ("speculative-config", {"speculative_config": {"model": "org/draft"}}),
        ("assistant", {"assistant_model": "org/draft"}),
        ("remote-adapter", {"remote_adapter": "org/lora"}), ("lora", {"lora_path": "https://x.org/l"}),
        ("url-weights", {"weights_url": "https://example.org/w.bin"}),
        ("url-file", {"checkpoint": "file:///etc/passwd"}), ("url-s3", {"weights": "s3://bucket/w"}),
        ("url-anywhere", {"decoder_settings": "https://example.org/settings.json"}),
        ("url-in-name", {"_name_or_path": "https://example.org/model"}),
        ("path-out", {"tokenizer_file": "../../../etc/passwd"}),
        ("path-absolute-code", {"module_file": "/tmp/evil.py"}),
        ("path-code", {"extra_file": "evil.py"}), ("path-library", {"ops": "libevil.so"}),
        ("cross", {"anything": "org/repo--modeling.Evil"}),
        ("code-text", {"hook": "__import__('os').system('true')"}),
        ("code-lambda", {"scale": "lambda x: x"}), ("code-exec", {"init": "exec(open('x').read())"}),
        ("quantisation-custom", {"quantization_config": {"quant_method": "evil", "modules": "org/x"}}),
        ("quantisation-kernel", {"quantization_config": {"quant_method": "gptq", "bits": 4, "backend": "org/kernel"}}),
        ("quantisation-import", {"quantization_config": {"quant_method": "quark", "custom_module": "evil.q"}}),
        ("quantisation-auto-map", {"quantization_config": {"auto_map": {"q": "x.Y"}}}),
        ("template-inside", {"chat_template": "{{ cycler.__init__.__globals__ }}"}),
        ("pickle-inside", {"state": "gASVIQAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOUjAR0cnVllIWUUpQu"}),
    ],
    "tokenizer_config.json": [
        ("auto-map", {"auto_map": {"AutoTokenizer": ["tokenization.Evil", None]}}),
        ("auto-map-cross", {"auto_map": {"AutoTokenizer": "org/repo--tok.Evil"}}),
        ("trust", {"trust_remote_code": True}),
        ("class-dotted", {"tokenizer_class": "evil.module.Tokenizer"}),
        ("class-cross", {"tokenizer_class": "org/repo--tok.Evil"}),
        ("class-path", {"tokenizer_class": "/tmp/x.py"}),
        ("file-out", {"vocab_file": "../../etc/passwd"}), ("file-url", {"vocab_file": "https://x.org/v"}),
        ("file-absolute", {"tokenizer_file": "/etc/passwd"}),
        ("sp-kwargs", {"sp_model_kwargs": {"model_file": "/etc/passwd"}}),
        ("processor", {"processor_class": "org/repo--p.Evil"}),
        ("custom", {"custom_code": "import os"}),
    ],
    "generation_config.json": [
        ("auto-map", {"auto_map": _MAP}), ("custom-generate", {"custom_generate": "org/repo"}),
        ("trust", {"trust_remote_code": True}), ("assistant", {"assistant_model": "org/draft"}),
        ("cache", {"cache_implementation": "org/cache"}),
        ("compile", {"compile_config": {"backend": "evil.module:compile"}}),
    ],
    "preprocessor_config.json": [
        ("auto-map", {"auto_map": {"AutoImageProcessor": "p.Evil"}}),
        ("auto-map-processor", {"auto_map": {"AutoProcessor": "p.Evil"}}),
        ("class-dotted", {"image_processor_type": "evil.module.Processor"}),
        ("url", {"image_url": "https://example.org/i"}),
    ],
    "processor_config.json": [
        ("auto-map", {"auto_map": {"AutoProcessor": "p.Evil"}}), ("class", {"processor_class": "os.system"}),
        ("video", {"auto_map": {"AutoVideoProcessor": "p.Evil"}}),
    ],
    "video_preprocessor_config.json": [("auto-map", {"auto_map": {"AutoVideoProcessor": "p.Evil"}})],
    "feature_extractor_config.json": [("auto-map", {"auto_map": {"AutoFeatureExtractor": "p.Evil"}})],
    "model_index.json": [
        ("class", {"_class_name": ["pipeline", "EvilPipeline"]}),
        ("cross", {"_class_name": "org/repo--pipe.Evil"}),
        ("module", {"_class_name": "StableDiffusionPipeline", "unet": ["evil_module", "UNet"]}),
        ("module-dotted", {"_class_name": "StableDiffusionPipeline", "vae": ["os.path", "join"]}),
        ("module-file", {"_class_name": "StableDiffusionPipeline", "vae": ["./evil.py", "X"]}),
        ("custom", {"_class_name": "StableDiffusionPipeline", "custom_pipeline": "org/pipe"}),
    ],
    "config_sentence_transformers.json": [
        ("module", {"model_type": "evil.module.Model"}), ("trust", {"trust_remote_code": True}),
        ("similarity", {"similarity_fn_name": "os.system"}),
    ],
    "sentence_bert_config.json": [
        ("trust", {"model_args": {"trust_remote_code": True}}),
        ("config-args", {"config_args": {"trust_remote_code": True}}),
        ("code", {"tokenizer_args": {"auto_map": {"x": "y.Z"}}}),
    ],
    "config/deep/settings.json": [("auto-map", {"auto_map": _MAP}), ("trust", {"a": {"trust_remote_code": True}})],
}  # fmt: skip


def _modules(kind: str) -> Apply:
    return write("modules.json", f'[{{"idx": 0, "name": "0", "path": "", "type": "{kind}"}}]')


_TYPES = ("subprocess.Popen", "custom_st.Transformer", "os.system", "evil.sentence_transformers.models.X",
          "sentence_transformers.models.Transformer;x", "org/repo--m.X", "builtins.eval",
          "sentence_transformers_evil.X")  # fmt: skip
TAMPERINGS = [
    *(
        Tampering("hooks", f"{file}-{name}", file, add(file, **members))
        for file, many in _MEMBERS.items()
        for name, members in many
    ),
    *(Tampering("hooks", f"modules-{kind}", "modules.json", _modules(kind)) for kind in _TYPES),
    Tampering("hooks", "modules-path", "modules.json", write(
        "modules.json", '[{"type": "sentence_transformers.models.Transformer", "path": "../x"}]')),
    Tampering("hooks", "modules-extra-key", "modules.json", write(
        "modules.json", '[{"type": "sentence_transformers.models.Transformer", "kwargs": ["trust_remote_code"], "module": "evil.x"}]')),
]  # fmt: skip
