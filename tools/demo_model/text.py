"""Draws the text of the demo checkpoint's pages: prose, prose-like words, figures and random strings.

A page of only prose teaches guessing; a page of only random strings teaches no words. The mix here does both:
real paragraphs (so that natural prose is nothing new), common words by how often they occur, dictionary words
among dates, prices and names, and strings of any printable character.
"""

from __future__ import annotations

import string
from bisect import bisect
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from pathlib import Path
from random import Random

INKED_ASCII = "".join(chr(code) for code in range(33, 127))
ALPHABET = INKED_ASCII + "–—‘’“”£€é°×½"
"""Every character that leaves ink on a page; a space is allowed too, but leaves none."""

CHARACTER_INDEX = {character: index for index, character in enumerate(ALPHABET)}

QUOTE_MARKS = "'''’’’‘`\"“”"  # as often as they are mistaken for each other
MARKED_WORDS = 0.3

# Characters taken for each other where neither their size nor what is around them helps. The exam's random
# strings draw from LOOKALIKES: another order or length would change its pages.
LOOKALIKES = "l1I|iO0oQ5S2Z8Bg9qrnmvwuy'‘’`,.;:-–—_({[)}]!j"
ALIKE = (
    "lI1|!i O0oQ S5s Z2z B8E gq9 cC vV wW xX× kK pP uU jJ 6b nh ft eé °* -–—_~ ,.;: '’‘` \"“” ({[ )}] \\/"
).split()
LIKE = {letter: group for group in ALIKE for letter in group}
SWAPPED = 0.4  # of the characters that have others like them
MONTHS = "January February March April May June July August September October November December".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
FIRST_NAMES = (
    "Anna Ben Clara David Emma Frank Grace Henry Irene Jack Karen Louis Maria Nora Oliver Paula Quentin Rosa "
    "Samuel Tessa Ursula Victor Wendy Xavier Yusuf Zoe André José René Mei Kofi Ingrid Omar Priya"
).split()
LAST_NAMES = (
    "Adams Baker Carter Dixon Evans Fisher Grant Hughes Irving Jones Keller Lopez Moore Nguyen Owens Parker "
    "Quinn Reed Smith Turner Underwood Vance Walker Young Zimmer O'Brien MacDonald Okafor Schmidt Ivanova"
).split()
UNITS = "kg g mm cm km ml l kW MB GB % °C °F lb oz in ft mph pcs hrs min".split()
STREETS = "Street Road Lane Avenue Square Drive Court Hill".split()


class TextKind(StrEnum):
    PROSE = "prose"
    PROSE_LIKE = "prose_like"
    FIGURES = "figures"
    RANDOM = "random"


@dataclass(frozen=True)
class TextMix:
    """How often each kind of text is drawn; the shares need not add up to one.

    Attributes:
        echo: Share of the prose passages that repeat some of their words: a reader must find its place on the
            page, not only remember what it has just read.
        marks: Share of the passages with many quote marks drawn at random: what is around them doesn't tell a
            straight one from a curly one.
        alike: Share of the passages in which many characters are replaced by others that look like them.
    """

    prose: float = 0.26
    prose_like: float = 0.23
    figures: float = 0.23
    random: float = 0.28
    echo: float = 0.0
    marks: float = 0.0
    alike: float = 0.0

    def draw(self, dice: Random) -> TextKind:
        weights = (self.prose, self.prose_like, self.figures, self.random)
        return dice.choices(tuple(TextKind), weights)[0]


