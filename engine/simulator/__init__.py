"""A simulated shop: honest people, odd ones and fraudsters, as one stream of documents; the truth kept apart.

    simulation = Simulation(SimulatorConfig(days=30), seed=7, truth=labels.append)
    for document in simulation.events(): ...

See `docs/simulator.md`.
"""

from engine.simulator.config import ABUSE_SCHEMES, FRAUD_SCHEMES, HELD_OUT_SCHEME, SimulatorConfig
from engine.simulator.simulation import Simulation
from engine.simulator.write import Written, write

__all__ = ["ABUSE_SCHEMES", "FRAUD_SCHEMES", "HELD_OUT_SCHEME", "Simulation", "SimulatorConfig", "Written", "write"]
