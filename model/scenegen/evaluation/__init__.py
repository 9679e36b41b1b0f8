"""How good generated scenes are: the paper's geometry metrics, and placement errors beside them.

numpy, scipy and trimesh only. Knows nothing about how a scene was generated: the benchmark is handed a generator.
"""