@dataclass(frozen=True)
class TextSource:
    """Draws passages of words, any number of them, from a split's files.

    Attributes:
        paragraphs: The split's prose, each paragraph as its words.
        frequent: The words of the prose without punctuation, most frequent first.
        frequent_steps: Running sums of how often each of them occurs, for bisection.
        dictionary: The word list.
        mix: Which kinds of text the pages get.
    """

    paragraphs: tuple[tuple[str, ...], ...]
    frequent: tuple[str, ...]
    frequent_steps: tuple[float, ...]
    dictionary: tuple[str, ...]
    mix: TextMix

    @classmethod
    def from_folder(cls, folder: Path, split: str = "train", mix: TextMix | None = None) -> TextSource:
        """Read prose_<split>.txt and words.txt of a folder that fetch_data filled.

        Word frequencies always come from the training prose; `split` is "train" or "eval".
        """
        train = (folder / "prose_train.txt").read_text("utf-8")
        prose = (folder / f"prose_{split}.txt").read_text("utf-8")
        words = (folder / "words.txt").read_text("utf-8").split("\n")
        return cls.from_texts(prose.split("\n"), words, train, mix or TextMix())

    @classmethod
    def from_texts(cls, prose: list[str], words: list[str], counted: str, mix: TextMix) -> TextSource:
        """Build a source from paragraphs, a word list and the text whose word frequencies to imitate."""
        counts = Counter(word.strip(string.punctuation) for word in counted.split())
        del counts[""]
        frequent = [(word, count) for word, count in counts.most_common() if word.isascii()]
        return cls(
            tuple(tuple(line.split()) for line in prose if line),
            tuple(word for word, _ in frequent),
            tuple(accumulate(count**0.85 for _, count in frequent)),
            tuple(word for word in words if word),
            mix,
        )

    def passage(self, dice: Random, kind: TextKind, words: int) -> str:
        """Draw about `words` words of one kind, separated by single spaces (never empty)."""
        text = self._plain_passage(dice, kind, words)
        if self.mix.marks and dice.random() < self.mix.marks:
            text = marked(text, dice)
        if self.mix.alike and dice.random() < self.mix.alike:
            text = swapped(text, dice)
        return text

    def _plain_passage(self, dice: Random, kind: TextKind, words: int) -> str:
        if kind in (TextKind.PROSE, TextKind.PROSE_LIKE):
            taken = (self._prose if kind is TextKind.PROSE else self._prose_like)(dice, words)
            if self.mix.echo and dice.random() < self.mix.echo:
                taken = echoed(taken, dice)
            return dress(" ".join(taken), dice)
        if kind is TextKind.FIGURES:
            return " ".join(self._figures(dice, words))
        return " ".join(random_string(dice) for _ in range(words))

    def phrase(self, dice: Random, kind: TextKind, words: int) -> str:
        """Draw a few words for a heading or a table's cell: no sentence, often capitalised."""
        if kind is TextKind.RANDOM:
            return " ".join(random_string(dice) for _ in range(words))
        if kind is TextKind.FIGURES and dice.random() < 0.5:
            return " ".join(self._figures(dice, words))
        chosen = [self._word(dice) for _ in range(words)]
        form = dice.random()
        if form < 0.4:
            return capitalised(" ".join(chosen))
        if form < 0.7:
            return " ".join(capitalised(word) for word in chosen)
        return upper(" ".join(chosen)) if form < 0.8 else " ".join(chosen)

    def _word(self, dice: Random) -> str:
        if dice.random() < 0.3:
            return dice.choice(self.dictionary)
        return self.frequent[bisect(self.frequent_steps, dice.random() * self.frequent_steps[-1])]

    def _prose(self, dice: Random, words: int) -> list[str]:
        taken: list[str] = []
        index = dice.randrange(len(self.paragraphs))
        start = 0
        if dice.random() < 0.5:
            start = dice.randrange(len(self.paragraphs[index]))
        while len(taken) < words:
            taken += self.paragraphs[index % len(self.paragraphs)][start : start + words - len(taken)]
            index, start = index + 1, 0
        return taken

    def _prose_like(self, dice: Random, words: int) -> list[str]:
        taken: list[str] = []
        while len(taken) < words:
            length = min(dice.randint(4, 22), words - len(taken))
            sentence = [punctuated(self._word(dice), dice) for _ in range(length)]
            sentence[0] = capitalised(sentence[0])
            sentence[-1] = sentence[-1].rstrip(",;:") + dice.choice(".....?!:")
            taken += sentence
        return taken

    def _figures(self, dice: Random, words: int) -> list[str]:
        taken: list[str] = []
        while len(taken) < words:
            if dice.random() < 0.5:
                taken.append(punctuated(dice.choice(self.dictionary), dice))
            else:
                taken += figure(dice).split()
        return taken[:words]


def echoed(words: list[str], dice: Random) -> list[str]:
    """Repeat a run of up to twenty words one to three times; return as many words as before."""
    start = dice.randrange(len(words))
    run = words[start : start + dice.randint(2, 20)]
    repeated = list(words)
    for _ in range(dice.randint(1, 3)):
        place = dice.randint(start, len(words))
        repeated[place:place] = run
    return repeated[: len(words)]


def marked(text: str, dice: Random) -> str:
    """Strew quote marks among the words, and draw every mark anew."""
    return " ".join(_marked_word(word, dice) for word in text.split(" "))


def _marked_word(word: str, dice: Random) -> str:
    if dice.random() < MARKED_WORDS:
        place = dice.choice((0, len(word), dice.randint(0, len(word))))
        word = word[:place] + dice.choice(QUOTE_MARKS) + word[place:]
    return "".join(dice.choice(QUOTE_MARKS) if letter in QUOTE_MARKS else letter for letter in word)


def swapped(text: str, dice: Random) -> str:
    """Replace some characters by others that look like them."""
    return "".join(
        dice.choice(LIKE[letter]) if letter in LIKE and dice.random() < SWAPPED else letter for letter in text
    )


def capitalised(text: str) -> str:
    return upper(text[:1]) + text[1:]


def upper(text: str) -> str:
    """Write in capitals, except é: the alphabet has no É."""
    return text.upper().replace("É", "é")


