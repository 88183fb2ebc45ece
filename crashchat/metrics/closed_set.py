"""Which of a closed set of texts an answer means, whatever it changes in the wording.

Most annotated answers are one of a few dozen sentences. So an answer can be read as the choice of one of
them, and a choice is right or wrong.
"""

from collections.abc import Sequence

import numpy as np

WORD = r"(?u)[^\W_](?:[\w'-]*[^\W_])?"


def nearest(texts: Sequence[str], known: Sequence[str]) -> np.ndarray:
    """int64[N]: which of the K known texts each text is nearest to; -1 where it shares no word with any.

    A known text is itself. Of others, the nearest is that with the largest F1 of shared words, and of two
    and three words in a row, which say who does it to whom. Each counts once; of several, the first wins.
    """
    from sklearn.feature_extraction.text import CountVectorizer  # most of a second, and training needs none

    place = {text: number for number, text in reversed(list(enumerate(known)))}
    vectorizer = CountVectorizer(binary=True, ngram_range=(1, 3), token_pattern=WORD)
    analyze = vectorizer.build_analyzer()
    if not texts or not any(map(analyze, known)):
        return np.array([place.get(text, -1) for text in texts], dtype=int)
    there = vectorizer.fit_transform(known)
    shared = (vectorizer.transform(texts) @ there.T).toarray()
    sizes = np.array([[len(set(analyze(text)))] for text in texts]) + np.asarray(there.sum(axis=1)).T
    best = np.where(shared.any(axis=1), (shared / np.maximum(sizes, 1)).argmax(axis=1), -1)
    return np.array([place.get(text, found) for text, found in zip(texts, best, strict=True)], dtype=int)


def same_choice(pairs: Sequence[tuple[str, str]], known: Sequence[str]) -> list[bool]:
    """Of each (truth, answer) pair, whether both are nearest to the same known text;
    an answer that is nearest to none is wrong.
    """
    known = sorted({text.strip() for text in known})
    stripped = [(truth.strip(), answer.strip()) for truth, answer in pairs]
    texts = sorted({text for pair in stripped for text in pair})
    choice = dict(zip(texts, nearest(texts, known).tolist(), strict=True))
    return [choice[answer] >= 0 and choice[answer] == choice[truth] for truth, answer in stripped]
