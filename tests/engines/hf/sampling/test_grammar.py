"""Grammars with the samplers on transformers: llguidance allows the texts that a GBNF grammar describes."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from typing import TYPE_CHECKING, Any

import pytest

from modules.core.errors import OptionError, Unsupported
from modules.engines.grammars import PACKAGE, GrammarRequest
from modules.loaders import generation_settings
from tests.support.hf_vocabularies import small_tokenizer

# Tests import modules that import torch themselves, so that collecting the tests stays fast.
if TYPE_CHECKING:
    from modules.engines.hf.sampling.vocabulary import TokenizerVocabulary

needs_llguidance = pytest.mark.skipif(
    importlib.util.find_spec("llguidance") is None, reason="llguidance is not installed"
)

JSON = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""
LIST = 'root ::= item+\n# a comment\nitem ::= "- " [^\\r\\n\\x0b]+ "\\n"\n'
ARITHMETIC = (
    'root  ::= (expr "=" ws term "\\n")+\nexpr ::= term ([-+*/] term)*\nterm ::= ident | num | "(" ws expr ")" ws\n'
    + ("ident ::= [a-z] [a-z0-9_]* ws\nnum ::= [0-9]+ ws\nws ::= [ \\t\\n]*\n")
)
CHINESE = 'root ::= ("你好" | "世界") "，" [一-龥]{2,4} "。"'
YES_NO = 'root ::= "yes" | "no"'
CHESS = 'root ::= "1. " move " " move "\\n" ([1-9] [0-9]? ". " move " " move "\\n")+\n' + (
    'move ::= (pawn | nonpawn | castle) [+#]?\nnonpawn ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]\n'
    'pawn ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBKQR])?\ncastle ::= "O-O" "-O"?\n'
)


@pytest.fixture(scope="module")
def vocabulary(backend: None) -> TokenizerVocabulary:
    from modules.engines.hf.sampling.vocabulary import TokenizerVocabulary

    tokenizer = small_tokenizer()
    return TokenizerVocabulary(tokenizer, len(tokenizer) + 3, [tokenizer.eos_token_id])


def sample_text(
    vocabulary: TokenizerVocabulary, grammar: str, seed: int, max_tokens: int = 60, **params: Any
) -> tuple[str, bool]:
    """Sample a text that follows `grammar` from random logits. Return it and whether it is complete."""
    import torch

    from modules.engines.hf.sampling.pipeline import build_processors, new_generator, sample_token

    torch.manual_seed(seed)
    end = vocabulary.tokenizer.eos_token_id
    settings = generation_settings.resolve(
        {"grammar_string": grammar, "seed": seed, "min_p": 0.0, "temperature": 1.0} | params
    )
    arguments: dict[str, Any] = {"vocabulary": vocabulary, "eos": [end], "device": torch.device("cpu")}
    chain = build_processors(settings, prompt_tokens=[5, 6], **arguments)
    rng = new_generator(settings, torch.device("cpu"))
    text = torch.tensor([[5, 6]])
    for _ in range(max_tokens):
        token = sample_token(chain(text, torch.randn(1, vocabulary.size) * 2), settings, rng)
        if int(token) == end:
            return vocabulary.tokenizer.decode(text[0, 2:]), True
        text = torch.cat([text, token[:, None]], dim=1)
    return vocabulary.tokenizer.decode(text[0, 2:]), False


SHAPES = {
    "yes or no": (YES_NO, r"yes|no"),
    "list": (LIST, r"(- [^\r\n\x0b]+\n)+"),
    "chinese": (CHINESE, r"(你好|世界)，[一-龥]{2,4}。"),
    "arithmetic": (ARITHMETIC, r"[-+*/=()a-z0-9_ \t\n]+"),
    "chess": (CHESS, r"1\. [NBKQRa-h1-8xO=+# -]+\n([1-9][0-9]?\. [NBKQRa-h1-8xO=+# -]+\n)+"),
}


@needs_llguidance
@pytest.mark.parametrize("name", SHAPES)
def test_sampled_text_follows_the_grammar(vocabulary: TokenizerVocabulary, name: str) -> None:
    grammar, shape = SHAPES[name]
    complete = 0
    for seed in range(12):
        text, is_complete = sample_text(vocabulary, grammar, seed)
        complete += is_complete
        if is_complete:
            assert re.fullmatch(shape, text), text
    assert complete or name in ("arithmetic", "chess")


@needs_llguidance
def test_the_vocabulary_is_read_before_the_first_grammar_needs_it(
    vocabulary: TokenizerVocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocabulary.prepare_grammars()
    monkeypatch.setattr(vocabulary, "tokenizer", None)
    assert vocabulary.grammar(GrammarRequest(YES_NO))().allowed().any()


@needs_llguidance
def test_completed_json_is_valid_json(vocabulary: TokenizerVocabulary) -> None:
    samples = [sample_text(vocabulary, JSON, seed, 80) for seed in range(60)]
    texts = [text for text, is_complete in samples if is_complete]
    assert len(texts) > 10
    assert all(isinstance(json.loads(text), dict) for text in texts)


@needs_llguidance
def test_truncation_chooses_among_the_tokens_the_grammar_allows(vocabulary: TokenizerVocabulary) -> None:
    for params in ({"top_k": 1}, {"temperature": 0.0}, {"top_p": 0.1}, {"xtc_probability": 1.0}, {"mirostat_mode": 2}):
        assert sample_text(vocabulary, YES_NO, 4, **params)[0] in ("yes", "no")


@needs_llguidance
def test_banning_the_eos_token_leaves_no_token_at_the_end_of_a_grammar(vocabulary: TokenizerVocabulary) -> None:
    from modules.engines.hf.sampling.pipeline import NoTokenLeft

    with pytest.raises(NoTokenLeft):
        sample_text(vocabulary, YES_NO, 1, ban_eos_token=True)


@needs_llguidance
def test_a_text_that_is_complete_ends_below_the_minimum_length(vocabulary: TokenizerVocabulary) -> None:
    text, is_complete = sample_text(vocabulary, YES_NO, 1, min_length=20)
    assert text in ("yes", "no") and is_complete


@needs_llguidance
@pytest.mark.parametrize("text", ["root ::= (", "nonsense", 'other ::= "a"', "root ::= missing", 'root ::= "a'])
def test_an_invalid_grammar_is_refused_by_the_name_of_the_option(vocabulary: TokenizerVocabulary, text: str) -> None:
    with pytest.raises(OptionError) as error:
        vocabulary.grammar(GrammarRequest(text))
    assert error.value.option == "grammar_string"


@needs_llguidance
def test_rows_follow_the_grammar_independently_and_an_ended_row_is_unconstrained(
    vocabulary: TokenizerVocabulary,
) -> None:
    import torch

    from modules.engines.hf.sampling.grammar import Grammar

    end = vocabulary.tokenizer.eos_token_id
    (yes,), n = vocabulary.encode("yes")[:1] or [0], vocabulary.encode("n")[0]
    grammar = Grammar(vocabulary.grammar(GrammarRequest(YES_NO)), 1)
    first = grammar(torch.tensor([[1], [1]]), torch.zeros(2, vocabulary.size))
    assert torch.equal(first[0], first[1])
    second = grammar(torch.tensor([[1, yes], [1, n]]), torch.zeros(2, vocabulary.size))
    assert not torch.equal(second[0], second[1])
    no = vocabulary.encode("no")
    padded = torch.tensor([[1, *no, end, end, end]])
    assert (
        Grammar(vocabulary.grammar(GrammarRequest(YES_NO)), 1)(padded, torch.zeros(1, vocabulary.size)).isfinite().all()
    )


@needs_llguidance
def test_the_grammar_state_follows_a_shorter_text_after_rejected_tokens(vocabulary: TokenizerVocabulary) -> None:
    import torch

    from modules.engines.hf.sampling.grammar import Grammar

    grammar, zeros = Grammar(vocabulary.grammar(GrammarRequest(LIST)), 1), torch.zeros(1, vocabulary.size)
    start = vocabulary.encode("- ")
    before = grammar(torch.tensor([[1, *start]]), zeros)
    grammar(torch.tensor([[1, *start, *vocabulary.encode("abc\n")]]), zeros)
    assert torch.equal(grammar(torch.tensor([[1, *start]]), zeros), before)


def test_without_the_package_the_error_says_what_to_install(
    vocabulary: TokenizerVocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modules.engines.hf.sampling.vocabulary import TokenizerVocabulary

    monkeypatch.setitem(sys.modules, "llguidance", None)
    without_cache = TokenizerVocabulary(vocabulary.tokenizer, vocabulary.size, [0])
    with pytest.raises(Unsupported) as error:
        without_cache.grammar(GrammarRequest(YES_NO))
    assert PACKAGE in error.value.say("en")
    assert PACKAGE in error.value.say("zh")
