"""Models that see or hear: a generated picture, a generated tone, and what they make of them.

Two inputs that differ must lead to different numbers: an eye or an ear whose weights did not arrive
gives the same ones.
"""

from __future__ import annotations

import math
from typing import Any

from pipelines.smoke.loading import Seen, Subject
from pipelines.smoke.result import said_by
from pipelines.smoke.text import decode, finite_problems, row_problems, try_causal

PICTURE_SIDE = 64  # pixels
TONE_HZ = 440
TONE_S = 1.0
SPEECH_TOKENS = 8
_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")


def try_vision_language(subject: Subject) -> Seen:
    """Text alone through the language part, then a picture if its processor runs here."""
    seen = try_causal(subject)
    if not any((subject.weights / name).is_file() for name in _PROCESSOR_FILES):
        seen.observations.append("no picture was tried: no processor came with it")
        return seen
    from transformers import AutoProcessor

    try:
        processor: Any = AutoProcessor.from_pretrained(
            subject.weights, trust_remote_code=False, local_files_only=True
        )
    except (ImportError, OSError, ValueError) as error:  # torchvision, for one, is not installed
        said = said_by(error, subject.weights)
        seen.observations.append(f"no picture was tried: its processor does not load here: {said}")
        return seen
    if not hasattr(processor, "image_processor"):
        seen.observations.append("no picture was tried: its processor takes none")
        return seen
    _look(subject, processor, seen)
    return seen


def try_speech(subject: Subject) -> Seen:
    """A tone and silence through the feature extractor, the encoder and a few decoder steps."""
    import numpy as np
    import torch
    from transformers import AutoFeatureExtractor

    seen = Seen(problems=row_problems(subject) if subject.tokenizer is not None else [])
    extractor: Any = AutoFeatureExtractor.from_pretrained(
        subject.weights, trust_remote_code=False, local_files_only=True
    )
    rate = int(extractor.sampling_rate)
    times = np.arange(int(TONE_S * rate), dtype=np.float32) / rate
    tone = np.sin(2 * math.pi * TONE_HZ * times).astype(np.float32)
    states = []
    for what, wave in ((f"a tone of {TONE_HZ} Hz", tone), ("silence", np.zeros_like(tone))):
        features = extractor(wave, sampling_rate=rate, return_tensors="pt")
        name = extractor.model_input_names[0]
        inputs = {name: features[name].to(subject.model.dtype)}
        answer, first = decode(subject, what, inputs, SPEECH_TOKENS)
        seen.answers.append(answer)
        states.append(first)
    seen.problems += finite_problems(seen.answers)
    if torch.equal(states[0], states[1]):
        seen.problems.append("a tone and silence give the same first logits")
    return seen


def _look(subject: Subject, processor: Any, seen: Seen) -> None:
    import numpy as np
    import torch

    side = np.linspace(0, 255, PICTURE_SIDE, dtype=np.uint8)
    picture = np.stack([np.tile(side, (PICTURE_SIDE, 1))] * 3, axis=-1)
    token = getattr(processor, "boi_token", None) or getattr(processor, "image_token", "<image>")
    logits = []
    for shown in (picture, 255 - picture):
        try:
            inputs = processor(images=[shown], text=[f"{token} A picture of"], return_tensors="pt")
            with torch.inference_mode():
                output: Any = subject.model(**inputs.to(subject.model.dtype))
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            # Processors differ in what they ask for; what was not tried is said, not guessed.
            said = said_by(error, subject.weights)
            seen.observations.append(f"no picture was tried: {said}")
            return
        logits.append(output.logits[0, -1].float())
    if not all(bool(torch.isfinite(row).all()) for row in logits):
        seen.problems.append("logits are not finite after a picture")
    elif torch.equal(logits[0], logits[1]):
        seen.problems.append("two different pictures give the same logits")
    else:
        seen.observations.append("two generated pictures give finite and different logits")
