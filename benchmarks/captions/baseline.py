"""What our captions are compared with: one fixed sentence for each attribute, in a fixed order, as
a grammar with a single template per attribute gives; and descriptions that people wrote."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from facecap.schemas.attributes import ATTRIBUTES
from facecap.schemas.captions import Person

HAS = {
    "5_o_Clock_Shadow": "a 5 o'clock shadow",
    "Arched_Eyebrows": "arched eyebrows",
    "Bags_Under_Eyes": "bags under the eyes",
    "Bangs": "bangs",
    "Big_Lips": "big lips",
    "Big_Nose": "a big nose",
    "Black_Hair": "black hair",
    "Blond_Hair": "blond hair",
    "Brown_Hair": "brown hair",
    "Bushy_Eyebrows": "bushy eyebrows",
    "Double_Chin": "a double chin",
    "Goatee": "a goatee",
    "Gray_Hair": "gray hair",
    "High_Cheekbones": "high cheekbones",
    "Mouth_Slightly_Open": "a slightly open mouth",
    "Mustache": "a mustache",
    "Narrow_Eyes": "narrow eyes",
    "No_Beard": "no beard",
    "Oval_Face": "an oval face",
    "Pale_Skin": "pale skin",
    "Pointy_Nose": "a pointy nose",
    "Receding_Hairline": "a receding hairline",
    "Rosy_Cheeks": "rosy cheeks",
    "Sideburns": "sideburns",
    "Straight_Hair": "straight hair",
    "Wavy_Hair": "wavy hair",
}
IS = {
    "Attractive": "attractive",
    "Bald": "bald",
    "Blurry": "blurry",
    "Chubby": "chubby",
    "Eyeglasses": "wearing eyeglasses",
    "Heavy_Makeup": "wearing heavy makeup",
    "Male": "male",
    "Smiling": "smiling",
    "Wearing_Earrings": "wearing earrings",
    "Wearing_Hat": "wearing a hat",
    "Wearing_Lipstick": "wearing lipstick",
    "Wearing_Necklace": "wearing a necklace",
    "Wearing_Necktie": "wearing a necktie",
    "Young": "young",
}
PRONOUNS: dict[Person, tuple[str, str, str]] = {
    "man": ("He", "has", "is"),
    "woman": ("She", "has", "is"),
    "person": ("They", "have", "are"),
}


def one_template(labels: Iterable[str], person: Person) -> str:
    """A sentence for each of `labels`, in the order of CelebA's attributes."""
    pronoun, has, is_ = PRONOUNS[person]
    sentences = (
        f"{pronoun} {has} {HAS[name]}." if name in HAS else f"{pronoun} {is_} {IS[name]}."
        for name in sorted(labels, key=ATTRIBUTES.index)
    )
    return " ".join(sentences)


def descriptions(file: Path) -> list[str]:
    """The texts of a file of lines NAME "TEXT". Raises `ValueError` on any other line."""
    texts = []
    for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        match = re.fullmatch(r'\S+\s+"(.*?)"?\s*', line)
        if match is None:
            raise ValueError(f'{file}:{number}: expected NAME "TEXT"')
        texts.append(match[1].strip())
    return texts
