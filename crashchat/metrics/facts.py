"""What a text on a crash states, as facts: who, what manoeuvre, what goes wrong, signals, place, conditions.

BLEU and ROUGE reward wording: two sentences in the same phrases agree by them though they are on different
crashes, two on the same crash in other words do not. Facts are found by rule, in closed vocabularies, so that
a text always has the same ones. They know no negation: 'does not give way' and 'should give way' are both on
giving way.
"""

import re
from functools import cache

import numpy as np

from crashchat.metrics.sums import Totals, ratio

# {slot: {value: what it is called, as regular expressions between word boundaries}}
AGENTS = {
    "ego-car": r"ego[- ]?(?:car|vehicle)s?",
    "cyclist": r"cyclists?|bicycl\w+|bikes?|non[- ]?motor(?:ized)? vehicles?",
    "car": r"vehicles?|cars?|automobiles?|vans?|suvs?|taxis?",
    "truck": r"trucks?|lorr(?:y|ies)|trailers?",
    "bus": r"bus(?:es)?|coach(?:es)?",
    "motorbike": r"motor(?:bike|cycle|cyclist)s?|scooters?|mopeds?",
    "rider": r"riders?",
    "pedestrian": r"pedestrians?|person|people|walkers?",
    "animal": r"animals?|dogs?|cows?|horses?|deer",
}
SLOTS = {
    "manoeuvre": {
        "turns": r"turn(?:s|ed|ing)?(?! on| off| the turn| signal| indicator| light)|(?:left|right) turns?",
        "changes lane": r"chang\w* (?:to another |the )?lanes?|lane chang\w+|cut(?:s|ting)? in|merg\w+",
        "overtakes": r"overtak\w+|overtook",
        "reverses": r"revers\w+|back(?:s|ed|ing)? up",
        "crosses": r"(?<!zebra )(?<!pedestrian )cross(?:es|ed|ing)?",
        "brakes": r"brak(?:e|es|ed|ing)(?! distance| pedal| light| fail)|decelerat\w+|slow(?:s|ed|ing)? down"
        r"|stop(?:s|ped|ping)? suddenly",
        "evades": r"evad\w+|evasive|swerv\w+|dodg\w+|veer\w*",
        "rear-ends": r"rear[- ]?end\w*|tailgat\w+",
        "hits": r"hit(?:s|ting|ted)?|collid\w+|crash(?:es|ed) into|strikes?|struck",
        "scratches": r"scratch\w*|scrap(?:es|ed|ing)|sideswip\w+",
        "falls": r"fall(?:s|ing)?|fell",
        "drives against traffic": r"retrograd\w+|wrong way|against (?:the )?traffic",
    },
    "fault": {
        "speed": r"too fast|over[- ]?speed\w*|speeding|speed limits?|high speed|excessive speed|slower",
        "distance": r"(?:braking|safe|safety|following|short|larger?|sufficient) distances?|too close(?:ly)?",
        "judgement": r"estimat\w+|misjudg\w+",
        "control": r"(?:out of|los\w+) (?:the )?control|skid\w*|side[- ]?slip\w*|balance|wobbl\w+",
        "distraction": r"distract\w+|inattent\w+|phones?|calls?|fatigue\w*|smok\w+|sleep\w*|drows\w+|tired",
        "notice": r"notic\w+|overlook\w*|observe\w*|observing|observation|watch\w*|unaware|attention",
        "giving way": r"giv\w+ (?:the )?way|yield\w*|right of way",
        "view": r"vision|visibility|blind (?:spot|area)s?|block(?:s|ed|ing)?|blur\w+|obscure\w*|obscuring",
        "defect": r"tires?|tyres?|bolts?|components?|brak\w+ fail\w*",
        "load": r"loads?|goods|cargo|articles|overload\w*",
        "haste": r"hurry|hurried\w*|rush\w*",
        "protection": r"helmets?|seat ?belts?",
    },
    "signal": {
        "traffic light": r"(?:red|green|yellow|amber|traffic) lights?|traffic signals?",
        "turn signal": r"turn(?:ing)? signals?|(?:the|a) signal|indicators?|blinkers?",
        "horn": r"horns?|honk\w*|whistl\w+",
        "brake lights": r"brak(?:e|ing) lights?",
        "hazard lights": r"hazard\w*|warning (?:light|flash)\w*",
        "rules": r"traffic rules?|stop lines?|(?:stop|road|traffic) signs?",
    },
    "place": {
        "intersection": r"intersections?|crossroads?|junctions?|crossings",
        "crosswalk": r"cross[- ]?walks?|(?:zebra|pedestrian) crossings?",
        "curve": r"curves?|bends?",
        "narrow road": r"narrow\w*",
        "mountain road": r"mountain\w*|slopes?|hills?",
        "tunnel or bridge": r"tunnels?|bridges?",
        "main road": r"(?:main|trunk|auxiliary) roads?|ramps?",
        "motorway": r"motorways?|highways?|freeways?|expressways?",
        "roadside": r"road ?sides?|curbs?|kerbs?|shoulder",
    },
    "condition": {
        "rain": r"rain(?:s|y|ing|fall)?|wet|water|slippery",
        "snow": r"snow\w*|ice|icy",
        "fog": r"fog\w*|mist\w*",
        "night": r"night\w*|dark\w*",
        "obstacle": r"obstacles?|obstruct\w+|road ?blocks?|objects?|potholes?|\w*poles?",
    },
}


def _pattern(*named: str) -> re.Pattern:
    """One expression with a numbered group each. Words with hyphens are one word: an ego-car is no car."""
    return re.compile("|".join(rf"(?<![\w-])({words})(?![\w-])" for words in named), re.IGNORECASE)


_AGENTS = _pattern(*AGENTS.values())
_SLOTS = {
    f"{slot}: {value}": _pattern(named) for slot, values in SLOTS.items() for value, named in values.items()
}


@cache
def facts(text: str) -> frozenset[str]:
    """The facts of a text, as 'slot: value'.

    Who is named first is who the text is about (`who`), all others are `other`: which car did it to which
    truck is a fact. A text that says that nothing happened states none.
    """
    text = " ".join(text.split())
    agents = list(AGENTS)
    named = [agents[found.lastindex - 1] for found in _AGENTS.finditer(text) if found.lastindex]
    stated = {fact for fact, pattern in _SLOTS.items() if pattern.search(text)}
    stated |= {f"other: {agent}" for agent in named if agent != named[0]}
    return frozenset(stated | {f"who: {agent}" for agent in named[:1]})


FACTS_KEYS = ("facts_both", "facts_said", "facts_true")


def facts_counts(truth: str, answer: str) -> dict[str, int]:
    """What the figures add up of one pair: facts in both texts, in the answer, in the truth."""
    true, said = facts(truth), facts(answer)
    return dict(zip(FACTS_KEYS, (len(true & said), len(said), len(true)), strict=True))


def facts_figures(totals: Totals) -> dict[str, np.ndarray]:
    """facts_precision, facts_recall and facts_f1 over the facts of all pairs, each fact alike;
    NaN where there are none.
    """
    both, said, true = (totals[name] for name in FACTS_KEYS)
    scores = {
        "facts_precision": ratio(both, said, 0.0),
        "facts_recall": ratio(both, true, 0.0),
        "facts_f1": ratio(2 * both, said + true),
    }
    return {name: np.where(said + true > 0, score, np.nan) for name, score in scores.items()}
