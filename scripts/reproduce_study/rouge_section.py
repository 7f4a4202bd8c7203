"""The page's section on ROUGE: ours, and that of the tokenizer that comes nearest to the study's."""

from __future__ import annotations

import statistics
from typing import Sequence

from study import Study, places, signed, table, tau, worst
from tokenizers_tried import FOLDED, ROUGES, Tried, blingfire_models

NEAR = 0.02  # what the tokenizer that is looked for may differ by from a published mean


def rouge(study: Study, found: dict[str, Tried]) -> str:
    nearest = min(found, key=lambda name: max(worst(found[name].means[r], study.theirs(r)) for r in ROUGES))
    lines = []
    for name, one in found.items():
        off = [worst(one.means[r], study.theirs(r)) for r in ROUGES]
        same = [tau(one.means[r], study.theirs(r)) for r in ROUGES]
        cells = [[str(n) for n in one.exact.values()], [f"{x:.4f}" for x in off], [f"{x:.2f}" for x in same]]
        lines.append([name, *(" / ".join(cell) for cell in cells)])
    head = ["tokenizer", f"exact rows of {len(study.rows)}", "largest difference of a mean", "tau of the order"]
    parts = ["## ROUGE", which(study, found, nearest), table(head, lines) + "\n\n(ROUGE-1 / -2 / -L in each cell.)"]
    if not blingfire_models():
        parts.append("The WordPiece and SentencePiece tokenizers were not tried: `pip install blingfire`.")
    for name, title in ROUGES.items():
        parts.append(f"### {title}\n\n{rouge_table(study, name, nearest, found[nearest].means[name])}")
    return "\n\n".join(parts)


def which(study: Study, found: dict[str, Tried], nearest: str) -> str:
    off = max(worst(found[nearest].means[r], study.theirs(r)) for r in ROUGES)
    within = "within" if off <= NEAR else "not within"
    text = (
        "vlm-eval counts words and stems of words; the study's scores are those of smaller tokens. "
        f"The nearest tokenizer tried is «{nearest}»: {off:.4f} from the published means at most, {within} {NEAR}."
    )
    if nearest == FOLDED:
        text += (
            " It stands in for `bert-base-multilingual-uncased`, into whose pieces a public multilingual ROUGE scorer "
            "(faisaltareque/Multilingual-Rouge-Scorer on GitHub) cuts all texts; that scorer takes `use_stemmer` and "
            "does nothing with it, so that the study's ROUGE was probably not stemmed. We know of no "
            "package with that vocabulary, and what remains is what the two vocabularies cut differently; "
            "`python scripts/reproduce_study FOLDER --vocab vocab.txt` tries the real one."
        )
    return text


def rouge_table(study: Study, name: str, nearest: str, near: Sequence[float]) -> str:
    theirs, stemmed = study.theirs(name), study.mine(f"rouge/{name}_f_stemmed_mean")
    lines = [
        [f"{model} ({places(theirs)[n]})", f"{theirs[n]:.4f}"]
        + [f"{stemmed[n]:.4f} ({places(stemmed)[n]})", signed(stemmed[n] - theirs[n], 4)]
        + [f"{near[n]:.4f} ({places(near)[n]})", signed(near[n] - theirs[n], 4)]
        for n, model in enumerate(study.models)
    ]
    mean = statistics.fmean(a - b for a, b in zip(stemmed, theirs, strict=True))
    kept = tau(stemmed, theirs)
    order = "in the published order of the models" if kept == 1 else f"in another order (Kendall's tau {kept:.2f})"
    head = ["(place)", "published", "ours, stemmed words", "difference", "nearest tokenizer", "difference"]
    return (
        f"{table(head, lines)}\n\nStemmed words: {signed(mean, 4)} on average, {worst(stemmed, theirs):.4f} at most, "
        f"{order}. Nearest tokenizer: {worst(near, theirs):.4f} at most, Kendall's tau {tau(near, theirs):.2f}."
    )
