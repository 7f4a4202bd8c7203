"""A picture of the training log."""

from __future__ import annotations

from pathlib import Path


def plot(log: list[dict], file: Path) -> None:
    """Loss and character accuracy of the training batches, facts found on validation screens; pieces as lines."""
    import matplotlib

    matplotlib.use("Agg")
    import seaborn
    from matplotlib import pyplot

    seaborn.set_theme(style="whitegrid", palette="colorblind")
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4))
    steps = [row for row in log if "loss" in row]
    left.plot([row["s"] for row in steps], [row["loss"] for row in steps], label="answers' tokens")
    read = [row for row in steps if "reading_loss" in row]
    left.plot([row["s"] for row in read], [row["reading_loss"] for row in read], label="characters of the picture")
    left.set(yscale="log", xlabel="seconds of training", ylabel="loss, nats", title="Training loss")
    left.legend()
    checks = [row for row in log if "validation_recall" in row]
    for task in ("screen_annotation", "vqa"):
        right.plot([row["s"] for row in checks], [row["validation_recall"][task] for row in checks], "o-", label=task)
    right.set(ylim=(0, 1.02), xlabel="seconds of training", ylabel="share of facts found", title="Validation screens")
    right.legend(loc="lower right")
    for row in log:
        if "piece" in row and row["s"]:
            left.axvline(row["s"], color="grey", linestyle=":")
            right.axvline(row["s"], color="grey", linestyle=":")
    figure.tight_layout()
    figure.savefig(file, dpi=120)
