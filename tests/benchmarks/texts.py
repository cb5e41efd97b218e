"""The text that is run alone. Others are made by `lepton_edge.benchmark.inputs`."""

SHORT = "where is my new card?"