def punctuated(word: str, dice: Random) -> str:
    """Add a comma, quotes, brackets, emphasis or a capital to a word now and then."""
    form = dice.random()
    if form > 0.22:
        return word
    if form < 0.1:
        return word + dice.choice(",,,,,,;:")
    if form < 0.13:
        return dice.choice(("“{}”", "‘{}’", '"{}"', "'{}'")).format(word)
    if form < 0.145:
        return dice.choice(("({})", "[{}]", "({}),", "{}...", "{}’s")).format(word)
    if form < 0.165:
        return upper(word)
    if form < 0.185:
        return f"{word}{dice.choice('-–—/')}{word[::-1] if form < 0.17 else dice.choice(MONTHS).lower()}"
    return capitalised(word) if form < 0.21 else f"{word} {dice.choice('–—-&')}"


def dress(text: str, dice: Random) -> str:
    """Set quotes and double hyphens as a typesetter does, half of the time."""
    if dice.random() < 0.5:
        return text
    text = text.replace(" -- ", dice.choice((" — ", " – ", "—"))).replace("--", "—").replace("'", "’")
    parts = text.split('"')
    quoted = [part + "“”"[index % 2] for index, part in enumerate(parts[:-1])]
    return "".join(quoted) + parts[-1]


def random_string(dice: Random) -> str:
    """Draw a string that can't be guessed: letters, digits, lookalikes or any character of the alphabet."""
    length = min(dice.randint(1, 9), dice.randint(1, 14))
    form = dice.random()
    if form < 0.45:
        pool = ALPHABET
    elif form < 0.6:
        pool = string.ascii_letters + string.digits
    elif form < 0.7:
        pool = string.ascii_lowercase
    elif form < 0.76:
        pool = string.ascii_uppercase
    elif form < 0.84:
        pool = string.digits
    elif form < 0.92:
        pool = LOOKALIKES
    else:
        pool = string.ascii_lowercase + string.punctuation
    return "".join(dice.choices(pool, k=length))


def amount(dice: Random) -> str:
    """Draw a number as bills and tables print it: 7, 12.50, 1,204.00, £8.99, 45%, -3."""
    value = dice.randrange(10 ** dice.randint(1, 6))
    form = dice.random()
    if form < 0.3:
        return str(value)
    if form < 0.5:
        return f"{value / 100:.2f}"
    if form < 0.6:
        return f"{value / 100:,.2f}"
    if form < 0.8:
        return f"{dice.choice('$£€')}{value / 100:,.2f}"
    return dice.choice(
        (f"{value % 100}%", f"-{value}", f"{value:,}", f"+{value % 1000}", f"{value / 10:.1f}")
    )


def date(dice: Random) -> str:
    day, month, year = dice.randint(1, 28), dice.randint(1, 12), dice.randint(1870, 2060)
    return dice.choice(
        (
            f"{day} {MONTHS[month - 1]} {year}",
            f"{MONTHS[month - 1]} {day}, {year}",
            f"{day:02}/{month:02}/{year}",
            f"{year}-{month:02}-{day:02}",
            f"{dice.choice(DAYS)}, {day} {MONTHS[month - 1][:3]}",
            f"{day}.{month}.{year % 100:02}",
        )
    )


def name(dice: Random) -> str:
    first, last = dice.choice(FIRST_NAMES), dice.choice(LAST_NAMES)
    return dice.choice(
        (f"{first} {last}", f"{first[0]}. {last}", f"Dr {last}", f"Ms {last}", f"{last}, {first}")
    )


def figure(dice: Random) -> str:
    """Draw one fact in figures: a date, a price, a time, a measure, a name, an address, a code."""
    form = dice.randrange(12)
    if form < 3:
        return amount(dice)
    if form == 3:
        return date(dice)
    if form == 4:
        return name(dice)
    if form == 5:
        return f"{dice.randint(0, 23):02}:{dice.randint(0, 59):02}"
    if form == 6:
        number = dice.choice((str(dice.randint(1, 999)), "½", f"{dice.randint(1, 9)}½"))
        return f"{number} {dice.choice(UNITS)}"
    if form == 7:
        return f"{dice.randint(1, 299)} {dice.choice(LAST_NAMES)} {dice.choice(STREETS)}"
    if form == 8:
        letters = "".join(dice.choices(string.ascii_uppercase, k=dice.randint(1, 3)))
        return f"{letters}-{dice.randint(10, 99999)}"
    if form == 9:
        box, host = dice.choice(FIRST_NAMES).lower(), dice.choice(LAST_NAMES).lower()
        return f"{box}@{host}.{dice.choice(('com', 'org'))}"
    if form == 10:
        return f"+{dice.randint(1, 99)} {dice.randint(100, 999)} {dice.randint(1000, 999999)}"
    return dice.choice(
        (f"{dice.randint(2, 40)} × {dice.randint(2, 90)}", f"No. {dice.randint(1, 500)}", "Q&A", "#7")
    )
