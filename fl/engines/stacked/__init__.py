"""The stacked engine: many clients advance together, one step of all of them at a time.

engine.py       Stacked: cuts a cohort into stacks, and a round's steps into blocks
schedule.py     which examples the clients of a stack see at each step
stack.py        S clients, and the optimizer that some rules need
network.py      the interface of what takes a step of S networks:
hand_made.py      of layers whose forward and backward passes are written by hand
functional.py     by torch.func, for models with other layers
graphed.py        either of them, recorded as CUDA graphs
layers.py  pixel_pairs.py  delayed.py  weights.py  products.py     what the hand-made networks consist of
"""

from fl.engines.stacked.engine import Stacked, obstacle_to_stacking
from fl.engines.stacked.functional import has_unused
from fl.engines.stacked.hand_made import has_hand_made_layers

__all__ = ["Stacked", "has_hand_made_layers", "has_unused", "obstacle_to_stacking"]
