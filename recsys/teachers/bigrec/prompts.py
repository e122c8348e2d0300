"""What the language model reads and writes: Alpaca-style prompts over item names, as tokens.

Every piece (instruction, quotation mark, title) is turned into tokens by itself, so that a title is the same tokens
wherever it stands; that is what lets the instruction be computed once and the catalogue be a tree of tokens.

An item's *name* is its title with double quotation marks made single and white space made one space, cut to
`title_tokens`. An item without a title is named by noun and id ("movie 1682"). Items may share a name: the language
model cannot tell them apart, they have one vector, and rank beside each other.
"""

import itertools
from collections.abc import Sequence
from typing import Any

from recsys.data.prepared import Catalogue
from recsys.errors import UserError
from recsys.histories import UNKNOWN_TIME
from recsys.teachers.bigrec.config import BIGRecConfig

QUOTE = '"'
_INSTRUCTION = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n"
    "Given a list of {plural} the user has {verb} before, please recommend a new {noun} that the user likes to the "
    "user.\n\n"
    "### Input:\n"
    "The user has {verb} the following {plural} before:"
)
_SEPARATOR = ", "
_LATER = ", {gap} later "
_GAPS = (  # from how many seconds on
    (0, "moments"), (60, "minutes"), (3600, "hours"), (86400, "a day"), (2 * 86400, "days"), (7 * 86400, "a week"),
    (14 * 86400, "weeks"), (30 * 86400, "a month"), (60 * 86400, "months"), (365 * 86400, "a year"),
    (730 * 86400, "years"),
)  # fmt: skip
_BLOCK = 4096  # titles
_RESPONSE = "\n\n### Response:\n"
_ONE_WORD = 'This sentence : "{text}" means in one word:"'


def instruction(config: BIGRecConfig) -> str:
    """What all prompts begin with."""
    return _INSTRUCTION.format(noun=config.noun, plural=config.plural, verb=config.verb)


def texts_of(catalogue: Catalogue, config: BIGRecConfig) -> list[str]:
    """Everything a tokenizer of the catalogue's own must be good at."""
    separators = [_SEPARATOR, *(_LATER.format(gap=gap) for _, gap in _GAPS if config.time_gaps)]
    return [instruction(config), *separators, _RESPONSE, _ONE_WORD, *names(catalogue, config)]


def names(catalogue: Catalogue, config: BIGRecConfig) -> list[str]:
    """N+1 names before the cut, "" at 0."""
    return [
        (" ".join(title.replace(QUOTE, "'").split()) or f"{config.noun} {item_id}") if item else ""
        for item, (title, item_id) in enumerate(zip(catalogue.titles, catalogue.item_ids, strict=True))
    ]


class Prompts:
    """Prompts and responses of one catalogue in the tokens of one language model.

    Attributes:
        names: N+1 strings, what items are called; "" at 0.
        titles: N+1 lists of tokens, those of the names.
        prefix: tokens that all prompts begin with.
        closing: tokens with a quotation mark in them: they end a title.
        end: the token that ends a text.
    """

    def __init__(self, tokenizer: Any, catalogue: Catalogue, config: BIGRecConfig) -> None:
        if tokenizer.eos_token_id is None:
            raise UserError(f"the tokenizer of {config.base!r} has no end-of-text token; choose another model")
        self.tokenizer = tokenizer
        self._config = config
        self.end: int = tokenizer.eos_token_id
        self.pad: int = self.end if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        begin = tokenizer("a")["input_ids"][:1]
        self._begin = begin if tokenizer.bos_token_id is not None and begin == [tokenizer.bos_token_id] else []
        self.prefix = self._begin + self._tokens(instruction(config))
        self._quote, self._separator = self._tokens(QUOTE), self._tokens(_SEPARATOR)
        self._later = [(seconds, self._tokens(_LATER.format(gap=gap))) for seconds, gap in reversed(_GAPS)]
        self._response = self._tokens(_RESPONSE) + self._quote
        vocabulary = tokenizer.get_vocab()
        self.closing = sorted(token for text, token in vocabulary.items() if QUOTE in text or text == "<0x22>")
        whole = names(catalogue, config)
        self.titles: list[list[int]] = []
        for begin in range(0, len(whole), _BLOCK):
            tokens = tokenizer(whole[begin : begin + _BLOCK], add_special_tokens=False)["input_ids"]
            self.titles += map(self._cut, tokens)
        self.names = [self._decode(tokens).strip() for tokens in self.titles]
        self.index = {name: item for item, name in reversed(list(enumerate(self.names))) if item}
        fixed = len(self.prefix) + len(self._response) + config.title_tokens + len(self._quote) + 1
        self._room = config.max_tokens - fixed
        separators = [self._separator, *(tokens for _, tokens in self._later if config.time_gaps)]
        longest = max(map(len, self.titles)) + 2 * len(self._quote) + max(map(len, separators))
        if self._room < longest:
            raise UserError(
                f"teacher.model.max_tokens is {config.max_tokens}, but the prompt without its history takes {fixed} "
                f"tokens and a title {longest}; raise it"
            )

    def history(self, items: Sequence[int], times: Sequence[int] | None = None) -> list[int]:
        """What follows the prefix: the latest items that fit, oldest first, up to the response's opening quote.

        times: of the items, in seconds; where one is not known, nothing is said of it.
        """
        room, chosen = self._room, list[tuple[int, list[int]]]()
        gaps = self._gaps(times, len(items))
        for item, separator in zip(reversed(items[-self._config.history :]), reversed(gaps), strict=False):
            room -= len(self.titles[item]) + 2 * len(self._quote) + len(separator)
            if room < 0:
                break
            chosen.append((item, separator))
        tokens: list[int] = []
        for item, separator in reversed(chosen):
            tokens += (separator if tokens else []) + self._quote + self.titles[item] + self._quote
        return tokens + self._response

    def _gaps(self, times: Sequence[int] | None, count: int) -> list[list[int]]:
        """What stands before each item, in tokens."""
        if times is None or not self._config.time_gaps:
            return [self._separator] * count
        known = [UNKNOWN_TIME not in pair for pair in itertools.pairwise(times)]
        seconds = [max(0, after - before) for before, after in itertools.pairwise(times)]
        later = [
            next(tokens for least, tokens in self._later if gap >= least) if sure else self._separator
            for gap, sure in zip(seconds, known, strict=True)
        ]
        return [self._separator, *later]

    def response(self, item: int) -> list[int]:
        """What is to be written after the opening quote: title, closing quote, end of text."""
        return [*self.title(item), self.end]

    def title(self, item: int) -> list[int]:
        """Title and closing quote."""
        return self.titles[item] + self._quote

    def text(self, tokens: Sequence[int]) -> str:
        """What was written, up to the first quotation mark."""
        return self._decode(tokens).partition(QUOTE)[0].strip()

    def for_embedding(self, text: str) -> list[int]:
        """The tokens whose vectors stand for a text."""
        tokens = self._tokens(_ONE_WORD.format(text=text) if self._config.pooling == "prompt_eol" else text)
        return (self._begin + tokens) or [self.end]

    def _cut(self, tokens: list[int]) -> list[int]:
        """Not more tokens than a title may have, cut between characters."""
        if len(tokens) > self._config.title_tokens:
            tokens = tokens[: self._config.title_tokens]
            while self._decode(tokens).endswith("\ufffd"):
                tokens = tokens[:-1]
        return tokens

    def _tokens(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _decode(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
