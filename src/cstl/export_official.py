"""Write a checkpoint's weights for the authors' code.

python -m cstl.export_official checkpoint=PATH
"""

from pathlib import Path

from omegaconf import DictConfig

from cstl.checkpoint import build_network, load_weights, to_official
from cstl.models import CSTL
from cstl.running.checkpoints import AtomicCheckpoints
from cstl.running.command import asked_checkpoint, command
from cstl.running.console import say


def export_official(config: DictConfig) -> None:
    """Write a checkpoint's network as a file that the authors' code loads."""
    path = asked_checkpoint(config, "export_official")
    try:
        network = build_network(load_weights(path))
    except ValueError as error:
        raise ValueError(f"{path} is refused: {error}") from None
    if not isinstance(network, CSTL) or 2 * network.parts != network.height:
        raise ValueError(f"{path} holds an ablated network; the authors' code has one part for two rows")
    out = Path(config.out or path.with_suffix(".ptm"))
    if out.exists():
        raise FileExistsError(f"{out} is there already; name another file with out=PATH")
    AtomicCheckpoints().save_checkpoint(to_official(network.state_dict(), prefix=True), out)
    say(f"{out}: written for the authors' code")


main = command(export_official)

if __name__ == "__main__":
    main()
