"""The demo: the whole job on the starter model, which learns the support desk of an invented product.

Its test rows ask for what the training rows taught in words that these do not use; the base cannot know any of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgetune.adapters.attach import AdaptedModel, open_adapted
from edgetune.config import DataConfig
from edgetune.errors import ModelError
from edgetune.evaluation.score import evaluate
from edgetune.evaluation.tasks import Answered, exact
from edgetune.events import Event, RunFinished
from edgetune.export.pipeline import ExportResult, export
from edgetune.files import discard
from edgetune.hardware import worker_count
from edgetune.hub.catalog import starter
from edgetune.llamacpp.client import LlamaChild
from edgetune.text.chat_template import ChatTemplate, load_template
from edgetune.text.dataset import load_examples
from edgetune.text.tokenizer import load_tokenizer
from edgetune.training import session
from edgetune.training.session import Prepared
from edgetune.workspace.demo_config import demo_config
from edgetune.workspace.outcomes import answered, questions_of, source_of
from edgetune.workspace.planning import Planned, plan_run

OnEvent = Callable[[Event], None]
KINDS = ("F16", "Q8_0", "Q4_K_M")
CHATS = "Q8_0"  # the file that the conversation is held with
ANSWER_TOKENS = 64


@dataclass(frozen=True)
class Score:
    """How the model does on the test rows: nats per trained token, the share of exact answers, and the answers."""

    loss: float
    accuracy: float
    answers: Sequence[Answered]


@dataclass(frozen=True)
class Turn:
    """One question and its answer through llama.cpp."""

    question: str
    reply: str


class Demo:
    """The steps of the demo, in their order; `folder` takes the run and the files.

    Raises:
        ModelError: the starter model is not there.
    """

    def __init__(self, folder: Path, on_event: OnEvent):
        self.folder, self.on_event = folder, on_event
        self.model = starter()
        self.rows = self.model / "demo"
        if not (self.model / "model.safetensors").exists():
            raise ModelError("has no weights", file=self.model, hint="this installation is incomplete: install it again")
        for old in (folder / "run", folder / "exports"):
            if old.exists():
                discard(old, "demo")
        self.tokenizer = load_tokenizer(self.model)
        self.template: ChatTemplate | None = load_template(self.model, self.tokenizer)
        self.test = [self.rows / "test.jsonl"]

    def plan(self) -> tuple[Prepared, Planned]:
        """The rows, read, and what training on them will take."""
        prepared = session.prepare(demo_config(self.model, self.rows), self.model)
        return prepared, plan_run(prepared, self.folder, self.on_event)

    def score(self, adapter: Path | None = None) -> Score:
        """The test rows, with or without the adapter."""
        opened: AdaptedModel = open_adapted(self.model, adapter)
        data = DataConfig(train=[], max_tokens=256)
        examples = load_examples(self.test, self.tokenizer, self.template, data, opened.spec.vocab).examples
        answers = answered(opened, self.tokenizer, self.template, questions_of(self.test), self.on_event)
        accuracy = exact([each.reply for each in answers], [each.reference for each in answers])["accuracy"]
        return Score(evaluate(opened, examples, worker_count()).loss, accuracy, answers)

    def train(self, prepared: Prepared, plan: Planned, should_stop: Callable[[], bool]) -> RunFinished:
        """The run."""
        return session.train(prepared, self.folder / "run", plan.resources, self.on_event, should_stop)

    def export(self) -> ExportResult:
        """Merged, converted, quantised, proved on the test rows."""
        source = source_of(str(self.folder / "run"), None, self.test, self.on_event)
        return export(source, KINDS, self.folder / "exports", worker_count(), self.on_event)

    def converse(self, gguf: Path) -> list[Turn]:
        """Some test questions, asked through llama.cpp."""
        assert self.template is not None
        questions = questions_of(self.test)
        turns: list[Turn] = []
        with LlamaChild(gguf, context=512) as child:
            for question in questions[:: max(1, len(questions) // 3)][:3]:
                messages = list(question.messages) if not isinstance(question.messages, str) else []
                reply = "".join(
                    token.text
                    for token in child.generate(self.template.prompt(messages), max_tokens=ANSWER_TOKENS, temperature=0)
                )
                turns.append(Turn(str(messages[-1]["content"]), reply.strip()))
        return turns
