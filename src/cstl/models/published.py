"""The weights that others share: which keys theirs are, which network a file is of, and writing them back."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from cstl.tensor_files import different_tensors, first_of

StateDict = dict[str, Tensor]
OPENGAIT = "OpenGait's weights"


def _unchanged(weights: StateDict) -> StateDict:
    return weights


class Form(NamedTuple):
    """A form in which others share a network's weights.

    Attributes:
        origin: whose weights they are, for tables and messages.
        names: our name of a tensor or module → theirs; {} stands for a number that both have, in their order.
        read: what is left to do after renaming theirs to ours, such as another order of the parts.
        write: the reverse, before renaming ours to theirs.
        arguments: of the network, which every file of this form has.
    """

    origin: str
    names: Mapping[str, str]
    read: Callable[[StateDict], StateDict] = _unchanged
    write: Callable[[StateDict], StateDict] = _unchanged
    arguments: Mapping[str, Any] = {}

    def to_ours(self, weights: Mapping[str, Tensor]) -> tuple[StateDict, list[str]]:
        """Rename their tensors to ours → these, and the names that are not known."""
        ours, unknown = {}, []
        for key, value in weights.items():
            if name := _renamed(key, {theirs: own for own, theirs in self.names.items()}):
                ours[name] = value
            else:
                unknown.append(key)
        return ours, unknown

    def to_theirs(self, key: str) -> str | None:
        """Rename one of our tensors; None: they have none."""
        return _renamed(key, self.names)


class PublishedNetwork(nn.Module):
    """A network whose weights others share.

    Attributes:
        forms: name → form of these weights; where none is named the first that fits is written.
    """

    forms: ClassVar[Mapping[str, Form]] = {}

    @staticmethod
    def arguments_of(weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """Read the arguments off the shapes of its state dict; KeyError: the name of what is absent."""
        raise NotImplementedError

    @classmethod
    def from_published(cls, state_dict: Mapping[str, Tensor], form: str | None = None) -> Self:
        """Make the network that a file of others is of, variant, widths and classes too, with its weights.

        Args:
            state_dict: their tensors, under their keys.
            form: a name in `forms`; None: the first that fits.

        Raises:
            ValueError: none fits; the message says what differs from the nearest.
        """
        _, arguments, weights, _ = recognise(state_dict, [cls], form)
        network = cls(**arguments)
        network.load_state_dict(weights)
        return network

    def to_published(self, form: str | None = None) -> StateDict:
        """Return the weights under others' keys; `from_published` reads them.

        Raises:
            ValueError: there is no such form, or it has no place for this network.
        """
        if form is None:
            return self.to_published(self.usual_form())
        chosen = _form(type(self), form)
        weights = published(chosen, self.state_dict())
        _, arguments, _, _ = recognise(weights, [type(self)], form)  # what is written can be read
        with torch.device("meta"):
            again = _settings(type(self)(**arguments))
        if lost := [f"{key}={value}" for key, value in _settings(self).items() if again.get(key) != value]:
            raise ValueError(f"{chosen.origin} do not say {first_of(lost)}: read again, they differ")
        return weights

    def usual_form(self) -> str:
        """Return the name of the first form that fits; ValueError: what is wrong with the first of all."""
        _form(type(self), None)  # there is one
        errors = []
        for form in self.forms:
            try:
                self.to_published(form)
            except ValueError as error:
                errors.append(error)
            else:
                return form
        raise errors[0]


class Recognised(NamedTuple):
    """Which network a file of others is of.

    Attributes:
        network: its class.
        arguments: of the class, as the shapes tell.
        weights: under our keys.
        origin: whose they are.
    """

    network: type[PublishedNetwork]
    arguments: dict[str, Any]
    weights: StateDict
    origin: str


def recognise(
    state_dict: Mapping[str, Tensor], networks: Iterable[type[PublishedNetwork]], form: str | None = None
) -> Recognised:
    """Find out which network's weights these are, variant, widths and class count included.

    Args:
        state_dict: tensors under others' keys.
        networks: classes that come into question.
        form: the name of one of their forms; None: any.

    Raises:
        ValueError: none fits; the message says which it looks most like and what differs.
    """
    networks = list(networks)
    tried: list[tuple[int, str, list[str]]] = []
    for network in networks:
        for name, chosen in network.forms.items():
            if form not in (None, name):
                continue
            ours, unknown = chosen.to_ours(state_dict)
            try:
                weights = chosen.read(dict(ours))
                arguments = {**network.arguments_of(weights), **chosen.arguments}
                with torch.device("meta"):  # shapes without numbers
                    expected = network(**arguments).state_dict()
                absent = [key for key in expected if key not in weights]
                counts = [key for key in absent if key.endswith("num_batches_tracked")]
                weights |= {key: torch.tensor(0) for key in counts}  # some files are without them
                if not unknown and not different_tensors(weights, expected):
                    return Recognised(network, arguments, weights, chosen.origin)
                differing = different_tensors(state_dict, published(chosen, expected))
            except KeyError as error:
                differing = [f"{chosen.to_theirs(str(error.args[0])) or error.args[0]} is absent"]
                differing += [f"{key} is not known" for key in unknown]
            except (ValueError, ArithmeticError, IndexError, TypeError, RuntimeError):
                differing = ["its sizes do not belong together", *(f"{key} is not known" for key in unknown)]
            tried.append((len(ours) - len(unknown), f"{network.__name__} ({chosen.origin})", differing))
    if not tried:
        raise ValueError(
            "no weights of this network are shared in a form that is known"
            if form is None
            else f"form={form}: these networks have no such form"
        )
    _, nearest, differing = max(tried, key=lambda each: (each[0], -len(each[2])))
    if not any(form.to_ours(state_dict)[0] for network in networks for form in network.forms.values()):
        raise ValueError(f"it is no file of {_names(tried)}: it has {first_of(state_dict)}")
    if len(tried) == 1:
        raise ValueError(f"it is no file of {nearest}: {first_of(differing)}")
    raise ValueError(
        f"it fits none of {_names(tried)}; it looks most like {nearest}, but {first_of(differing)}"
    )


def _names(tried: Iterable[tuple[int, str, list[str]]]) -> str:
    return ", ".join(dict.fromkeys(name.partition(" ")[0] for _, name, _ in tried))


def stacked(weights: StateDict, module: str) -> StateDict:
    """Put tensors kept apart, MODULE.0.NAME … MODULE.n.NAME, one after another into MODULE.NAME.

    Raises:
        KeyError: one of a part is absent.
    """
    pattern = re.compile(re.escape(module) + r"\.(\d+)\.(.+)")
    found = {key: match for key in weights if (match := pattern.fullmatch(key))}
    names = dict.fromkeys(match[2] for match in found.values())
    count = 1 + max((int(match[1]) for match in found.values()), default=-1)
    rest = {key: value for key, value in weights.items() if key not in found}
    for name in names:
        each = [weights[f"{module}.{part}.{name}"] for part in range(count)]
        rest[f"{module}.{name}"] = each[0] if each[0].ndim == 0 else torch.cat(each)
    return rest


def unstacked(weights: StateDict, module: str, parts: int) -> StateDict:
    """Take what `stacked` put together apart again."""
    rest = {key: value for key, value in weights.items() if not key.startswith(f"{module}.")}
    for key in weights.keys() - rest.keys():
        value, name = weights[key], key.removeprefix(f"{module}.")
        each = [value] * parts if value.ndim == 0 else value.chunk(parts)
        rest |= {f"{module}.{part}.{name}": one.clone() for part, one in enumerate(each)}
    return rest


def _settings(network: nn.Module) -> dict[str, Any]:
    """Return what a network keeps of its arguments beside its tensors, but for its way of testing."""
    told = vars(network).items()
    return {key: value for key, value in told if key[0] != "_" and key not in ("training", "test_neck")}


def _form(network: type[PublishedNetwork], name: str | None) -> Form:
    if not network.forms:
        raise ValueError(f"{network.__name__} has no published form")
    if name is not None and name not in network.forms:
        raise ValueError(f"form={name}: {network.__name__} has {', '.join(network.forms)}")
    return network.forms[name or next(iter(network.forms))]


def published(form: Form, weights: Mapping[str, Tensor]) -> StateDict:
    """Give our weights their names; ValueError names those that the form has no place for."""
    written = form.write(dict(weights))
    theirs = {key: form.to_theirs(key) for key in written}
    if absent := [key for key, name in theirs.items() if name is None]:
        raise ValueError(f"{form.origin} have no place for {first_of(absent)}")
    return {str(theirs[key]): value for key, value in written.items()}


def _renamed(key: str, names: Mapping[str, str]) -> str | None:
    """Rename the longest module of a key that has a name, numbers in it stay."""
    for own, other in names.items():
        pattern = re.escape(own).replace(r"\{\}", r"(\d+)") + r"(\..+)?"
        if match := re.fullmatch(pattern, key):
            *numbers, rest = match.groups()
            return other.format(*numbers) + (rest or "")
    return None
