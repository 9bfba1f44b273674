"""One side of a conversation: a child that answers, its turns, and the transcript that shows them."""

from dataclasses import dataclass

from textual.timer import Timer

from edgetune.units import count, rate
from tui.child import ChildError
from tui.sources import Source
from tui.talk import Drawing, Talker
from tui.widgets.transcript import Message, Transcript

FRAME = 1 / 15  # seconds between two drawings of an answer that grows: an eye needs no more, and the pieces come faster
WHY = {
    "end": "",
    "length": " · cut: raise the tokens with f2",
    "context": " · the context is full",
    "user": " · stopped",
}


@dataclass(frozen=True)
class Turn:
    """What was asked and answered, and the messages that show it."""

    user: str
    reply: str
    asked: Message
    answered: Message


class Side:
    """Asks a source and shows what it says."""

    def __init__(self, source: Source, transcript: Transcript, who: str):
        self.source, self.transcript, self.who = source, transcript, who
        self.talker = Talker(source.arguments)
        self.turns: list[Turn] = []
        self.is_busy = False
        self.waiting: list[str] = []  # pieces that are not drawn yet

    async def ask(self, text: str, drawing: Drawing, keep: bool = True) -> str:
        """Asks, streams the answer into the transcript, and gives it whole. `keep`: later questions know of this turn.

        Raises:
            ChildError: the source cannot be opened or refuses; the transcript says so, and the turn is forgotten.
        """
        self.is_busy = True
        asked = await self.transcript.add(Message("you", text))
        answered = await self.transcript.add(Message(self.who, answer=True))
        timer = answered.set_interval(FRAME, lambda: self.draw(answered))
        try:
            history = [{"user": turn.user, "reply": turn.reply} for turn in self.turns if keep]
            done = await self.stream(text, drawing, history, timer, answered)
        except ChildError as error:
            answered.end(f"! {error.message}" + (f"\n  {error.hint}" if error.hint else ""), "$error")
            raise
        finally:
            timer.stop()
            self.waiting.clear()
            self.is_busy = False
        if keep:
            self.turns.append(Turn(text, done, asked, answered))
        return done

    async def stream(self, text: str, drawing: Drawing, history: list[dict[str, str]], timer: Timer, answered: Message) -> str:
        """The whole answer, after it was drawn piece by piece."""
        request = {"ask": text, "turns": history, "system": drawing.system, **drawing.request()}
        async for told in self.talker.answer(**request):
            if isinstance(told, str):
                self.waiting.append(told)
                continue
            timer.stop()
            self.draw(answered)
            pace = rate(float(told.get("tokens_per_second", 0)), "tok")
            first = f"{float(told.get('first_seconds', 0)):.2f} s to first"
            figures = f"{count(int(told.get('tokens', 0)))} tokens · {pace} · {first}"
            answered.end(figures + WHY.get(str(told.get("stopped_by")), ""))
            return str(told.get("reply", ""))
        return ""

    def draw(self, answered: Message) -> None:
        """Shows the pieces that have come since the last frame."""
        if self.waiting:
            text = "".join(self.waiting)
            self.waiting.clear()
            answered.push(text)

    def take_back(self) -> Turn | None:
        """Forgets the last turn, and gives it."""
        if not self.turns:
            return None
        turn = self.turns.pop()
        turn.asked.remove()
        turn.answered.remove()
        return turn

    async def stop(self) -> None:
        """Ends the answer that is being given."""
        await self.talker.stop()

    async def close(self) -> None:
        """Ends the child."""
        await self.talker.close()
