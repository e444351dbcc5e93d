"""The demo: a lesson of made-up facts and real problems, taught to a tiny model by the whole loop."""
