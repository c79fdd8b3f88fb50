"""What infants come to know, in the order of their ages, and what of a report bears on it.

A concept stands at the age at which an experiment first found it, with the experiment's name. Ages
are about, from looking times mostly, and argued over (docs/report-card.md).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """Where the report holds a score that bears on a concept.

    Attributes:
        name: what is asked, for people.
        section: path of the section in the report, with dots.
        metric: path of the score in it, and in each of its nulls.
        interval: path of the score's 95 % interval.
        chance: the score of a guess; a text is the path of it within the section.
        told: nulls that decide nothing here, for they are told the true place a step before.
        better: `higher`, with 1 perfect, or `lower`, with 0 perfect.
    """

    name: str
    section: str
    metric: str
    interval: str
    chance: float | str
    told: tuple[str, ...] = ()
    better: str = "higher"


@dataclass(frozen=True)
class Concept:
    """Something infants come to know.

    Attributes:
        name: in two or three words.
        question: what is asked of the model.
        age_months: about when: the youngest and the oldest age at which it was first found.
        sources: authors, year, and what they found.
        note: where the literature, or the comparison with it, is in doubt.
        measures: of the report; the first one that was measured decides.
    """

    name: str
    question: str
    age_months: tuple[float, float]
    sources: tuple[str, ...]
    note: str
    measures: tuple[Measure, ...]


def _surprise(kind: str, name: str) -> Measure:
    return Measure(name, f"surprise.{kind}", "relative_accuracy", "ci95", 0.5)


def _yes_no(section: str, name: str) -> Measure:
    return Measure(name, section, "auroc", "ci95_auroc", 0.5)


def _explained(section: str, name: str, told: tuple[str, ...] = ()) -> Measure:
    # An r2 of 0 is that of the mean.
    return Measure(name, section, "r2", "ci95_r2", 0.0, told)


# In open view these have the true place of a step before: trackers, not rules that know nothing.
# Behind a screen they have only the place where the object was last seen, and count.
TOLD_PLACE = ("copy_last_seen", "constant_velocity")

CONCEPTS = (
    Concept(
        "own motion",
        "how the camera moves",
        (0.0, 0.0),
        (
            "Barbu-Roth et al. 2009: three-day-olds step more over a floor pattern that flows as "
            "in walking forward than over one that turns or stands",
        ),
        "A reflex that flow sets off shows that it is perceived, not that anything is known.",
        (_explained("camera_motion", "camera motion"),),
    ),
    Concept(
        "motion",
        "how fast and which way a thing moves",
        (1.5, 3.0),
        (
            "Wattam-Bell 1991: responses of the cortex to a change of direction appear in the "
            "first three months",
            "Banton and Bertenthal 1996: eyes follow uniform motion at 6 weeks",
        ),
        "Eyes may follow a whole moving field before single things are told apart by their motion.",
        (_explained("velocity", "velocity"),),
    ),
    Concept(
        "partly hidden things",
        "where a thing is that shows only in part",
        (2.0, 4.0),
        (
            "Kellman and Spelke 1983: four-month-olds see a rod that moves behind a block as one",
            "Johnson and Aslin 1995: two-month-olds too, if more of the rod shows",
            "Slater et al. 1990: newborns do not",
        ),
        "The experiments ask whether the parts are one thing, the probe where that thing is.",
        (_explained("position.partly", "place, partly hidden", TOLD_PLACE),),
    ),
    Concept(
        "following a thing",
        "where a thing is that is in view",
        (2.0, 5.0),
        (
            "von Hofsten and Rosander 1997: eyes pursue a moving thing from 2 to 5 months, at last "
            "ahead of it",
        ),
        "Jumps of the eye towards things come earlier; smooth pursuit needs their motion.",
        (_explained("position.visible", "place, in view", TOLD_PLACE),),
    ),
    Concept(
        "continuity",
        "from screen to screen it crosses the gap",
        (2.5, 4.0),
        (
            "Aguiar and Baillargeon 1999: at 2.5 months, between two separate screens",
            "Spelke, Kestenbaum, Simons and Wein 1995: four-month-olds take one that skips the gap "
            "for two things",
        ),
        "At 2.5 months it fails if the screens are joined above (Aguiar and Baillargeon 1999).",
        (_surprise("continuity", "surprise, continuity"),),
    ),
    Concept(
        "solidity",
        "nothing passes through a wall",
        (2.5, 4.0),
        (
            "Spelke, Breinlinger, Macomber and Jacobson 1992: a hidden thing stops at a barrier, "
            "at 2.5 and 4 months",
            "Baillargeon 1987: at 4.5 months, and at 3.5 in infants who habituate fast",
        ),
        "2.5, 3.5 or 4.5 months by laboratory and task; searching by hand, two-year-olds fail "
        "(Hood, Carey and Prasada 2000).",
        (_surprise("solidity", "surprise, solidity"),),
    ),
    Concept(
        "object permanence",
        "what went behind the screen is there",
        (2.5, 4.5),
        (
            "Baillargeon 1987: at 4.5 months, and at 3.5 in infants who habituate fast",
            "Aguiar and Baillargeon 1999: first expectations at 2.5 months",
        ),
        "Searching for what is hidden comes at about 9 months (Piaget 1954); Bogartz, Shinskey and "
        "Speaker 1997 and Haith 1998 hold that novelty and perception explain the looking.",
        (
            _surprise("reveal", "surprise, reveal"),
            _surprise("permanence", "surprise, permanence"),
            Measure(
                "is it behind the screen?", "permanence", "accuracy", "ci95_accuracy", chance=0.5
            ),
        ),
    ),
    Concept(
        "categories",
        "which kind of shape it is",
        (3.0, 4.0),
        (
            "Quinn, Eimas and Rosenkrantz 1993: three- and four-month-olds tell cats from dogs, on "
            "photographs",
            "Bomba and Siqueland 1983: form categories of dot patterns at 3 to 4 months",
        ),
        "A category held for minutes in one sitting; the probe is given the names of all shapes.",
        (
            Measure(
                "category",
                "category",
                "balanced_accuracy",
                "ci95_balanced_accuracy",
                chance="chance",
            ),
        ),
    ),
    Concept(
        "support",
        "what is held up stays up, the rest falls",
        (3.0, 6.5),
        (
            "Needham and Baillargeon 1993: at 4.5 months a box left in mid-air should fall",
            "Baillargeon, Needham and DeVos 1992: from any contact at 3 months to how much of it "
            "at 6.5",
        ),
        "Our block asks the early form (a platform or none), out of sight; searching by hand, "
        "two-year-olds fail (Hood, Carey and Prasada 2000).",
        (_surprise("support", "surprise, support"), _yes_no("support", "is it held up?")),
    ),
    Concept(
        "hidden place",
        "where the hidden thing is now",
        (4.0, 6.0),
        (
            "von Hofsten, Kochukhova and Rosander 2007: at 16 to 20 weeks gaze crosses the screen "
            "in time with the thing, in half of the passages",
            "Johnson, Amso and Slemmer 2003: six-month-olds anticipate; four-month-olds after "
            "practice",
            "Gredebäck and von Hofsten 2004: from 6 months on, on a circle",
        ),
        "To be at the right edge in time takes less than to know the place at each moment.",
        (_explained("position.hidden", "place, hidden"),),
    ),
    Concept(
        "constant features",
        "what comes out looks like what went in",
        (4.5, 11.5),
        (
            "Wilcox 1999: shape and size at 4.5 months, pattern at 7.5, colour at 11.5",
            "Xu, Carey and Quint 2004: in another task, not size or colour at 12 months",
        ),
        "Task by task the age differs by half a year; our blocks mix shape, size and colour.",
        (_surprise("constancy", "surprise, constancy"),),
    ),
    Concept(
        "depth",
        "how far things are, from one still picture",
        (5.0, 7.0),
        (
            "Yonas, Cleaves and Pettersen 1978: pictures give depth from 22 to 26 weeks on",
            "Yonas, Granrud, Arterberry and Hanson 1986: perspective and texture, at 7 months and "
            "not clearly at 5",
        ),
        "Depth from motion and from two eyes comes earlier; our probe reads one frame of one "
        "camera, so the age of pictures stands here.",
        (
            Measure(
                "depth",
                "depth",
                "rmse_m",
                "ci95_rmse_m",
                chance="null.mean.rmse_m",
                better="lower",
            ),
            Measure(
                "depth of objects",
                "depth",
                "objects.rmse_m",
                "objects.ci95_rmse_m",
                chance="null.mean.objects.rmse_m",
                better="lower",
            ),
        ),
    ),
    Concept(
        "animacy",
        "whether it moves by itself",
        (5.0, 7.0),
        (
            "Luo and Baillargeon 2005: five-month-olds give a box that moves by itself a goal",
            "Woodward 1998: a reaching hand has a goal at 5 to 6 months",
            "Mahajan and Woodward 2009: at 7 months they copy goals of what is animate only",
        ),
        "Newborns already prefer biological motion (Simion, Regolin and Bulf 2008); a goal is more "
        "than the probe asks, and things alive have eyes here.",
        (_yes_no("animacy", "is it alive?"),),
    ),
    Concept(
        "collision",
        "what is struck moves",
        (6.0, 10.0),
        (
            "Leslie and Keeble 1987: a launch is more than its parts at 27 weeks",
            "Oakes and Cohen 1990: with other things at 10 months, not at 6",
        ),
        "That what is hit is displaced, Baillargeon 1995 puts at 2.5 months already.",
        (_surprise("collision", "surprise, collision"), _yes_no("contact", "do they touch?")),
    ),
    Concept(
        "gravity",
        "what rises slows down and falls",
        (7.0, 7.0),
        (
            "Kim and Spelke 1992: seven-month-olds, not five-month-olds, expect speed to grow "
            "downhill",
        ),
        "For a ball that rolls off an edge, looking shows it only after three years (Kim and "
        "Spelke 1999).",
        (_surprise("gravity", "surprise, gravity"),),
    ),
    Concept(
        "inertia",
        "what rolls goes on, what lies stays",
        (7.0, 24.0),
        (
            "Kim and Spelke 1999: in looking, between 7 months and 2 years",
            "Spelke, Breinlinger, Macomber and Jacobson 1992: not yet in young infants",
        ),
        "When children must predict where a ball lands, it comes at 5 to 6 years (Kim and Spelke "
        "1999).",
        (_surprise("inertia", "surprise, inertia"),),
    ),
)
