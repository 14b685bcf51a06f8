"""Write a checkpoint's weights in the form in which others share them.

python -m cstl.export checkpoint=PATH
python -m cstl.export checkpoint=PATH to=authors out=GaitSet-encoder.ptm
"""

from pathlib import Path

from omegaconf import DictConfig

from cstl.checkpoint import build_network, load_weights
from cstl.models.cstl.official import PREFIX
from cstl.models.published import OPENGAIT
from cstl.running.checkpoints import AtomicCheckpoints
from cstl.running.command import asked_checkpoint, command
from cstl.running.console import say


def export(config: DictConfig) -> None:
    """Write a checkpoint's network as a file that the authors' code or the field's toolbox loads."""
    path = asked_checkpoint(config, "export")
    try:
        network = build_network(load_weights(path, form=config.form))
        name = config.to or network.usual_form()
        weights = network.to_published(name)
    except ValueError as error:
        raise ValueError(f"{path} is refused: {error}") from None
    origin = network.forms[name].origin
    of_the_toolbox = origin.startswith(OPENGAIT)
    out = Path(config.out or path.with_suffix(".pt" if of_the_toolbox else ".ptm"))
    if out.exists():
        raise FileExistsError(f"{out} is there already; name another file with out=PATH")
    # The toolbox saves a dictionary, the authors what DataParallel names.
    content = {"model": weights} if of_the_toolbox else {PREFIX + key: weights[key] for key in weights}
    AtomicCheckpoints().save_checkpoint(content, out)
    say(f"{out}: {type(network).__name__} in the form of {origin}")


main = command(export)

if __name__ == "__main__":
    main()
