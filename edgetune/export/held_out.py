"""What a certificate is made on: held-out rows as tokens, as text, and as prompts that want an answer."""

from collections.abc import Sequence
from dataclasses import dataclass

from edgetune.adapters.attach import AdaptedModel
from edgetune.architecture.generate import Generator
from edgetune.backend.numpy_folds import FoldedWeights
from edgetune.export.certificate import EndCheck, TokenCheck
from edgetune.files import clean
from edgetune.llamacpp.client import LlamaChild
from edgetune.text.dataset import Example

ANSWER_TOKENS = 96
PROMPTS = 8
DIFFERENCES = 5
PLAIN_TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "Hello, world!  Two spaces, a tab\tand a\nnew line\n\n at the end ",
    "I'll we've DON'T it's 3.14 + 1,000,000 = 1000003.14; 2026-11-20T08:30",
    "Ångström, naïve café, Straße, el niño, œuvre, İstanbul, Привет, Γειά σου",
    "日本語のテキスト 한국어 中文 हिन्दी العربية עברית",
    "👩‍💻🚀 é é ﬁ ½ \u200b zero width",
    "def f(x):\n    return {'a': [x ** 2, -1]}  # code",
    "<not a tag> [brackets] {braces} <|not_a_token|> \\n /path/to file_name.txt user@example.org",
)


@dataclass(frozen=True)
class HeldOut:
    """Rows that were not trained on. `texts` pairs a text, control tokens included, with the ids that training gives it."""

    examples: Sequence[Example]
    texts: Sequence[tuple[str, list[int]]]
    plain: Sequence[tuple[str, list[int]]]  # texts of many kinds, in which nothing is a control token
    prompts: Sequence[list[int]]
    end_ids: frozenset[int]
    is_held_out: bool = True
    answer_tokens: int = ANSWER_TOKENS


def check_tokens(child: LlamaChild, held_out: HeldOut) -> TokenCheck:
    """Asks llama.cpp for the ids of every text and compares them one by one with those of the training."""
    differences: list[str] = []
    tokens = 0
    for texts, parse in ((held_out.texts, True), (held_out.plain, False)):
        for text, ids in texts:
            tokens += len(ids)
            if child.tokenize(text, add_special=False, parse_special=parse) != ids:
                differences.append(clean(text)[:120])
    return TokenCheck(texts=len(held_out.texts) + len(held_out.plain), tokens=tokens, differences=differences[:DIFFERENCES])


def check_ends(child: LlamaChild, tuned: AdaptedModel, held_out: HeldOut) -> EndCheck | None:
    """Whether answers that end by themselves before export do so after it. None where there is nothing to ask."""
    if not held_out.prompts:
        return None
    generator = Generator(tuned.model, tuned.parameters, FoldedWeights())
    asked = ended = gguf_ended = 0
    for prompt in held_out.prompts[:PROMPTS]:
        asked += 1
        own = list(generator.stream(prompt, max_tokens=held_out.answer_tokens, end_ids=held_out.end_ids))
        if len(own) == held_out.answer_tokens:
            continue
        ended += 1
        # Greedy answers can part at a near tie and then be longer: twice the room tells "longer" from "never".
        for _ in child.generate(prompt, max_tokens=2 * held_out.answer_tokens, temperature=0, stop_ids=()):
            pass
        gguf_ended += child.generated is not None and child.generated.stopped_by == "end"
    return EndCheck(asked=asked, reference_ended=ended, gguf_ended=gguf_ended)
