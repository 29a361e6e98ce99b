"""A core on another machine: from its server's address and the tokenizer of its model to the registry."""

from __future__ import annotations

from dataclasses import replace
from itertools import takewhile

from tokenizers import Tokenizer

from ssdcli.errors import RemoteFailed, UsageError, require
from ssdcli.hub.download import is_offline
from ssdcli.hub.pull import manifest_of, without_weights, write_tokenizer
from ssdcli.hub.source import Place
from ssdcli.models.core_spec import KEY
from ssdcli.models.remote.address import Address
from ssdcli.models.remote.client import Client, RemoteRefused
from ssdcli.models.remote.completions import Completion
from ssdcli.registry.manifest import REMOTE, write_manifest
from ssdcli.registry.store import Entry, Registry
from ssdcli.text.codec import Codec, whole_characters

_ALTERNATIVES = (100, 20, 5)  # tokens of each place; the most that the server takes
_WRITTEN = 8
_PROBE = "In 1984, Zoë's café sold 12,750 jars of crème brûlée (at £3.99 each)!\n\ndef total(n):\n    return"


def register_remote(asked: Address, tokenizer: Place, name: str, registry: Registry, overwrite: bool = False) -> Entry:
    """Check a server with a few calls, and register its model as a core; whatever fails, nothing is registered.

    The calls hold a fixed text. tokenizer: where that of the model is. Raises RemoteFailed, and UsageError for what is
    no causal language model, or not the one that the server runs.
    """
    plan = without_weights(tokenizer)
    causal = plan.spec.attention == "autoregressive"
    require(causal, "a core on another machine must be a causal language model.", "Name another one.")
    require(asked.is_here or not is_offline(), "ssd is offline.", "Unset SSD_OFFLINE and HF_HUB_OFFLINE.")
    codec = Codec(Tokenizer.from_buffer(plan.tokenizer))
    models = Client(asked, plan.vocabulary, codec.named).models()
    known = f"Name one of its models behind the #: {', '.join(models)}."
    require(asked.model in models, f"{asked.host} has no model {asked.model!r}.", known)
    client, answer = _probed(asked, plan.vocabulary, codec)
    _check_tokens(asked, answer, codec)
    address = replace(asked, top=min(answer.told, client.address.top))
    spec = replace(plan.spec, context=min(plan.spec.context, models[asked.model] or plan.spec.context))
    with registry.stage(name, overwrite) as folder:
        write_tokenizer(plan, {KEY: spec.table(), REMOTE: address.table()}, folder)
        (folder / "README.md").write_text(f"# {name}\n\n{address.model} at {address.url}.\n", encoding="utf-8")
        manifest = manifest_of(replace(plan, spec=spec), name, str(address))
        write_manifest(folder, replace(manifest, architecture=REMOTE))
    return registry.find(name)


def _probed(asked: Address, vocabulary: int, codec: Codec) -> tuple[Client, Completion]:
    """What a server answers to a fixed text, asked for as many of the likeliest tokens as it tells (RemoteFailed)."""
    *more, fewest = [Client(replace(asked, top=top), vocabulary, codec.named) for top in _ALTERNATIVES]
    for client in more:
        try:
            return client, client.complete(_PROBE, _WRITTEN)
        except RemoteRefused:
            continue  # perhaps it tells fewer
    return fewest, fewest.complete(_PROBE, _WRITTEN)


def _check_tokens(asked: Address, answer: Completion, codec: Codec) -> None:
    """Raise UsageError if the server's tokens are not those of the tokenizer."""
    ids, own = [*takewhile(lambda id: id >= 0, (one.token for one in answer.guesses))], codec.encode(_PROBE)
    said, text = codec.decode([*own, *ids])[len(codec.decode(own)) :], whole_characters(answer.text).strip()
    said = whole_characters(said).strip()
    spelled = text == said if len(ids) == len(answer.guesses) else text.startswith(said)
    counted = answer.read is None or answer.read - len(own) in (0, 1)  # with or without an opening
    if not (spelled and counted):
        problem = f"the tokens of {asked.model!r} at {asked.host} are not those of this tokenizer."
        raise UsageError(problem, "Name with --tokenizer the repository or folder of the model that the server runs.")
    if answer.told < 1:
        raise RemoteFailed(f"{asked.host} tells no log-probabilities.", "See docs/remote.md for servers that do.")
