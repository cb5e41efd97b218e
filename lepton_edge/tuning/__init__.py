"""Finding the settings that suit a bundle on this machine.

`tune.tune` measures the `space.Choice`s that there are, in the stages of `search.search`, with an
`arena.Arena`, and keeps the best as a device profile (`lepton_edge.runtime.profile`). What was
found is a `report.Tuning`.
"""
