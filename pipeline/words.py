"""What captions are made with: the grammar, the prompts and what tells minors, read and checked
before a graph is made."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass

from facecap.pipeline.errors import UsageError
from facecap.schemas.attributes import ATTRIBUTES
from facecap.transforms.caption_columns import Asked, CaptionConfig
from facecap.transforms.classify_attributes import AttributesOptions
from facecap.transforms.compose_caption import CaptionOptions, Composer
from facecap.transforms.grammar import GrammarError, load_grammar
from facecap.transforms.minors import MINORS_FILE, minors_rule
from facecap.transforms.rewrite.chat_errors import ServerRefuses, ServerUnreachable
from facecap.transforms.rewrite.chat_server import check
from facecap.transforms.rewrite.engine import RewriteConfig
from facecap.transforms.rewrite.lexicon import DEFAULT_VOCABULARY
from facecap.transforms.rewrite.local_model import LocalModelError, require_packages
from facecap.transforms.rewrite.options import RewriteOptions
from facecap.transforms.rewrite.prompts import PromptError, load_prompts


@dataclass(frozen=True)
class Words:
    """What captions are made with. `rewrite` is None where no LLM is asked; `hashes` are the sha256
    of every file that decides words, by setting."""

    composer: Composer
    rewrite: RewriteConfig | None
    stored: CaptionConfig
    hashes: dict[str, str]


def load_words(
    attributes: AttributesOptions, caption: CaptionOptions, rewrite: RewriteOptions, classifier: str
) -> Words:
    """Reads the files that the settings name; `classifier` is the sha256 of the attribute
    classifier. Asks no server.

    Raises UsageError on a file that cannot be used, and on labels that no rewrite could be checked
    for.
    """
    try:
        grammar = load_grammar(caption.grammar)
        prompts = None if rewrite.backend == "none" else load_prompts(rewrite.prompts)
    except (GrammarError, PromptError) as error:
        raise UsageError(" ".join(str(error).split())) from None
    hashes = {"caption.grammar": grammar.sha256}
    minors = None
    # Of another classifier's probabilities the rule knows nothing.
    if attributes.minors == "careful" and minors_rule().classifier_sha256 == classifier:
        minors = minors_rule()
        hashes["attributes.minors"] = hashlib.sha256(MINORS_FILE.read_bytes()).hexdigest()
    composer = Composer(caption, grammar, attributes.label_names, minors)
    if prompts is None:
        return Words(composer, None, CaptionConfig(caption.text), hashes)
    if unknown := sorted(set(rewrite.styles or ()) - set(prompts.styles)):
        raise UsageError(
            f"rewrite.styles: {unknown[0]!r} is no style of the prompt set; choose of "
            f"{', '.join(sorted(prompts.styles))}"
        )
    sayable = set(attributes.label_names) & {*grammar.labels, "Male"}
    if unknown := sorted(sayable - set(ATTRIBUTES)):
        raise UsageError(
            f"rewrite.backend: no rewrite can be checked for the label {unknown[0]!r}, which is "
            "not of CelebA's 40; set rewrite.backend=none"
        )
    hashes["rewrite.prompts"] = prompts.sha256
    hashes["rewrite.vocabulary"] = hashlib.sha256(DEFAULT_VOCABULARY.read_bytes()).hexdigest()
    asked = Asked(
        model=rewrite.model,
        prompts=f"v{prompts.version} {prompts.sha256[:12]}",
        temperature=rewrite.temperature,
        top_p=rewrite.top_p,
        max_tokens=rewrite.max_tokens,
    )
    stored = CaptionConfig(caption.text, asked)
    return Words(composer, RewriteConfig(rewrite, prompts), stored, hashes)


def minors_note(minors: str, hashes: Mapping[str, str]) -> str | None:
    """What to say where nobody can be told to look under 18, though that was asked for."""
    if minors != "careful" or "attributes.minors" in hashes:
        return None
    return (
        "attributes.minors=careful: nothing at hand tells who looks under 18 with this classifier, "
        "so all faces are captioned alike"
    )


def try_rewriting(options: RewriteOptions) -> None:
    """Asks the server for a word, so that a wrong key, model or address is one line now and not a
    failed graph later; of a model in this process it is only seen whether its packages are there.

    Raises UsageError.
    """
    try:
        if options.backend == "transformers":
            require_packages()
        if options.backend == "openai":
            asyncio.run(check(options, os.environ.get(options.api_key_env)))
    except (LocalModelError, ServerRefuses, ServerUnreachable) as error:
        raise UsageError(str(error)) from None
