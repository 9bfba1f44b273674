"""The loop that answers requests with llama.cpp. Runs in the child process only."""

import os
import sys
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

import msgspec

from edgetune.errors import ChildFailed, DiskFull, EdgeTuneError
from edgetune.llamacpp import protocol
from edgetune.llamacpp.context import Context
from edgetune.llamacpp.log import Log
from edgetune.llamacpp.model import Model
from edgetune.llamacpp.protocol import AnyRequest, Failed, Loaded, Reply
from edgetune.llamacpp.quantizer import quantize

BEAT_SECONDS = 2.0
PROGRESS_STEP = 0.01


class Service:
    """Carries out one request after the other."""

    def __init__(self, replies: int):
        self.replies, self.lock = replies, threading.Lock()
        self.requests = SimpleQueue[AnyRequest | Failed]()
        self.stop, self.busy = threading.Event(), threading.Event()
        self.log = Log()
        self.model: Model | None = None
        self.context: Context | None = None

    def send(self, reply: Reply) -> None:
        """Writes one line; the heartbeat writes from its own thread."""
        line = memoryview(protocol.to_line(reply))
        with self.lock:
            try:
                while line:
                    line = line[os.write(self.replies, line) :]
            except BrokenPipeError:
                os._exit(0)

    def read(self) -> None:
        """Takes requests in; `Stop` works at once, while another one is carried out."""
        for line in sys.stdin.buffer:
            try:
                request = protocol.REQUESTS.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                self.requests.put(Failed(message=f"not a request: {error}"))
                continue
            if isinstance(request, protocol.Stop):
                self.stop.set()
            else:
                self.stop.clear()
                self.requests.put(request)
        os._exit(0)  # the parent is gone: nothing that is being computed has a reader any more

    def beat(self) -> None:
        """Tells the parent, while a request is carried out, that this process is alive."""
        while True:
            self.busy.wait()
            time.sleep(BEAT_SECONDS)
            if self.busy.is_set():
                self.send(protocol.Alive())

    def run(self) -> None:
        """Answers requests until standard input ends."""
        threading.Thread(target=self.read, daemon=True).start()
        threading.Thread(target=self.beat, daemon=True).start()
        while True:
            request = self.requests.get()
            self.busy.set()
            reply = request if isinstance(request, Failed) else self.answer(request)
            self.busy.clear()
            self.send(reply)

    def answer(self, request: AnyRequest) -> Reply:
        """The last reply to a request; every error of ours becomes a `Failed`."""
        self.log.clear()
        try:
            return self.carry_out(request)
        except MemoryError:
            return Failed(message="there is not enough memory", hint="use a smaller context or a smaller quantisation")
        except EdgeTuneError as error:
            return Failed(message=error.message, hint=error.hint, disk=isinstance(error, DiskFull), log=self.log.tail())

    def carry_out(self, request: AnyRequest) -> Reply:
        """What each request does."""
        match request:
            case protocol.Load():
                return self.load(request)
            case protocol.Quantize():
                quantize(request, self.log, self.send)
                return protocol.Done()
            case protocol.Vocabulary():
                return self.opened().words()
            case protocol.Tokenize(text=text, add_special=add_special, parse_special=parse_special):
                return protocol.Ids(ids=self.opened().tokenize(text, add_special, parse_special))
            case protocol.Detokenize(ids=ids, special=special):
                return protocol.Text(text=self.opened().detokenize(ids, special))
            case protocol.Generate():
                return self.ready().generate(request, self.stop, self.send)
            case protocol.Score():
                self.ready().score(request, self.send)
                return protocol.Done()
            case protocol.Adapt(adapters=adapters):
                self.ready().adapt(adapters)
                return protocol.Done()
            case protocol.Stop():
                return protocol.Done()

    def load(self, request: protocol.Load) -> Loaded:
        """Opens the model, and a context unless only its vocabulary is asked for."""
        self.model = Model(request, self.log, self.progress())
        if not request.vocab_only:
            self.context = Context(self.model, request, self.log)
        return self.model.info(self.context.size if self.context else 0)

    def opened(self) -> Model:
        """The open model."""
        if self.model is None:
            raise ChildFailed("no model is open")
        return self.model

    def ready(self) -> Context:
        """The open model's context."""
        if self.context is None:
            raise ChildFailed("no model is open, or only its vocabulary")
        return self.context

    def progress(self) -> Callable[[float], None]:
        """Passes on how much of a file is loaded, in steps of one percent."""
        last = 0.0

        def tell(share: float) -> None:
            nonlocal last
            if share >= last + PROGRESS_STEP:
                last = share
                self.send(protocol.Progress(done=share, total=1.0))

        return tell
