"""The one module that imports llama_cpp, whose type hints are not what it takes. Runs in the child process only."""

from typing import Any

import llama_cpp
import llama_cpp.llama_cpp

lib: Any = llama_cpp.llama_cpp
"""llama.cpp's C functions. Unlike the library's `Llama` class they neither detokenise the whole answer for every token,
nor reserve context x vocab floats for a score, nor crash on a bad adapter."""
VERSION: str = llama_cpp.__version__
