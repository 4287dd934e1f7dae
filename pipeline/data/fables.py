"""The embedded corpus: short causal stories whose exact probability is known.

Every story is a chain of uniform choices, each by multiply-high from a 64-bit Philox word (the bias is below 2^-58), and
different choices give different text. So the information of a story is the sum of ln(options) over its choices:
no model can average fewer nats, and one that has understood the stories comes close. What is not a choice follows:
only one tool fits an obstacle, and how the story ends depends on the tool.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.base.philox import Philox, Stream

NAMES = [
    "Ada",
    "Bela",
    "Cora",
    "Dino",
    "Edda",
    "Fynn",
    "Gita",
    "Hugo",
    "Ivo",
    "Juna",
    "Kato",
    "Lena",
    "Milo",
    "Nora",
    "Oskar",
    "Pia",
    "Quin",
    "Rosa",
    "Sami",
    "Tara",
    "Udo",
    "Vera",
    "Wim",
    "Zoe",
]
ANIMALS = ["fox", "bear", "hare", "owl", "mouse", "frog", "deer", "crow", "otter", "goat", "cat", "wolf"]
MOODS = ["brave", "small", "bold", "young", "clever", "quiet", "merry", "hungry", "lazy", "proud"]
HOMES = [
    "in a barn",
    "under a bridge",
    "by a lake",
    "on a hill",
    "in a mill",
    "near a well",
    "in a hollow tree",
    "behind a church",
]
TIMES = ["One morning", "One evening", "One winter day", "One summer night"]
WANTS = ["honey", "bread", "pearl", "letter", "drum", "crown", "melon", "flute"]
# Each obstacle: where the thing lies, the only tool that helps, what the tool does.
OBSTACLES = (
    ("behind a locked gate", "key", "opened the gate"),
    ("inside a dark cave", "lamp", "lit the cave"),
    ("across a deep river", "boat", "crossed the river"),
    ("on top of a high wall", "ladder", "climbed the wall"),
    ("beyond a thick hedge", "saw", "cut the hedge"),
)
TOOLS = tuple(tool for _, tool, _ in OBSTACLES)
WORDS_PER_STORY = 64  # 64-bit words set aside for the choices of one story


@dataclass(frozen=True)
class Story:
    """beginning + ending is the text; choices are the numbers of options of the choices made."""

    beginning: str
    ending: str
    choices: tuple[int, ...]
    name: str
    want: str
    obstacle: int
    solved: bool

    @property
    def text(self) -> str:
        return self.beginning + self.ending


def ending_of(name: str, want: str, obstacle: int, solved: bool) -> str:
    """How a story must end."""
    if solved:
        deed = OBSTACLES[obstacle][2]
        return f" It worked. {name} {deed} and took the {want} home. {name} was happy.\n"
    return f" It was no use. {name} went home without the {want}. {name} was sad.\n"


class Teller:
    """Tells story number i of a stream: a pure function of (seed, stream, i)."""

    def __init__(self, seed: int, stream: Stream) -> None:
        self.philox = Philox(seed, stream)

    def story(self, index: int) -> Story:
        words = [int(w) for w in self.philox.words(2 * WORDS_PER_STORY * index, 2 * WORDS_PER_STORY)]
        choices: list[int] = []

        def choose(options: int) -> int:
            at = 2 * len(choices)
            choices.append(options)
            return (words[at] | words[at + 1] << 32) * options >> 64

        def other(options: int, than: int) -> int:
            """Any but `than`."""
            picked = choose(options - 1)
            return picked + (picked >= than)

        name, animal = choose(len(NAMES)), choose(len(ANIMALS))
        hero = NAMES[name]
        mood, home, time = choose(len(MOODS)), choose(len(HOMES)), choose(len(TIMES))
        want, obstacle = WANTS[choose(len(WANTS))], choose(len(OBSTACLES))
        friend, helper = NAMES[other(len(NAMES), name)], other(len(ANIMALS), animal)
        place, fitting, _ = OBSTACLES[obstacle]
        text = (
            f"Once there was a {MOODS[mood]} {ANIMALS[animal]} called {hero}, who lived {HOMES[home]}. "
            f"{TIMES[time]} {hero} heard of a {want} that lay {place}. {hero} wanted the {want}. "
            f"{hero} asked {friend} the {ANIMALS[helper]} how to get the {want}."
        )
        outcome = choose(3)  # the right tool at once; a wrong one, then the right one; a wrong one only
        if outcome > 0:
            wrong = TOOLS[other(len(TOOLS), obstacle)]
            text += f" {friend} gave {hero} a {wrong}. {hero} tried the {wrong}."
            if outcome == 1:
                text += f" It was no use. Then {friend} brought a {fitting}. {hero} tried the {fitting}."
        else:
            text += f" {friend} gave {hero} a {fitting}. {hero} tried the {fitting}."
        ending = ending_of(hero, want, obstacle, outcome < 2)
        return Story(text, ending, tuple(choices), hero, want, obstacle, outcome < 2)


@dataclass(frozen=True)
class Question:
    """HellaSwag's form: one ending follows from the context, three do not."""

    context: str
    endings: tuple[str, ...]
    label: int


def questions(seed: int, count: int, known: set[str]) -> list[Question]:
    """`count` questions over fresh stories, none of them in `known`.

    The wrong endings: the other outcome, another hero, another want; the place of the right one is drawn.
    """
    teller, index = Teller(seed, Stream.QUESTIONS), 0
    found: list[Question] = []
    while len(found) < count:
        story = teller.story(index)
        picks = [int(w) for w in teller.philox.words(2 * WORDS_PER_STORY * (index + 1) - 4, 4)]
        index += 1
        if story.text in known:
            continue
        names = [name for name in NAMES if name != story.name]
        wants = [want for want in WANTS if want != story.want]
        wrong = [
            ending_of(story.name, story.want, story.obstacle, not story.solved),
            ending_of(names[picks[0] * len(names) >> 32], story.want, story.obstacle, story.solved),
            ending_of(story.name, wants[picks[1] * len(wants) >> 32], story.obstacle, story.solved),
        ]
        label = picks[2] * 4 >> 32
        endings = (*wrong[:label], story.ending, *wrong[label:])
        found.append(Question(story.beginning, endings, label))
    return found
