"""What metrics share that score texts with a checkpoint: where it is, whether it can be had, and batches by length."""

from __future__ import annotations

import fnmatch
import hashlib
import threading
import traceback
from pathlib import Path
from typing import Any, Callable, Optional, Sequence, TypeVar

from vlm_eval import checkpoints
from vlm_eval.devices import find_device
from vlm_eval.errors import BadInput, one_line

T = TypeVar("T")

SAFETENSORS = "*.safetensors"

HUB_WAIT_S = 3.0
CARD_GIB = 8.0  # what one takes of a GPU at most
# The same weights for other frameworks; a repository may hold gigabytes of them.
OTHER_FRAMEWORKS = ("*.h5", "*.msgpack", "*.ot", "*.onnx", "*.onnx_data", "*.tflite", "*.gguf", "onnx/*", "openvino/*")


def problem(name_or_path: str, needs: Sequence[str], revision: Optional[str] = None) -> Optional[str]:
    """None when the checkpoint is here or the Hub offers it; a sentence when it cannot be had on this machine now.

    `needs`: file name patterns, each maybe with alternatives, "tokenizer.json|vocab.json". BadInput for what
    waiting does not mend: no such folder, or no such repository, or a needed file is missing in it. A repository whose
    weights are a pickle is a sentence, too: a default checkpoint that is one must not end a sweep.
    """
    try:
        return _problem(name_or_path, needs, revision)
    except checkpoints.Pickled as error:
        if checkpoints.is_folder(name_or_path):
            raise
        return str(error)


def weights(use_safetensors: bool) -> str:
    """What a checkpoint needs to have of weights."""
    return SAFETENSORS if use_safetensors else f"{SAFETENSORS}|pytorch_model*.bin"


def _problem(name_or_path: str, needs: Sequence[str], revision: Optional[str]) -> Optional[str]:
    if checkpoints.is_folder(name_or_path):
        folder = Path(name_or_path).expanduser()
        if not folder.is_dir():
            raise BadInput(f"{name_or_path}: no such checkpoint folder")
        _refuse_incomplete(name_or_path, _files(folder), needs)
        _refuse_pointers(folder, needs)
        return None
    if _cached(name_or_path, needs, revision):
        return None
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return f"{name_or_path} is not in the Hugging Face cache, and HF_HUB_OFFLINE is set"
    return _ask_hub(name_or_path, needs, revision)


def fetch(name_or_path: str, revision: Optional[str] = None) -> str:
    """The checkpoint's folder, downloaded from the Hub if need be. ConnectionError, one line, when that fails."""
    if checkpoints.is_folder(name_or_path):
        return str(Path(name_or_path).expanduser())
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(name_or_path, revision=revision, ignore_patterns=list(OTHER_FRAMEWORKS))
    except Exception as error:  # huggingface_hub, httpx, the disk: many classes, one meaning
        raise ConnectionError(f"{name_or_path} could not be downloaded: {one_line(error)}") from error


def fingerprint(folder: str) -> str:
    """12 hex digits over names and whole contents: two fine-tunes of one model differ in nothing but their weights."""
    digest = hashlib.sha256()
    for file in sorted(p for p in Path(folder).iterdir() if p.is_file()):
        digest.update(f"{file.name}:".encode())
        with open(file, "rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:12]


def attempt(name_or_path: str, use: Callable[[], T]) -> T | str:
    """What use() gives, or a sentence: transformers raises whatever it likes at a folder it cannot read, CUDA too."""
    try:
        return use()
    except Exception as error:
        traceback.print_exc()
        return f"{name_or_path} cannot be used: {one_line(error)}"


def card_gib(asked: Optional[str]) -> float:
    """Of a GPU, if it will be used: weights of up to 3 GiB, a batch, and CUDA itself."""
    on_gpu = find_device().kind == "cuda" if asked is None else asked.startswith("cuda")
    return CARD_GIB if on_gpu else 0.0


def device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def batches_by_length(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Indices, shortest first, cut into batches of at most `max_tokens` with their padding; a longer one is alone."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        # The newest is the longest of its batch: it sets what every row of it costs.
        if batches and (len(batches[-1]) + 1) * lengths[index] <= max_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def _files(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir() if file.is_file()]


def _matching(files: Sequence[str], need: str) -> list[str]:
    return [file for pattern in need.split("|") for file in fnmatch.filter(files, pattern)]


def _refuse_incomplete(name: str, files: Sequence[str], needs: Sequence[str]) -> None:
    if SAFETENSORS in needs:
        checkpoints.refuse_pickle(name, "use_safetensors=false of this metric loads them all the same", files)
    missing = [" or ".join(need.split("|")) for need in needs if not _matching(files, need)]
    if missing:
        raise BadInput(f"{name}: not a complete checkpoint, it has no {', no '.join(missing)}")


def _refuse_pointers(folder: Path, needs: Sequence[str]) -> None:
    """A clone without git-lfs holds lines of text in place of weights."""
    for file in (folder / name for need in needs for name in _matching(_files(folder), need)):
        with open(file, "rb") as content:
            if content.read(24) == b"version https://git-lfs.":
                raise BadInput(f"{file}: a git-lfs pointer in place of the file; fetch it with git lfs pull")


def _cached(name: str, needs: Sequence[str], revision: Optional[str]) -> bool:
    """Whether the Hugging Face cache holds a whole snapshot, not just a config.json that someone looked at."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
        _refuse_incomplete(name, _files(folder), needs)
    except checkpoints.Pickled:
        raise
    except (OSError, BadInput):
        return False
    except ValueError as error:  # not a name that the Hub could have
        raise BadInput(f"{name}: neither a folder nor a name on the Hub: {one_line(error)}") from error
    return True


def _ask_hub(name: str, needs: Sequence[str], revision: Optional[str]) -> Optional[str]:
    """As problem(); in a thread, for a name server that does not answer heeds no timeout of a request."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    said: dict[str, Any] = {}

    def ask() -> None:
        try:
            info = HfApi().model_info(name, revision=revision, timeout=HUB_WAIT_S)
            said["files"] = [file.rfilename for file in info.siblings or ()]
        except Exception as error:
            said["error"] = error

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(HUB_WAIT_S + 1)
    match said.get("error"):
        case RepositoryNotFoundError() | RevisionNotFoundError() as error:
            raise BadInput(f"{name}: {constants.ENDPOINT} does not offer it to you: {one_line(error)}") from error
        case None if "files" in said:
            _refuse_incomplete(name, said["files"], needs)
            return None
        case error:
            why = one_line(error) if error else f"no answer within {HUB_WAIT_S:g} s"
            return f"{name} is not in the Hugging Face cache, and {constants.ENDPOINT} cannot be asked for it: {why}"
